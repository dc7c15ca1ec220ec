"""Files for a while: rows that were not JSON lines, written as such while something reads them.

A file is removed with the last dataset that reads it, or when the process ends. What a killed
process has left is removed by the next one that writes to the spool.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

from finetune_gateway.settings import files

_DAY = 86_400.0
_guard = threading.Lock()
_own: dict[tuple[int, Path], Path] = {}  # the folder of a process in a spool
_numbers = itertools.count(1)


def new_folder(spool: Path) -> Path:
    """Return a new folder below the spool, in the folder of this process. Raises StoreError."""
    with _guard, files.storing("The rows cannot be written", spool):
        own = _own.get((os.getpid(), spool))
        if own is None or not own.is_dir():
            own = _own[os.getpid(), spool] = _open(spool)
        return files.folder(own / str(next(_numbers)))


def _open(spool: Path) -> Path:
    """Return a folder that is removed when this process ends."""
    for left in files.folder(spool).glob("*.jsonl"):  # earlier versions left them here
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink()
    folder, lock = files.open_private_folder(spool, spool, "rows")
    atexit.register(_close, folder, lock, os.getpid())
    return folder


def _close(folder: Path, lock: int, process: int) -> None:
    if os.getpid() == process:  # a fork has this call too, and the folder is not its own
        files.remove_private_folder(folder, folder.parent, lock)


def remove_with(reader: object, path: Path) -> None:
    """Remove a file of the spool, and its folder if that is empty then, with its reader."""
    weakref.finalize(reader, _remove, path, os.getpid())


def _remove(path: Path, process: int) -> None:
    with suppress(OSError):
        if os.getpid() == process:
            path.unlink()
            path.parent.rmdir()
