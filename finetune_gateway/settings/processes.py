"""Processes by more than their number, which the kernel gives to another once one has ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path

ENDED = ("Z", "X")  # states of one that has ended, and whose parent has not asked for its end


@cache
def boot() -> str:
    """Return what names this run of the machine; empty where it has no such name."""
    with suppress(OSError, ValueError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def start_of(pid: int) -> str | None:
    """Return when a process has started, and in which run of the machine: no other with its number
    has the same. None if there is none, or if it has ended."""
    try:
        # Behind the name in brackets, which may have any characters: state, parent, ...; see
        # proc_pid_stat(5), where the time is field 22, in ticks since the machine has started.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0].decode() in ENDED else f"{boot()} {fields[19].decode()}"
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _start_elsewhere(pid)


def _start_elsewhere(pid: int) -> str | None:
    """Return the same on a machine without /proc."""
    import psutil  # where it is not needed, the dispatcher of the queue does without its 8 MB

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def send(pid: int, start: str | None, number: signal.Signals) -> bool:
    """Send a signal to the process that had this number and this ``start``; False if it is gone.

    Where the kernel has handles of processes (Linux), none can take its place in between.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):
        return _send_by_number(pid, start, number)
    try:
        if start is None or start_of(pid) != start:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def _send_by_number(pid: int, start: str | None, number: signal.Signals) -> bool:
    if start is None or start_of(pid) != start:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
