"""Limits that a process sets itself: what it runs for somebody else cannot take longer, or more."""

from __future__ import annotations

import signal


def end_after(seconds: float) -> None:
    """Let the system end this process (SIGPROF) after so many seconds of its own time, whatever
    it runs then, Python or not; 0: never. Does nothing where the system cannot, as on Windows."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_memory(most: int) -> None:
    """Let no more than so many bytes of address space be taken. Does nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
