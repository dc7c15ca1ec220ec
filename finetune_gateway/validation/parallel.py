"""Run one function for several parts, each in its own process.

The process is forked if that is safe (Linux, one thread), else a new interpreter that gets its
task through a pipe: ``multiprocessing`` would run the caller's script again.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import IO, Any, Protocol, TypeVar

from finetune_gateway.settings import interpreter

MAX_WORKERS = 4  # each takes about 60 MB

Part = TypeVar("Part")
Result = TypeVar("Result")


class WorkerDied(RuntimeError):
    """A process ended without a result: out of memory, or killed."""


class _Worker(Protocol):
    def result(self) -> Any: ...

    def end(self) -> None: ...


def count_processors() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_workers() -> int:
    """Return the number of processes that read one file."""
    return min(count_processors(), MAX_WORKERS)


def each(
    work: Callable[[Part], Result],
    parts: Sequence[Part],
    here: Callable[[Part], Result] | None = None,
) -> Generator[Result]:
    """Yield ``work(part)`` for each part, in order.

    The first runs in this process, with ``here`` if given; the others in processes that never
    outlive this call. ``work`` and its results must be picklable. Raises what ``work`` raises,
    and WorkerDied if a process dies.
    """
    workers: list[_Worker] = []
    try:
        for part in parts[1:]:
            workers.append(_Fork(work, part) if _can_fork() else _Interpreter(work, part))
        yield (here or work)(parts[0])
        for worker in workers:
            yield worker.result()
    finally:
        for worker in workers:
            worker.end()


def _can_fork() -> bool:
    """Return True if no other thread could hold a lock that the child would wait for."""
    if threading.active_count() > 1:
        return False
    # Threads started outside Python; one that was just joined may still be listed.
    for _ in range(5):
        if _count_threads() == 1:
            return True
        time.sleep(0.002)
    return False


def _count_threads() -> int:
    """Return the threads of this process; 0 if the system does not list them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


class _Fork:
    """A fork of this process."""

    def __init__(self, work: Callable[[Any], Any], part: Any) -> None:
        end, start = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(end)
            _child(start, work, part)
        os.close(start)
        self._pipe: IO[bytes] = os.fdopen(end, "rb")

    def result(self) -> Any:
        return _receive(self._pipe)

    def end(self) -> None:
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _child(pipe: int, work: Callable[[Any], Any], part: Any) -> None:
    """Send the result and exit at once, without the parent's exit handlers."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this one
        with os.fdopen(pipe, "wb") as stream:
            _send(stream, work, part)
        status = 0
    finally:
        os._exit(status)


class _Interpreter:
    """A new interpreter."""

    def __init__(self, work: Callable[[Any], Any], part: Any) -> None:
        task = pickle.dumps((work, part))  # before the process starts: it may fail
        self._process = subprocess.Popen(
            interpreter.call(__name__, "serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None  # for the type checker: it is a pipe
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(task)

    def result(self) -> Any:
        assert self._process.stdout is not None  # as above
        return _receive(self._process.stdout)

    def end(self) -> None:
        self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """Run in a new interpreter: read the task from stdin, write the result to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _send(sys.stdout.buffer, *pickle.load(sys.stdin.buffer))


def _send(pipe: IO[bytes], work: Callable[[Any], Any], part: Any) -> None:
    try:
        outcome: tuple[bool, Any] = (True, work(part))
    except Exception as exc:  # raised again in the parent
        outcome = (False, exc)
    pickle.dump(outcome, pipe)


def _receive(pipe: IO[bytes]) -> Any:
    try:
        succeeded, value = pickle.load(pipe)
    except EOFError:
        raise WorkerDied("A process that checked a part of the file ended early.") from None
    if succeeded:
        return value
    raise value
