"""stdout and stderr in the cases a terminal makes difficult."""

from __future__ import annotations

import os
import sys


def discard_stdout() -> None:
    """Write into nothing from now on: the reader is gone, as in ``ftg list | head -1``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escape_unprintable() -> None:
    """Escape characters that the terminal cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
