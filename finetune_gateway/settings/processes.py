"""Processes by more than their number, which the kernel gives to another once one has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# What ends a process from outside: Ctrl-C, a shutdown, a logout, a container that stops.
OUTSIDE = [one for one in signal.Signals if one.name in ("SIGINT", "SIGTERM", "SIGHUP")]
ENDED = ("Z", "X")  # states of one that has ended, and whose parent has not asked for its end


@cache
def boot() -> str:
    """Return what names this run of the machine, or of the container: there the first process
    starts anew. Empty where it has no such name."""
    name = ""
    with suppress(OSError, ValueError, IndexError):
        name = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        name = f"{name}/{_fields(1)[19].decode()}"  # where others' processes can be seen
    return name


def is_of_earlier_boot(start: str | None) -> bool:
    """Return True if a process, which had this ``start``, cannot have ended but with its machine or
    container."""
    name, _, ticks = (start or "").partition(" ")
    # An earlier version has stored another form, which says nothing.
    return bool(ticks) and name.count("/") == boot().count("/") and name != boot()


def _fields(pid: int) -> list[bytes]:
    """Return what proc_pid_stat(5) has of a process behind its name in brackets, which may have any
    characters: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def start_of(pid: int) -> str | None:
    """Return when a process has started, and in which run of the machine: no other with its number
    has the same. None if there is none, or if it has ended."""
    try:
        fields = _fields(pid)  # the time is field 22, in ticks since the machine has started
        return None if fields[0].decode() in ENDED else f"{boot()} {fields[19].decode()}"
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _start_elsewhere(pid)


def lives(pid: int | None, start: str | None) -> bool:
    """Return True if the process that had this number and this ``start`` has not ended."""
    return pid is not None and start is not None and start_of(pid) == start


def _start_elsewhere(pid: int) -> str | None:
    """Return the same on a machine without /proc."""
    import psutil  # where it is not needed, the dispatcher of the queue does without its 8 MB

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True)
class Used:
    """What a process has used since it started: seconds of CPU, and bytes read and written."""

    seconds: float
    bytes: int


def used(pid: int) -> Used | None:
    """Return what a process has used; None where that cannot be known."""
    try:
        fields = _fields(pid)  # times in user and in system mode: 14 and 15, in ticks
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
        counts = {name: int(count) for name, _, count in (one.partition(": ") for one in lines)}
        # By calls, and by the disk: a file that is mapped into memory shows there alone.
        calls = counts.get("rchar", 0) + counts.get("wchar", 0)
        return Used(seconds, max(calls, counts.get("read_bytes", 0) + counts.get("write_bytes", 0)))
    except (OSError, ValueError, IndexError):
        return None if Path("/proc/self").exists() else _used_elsewhere(pid)


def _used_elsewhere(pid: int) -> Used | None:
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return Used(times.user + times.system, 0)


def is_stopped(pid: int, start: str | None) -> bool:
    """Return True for a process, the one with this ``start``, that is stopped (SIGSTOP)."""
    if start is None or start_of(pid) != start:
        return False
    try:
        return _fields(pid)[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False if Path("/proc/self").exists() else _is_stopped_elsewhere(pid)


def _is_stopped_elsewhere(pid: int) -> bool:
    import psutil

    try:
        stopped: bool = psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
    return stopped


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


# -- signals from outside --------------------------------------------------------------------


@contextmanager
def holding_signals() -> Iterator[None]:
    """Let a process that is started here get signals from outside only once it says so by
    ``take_signals``: none comes before it can answer it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OUTSIDE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signals(numbers: Iterable[signal.Signals]) -> int:
    """Take these signals from now on, and ignore Ctrl-C. Return a descriptor that has a byte, the
    number, for each: at once, whatever the main thread is doing."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUTSIDE)
    return reading
