"""What the tests of a backend share: a job that was followed to its end, and a data file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.backend import DataFile, Snapshot


@dataclass(frozen=True)
class FinishedJob:
    """A job that was followed to its end: each poll with the cursor it was asked with."""

    job_id: str
    provider_id: str
    polls: list[tuple[str | None, Snapshot]]

    @property
    def last(self) -> Snapshot:
        return self.polls[-1][1]

    @property
    def event_ids(self) -> list[str]:
        return [event.id for _, snapshot in self.polls for event in snapshot.events]


def data_file(path: Path, rows: int) -> DataFile:
    raw = path.read_bytes()
    return DataFile(path, hashlib.sha256(raw).hexdigest(), rows, len(raw))
