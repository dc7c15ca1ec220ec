"""CSV as records with the lines they begin in: any usual delimiter, cells with line breaks, and
what a wrong quote leaves."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from finetune_gateway.data.content import DELIMITERS, delimiter_of, separator_line
from finetune_gateway.data.json_reader import MAX_ROW, lines_of, opened
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.tables import Record, table_rows

_TRIES = 3  # records without an end that are read to the end of the file
_MOST_LINES = 100  # of a record after that


def csv_rows(path: Path, encoding: str, reading: Reading) -> Iterator[tuple[int, str]]:
    """Yield line and JSON of each record. Raises DataError for two columns of one name."""
    limit = csv.field_size_limit(MAX_ROW)
    try:
        with opened(path, encoding) as file:
            yield from table_rows(_records(_Lines(file)), reading, str(path))
    finally:
        csv.field_size_limit(limit)


class _Lines(Iterator[str]):
    """The lines of a file; those of the record that is read are kept, to be read again."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._again = lines_of(file), deque[str]()
        self.number = 0  # of the line that was read last
        self.record: list[str] = []
        self.size = self._failures = 0

    def __next__(self) -> str:
        tried = self._failures >= _TRIES
        if self.size > MAX_ROW or (tried and len(self.record) > _MOST_LINES):
            raise csv.Error("a quote is not closed")
        line = self._again.popleft() if self._again else next(self._file)
        self.number += 1
        self.size += len(line)
        self.record.append(line)
        return line

    def start(self) -> int:
        """Begin a record; return the number of its first line."""
        self.record, self.size = [], 0
        return self.number + 1

    def give_back(self, keep: int) -> None:
        """Let the lines of the record after the first ``keep`` be read again."""
        self._failures += len(self.record) > _MOST_LINES
        again = self.record[keep:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        del self.record[keep:]


def _records(lines: _Lines) -> Iterator[Record]:
    delimiter = _delimiter(lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = lines.start()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            lines.give_back(1)
            raw = "".join(lines.record).rstrip("\r\n")
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            yield Record(first, [raw], raw, _fault(str(exc)))
            continue
        yield Record(first, cells, "".join(lines.record).rstrip("\r\n"))


def _fault(message: str) -> str:
    if "expected after" in message:
        return "a quote inside a cell ends it, and text follows"
    if "end of data" in message or "not closed" in message:
        return "a quote opens a cell and is not closed"
    return f"the line cannot be read: {message}"


def _delimiter(lines: _Lines) -> str:
    """Return the delimiter, from Excel's line that names it, or from the header."""
    for line in lines:
        if mark := separator_line(line):
            return mark if mark in DELIMITERS else delimiter_of(mark)
        if line.strip():
            lines.give_back(len(lines.record) - 1)
            return delimiter_of(line)
    return ","
