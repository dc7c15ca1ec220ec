"""Parts of a file, cut at line ends, and their lines, read a chunk at a time.

Uses ``pread`` instead of a shared position, so that several processes can read one file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_gateway.data import dataset
from finetune_gateway.data.dataset import CHUNK, Line

OnProgress = Callable[[int, int], None]  # called with the bytes done and the bytes in total


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from ``start`` to ``stop``; the first line has this ``number``."""

    start: int
    stop: int
    number: int = 1


class Lines(Iterator[Line]):
    """The lines of a range.

    ``chunk``: lines without their line feed, of which those from ``at`` on are still to come;
    ``number`` and ``offset`` are those of the next one. A caller that takes lines from the chunk
    calls ``skip``. The last line of a file without a line feed, and a line that is too long, are
    never in the chunk.
    """

    def __init__(self, file: int, part: Range, on_progress: OnProgress | None = None) -> None:
        self._file, self._on_progress = file, on_progress
        self._start = part.start
        self._size = min(part.stop, os.fstat(file).st_size) - part.start
        self._next, self._stop = part.start, part.stop
        self._rest = b""
        self.chunk: list[bytes] = []
        self.at = 0
        self.offset, self.number = part.start, part.number

    def more(self) -> bool:
        """Return True if the chunk has a line; reads the next chunk if it is used up."""
        if self.at >= len(self.chunk):
            self._fill()
        return self.at < len(self.chunk)

    def skip(self, lines: int, size: int) -> None:
        """Skip lines of the chunk with ``size`` bytes, line feeds included."""
        self.at += lines
        self.number += lines
        self.offset += size

    def __next__(self) -> Line:
        if self.more():
            return self._take(self.chunk[self.at], b"\n")
        if not self._rest:
            raise StopIteration
        raw, self._rest = self._rest, b""
        if len(raw) >= dataset.MAX_LINE:
            self._next = self._stop
            return Line(self.number, self.offset, raw[:200], cut=True)
        line = self._take(raw, b"")
        self.number += 1
        return line

    def _take(self, raw: bytes, end: bytes) -> Line:
        body = raw.rstrip(b"\r\n")
        line = Line(self.number, self.offset, body, end=raw[len(body) :] + end)
        self.skip(1 if end else 0, len(raw) + len(end))
        return line

    def _fill(self) -> None:
        """Read up to the next line end, at most one line over the limit."""
        pieces = [self._rest]
        size = len(self._rest)
        self.chunk, self.at = [], 0
        while self._next < self._stop and size <= dataset.MAX_LINE:
            read = os.pread(self._file, min(CHUNK, self._stop - self._next), self._next)
            if not read:
                break
            self._next += len(read)
            if self._on_progress:
                self._on_progress(self._next - self._start, self._size)
            size += len(read)
            pieces.append(read)
            if b"\n" in read:
                break
        *self.chunk, self._rest = b"".join(pieces).split(b"\n")
        if self.chunk and len(self.chunk[0]) >= dataset.MAX_LINE:
            self.chunk, self._rest = [], self.chunk[0]


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
