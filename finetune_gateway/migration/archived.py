"""What a fetch has saved, as data: each fine-tune with its pieces, and what was refused and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self

from pydantic import ConfigDict

from finetune_gateway.jobs import fetched
from finetune_gateway.jobs.fetched import Kind, Manifest, Piece, Why
from finetune_gateway.model import Model
from finetune_gateway.renderers import Shown
from finetune_gateway.settings.home import Settings


class KeyRefusal(Model):
    """What a key was refused as such, and not for one fine-tune: ``kinds`` of things."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    key: str
    kinds: tuple[str, ...]
    why: Why
    scope: str = ""
    reason: str


class ArchivedJob(Model):
    """One fine-tune and where it lies. ``changed``: pieces that were saved in this run."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str | None
    job_id: str
    host: str
    status: str
    folder: str
    paths: dict[str, str]  # by name: train.jsonl, events.jsonl
    pieces: tuple[Piece, ...]
    changed: int = 0

    @classmethod
    def of(cls, settings: Settings, manifest: Manifest, changed: int) -> Self:
        """Return what is kept by a manifest."""
        found = {piece: fetched.path_of(settings, manifest, piece) for piece in manifest.pieces}
        return cls(
            model=manifest.model,
            job_id=manifest.job_id,
            host=manifest.host,
            status=manifest.status,
            folder=str(fetched.folder(settings, manifest.host, manifest.job_id)),
            paths={piece.name or piece.content: str(path) for piece, path in found.items() if path},
            pieces=manifest.pieces,
            changed=changed,
        )

    @property
    def name(self) -> str:
        """Return the model's id, or the job's where there is none."""
        return self.model or self.job_id

    @property
    def counts(self) -> Counter[str]:
        """Return how many pieces are saved, gone, not visible, refused and failed."""
        return Counter(piece.state for piece in self.pieces)

    def path(self, kind: Kind) -> Path | None:
        """Return where its training file or another piece lies; None if it was not saved."""
        found = (one for one in self.pieces if one.kind == kind and one.state == "saved")
        names = (one.name or one.content for one in found)
        return next((Path(self.paths[name]) for name in names if name in self.paths), None)


class Archive(Shown, Model):
    """What is kept of some fine-tunes, in ``folder``. ``refused``: what keys were refused as such.
    ``stopped``: why the host was left alone before the end, with ``left`` fine-tunes to go.
    ``whole_list``: False if a host did not list all of its jobs. ``requests``: answers that came.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    jobs: tuple[ArchivedJob, ...]
    folder: str
    refused: tuple[KeyRefusal, ...] = ()
    stopped: str = ""
    left: int = 0
    whole_list: bool = True
    requests: int = 0

    @property
    def counts(self) -> Counter[str]:
        """Return how many pieces are saved, gone, not visible, refused and failed."""
        return sum((job.counts for job in self.jobs), Counter())

    @property
    def complete(self) -> bool:
        """True if the same call has nothing more to ask for."""
        left = self.counts["refused"] + self.counts["failed"]
        unseen = any("jobs" in refusal.kinds for refusal in self.refused)
        return self.whole_list and not (left or unseen or self.stopped)
