"""The dispatcher: one process of a home that starts the workers of local jobs, in their order.

It lives while a job waits or runs, and ends by itself; a waiting job has no process. Its lock in
the home says that it lives. Whoever submits or looks at a job, and each worker with its heartbeat,
starts it where it does not: nothing that it needs is only in its memory. It hands a worker two
locks: that of the run, which says that the worker lives, and that of a slot. Imports nothing heavy.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from finetune_gateway.backends.local import deaths, heartbeat, line, messages, run_folder
from finetune_gateway.backends.local.hangs import Watch
from finetune_gateway.backends.local.line import INTERRUPTED
from finetune_gateway.backends.local.slots import slots
from finetune_gateway.backends.local.spawning import (
    BY_USER,
    LOCK,
    REST_SECONDS,
    WORKER,
    clear_faults,
    log_to,
    note_shutdown,
    take_lock,
    worker_environment,
)
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs import schema
from finetune_gateway.settings import files, interpreter, processes
from finetune_gateway.settings.connections import rows_of

if TYPE_CHECKING:
    from finetune_gateway.backends.local.queue import Queue

LOOK_SECONDS = 0.5  # longest wait between two looks
GIVEN_SECONDS = 60.0  # within which a run comes whose environment was given
ASK_SECONDS = 30.0  # the slots of this machine are asked for again
ASK_AT_ONCE = 0.3  # within which they mostly are known
CANCEL_SECONDS = 60.0  # from a cancel or a pause to SIGKILL; the last checkpoint stays usable
LONGEST_PAUSE = 30.0  # before a worker that always dies at once is started again
FAULT_SECONDS = 5.0  # before the next look at a store that could not be used
SHUTDOWN = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Submit:
    """The command and the environment of the worker of a run, as its submit has given them."""

    command: list[str]
    environment: dict[str, str]
    at: float  # monotonic


class Dispatcher:
    """Looks at the runs that wait or run, starts workers, and sees to those that have ended."""

    def __init__(
        self, home: Path, database: Path, locks: Path, runs: Path, *, by_user: bool = True
    ) -> None:
        """``by_user``: it is started because somebody looks, not by a worker."""
        self.home, self.database, self.locks, self.runs = home, database, locks, runs
        self.db = schema.connect(database)
        self.file = self._identity()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}  # ours, by run
        self.watch = Watch()
        self.ended: dict[str, deaths.Ended] = {}  # those that have ended, by run
        self.submits: dict[str, Submit] = {}  # in which environments runs were submitted
        self.stopping: dict[str, float] = {}  # when they were first seen to be asked to stop
        # What a run had done when it was started last, and how often it was started with no more.
        self.starts: dict[str, tuple[tuple[int, int], int]] = {}
        self.not_before: dict[str, float] = {}  # when one that died at once is started again
        # Since when a run may be interrupted, by its worker; and when somebody looked.
        self.interrupted: dict[tuple[str, int], float] = {}
        self.looked_at = math.inf if by_user else -math.inf
        self._last_look = time.monotonic()
        self._found: list[sqlite3.Row] = []
        self._version = -1
        self._slots: list[str] = []
        self._slots_at = -ASK_SECONDS
        self._asking: Thread | None = None

    # -- one look ------------------------------------------------------------------------

    def look(self) -> bool:
        """Do what there is to do now; return False if no run waits or runs any more."""
        self._reap()
        rows = self._rows()
        waiting = [row for row in rows if not self._has_worker(row)]
        for row in waiting:
            self._note_death(row)
        self._start(waiting)
        self._last_look = time.monotonic()
        self.looked_at = min(self.looked_at, self._last_look)
        return bool(rows)

    def _rows(self) -> list[sqlite3.Row]:
        """Return the runs that wait or run, in order; a damaged one has to be restored first."""
        # It changes with each commit of another connection: most looks read nothing else.
        version = self.db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            query = f"SELECT * FROM runs WHERE {line.LIVE} {line.IN_LINE}"
            found = rows_of(self.db, query)
            self._found, self._version = [row for row in found if not line.defect(row)], version
            self._forget({row["id"] for row in self._found})
        return self._found

    def _forget(self, live: set[str]) -> None:
        """Forget the environments of runs that have ended. That of one to come is given first."""
        before = time.monotonic() - GIVEN_SECONDS
        old = {name for name, one in self.submits.items() if one.at < before} - live
        for name in old:
            del self.submits[name]
        for name in self.ended.keys() - live:
            del self.ended[name]
        self.watch.forget(live)

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take a message, which says that somebody looks; perhaps how the worker of a run is to be
        started."""
        self.looked_at = time.monotonic()
        run_id, command, given = (message.get(name) for name in ("run", "command", "environment"))
        if isinstance(run_id, str) and isinstance(command, list) and isinstance(given, dict):
            environment = {str(name): str(one) for name, one in given.items()}
            known = (one for one in self.submits.values() if one.environment == environment)
            same = next(known, None)  # most have the same, and it may have 100 kB
            environment = same.environment if same else environment
            self.submits[run_id] = Submit([*map(str, command)], environment, time.monotonic())
            self.not_before.pop(run_id, None)

    def has_runs(self) -> bool:
        """Return True if a run waits or runs."""
        return bool(self._rows())

    def _reap(self) -> None:
        """Forget the workers that have ended, but not how."""
        found = {name: deaths.end_of(one) for name, one in self.workers.items()}
        for run_id, end in found.items():
            if end is not None:
                del self.workers[run_id]
                self.ended[run_id] = end

    def _has_worker(self, row: sqlite3.Row) -> bool:
        """Return True if a worker of this run lives; kill one that was asked to stop long ago."""
        mine, started = row["id"] in self.workers, row["pid"] is not None
        process = self.runs / row["id"], row["pid"], row["pid_start"]
        if not mine and not (started and run_folder.has_worker(*process)):
            self.stopping.pop(row["id"], None)
            return False
        if row["cancel_at"] is not None or row["pause_at"] is not None:
            asked = self.stopping.setdefault(row["id"], time.monotonic())
            if row["pid"] is not None and time.monotonic() - asked >= CANCEL_SECONDS:
                processes.send(row["pid"], row["pid_start"], signal.SIGKILL)
        elif row["pid"] is not None and (reason := self.watch.look(row)):
            with self._transaction():
                hangs = self.watch.note(self.db, row, reason)
            self._version = -1
            if hangs:
                self.watch.end(row)
        return True

    def _note_death(self, row: sqlite3.Row) -> None:
        """Keep how the worker of a run has died, if it has: it has not left its row itself."""
        asked = row["cancel_at"] is not None or row["pause_at"] is not None
        if row["pid"] is None or asked or processes.is_of_earlier_boot(row["pid_start"]):
            return
        end, folder = self.ended.pop(row["id"], None), self.runs / row["id"]
        if end is not None and end.pid != row["pid"]:
            end = None
        found = deaths.find(folder, end.code if end else None, row["pid"])
        peak = max((end.peak_bytes if end else None) or 0, row["peak_bytes"] or 0)
        found = replace(found, phase=row["phase"], step=row["step"], peak_bytes=peak or None)
        decided = deaths.load(row["death"])
        if decided is not None and decided.fence == row["fence"]:
            found = replace(found, reason=decided.reason, fence=decided.fence)
        with self._transaction():
            # Of a row as it is now: it may have ended since it was read.
            noted = self.db.execute(
                "UPDATE runs SET death = ?, pid = NULL WHERE id = ? AND fence = ? AND pid = ?"
                f" AND {line.LIVE}",
                (found.dump(), row["id"], row["fence"], row["pid"]),
            ).rowcount
        self._version = -1
        if noted:
            text = f"finetune-gateway: the worker died {deaths.sentence(found)}\n"
            with suppress(OSError):  # of a full disk: the row has it
                files.append(folder / deaths.LOG, text.encode())

    # -- workers -------------------------------------------------------------------------

    def _start(self, waiting: list[sqlite3.Row]) -> None:
        """Start the workers whose turn it is, as far as there are free slots."""
        after = [one for row in waiting for one in json.loads(row["after"])]
        found = rows_of(self.db, line.STATUSES, (json.dumps(after),)) if after else ()
        statuses = {one["id"]: one["status"] for one in found}
        busy: set[str] = set()
        for row in waiting:
            if self._is_due(row, statuses):
                self._start_on_a_free_slot(row, busy)

    def _is_due(self, row: sqlite3.Row, statuses: Mapping[str, str]) -> bool:
        """Return True for a run that only has to have a slot; end one that can never begin."""
        after = json.loads(row["after"])
        asked = row["cancel_at"] is not None or row["pause_at"] is not None
        if asked or line.never_met(after, statuses) or line.has_often_died(row):
            return self.queue.needs_worker(row["id"])
        if line.unmet(after, statuses) or (row["start_at"] or 0.0) > time.time():
            return False
        if row["phase"] == INTERRUPTED and self._rests(row):
            return False
        return self.not_before.get(row["id"], 0.0) <= time.monotonic()

    def _rests(self, row: sqlite3.Row) -> bool:
        """Return True for a run that was interrupted a moment ago, unless somebody has looked
        since: started again in a shutdown, it would only be killed."""
        began = self.interrupted.setdefault((row["id"], row["fence"]), self._last_look)
        return self.looked_at <= began and time.monotonic() - began < REST_SECONDS

    def _start_on_a_free_slot(self, row: sqlite3.Row, busy: set[str]) -> None:
        own = json.loads(row["devices"]) if row["devices"] else self._all_slots()
        for name in [one for one in own if one not in busy]:
            slot = files.try_lock(self.locks / f"slot-{name}")
            if slot is None:
                busy.add(name)
                continue
            try:
                if self._start_worker(row["id"], name, slot):
                    busy.add(name)
                return
            finally:
                files.unlock(slot)

    def _start_worker(self, run_id: str, slot: str, slot_lock: int) -> bool:
        """Start the worker of a run that has none; False if it has one by now, or has ended."""
        try:
            run_folder.require_usable(self.runs / run_id)
            run_lock = files.try_lock(self.runs / run_id / run_folder.LOCK)
        except OSError as exc:
            self._fail(run_id, exc)
            return False
        if run_lock is None:
            return False
        try:
            fence = self._next_fence(run_id, slot)
            if fence is None:
                return False
            deaths.begin(self.runs / run_id)
            self.spawn(run_id, fence, run_lock, slot, slot_lock)
            self._note_pid(run_id, fence)
        except OSError as exc:
            self._fail(run_id, exc)
        finally:
            files.unlock(run_lock)
        return True

    def _fail(self, run_id: str, exc: OSError) -> None:
        """End a run whose folder cannot be used; look again later at what may pass."""
        if reason := run_folder.fault(self.runs / run_id, exc):
            return self.queue.fail(run_id, reason)
        print(f"{run_id} cannot be started now: {exc}", file=sys.stderr)
        self.not_before[run_id] = time.monotonic() + FAULT_SECONDS

    def _next_fence(self, run_id: str, slot: str) -> int | None:
        """Count a worker of a live run and return its number. The end of the one before it does not
        count if the machine, or the container, ended with it."""
        with self._transaction():
            query = f"SELECT * FROM runs WHERE slot = ? AND {line.LIVE}"
            found = rows_of(self.db, query, (slot,))
            if not line.without_taken([slot], found, self.runs, run_id):
                return None
            row = self.db.execute("SELECT pid_start FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row and processes.is_of_earlier_boot(row["pid_start"]):
                self.db.execute(line.TAKE_BACK, (run_id,))
            row = self.db.execute(
                "UPDATE runs SET fence = fence + 1, pid = NULL, pid_start = NULL, slot = ?,"
                " progress_at = NULL, step_seconds = NULL, peak_bytes = NULL, step = NULL"
                f" WHERE id = ? AND {line.LIVE} RETURNING fence, attempts, first_fence",
                (slot, run_id),
            ).fetchone()
        self._version = -1
        if row is None:
            return None
        # Each worker that dies before it trains lets the next one wait longer.
        done = row["attempts"], row["first_fence"]
        before, starts = self.starts.get(run_id, (None, 0))
        starts = starts + 1 if before == done else 0
        self.starts[run_id] = done, starts
        self.not_before[run_id] = time.monotonic() + min(LONGEST_PAUSE, 0.25 * (2.0**starts - 1))
        return int(row["fence"])

    def _note_pid(self, run_id: str, fence: int) -> None:
        """Store which process the worker is: it may be stopped before it says so itself."""
        worker = self.workers.get(run_id)
        start = processes.start_of(worker.pid) if worker else None
        if worker is not None and start is not None:
            with self._transaction():
                self.db.execute(
                    "UPDATE runs SET pid = ?, pid_start = ?, phase = 'starting'"
                    " WHERE id = ? AND fence = ?"
                    f" AND first_fence = ? AND pid IS NULL AND {line.LIVE}",  # it has not left
                    (worker.pid, start, run_id, fence, self.starts[run_id][0][1]),
                )

    def spawn(self, run_id: str, fence: int, run_lock: int, slot: str, slot_lock: int) -> None:
        """Start a worker, which holds both locks from its first moment."""
        folder = self.runs / run_id
        words = str(self.home), run_id, str(fence), str(run_lock), slot, str(slot_lock)
        path = folder / run_folder.LOG
        submit = self.submits.get(run_id)
        command = submit.command if submit else interpreter.module(WORKER)
        written = files.open_private(path, os.O_WRONLY | os.O_APPEND)
        with open(written, "ab") as log, processes.holding_signals():
            self.workers[run_id] = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(run_lock, slot_lock),
                env=worker_environment(submit.environment if submit else os.environ),
                cwd=folder,
                start_new_session=True,
            )

    def _all_slots(self) -> list[str]:
        """Return the slots as they were last known; none before that. A thread asks for them:
        nvidia-smi may hang, and nothing else is to stand still for that."""
        if time.monotonic() - self._slots_at >= ASK_SECONDS and self._asking is None:
            self._asking = asking = Thread(target=self._ask_for_slots, daemon=True)
            asking.start()
            asking.join(ASK_AT_ONCE)
        return self._slots

    def _ask_for_slots(self) -> None:
        try:
            self._slots, self._slots_at = slots(self._slots), time.monotonic()
        finally:
            self._asking = None

    # -- the store -----------------------------------------------------------------------

    @cached_property
    def queue(self) -> Queue:
        """What ends runs, in words. Imported here: it brings 20 MB, and few runs end so."""
        from finetune_gateway.backends.local.queue import Queue
        from finetune_gateway.settings.home import Settings

        return Queue(Settings(home=self.home))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def is_there(self) -> bool:
        """Return False once the home was moved or removed, or has another store."""
        return self.file is not None and self._identity() == self.file

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.database)
        except OSError:
            return None
        return found.st_dev, found.st_ino


# -- the process -----------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """Dispatch in a forked process until nothing is left; arguments: home, database, locks, runs,
    the descriptor of the lock, and who has started it. SIGTERM and SIGHUP end it: its workers,
    which get them too in a shutdown, do without."""
    *paths, lock, by = arguments
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    # Its workers inherit that Ctrl-C is ignored, from their first line.
    signals = processes.take_signals([*SHUTDOWN, signal.SIGCHLD])
    os.set_blocking(signals, False)
    files.adopt(int(lock))
    home, database, locks, runs = map(Path, paths)
    heartbeat.write(locks)
    dispatcher = Dispatcher(home, database, locks, runs, by_user=by == BY_USER)
    held: int | None = int(lock)
    while held is not None:
        if not dispatch(dispatcher, signals, held):
            note_shutdown(held)
            return
        removed = not files.is_in_place(held, locks / LOCK)
        files.unlock(held)
        # A run that was added just now has seen the lock, and started no other dispatcher. Where
        # that was removed, whoever takes the new one first is the only one from then on.
        again = dispatcher.is_there() and dispatcher.has_runs()
        held = take_lock(locks) if again else None
        if removed and held is not None:
            log_to(locks)


def dispatch(dispatcher: Dispatcher, signals: int, lock: int) -> bool:
    """Look again and again, until no run is left, or the home or the lock is gone; return False if
    it was shut down before. ``signals``: a descriptor with the numbers of those that came."""
    listener = messages.Listener(lock)
    awaited = [signals] if listener.socket is None else [signals, listener.socket.fileno()]
    faulty, beaten = False, -math.inf
    while dispatcher.is_there() and files.is_in_place(lock, dispatcher.locks / LOCK):
        pause = LOOK_SECONDS
        if time.monotonic() - beaten >= heartbeat.BEAT_SECONDS:
            beaten = time.monotonic()
            heartbeat.write(dispatcher.locks)
        try:
            if not dispatcher.look():
                return True
            if faulty:
                clear_faults()
            faulty = False
        except (GatewayError, sqlite3.Error, OSError):  # a full disk, a store that is busy
            traceback.print_exc()
            faulty, pause = True, FAULT_SECONDS
        ready = select.select(awaited, [], [], pause)[0]
        if signals in ready and not {*SHUTDOWN}.isdisjoint(os.read(signals, 4096)):
            return False
        for message in listener.messages():
            dispatcher.hear(message)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
