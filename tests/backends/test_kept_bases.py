"""What a job trains on from stays, as it was: checkpoints that others need, and changed bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.method_rows import small_rows
from support.training import a_run, events_of, method_run, train_run

from finetune_gateway import UnsupportedError
from finetune_gateway.backends.local import checkpoints
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.run import Run
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import Checkpoint
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec


def flip(path: Path, at: int = -9) -> None:
    """Change one bit."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def steps_of(run: Run) -> list[int]:
    return [one.step for one in checkpoints.whole(run.checkpoints)]


def test_a_checkpoint_that_is_a_base_stays(home: Path, tiny_folder: Path) -> None:
    """The run that has saved it goes on and deletes others; it cannot go back behind it. A bit that
    changes in it afterwards is found before the first step."""
    rows = small_rows("sft", 4)
    first = method_run(home, tiny_folder, "sft", "full", rows, save_steps=1, max_steps=2)
    train_run(first)
    chained = TrainingSpec(continue_from=f"{first.id}@1", model="any", lora_r=4, max_steps=1)
    second = a_run(home, chained, rows)
    base = first.checkpoints / "checkpoint-1"
    assert second.spec.model == str(base)
    # As a run does that goes on: with more steps.
    shutil.rmtree(first.model)
    about = json.loads((first.folder / "run.json").read_text("utf-8"))
    about["spec"]["max_steps"] = 5
    (first.folder / "run.json").write_text(json.dumps(about), "utf-8")
    longer = Run(Settings(home), first.id, 0)
    train_run(longer)
    assert steps_of(longer) == [1, 4, 5] and not checkpoints.defect(base)
    assert not (longer.model / checkpoints.BASE_OF_OTHERS).exists()
    backend = LocalBackend()
    backend.bind(Settings(home))
    checkpoints.keep(first.checkpoints / "checkpoint-5")
    with pytest.raises(UnsupportedError, match="checkpoint-5 of run-0 is the base of another job"):
        backend.rewind(first.id, Checkpoint(id="checkpoint-4", step=4, model=""))
    assert steps_of(longer) == [1, 4, 5]
    flip(base / "model.safetensors")
    with pytest.raises(GatewayError, match="weights of the base .* have changed since run-0@1"):
        train_run(second)


def test_a_changed_bit_is_found(home: Path, tiny_folder: Path) -> None:
    """In each file of a checkpoint: the run goes on from the one before; neither the result nor a
    further training is made of it."""
    rows = small_rows("sft", 4)
    run = train_run(method_run(home, tiny_folder, "sft", "lora", rows, save_steps=1, max_steps=2))
    weights = (run.model / "adapter_model.safetensors").read_bytes()
    newest = run.checkpoints / "checkpoint-2"
    assert not checkpoints.defect(newest)
    for path in sorted(newest.iterdir()):
        middle = len(kept := path.read_bytes()) // 2
        flip(path, middle)
        assert checkpoints.defect(newest), path.name
        path.write_bytes(kept)
    flip(newest / "adapter_model.safetensors")
    chained = TrainingSpec(continue_from=f"{run.id}@2", model="any", max_steps=1)
    with pytest.raises(GatewayError, match="not as it was saved|was changed since it was saved"):
        a_run(home, chained, rows)
    shutil.rmtree(run.model)
    train_run(run)
    assert any("Continuing from checkpoint-1" in one["message"] for one in events_of(run))
    assert (run.model / "adapter_model.safetensors").read_bytes() == weights


def test_a_whole_model_that_was_changed_is_not_trained_on(home: Path, tiny_folder: Path) -> None:
    """By the hashes it was saved with, as an adapter."""
    rows = small_rows("sft", 4)
    first = train_run(method_run(home, tiny_folder, "sft", "full", rows, max_steps=1))
    flip(first.model / "model.safetensors")
    second = a_run(
        home, TrainingSpec(continue_from=first.id, model="any", lora_r=4, max_steps=1), rows
    )
    with pytest.raises(GatewayError, match=f"have changed since {first.id} began"):
        train_run(second)
