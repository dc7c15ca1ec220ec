"""Files in gzip, bzip2 or xz, decompressed for as long as something reads them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from finetune_gateway.data.dataset import CHUNK, MAX_LINE, Dataset
from finetune_gateway.errors import DataError
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.spool import new_folder

_OPENERS: tuple[tuple[bytes, str, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", "gzip", gzip.open),
    (b"BZh", "bzip2", bz2.open),
    (b"\xfd7zXZ\x00", "xz", lzma.open),
)
_MOST = 1 << 30  # bytes that any file may hold
_RATIO = 500  # times its size that a larger one may hold


def decompressed(dataset: Dataset) -> Dataset:
    """Return the dataset of the file inside a compressed one; this one if it is not compressed.
    Raises DataError if it is damaged."""
    with dataset.path.open("rb") as file:
        head = file.read(8)
    for magic, name, opener in _OPENERS:
        if head.startswith(magic):
            return _inside(dataset, name, opener)
    return dataset


def beginning(head: bytes) -> bytes | None:
    """Return the first bytes of the file inside a compressed one, as far as ``head`` tells them;
    None if it is of another kind."""
    name = next((name for magic, name, _ in _OPENERS if head.startswith(magic)), None)
    if name is None:
        return None
    try:
        if name == "gzip":
            return zlib.decompressobj(31).decompress(head, 512)
        made = bz2.BZ2Decompressor() if name == "bzip2" else lzma.LZMADecompressor()
        return made.decompress(head, 512)
    except (zlib.error, OSError, EOFError, lzma.LZMAError):
        return b""


def _inside(dataset: Dataset, name: str, opener: Callable[..., Any]) -> Dataset:
    folder = new_folder(Settings.load().spool)
    inner = Path(Path(dataset.name).stem)  # without .gz
    suffix = inner.suffix or ".jsonl"
    with files.storing("The rows cannot be written", folder), opener(dataset.path, "rb") as file:
        path, digest = files.write_by_content(
            folder,
            _chunks(file, dataset, name),
            lambda digest: f"{digest[:16]}{suffix}",
            fsync=False,
        )
    return Dataset(path, inner.name, "jsonl", dataset.source, digest).for_a_while()


def _chunks(file: IO[bytes], dataset: Dataset, name: str) -> Iterator[bytes]:
    most = max(_MOST, _RATIO * dataset.size)
    size = unfinished = 0  # unfinished: bytes of the last line so far
    try:
        while chunk := file.read(CHUNK):
            yield chunk
            size += len(chunk)
            unfinished = len(chunk) - chunk.rfind(b"\n") - 1 + unfinished * (b"\n" not in chunk)
            if unfinished > MAX_LINE:  # what reads the lines says so
                return
            if size > most:
                raise DataError(
                    f"{dataset.name} holds more than {size >> 30} GB in {dataset.size:,} bytes: "
                    "that is no training file.",
                    hint="If it is, decompress it yourself, and check what comes out.",
                )
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as exc:
        raise DataError(
            f"{dataset.name} is compressed ({name}), but cannot be read to its end: {exc}.",
            hint="Download or export it again.",
        ) from None
