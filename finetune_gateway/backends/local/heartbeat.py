"""The heartbeat of the dispatcher of a home: one that hangs or is stopped holds up nobody for long.

It writes every few seconds that it is there. Whoever makes sure of it, a look or a worker, ends one
that has long not done so; its lock is free then, and another takes its place: never two.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.settings import files, processes

FILE = "dispatcher.beat"  # in the folder of locks
BEAT_SECONDS = 5.0
SILENT_SECONDS = 120.0  # a look waits for a busy store for 30 s, and for nvidia-smi for 5
STOPPED_SECONDS = 15.0  # of one that cannot answer, as it is stopped
END_SECONDS = 5.0  # from SIGKILL to the end


@dataclass(frozen=True)
class Beat:
    """The process of a dispatcher, and when it was there last (monotonic)."""

    pid: int
    at: float
    start: str

    @property
    def silence(self) -> float:
        """For how many seconds it has not been there, if that is long; else 0. The process of
        another container, or one that has ended, is not judged."""
        silent = time.monotonic() - self.at
        if processes.start_of(self.pid) != self.start:
            return 0.0
        stopped = processes.is_stopped(self.pid, self.start)
        return silent if silent >= (STOPPED_SECONDS if stopped else SILENT_SECONDS) else 0.0


def write(locks: Path) -> None:
    """Say that this process, the dispatcher, is there."""
    pid = os.getpid()
    text = f"{pid} {time.monotonic()} {processes.start_of(pid)}\n"
    with suppress(OSError):  # a full disk: the next one may be written
        descriptor = files.open_private(locks / FILE, os.O_WRONLY)
        try:
            os.pwrite(descriptor, text.encode(), 0)
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)


def read(locks: Path) -> Beat | None:
    """Return the last one; None without."""
    with suppress(OSError, ValueError):
        pid, at, start = (locks / FILE).read_text("ascii").rstrip("\n").split(" ", 2)
        return Beat(int(pid), float(at), start)
    return None


def end_silent(locks: Path) -> str:
    """End the dispatcher if it has long not been there; return what was done, empty for nothing."""
    beat = read(locks)
    silence = beat.silence if beat else 0.0
    if beat is None or not silence:
        return ""
    processes.send(beat.pid, beat.start, signal.SIGKILL)
    deadline = time.monotonic() + END_SECONDS
    while processes.start_of(beat.pid) == beat.start and time.monotonic() < deadline:
        time.sleep(0.01)
    return (
        f"The dispatcher before, process {beat.pid}, was silent for {silence:.0f} s: it was ended."
    )


def silence_text(locks: Path) -> str:
    """Return that the dispatcher does not answer, and could not be replaced; empty if it does."""
    beat = read(locks)
    silence = beat.silence if beat else 0.0
    if beat is None or not silence:
        return ""
    return f"the dispatcher, process {beat.pid}, does not answer for {silence:.0f} s"
