"""The hashes of several files, read at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune_gateway.settings.files import sha256_of

AT_ONCE = 4  # files
SMALL = 64 << 20  # bytes in all, which one thread reads in a tenth of a second


def sha256_of_all(paths: Sequence[Path]) -> list[str]:
    """Return the sha256 of the content of each file, in this order. Raises OSError."""
    return hashed(paths, sha256_of)


def hashed(paths: Sequence[Path], hash_of: Callable[[Path], str]) -> list[str]:
    """Return the hash of each file, in this order, by ``hash_of``. It takes a core, and Python's
    lock is free meanwhile. Raises what that raises.

    Small files are read without threads: one that begins while memory runs out may never begin,
    and is waited for."""
    sizes = {path: os.stat(path).st_size for path in paths}
    if len(paths) < 2 or sum(sizes.values()) < SMALL:
        return [hash_of(path) for path in paths]
    # The largest first, so that no thread is left alone with it at the end.
    ordered = sorted(paths, key=sizes.__getitem__, reverse=True)
    with ThreadPoolExecutor(min(AT_ONCE, len(paths))) as threads:
        found = dict(zip(ordered, threads.map(hash_of, ordered), strict=True))
    return [found[path] for path in paths]
