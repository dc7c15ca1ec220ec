"""Files as they were saved: the size and the sha256 of each, in a manifest that is written last.

A power cut leaves files empty, cut or full of zeros, a disk or memory changes a bit, and torch
would load what is left. So nothing that has a manifest is used before its files match. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from finetune_gateway.settings.hashing import sha256_of_all

# What torch keeps of a training beside its model: none of it answers.
TORCH_STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
Saved = Mapping[str, Mapping[str, Any]]  # by name below the folder: bytes, sha256


def describe(folder: Path, *, without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the size and the sha256 of all files below a folder, by name. Each is read once,
    several at a time. Raises OSError."""
    names = sorted(_names(folder) - {*without})
    hashes = sha256_of_all([folder / name for name in names])
    sizes = [(folder / name).stat().st_size for name in names]
    return {
        name: {"bytes": size, "sha256": digest}
        for name, size, digest in zip(names, sizes, hashes, strict=True)
    }


def difference(
    folder: Path, saved: Saved, *, without: Collection[str] = (), reading: Collection[str] = ()
) -> str:
    """Return in what a folder differs from what was saved, in words; empty if it does not.

    ``without``: files that may be there besides. ``reading``: those whose content is looked at, by
    default all; of the others the size alone.
    """
    there = _names(folder)
    if missing := sorted(saved.keys() - there):
        return f"{missing[0]} is missing"
    if more := sorted(there - saved.keys() - {*without}):
        return f"{more[0]} is there, and was not saved with it"
    for name, about in saved.items():
        size = (folder / name).stat().st_size
        if size != about["bytes"]:
            return f"{name} has {size:,} bytes; saved were {about['bytes']:,}"
    names = [name for name in saved if not reading or name in reading]
    found = sha256_of_all([folder / name for name in names])
    for name, digest in zip(names, found, strict=True):
        if digest != saved[name]["sha256"]:
            return changed(name, str(saved[name]["sha256"]), digest)
    return ""


def changed(name: str, expected: str, found: str) -> str:
    """Return that a file has another content than it had."""
    return f"{name} has another content (sha256 {expected[:12]} then, {found[:12]} now)"


def is_saved(value: dict[str, Any]) -> bool:
    """Return True for what ``describe`` has made, read back from JSON."""
    return all(
        isinstance(about, dict)
        and isinstance(about.get("bytes"), int)
        and isinstance(about.get("sha256"), str)
        for about in value.values()
    )


def _names(folder: Path) -> set[str]:
    """Return the files below a folder; not those of an editor or a system, which begin with a
    dot."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder) for path in found}
    return {name.as_posix() for name in names if not name.name.startswith(".")}
