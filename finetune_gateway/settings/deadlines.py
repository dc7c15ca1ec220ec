"""When a wait ends: after so many seconds, or as soon as its caller says so.

What may hang, a request to a host or a call of a plug-in, is made in a thread beside the wait,
which ends in time whatever becomes of it. The thread goes on: a create that is on its way is not
cut off, and what comes of it is stored.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from contextvars import ContextVar, copy_context
from numbers import Real
from typing import Protocol, TypeVar

from finetune_gateway.errors import SpecError, shown

T = TypeVar("T")

FIRST_SECONDS = 1.0  # that the first call of a wait may take, however short its timeout
LAST_SECONDS = 0.5  # that each other may take, the one at the end of the time too
THREAD = "finetune-gateway"  # the name of a thread beside a wait
LONGEST = 1e15  # seconds, thirty million years: a wait for longer has no end
TICK_SECONDS = 0.1  # between two looks at a stop token

_end_of_reads: ContextVar[float] = ContextVar("end_of_reads", default=math.inf)


class Stop(Protocol):
    """What ends a wait once it is set: a ``threading.Event``, or anything with these two."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None, /) -> object: ...


class DeadlinePassed(Exception):
    """A call has not ended before the end of the wait for it."""


class Call(Future[T]):
    """A call in a thread of its own, which a fork of the process does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()


class Deadline:
    """The end of one wait.

    ``timeout``: seconds from now; None, or infinity, for no end. ``stop``: ends it once it is set.
    Raises SpecError for any other timeout and for what is no such token.
    """

    def __init__(self, timeout: float | None = None, stop: Stop | None = None) -> None:
        self.timeout = checked_timeout(timeout)
        self.stop = checked_stop(stop)
        self._began = time.monotonic()
        self.end = math.inf if self.timeout is None else self._began + self.timeout

    @property
    def bounded(self) -> bool:
        """True if this wait may end before what it waits for."""
        return self.stop is not None or self.timeout is not None

    @property
    def stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    @property
    def over(self) -> bool:
        return self.stopped or time.monotonic() >= self.end

    @property
    def how(self) -> str:
        """Return ``after 2 s`` or ``when the wait was stopped``."""
        if self.stopped or self.timeout is None:
            return "when the wait was stopped"
        return f"after {self.timeout:g} s"

    def sleep(self, seconds: float) -> None:
        """Sleep so long, or until the end of the wait."""
        wake = min(time.monotonic() + seconds, self.end)
        while (left := wake - time.monotonic()) > 0 and not self.stopped:
            if self.stop is None:
                time.sleep(left)
            else:  # woken at once by an event; a token that does not wake is looked at
                self.stop.wait(min(left, 5 * TICK_SECONDS))

    def begin(self, function: Callable[[], T]) -> Call[T]:
        """Call a function in a thread, and return what ``join`` waits for. What it reads from hosts
        ends with this wait."""
        future: Call[T] = Call()
        context = copy_context()
        context.run(_end_of_reads.set, self.end_of_call())

        def call() -> None:
            try:
                future.set_result(function())
            except BaseException as exc:  # raised in the thread that asks for the result
                future.set_exception(exc)

        threading.Thread(target=context.run, args=(call,), name=THREAD, daemon=True).start()
        return future

    def join(self, future: Future[T]) -> None:
        """Block until a call has ended, in whatever way. Raises DeadlinePassed if this wait ends
        before that."""
        end = self.end_of_call()
        longest = threading.TIMEOUT_MAX if self.stop is None else TICK_SECONDS
        while not future.done():
            left = end - time.monotonic()
            if left <= 0 or self.stopped:
                raise DeadlinePassed
            wait_for_futures([future], min(left, longest))

    def end_of_call(self) -> float:
        """Return until when a call that begins now is waited for."""
        return max(self.end, self._began + FIRST_SECONDS, time.monotonic() + LAST_SECONDS)


def end_of_reads() -> float:
    """Return the moment, by ``time.monotonic``, after which nobody waits for what this thread reads
    from a host; infinity if there is no such moment."""
    return _end_of_reads.get()


def checked_timeout(timeout: object) -> float | None:
    """Return the seconds to wait, None for no end. Raises SpecError for what is no time."""
    number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if timeout is None or (number and timeout > LONGEST):  # type: ignore[operator]
        return None
    if not number or not timeout >= 0:  # type: ignore[operator]  # False for nan
        raise SpecError(
            f"timeout cannot be {shown(timeout)}.",
            hint="Give seconds as a number of at least 0, or None to wait without an end.",
        )
    return float(timeout)  # type: ignore[arg-type]


def checked_stop(stop: Stop | None) -> Stop | None:
    """Return a stop token. Raises SpecError for what is none."""
    if stop is None:
        return None
    methods = [getattr(stop, name, None) for name in ("is_set", "wait")]
    if not all(map(callable, methods)) or any(map(inspect.iscoroutinefunction, methods)):
        raise SpecError(
            f"stop cannot be {shown(stop)}.",
            hint="Give a threading.Event(), or anything else with is_set() and wait(seconds).",
        )
    return stop
