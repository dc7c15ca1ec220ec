"""Settle and remove recordings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from finetune_gateway.errors import JobNotFinished, NotFoundError, StoreError
from finetune_gateway.evaluation.recording import (
    Recording,
    batch_file,
    folder_of,
    plain,
)
from finetune_gateway.evaluation.work import last_lines, open_charges, settle_all, writing
from finetune_gateway.jobs import charges, deletion, recordings
from finetune_gateway.jobs.journal import Journal
from finetune_gateway.jobs.recordings import PREFIX
from finetune_gateway.jobs.requests import BATCHES, LOST, OVER, REFUSED, batch_events
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings


def settle(settings: Settings, name: str, *, lost: bool = False) -> Decimal:
    """Settle what dead processes have reserved for a recording; return what it cost. ``lost``: also
    the batches that are under way: their host does not have them any more. Raises NotFoundError;
    JobNotFinished while a process is asking."""
    recording, store = Recording.at(settings, name), Store(settings)
    with writing(store, recording):
        if lost:
            _let_go(recording)
        return settle_all(store, recording, open_charges(recording))


def _let_go(recording: Recording) -> None:
    """Write down that nobody will collect what is under way. A batch that may have been made may
    have been answered too: it counts at its most."""
    with Journal(recording.folder / BATCHES) as journal:
        for key, known in last_lines(recording).items():
            if known["event"] not in OVER:
                event = LOST if known["event"] in ("creating", "created") else REFUSED
                journal.write({"key": key, "event": event, "at": time.time()})
                batch_file(recording.folder, key).unlink(missing_ok=True)


def doomed(settings: Settings, names: Sequence[str]) -> list[Path]:
    """Return the folders of recordings that are to be removed. Raises NotFoundError for one that
    is not there, JobNotFinished for one whose batch is under way."""
    found = []
    for name in names:
        folder = folder_of(settings, name)
        if not folder.is_dir():
            raise NotFoundError(f"There is no recording {plain(name)!r}.", hint="See: ftg costs")
        if {*batch_events(folder).values()} - {*OVER}:
            raise JobNotFinished(
                f"A batch of {PREFIX}{plain(name)} is under way at its host.",
                hint="Collect it first: the command that made it, again. One that its host has "
                f"lost: ftg settle {PREFIX}{plain(name)} --not-created",
            )
        found.append(folder)
    return found


def remove(settings: Settings, name: str) -> int:
    """Remove a recording for good, and return its bytes. Raises as ``doomed`` does."""
    (folder,) = doomed(settings, [name])
    store, freed = Store(settings), deletion.size(folder)
    try:
        recording = Recording.find(settings, name)
    except StoreError:  # damaged: it goes all the same, and what it reserved counts as spent
        recording = None
    if recording is None:
        for charge in charges.unsettled(store, f"{PREFIX}{plain(name)}"):
            basis = "not known: its recording was damaged or not begun, and removed"
            charges.settle(store, charge.id, charge.reserved_usd, basis)
        recordings.remove(store, folder)
        return freed
    with writing(store, recording):
        doomed(settings, [name])  # nobody has begun a batch since
        settle_all(store, recording, frozenset())
        recordings.remove_locked(store, folder)
    return freed
