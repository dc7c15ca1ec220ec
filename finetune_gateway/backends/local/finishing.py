"""What the methods share of a training: from the newest checkpoint to its end, the result saved
whole, and asked once. Imports torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from finetune_gateway.backends.local import checkpoints, models, resuming
from finetune_gateway.backends.local.inference import answer_warning, first_answer
from finetune_gateway.backends.local.loading import Base, free_memory
from finetune_gateway.backends.local.progress import Progress, metrics_at
from finetune_gateway.backends.local.rewards import first_scores
from finetune_gateway.backends.local.run import Cancelled, Run
from finetune_gateway.backends.local.saving import keep_stops, manifest_of, save_whole
from finetune_gateway.backends.local.start import REFERENCE
from finetune_gateway.backends.local.trainer import WatchedTrainer
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import Result
from finetune_gateway.jobs.removal import trained_from
from finetune_gateway.methods import load_trainer
from finetune_gateway.settings import files
from finetune_gateway.settings.sizes import bytes_of

TRIES = 3  # to make a result of checkpoints that are as they were saved


def train(run: Run) -> tuple[Result, int | None]:
    """Train one run by the file of its method; return the result and the number of trained tokens
    (in pairs: of compared ones)."""
    # A worker may have died after it saved the model, before it stored the status.
    tries = 0
    while manifest_of(run.model) is None:
        tries += 1
        try:
            load_trainer(run.spec.method).train_and_save(run)
        except checkpoints.Damaged as exc:
            if tries == TRIES:
                raise
            # Trained again from the one before it; or the next best one is the result.
            resuming.tell_set_aside(run, checkpoints.set_aside(exc.folder, exc.reason))
        free_memory()  # result_of loads the model again
    found = result_of(run)
    remove_surplus(run, found[0])
    return found


def remove_surplus(run: Run, result: Result) -> None:
    """Delete the checkpoints that a run with a result needs no more, and say how large they were;
    none where a job needs one that was not started yet."""
    store, last = run.queue.store, checkpoints.last_kept(run.settings)
    try:
        needed = trained_from(store, store.get(run.id), needing_it=True)
    except GatewayError as exc:  # a row that cannot be read: not worth the result
        return run.event(f"All checkpoints are kept: {exc.message}", level="warn")
    step = int(result.metrics.get("step", 0))
    surplus = [] if needed else checkpoints.surplus(run.checkpoints, step, last)
    if not surplus:
        return None
    size = bytes_of([Path(one.model) for one in surplus])
    checkpoints.remove(surplus)
    names = " and ".join(one.id for one in surplus)
    run.event(
        f"Removed {names}, {size:,} bytes: a job that has succeeded keeps its best checkpoint and "
        f"its last {last} (retention.checkpoints).",
        data={"removed": [one.id for one in surplus], "bytes": size},
    )


def progress_of(run: Run, base: Base, *, neutral: float | None = None) -> Progress:
    """Return what turns the trainer's logs into events, and makes checkpoints able to answer.
    ``neutral``: what a model without a preference loses, in methods that learn one."""
    return Progress(
        run,
        base.model.config.get_text_config().vocab_size,
        lambda checkpoint: keep_stops(checkpoint, base.folder, base.source.stop_ids),
        neutral=neutral,
    )


def train_to_the_end(run: Run, trainer: WatchedTrainer) -> None:
    """Train, from the newest complete checkpoint if an earlier worker has left one. Raises
    Cancelled if the run was stopped, GatewayError if versions have changed since that was saved, or
    if training ended early for another reason than evaluations that get no better."""
    checkpoint = resuming.newest_checkpoint(run)
    progress = trainer.progress
    if checkpoint is not None:
        changed = resuming.require_equal(run, checkpoint)
        trainer.state = progress.resume(checkpoint)
        progress.changed += [changed] if changed else []
        run.event(f"Continuing from {checkpoint.name}.", level="warn")
        progress.tell_lost(trainer.state)
    if checkpoint is None or not progress.is_over(trainer.state):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    else:  # asked to go on, transformers would take one step more wherever an epoch is not over
        progress.on_train_end(trainer.args, trainer.state, trainer.control)
    if run.stop.is_set():
        raise Cancelled
    if trainer.state.global_step < trainer.state.max_steps and not progress.stops(trainer.state):
        raise GatewayError(
            f"Training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}."
        )


def save(run: Run, trainer: WatchedTrainer, base: Base, warnings: Sequence[str]) -> None:
    """Save the adapter, or the whole model, of the best step with its tokenizer and template.
    ``warnings``: told with the result, beside those of the losses. Raises Damaged if the checkpoint
    of that step is not as it was saved."""
    let_go(trainer)
    # As it was before.
    weights = models.content_hash(base.folder, run.settings)
    small = models.small_hashes(base.folder)
    run.pin_base(base.revision, weights if base.sha256 else None, small, weights)
    run.phase("saving")
    full = run.spec.training_type == "full"
    step = trainer.progress.result_step(trainer.state)
    checkpoint = run.checkpoints / f"checkpoint-{step}"
    if reason := checkpoints.defect(checkpoint, optimizer=False):
        raise checkpoints.Damaged(checkpoint, reason)

    def write(target: Path) -> None:
        checkpoints.copy_model(checkpoint, target)
        shutil.rmtree(target / REFERENCE, ignore_errors=True)  # one adapter answers alone
        base.tokenizer.save_pretrained(target)
        keep_stops(target, base.folder, base.source.stop_ids)
        if not full:
            config = target / "adapter_config.json"
            name_base(config, run.spec.model, base.folder, base.revision)

    manifest = {
        "job_id": run.id,
        "kind": checkpoints.kind_of(run.spec),
        "base_model": run.spec.model,
        "base_revision": base.revision,
        "base_sha256": base.sha256,
        "base_quantization": base.quantization,
        "template_sha256": base.template_sha256,
        "chat_template_kwargs": run.spec.chat_template_kwargs or {},
        "continued_from": run.file.continued_from,
        "trained_tokens": trainer.progress.trained_tokens,
        "metrics": metrics_at(trainer.state, step),
        "warnings": [*warnings, *trainer.progress.warnings(trainer.state)],
    }
    save_whole(run.model, write, manifest)
    run.event(f"Saved {run.model}.")


def let_go(trainer: WatchedTrainer) -> None:
    """Free the gradients and what the optimizer keeps: the checkpoint has all that is saved."""
    assert trainer.model is not None  # for the type checker
    trainer.model.zero_grad()
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    free_memory()


def result_of(run: Run) -> tuple[Result, int | None]:
    """Return the saved model as a result, once it has answered a chat through its template; one of
    texts once it has completed one, a reward model once it has scored a pair."""
    manifest = manifest_of(run.model)
    if manifest is None:
        raise GatewayError(f"There is no model in {run.model}.")
    scores, completes = manifest["kind"] == "reward", run.spec.method == "pretrain"
    asking = "completing a text" if completes else "asking the model a question"
    run.phase("scoring a pair" if scores else asking)
    result = Result(
        kind=manifest["kind"],
        model=str(run.model),
        base_revision=manifest["base_revision"],
        base_sha256=manifest.get("base_sha256"),
        base_quantization=manifest.get("base_quantization"),
        template_hash=manifest["template_sha256"],
        chat_template_kwargs=manifest.get("chat_template_kwargs", {}),
        continued_from=manifest.get("continued_from", []),
        metrics=manifest["metrics"],
        warnings=manifest.get("warnings", []),
    )
    if scores:
        said = first_scores(run, result)
        run.event(f"The model scores {said}.")
        return result.model_copy(update={"first_answer": said}), manifest["trained_tokens"]
    reply = first_answer(run, result)
    does = "completes a text" if completes else "answers"
    run.event(f"The model {does}: {reply.said[:200]!r}")
    doubts = answer_warning(reply)
    for text in doubts:
        run.event(text, level="warn")
    answered = {"first_answer": reply.said, "warnings": [*result.warnings, *doubts]}
    return result.model_copy(update=answered), manifest["trained_tokens"]


def name_base(path: Path, model: str, folder: Path, revision: str | None) -> None:
    """Write the base's hub id or absolute path into the adapter's config, so that it loads from any
    folder. Sort the modules: PEFT writes them in the order of a set, which changes from run to run.
    """
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = model if revision else str(folder)
    config["revision"] = revision
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    files.write_atomic(path, json.dumps(config, indent=2, sort_keys=True) + "\n", private=True)
