"""Write whole files: a reader sees the old content or the new one, never half of it.

Everything the package writes goes through here, whatever happens meanwhile: a full disk, a kill,
a power cut. Rows that are appended to a log are the exception (``backends/local/run.py``).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, data: str | bytes, *, fsync: bool = True) -> None:
    """Write a file, in place of the one that is there. Raises OSError, and then changes nothing.

    ``fsync``: put it on the disk before this returns, so that a power cut keeps it.
    """
    with atomic_file(path, fsync=fsync) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path, *, fsync: bool = True) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path`` when the block ends, and never if the block raises.

    A link stays a link, and the mode of a file that is replaced stays as it is.
    """
    target = path.resolve()
    with _temporary(target.parent, target.name, lambda: target, fsync) as file:
        with suppress(FileNotFoundError):
            os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
        yield file


def write_by_content(
    folder: Path, chunks: Iterable[bytes], name: Callable[[str], str], *, fsync: bool = True
) -> tuple[Path, str]:
    """Write chunks to a file named by its content; return its path and the sha256 in hex.

    ``name``: gives the file's name for that hash.
    """
    digest = hashlib.sha256()

    def target() -> Path:
        return folder / name(digest.hexdigest())

    with _temporary(folder, "copy", target, fsync) as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return target(), digest.hexdigest()


@contextmanager
def _temporary(
    folder: Path, name: str, target: Callable[[], Path], fsync: bool
) -> Iterator[BinaryIO]:
    """Open a file beside its target, and rename it when the block has ended well."""
    path = folder / f".{name}.tmp.{os.getpid()}.{threading.get_ident()}"
    try:
        with path.open("wb") as file:
            yield file
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(path, target())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if fsync:
        sync(folder)


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk: a rename survives a power cut only when
    its folder is on the disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
