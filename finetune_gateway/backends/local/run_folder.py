"""What is wrong with the folder of a run, in words. Imports nothing heavy: the dispatcher needs it.

A folder that is gone, no folder, or that cannot be written ends its run, which says so. A disk that
is full, or a process with too many files open, does not: that passes.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from finetune_gateway.settings import files, processes

RUN_FILE = "run.json"  # what to train; written last: with it a run folder is complete
LOG, LOCK = "worker.log", "worker.lock"
LASTING = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES)
    + (errno.EPERM, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.ESTALE)
)
PUT_BACK = "Put it back and let it go on: ftg resume. Or submit it again: that makes a new job."
FREE_IT = "Change that and let it go on: ftg resume. Or submit it again: that makes a new job."


def identity(folder: Path) -> tuple[int, int] | None:
    """Return which folder lies there, by device and inode; None if there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def missing(folder: Path) -> str:
    """Return why there is no folder of a run, and what to do; an empty string if there is one."""
    if folder.is_dir():
        return ""
    if folder.is_symlink():
        target = os.readlink(folder)
        return f"Its run folder {folder} is a link to {target}, where no folder is. {PUT_BACK}"
    if folder.exists():
        return f"Its run folder {folder} is no folder any more, but a file. {PUT_BACK}"
    return f"Its run folder {folder} is gone: it was deleted, or moved. {PUT_BACK}"


def has_worker(folder: Path, pid: int | None = None, start: str | None = None) -> bool:
    """Return True if a living process holds the lock of a run's worker, or is the one with this
    number and ``start``: the file of its lock may have been removed. In a folder that cannot be
    used there is none: it ends so, by the dispatcher."""
    try:
        if files.is_locked(folder / LOCK):
            return True
    except OSError:
        return False
    return folder.is_dir() and processes.lives(pid, start)


def require_usable(folder: Path) -> None:
    """Raise OSError for a folder that no worker can begin in."""
    os.stat(folder / RUN_FILE)
    os.close(files.open_private(folder / LOG, os.O_WRONLY | os.O_APPEND))


def fault(folder: Path, exc: OSError) -> str:
    """Return what this error says of a run's folder, and what to do; an empty string for one that
    may pass."""
    if gone := missing(folder):
        return gone
    if exc.errno not in LASTING:
        return ""
    path = Path(os.fsdecode(exc.filename)) if exc.filename else folder
    if exc.errno == errno.ENOENT and path.name == RUN_FILE:
        return f"Its run folder {folder} has lost {RUN_FILE}, which says what to train. {PUT_BACK}"
    return f"Its run folder cannot be used: {path}: {exc.strerror}. {FREE_IT}"
