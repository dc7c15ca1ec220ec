"""Files of a run that are damaged between two attempts, and models that were damaged before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.method_rows import small_rows
from support.training import a_run, events_of, losses_of, metrics_of, train_run

from finetune_gateway import GatewayError
from finetune_gateway.backends.local import checkpoints, models
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.run import Run
from finetune_gateway.settings.files import sha256_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import ChatTemplate

Prepare = Callable[..., Run]


@pytest.fixture
def prepare(home: Path, tiny_folder: Path) -> Prepare:
    """``prepare(method, **options)``: a run on 8 rows, not trained yet."""

    def prepared(method: Any, **options: Any) -> Run:
        usual: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "logging_steps": 1, "lora_r": 4}
        given = {"model": str(tiny_folder), "learning_rate": 1e-2, **usual, **options}
        return a_run(home, TrainingSpec.build(method=method, **given), small_rows(method, 8))

    return prepared


def again(run: Run) -> Run:
    """Train a run anew, as an attempt does that finds no checkpoint."""
    for folder in (run.checkpoints, run.model):
        shutil.rmtree(folder)
    (run.folder / "events.jsonl").unlink()
    return train_run(run)


def test_scores_that_a_power_cut_has_lost_are_made_again(prepare: Prepare) -> None:
    """A file has its length before its content is on the disk, so what is lost is zeros: they are
    no scores of the reference. Nor are more rows than there are."""
    run = train_run(prepare("dpo"))
    losses = losses_of(run)
    [path] = (run.folder / "reference").iterdir()
    kept = path.read_bytes()
    half = len(kept) // 2
    path.write_bytes(kept[:half] + bytes(len(kept)))
    assert losses_of(again(run)) == losses
    assert path.read_bytes() == kept
    made = [one["data"] for one in events_of(run) if "reference_rows" in one["data"]]
    assert made[0]["reference_rows"] == 4, "the half that is whole is not made again"


def test_a_reference_that_is_no_number_is_named(
    prepare: Prepare, tiny_folder: Path, tmp_path: Path
) -> None:
    """It is the model that is damaged: no learning rate helps, and none is advised."""
    from safetensors.torch import load_file, save_file

    model = tmp_path / "damaged"
    shutil.copytree(tiny_folder, model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    run = prepare("dpo", model=str(model))
    with pytest.raises(GatewayError, match="likely: nothing can be compared") as damaged:
        train_run(run)
    assert "learning_rate" not in damaged.value.hint


def test_a_checkpoint_that_cannot_be_read_is_none(prepare: Prepare) -> None:
    """The run goes on from the one before it, to the same weights."""
    run = train_run(prepare("dpo", save_steps=1))
    newest, before = (run.checkpoints / f"checkpoint-{step}" for step in (2, 1))
    weights = (run.model / "adapter_model.safetensors").read_bytes()
    for path in sorted(newest.iterdir()):
        kept = path.read_bytes()
        other = b'{"trained_tokens": 1, "files": [1]}'
        for damage in (b"", bytes(len(kept)), kept[: len(kept) // 2], b"{}", other):
            path.write_bytes(damage)
            assert checkpoints.defect(newest), path.name
        path.unlink()
        assert checkpoints.defect(newest), path.name
        path.write_bytes(kept)
    assert not checkpoints.defect(newest) and not checkpoints.defect(before)
    (newest / "adapter_model.safetensors").write_bytes(weights[:-9])
    shutil.rmtree(run.model)
    train_run(run)
    [aside] = [one for one in events_of(run) if one["data"].get("kept")]
    assert aside["message"].startswith("checkpoint-2 is not as it was saved, and is not used: adap")
    assert (run.checkpoints / aside["data"]["kept"] / "optimizer.pt").exists(), "nothing is deleted"
    assert any("Continuing from checkpoint-1" in one["message"] for one in events_of(run))
    assert (run.model / "adapter_model.safetensors").read_bytes() == weights


def test_losses_that_the_log_has_lost_are_told_again(prepare: Prepare) -> None:
    """Once, by the next worker, from the checkpoint that it goes on from."""
    run = train_run(prepare("sft", save_steps=1))
    before = [(one["step"], one["train_loss"]) for one in metrics_of(run)]
    log = run.folder / "events.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    shutil.rmtree(run.model)
    shutil.rmtree(run.checkpoints / "checkpoint-2")
    then = train_run(Run(run.settings, run.id, run.fence))
    assert [(one["step"], one["train_loss"]) for one in metrics_of(then)] == before
    again = [
        one["message"] for one in events_of(then) if "again, from the checkpoint" in one["message"]
    ]
    assert len(again) == 1 and again[0].startswith("Step 1/2: train_loss=")
    last = max(int(one["id"].rpartition("-")[2]) for one in events_of(then))
    assert last == len(events_of(then)), "numbers go on"
    shutil.rmtree(run.model)
    assert train_run(Run(run.settings, run.id, run.fence)) and len(metrics_of(then)) == 2


def test_a_log_of_a_checkpoint_that_is_not_as_it_was_is_an_error_in_words(prepare: Prepare) -> None:
    """Cut, or gone; a long one is none: 16,000 logged steps are 5 MB."""
    run = train_run(prepare("sft"))
    checkpoint = run.checkpoints / "checkpoint-2"
    log = checkpoint / "trainer_state.json"
    state = json.loads(log.read_text())
    [entry] = [one for one in state["log_history"] if one.get("step") == 2 and "loss" in one]
    long = {**state, "log_history": [*state["log_history"], *[entry] * 60_000]}
    log.write_text(json.dumps(long))
    assert log.stat().st_size > 5_000_000
    checkpoints.finish(checkpoint, {})
    found = checkpoints.result_of(run.folder, checkpoint)
    assert found.metrics["train_loss"] == entry["loss"]
    log.write_text('{"global_step": 2')
    with pytest.raises(GatewayError, match="not as it was saved: trainer_state.json") as cut:
        checkpoints.result_of(run.folder, checkpoint)
    assert "ftg checkpoints" in cut.value.hint


def flipped(path: Path) -> bytes:
    """Change one bit in the middle of a file, and return what it was."""
    kept = path.read_bytes()
    middle = len(kept) // 2
    path.write_bytes(kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :])
    return kept


def test_rows_that_are_not_those_of_the_submit_are_not_trained(
    home: Path, tiny_folder: Path
) -> None:
    """Changed or gone, the training rows and the held-out ones, between two attempts: the error
    has both hashes and what to do. Put back, the job goes on."""
    rows = small_rows("sft", 8)
    spec = TrainingSpec.build(model=str(tiny_folder), batch_size=4, max_steps=2, lora_r=4)
    run = train_run(a_run(home, spec, rows, validation=rows[:2]))
    weights = (run.model / "adapter_model.safetensors").read_bytes()
    for name in ("train", "validation"):
        shutil.rmtree(run.model)
        path = run.folder / "data" / f"{name}.jsonl"
        then, kept = sha256_of(path)[:12], flipped(path)
        now = sha256_of(path)[:12]
        with pytest.raises(GatewayError, match=f"{then} then, {now} now") as changed:
            train_run(run)
        assert "was changed since the job was submitted" in changed.value.message
        assert changed.value.hint == (
            f"Put the old file back and run: ftg resume {run.id}. Or submit it again."
        )
        path.unlink()
        with pytest.raises(GatewayError, match="submitted: it cannot be read"):
            train_run(run)
        path.write_bytes(kept)
        assert not run.model.exists()
        train_run(run)
        assert (run.model / "adapter_model.safetensors").read_bytes() == weights


def test_rows_that_change_while_they_are_read_are_not_trained(prepare: Prepare) -> None:
    """Their tokens are not kept for the next job either."""
    run = prepare("sft")
    path = run.folder / "data" / "train.jsonl"

    class EditedRun(Run):
        def check(self) -> None:  # called for each row
            super().check()
            if not kept:
                kept.append(flipped(path))

    kept: list[bytes] = []
    template = ChatTemplate.load(Path(run.spec.model))
    edited = EditedRun(run.settings, run.id, run.fence)
    with pytest.raises(GatewayError, match="was changed since the job was submitted"):
        encode_rows(edited, edited.train, template, 512)
    assert kept and not [*run.settings.encoded.glob("*.arrow")]


def test_a_base_is_read_anew_at_each_attempt(
    prepare: Prepare, tiny_folder: Path, tmp_path: Path
) -> None:
    """A disk that loses a bit changes no time stamp; the weights, and each file that decides what a
    text means. The words have both hashes."""
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    run = train_run(prepare("sft", model=str(base)))
    settings, path = run.settings, base / "model.safetensors"
    stat = path.stat()
    then, raw = models.content_hash(base, settings), flipped(path)
    now = models.content_hash(base, settings, anew=True)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    cache = settings.models / "weights.json"
    changed = path.stat()
    stamp = [changed.st_size, changed.st_mtime_ns, changed.st_ctime_ns]
    cache.write_text(
        json.dumps({str(path.resolve()): [*stamp, sha256_of(tiny_folder / path.name)]})
    )
    assert models.content_hash(base, settings) == then, "by its stamps it is the same"
    shutil.rmtree(run.model)
    with pytest.raises(GatewayError, match=f"sha256 {then[:12]} then, sha256 {now[:12]} now"):
        train_run(run)
    path.write_bytes(raw)
    for name in ("tokenizer.json", "config.json"):
        kept = flipped(base / name)
        with pytest.raises(GatewayError):
            train_run(run)
        (base / name).write_bytes(kept)
    assert not run.model.exists()
