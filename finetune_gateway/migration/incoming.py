"""Files on their way to the disk: whole or not at all, and result files as CSV.

Nothing here holds a file in memory, only its last line.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Iterator

from finetune_gateway.errors import BackendError

HEAD = 1024  # bytes that show whether a file is base64
LONGEST_LINE = 1 << 20  # bytes of a last line that is looked at
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+=*")
_SPACES = b" \t\r\n"


def cut_off(reason: str) -> BackendError:
    """Return the error for a file that came in part: asked for again."""
    return BackendError(f"The file did not come whole: {reason}.", retryable=True)


def ending_of(name: object) -> str:
    """Return the end of a file's name at its host, where it tells the form of the rows."""
    text = name.lower() if isinstance(name, str) else ""
    return next((ending for ending in ENDINGS if text.endswith(ending)), ".jsonl")


class Incoming:
    """The bytes of a file of rows, which may have to be read more than once.

    ``expected``: how many the host says there are; ``mark``: True where it may count a byte order
    mark that it does not send, or the other way round. Where it sends another number twice, and
    that ends with a whole row, the file is taken; ``note`` says so.
    """

    def __init__(self, expected: int | None, ending: str, *, mark: bool = False) -> None:
        self.note = ""
        self.ending = ending
        self._expected = expected
        self._slack = (0, 3, -3) if mark else (0,)
        self._before: int | None = None

    def read(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces. Raises BackendError at their end if there should be more."""
        size, last = 0, b""
        for piece in pieces:
            size += len(piece)
            at = piece.rstrip(_SPACES).rfind(b"\n")
            last = piece[at + 1 :] if at >= 0 else (last + piece)[: LONGEST_LINE + 1]
            yield piece
        if self._expected is None or size - self._expected in self._slack:
            return
        said = f"{size:,} of {self._expected:,} bytes"
        if self._before != size or not _is_whole_row(last):
            self._before = size
            raise cut_off(said)
        self.note = f"The host sent {said} twice, and they end with a whole row."


def _is_whole_row(line: bytes) -> bool:
    text = line.strip().rpartition(b"\n")[2]
    if not text or len(text) > LONGEST_LINE:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class ResultFile:
    """The bytes of a result file, which OpenAI sends in base64 and other hosts as CSV."""

    def __init__(self) -> None:
        self.note = ""
        self.ending = ".csv"

    def read(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield it as CSV. Raises BackendError for base64 that breaks off."""
        head, rest = b"", iter(pieces)
        for piece in rest:
            head += piece
            if len(head) >= HEAD:
                break
        encoded = _is_base64(head)
        self.note = "It came in base64." if encoded else ""
        plain = _decoded(_joined(head, rest)) if encoded else _joined(head, rest)
        first = next(plain, b"")
        self.ending = ".csv" if b"," in first.partition(b"\n")[0] else ".txt"
        yield from _joined(first, plain)


def _joined(head: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _is_base64(head: bytes) -> bool:
    """Return True if this is text in base64: a table in CSV has commas in its first line."""
    packed = head.translate(None, _SPACES)
    if not packed or not _BASE64.fullmatch(packed):
        return False
    try:
        text = binascii.a2b_base64(packed[: len(packed) // 4 * 4])
    except binascii.Error:
        return False
    return b"," in text and all(32 <= byte < 127 or byte in _SPACES for byte in text[:16])


def _decoded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    left = b""
    for piece in pieces:
        packed = left + piece.translate(None, _SPACES)
        whole = len(packed) // 4 * 4
        left = packed[whole:]
        yield _unpacked(packed[:whole])
    if left:
        raise cut_off("its base64 breaks off")


def _unpacked(packed: bytes) -> bytes:
    try:
        return binascii.a2b_base64(packed, strict_mode=bool(packed))
    except binascii.Error as exc:
        raise cut_off(f"its base64 is broken ({exc})") from None
