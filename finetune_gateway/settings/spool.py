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
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from finetune_gateway.settings import files

_DAY = 86_400.0
_guard = threading.Lock()
# The folder of a process in a spool, and the lock that says that the process lives.
_own: dict[tuple[int, Path], tuple[Path, int]] = {}
_closers: dict[Path, Callable[[], None]] = {}  # called when the process ends
_numbers = itertools.count(1)


def new_folder(spool: Path) -> Path:
    """Return a new folder below the spool, in the folder of this process. Raises StoreError."""
    with _guard, files.storing("The rows cannot be written", spool):
        own, _ = _own.get((os.getpid(), spool), (None, 0))
        if own is None or not own.is_dir():
            _drop_removed()
            own, _ = _own[os.getpid(), spool] = _open(spool)
        return files.folder(own / str(next(_numbers)))


def _drop_removed() -> None:
    """Close the locks of folders that somebody has removed, with their homes."""
    for key, (folder, lock) in list(_own.items()):
        if key[0] == os.getpid() and not folder.is_dir():
            del _own[key]
            atexit.unregister(_closers.pop(folder))
            files.unlock(lock)


def _open(spool: Path) -> tuple[Path, int]:
    """Return a folder that is removed when this process ends, and its lock."""
    for left in files.folder(spool).glob("*.jsonl"):  # earlier versions left them here
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY:
                left.unlink()
    files.remove_left_folders(spool, spool, "rows")
    folder, lock = files.open_private_folder(spool, spool, "rows")
    _closers[folder] = atexit.register(partial(_close, folder, lock, os.getpid()))
    return folder, lock


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
