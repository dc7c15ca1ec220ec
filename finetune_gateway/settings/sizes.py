"""How large files and folders are."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def bytes_of(paths: Iterable[Path]) -> int:
    """Return the bytes of these files, and of all files below these folders; of a file with several
    names once."""
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        for one in (path, *path.rglob("*")) if path.is_dir() else (path,):
            with suppress(OSError):  # another process removes it
                seen = one.lstat()
                if not stat.S_ISDIR(seen.st_mode):
                    sizes[seen.st_dev, seen.st_ino] = seen.st_size
    return sum(sizes.values())
