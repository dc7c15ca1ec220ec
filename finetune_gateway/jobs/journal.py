"""Files of JSON lines that survive a kill: a line is whole, or it was never written.

A line is in the file before ``write`` returns, and on the disk after ``flushed``: many that are
written at the same time share one fsync. One process at a time adds to those of a folder: it holds
a lock, and locks the folder too, for somebody may remove the files of locks meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import files
from finetune_gateway.text.cleaning import moment, whole

Json = dict[str, Any]
Checks = dict[str, Callable[[object], bool]]


# Without the times of the file, where the system can.
_sync = getattr(os, "fdatasync", os.fsync)


@contextmanager
def writing_alone(lock: Path, folder: Path) -> Iterator[bool]:
    """Yield True while we hold the lock of a folder of journals, which is made if it is not there;
    False if another process does. Raises StoreError."""
    with files.try_locking(lock) as ours:
        held = _lock_folder(folder) if ours else None
        try:
            yield held is not None
        finally:
            if held is not None:
                with suppress(OSError):  # only an empty one goes
                    if files.is_in_place(held, folder):
                        folder.rmdir()
                files.unlock(held)


def is_written(lock: Path, folder: Path) -> bool:
    """Return True while a process adds to a folder of journals."""
    return files.is_locked(lock) or files.is_locked(folder)


def _lock_folder(folder: Path) -> int | None:
    """Lock a folder; None if another process has."""
    while True:
        with files.storing(f"{folder.name} cannot be kept", folder.parent):
            descriptor = os.open(files.folder(folder), os.O_RDONLY | os.O_CLOEXEC)
        files.adopt(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            files.unlock(descriptor)
            return None
        if files.is_in_place(descriptor, folder):
            return descriptor
        files.unlock(descriptor)  # its last holder has removed it


class Journal:
    """A file of JSON lines that is only added to, by one process at a time."""

    def __init__(self, path: Path, gather: float = 0.0) -> None:
        """Open it, and cut off what a kill has left of a last line. Raises StoreError.

        ``gather``: seconds for which lines wait for others before they are put on the disk; a kill
        loses none of them, a power cut may.
        """
        self.path = path
        self._gather = gather
        self._next: asyncio.Future[None] | None = None  # of the fsync that has not begun
        self._syncing: asyncio.Task[None] | None = None
        with files.storing(f"{path.name} cannot be written", path.parent):
            self._file = files.open_private(path, os.O_RDWR | os.O_APPEND)
            _cut_torn_line(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, line: Json) -> None:
        """Add a line. Raises StoreError for a full disk, and then nothing of it is left."""
        raw = _line_of(line)
        with files.storing(f"{self.path.name} cannot be written", self.path.parent):
            if os.write(self._file, raw) < len(raw):
                _cut_torn_line(self._file)
                os.write(self._file, raw)  # raises why: the disk is full

    def sync(self) -> None:
        """Put all lines on the disk. Raises StoreError."""
        if self._file < 0:  # closing it has done that
            return
        with files.storing(f"{self.path.name} cannot be written", self.path.parent):
            _sync(self._file)

    async def flushed(self) -> None:
        """Wait until what was written so far is on the disk. Raises StoreError."""
        await asyncio.shield(self.flush_soon())

    def flush_soon(self) -> asyncio.Future[None]:
        """Begin to put on the disk what was written so far; return what tells the end of it."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        waited = self._next
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(self._sync_all())
        return waited

    async def _sync_all(self) -> None:
        """Sync as long as somebody waits."""
        while self._next is not None:
            if self._gather:
                await asyncio.sleep(self._gather)
            waited, self._next = self._next, None
            try:
                await asyncio.to_thread(self.sync)
            except StoreError as exc:
                waited.set_exception(exc)
                waited.exception()  # whoever waits raises it; perhaps nobody does any more
            else:
                waited.set_result(None)

    def close(self) -> None:
        """Sync and close the file."""
        if self._file >= 0:
            descriptor, self._file = self._file, -1
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)


def _line_of(line: Json) -> bytes:
    try:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:  # NaN and Infinity of a host: no JSON, and no reader would take the line
        text = json.dumps(_finite(line), ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _finite(value: Any) -> Any:
    """Return a JSON value with null for each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_lines(path: Path, *, checked: bool = True) -> Iterator[Json]:
    """Yield the whole lines of a journal; none if there is no such file. Raises StoreError, also
    for a line that has not what is written here: somebody has changed it. ``checked``: it is a file
    of requests, by its name."""
    checks = CHECKS.get(path.name, {}) if checked else {}
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.endswith(b"\n"):
                    yield _parsed(raw, path, number, checks)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror or exc}.") from None


def number_of(line: Json, path: Path) -> int:
    """Return the number of a line that was read; 0 if it is not there any more."""
    numbered = enumerate(read_lines(path, checked=False), 1)
    return next((number for number, one in numbered if one == line), 0)


def _parsed(raw: bytes, path: Path, number: int, checks: Checks) -> Json:
    try:
        value = json.loads(raw, parse_constant=_refused)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise damaged(path, number, "no JSON object")
    for name, is_right in checks.items():
        if not is_right(value.get(name)):
            raise damaged(path, number, f"no {name} as it is written here")
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def damaged(path: Path, number: int, what: str) -> StoreError:
    """Return the error for a line that somebody has changed."""
    return StoreError(
        f"{path}, line {number}, has {what}.", hint="Was it changed? Put a copy back."
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return whole(value) is not None


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_request(value: object) -> bool:
    """Return True for the id of a request: a fingerprint and the number of the sample."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{1,64}-\d{1,3}", value) is not None


def _is_key(value: object) -> bool:
    """Return True for the key of a batch, which is a part of the name of a file."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{1,64}", value) is not None


def _is_amount(value: object) -> bool:
    """Return True for an amount in USD, or for none."""
    return value is None or (isinstance(value, str) and bool(re.fullmatch(r"\d+(\.\d+)?", value)))


# What each line of these files has, as far as anything is decided by it.
CHECKS: dict[str, Checks] = {
    "requests.jsonl": {"id": _is_request, "attempt": _is_count, "charge": _is_text,
                       "usd": _is_amount, "batch": lambda value: value is None or _is_key(value)},
    "answers.jsonl": {"id": _is_request, "attempt": _is_count, "charge": _is_text,
                      "usd": _is_amount, "message": lambda value: isinstance(value, dict)},
    "errors.jsonl": {"id": _is_request, "attempt": _is_count, "charge": _is_text,
                     "usd": _is_amount, "again": _is_flag, "retryable": _is_flag,
                     "message": _is_text},
    "charges.jsonl": {"charge": _is_text},
    "batches.jsonl": {"key": _is_key, "event": _is_text,
                      "at": lambda value: moment(value) is not None},
}  # fmt: skip


def _cut_torn_line(descriptor: int) -> None:
    """Cut off what comes after the last line end."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    kept = end
    while kept > 0:
        start = max(0, kept - 65536)
        at = os.pread(descriptor, kept - start, start).rfind(b"\n")
        kept = start + at + 1 if at >= 0 else start
        if at >= 0:
            break
    if kept < end:
        os.ftruncate(descriptor, kept)
