"""Who may read what: wide modes below a folder, other umasks, and a process that may not write."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER let root write anywhere.
OVERRIDE = 1 << 1 | 1 << 2 | 1 << 3
CAPABILITY_VERSION = 0x20080522


def wide(folder: Path) -> dict[str, str]:
    """What the group or others may use, with its mode, as ``find FOLDER -perm /077`` lists it."""
    paths = [folder, *folder.rglob("*")] if folder.exists() else []
    modes = {str(path): path.lstat().st_mode for path in paths if not path.is_symlink()}
    return {path: oct(mode & 0o7777) for path, mode in modes.items() if mode & 0o077}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be written by this thread, not even if it is root."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with _without_override():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def _without_override() -> Iterator[None]:
    """Take from root what lets it write where the modes forbid it."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0, os.strerror(ctypes.get_errno())
    effective = data[0]
    data[0] = effective & ~OVERRIDE
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        data[0] = effective
        assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
