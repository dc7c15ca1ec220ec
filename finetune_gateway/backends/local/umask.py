"""Who may read what the process of a job writes: this user alone; of what is shared, as before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_gateway.settings.files import OTHERS

_users_umask: int | None = None  # of a process that make_process_private was called in


def make_process_private() -> None:
    """From now on what this process writes is for this user alone: for the process of a job, in
    which libraries write too."""
    global _users_umask
    _users_umask = os.umask(OTHERS)


@contextmanager
def by_the_users_umask() -> Iterator[None]:
    """Write by the umask of the user, as in any process of theirs: for the cache of the hub, which
    several users may share and which has no texts."""
    if _users_umask is None:
        yield
        return
    os.umask(_users_umask)
    try:
        yield
    finally:
        os.umask(OTHERS)


def open_to_users(folder: Path) -> None:
    """Give a folder and its files the modes that the umask of this process gives new ones."""
    probe = folder / ".mode"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        path.chmod(mode)
    folder.chmod(mode | (mode & 0o444) >> 2)
