"""Damage to the files of a folder, one at a time, as a power cut, a disk or a hand leaves them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

SEED = 19


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    """One bit of it, another one in each file."""
    raw = bytearray(path.read_bytes())
    if raw:
        draw = random.Random(f"{SEED} {path.name}")
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)


def deleted(path: Path) -> None:
    path.unlink()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "halved": halved,
    "emptied": emptied,
    "zeroed": zeroed,
    "flipped": flipped,
    "deleted": deleted,
    "folder": folder_instead,
}


def files_of(folder: Path) -> list[str]:
    """All files below a folder, by their path in it."""
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


def damages(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file of a folder with each damage; those that leave it as it is are left out."""
    for name in files_of(folder):
        for how in DAMAGES:
            if (folder / name).stat().st_size or how in ("deleted", "folder"):
                yield name, how


def copied(home: Path, target: Path) -> Path:
    """A copy of a home with all that is in it."""
    shutil.copytree(home, target, symlinks=True)
    return target
