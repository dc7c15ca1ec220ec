"""Files on their way to the disk: whole or not at all, and result files as CSV.

Nothing here holds a file in memory, only its last line.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Collection, Iterable, Iterator

from finetune_gateway.errors import BackendError

HEAD = 1024  # bytes that show whether a file is base64
MORE = 1 << 20  # bytes by which the host's number may be wrong
MARK = 3  # bytes of a byte order mark
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


class _Length:
    """Whether as many bytes came as the host says. ``note``: why another number is taken: it came
    twice, and ends with a whole row."""

    def __init__(self, expected: int | None) -> None:
        self.note = ""
        self._expected = expected
        self._before: int | None = None

    def require_end(self, size: int) -> None:
        """Raise BackendError for a file that has come to be far longer than it should be: a host
        may send for ever."""
        if self._expected is not None and size > 2 * self._expected + MORE:
            raise cut_off(f"it does not end after its {self._expected:,} bytes")

    def check(self, size: int, others: Collection[int], ends_well: bool) -> None:
        """Raise BackendError for a file that has to be asked for again. ``others``: numbers that
        the host may mean as well."""
        if self._expected is None or self._expected in (size, *others):
            return
        said = f"{size:,} of {self._expected:,} bytes"
        if self._before != size or not ends_well:
            self._before = size
            raise cut_off(said)
        self.note = f"The host sent {said} twice, and they end with a whole row."


class _LastLine:
    """The last line of what comes in pieces."""

    def __init__(self) -> None:
        self._line = b""

    def add(self, piece: bytes) -> None:
        at = piece.rstrip(_SPACES).rfind(b"\n")
        self._line = piece[at + 1 :] if at >= 0 else (self._line + piece)[: LONGEST_LINE + 1]

    @property
    def line(self) -> bytes | None:
        """Return it; None if it is too long to look at."""
        return self._line.strip().rpartition(b"\n")[2] if len(self._line) <= LONGEST_LINE else None


class Incoming:
    """The bytes of a file of rows, which may have to be read more than once.

    ``expected``: how many the host says there are; ``mark``: True where it may count a byte order
    mark that it does not send, or the other way round.
    """

    def __init__(self, expected: int | None, ending: str, *, mark: bool = False) -> None:
        self.ending = ending
        self._length = _Length(expected)
        self._mark = MARK if mark else 0

    @property
    def note(self) -> str:
        return self._length.note

    def read(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces. Raises BackendError at their end if there should be more."""
        size, last = 0, _LastLine()
        for piece in pieces:
            size += len(piece)
            self._length.require_end(size)
            last.add(piece)
            yield piece
        marked = (size - self._mark, size + self._mark)
        self._length.check(size, marked, _is_json(last.line))


def _is_json(line: bytes | None) -> bool:
    try:
        return bool(line) and json.loads(line or b"") is not None
    except (ValueError, RecursionError):
        return False


class ResultFile:
    """The bytes of a result file, which OpenAI sends as CSV or in base64. ``expected``: as for
    Incoming, of either form."""

    def __init__(self, expected: int | None = None) -> None:
        self.ending = ".csv"
        self._length = _Length(expected)
        self._encoded = False

    @property
    def note(self) -> str:
        form = "It came in base64." if self._encoded else ""
        return f"{form} {self._length.note}".strip()

    def read(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield it as CSV. Raises BackendError for one that breaks off."""
        came = _Counted(pieces)
        head, rest = b"", iter(came)
        for piece in rest:
            head += piece
            if len(head) >= HEAD:
                break
        self._encoded = _is_base64(head)
        plain = _decoded(_joined(head, rest)) if self._encoded else _joined(head, rest)
        first = next(plain, b"")
        columns = first.partition(b"\n")[0].count(b",")
        self.ending = ".csv" if columns else ".txt"
        size, last = 0, _LastLine()
        for piece in _joined(first, plain):
            size += len(piece)
            self._length.require_end(came.size)
            last.add(piece)
            yield piece
        ends_well = last.line is not None and last.line.count(b",") == columns > 0
        self._length.check(came.size, (size,), ends_well)


class _Counted:
    """Pieces, and how many bytes of them have come."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.size = 0
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            yield piece


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
