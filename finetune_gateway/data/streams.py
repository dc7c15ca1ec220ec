"""What is read once, as bytes: an open file, bytes in memory, a download."""

from __future__ import annotations

import inspect
import io
import lzma
import os
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_gateway.data import locations
from finetune_gateway.errors import DataError

CHUNK = 1 << 20  # bytes, or characters of a text, read at a time
_IN_MEMORY = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Stream:
    """Bytes that are read once.

    ``name``: for messages, and for what it says of their form. ``file``: the file of the user that
    they are the whole of, so that its lines are those of the rows; None for others.
    """

    name: str
    chunks: Generator[bytes, None, None]
    file: Path | None = None


def stream_of(source: Any, folder: Path) -> Stream | None:
    """Return the stream that this is, for a file in ``folder``; None for what is none. An open file
    is read from where it stands, and stays open."""
    if isinstance(source, str | os.PathLike):
        url = locations.url_of(source)
        return Stream(locations.name_of(url), locations.url_chunks(url, folder)) if url else None
    if isinstance(source, _IN_MEMORY):
        return Stream("data", _pieces(memoryview(source)))
    if hasattr(source, "read") and not hasattr(source, "columns"):  # no frame with such a column
        path = Path(_name(source))
        is_whole = _is_plain(source) and _position(source) == 0 and path.is_file()
        return Stream(path.name, _read(source, path.name), path if is_whole else None)
    return None


def _pieces(data: memoryview) -> Generator[bytes, None, None]:
    flat = data.cast("B") if data.contiguous else memoryview(data.tobytes())
    for start in range(0, len(flat), CHUNK):
        yield bytes(flat[start : start + CHUNK])


def _name(file: Any) -> str:
    """Return the name that a file has; "data" for one without, as one of the memory."""
    name = getattr(file, "name" if hasattr(file, "name") else "filename", None)
    if not isinstance(name, str | os.PathLike):  # a number is that of a descriptor
        return "data"
    text = os.fsdecode(os.fspath(name)).strip("<>")  # <stdin>
    return text if Path(text).name else "data"


def _is_plain(file: Any) -> bool:
    """Return True for what ``open`` gives: it reads the file as it is, not what is packed in it."""
    return isinstance(getattr(file, "buffer", file), io.BufferedReader | io.FileIO)


def _position(file: Any) -> int | None:
    """Return where a file stands; None for one that cannot tell, as a pipe."""
    try:
        position = file.tell()
    except (AttributeError, OSError, ValueError):
        return None
    return position if isinstance(position, int) else None


def _read(file: Any, name: str) -> Generator[bytes, None, None]:
    start = _position(file)
    is_empty = True
    try:
        while chunk := _chunk(file, name):
            is_empty = False
            yield chunk
    except UnicodeError as exc:
        reason = f"it was opened as text, and {exc}"
        raise _unreadable(name, reason, "Open it with mode 'rb'.") from exc
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as exc:
        if isinstance(exc, DataError):
            raise
        raise _unreadable(name, str(exc), "Open it again.") from exc
    if is_empty and start:
        raise DataError(
            f"{name} stands at its end: there is nothing left to read.",
            hint="It may have been read before, or just been written. Call seek(0) first.",
        )


def _chunk(file: Any, name: str) -> bytes:
    chunk = file.read(CHUNK)
    if isinstance(chunk, str):
        # Bytes that were no text when it was read are written as they were.
        return chunk.encode("utf-8", "surrogateescape")
    if isinstance(chunk, _IN_MEMORY):
        return bytes(chunk)
    if inspect.iscoroutine(chunk):
        chunk.close()
    if inspect.isawaitable(chunk):
        raise DataError(
            f"{name} is read asynchronously, which a dataset cannot wait for.",
            hint="Pass the file in it (upload.file), or its bytes: await upload.read().",
        )
    raise _unreadable(
        name, f"its read() gives a {type(chunk).__name__}", "Pass a file that gives bytes or text."
    )


def _unreadable(name: str, reason: str, hint: str) -> DataError:
    return DataError(f"{name} cannot be read: {reason.rstrip('.')}.", hint=hint)
