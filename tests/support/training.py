"""Trainings in this process, by the worker's own code, on a tiny model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import fourbit
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run, RunFile, write_json
from finetune_gateway.methods import load_trainer
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Rows = Sequence[dict[str, Any]]


def a_run(
    home: Path,
    spec: TrainingSpec,
    rows: Rows,
    created_at: float | None = None,
    *,
    validation: Rows = (),
) -> Run:
    """A run folder with these rows, queued and taken, as a worker finds it."""
    settings = Settings(home).create()
    name = f"run-{len(list(settings.runs.glob('*')))}"
    folder = settings.runs / name
    (folder / "data").mkdir(parents=True)
    for file, some in (("train", rows), ("validation", validation)):
        if some:
            lines = "".join(json.dumps(row) + "\n" for row in some)
            (folder / "data" / f"{file}.jsonl").write_text(lines, "utf-8")
    made = created_at or time.time()
    about = RunFile(job_id=name, spec=spec, train_sha256="", versions={}, created_at=made)
    write_json(folder / "run.json", about.model_dump(mode="json"))
    Queue(settings).add(name)
    run = Run(settings, name, 0)
    run.claim(status="running")
    return run


def train_run(run: Run) -> Run:
    """Train a run up to its saved model, by the file of its method; raise what that raises."""
    fourbit.import_quietly()  # else peft would import it, and print
    load_trainer(run.spec.method).train_and_save(run)
    return run
