"""Runs a coroutine to its end, also where an event loop is running already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


LOOK_SECONDS = 0.1  # between two looks whether the task that waits was cancelled


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run this in an event loop of its own, and return what it does; where one is running already,
    as in a notebook, in a thread. Ctrl-C ends it in both."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    thread, waiting = _Thread(work), asyncio.current_task()
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            if waiting and waiting.cancelling():  # Ctrl-C, as asyncio.run tells of it
                thread.cancel()
    except BaseException:  # Ctrl-C, which Python raises here and not in the thread
        thread.cancel()
        thread.join()
        raise
    result: T = thread.result()
    return result


class _Thread(threading.Thread):
    """A thread with an event loop for one coroutine."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        super().__init__()
        self._work = work
        self._began = threading.Event()
        self._cancelled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._done: list[Any] = []
        self._failed: list[BaseException] = []

    def run(self) -> None:
        try:
            self._done.append(asyncio.run(self._main()))
        except BaseException as exc:
            self._failed.append(exc)

    async def _main(self) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._began.set()
        return await self._work

    def cancel(self) -> None:
        """Let the coroutine end as if it was cancelled."""
        self._began.wait()
        if self._loop and self._task and not self._cancelled:
            self._cancelled = True
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)

    def result(self) -> Any:
        """Return what the coroutine returned, or raise what it raised."""
        if self._failed:
            raise self._failed[0]
        return self._done[0]
