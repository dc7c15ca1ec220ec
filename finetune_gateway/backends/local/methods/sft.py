"""Supervised fine-tuning, from top to bottom: load, format, configure, train, save.

We tokenise the rows and mark their labels (``ChatTemplate.encode``). TRL's SFTTrainer would ignore
``weight: 0``, encode string tool arguments twice, and silently drop rows without a label; it does
the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sized
from math import ceil
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, TaskType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer, pack_dataset

from finetune_gateway.backends.local import fourbit, models
from finetune_gateway.backends.local.inference import answer_warning, first_answer
from finetune_gateway.backends.local.loading import (
    encode_rows,
    free_memory,
    load_model,
    load_tokenizer,
    max_length_for,
    newest_checkpoint,
    not_for_text,
)
from finetune_gateway.backends.local.precision import bf16_reason, usable_gpu_memory
from finetune_gateway.backends.local.progress import Progress
from finetune_gateway.backends.local.run import Cancelled, Run
from finetune_gateway.backends.local.saving import keep_stops, manifest_of, save_whole
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.estimate import auto_epochs, auto_eval_steps
from finetune_gateway.events import Result
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.tokens.chat_template import ChatTemplate

BATCH_SIZE, PACKED_BATCH_SIZE = 8, 1
# TRL, peft_integration.md: LoRA needs 10x the rate of full. QLoRA: the paper's, for up to 13B.
LEARNING_RATE = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}
LOGGED_POINTS = 500  # loss points per job, at most
SAVES = 10  # checkpoints per job; the last two and the best are kept


class Trainer(SFTTrainer):
    """An SFTTrainer that counts the tokens whose loss it uses, and learns from its first step."""

    progress: Progress

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        # The loss is over labels shifted by one: the first column predicts nothing.
        tokens = int((inputs["labels"][:, 1:] != -100).sum())
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, float(loss))
        return loss

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        """Return the schedule of transformers without its first rate, if that is 0.

        A warm-up of w steps of N begins there with 0/w: the first step learns nothing, in a job of
        one step no step does. Here step s (1 to N) has the rate of step s + 1 of N + 1: s/w, and
        where it falls linearly (N + 1 - s)/(N + 1 - w) from step w on.
        """
        warmup = self.args.get_warmup_steps(num_training_steps)
        if not warmup:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler = super().create_scheduler(num_training_steps + 1, optimizer)
        if isinstance(scheduler, LambdaLR):  # not reduce_lr_on_plateau: it has no warm-up
            factors = [one_step_on(factor) for factor in scheduler.lr_lambdas]
            self.lr_scheduler = scheduler = LambdaLR(scheduler.optimizer, factors)
        return scheduler


def one_step_on(factor: Callable[[int], float]) -> Callable[[int], float]:
    """Return the factor of a schedule, of the step after the one that is asked for."""
    return lambda done: factor(done + 1)


def train(run: Run) -> tuple[Result, int | None]:
    """Train one run; return the result and the number of trained tokens."""
    # A worker may have died after it saved the model, before it stored the status.
    if manifest_of(run.model) is None:
        train_and_save(run)
        free_memory()  # result_of loads the model again
    return result_of(run)


def train_and_save(run: Run) -> None:
    """Train the base model and save an adapter, or for full fine-tuning the whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model, its chat template and tokenizer
    run.phase("loading the model")
    folder = models.with_weights(spec.model, run.settings, run.phase, run.base_revision)
    models.require_whole(spec.model, folder, spec.training_type)
    run.phase("hashing the weights of the base")
    revision, base_sha256 = models.identity(spec.model, folder, run.settings)
    run.pin_base(revision, base_sha256)
    run.phase("loading the model")
    switches = spec.chat_template_kwargs or {}
    template = ChatTemplate.load(
        folder,
        run.chat_template,
        chat_template_kwargs=switches,
        call_format=spec.call_format,
        now=run.file.created_at,
    )
    template.check()
    tokenizer = load_tokenizer(folder, template)
    # QLoRA: the base is frozen in 4 bits; the adapter is as with LoRA.
    quantization = fourbit.NF4 if kind == "qlora" else None
    model = load_model(folder, quantization, kind=kind)

    # -- format: rows -> input_ids (n,) and labels (n,), -100 for tokens that are not trained
    run.phase("reading the data")
    max_length = max_length_for(run, model)
    train_rows = encode_rows(run, run.train, template, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, template, max_length) if held_out else None

    # -- configure: names as in Hugging Face's libraries
    default = PACKED_BATCH_SIZE if spec.packing else BATCH_SIZE
    batch_size = default if spec.batch_size == "auto" else spec.batch_size
    rows = len(train_rows.rows) + train_rows.dropped
    epochs = auto_epochs(rows) if spec.n_epochs == "auto" else spec.n_epochs
    accumulation = spec.gradient_accumulation_steps
    # We pack, not the trainer: the number of steps must be known before there is a trainer.
    dataset = pack_dataset(train_rows.rows, max_length) if spec.packing else train_rows.rows
    batches = -(-len(dataset) // batch_size)  # per epoch; the last may be smaller
    steps = spec.max_steps or epochs * -(-batches // accumulation)
    every = max(1, steps // SAVES)
    seen = steps / max(1, -(-batches // accumulation)) * rows  # of all epochs
    evaluated = len(valid_rows.rows) + valid_rows.dropped if valid_rows else 0
    on_gpu = torch.cuda.is_available()
    warnings: list[str] = []  # told with the result
    if on_gpu and kind == "full":
        longest = max_length if spec.packing else max(map(len, train_rows.rows["input_ids"]))
        warnings += fit_weights(run, model, models.config_of(folder), batch_size, longest)
    # Saves memory for a third more time; a CPU has memory.
    checkpointing = on_gpu if spec.gradient_checkpointing == "auto" else spec.gradient_checkpointing
    config = SFTConfig(
        output_dir=str(run.checkpoints),
        num_train_epochs=epochs,
        max_steps=spec.max_steps or -1,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=spec.learning_rate or LEARNING_RATE[kind],
        lr_scheduler_type=spec.lr_scheduler_type,
        warmup_steps=ceil(spec.warmup_ratio * steps),
        weight_decay=spec.weight_decay,
        max_length=None,  # we cut the rows, and count them
        packing=False,
        padding_free=spec.packing,  # rows of a pack do not attend to each other
        use_cpu=not on_gpu,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),  # TRL's default fails on a CPU
        activation_checkpointing=checkpointing,
        logging_steps=max(1, steps // LOGGED_POINTS)
        if spec.logging_steps == "auto"
        else spec.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would log 0.0 for NaN
        eval_strategy="steps" if valid_rows else "no",
        eval_steps=auto_eval_steps(every, steps, seen, evaluated)
        if spec.eval_steps == "auto"
        else spec.eval_steps,
        save_strategy="steps",
        save_steps=every if spec.save_steps == "auto" else spec.save_steps,
        # The last two, one of which a kill may leave half, and the best on the held-out rows.
        save_total_limit=3 if valid_rows else 2,
        metric_for_best_model="eval_loss" if valid_rows else None,
        seed=spec.seed if spec.seed is not None else 42,
        data_seed=spec.seed if spec.seed is not None else 42,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
    )
    lora = LoraConfig(
        r=spec.lora_r,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=spec.target_modules
        if isinstance(spec.target_modules, str)
        else list(spec.target_modules),
        exclude_modules=not_for_text(model),
        task_type=TaskType.CAUSAL_LM,
    )
    progress = Progress(
        run,
        model.config.get_text_config().vocab_size,
        lambda checkpoint: keep_stops(checkpoint, folder, template.stop_ids),
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=dataset,
        eval_dataset=valid_rows.rows if valid_rows else None,
        processing_class=tokenizer,
        peft_config=None if kind == "full" else lora,
        callbacks=[progress],
    )
    trainer.progress = progress
    # On a quantised base TRL casts the adapters to bf16, but a checkpoint is read back in fp32: a
    # run that is continued would differ. In fp32 both are bit for bit the same.
    for parameter in model.parameters():  # now with the adapters
        if parameter.requires_grad and quantization:
            parameter.data = parameter.data.float()

    # TRL may drop rows; ours are counted already and must all be there.
    kept = len(cast(Sized, trainer.train_dataset))
    if kept != len(dataset):
        raise GatewayError(f"The trainer kept {kept} of {len(dataset)} rows.")

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    checkpoint = newest_checkpoint(run.checkpoints)
    if checkpoint is not None:
        progress.resume(checkpoint)
        run.event(f"Continuing from {checkpoint.name}.", level="warn")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if run.stop.is_set():
        raise Cancelled
    if trainer.state.global_step < trainer.state.max_steps:
        raise GatewayError(
            f"Training stopped at step {trainer.state.global_step} of {trainer.state.max_steps}."
        )

    # -- save: the adapter (or the whole model) with its tokenizer and template
    run.pin_base(*models.identity(spec.model, folder, run.settings))  # as it was when we began
    run.phase("saving")

    def write(target: Path) -> None:
        trainer.save_model(str(target))
        tokenizer.save_pretrained(target)
        keep_stops(target, folder, template.stop_ids)
        if kind != "full":
            pin_base(target / "adapter_config.json", spec.model, folder, revision)

    manifest = {
        "job_id": run.id,
        "kind": "merged" if kind == "full" else "adapter",
        "base_model": spec.model,
        "base_revision": revision,
        "base_sha256": base_sha256,
        "base_quantization": quantization,
        "template_sha256": template.sha256,
        "chat_template_kwargs": switches,
        "trained_tokens": progress.trained_tokens,
        "metrics": last_metrics(trainer.state.log_history),
        "warnings": [*warnings, *progress.warnings()],
    }
    save_whole(run.model, write, manifest)
    run.event(f"Saved {run.model}.")


def fit_weights(
    run: Run, model: PreTrainedModel, config: dict[str, Any], rows: int, length: int
) -> list[str]:
    """Hold the weights of full fine-tuning in bf16 if the GPU has no memory for fp32; return the
    warning about it, or an empty list. They were read in fp32: it is less than half of a step's."""
    reason = ""
    if model.dtype == torch.float32 and torch.cuda.is_bf16_supported():
        reason = bf16_reason(run.spec, config, rows, length, usable_gpu_memory())
    if not reason:
        return []
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # a decorator hides self
    run.event(reason, level="warn")
    return [reason]


def result_of(run: Run) -> tuple[Result, int | None]:
    """Return the saved model as a result, once it has answered a chat through its template."""
    manifest = manifest_of(run.model)
    if manifest is None:
        raise GatewayError(f"There is no model in {run.model}.")
    run.phase("asking the model a question")
    result = Result(
        kind=manifest["kind"],
        model=str(run.model),
        base_revision=manifest["base_revision"],
        base_sha256=manifest.get("base_sha256"),
        base_quantization=manifest.get("base_quantization"),
        template_hash=manifest["template_sha256"],
        chat_template_kwargs=manifest.get("chat_template_kwargs", {}),
        metrics=manifest["metrics"],
        warnings=manifest.get("warnings", []),
    )
    reply = first_answer(run, result)
    run.event(f"The model answers: {reply.said[:200]!r}")
    doubts = answer_warning(reply)
    for text in doubts:
        run.event(text, level="warn")
    answered = {"first_answer": reply.said, "warnings": [*result.warnings, *doubts]}
    return result.model_copy(update=answered), manifest["trained_tokens"]


def pin_base(path: Path, model: str, folder: Path, revision: str | None) -> None:
    """Write the base's hub id or absolute path into the adapter's config, so that it loads from any
    folder. Sort the modules: PEFT writes them in the order of a set, which changes from run to run.
    """
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = model if revision else str(folder)
    config["revision"] = revision
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    write_atomic(path, json.dumps(config, indent=2, sort_keys=True) + "\n", private=True)


def last_metrics(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the last training and validation loss."""
    metrics: dict[str, float] = {}
    for entry in history:
        if "loss" in entry:
            metrics["train_loss"] = entry["loss"]
        if "eval_loss" in entry:
            metrics["valid_loss"] = entry["eval_loss"]
    return metrics
