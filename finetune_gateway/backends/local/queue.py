"""The queue of local jobs: rows in the store, one detached worker process per job.

A worker is alive while it holds the run's lock file, which the kernel releases when a process dies.
A slot (one on a CPU, one per GPU) is such a lock too. There is no server and no dispatcher: the
next poll of a job that has lost its worker starts a new one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.backends.local import out_of_memory
from finetune_gateway.errors import BackendError, JobNotFinished, NotFoundError
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import interpreter
from finetune_gateway.settings.files import is_locked, open_private, try_lock, unlock
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

MAX_ATTEMPTS = 5  # times a job may start to train; then a dead worker means that it has failed
MAX_STARTS = 30  # workers in all, those that died before they started to train included
CANCEL_SECONDS = 60.0  # from cancel to SIGKILL; the last checkpoint stays usable
LEAVE_SECONDS = 10.0  # from the final status of a run to the end of its worker
SILENT_SECONDS = 120.0  # after so long without a heartbeat the phase says so


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
    slot: str | None
    heartbeat_at: float | None
    cancel_at: float | None
    error: str | None
    result: Result | None
    trained_tokens: int | None
    resumes: int  # how often it was led out of failed or cancelled
    first_fence: int  # the count of workers before this resume
    seconds: float  # of work with a slot, over all attempts; a dead worker counts to its heartbeat
    finished_at: float | None


class Queue:
    """Local jobs waiting, running and ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings)

    def folder(self, run_id: str) -> Path:
        return self.settings.runs / run_id

    def add(self, run_id: str) -> None:
        """Add a run to the queue; adding it again changes nothing."""
        with self.store.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO runs (id, status, max_attempts, queued_at)"
                " VALUES (?, 'queued', ?, ?)",
                (run_id, MAX_ATTEMPTS, time.time()),
            )

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
        return is_locked(self._lock(run_id))

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

    def ensure_worker(self, run_id: str) -> None:
        """Start a worker for a run that has none and needs one.

        The worker inherits the lock that is taken here, so at no moment can a second one start.
        """
        descriptor = try_lock(self._lock(run_id))
        if descriptor is None:
            self._kill_when_overdue(run_id)
            return
        try:
            if self._needs_worker(run_id):
                self._spawn(run_id, self._next_fence(run_id), descriptor)
        finally:
            unlock(descriptor)

    def _needs_worker(self, run_id: str) -> bool:
        row = self.get(run_id)
        if row.status.final:
            return False
        if row.cancel_at is not None:
            self._end(run_id, JobStatus.CANCELLED, None)
            return False
        saved = (self.folder(run_id) / "model" / MANIFEST).exists()  # only its status is missing
        if row.attempts >= row.max_attempts and not saved:
            folder = self.folder(run_id)
            reason = "It was killed, or crashed; too little memory is the usual reason."
            if known := out_of_memory.reason_of_death(folder):
                reason = f"{known} {out_of_memory.advice_for_dead(folder, row.phase, row.slot)}"
            self._end(
                run_id,
                JobStatus.FAILED,
                f"Its worker died {row.attempts} times (the last time while {row.phase}). "
                f"{reason} See the end of {folder / 'worker.log'}.",
            )
            return False
        starts = row.fence - row.first_fence
        if starts >= MAX_STARTS:
            self._end(
                run_id,
                JobStatus.FAILED,
                f"Its worker died {starts} times, most of them before it started to train. "
                f"The reason is in {self.folder(run_id) / 'worker.log'}.",
            )
            return False
        return True

    def _next_fence(self, run_id: str) -> int:
        with self.store.transaction() as db:
            db.execute("UPDATE runs SET fence = fence + 1, pid = NULL WHERE id = ?", (run_id,))
        return self.get(run_id).fence

    def _spawn(self, run_id: str, fence: int, descriptor: int) -> None:
        words = str(self.settings.home), run_id, str(fence), str(descriptor)
        command = interpreter.module("finetune_gateway.backends.local.worker", *words)
        path = self.folder(run_id) / "worker.log"
        with open(open_private(path, os.O_WRONLY | os.O_APPEND), "ab") as log:
            # The process started here forks, starts a session of its own and ends at once: the
            # worker outlives us, and leaves no zombie in a long-lived parent.
            started = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(descriptor,),
                env=worker_environment(),
                cwd=self.folder(run_id),
                start_new_session=True,  # Ctrl-C reaches only the caller
                check=False,
            )
        if started.returncode != 0:
            raise BackendError(
                f"The worker of {run_id} could not be started (exit {started.returncode}).",
                hint=f"See {self.folder(run_id) / 'worker.log'}",
                backend="local",
            )

    def _kill_when_overdue(self, run_id: str) -> None:
        row = self.get(run_id)
        if row.cancel_at is None or row.pid is None:
            return
        passed = time.time() - row.cancel_at
        if passed < 0:  # the clock was set back: count from now
            with self.store.transaction() as db:
                db.execute("UPDATE runs SET cancel_at = ? WHERE id = ?", (time.time(), run_id))
        if passed >= CANCEL_SECONDS:
            _signal(row.pid, signal.SIGKILL)

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop: the flag in the row counts, the signal makes it quick."""
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET cancel_at = coalesce(cancel_at, ?) WHERE id = ?"
                " AND status IN ('queued', 'running')",
                (time.time(), run_id),
            )
        row = self.get(run_id)
        if not row.status.final and row.pid is not None and self.alive(run_id):
            _signal(row.pid, signal.SIGTERM)
        self.ensure_worker(run_id)

    def resume(self, run_id: str, attempt: int) -> None:
        """Let a run that has failed or was cancelled go on, once for each ``attempt``. Its last
        worker, which may not quite have ended, must not write any more: the fence is a new one."""
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET status = 'queued', phase = 'resuming', attempts = 0,"
                " fence = fence + 1, first_fence = fence + 1, resumes = ?1, pid = NULL,"
                " slot = NULL, heartbeat_at = NULL, cancel_at = NULL, error = NULL,"
                " finished_at = NULL"
                " WHERE id = ?2 AND resumes < ?1 AND status IN ('failed', 'cancelled')",
                (attempt, run_id),
            )
        self.ensure_worker(run_id)

    # -- for the worker ------------------------------------------------------------------

    def claim(self, run_id: str, fence: int, **values: str | float | int | None) -> bool:
        """Write to the row of a live run; False if ``fence`` is not the newest, or it has ended."""
        columns = ", ".join(f"{name} = ?" for name in values)
        with self.store.transaction() as db:
            done = db.execute(
                f"UPDATE runs SET {columns} WHERE id = ? AND fence = ?"
                " AND status IN ('queued', 'running')",
                (*values.values(), run_id, fence),
            )
        return done.rowcount == 1

    def first_in_line(self, run_id: str) -> bool:
        """Return True if no living worker of an earlier run is waiting: strictly in order."""
        rows = self.store.query(
            "SELECT id FROM runs WHERE status = 'queued' AND seq <"
            " (SELECT seq FROM runs WHERE id = ?)",
            (run_id,),
        ).fetchall()
        return not any(self.alive(row["id"]) for row in rows)

    def try_slot(self) -> tuple[str, int] | None:
        """Take a free slot; return its name and the descriptor that holds it, or None."""
        for name in slots():
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

    def _end(self, run_id: str, status: JobStatus, error: str | None) -> None:
        self.sweep(run_id)
        with self.store.transaction() as db:
            db.execute(
                "UPDATE runs SET status = ?, error = ?, phase = '', finished_at = ? WHERE id = ?",
                (status, error, time.time(), run_id),
            )

    def _lock(self, run_id: str) -> Path:
        return self.folder(run_id) / "worker.lock"


def slots() -> list[str]:
    """Return the slots for jobs: one per visible GPU, else one for the CPU.

    Asks nvidia-smi rather than torch, which takes 2 s to import.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [f"gpu-{name.strip()}" for name in visible.split(",") if name.strip()] or ["cpu"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return ["cpu"]
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [f"gpu-{number}" for number in range(count)] or ["cpu"]


def worker_environment() -> dict[str, str]:
    """Return the caller's environment with the telemetry of libraries off."""
    return {
        **os.environ,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # bars are for a terminal, and this is a log
        "PYTHONUNBUFFERED": "1",
    }


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended in the meantime


def _read(row: sqlite3.Row) -> RunRow:
    """Return the run in a row. Raises BackendError for a row that somebody else has written to."""
    try:
        return _run(row)
    except (ValueError, TypeError):  # no status, no JSON
        raise BackendError(
            f"What the store has of the local run {visible(str(row['id']))} is damaged.",
            hint="Restore the file from a copy of yours; or submit the job again.",
            backend="local",
        ) from None


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
        slot=row["slot"],
        heartbeat_at=row["heartbeat_at"],
        cancel_at=row["cancel_at"],
        error=row["error"],
        result=Result.model_validate_json(row["result"]) if row["result"] else None,
        trained_tokens=row["trained_tokens"],
        resumes=row["resumes"],
        first_fence=row["first_fence"],
        seconds=row["seconds"],
        finished_at=row["finished_at"],
    )
