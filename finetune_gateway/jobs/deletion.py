"""Deletes files and folders for good."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import files
from finetune_gateway.settings.sizes import bytes_of


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    return bytes_of([path])


def require_no_link(folder: Path) -> None:
    """Raise StoreError for a link: it would go, and the texts that it leads to would stay."""
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link, and what it leads to would not be removed: {folder.readlink()}.",
            hint="Remove that, and the link, yourself.",
        )


def delete(path: Path) -> None:
    """Delete a file or a folder, for good also after a power cut. Raises StoreError."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        files.sync(path.parent)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as exc:
        raise StoreError(
            f"{exc.filename or path} cannot be removed: {exc.strerror or exc}.",
            hint="Check its rights, then run the same command again: it goes on from there.",
        ) from None
