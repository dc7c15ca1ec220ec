"""stdout and stderr as the terminal can take them."""

from __future__ import annotations

import os
import sys


def silence() -> None:
    """The reader of our stdout is gone (``ftg list | head -1``): write into nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tolerate() -> None:
    """A character the terminal cannot show is escaped rather than a crash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
