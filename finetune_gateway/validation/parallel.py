"""One function for several parts, each in a process of its own.

Forked where that is safe (Linux, one thread); elsewhere a fresh interpreter that gets its task
through a pipe: ``multiprocessing`` would run the caller's script again there.
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

Part = TypeVar("Part")
Done = TypeVar("Done")

_CHILD = f"from {__name__} import serve; serve()"


class WorkerDied(RuntimeError):
    """A process ended without an answer: out of memory, or killed."""


class _Worker(Protocol):
    def answer(self) -> Any: ...

    def end(self) -> None: ...


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def each(
    work: Callable[[Part], Done],
    parts: Sequence[Part],
    here: Callable[[Part], Done] | None = None,
) -> Generator[Done]:
    """``work`` for each part, in order: the first here, by ``here`` if given, the others in
    processes that end with this call, however it ends.

    Raises what ``work`` raises, WorkerDied when a process dies. ``work`` and what it gives can
    be pickled.
    """
    workers: list[_Worker] = []
    try:
        for part in parts[1:]:
            workers.append(_Forked(work, part) if _can_fork() else _Fresh(work, part))
        yield (here or work)(parts[0])
        for worker in workers:
            yield worker.answer()
    finally:
        for worker in workers:
            worker.end()


def _can_fork() -> bool:
    """Whether no other thread could hold a lock that the copy would wait for."""
    if threading.active_count() > 1:
        return False
    # Threads that Python does not know; one that was joined a moment ago may still be listed.
    for _ in range(5):
        if _threads() == 1:
            return True
        time.sleep(0.002)
    return False


def _threads() -> int:
    """Threads of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


class _Forked:
    """A copy of this process."""

    def __init__(self, work: Callable[[Any], Any], part: Any) -> None:
        end, start = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(end)
            _child(start, work, part)
        os.close(start)
        self._pipe: IO[bytes] = os.fdopen(end, "rb")

    def answer(self) -> Any:
        return _answer(self._pipe)

    def end(self) -> None:
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _child(pipe: int, work: Callable[[Any], Any], part: Any) -> None:
    """Answer and leave at once: what the parent would do at its end is not ours to do."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
        with os.fdopen(pipe, "wb") as answer:
            _tell(answer, work, part)
        status = 0
    finally:
        os._exit(status)


class _Fresh:
    """A new interpreter."""

    def __init__(self, work: Callable[[Any], Any], part: Any) -> None:
        task = pickle.dumps((work, part))  # first: what cannot be pickled starts no process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None  # for the type checker: it is a pipe
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pickle.dump((sys.path, task), pipe)

    def answer(self) -> Any:
        assert self._process.stdout is not None  # as above
        return _answer(self._process.stdout)

    def end(self) -> None:
        self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


def serve() -> None:
    """What a fresh interpreter does: the task from stdin, the answer to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:], task = pickle.load(sys.stdin.buffer)  # the path first: it finds the rest
    _tell(sys.stdout.buffer, *pickle.loads(task))


def _tell(pipe: IO[bytes], work: Callable[[Any], Any], part: Any) -> None:
    try:
        said: tuple[bool, Any] = (True, work(part))
    except Exception as exc:  # given on to the caller, which raises it
        said = (False, exc)
    pickle.dump(said, pipe)


def _answer(pipe: IO[bytes]) -> Any:
    try:
        done, value = pickle.load(pipe)
    except EOFError:
        raise WorkerDied("A process that checked a part of the file ended early.") from None
    if done:
        return value
    raise value
