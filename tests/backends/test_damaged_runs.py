"""Files of a run that are damaged between two attempts, and models that were damaged before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.method_rows import small_rows
from support.training import a_run, events_of, losses_of, metrics_of, train_run

from finetune_gateway import GatewayError
from finetune_gateway.backends.local import checkpoints
from finetune_gateway.backends.local.run import Run
from finetune_gateway.spec import TrainingSpec

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
