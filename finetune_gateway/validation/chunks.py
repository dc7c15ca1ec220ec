"""Parts of a file, cut at line ends, and their lines a chunk at a time.

``pread`` rather than a shared position, so that several processes may read one file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_gateway.data import dataset
from finetune_gateway.data.dataset import CHUNK, Line


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from ``start`` to ``stop``, which begin with the line ``number``."""

    start: int
    stop: int
    number: int = 1


class Lines(Iterator[Line]):
    """The lines of a range.

    ``chunk`` are lines as they stand but for the line feed; those from ``at`` on are still to be
    given. ``number`` and ``offset`` are those of the next. Whoever takes lines from the chunk
    calls ``skip``. The last line of a file without a line feed, and one that is too long, are
    never in it.
    """

    def __init__(
        self, file: int, part: Range, on_read: Callable[[int], None] | None = None
    ) -> None:
        """``on_read`` is told each time how many bytes of the range were read."""
        self._file, self._on_read = file, on_read
        self._start = part.start
        self._next, self._stop = part.start, part.stop
        self._rest = b""
        self.chunk: list[bytes] = []
        self.at = 0
        self.offset, self.number = part.start, part.number

    def more(self) -> bool:
        """Whether the chunk has a line to give; reads on when it has none."""
        if self.at >= len(self.chunk):
            self._fill()
        return self.at < len(self.chunk)

    def skip(self, lines: int, size: int) -> None:
        """Leave out lines of the chunk with ``size`` bytes, line feeds included."""
        self.at += lines
        self.number += lines
        self.offset += size

    def __next__(self) -> Line:
        if self.more():
            return self._given(self.chunk[self.at], b"\n")
        if not self._rest:
            raise StopIteration
        raw, self._rest = self._rest, b""
        if len(raw) >= dataset.MAX_LINE:
            self._next = self._stop
            return Line(self.number, self.offset, raw[:200], cut=True)
        line = self._given(raw, b"")
        self.number += 1
        return line

    def _given(self, raw: bytes, end: bytes) -> Line:
        body = raw.rstrip(b"\r\n")
        line = Line(self.number, self.offset, body, end=raw[len(body) :] + end)
        self.skip(1 if end else 0, len(raw) + len(end))
        return line

    def _fill(self) -> None:
        """Read on to the next line end, at most one line over the limit."""
        pieces = [self._rest]
        size = len(self._rest)
        self.chunk, self.at = [], 0
        while self._next < self._stop and size <= dataset.MAX_LINE:
            read = os.pread(self._file, min(CHUNK, self._stop - self._next), self._next)
            if not read:
                break
            self._next += len(read)
            if self._on_read:
                self._on_read(self._next - self._start)
            size += len(read)
            pieces.append(read)
            if b"\n" in read:
                break
        *self.chunk, self._rest = b"".join(pieces).split(b"\n")
        if self.chunk and len(self.chunk[0]) >= dataset.MAX_LINE:
            self.chunk, self._rest = [], self.chunk[0]


def read_line(file: int, offset: int) -> bytes:
    """The line that begins at an offset, without its end."""
    found, size = b"", 4096
    while b"\n" not in found and (read := os.pread(file, size, offset + len(found))):
        found, size = found + read, CHUNK
    return found.partition(b"\n")[0].rstrip(b"\r")


def cut(file: int, size: int, parts: int) -> list[Range]:
    """About equal ranges, each at a line's begin; fewer where a line is longer than one."""
    starts = [0]
    for place in range(1, parts):
        start = _after_line(file, size * place // parts)
        if starts[-1] < start < size:
            starts.append(start)
    number, ranges = 1, list[Range]()
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        ranges.append(Range(start, stop, number))
        if stop < size:
            number += _line_feeds(file, start, stop)
    return ranges


def _after_line(file: int, offset: int) -> int:
    end = offset + dataset.MAX_LINE
    while offset < end and (read := os.pread(file, CHUNK, offset)):
        found = read.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(read)
    return 0


def _line_feeds(file: int, start: int, stop: int) -> int:
    count = 0
    while start < stop:
        read = os.pread(file, min(CHUNK, stop - start), start)
        if not read:
            break
        count += read.count(b"\n")
        start += len(read)
    return count
