"""Files out of an archive of others: plain files alone, by their own names, all in one folder."""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from finetune_gateway.errors import SpecError
from finetune_gateway.settings import files
from finetune_gateway.text.cleaning import visible

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
BLOCK = 1 << 20

Members = Iterator[tuple[str, Callable[[], IO[bytes]]]]


def is_archive(name: str) -> bool:
    """Return True for the name of an archive that ``unpack`` reads."""
    return name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path, most: int) -> list[str]:
    """Write the files of an archive to ``folder``, without the folders that they are in there, and
    return their names. Hidden ones are left out.

    Raises SpecError for links and devices, for two files of one name, for more than ``most`` bytes,
    and for what is no archive.
    """
    names: list[str] = []
    left = most
    try:
        with _members(archive) as members:
            for path, read in members:
                name = PurePosixPath(path).name
                if name.startswith("."):
                    continue
                if not PLAIN.fullmatch(name) or name.lower() in map(str.lower, names):
                    raise SpecError(f"it holds {visible(path)!r}, which is no name of its own here")
                with read() as source, files.atomic_file(folder / name) as target:
                    while block := source.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise SpecError(f"it holds more than {most:,} bytes")
                        target.write(block)
                names.append(name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as exc:
        raise SpecError(f"it cannot be unpacked: {type(exc).__name__}") from None
    return names


@contextmanager
def _members(archive: Path) -> Iterator[Members]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            yield _zipped(zipped)
    else:
        with tarfile.open(archive, "r:*") as tar:
            yield _tarred(tar)


def _zipped(archive: zipfile.ZipFile) -> Members:
    for one in archive.infolist():
        kind = stat.S_IFMT(one.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise SpecError(f"it holds {visible(one.filename)!r}, which is no plain file")
        if not one.is_dir():
            yield one.filename, partial(archive.open, one)


def _tarred(archive: tarfile.TarFile) -> Members:
    for one in archive:
        if not one.isfile() and not one.isdir():
            raise SpecError(f"it holds {visible(one.name)!r}, which is no plain file")
        if one.isfile():
            yield one.name, partial(_read, archive, one)


def _read(archive: tarfile.TarFile, one: tarfile.TarInfo) -> IO[bytes]:
    source = archive.extractfile(one)
    assert source is not None  # for the type checker: it is a file
    return source
