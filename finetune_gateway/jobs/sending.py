"""The lock of a job while it is sent: one thread of one process at a time takes it to its host.

A call of ``start`` that was cut off may still buy the job. Until it returns the lock is held, so
that nobody sends the job again, and what it returns late is stored.

A process sends a few jobs at once, whatever the number of its threads: each has a connection, the
lock of its job and maybe that of an upload, and a process has few descriptors.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from weakref import WeakSet, ref

from finetune_gateway.backend import seam
from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.text import logs

MOST_AT_ONCE = 8  # jobs that a process sends at the same time
PATIENCE_SECONDS = 2.0  # without one that has been sent, after which the next begins all the same

_held: ContextVar[ref[threading.Event] | None] = ContextVar("the turn of a sender", default=None)


class SendingLimit:
    """Lets the threads of a process send in the order in which they came, a few at once.

    It saves descriptors and blocks nobody for good: while nothing is sent, because a host hangs or
    what is sent waits for a thread that waits here, one more begins every PATIENCE_SECONDS.

    A turn is an event that the frame of its sender keeps alive, and nothing else: wherever Ctrl-C
    takes a thread out of here, it leaves no turn behind.
    """

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew: the threads that send are those of another process."""
        self._lock = threading.Lock()
        self._begun: WeakSet[threading.Event] = WeakSet()
        self._waiting: deque[threading.Event] = deque()
        self._changed_at = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for our turn. What is submitted by a call that is sending a job has its turn."""
        held = _held.get()
        if held is not None and held() is not None:
            yield
            return
        mine = threading.Event()
        try:
            self._wait(mine)
            _held.set(ref(mine))
            yield
        finally:
            _held.set(None)
            self._leave(mine)

    def _wait(self, mine: threading.Event) -> None:
        with self._lock:
            self._waiting.append(mine)
            self._let_in()
        while not mine.wait(PATIENCE_SECONDS):
            with self._lock:
                if time.monotonic() - self._changed_at >= PATIENCE_SECONDS:
                    self._let_in(beyond=1)

    def _leave(self, mine: threading.Event) -> None:
        with self._lock:
            self._begun.discard(mine)
            if mine in self._waiting:  # Ctrl-C
                self._waiting.remove(mine)
            self._let_in()

    def _let_in(self, beyond: int = 0) -> None:
        """Let those begin for which there is room; the caller holds the lock."""
        while self._waiting and (len(self._begun) < MOST_AT_ONCE or beyond > 0):
            beyond -= 1
            following = self._waiting[0]
            self._begun.add(following)
            following.set()
            self._waiting.popleft()  # last: with Ctrl-C before, it would wait for ever
            self._changed_at = time.monotonic()


_limit = SendingLimit()


@contextmanager
def locked(store: Store, job_id: str) -> Iterator[bool]:
    """Hold the lock of a job while it is sent; True if it is ours. What aborts that (Ctrl-C, a
    bug) says which job it was and what becomes of it."""
    with _limit.turn(), ExitStack() as held:
        mine = held.enter_context(store.lock(job_id))
        try:
            yield mine
        except GatewayError:  # says it in its own words
            raise
        except BaseException as exc:
            exc.add_note(_what_becomes_of(store, job_id))
            raise
        finally:
            if mine and (call := seam.running_call("start", job_id)):
                call.add_done_callback(partial(_end_late, store, job_id, held.pop_all()))


def _end_late(store: Store, job_id: str, held: ExitStack, call: Future[str]) -> None:
    """Store what came of a create that nobody waited for, and let go of its job. What it has sent
    in its last moment may take effect for as long as any create."""
    with held:
        try:
            if call.exception() is None:
                store.set_sent(job_id, call.result())
            else:
                store.begin_step_again(job_id)
        except GatewayError as exc:
            logs.jobs.warning("%s: its late answer was not stored: %s", job_id, exc.message)


def require_returned(record: JobRecord) -> None:
    """Raise BackendError if a call of ``start`` in this process may still create the job."""
    if seam.running_call("start", record.id):
        raise BackendError(
            f"start() of backend {record.backend!r} has not returned yet: it may still create "
            f"{record.id}, which is not sent again.",
            hint="Wait for it, or end this process: then the job can be looked for, and cancelled.",
            backend=record.backend,
            maybe_applied=True,
            retryable=True,
        )


def _what_becomes_of(store: Store, job_id: str) -> str:
    """Return what an abort leaves of a job, in words."""
    try:
        record = store.get(job_id)
    except GatewayError:
        return "Nothing was sent."
    if record.status.final:
        return f"{job_id} has ended: nothing was sent."
    created = f"{record.display_name} has {job_id} as {record.provider_id}. ftg watch {job_id}"
    return record.outlook or f"{created} follows it, ftg cancel {job_id} ends it."
