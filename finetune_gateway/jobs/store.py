"""Jobs, their events and the uploaded files, in one SQLite file.

A job exists once its intent row is committed, before anything is sent. Knows nothing of backends.

WAL, synchronous=FULL (4 ms a commit; jobs are rare and cost money), busy time-out 30 s, foreign
keys, BEGIN IMMEDIATE. Not for network file systems.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from finetune_gateway.errors import NotFoundError, StoreError
from finetune_gateway.events import Checkpoint, Event, JobStatus, Result, Snapshot, later
from finetune_gateway.jobs import copied_home, schema
from finetune_gateway.jobs.conditions import CREATED_WITHIN, wanted
from finetune_gateway.jobs.records import (
    JobRecord,
    Step,
    figures,
    handle_text,
    held_by_another,
    logged,
    record_of,
    row_of,
    sent_by_another,
    several,
    stopwatch,
    storable,
)
from finetune_gateway.jobs.reported import checkpoint_of, checkpoint_row, event_row
from finetune_gateway.settings import files
from finetune_gateway.settings.client_options import closed, stays_here
from finetune_gateway.settings.connections import Connection, Connections, Rows, in_words, rows_of
from finetune_gateway.settings.home import Settings
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import clean, encodable

NEWEST = ("latest", "-")  # names of the newest job
LIVE = "status NOT IN ('succeeded', 'failed', 'cancelled')"


class Store:
    """The jobs of one home folder. Safe to use from several threads and processes."""

    def __init__(self, settings: Settings) -> None:
        self.read_only = settings.read_only
        self.settings = settings if self.read_only else settings.create()
        self._connections = Connections(
            str(self.settings.database.absolute()), self._connect, self._state
        )
        self._ended = False
        self.holds: dict[str, tuple[int, Any]] = {}  # of ended jobs, by id: see ``charges``
        self.damaged: dict[str, StoreError] = {}  # rows that lists have left out, by id
        self._file: tuple[int, int] | None = None  # which file it is, by device and inode

    def __reduce__(self) -> tuple[Any, ...]:
        raise stays_here()

    # -- jobs ----------------------------------------------------------------------------

    def add(
        self, record: JobRecord, reserve: Callable[[], None] | None = None
    ) -> tuple[JobRecord, bool]:
        """Commit an intent and return it with True; if there is a job with the same key and account
        that is live or has succeeded, return that with False.

        ``reserve`` may refuse a new job by raising. It is called inside the transaction, so what it
        reads stays true.
        """
        with self.transaction() as db:
            if same := self.equal(record):
                return same, False
            if reserve is not None:
                reserve()
            row = row_of(record, self.settings.stored_path)
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        return record, True

    def equal(self, record: JobRecord) -> JobRecord | None:
        """Return the job with the same key and account that is live or has succeeded; else one of
        an earlier version."""
        earlier = record.earlier_keys or (None, None)
        row = self.query(
            "SELECT * FROM jobs WHERE (submit_key IN (?1, ?2) OR submit_key IN (?4, ?5)"
            " AND held_out_share IS NULL) AND (account IS ?3 OR account IS NULL OR ?3 IS NULL)"
            " AND status NOT IN ('failed', 'cancelled')"
            " ORDER BY submit_key IN (?4, ?5), status = 'succeeded', rowid DESC",
            (record.submit_key, record.old_submit_key or None, record.account, *earlier),
        ).fetchone()
        return self.record_of(row) if row else None

    def get(self, job_id: str) -> JobRecord:
        """Return a job by its whole id. Raises NotFoundError."""
        row = self.query("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise NotFoundError(f"There is no job {job_id!r}.", hint="Run: ftg list")
        return self.record_of(row)

    def find(self, name: str) -> JobRecord:
        """Return a job by its id, a unique prefix of it (with or without ``ftg-``), the provider's
        id, its model at the provider, or ``latest``. Raises NotFoundError, also if several jobs
        match."""
        if name in NEWEST:
            rows = self.query("SELECT * FROM jobs ORDER BY rowid DESC LIMIT 1").fetchall()
        else:
            whole = "SELECT * FROM jobs WHERE id = ?1 OR provider_id = ?1"
            begun = "substr(id, 1, length(?1)) = ?1 OR substr(id, 5, length(?1)) = ?1"
            rows = self.query(whole, (name,)).fetchall()
            rows = (
                rows or self.query(f"SELECT * FROM jobs WHERE {begun} LIMIT 3", (name,)).fetchall()
            )
        if len(rows) == 1:
            return self.record_of(rows[0])
        if rows:
            raise several(name, [self.record_of(row) for row in rows])
        if made := self.that_made(name):
            return made
        if name in NEWEST:
            raise NotFoundError("There are no jobs yet.", hint="Run: ftg submit --help")
        raise NotFoundError(f"There is no job {name!r}.", hint="Run: ftg list")

    def jobs(
        self,
        *,
        status: str | None = None,
        backend: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> list[JobRecord]:
        """Return jobs, newest first. ``backend``: a ``JobRecord.display_name``; hosts without a
        profile (``custom``) match ``openai`` too. ``metadata``: pairs that they all have. A row
        that is damaged is left out, and in ``damaged``."""
        where, values = wanted(status, backend, metadata)
        return self.readable(where, values, -1 if limit is None else limit)

    def count(self, where: str, values: tuple[Any, ...]) -> int:
        """Return for how many jobs an SQL condition holds, damaged rows included."""
        found: int = self.query(f"SELECT count(*) FROM jobs WHERE {where}", values).fetchall()[0][0]
        return found

    def select(self, where: str, values: tuple[Any, ...], limit: int = -1) -> list[JobRecord]:
        """Return the jobs that an SQL condition holds for, newest first: in the order of their
        submits, which no clock decides. Raises StoreError for a damaged row."""
        return [self.record_of(row) for row in self._rows(where, values, limit)]

    def readable(self, where: str, values: tuple[Any, ...], limit: int = -1) -> list[JobRecord]:
        """Return the jobs as ``select``, but those whose row is damaged: ``damaged`` says why."""
        found = []
        for row in self._rows(where, values, limit):
            try:
                found.append(self.record_of(row))
            except StoreError as exc:
                if row["id"] not in self.damaged:
                    logs.jobs.warning("%s", exc.message)
                self.damaged[row["id"]] = exc
        return found

    def _rows(self, where: str, values: tuple[Any, ...], limit: int) -> Rows:
        sql = f"SELECT * FROM jobs WHERE {where} ORDER BY rowid DESC LIMIT ?"
        return self.query(sql, (*values, limit))

    def in_order(self, job_ids: Iterable[str]) -> list[str]:
        """Return these jobs in the order of their submits."""
        rows = self.query(
            "SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?)) ORDER BY rowid",
            (json.dumps([*job_ids]),),
        )
        return [row["id"] for row in rows]

    def that_made(self, model: str) -> JobRecord | None:
        """Return the newest job with this model as its result."""
        found = self.select("json_extract(result, '$.model') = ?", (model,), limit=1)
        return found[0] if found else None

    def created(self, start: float, end: float | None = None) -> list[JobRecord]:
        """Return jobs created from ``start`` to before ``end`` (seconds since the epoch), oldest
        first."""
        return self.select(CREATED_WITHIN, (start, end))[::-1]

    def set_step(
        self,
        job_id: str,
        step: Step,
        *,
        sending: bool = True,
        file_id: str | None = None,
        after: int | None = None,
    ) -> JobRecord:
        """Commit the step of a submit, before the request of that step is sent. ``file_id``: the
        provider's id of the training file. Raises StoreError unless ``after`` is the number of
        tries so far: another process, which has a lock of the same name, has sent one since."""
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE jobs SET step = ?1, step_at = ?2, step_clock = ?6, tries = tries + ?3,"
                " settled = CASE WHEN ?3 THEN 0 ELSE settled END,"
                " sent_at = CASE ?1 WHEN 'creating' THEN coalesce(sent_at, ?2) ELSE sent_at END,"
                " train_file_id = coalesce(?4, train_file_id)"
                " WHERE id = ?5 AND tries = coalesce(?7, tries)",
                (step, time.time(), int(sending), file_id, job_id, stopwatch(), after),
            ).rowcount
        if not changed and after is not None:
            raise sent_by_another(job_id, self.settings.locks)
        return self.get(job_id)

    def waiting(self, backend: str) -> list[JobRecord]:
        """Return the jobs of a backend that wait here, in the order of their submits."""
        waiting = self.select(
            f"not_before IS NOT NULL AND provider_id IS NULL AND {LIVE} AND backend = ?",
            (backend,),
        )
        return waiting[::-1]

    def begin_step_again(self, job_id: str) -> JobRecord:
        """Count the time of a job's step from now: the clock has been set back since it began."""
        change = "jobs SET step_at = ?, step_clock = ?"
        return self._update(job_id, change, time.time(), stopwatch())

    def settle_unsent(self, job_id: str) -> JobRecord:
        """Commit a person's word that the provider does not have a job; any account may get it,
        unless that holds for an equal job already."""
        change = "jobs SET step = 'intent', step_at = ?, phase = '', settled = 1"
        self._update(job_id, change, time.time(), only="provider_id IS NULL")
        return self._update(job_id, "OR IGNORE jobs SET account = NULL", only="settled")

    def set_account(self, job_id: str, account: str | None) -> JobRecord:
        """Commit whose job it is, unless an equal job of that account is live."""
        return self._update(job_id, "OR IGNORE jobs SET account = ?", account)

    def set_cancelling(self, job_id: str) -> JobRecord:
        """Commit that the provider was asked to stop a job."""
        with self.transaction() as db:
            status = later(self.get(job_id).status, JobStatus.CANCELLING)
            db.execute("UPDATE jobs SET status = ? WHERE id = ?", (status, job_id))
        return self.get(job_id)

    def set_sent(self, job_id: str, provider_id: str) -> JobRecord:
        """Commit the provider's id: from now on the job is only polled. Raises BackendError if
        another job has it: this one stays in doubt."""
        change = (
            "jobs SET step = 'sent', step_at = ?1, provider_id = ?2, phase = '', not_before = NULL,"
            " cursor = NULL"
        )
        record = self._update(job_id, change, time.time(), provider_id, only=f"NOT {schema.HELD}")
        if record.provider_id != provider_id:
            raise held_by_another(record, provider_id)
        return logged(record)

    def set_phase(self, job_id: str, phase: str) -> JobRecord:
        return self._update(job_id, "jobs SET phase = ?", encodable(phase))

    def fail(self, job_id: str, error: str) -> JobRecord:
        """End a job that could not be sent: the provider certainly does not have it."""
        self._update(job_id, "jobs SET step = 'intent'", only=f"provider_id IS NULL AND {LIVE}")
        return self.end(job_id, JobStatus.FAILED, error)

    def end(self, job_id: str, status: JobStatus, error: str | None = None) -> JobRecord:
        """Set a final status; a job that has ended keeps its own."""
        change = "jobs SET status = ?, error = ?, phase = '', finished_at = ?"
        return logged(self._update(job_id, change, status, clean(error), time.time(), only=LIVE))

    def apply(
        self, job_id: str, snapshot: Snapshot, cursor: str | None, resumes: int | None = None
    ) -> JobRecord:
        """Store the answer of a poll from ``cursor``, once: an answer to another cursor than the
        stored one is dropped, events are unique, the status never goes backwards, and what cannot
        be stored is left out. ``resumes``: of the job when it was polled; an answer about an
        earlier attempt is dropped."""
        snapshot = storable(snapshot)
        with self.transaction() as db:
            record = self.get(job_id)
            earlier = resumes is not None and resumes != record.resumes
            if record.cursor != cursor or record.status.final or record.removed or earlier:
                return record
            status = later(record.status, snapshot.status, requeued=snapshot.requeued)
            self._insert_reports(db, job_id, snapshot)
            ended = (snapshot.finished_at or time.time()) if status.final else None
            if snapshot.status is JobStatus.UNKNOWN:  # it may have ended with a word of its own
                ended = snapshot.finished_at
            db.execute(
                "UPDATE jobs SET status = ?, raw_status = ?, phase = ?, error = ?, cursor = ?,"
                " polled_at = ?, trained_tokens = coalesce(?, trained_tokens),"
                " seconds = coalesce(?, seconds), cost_usd = coalesce(?, cost_usd), progress = ?,"
                " place_in_line = ?, expected_start_at = ?, finished_at = ?, result = ?"
                " WHERE id = ?",
                (
                    status,
                    snapshot.raw_status,
                    snapshot.phase,
                    snapshot.error,
                    snapshot.cursor,
                    time.time(),
                    snapshot.trained_tokens,
                    snapshot.seconds,
                    *figures(snapshot, status),
                    ended,
                    self._result(snapshot.result),
                    job_id,
                ),
            )
        return logged(self.get(job_id), record)

    def set_handle(self, job_id: str, handle: dict[str, Any]) -> None:
        with self.transaction() as db:
            change = "UPDATE jobs SET handle = ? WHERE id = ? AND removed_at IS NULL"
            db.execute(change, (handle_text(handle, self.settings.stored_path), job_id))

    def note(self, job_id: str, what: str, message: str) -> None:
        """Add a note of ours to the events of a job; there is one for each ``what``."""
        event = Event(id=f"ftg-note-{what}", level="warn", message=clean(message))
        with self.transaction() as db:
            self._insert_reports(db, job_id, Snapshot(status=JobStatus.UNKNOWN, events=[event]))

    def has_note(self, job_id: str, what: str) -> bool:
        """Return True if a job has this note of ours."""
        where = (job_id, f"ftg-note-{what}")
        return bool(self.query("SELECT 1 FROM events WHERE job_id = ? AND event_id = ?", where))

    def _update(self, job_id: str, change: str, *values: Any, only: str = "TRUE") -> JobRecord:
        with self.transaction() as db:
            db.execute(f"UPDATE {change} WHERE id = ? AND {only}", (*values, job_id))
        return self.get(job_id)

    def _insert_reports(self, db: sqlite3.Connection, job_id: str, snapshot: Snapshot) -> None:
        events = [{"job_id": job_id, **event_row(event)} for event in snapshot.events]
        db.executemany(
            "INSERT OR IGNORE INTO events"
            " (job_id, event_id, created_at, level, type, message, data, more) VALUES"
            " (:job_id, :event_id, :created_at, :level, :type, :message, :data, :more)",
            events,
        )
        stored_path = self.settings.stored_path
        db.executemany(
            "INSERT OR REPLACE INTO checkpoints (job_id, id, step, model, metrics, more) VALUES"
            " (:job_id, :id, :step, :model, :metrics, :more)",
            [
                {"job_id": job_id, **checkpoint_row(one, stored_path)}
                for one in snapshot.checkpoints
            ],
        )

    def _result(self, result: Result | None) -> str | None:
        if result is None:
            return None
        model = self.settings.stored_path(result.model)
        return result.model_copy(update={"model": model}).model_dump_json()

    def record_of(self, row: sqlite3.Row) -> JobRecord:
        """Return the job in a row."""
        return record_of(row, self.settings.real_path)

    # -- reports -------------------------------------------------------------------------

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        rows = self.query("SELECT * FROM checkpoints WHERE job_id = ? ORDER BY step", (job_id,))
        return [checkpoint_of(row, self.settings.real_path) for row in rows]

    # -- the database --------------------------------------------------------------------

    def lock(self, job_id: str) -> AbstractContextManager[bool]:
        """Return the lock of a job: one process at a time takes it from intent to sent."""
        self.settings.require_writable()
        return files.try_locking(self._lock_file(job_id))

    def is_being_sent(self, job_id: str) -> bool:
        """Return True if a living process is sending this job."""
        return files.is_locked(self._lock_file(job_id))

    def drop_lock(self, job_id: str) -> None:
        """Remove the lock file of an intent that was never committed."""
        self._lock_file(job_id).unlink(missing_ok=True)

    def _lock_file(self, job_id: str) -> Path:
        return self.settings.locks / f"{job_id}.submit"

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> Rows:
        # A name on the command line may be bytes that are no text.
        values = tuple(encodable(one) if isinstance(one, str) else one for one in values)
        with in_words(self.settings.database, schema.advice):
            self._require_same_file()
            with self._connections.lent() as db:
                return rows_of(db, sql, values)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit everything or nothing, one thread at a time."""
        self.settings.require_writable()
        with in_words(self.settings.database, schema.advice):
            self._require_same_file()
            with self._connections.transaction() as db:
                yield db

    def close(self) -> None:
        """Close the connections that no thread uses."""
        self._connections.close()

    def end_use(self) -> None:
        """Close the connections: nothing is read or written by this object again. Raises SpecError,
        as every call does from then on, in threads that are at it."""
        self._ended = True
        self._connections.end()

    def _require_same_file(self) -> None:
        """Raise SpecError once this is closed, StoreError for another file than that of before."""
        if self._ended:
            raise closed()
        if not self.read_only and self._file not in (None, self._identity()):
            raise StoreError(
                f"The store {self.settings.database} was deleted or replaced while it was in use.",
                hint="Put it back, or start again with the one that is there now. Until then "
                "nothing is sent.",
            )

    def _connect(self) -> Connection:
        if self.read_only:
            return schema.connect_read_only(self.settings.database)
        db = schema.connect(self.settings.database)
        if self._file is None:
            self._file = self._identity()
            copied_home.look(self.settings, db)
        return db

    def _state(self) -> tuple[int, ...]:
        """Return what has to be the same for a connection to be used again: of a file that cannot
        be written its content too, for SQLite takes for granted that it does not change."""
        if not self.read_only:
            return self._file or ()
        found = os.stat(self.settings.database)
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)

    def _identity(self) -> tuple[int, int]:
        """Return which file it is, by device and inode: SQLite goes on with a deleted one."""
        try:
            found = os.stat(self.settings.database)
        except FileNotFoundError:
            return (0, 0)
        return (found.st_dev, found.st_ino)
