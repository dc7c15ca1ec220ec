"""stdout and stderr in the cases a terminal makes difficult."""

from __future__ import annotations

import errno
import os
import sys


def discard_stdout() -> None:
    """Write into nothing from now on: the reader is gone, as in ``ftg list | head -1``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_missing() -> None:
    """Let a closed stdin, stdout or stderr (``ftg list >&-``) be empty: else the next file that is
    opened, such as the store, would take its number and get what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            stream = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, stream)


def escape_unprintable() -> None:
    """Escape characters that the terminal cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def os_error_text(exc: OSError) -> str:
    """Return ``/data/x.jsonl: Permission denied.``, without the number and the brackets."""
    reason = f"{exc.strerror or exc}."
    if isinstance(exc.filename, str | bytes):
        return f"{os.fsdecode(exc.filename)}: {reason}"
    # Files of the command are named; what has no name is stdout.
    return f"The result cannot be written: {reason}" if exc.errno == errno.ENOSPC else reason
