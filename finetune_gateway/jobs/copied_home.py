"""Whether a home folder is a copy of another one, and which of its jobs are that one's too.

``place.json`` says where a home lay when it was opened last, and which file its store was. Where
the store is another file now, the home was copied, or moved to another disk. It is a copy if the
file of before is still where it was: then its jobs go on there, and here only if that is asked for.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from finetune_gateway.errors import JobNotFinished
from finetune_gateway.model import Model
from finetune_gateway.settings import files, sealed
from finetune_gateway.settings.connections import Rows
from finetune_gateway.settings.home import PLACE, Settings


class Original(Model):
    """The home that this one is a copy of: where it lies, which store it has, how many jobs."""

    home: str
    store: tuple[int, int]
    jobs: int


class Place(Model):
    """What place.json says: where a home lay, which store it had, and of what it is a copy."""

    home: str | None = None
    store: tuple[int, int] | None = None
    original: Original | None = None


def look(settings: Settings, db: sqlite3.Connection) -> None:
    """Note where a home lies that is opened. In a copy the local jobs that waited or ran are paused
    first, once: where they come from they go on."""
    with suppress(OSError):  # a full disk: the next process that opens it looks
        noted = _read(settings)
        if (noted.home, noted.store) != _here(settings):
            with files.locking(settings.locks / "place"):
                _note(settings, db)


def require_original(settings: Settings, job_id: str, query: Callable[..., Rows]) -> None:
    """Raise JobNotFinished for a job that was not sent, in a copy of the home that sends it."""
    original = _read(settings).original
    if not original or not _is_there(original.home, original.store):
        return
    if query("SELECT rowid FROM jobs WHERE id = ?", (job_id,)).fetchone()[0] > original.jobs:
        return  # made here, since
    home = original.home
    raise JobNotFinished(
        f"{job_id} is not sent from here: this home is a copy of {home}, whose job it is too.",
        hint=f"Send it there: ftg --home {home} wait {job_id}. Move or delete that home if it is "
        "not used any more; then it is sent from here. Or submit it again, with --again.",
        job_id=job_id,
    )


def _note(settings: Settings, db: sqlite3.Connection) -> None:
    noted = _read(settings)  # again: another process may have been faster
    home, store, original = noted.home, noted.store, noted.original
    now = _here(settings)
    if (home, store) == now:
        return
    copied = home is not None and home != now[0] and store != now[1]
    if copied and home is not None and store is not None and _is_there(home, store):
        jobs = db.execute("SELECT coalesce(max(rowid), 0) FROM jobs").fetchone()[0]
        original = Original(home=home, store=store, jobs=jobs)
        why = f"this home is a copy of {home}, where it goes on; ftg resume trains it here too"
        db.execute(
            "UPDATE runs SET status = 'paused', phase = ?, pause_at = NULL, pid = NULL,"
            " pid_start = NULL, slot = NULL, seconds_left = NULL"
            " WHERE status IN ('queued', 'running') AND cancel_at IS NULL",
            (why,),
        )
    about = Place(home=now[0], store=now[1], original=original)
    sealed.write(settings.home / PLACE, about.model_dump(mode="json"))


def _read(settings: Settings) -> Place:
    """Return what was noted; nothing where that is damaged."""
    try:
        return Place.model_validate(sealed.read(settings.home / PLACE, ""))
    except (OSError, ValidationError):
        return Place()


def _here(settings: Settings) -> tuple[str, tuple[int, int]]:
    return os.path.realpath(settings.home), _store_of(settings.database)


def _store_of(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_there(home: str, store: tuple[int, int]) -> bool:
    """Return True if the home of this note is where it was."""
    try:
        return _store_of(Settings(Path(home)).database) == store
    except (OSError, ValueError):  # a path that no file can have
        return False
