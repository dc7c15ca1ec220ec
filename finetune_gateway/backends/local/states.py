"""What the row of a run says of it to people: its status, what it waits for, when it begins."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection
from pathlib import Path

from finetune_gateway.backends.local import deaths, hangs, heartbeat, line
from finetune_gateway.backends.local.line import Place, Waiting
from finetune_gateway.backends.local.queue import Queue, RunRow
from finetune_gateway.events import PAUSING, JobStatus, Result, Snapshot
from finetune_gateway.settings import processes

SILENT_SECONDS = 120.0  # after so long without a heartbeat the phase says so
WAITING = "waiting for a free slot"
DIED = "its worker died{how}; goes on when a slot is free"
EXPECTED = (
    "CASE WHEN json_valid(jobs.estimate) THEN json_extract(jobs.estimate, '$.seconds.expected') END"
)


class States:
    """The states of some runs, as they are now."""

    def __init__(self, queue: Queue, rows: Collection[RunRow]) -> None:
        self.queue = queue
        self.now = time.time()
        # Whose worker has died; but not one that is just being replaced.
        self.dead = {row.id for row in rows if row.status is JobStatus.RUNNING and self._died(row)}
        live = [row for row in rows if row.status is JobStatus.QUEUED or row.id in self.dead]
        self.statuses = queue.statuses({one for row in live for one in row.after})
        self.places = places(queue, self.now) if live else {}

    def _died(self, row: RunRow) -> bool:
        return not self.queue.alive(row.id) and self.queue.get(row.id).fence == row.fence

    def snapshot(self, row: RunRow) -> Snapshot:
        """Return what a list tells of a run."""
        place = self.places.get(row.id)
        start = None if place is None or place.start_in is None else self.now + place.start_in
        return Snapshot(
            status=self._status(row),
            raw_status=row.status,
            phase=self._phase(row),
            requeued=True,  # the row is the truth
            place_in_line=place.number if place else None,
            expected_start_at=start,
        )

    def _status(self, row: RunRow) -> JobStatus:
        if row.cancel_at is not None and not row.status.final:
            return JobStatus.CANCELLING
        return JobStatus.QUEUED if row.id in self.dead else row.status

    def _phase(self, row: RunRow) -> str:
        if row.status.final or row.status is JobStatus.PAUSED:
            return row.phase
        if row.pause_at is not None:
            return PAUSING
        if row.id in self.dead:
            death = deaths.load(row.death)
            how = f" {deaths.where(death)} ({deaths.how(death)})" if death else ""
            return DIED.format(how=how)
        if row.status is JobStatus.RUNNING or row.pid is not None:
            return _with_silence(row)
        if (row.start_at or 0.0) > self.now:
            return f"waiting until {time_text(row.start_at or 0.0)}"
        if unmet := line.unmet(row.after, self.statuses):
            return f"waiting for {' and '.join(unmet)} to succeed"
        fault = self.queue.dispatcher_fault
        said = f"{row.phase or WAITING}{f'; {fault}' if fault else ''}"
        return _with_dispatcher(said, self.queue)


def places(queue: Queue, now: float) -> dict[str, Place]:
    """Return the places of all runs that only wait for a slot."""
    rows = queue.store.query(
        "SELECT runs.id, runs.status, runs.pid, runs.slot, runs.seconds, runs.seconds_left,"
        f" runs.devices, runs.after, runs.start_at, {EXPECTED} AS expected"
        " FROM runs LEFT JOIN jobs ON jobs.id = runs.id"
        " WHERE runs.status IN ('queued', 'running') AND runs.pause_at IS NULL"
        " AND runs.cancel_at IS NULL ORDER BY runs.priority DESC, runs.seq"
    ).fetchall()
    rows = [row for row in rows if not line.defect(row)]
    running = {row["slot"]: _left(row) for row in rows if row["pid"] and row["slot"]}
    statuses = queue.statuses({one for row in rows for one in json.loads(row["after"])})
    waiting = [
        Waiting(row["id"], _devices(row), _expected(row))
        for row in rows
        if not row["pid"]
        and (row["start_at"] or 0.0) <= now
        and not line.unmet(json.loads(row["after"]), statuses)
    ]
    return line.places(waiting, running, queue.slots() if waiting else [])


def _devices(row: sqlite3.Row) -> tuple[str, ...] | None:
    return tuple(json.loads(row["devices"])) if row["devices"] else None


def _left(row: sqlite3.Row) -> float | None:
    """Return for how long a run is expected to have its slot, by its own pace, else by what was
    estimated."""
    if row["seconds_left"] is not None:
        return float(row["seconds_left"])
    expected = _expected(row)
    return None if expected is None else float(max(0.0, expected - row["seconds"]))


def _expected(row: sqlite3.Row) -> float | None:
    """Return what was estimated, in seconds; None where that is damaged."""
    found = row["expected"]
    return float(found) if isinstance(found, int | float) else None


def _with_dispatcher(phase: str, queue: Queue) -> str:
    """Return a phase of waiting; that the dispatcher does not answer, where it cannot be
    replaced."""
    said = heartbeat.silence_text(queue.settings.locks)
    return f"{phase} ({said})" if said else phase


def _with_silence(row: RunRow) -> str:
    """Return the phase of a run with a worker; that this is stopped, or makes no progress."""
    if row.pid is not None and processes.is_stopped(row.pid, row.pid_start):
        return f"{row.phase} (process {row.pid} is stopped: kill -CONT {row.pid} lets it go on)"
    if row.progress_at is not None and row.pid and processes.start_of(row.pid) == row.pid_start:
        said = hangs.slowness(time.monotonic() - row.progress_at, row.step_seconds)
        if said:
            return f"{row.phase} ({said})"
    silent = time.time() - row.heartbeat_at if row.heartbeat_at else 0.0
    if row.status is JobStatus.RUNNING and silent > SILENT_SECONDS:
        return f"{row.phase} (no heartbeat for {silent:.0f} s)"
    return row.phase


def time_text(moment: float) -> str:
    """Return the local time of a moment, with the day if it is not today."""
    then, today = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def in_place(result: Result | None, folder: Path) -> Result | None:
    """Return the result of a run with its model where the run's folder is now."""
    return result and result.model_copy(update={"model": str(folder / "model")})
