"""Trainings in this process, by the worker's own code, on a tiny model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.heap import freeze_imports

from finetune_gateway import ModelHandle
from finetune_gateway.backends.local import fourbit, origin
from finetune_gateway.backends.local.finishing import result_of
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.run import Cancelled, Run, write_json
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.methods import load_trainer
from finetune_gateway.settings.files import sha256_of
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Rows = Sequence[dict[str, Any]]

# How a tiny model learns a method in a few steps.
USUAL: dict[str, Any] = {
    "seed": 3,
    "batch_size": 4,
    "n_epochs": 2,
    "logging_steps": 1,
    "save_steps": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 4, "learning_rate": 5e-3},
    "qlora": {"lora_r": 4, "learning_rate": 5e-3},
    "full": {"learning_rate": 1e-3},
}
# How far weights may be from those of a run without a break.
DEVIATION = {"lora": 0.0, "qlora": 1e-3, "full": 0.0}


def a_run(
    home: Path,
    spec: TrainingSpec,
    rows: Rows,
    created_at: float | None = None,
    *,
    validation: Rows = (),
) -> Run:
    """A run folder with these rows, queued and taken, as a worker finds it. It may continue an
    earlier one."""
    settings = Settings(home).create()
    name = f"run-{len(list(settings.runs.glob('*')))}"
    folder = settings.runs / name
    (folder / "data").mkdir(parents=True)
    hashes = {"train_sha256": ""}
    for file, some in (("train", rows), ("validation", validation)):
        if some:
            path = folder / "data" / f"{file}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in some), "utf-8")
            hashes[f"{file}_sha256"] = sha256_of(path)
    made = created_at or time.time()
    begun = None
    if spec.continue_from is not None:
        spec = origin.resolved(spec, settings.runs)
        begun, _ = origin.copy(spec, settings.runs, folder)
    about = RunFile(
        job_id=name,
        spec=spec,
        origin=begun,
        train_sha256=hashes["train_sha256"],
        validation_sha256=hashes.get("validation_sha256"),
        versions={},
        created_at=made,
    )
    write_json(folder / "run.json", about.model_dump(mode="json"))
    Queue(settings).add(name)
    run = Run(settings, name, 0)
    run.claim(status="running")
    return run


def method_run(
    home: Path,
    folder: Path,
    method: Any,
    kind: str,
    rows: Rows,
    *,
    validation: Rows = (),
    **options: Any,
) -> Run:
    """A run of a method and a kind of training, by the settings above or by ``options``."""
    given = {**USUAL, **KINDS[kind], "training_type": kind, **options}
    spec = TrainingSpec.build(model=str(folder), method=method, **given)
    return a_run(home, spec, rows, validation=validation)


def train_run(run: Run) -> Run:
    """Train a run up to its saved model, by the file of its method; raise what that raises."""
    fourbit.import_quietly()  # else peft would import it, and print
    method = load_trainer(run.spec.method)
    freeze_imports()
    method.train_and_save(run)
    return run


def events_of(run: Run) -> list[dict[str, Any]]:
    """What a run has said so far."""
    path = run.folder / "events.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def metrics_of(run: Run) -> list[dict[str, Any]]:
    """The figures of its steps, and those of its evaluations."""
    return [event["data"] for event in events_of(run) if event["type"] == "metrics"]


def row_table(columns: dict[str, list[Any]]) -> RowTable:
    """Rows of token ids as a trainer takes them."""
    return RowTable(pa.table(columns))


def imports_of(log: Path) -> set[str]:
    """The packages that a worker has imported, if PYTHONPROFILEIMPORTTIME was set for it."""
    lines = [line for line in log.read_text("utf-8").splitlines() if line.startswith("import time")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def losses_of(run: Run) -> list[float]:
    """The training loss of each step that was logged."""
    return [one["train_loss"] for one in metrics_of(run) if "train_loss" in one]


def trained_weights(run: Run) -> dict[str, Any]:
    """The tensors of its result, by name."""
    from safetensors.torch import load_file

    [path] = run.model.glob("*.safetensors")
    return dict(load_file(path))


def difference(one: Run, other: Run) -> float:
    """The largest difference between the weights of two results."""
    weights, others = trained_weights(one), trained_weights(other)
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def log_of(run: Run) -> str:
    """All that a run has said so far."""
    return " ".join(event["message"] for event in events_of(run))


def check_steps(run: Run, bare: Any) -> None:
    """Train by a trainer of TRL; losses and gradient norms of the run are its own, digit by
    digit."""
    bare.train()
    logged = [entry for entry in bare.state.log_history if "loss" in entry]
    ours = [one for one in metrics_of(run) if "train_loss" in one]
    assert [one["train_loss"] for one in ours] == [entry["loss"] for entry in logged]
    assert [one["grad_norm"] for one in ours] == [entry["grad_norm"] for entry in logged]


def handle_of(run: Run) -> ModelHandle:
    """The handle of its result, once that has answered or scored; it is saved beside it."""
    result, _ = result_of(run)
    handle = ModelHandle(
        kind=result.kind,
        model=result.model,
        base_model=run.spec.model,
        base_sha256=result.base_sha256,
        base_quantization=result.base_quantization,
        backend="local",
        first_answer=result.first_answer,
    )
    handle.save(run.model)
    return handle


def train_in_two(run: Run, after: str) -> Run:
    """Train a run that is asked to stop once it has said these words, and then goes on."""
    threading.Thread(target=_stop, args=(run, after), daemon=True).start()
    with pytest.raises(Cancelled):
        train_run(run)
    run.stop.clear()
    train_run(run)
    assert any("Continuing from" in event["message"] for event in events_of(run))
    return run


def _stop(run: Run, after: str) -> None:
    path = run.folder / "events.jsonl"
    while not (path.exists() and after in path.read_text("utf-8")):
        time.sleep(0.01)
    run.stop.set()
