"""What the reference of dpo and kto says of the rows: the model as it is before its first step.

It is scored once. A live reference would need a forward pass more in each epoch, and for full
fine-tuning a second model in memory; its bits are the same (docs/methods.md). The scores lie in the
run's folder, 4 bytes each, and are written as they are made: an attempt that goes on makes the
rest. Imports torch.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as HFDataset

from finetune_gateway.backends.local import out_of_memory
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.trainer import FastTrainer
from finetune_gateway.settings import files

# Of a new column: the columns of the ids and of the labels that it is about.
Columns = Mapping[str, tuple[str, str]]
EVENT_SECONDS = 60.0  # between two events about a reference that takes long


def score_reference(trainer: FastTrainer, scorer: Scorer, columns: Columns) -> None:
    """Add to the trainer's rows, those to train on and the held-out ones, columns with the sum of
    the log-probabilities of the trained tokens. To be called before anything is trained."""
    trainer.progress.run.phase(out_of_memory.REFERENCE)
    rows: Any = trainer.train_dataset
    trainer.train_dataset = with_reference(trainer, scorer, rows, columns, "train")
    if trainer.eval_dataset is not None:
        held_out: Any = trainer.eval_dataset
        trainer.eval_dataset = with_reference(trainer, scorer, held_out, columns, "validation")


@torch.no_grad()
def with_reference(
    trainer: FastTrainer, scorer: Scorer, rows: HFDataset, columns: Columns, name: str
) -> HFDataset:
    """Return these rows with the columns that ``score_reference`` adds. ``name``: of their file."""
    run = trainer.progress.run
    model: Any = trainer.model
    record = struct.Struct(f"<{len(columns)}f")
    path = files.folder(run.folder / "reference") / f"{name}-{_key(rows, columns)}.f32"
    done = _whole_records(path, record.size)
    began = reported = time.monotonic()
    model.eval()  # without dropout
    size = trainer.args.per_device_eval_batch_size
    appended = files.open_private(path, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(appended, "ab", buffering=0) as file:
        for at in range(done, len(rows), size):
            run.check()
            some = rows[at : at + size]
            scores = []
            for ids, labels in columns.values():
                sequences = list(zip(some[ids], some[labels], strict=True))
                with trainer.compute_loss_context_manager():
                    scores.append([float(one.sum()) for one in scorer.log_probs(model, sequences)])
            file.write(b"".join(record.pack(*row) for row in zip(*scores, strict=True)))
            if time.monotonic() - reported > EVENT_SECONDS:
                reported = time.monotonic()
                run.event(f"The reference has scored {at + size:,} of {len(rows):,} {name} rows.")
    seconds = time.monotonic() - began
    run.event(
        f"The reference has scored {len(rows) - done:,} {name} rows in {seconds:.1f} s.",
        data={"reference_rows": len(rows) - done, "seconds": round(seconds, 3)},
    )
    found = zip(*record.iter_unpack(path.read_bytes()), strict=True)
    for column, values in zip(columns, found, strict=True):
        rows = rows.add_column(column, list(values))
    return rows


def _whole_records(path: Path, size: int) -> int:
    """Return how many rows a file is about, without one that a kill has cut."""
    if not path.exists():
        return 0
    whole = path.stat().st_size // size
    os.truncate(path, whole * size)
    return whole


def _key(rows: HFDataset, columns: Columns) -> str:
    """Return a name for these sequences: another version may encode the rows otherwise."""
    found = hashlib.sha256(" ".join(columns).encode())
    for row in rows:
        for name in (one for pair in columns.values() for one in pair):
            found.update(array("q", [len(row[name]), *row[name]]))
    return found.hexdigest()[:16]
