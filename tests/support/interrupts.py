"""Ctrl-C, as a terminal has it."""

from __future__ import annotations

import signal
import threading


def press_ctrl_c() -> None:
    """Send this process a SIGINT, which ends what its main thread waits for."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
