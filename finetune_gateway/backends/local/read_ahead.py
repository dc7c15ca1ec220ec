"""Read the weights of a base from the disk while torch is imported.

The imports take seconds of a core and next to no disk. A thread reads meanwhile what is not in the
page cache of the system, where whoever loads the model finds it; Python's lock is free while it
reads. Knows no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from finetune_gateway.backends.local import hub, models
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import weights

BLOCK = 8 << 20  # bytes
# Linux alone says whether a block is in its page cache. Elsewhere nothing is read twice.
_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)


def read_ahead(model: str, revision: str | None = None) -> Thread:
    """Start to read the weights of a base, and return the thread. ``revision``: a commit of a model
    of the hub. What is missing or cannot be read is left to who loads the model, to say in words.
    """
    thread = Thread(target=_read_model, args=(model, revision), daemon=True, name="read-ahead")
    thread.start()
    return thread


def _read_model(model: str, revision: str | None) -> None:
    try:
        for path in _weights(model, revision):
            read_missing(path)
    except (OSError, GatewayError):
        return  # whoever loads the model meets the same, and says it


def _weights(model: str, revision: str | None) -> Iterator[Path]:
    folder = models.folder_of(model) or hub.fetch(model, revision=revision, offline=True)
    yield from (folder / name for name in weights.weight_files(folder))


def read_missing(path: Path) -> int:
    """Read what the page cache lacks of a file, and return how many bytes that was, in blocks."""
    if _NOWAIT is None:
        return 0
    with path.open("rb", buffering=0) as file:
        buffer, missing = bytearray(BLOCK), 0
        for at in range(0, os.fstat(file.fileno()).st_size, BLOCK):
            try:
                os.preadv(file.fileno(), [bytearray(1)], at, _NOWAIT)
            except BlockingIOError:
                missing += os.preadv(file.fileno(), [buffer], at)
        return missing
