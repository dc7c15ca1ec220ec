"""Which files of a model's data are here: copies that its job has kept, and what was fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_gateway.jobs import fetched
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store

Kind = Literal["validation", "held_out", "stored", "training"]

# In the order in which rows to ask are looked for; a model has seen the last.
KINDS: tuple[Kind, ...] = ("validation", "held_out", "stored", "training")
FETCHED: dict[str, str] = {
    "validation": "the held-out rows",
    "stored": "the stored production prompts",
    "training": "the training rows",
}


@dataclass(frozen=True)
class StoredRows:
    """A file of rows of a model, and which they are in words."""

    kind: Kind
    path: Path
    words: str


def rows_of(model: str, job_id: str | None, store: Store) -> list[StoredRows]:
    """Return what is here of a model's data: by kind, the copies of its job before what was
    fetched."""
    found = [*_kept(job_id, store), *_fetched(model, store)]
    return sorted(found, key=lambda one: KINDS.index(one.kind))


def training_files(model: str, record: JobRecord | None, store: Store) -> list[Path]:
    """Return the rows that a model was trained on, as far as they are here, and behind them those
    of the fine-tunes that it was trained from."""
    paths: list[Path] = []
    seen = set[str]()
    while model not in seen:
        seen.add(model)
        job_id = record.id if record else None
        paths += [one.path for one in rows_of(model, job_id, store) if one.kind == "training"]
        if record is None:
            break
        model, record = record.spec.model, store.that_made(record.spec.model)
    return list(dict.fromkeys(paths))


def _kept(job_id: str | None, store: Store) -> Iterator[StoredRows]:
    for record in store.select("id = ? AND removed_at IS NULL", (job_id or "",)):
        if record.validation and Path(record.validation.path).is_file():
            words = f"the held-out rows of {record.id}"
            yield StoredRows("validation", Path(record.validation.path), words)
        if record.held_out and Path(record.held_out.path).is_file():
            words = f"the rows that {record.id} has held out"
            yield StoredRows("held_out", Path(record.held_out.path), words)
        if Path(record.train.path).is_file():
            words = f"the training rows of {record.id}"
            yield StoredRows("training", Path(record.train.path), words)


def _fetched(model: str, store: Store) -> Iterator[StoredRows]:
    """Yield what ``ftg migrate fetch`` has saved of a model."""
    for manifest in fetched.find(store.settings, model):
        for piece in manifest.pieces:
            path = fetched.path_of(store.settings, manifest, piece)
            if path is not None and piece.kind in ("validation", "stored", "training"):
                words = f"{FETCHED[piece.kind]} of {manifest.job_id}, as fetched"
                yield StoredRows(piece.kind, path, words)
