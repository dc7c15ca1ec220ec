"""Jobs that wait here for their turn, because their host takes no more jobs now.

They are in order for each host and account, among those that somebody waits for. A job that nobody
waits for holds up nobody, and is not sent for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_gateway.backend import LIST_LAG, Capabilities
from finetune_gateway.errors import BackendError, JobNotFinished
from finetune_gateway.jobs.records import JobRecord, seconds_since, stopwatch
from finetune_gateway.jobs.store import LIVE, Store
from finetune_gateway.settings import config, files
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.text.quoting import duration

PATIENCE_SECONDS = 600.0  # after which a job whose turn it was holds up no other
LONGEST_PAUSE = 10  # times the longest pause between polls; for a host that does not say how long


def turn_away(
    store: Store, record: JobRecord, error: BackendError, limits: Capabilities
) -> JobRecord:
    """Commit that the host has refused the job's last request for now: it is sent again after the
    wait that the host asks for, else after a wait that doubles each time."""
    first, longest = limits.poll_seconds
    pause = min(first * 2 ** min(record.turned_away, 20), LONGEST_PAUSE * longest)
    pause = pause if error.retry_after is None else error.retry_after
    if record.step == "creating":
        pause = max(pause, _list_lag(limits))
    host = record.display_name
    full = record.step == "creating" and error.status_code == 429
    reason = f"{host} takes no more jobs now" if full else f"{host} asks to wait"
    until = time.time() + pause
    phase = _phase(reason, until)
    set_not_applied(store, record.id, phase)
    return set_waiting(store, record.id, until, phase, times=1)


def _list_lag(limits: Capabilities) -> float:
    """Return how late a host may list a job that it has created although it refused it."""
    return min(LIST_LAG, limits.settle_seconds)


def seconds_until_listed(record: JobRecord, limits: Capabilities) -> float:
    """Return for how long its host may still list a refused job late; 0 or less for no longer."""
    passed = seconds_since(record.step_at, record.step_clock)
    return _list_lag(limits) - max(0.0, passed)


def set_not_applied(store: Store, job_id: str, phase: str) -> JobRecord:
    """Commit that the last request of a job was certainly not applied: it uses up no try."""
    with store.transaction() as db:
        db.execute(
            "UPDATE jobs SET step = 'intent', step_at = ?, step_clock = ?,"
            " tries = max(tries - 1, 0), phase = ? WHERE id = ?",
            (time.time(), stopwatch(), encodable(phase), job_id),
        )
    return store.get(job_id)


def set_waiting(store: Store, job_id: str, until: float, phase: str, times: int = 0) -> JobRecord:
    """Commit until when a job waits here before it is sent; ``times``: how often it was turned
    away since the last call."""
    with store.transaction() as db:
        db.execute(
            "UPDATE jobs SET not_before = ?, step_at = ?, step_clock = ?, phase = ?,"
            " turned_away = turned_away + ?,"
            " status = CASE status WHEN 'validating_files' THEN 'queued' ELSE status END"
            f" WHERE id = ? AND provider_id IS NULL AND {LIVE}",
            (until, time.time(), stopwatch(), encodable(phase), times, job_id),
        )
    return store.get(job_id)


@contextmanager
def awaiting(store: Store, job_id: str) -> Iterator[Callable[[], None]]:
    """Yield a function that lets others see that we wait for a job, until the block ends. Where
    they see another one already, the next call tries again."""
    held: list[int] = []

    def show() -> None:
        if not held:
            descriptor = files.try_lock(_wait_lock(store, job_id))
            held.extend([] if descriptor is None else [descriptor])

    try:
        yield show
    finally:
        for descriptor in held:
            files.unlock(descriptor)


def _wait_lock(store: Store, job_id: str) -> Path:
    return store.settings.locks / f"{job_id}.wait"


def hold(store: Store, record: JobRecord, waiting: list[JobRecord]) -> JobRecord | None:
    """Return the job as it goes on waiting; None if it is its turn.

    Its turn comes when its own wait is over and those for the same model too, and no earlier job
    that somebody waits for can be sent. ``waiting``: the jobs of its backend that wait.
    """
    if record.seconds_to_wait > 0:
        return record
    others = [one for one in waiting if one.id != record.id and one.lane == record.lane]
    asked = [one for one in others if one.spec.model == record.spec.model and one.seconds_to_wait]
    if asked:
        until = max(one.not_before or 0.0 for one in asked)
        reason = f"{record.display_name} takes no more jobs now"
        return set_waiting(store, record.id, until, _phase(reason, until))
    order = store.in_order([record.id, *(one.id for one in others)])
    earlier = {*order[: order.index(record.id)]}
    for one in others:
        if one.id in earlier and _goes_first(store, one, record):
            return _behind(store, record, one)
    return None


def _behind(store: Store, record: JobRecord, other: JobRecord) -> JobRecord:
    phase = f"waiting: {other.id} goes first"
    if record.waits_here and record.phase == phase:
        return record
    return set_waiting(store, record.id, time.time(), phase)


def _goes_first(store: Store, other: JobRecord, record: JobRecord) -> bool:
    """Return True if an earlier job keeps this one back: somebody waits for it, and the host may
    take it now. One for another model that the host has just turned away keeps back nobody, for
    limits may be by model. Nor does one that should have been sent long ago: who waits for it has
    been stopped (Ctrl-Z, a laptop that sleeps)."""
    due = other.seconds_to_wait == 0
    passed = seconds_since(other.step_at, other.step_clock)
    late = passed - max(0.0, (other.not_before or 0.0) - other.step_at)
    if late > PATIENCE_SECONDS and not store.is_being_sent(other.id):
        return False
    return (due or other.spec.model == record.spec.model) and files.is_locked(
        _wait_lock(store, other.id)
    )


def longest_wait(store: Store, limits: Capabilities) -> float:
    """Return how long a host may let us wait, in seconds."""
    value = config.current_value(
        store.settings, "hosts.longest_wait_seconds", limits.longest_wait
    ).amount
    return float(value or 0)


def require_short(record: JobRecord, longest: float) -> None:
    """Raise JobNotFinished if a job has to wait for longer than is allowed here."""
    left = record.seconds_to_wait
    if left <= longest:
        return
    raise JobNotFinished(
        f"{record.display_name} asks to wait {duration(left)}, longer than the "
        f"{duration(longest)} that are allowed here. {record.id} stays queued here, unsent.",
        hint=f"Run ftg wait {record.id} after {_clock(time.time() + left)}, or allow more: "
        f"ftg config set hosts.longest_wait_seconds {left:.0f}. ftg cancel {record.id} ends it.",
        job_id=record.id,
    )


def _phase(reason: str, until: float) -> str:
    return f"waiting: {reason}; asking again at {_clock(until)}"


def _clock(moment: float) -> str:
    """Return the local time of a moment, with the day if it is not today."""
    then, today = time.localtime(moment), time.localtime()
    same_day = then[:3] == today[:3]
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", then)
