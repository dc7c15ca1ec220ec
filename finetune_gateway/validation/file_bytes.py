"""The bytes of a file: its type by the first bytes, parts cut at line ends, and their lines.

Lines are read a chunk at a time. Uses ``pread`` instead of a shared position, so that several
processes can read one file.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress, count
from operator import add

from finetune_gateway.data import dataset
from finetune_gateway.data.content import PICKLES, is_workbook
from finetune_gateway.data.dataset import CHUNK, Line
from finetune_gateway.findings import Defect

OnProgress = Callable[[int, int], None]  # called with the bytes done and the bytes in total
_PLACES = 16  # of a sample
# What ``look`` says of a line in which a detector may find something, or only other rules may.
FLAGGED, UNSURE = 1, 3


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from ``start`` to ``stop``; the first line has this ``number``. ``gaps``: empty
    lines stand between rows, and are passed over."""

    start: int
    stop: int
    number: int = 1
    gaps: bool = False


class Lines(Iterator[Line]):
    """The lines of a range.

    ``chunk``: lines without their line feed, of which those from ``at`` on are still to come; a
    caller that takes some counts ``at`` up. Of each, ``numbers`` has its number, ``offsets`` its
    offset and ``flags`` what ``look`` says of it. The last line of a file without a line feed, and
    a line that is too long, are never in the chunk.
    """

    def __init__(
        self,
        file: int,
        part: Range,
        on_progress: OnProgress | None = None,
        look: Callable[[list[bytes]], bytearray] | None = None,
    ) -> None:
        self._file, self._on_progress, self._look = file, on_progress, look or _all_flagged
        self._start, self._gaps = part.start, part.gaps
        self._size = min(part.stop, os.fstat(file).st_size) - part.start
        self._next, self._stop = part.start, part.stop
        self._rest = b""
        self._number, self._offset = part.number, part.start  # of the line after the chunk
        self.chunk: list[bytes] = []
        self.numbers: Sequence[int] = ()
        self.offsets: Sequence[int] = ()
        self.flags = bytearray()
        self.at = 0

    def more(self) -> bool:
        """Return True if the chunk has a line; reads the next chunk if it is used up."""
        while self.at >= len(self.chunk):
            if not self._fill():
                return False
        return True

    def __next__(self) -> Line:
        if self.more():
            at = self.at
            self.at += 1
            flag = self.flags[at]
            return _line(self.numbers[at], self.offsets[at], self.chunk[at], b"\n", flag)
        if not self._rest:
            raise StopIteration
        raw, self._rest = self._rest, b""
        if len(raw) >= dataset.MAX_LINE:
            self._next = self._stop
            return Line(self._number, self._offset, raw[:200], cut=True)
        self._number += 1
        self._offset += len(raw)
        return _line(self._number - 1, self._offset - len(raw), raw, b"", FLAGGED)

    def _fill(self) -> bool:
        """Read up to the next line end, at most one line over the limit; return False where no line
        is left but the last one."""
        pieces, chunk = [self._rest], [b""]
        size = len(self._rest)
        while self._next < self._stop and size <= dataset.MAX_LINE:
            read = os.pread(self._file, min(CHUNK, self._stop - self._next), self._next)
            if not read:
                break
            self._next += len(read)
            if self._on_progress:
                self._on_progress(self._next - self._start, self._size)
            size += len(read)
            chunk = read.split(b"\n")  # before the rest is joined: to copy a chunk takes as long
            pieces.append(chunk[0])
            if len(chunk) > 1:
                break
        chunk[0] = b"".join(pieces)
        self._rest = chunk.pop()
        if chunk and len(chunk[0]) >= dataset.MAX_LINE:
            chunk, self._rest = [], chunk[0]
        sizes = accumulate(map(len, chunk), initial=self._offset)
        *self.offsets, self._offset = map(add, sizes, count())  # each line feed is one byte more
        self.numbers = range(self._number, self._number + len(chunk))
        self._number += len(chunk)
        if self._gaps:
            self.offsets, self.numbers = (
                [*compress(places, chunk)] for places in (self.offsets, self.numbers)
            )
        self.chunk, self.at = [*filter(None, chunk)] if self._gaps else chunk, 0
        self.flags = self._look(self.chunk)
        return bool(chunk)


def _line(number: int, offset: int, raw: bytes, end: bytes, flag: int) -> Line:
    body = raw.rstrip(b"\r\n")
    end, flagged = raw[len(body) :] + end, flag == FLAGGED
    return Line(number, offset, body, False, end, flagged, flagged or flag == UNSURE)


def _all_flagged(lines: list[bytes]) -> bytearray:
    return bytearray([FLAGGED] * len(lines))


def read_line(file: int, offset: int) -> bytes:
    """Return the line at an offset, without its line end."""
    line, size = b"", 4096
    while b"\n" not in line and (read := os.pread(file, size, offset + len(line))):
        line, size = line + read, CHUNK
    return line.partition(b"\n")[0].rstrip(b"\r")


def cut(file: int, size: int, parts: int) -> list[Range]:
    """Return ranges of about equal size that start at lines; fewer if a line is longer than one."""
    starts = [0]
    for part in range(1, parts):
        start = _after_line(file, size * part // parts)
        if starts[-1] < start < size:
            starts.append(start)
    number, ranges = 1, list[Range]()
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        ranges.append(Range(start, stop, number))
        if stop < size:
            number += _count_lines(file, start, stop)
    return ranges


def sample_lines(file: int, size: int) -> Iterator[Line]:
    """Yield lines from 16 places of a file, in order: some ``size`` bytes in all."""
    for part in cut(file, os.fstat(file).st_size, _PLACES):
        stop = min(part.stop, part.start + size // _PLACES)
        yield from Lines(file, Range(part.start, stop, part.number))


def _after_line(file: int, offset: int) -> int:
    end = offset + dataset.MAX_LINE
    while offset < end and (read := os.pread(file, CHUNK, offset)):
        end_of_line = read.find(b"\n")
        if end_of_line >= 0:
            return offset + end_of_line + 1
        offset += len(read)
    return 0


def _count_lines(file: int, start: int, stop: int) -> int:
    count = 0
    while start < stop:
        read = os.pread(file, min(CHUNK, stop - start), start)
        if not read:
            break
        count += read.count(b"\n")
        start += len(read)
    return count


# -- the type of a file ------------------------------------------------------------------------

HEAD = 4096  # bytes read

_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"\x1f\x9d", "compress"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip, empty"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!", "RAR"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
    (b"MSCF", "a Windows cabinet"),
)
_BINARY = (
    (b"ARROW1", "Arrow"),
    (b"FEA1", "Feather"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"ORC", "ORC"),
    (b"Obj\x01", "Avro"),
    (b"SQLite format 3\x00", "SQLite"),
    (b"%PDF", "PDF"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"\x89HDF", "HDF5"),
    (b"\x93NUMPY", "NumPy"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"\x00asm", "WebAssembly"),
    (b"RIFF", "audio, an image or a video (RIFF)"),
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"ID3", "MP3"),
    (b"GGUF", "GGUF, a model"),
    (b"{\\rtf", "RTF"),
)
_PICKLED = (
    "Write its rows as JSON lines where it was made. It is never opened here: a pickle can run any "
    "program."
)
_READABLE = (
    "Let --fix read it: ftg validate old.jsonl --fix new.jsonl. Or name it after what it is "
    "(.xlsx, .parquet): then it is read as it is."
)
_ENCODINGS = (  # longer marks first: UTF-32 LE starts like UTF-16 LE
    (b"\xff\xfe\x00\x00", "encoding_utf32", "UTF-32 LE with a byte order mark"),
    (b"\x00\x00\xfe\xff", "encoding_utf32", "UTF-32 BE with a byte order mark"),
    (b"\xff\xfe", "encoding_utf16", "UTF-16 LE with a byte order mark"),
    (b"\xfe\xff", "encoding_utf16", "UTF-16 BE with a byte order mark"),
)
# JSON starts with ASCII: NULs in the first 4 bytes identify the encoding (RFC 4627, section 3).
_NULS = {
    (True, True, True, False): ("encoding_utf32", "UTF-32 BE"),
    (False, True, True, True): ("encoding_utf32", "UTF-32 LE"),
    (True, False, True, False): ("encoding_utf16", "UTF-16 BE"),
    (False, True, False, True): ("encoding_utf16", "UTF-16 LE"),
}


def file_defect(head: bytes) -> Defect | None:
    """Return why the file cannot be lines of JSON, or None."""
    if head.startswith(b"PK\x03\x04") and is_workbook(head):
        detail = "byte 0: the file is a workbook (.xlsx), not JSON lines"
        return Defect("not_text", detail=detail, fix=_READABLE)
    if head.startswith(b"PAR1"):
        detail = "byte 0: the file is Parquet, not JSON lines"
        return Defect("not_text", detail=detail, fix=_READABLE)
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            return _compressed(head, name)
    for mark, code, name in _ENCODINGS:
        if head.startswith(mark):
            return Defect(code, detail=f"byte 0: the file is {name}, not UTF-8")
    if head.startswith(PICKLES):
        detail = "byte 0: the file is a Python pickle, not JSON lines"
        return Defect("not_text", detail=detail, fix=_PICKLED)
    for magic, name in _BINARY:
        if head.startswith(magic):
            return Defect("not_text", detail=f"byte 0: the file is {name}, not JSON lines")
    return _defect_without_mark(head)


def _compressed(head: bytes, name: str) -> Defect:
    """Return the defect of a compressed file, with --fix where that can read it."""
    from finetune_gateway.data.compression import beginning  # few files are compressed

    inner = beginning(head)
    if inner is None:
        return Defect("compressed", detail=f"byte 0: the file is compressed ({name})")
    if inner[257:262] == b"ustar":
        return Defect("compressed", detail=f"byte 0: the file is a tar archive ({name})")
    fix = "Decompress it; --fix does: ftg validate old.jsonl --fix new.jsonl"
    return Defect("compressed", detail=f"byte 0: the file is compressed ({name})", fix=fix)


def _defect_without_mark(head: bytes) -> Defect | None:
    if head[4:8] == b"ftyp":
        return Defect("not_text", detail="byte 0: the file is a video (MP4), not JSON lines")
    if head[4:9] == b"\0\0\0\0{":  # the length of the header in 8 bytes, then the header
        return Defect("not_text", detail="byte 0: the file is safetensors, a model, not JSON lines")
    pattern = tuple(byte == 0 for byte in head[:4])
    if pattern in _NULS:
        code, name = _NULS[pattern]
        if code == "encoding_utf32" and not _is_utf32(head, name):
            return Defect("not_text", detail="byte 0: the file is binary, not JSON lines")
        return Defect(code, detail=f"byte 0: the file is {name} without a mark, not UTF-8")
    if head[257:262] == b"ustar":
        return Defect("compressed", detail="the file is a tar archive")
    return _binary_defect(head)


def _is_utf32(head: bytes, name: str) -> bool:
    """Return True if the first KiB is UTF-32: TFRecord, BSON and other binary files also start
    with a small number in 4 bytes."""
    piece = head[: min(len(head), 1024) & ~3]
    try:
        return "\0" not in piece.decode(name.lower().replace(" ", "-"))
    except UnicodeDecodeError:
        return False


def _is_utf8(head: bytes) -> bool:
    """Return True if the head is UTF-8; a character cut in two at its end is allowed."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _binary_defect(head: bytes) -> Defect | None:
    """Return a defect if more than a fifth of the head is control bytes, or a twentieth where it
    is not UTF-8 either. NUL does not count: a power loss leaves NULs in text files."""
    odd = sum(1 for byte in head if 0 < byte < 32 and byte not in b"\t\n\r\f\b\x1b")
    if odd * 20 <= len(head) or (odd * 5 <= len(head) and _is_utf8(head)):
        return None
    return Defect("not_text", detail="the file is binary, not JSON lines")
