"""Threads that make calls for an event loop: at most so many, and none while nothing is to be done.

Unlike those of ``ThreadPoolExecutor`` they end when they are idle, and a process that exits waits
only for calls that may be buying a job.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from finetune_gateway.errors import BackendError
from finetune_gateway.settings.client_options import closed
from finetune_gateway.settings.deadlines import THREAD

T = TypeVar("T")

# After which a thread without a call ends. Not sooner: who starts one waits until it runs, and on a
# busy machine that held up a loop for more than 50 ms.
IDLE_SECONDS = 10.0
TICK_SECONDS = 0.05  # between two looks at whether the process exits


class Threads:
    """At most ``most`` threads. ``kept``: a process that exits lets their calls end."""

    def __init__(self, most: int, *, kept: bool = False) -> None:
        self.most = most
        self.kept = kept
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running: set[Future[Any]] = set()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def begin(self, function: Callable[[], T]) -> Future[T]:
        """Call a function in a thread, as soon as one is free; in the context of who asks for it.
        Raises SpecError once this is closed."""
        future: Future[T] = Future()
        if self._process != os.getpid():  # a fork has none of these threads
            self._begin_anew()
        with self._changed:
            if self._closed:
                raise closed()
            self._calls.append((future, partial(copy_context().run, function)))
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif self._threads < self.most:
                self._threads += 1
                threading.Thread(target=self._work, name=THREAD, daemon=not self.kept).start()
        return future

    def end(self) -> set[Future[Any]]:
        """Begin no other call, and return those that are running. Who waits for one that has not
        begun gets the error of all that is closed: a CancelledError would end its task as if it
        had been cancelled itself."""
        if self._process != os.getpid():
            self._begin_anew()
        with self._changed:
            self._closed = True
            for future, _ in self._calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(closed())
            self._calls.clear()
            self._changed.notify_all()
            return {*self._running}

    def _work(self) -> None:
        while (begun := self._next()) is not None:
            future, function = begun
            try:
                value = function()
            except StopIteration as exc:  # no task can get one: it would wait for ever
                future.set_exception(_as_in_coroutines(exc))
            except (KeyboardInterrupt, SystemExit) as exc:  # no Ctrl-C: that is the main thread's
                future.set_exception(in_words(exc))
            except BaseException as exc:  # raised in the task that waits
                future.set_exception(exc)
            else:
                future.set_result(value)
            del begun, function, future  # and what they hold, while this is idle

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Return the next call, or None if there is none for a while."""
        with self._changed:
            self._idle += 1
            end = time.monotonic() + IDLE_SECONDS
            while self._may_wait() and time.monotonic() < end:
                self._changed.wait(TICK_SECONDS)
            self._idle -= 1
            while self._calls:
                future, function = self._calls.popleft()
                if future.set_running_or_notify_cancel():
                    self._running.add(future)
                    future.add_done_callback(self._running.discard)
                    return future, function
            self._threads -= 1
            return None

    def _may_wait(self) -> bool:
        """Return False if there is a call, or there can be none: an exit waits for idle ones."""
        return not (self._calls or self._closed) and threading.main_thread().is_alive()


def in_words(exc: BaseException) -> BackendError:
    """Return our error for what would end a loop with all its tasks."""
    error = BackendError(
        f"A plug-in or a callback has raised {type(exc).__name__} in a thread beside the loop.",
        hint="Report it to its author. The loop and its other tasks go on.",
    )
    error.__cause__ = exc
    return error


def _as_in_coroutines(exc: StopIteration) -> RuntimeError:
    """Return what Python makes of a StopIteration that comes out of a coroutine."""
    error = RuntimeError("a call has raised StopIteration")
    error.__cause__ = exc
    return error
