"""Connections to SQLite files: a few for all threads of a process, and none across a fork.

A fork has the memory in which SQLite keeps which locks its process holds, and none of these locks.
If it goes on with a connection of its parent, or opens one beside it, commits are lost
(https://sqlite.org/howtocorrupt.html, 2.6). So all are closed before a process is forked.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_gateway.errors import StoreError

# Connections of a store, each of two descriptors. More would cost more for good: SQLite keeps the
# descriptor of a closed one while another has a lock (https://sqlite.org/src/file/src/os_unix.c).
MOST = 4
PATIENCE_SECONDS = 1.0  # that a thread waits for one of these
BUSY_SECONDS = 30.0  # that a transaction waits for those of other threads
FORK_SECONDS = 5.0  # that a fork waits for the statements and transactions of other threads


class Connection(sqlite3.Connection):
    """A connection, and the thread that has it now; None if it is idle."""

    lent_to: int | None = None
    path = ""


class Rows(list[sqlite3.Row]):
    """All rows of a query."""

    def fetchone(self) -> Any:
        """Return the first one; None if there is none."""
        return self[0] if self else None

    def fetchall(self) -> list[sqlite3.Row]:
        """Return them."""
        return self


_gate = threading.Condition()
_forks = 0  # threads that are forking this process
_open: weakref.WeakSet[Connection] = weakref.WeakSet()
_opening: dict[int, Connections] = {}  # by the thread that opens one now
_writers: dict[str, threading.RLock] = {}  # by the path of the file
_kept: list[Connection] = []  # of the parent, used by a thread at the fork: never closed here
_used: set[str] = set()  # the paths of these


class Connections:
    """Lends connections to one file, each to one thread at a time.

    ``connect``: makes one. ``state``: returns what must not have changed for one to be used again.
    """

    def __init__(
        self, path: str, connect: Callable[[], Connection], state: Callable[[], Hashable]
    ) -> None:
        self.path = path
        self._connect = connect
        self._state = state
        self._local = threading.local()
        self._idle: list[tuple[Hashable, Connection]] = []
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._ended = False

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """Lend a connection to this thread; inside of another such block the same one. Raises
        StoreError in a fork of a process that was using this file in that moment."""
        held: Connection | None = getattr(self._local, "db", None)
        if held is not None and held not in _kept:
            yield held
            return
        state, db = self._take()
        try:
            self._local.db = db
            yield db
        finally:
            self._local.db = None
            self._give_back(state, db)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection to the one thread that may write now, and commit everything or nothing.
        SQLite lets all threads try again and again, and of 32 some are never served."""
        with _gate:
            writer = _writers.setdefault(self.path, threading.RLock())
        mine = writer.acquire(timeout=BUSY_SECONDS)  # if not, SQLite says why it is busy
        try:
            with self.lent() as db:
                yield from _committed(db)
        finally:
            if mine:
                writer.release()

    def _take(self) -> tuple[Hashable, Connection]:
        state, me = self._state(), threading.get_ident()
        with _gate:
            while _forks and not any(one.lent_to == me for one in _open):
                _gate.wait()  # who has one of another store needs both to give it back
            if self.path in _used:
                raise _used_at_the_fork(self.path)
            while self._count() >= MOST and not self._idle:
                if not _gate.wait(PATIENCE_SECONDS):
                    break
            while self._idle:
                known, idle = self._idle.pop()
                if known == state and idle in _open:
                    idle.lent_to = me
                    return state, idle
            _opening[me] = self
        db: Connection | None = None
        try:
            db = self._connect()
            db.lent_to, db.path = me, self.path
            return state or self._state(), db
        finally:
            with _gate:
                del _opening[me]
                if db is not None:
                    _open.add(db)
                    self._all.add(db)
                _gate.notify_all()

    def _count(self) -> int:
        return sum(one in _open for one in self._all) + sum(
            one is self for one in _opening.values()
        )

    def _give_back(self, state: Hashable, db: Connection) -> None:
        if db in _kept:
            return
        with _gate:
            # Ctrl-C may have left a transaction behind, between two lines.
            if not (self._ended or db.in_transaction) and len(self._idle) < MOST:
                self._idle.append((state, db))
                db.lent_to = None
                _gate.notify_all()
                return
        _close(db)

    def close(self) -> None:
        """Close those that are idle."""
        with _gate:
            idle, self._idle = self._idle, []
            for _, db in idle:
                db.lent_to = threading.get_ident()
        for _, db in idle:
            _close(db)

    def end(self) -> None:
        """Close all; those that are in use, when they are given back."""
        self._ended = True
        self.close()


def _committed(db: Connection) -> Iterator[Connection]:
    """Yield a connection in a transaction."""
    if db.in_transaction:  # Ctrl-C has left one behind, between two lines
        db.execute("ROLLBACK")
    try:
        db.execute("BEGIN IMMEDIATE")  # takes the write lock at once
        yield db
        db.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled back already.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def in_words(path: Path, advice: Callable[[str], str]) -> Iterator[None]:
    """Turn SQLite's errors into ours; ``advice``: what to do about one."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as exc:
        raise StoreError(f"The store {path} cannot be used: {exc}.", hint=advice(str(exc))) from exc


def rows_of(db: sqlite3.Connection, sql: str, values: tuple[Any, ...] = ()) -> Rows:
    """Return all rows of a query. A text with bytes that are no UTF-8 is damage of its own row: it
    has lone surrogates in their place, which no text of ours has."""
    try:
        return Rows(db.execute(sql, values).fetchall())
    except sqlite3.OperationalError as exc:
        if "decode to UTF-8" not in str(exc):
            raise
    db.text_factory = _decoded
    try:
        return Rows(db.execute(sql, values).fetchall())
    finally:
        db.text_factory = str


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", errors="surrogateescape")


class NoJson(ValueError):
    """A column that has to have JSON and has none; its name is the text."""


def with_json(row: sqlite3.Row | dict[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return a row with the values that these columns have as JSON. Raises ValueError."""
    values = dict(row)
    for name in columns:
        try:
            values[name] = None if values[name] is None else json.loads(values[name])
        except (ValueError, TypeError, RecursionError):
            raise NoJson(name) from None
    return values


def _close(db: Connection) -> None:
    db.close()
    with _gate:
        _open.discard(db)
        _gate.notify_all()


def _used_at_the_fork(path: str) -> StoreError:
    return StoreError(
        f"The store {path} was in use by a thread when this process was forked.",
        hint="Fork before other threads use it, or start processes with the method spawn.",
    )


# -- forks -----------------------------------------------------------------------------------


def _before_fork() -> None:
    """Close all connections, once other threads have given them back."""
    global _forks
    me, end = threading.get_ident(), time.monotonic() + FORK_SECONDS
    with _gate:
        _forks += 1
        while any(one.lent_to not in (None, me) for one in _open) or {*_opening} - {me}:
            if not _gate.wait(max(0.0, end - time.monotonic())):
                break
        for one in [*_open]:
            if one.lent_to is None:
                one.close()
                _open.discard(one)


def _after_in_parent() -> None:
    global _forks
    with _gate:
        _forks -= 1
        _gate.notify_all()


def _after_in_child() -> None:
    global _gate, _forks
    _gate, _forks = threading.Condition(), 0  # a thread that is not here may hold the lock
    _writers.clear()
    _kept.extend(_open)
    _used.update(one.path for one in _open)
    _used.update(one.path for one in _opening.values())
    _open.clear()
    _opening.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_in_parent,
    after_in_child=_after_in_child,
)
