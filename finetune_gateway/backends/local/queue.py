"""The queue of local jobs: rows in the store, which are the truth about them.

A worker is alive while it holds the run's lock file, which the kernel releases when a process dies.
A slot (one on a CPU, one per GPU) is such a lock too. The dispatcher starts the workers; whoever
looks at a job sees to it that there is one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from finetune_gateway.backend.capabilities import AT_ONCE, Schedule
from finetune_gateway.backends.local import deaths, line, out_of_memory, run_folder, spawning
from finetune_gateway.backends.local.line import MAX_STARTS
from finetune_gateway.backends.local.slots import VISIBLE, slots, still_there
from finetune_gateway.errors import (
    BackendError,
    GatewayError,
    JobNotFinished,
    NotFoundError,
    StoreError,
)
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import processes
from finetune_gateway.settings.config import current_value
from finetune_gateway.settings.files import try_lock, try_locking
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

MAX_ATTEMPTS = 3  # of workers that may die without a later step saved; then the job has failed
HANG_SECONDS = "local.hang_seconds"  # the setting
LEAVE_SECONDS = 10.0  # from the final status of a run to the end of its worker
SLOTS_SECONDS = 60.0  # for so long the devices are known, where they only say when a job begins
NOT_ENDED = "status NOT IN ('succeeded', 'failed', 'cancelled')"


@dataclass(frozen=True)
class RunRow:
    """One row of ``runs``."""

    id: str
    seq: int
    status: JobStatus
    phase: str
    fence: int
    attempts: int
    max_attempts: int
    pid: int | None
    pid_start: str | None  # see ``processes.start_of``
    slot: str | None
    heartbeat_at: float | None
    cancel_at: float | None
    pause_at: float | None
    priority: int
    after: tuple[str, ...]  # runs that must have succeeded before it begins
    start_at: float | None  # it begins no earlier
    devices: tuple[str, ...] | None  # slots that it may take; None: any
    error: str | None
    result: Result | None
    trained_tokens: int | None
    resumes: int  # how often it was led out of failed or cancelled
    first_fence: int  # the count of workers before this resume
    seconds_left: float | None  # of training, as its worker says
    seconds: float  # of work with a slot, over all attempts; a dead worker counts to its heartbeat
    finished_at: float | None
    death: str | None  # how its last worker died; see ``deaths``
    saved_step: int  # of the last checkpoint since deaths are counted
    step: int | None
    progress_at: float | None  # monotonic; when its worker made progress
    step_seconds: float | None  # that a step takes
    peak_bytes: int | None
    hang_seconds: float | None


class Queue:
    """Local jobs waiting, running and ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.dispatcher_fault = ""  # as of the last look
        self._slots: list[str] = []
        self._slots_at = -SLOTS_SECONDS

    def slots(self) -> list[str]:
        """Return the names of the slots, at most a minute old: nvidia-smi may take seconds."""
        if time.monotonic() - self._slots_at >= SLOTS_SECONDS:
            self._slots, self._slots_at = slots(self._slots), time.monotonic()
        return self._slots

    def folder(self, run_id: str) -> Path:
        return self.settings.runs / run_id

    def add(
        self, run_id: str, schedule: Schedule = AT_ONCE, devices: Sequence[str] | None = None
    ) -> None:
        """Add a run to the queue; adding it again changes nothing. ``devices``: slots, one of which
        it has to have. Raises SpecError for a setting that is invalid."""
        hang = self._hang_seconds()
        with self.store.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO runs (id, status, max_attempts, queued_at, priority, after,"
                " start_at, devices, hang_seconds) VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?)",
                (
                    run_id,
                    MAX_ATTEMPTS,
                    time.time(),
                    schedule.priority,
                    json.dumps(schedule.after),
                    schedule.start_at,
                    None if devices is None else json.dumps([*devices]),
                    hang,
                ),
            )

    def _hang_seconds(self) -> float | None:
        amount = current_value(self.settings, HANG_SECONDS).amount
        return None if amount is None else min(float(amount), line.HIGHEST - 1.0)

    def find(self, run_id: str) -> RunRow | None:
        row = self.store.query("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        return _read(row) if row else None

    def find_all(self, run_ids: Collection[str]) -> list[RunRow]:
        """Return those of these runs that there are, by one query; a damaged row hides no other."""
        rows = self.store.query(
            "SELECT * FROM runs WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([*run_ids]),),
        )
        found = []
        for row in rows:
            with suppress(BackendError):  # ``get`` says what is wrong with it
                found.append(_read(row))
        return found

    def get(self, run_id: str) -> RunRow:
        row = self.find(run_id)
        if row is None:
            raise NotFoundError(f"There is no local run {run_id!r}.", hint="Run: ftg list")
        return row

    # -- workers -------------------------------------------------------------------------

    def alive(self, run_id: str) -> bool:
        row = self.find(run_id)
        process = (row.pid, row.pid_start) if row else ()
        return run_folder.has_worker(self.folder(run_id), *process)

    def require_ended(self, run_id: str) -> None:
        """Wait for a moment until the worker of an ended run has left. Raises JobNotFinished."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.alive(run_id):
            if time.monotonic() >= deadline:
                raise JobNotFinished(
                    f"The worker of {run_id} still writes to {self.folder(run_id)}.",
                    hint="Try again in a moment.",
                    job_id=run_id,
                )
            time.sleep(0.05)

    def bring_environment(self, run_id: str) -> None:
        """Let the worker of a run that is about to be added, or resumed, have the environment of
        this process."""
        spawning.tell(self.settings.locks, run_id)

    def ensure_dispatcher(
        self, environment: Mapping[str, str] = os.environ, *, by_user: bool = True
    ) -> None:
        """Start the dispatcher of this home unless it lives; ``by_user``: somebody looks."""
        home = self.settings
        paths = home.home, home.database, home.locks, home.runs
        spawning.ensure(*paths, environment, by_user=by_user)

    def see_to(self, rows: Collection[RunRow]) -> None:
        """Let these runs go on: somebody looks at them."""
        live = [row for row in rows if row.status in (JobStatus.QUEUED, JobStatus.RUNNING)]
        if live:
            self.dispatcher_fault = spawning.fault(self.settings.locks)
            self.ensure_dispatcher()
        if any(row.phase == line.INTERRUPTED for row in live):
            spawning.wake(self.settings.locks)

    def needs_worker(self, run_id: str) -> bool:
        """Return True for a run that has no worker and needs one. One that was asked to stop, or
        that can never begin, ends here."""
        try:
            with try_locking(self._lock(run_id)) as mine:
                return mine and self._needs_worker(self.get(run_id))
        except StoreError:
            raise
        except OSError as exc:
            return self._end_without_folder(self.get(run_id), exc)

    def _end_without_folder(self, row: RunRow, exc: OSError) -> bool:
        """End a run whose folder cannot be used, and return False. Raises what may pass."""
        reason = self.folder_fault(row.id, exc)
        if not reason:
            raise exc
        if row.cancel_at is not None:
            self._end(row.id, JobStatus.CANCELLED, None)
        else:
            self.fail(row.id, reason)
        return False

    def folder_fault(self, run_id: str, exc: Exception) -> str:
        """Return why a run cannot go on, by an error of its folder; empty for one that may pass."""
        if isinstance(exc, GatewayError):
            return run_folder.missing(self.folder(run_id)) or str(exc)
        return run_folder.fault(self.folder(run_id), exc) if isinstance(exc, OSError) else ""

    def _needs_worker(self, row: RunRow) -> bool:
        run_id, folder = row.id, self.folder(row.id)
        if row.status.final or processes.lives(row.pid, row.pid_start):
            return False
        if row.cancel_at is not None:
            self._end(run_id, JobStatus.CANCELLED, None)
            return False
        if row.status is JobStatus.PAUSED:
            return False
        if row.pause_at is not None:
            self._pause(run_id)
            return False
        if lost := line.never_met(row.after, self.statuses(row.after)):
            self.fail(run_id, f"It was to begin after {lost[0]}, which has not succeeded.")
            return False
        saved = (folder / "model" / MANIFEST).exists()  # only its status is missing
        starts = row.fence - row.first_fence
        if row.attempts >= row.max_attempts and not saved:
            self._fail_of_deaths(row, f"died {row.attempts} times without a later step saved")
            return False
        if starts >= MAX_STARTS:
            self._fail_of_deaths(row, f"died {starts} times")
            return False
        return True

    def _fail_of_deaths(self, row: RunRow, often: str) -> None:
        """End a run whose workers died too often, with all that is known of the last one."""
        folder = self.folder(row.id)
        # Imported here: few runs end so.
        from finetune_gateway.text.quoting import hidden

        found = deaths.load(row.death) or replace(deaths.find(folder), phase=row.phase)
        lines = " | ".join(hidden(line) for line in deaths.last_lines(folder, found))
        helps = deaths.advice(found)
        if found.memory:
            helps = out_of_memory.advice_for_dead(folder, found.phase, row.slot)
        self.fail(
            row.id,
            f"Its worker {often}, the last time {deaths.sentence(found)} {helps} "
            f"{f'Its log ends with: {lines} ' if lines else ''}See {folder / deaths.LOG}.",
        )

    def statuses(self, run_ids: Collection[str]) -> dict[str, str]:
        """Return how runs are doing, or have ended."""
        if not run_ids:
            return {}
        found = self.store.query(line.STATUSES, (json.dumps([*run_ids]),))
        return {row["id"]: row["status"] for row in found}

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop: the flag in the row counts, the signal makes it quick."""
        with self.store.transaction() as db:
            db.execute(
                f"UPDATE runs SET cancel_at = coalesce(cancel_at, ?) WHERE id = ? AND {NOT_ENDED}",
                (time.time(), run_id),
            )
        self._stop(run_id)

    def pause(self, run_id: str) -> None:
        """Ask a run to give its slot back and wait for ``resume``: as ``cancel`` does."""
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET pause_at = coalesce(pause_at, ?) WHERE id = ?"
                f" AND cancel_at IS NULL AND {line.LIVE}",
                (time.time(), run_id),
            )
        self._stop(run_id)

    def _stop(self, run_id: str) -> None:
        """Tell the worker of a run that its row has a wish for it; see to a run that has none."""
        row = self.get(run_id)
        if not row.status.final and row.pid is not None and self.alive(run_id):
            processes.send(row.pid, row.pid_start, signal.SIGTERM)
        else:
            self.needs_worker(run_id)
        if self.get(run_id).status in (JobStatus.QUEUED, JobStatus.RUNNING):
            self.ensure_dispatcher()  # it sees to a worker that does not stop
            spawning.wake(self.settings.locks)

    def resume(self, run_id: str, attempt: int) -> None:
        """Let a run that is paused go on, or one that has failed or was cancelled, once for each
        ``attempt``. The last worker of that, which may not quite have ended, must not write any
        more: the fence is a new one."""
        self.bring_environment(run_id)
        hang, devices = self._hang_seconds(), self._devices_again(run_id)
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET hang_seconds = ?, devices = ? WHERE id = ?",
                (hang, None if devices is None else json.dumps([*devices]), run_id),
            )
            db.execute(
                "UPDATE runs SET status = CASE status WHEN 'paused' THEN 'queued' ELSE status END,"
                " phase = CASE status WHEN 'paused' THEN '' ELSE phase END, pause_at = NULL"
                " WHERE id = ? AND pause_at IS NOT NULL OR id = ? AND status = 'paused'",
                (run_id, run_id),
            )
            db.execute(
                "UPDATE runs SET status = 'queued', phase = 'resuming', attempts = 0,"
                " fence = fence + 1, first_fence = fence + 1, resumes = ?1, pid = NULL,"
                " pid_start = NULL, slot = NULL, heartbeat_at = NULL, cancel_at = NULL,"
                " pause_at = NULL, after = '[]', start_at = NULL, seconds_left = NULL,"
                " error = NULL, finished_at = NULL, death = NULL, saved_step = -1,"
                " step = NULL, progress_at = NULL, step_seconds = NULL, peak_bytes = NULL"
                " WHERE id = ?2 AND resumes < ?1 AND status IN ('failed', 'cancelled')",
                (attempt, run_id),
            )
        self.ensure_dispatcher()
        self.bring_environment(run_id)  # and look at once

    def _devices_again(self, run_id: str) -> Sequence[str] | None:
        """Return the slots that a run may take from its resume on: those of this shell, if it names
        devices, else those of before, as far as they are still there; any, where none is."""
        if VISIBLE in os.environ:
            return slots()
        before = self.get(run_id).devices
        return before and (still_there(before) or None)

    # -- for the worker ------------------------------------------------------------------

    def claim(self, run_id: str, fence: int, **values: str | float | int | None) -> bool:
        """Write to the row of a live run; False if ``fence`` is not the newest, or it has ended."""
        columns = ", ".join(f"{name} = ?" for name in values)
        with self.store.transaction() as db:
            done = db.execute(
                f"UPDATE runs SET {columns} WHERE id = ? AND fence = ? AND {line.LIVE}",
                (*values.values(), run_id, fence),
            )
        return done.rowcount == 1

    def try_slot(self) -> tuple[str, int] | None:
        """Take a free slot; return its name and the descriptor that holds it, or None."""
        found = self.store.query(f"SELECT * FROM runs WHERE slot IS NOT NULL AND {line.LIVE}")
        for name in line.without_taken(slots(), found.fetchall(), self.settings.runs):
            descriptor = try_lock(self.settings.locks / f"slot-{name}")
            if descriptor is not None:
                return name, descriptor
        return None

    def sweep(self, run_id: str) -> None:
        """Remove what a dead worker left half-written. Only for the holder of the run's lock."""
        run = self.folder(run_id)
        for folder in run.glob("model.tmp.*"):
            shutil.rmtree(folder)
        for file in (*run.glob(".*.tmp.*"), *run.glob("checkpoints/*/.*.tmp.*")):
            file.unlink(missing_ok=True)

    def fail(self, run_id: str, error: str) -> None:
        """End a run that has no worker, and can have none."""
        self._end(run_id, JobStatus.FAILED, error)

    def _pause(self, run_id: str) -> None:
        """Let a run that has no worker wait until it is resumed."""
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET status = 'paused', phase = '', pause_at = NULL, pid = NULL,"
                f" pid_start = NULL, slot = NULL WHERE id = ? AND {line.LIVE}",
                (run_id,),
            )

    def _end(self, run_id: str, status: JobStatus, error: str | None) -> None:
        with suppress(OSError):  # of a folder that cannot be written: it ends all the same
            self.sweep(run_id)
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET status = ?, error = ?, phase = '', finished_at = ? WHERE id = ?"
                f" AND {NOT_ENDED}",
                (status, error, time.time(), run_id),
            )

    def _lock(self, run_id: str) -> Path:
        return self.folder(run_id) / run_folder.LOCK


def _read(row: sqlite3.Row) -> RunRow:
    """Return the run in a row. Raises BackendError for a row that somebody else has written to."""
    wrong = line.defect(row)
    try:
        if not wrong:
            return _run(row)
    except ValueError as exc:  # no status, no result
        wrong = "result" if isinstance(exc, ValidationError) else "status"
    raise BackendError(
        f"What the store has of the local run {visible(str(row['id']))} is damaged: {wrong}.",
        hint="Restore the file from a copy of yours; or submit the job again.",
        backend="local",
    )


def _run(row: sqlite3.Row) -> RunRow:
    return RunRow(
        id=row["id"],
        seq=row["seq"],
        status=JobStatus(row["status"]),
        phase=row["phase"],
        fence=row["fence"],
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        pid=row["pid"],
        pid_start=row["pid_start"],
        slot=row["slot"],
        heartbeat_at=row["heartbeat_at"],
        cancel_at=row["cancel_at"],
        pause_at=row["pause_at"],
        priority=row["priority"],
        after=tuple(json.loads(row["after"])),
        start_at=row["start_at"],
        devices=tuple(json.loads(row["devices"])) if row["devices"] else None,
        error=row["error"],
        result=Result.model_validate_json(row["result"]) if row["result"] else None,
        trained_tokens=row["trained_tokens"],
        resumes=row["resumes"],
        first_fence=row["first_fence"],
        seconds_left=row["seconds_left"],
        seconds=row["seconds"],
        finished_at=row["finished_at"],
        death=row["death"],
        saved_step=row["saved_step"],
        step=row["step"],
        progress_at=row["progress_at"],
        step_seconds=row["step_seconds"],
        peak_bytes=row["peak_bytes"],
        hang_seconds=row["hang_seconds"],
    )
