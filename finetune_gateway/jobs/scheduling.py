"""What a job waits for before it begins: the keywords ``priority``, ``after`` and ``at`` of a
submit."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from finetune_gateway.backend import Schedule
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.arguments import list_of
from finetune_gateway.text.cleaning import LATEST

MOST_PRIORITY = 1_000_000  # and as much below zero
LATE_SECONDS = 60.0  # a time that has passed by less begins at once
TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
LIKE = "Like 18:30, '2026-12-24 18:30', or with a zone: 2026-12-24T18:30+01:00."

At = datetime | float | str
After = str | Iterable[str]


def schedule_of(store: Store, priority: object, after: object, at: object) -> Schedule:
    """Return what a submit asks for; ``after`` has whole ids of ours. Raises SpecError for what is
    no number, no time or no job to wait for, NotFoundError for a job that is not there."""
    return Schedule(_priority(priority), _after(after, store), _start_at(at))


def of(record: JobRecord, store: Store) -> Schedule:
    """Return what a stored job waits for, as its backend knows it."""
    ids = tuple(store.get(one).provider_id or one for one in record.after)
    return Schedule(record.priority, ids, record.start_at)


def notes(record: JobRecord, given: Schedule) -> list[str]:
    """Return what became of a submit's schedule where an equal job is there already."""
    own = Schedule(record.priority, record.after, record.start_at)
    if not given.used or given == own:
        return []
    return [f"{record.id} keeps the priority, and what it waits for, of its first submit."]


def _priority(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_PRIORITY:
        raise SpecError(
            f"priority cannot be {shown(value)}.",
            hint=f"Give a whole number from -{MOST_PRIORITY:,} to {MOST_PRIORITY:,}; 0 is usual.",
        )
    return value


def _after(value: object, store: Store) -> tuple[str, ...]:
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else list_of(value, str, "after")
    records = [store.find(name) for name in names]
    for record in records:
        _require_it_may_succeed(record)
    return tuple(dict.fromkeys(record.id for record in records))


def _require_it_may_succeed(record: JobRecord) -> None:
    if record.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        ended = "was cancelled" if record.status is JobStatus.CANCELLED else "failed"
        raise SpecError(
            f"{record.id} {ended}: a job after it would never begin.",
            hint=f"Let it go on first (ftg resume {record.id}), or leave after out.",
        )
    if record.backend != "local":
        raise SpecError(
            f"{record.id} runs at {record.display_name}: nobody here is told when it ends.",
            hint=f"Wait for it first: ftg wait {record.id}",
        )


def _start_at(value: object) -> float | None:
    if value is None:
        return None
    moment = _moment(value)
    if moment is None or not abs(moment) < LATEST:
        raise SpecError(f"{shown(value)} is no time.", hint=LIKE)
    if moment < time.time() - LATE_SECONDS:
        raise SpecError(f"{shown(value)} is in the past.", hint=f"Leave at out. {LIKE}")
    return moment


def _moment(value: object) -> float | None:
    """Return seconds since the epoch; without a zone a time is that of this machine."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
        return _read(value.strip()) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _read(text: str) -> float:
    """Return the moment of a date and a time, or the next one of a time of day."""
    day = TIME_OF_DAY.fullmatch(text)
    if day is None:
        return datetime.fromisoformat(text).timestamp()
    now = datetime.now()
    hour, minute, second = (int(part or 0) for part in day.groups())
    then = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    return (then if then > now else then + timedelta(days=1)).timestamp()
