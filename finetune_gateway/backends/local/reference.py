"""What the reference of dpo and kto says of the rows: the model as it is before its first step.

It is scored once. A live reference would need a forward pass more in each epoch, and for full
fine-tuning a second model in memory; its bits are the same (docs/methods.md). The scores lie in the
run's folder, 4 bytes each and 4 a row to check them, and are written as they are made: an attempt
that goes on makes the rest. Imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import struct
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from finetune_gateway.backends.local import out_of_memory
from finetune_gateway.backends.local.divergence import NotFinite
from finetune_gateway.backends.local.row_table import RowTable
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
    trainer: FastTrainer, scorer: Scorer, rows: RowTable, columns: Columns, name: str
) -> RowTable:
    """Return these rows with the columns that ``score_reference`` adds. ``name``: of their file."""
    run = trainer.progress.run
    model: Any = trainer.model
    records = Records(len(columns), _key(rows, columns))
    path = files.folder(run.folder / "reference") / f"{name}-{records.key}.f32"
    found = records.read(path, len(rows))
    done = len(found)
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
            new = list(zip(*scores, strict=True))
            _require_finite(new, name)
            found += new
            raw = b"".join(records.pack(row) for row in new)
            if file.write(raw) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if time.monotonic() - reported > EVENT_SECONDS:
                reported = time.monotonic()
                run.event(f"The reference has scored {at + size:,} of {len(rows):,} {name} rows.")
    seconds = time.monotonic() - began
    run.event(
        f"The reference has scored {len(rows) - done:,} {name} rows in {seconds:.1f} s.",
        data={"reference_rows": len(rows) - done, "seconds": round(seconds, 3)},
    )
    for column, values in zip(columns, zip(*found, strict=True), strict=True):
        rows = rows.add_column(column, list(values))
    return rows


class Records:
    """Scores of rows as bytes: the floats of a row, and a check value of them and ``key``. What a
    kill has cut, or a power cut has lost, is noticed, and made again."""

    def __init__(self, columns: int, key: str) -> None:
        self.key = key
        self._floats = struct.Struct("<" + "f" * columns)
        self._begun = crc32(key.encode())

    def pack(self, scores: tuple[float, ...]) -> bytes:
        raw = self._floats.pack(*scores)
        return raw + crc32(raw, self._begun).to_bytes(4, "little")

    def read(self, path: Path, most: int) -> list[tuple[float, ...]]:
        """Return the scores of the first rows, as far as the file is whole, at most ``most``; cut
        off the rest."""
        if not path.exists():
            return []
        found = list(self._whole(path.read_bytes()))[:most]
        os.truncate(path, len(found) * (self._floats.size + 4))
        return found

    def _whole(self, raw: bytes) -> Iterator[tuple[float, ...]]:
        size = self._floats.size + 4
        for at in range(0, len(raw) - size + 1, size):
            scores = self._floats.unpack_from(raw, at)
            if self.pack(scores) != raw[at : at + size]:
                return
            yield scores


def _require_finite(scores: list[tuple[float, ...]], name: str) -> None:
    """Raise NotFinite for a row of which the model says no number before it is trained."""
    bad = next((row for row in scores if not all(map(math.isfinite, row))), None)
    if bad is not None:
        raise NotFinite(
            f"The model that training begins with finds a row of the {name} data "
            f"{', '.join(map(str, bad))} likely: nothing can be compared with that.",
            hint="Its weights are damaged, or overflow in this precision: try --set bf16=false, or "
            "ask it something with ftg chat.",
        )


def _key(rows: RowTable, columns: Columns) -> str:
    """Return a name for these sequences: another version may encode the rows otherwise."""
    found = hashlib.sha256(" ".join(columns).encode())
    for row in rows:
        for name in (one for pair in columns.values() for one in pair):
            found.update(array("q", [len(row[name]), *row[name]]))
    return found.hexdigest()[:16]
