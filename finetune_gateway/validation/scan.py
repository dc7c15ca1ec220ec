"""One pass over a file, or over a part of it: every rule against every row.

Streams: what it keeps does not grow with the rows, but for 20 bytes each to find repeated ones.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from finetune_gateway.data import formats
from finetune_gateway.data.dataset import Line
from finetune_gateway.data.formats import Format
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect, Report
from finetune_gateway.methods import METHODS
from finetune_gateway.text.quoting import json_type, quoted
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.validation.chunks import Lines, Range, read_line
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.detectors import text_defects
from finetune_gateway.validation.duplicates import Repeats
from finetune_gateway.validation.fast_path import Batch, Screen
from finetune_gateway.validation.json import multiline
from finetune_gateway.validation.json.file_type import BOM, HEAD, file_defect
from finetune_gateway.validation.json.parsing import BadLine, decode, escape_defects, parse
from finetune_gateway.validation.rows.row import row_defects

Json = dict[str, Any]

MAX_FILE = 512 << 20  # bytes; OpenAI's limit for a training file
_BATCH = 1024  # rows taken the short way at once: each step with its tables in the cache
_CR, _LAST = 13, itemgetter(-1)  # a byte, and what gives the last one of a line
_SPACE = b" \t\r\n"  # of JSON; a form feed is none
_KEPT = 10  # blank lines and repeated rows whose numbers are kept


class Counted(Protocol):
    """The tokens of one row."""

    @property
    def total(self) -> int: ...


class Summed(Protocol):
    """The tokens of all rows."""

    def summary(self) -> Json: ...


class RowCounter(Protocol):
    """Counts rows as they are checked, so that no second pass is needed (``TokenCounter``)."""

    def add(self, row: Json) -> Counted: ...

    def stats(self) -> Summed: ...


@dataclass(frozen=True, slots=True)
class Task:
    """What to check a file, or a part of it, for."""

    path: Path
    method: str
    backends: tuple[str, ...]
    max_context: int | None
    words: str  # what the limit is called
    counter: TokenCounter | None = None  # a fresh one, for a process of its own
    near_duplicates: bool = True
    part: Range = Range(0, sys.maxsize)
    last: bool = True


class Alone(Exception):
    """The parts cannot be judged apart: a value, or the limit of something, spans them."""


class Scan:
    """One pass over one file, or over a part of it."""

    def __init__(
        self,
        task: Task,
        counter: RowCounter | None,
        on_row: Callable[[Json, int], None] | None,
        on_read: Callable[[int], None] | None = None,
    ) -> None:
        self.task = task
        self.on_read = on_read
        self.findings = Findings(task.backends)
        self.counter = counter
        self.on_row = on_row
        plain = on_row is None and (counter is None or isinstance(counter, TokenCounter))
        self.screen = Screen(task.method) if plain else None
        self.format: Format | None = None
        self.format_line = 0
        self.rows = self.objects = self.lookaheads = 0
        self.ends: set[bytes] = set()
        self.blanks: list[int] = []
        self.blank_count = 0
        self.ahead: deque[Line] = deque()
        self.repeats = Repeats(task.near_duplicates)
        self.batch = 1  # rows to try the short way at once: few where the last ones were not clean
        self.stopped = self.looking = False
        self.earlier = 0  # rows before this part, as far as they matter: none or some
        if task.part.start:
            self.format, self.format_line, self.earlier = formats.CHAT, 1, 1

    # -- the file --------------------------------------------------------------------------

    def read(self) -> None:
        """Look at the file as a whole, then at each line."""
        with self.task.path.open("rb") as file:
            if self.task.part.start == 0 and not self._head(file.read(HEAD)):
                self.stopped = True
                return
            self._lines(Lines(file.fileno(), self.task.part, self.on_read))
        if self.task.part.stop == sys.maxsize:
            self.ended()

    def _head(self, head: bytes) -> bool:
        if defect := file_defect(head):
            self.findings.add(defect)
            return False
        size = self.task.path.stat().st_size
        if size > MAX_FILE:
            self.findings.add(Defect("file_too_large", detail=f"the file has {size} bytes"))
        return True

    def _lines(self, source: Lines) -> None:
        while not self.stopped:
            self._skim(source)
            line = self._next(source)
            if line is None:
                return
            if line.cut:
                self.findings.add(Defect("line_too_long"), line.number)
                self.rows += 1
                self.stopped = True
            elif not self._line(line, source):
                self.stopped = True

    def _skim(self, source: Lines) -> None:
        """Take rows the short way, as long as there is nothing to say about them."""
        if self.screen is None or self.format is not formats.CHAT or self.ahead:
            return
        while source.more() and source.chunk[source.at]:
            taken, size = self._clean(source, self.screen)
            source.skip(taken, size)
            if source.at < len(source.chunk):
                return

    def _clean(self, source: Lines, screen: Screen) -> tuple[int, int]:
        """How many lines, from the next on, are clean rows; their bytes."""
        lines = size = 0
        while raws := source.chunk[source.at + lines : source.at + lines + self.batch]:
            batch = screen.clean(raws)
            count = self._counted(batch)
            taken = raws[:count]
            begun = source.offset + size
            size += self.repeats.add(taken, source.number + lines, begun) - begun
            lines += count
            self._taken(taken)
            if count < len(raws):
                self.batch = 1
                break
            self.batch = min(2 * self.batch, _BATCH)
        return lines, size

    def _counted(self, batch: Batch) -> int:
        if not isinstance(self.counter, TokenCounter):
            return len(batch.roles)
        limit = self.task.max_context
        return self.counter.add_plain(batch.roles, batch.texts, limit)

    def _taken(self, raws: Sequence[bytes]) -> None:
        """Note rows that were taken the short way."""
        if not raws:
            return
        if self.blank_count:
            self._blanks_inside()
        for last in set(map(_LAST, raws)):
            self.ends.add(b"\r\n" if last == _CR else b"\n")
        self.rows += len(raws)
        self.objects += len(raws)

    def _next(self, source: Iterator[Line]) -> Line | None:
        line = self.ahead.popleft() if self.ahead else next(source, None)
        if line is None and self.looking and not self.task.last:
            raise Alone  # the value may go on in the next part
        return line

    def _line(self, line: Line, source: Iterator[Line]) -> bool:
        """Check one line; False when reading on makes no sense."""
        self.ends.add(line.end)
        raw = self._without_bom(line)
        if not raw.strip(_SPACE):
            self._blank(line.number)
            return True
        self._blanks_inside()
        self.rows += 1
        try:
            text = decode(raw, line.offset + len(line.raw) - len(raw))
            value = parse(text)
        except BadLine as exc:
            return self._bad(exc, line, raw, source)
        if isinstance(value, dict):
            self.repeats.add([raw], line.number, line.offset + len(line.raw) - len(raw))
        self._value(value, text, line.number)
        return True

    def _without_bom(self, line: Line) -> bytes:
        if line.number != 1 or not line.raw.startswith(BOM):
            return line.raw
        self.findings.add(Defect("utf8_bom", detail="byte 0: a UTF-8 byte order mark"), 1)
        return line.raw[len(BOM) :]

    def _blank(self, number: int) -> None:
        self.blank_count += 1
        if len(self.blanks) < _KEPT:
            self.blanks.append(number)

    def _blanks_inside(self) -> None:
        if self.blank_count and self.rows + self.earlier:
            self._note_blanks("blank_line")
        elif self.blank_count:
            self._note_blanks("blank_line", "blank lines before the first row")

    def _note_blanks(self, code: str, detail: str = "") -> None:
        for number in self.blanks:
            self.findings.add(Defect(code, detail=detail), number)
        if self.blank_count > len(self.blanks):
            self.findings.add(Defect(code), count=self.blank_count - len(self.blanks))
        self.blanks, self.blank_count = [], 0

    def _bad(self, exc: BadLine, line: Line, raw: bytes, source: Iterator[Line]) -> bool:
        """A line that is no JSON: it may be a piece of a value that spans several lines."""
        if not exc.unfinished or self.lookaheads >= multiline.MAX_TRIES:
            self.findings.add(exc.defect, line.number)
            return True
        array = self.rows + self.earlier == 1 and raw.lstrip().startswith(b"[")
        in_string = exc.unfinished == "string"
        self.looking = True
        span = multiline.look_ahead(
            line, raw, lambda: self._next(source), array=array, in_string=in_string
        )
        self.looking = False
        if span.defect is None:
            self.lookaheads += 1
            self.ahead.extendleft(reversed(span.read))
        self.findings.add(span.defect or exc.defect, line.number)
        return not array

    def join(self, later: Scan) -> None:
        """Add what was found in the part that follows. Raises Alone."""
        if self.blank_count and later.rows:
            self._note_blanks("blank_line")
        self.lookaheads += later.lookaheads
        if self.lookaheads > multiline.MAX_TRIES or not self.findings.extend(later.findings):
            raise Alone
        self.blanks = (self.blanks + later.blanks)[:_KEPT]
        self.blank_count += later.blank_count
        self.rows += later.rows
        self.objects += later.objects
        self.ends |= later.ends
        self.repeats.extend(later.repeats)
        self.stopped = later.stopped

    def ended(self) -> None:
        """Say what can be said at the end only."""
        if self.stopped and not self.rows:
            return
        if not self.rows:
            self.findings.add(Defect("no_examples"))
        elif self.blank_count:
            self._note_blanks("trailing_blank_line")
        if {b"\n", b"\r\n"} <= self.ends:
            self.findings.add(Defect("mixed_line_endings"))
        self._repeated()

    def _repeated(self) -> None:
        with self.task.path.open("rb") as file:
            found = list(_first_repeated(self.repeats, file.fileno()))
        for exact, count, first in found:
            code = "duplicates" if exact else "near_duplicates"
            rows = "1 row repeats" if count == 1 else f"{count} rows repeat"
            but = "" if exact else " but for case, spaces or the order of keys"
            for line, earlier in first:
                detail = f"{rows} an earlier one{but}; line {line} repeats line {earlier}"
                self.findings.add(Defect(code, detail=detail), line)
            if count > len(first):
                self.findings.add(Defect(code), count=count - len(first))

    # -- a row -----------------------------------------------------------------------------

    def _value(self, value: Any, text: str, line: int) -> None:
        if not isinstance(value, dict):
            self.findings.add(_not_object(value), line)
            return
        self.objects += 1
        # A list, not a generator in any(): every defect is to be noted, not only the first.
        errors = [self.findings.add(defect, line) for defect in self._defects(value, text, line)]
        if not any(errors):
            self._good(value, line)

    def _defects(self, row: Json, text: str, line: int) -> Iterator[Defect]:
        yield from escape_defects(text, row)
        found = formats.format_of(row)
        if found is None:
            yield _unknown(row, self.format)
        else:
            yield from self._known(row, found, line)
        yield from text_defects(text, row)

    def _known(self, row: Json, found: Format, line: int) -> Iterator[Defect]:
        if self.format is None:
            self.format, self.format_line = found, line
            yield from self._first(found, line)
        if found is self.format:
            yield from row_defects(row, found, self.task.method)
            return
        detail = (
            f"line {line} is in the format {found.name}, but line {self.format_line} in "
            f"{self.format.name}"
        )
        yield Defect("mixed_formats", detail=detail)

    def _first(self, found: Format, line: int) -> Iterator[Defect]:
        if found.note:
            yield Defect(found.note)
        if self.task.method not in found.methods:
            fits = _fitting(found.methods)
            detail = (
                f"the rows are in the format {found.name}, but the method is {self.task.method}"
            )
            yield Defect("method_mismatch", detail=detail, fix=f"Use the method {fits}.")

    def _good(self, row: Json, line: int) -> None:
        if self.on_row:
            self.on_row(row, line)
        if not self.counter:
            return
        try:
            total = self.counter.add(formats.as_chat(row)).total
        except DataError as exc:  # a local model's own template does not take this row
            self.findings.add(Defect("template_refuses", detail=exc.message, fix=exc.hint), line)
            return
        if self.task.max_context is not None and total > self.task.max_context:
            detail = (
                f"an example of {total:,} tokens, but {self.task.words} {self.task.max_context:,}"
            )
            self.findings.add(Defect("example_too_long", detail=detail), line)

    def report(self, min_rows: int) -> Report:
        """What was found."""
        if self.objects and self.rows < min_rows:
            count = "1 row" if self.rows == 1 else f"{self.rows} rows"
            detail = f"{count}; a job needs at least {min_rows}"
            self.findings.add(Defect("too_few_examples", detail=detail))
        listed = self.findings.listed()
        return Report(
            ok=all(found.severity != "error" for found in listed),
            format=self.format.name if self.format else "unknown",
            kind=self.format.kind if self.format else "unknown",
            rows=self.rows,
            tokens=self.counter.stats().summary() if self.counter else None,
            findings=listed,
        )


def _not_object(value: Any) -> Defect:
    if not isinstance(value, list) or not value or not all(isinstance(x, dict) for x in value):
        return Defect("row_not_object", detail=f"the line is {json_type(value)}, not an object")
    if "role" in value[0]:
        return Defect("row_not_object", detail="the line is a bare list of messages")
    return Defect("json_array_not_jsonl", detail=f"the line is an array of {len(value)} objects")


def _unknown(row: Json, expected: Format | None) -> Defect:
    keys = formats.keys_seen(row)
    for key in row:
        if key.strip().lower() == "messages":
            return Defect("missing_messages", "messages", f"no 'messages', but {quoted(key)}")
    if expected is formats.CHAT:
        return Defect("missing_messages", "messages", f"no 'messages'; the keys are {keys}")
    if "custom_id" in row and "body" in row:
        fix = "Take body.messages of each line and add the answer."
        return Defect("unknown_format", detail="this is a file for the Batch API", fix=fix)
    return Defect("unknown_format", detail=f"no known training format has the keys {keys}")


def _first_repeated(
    repeats: Repeats, file: int
) -> Iterator[tuple[bool, int, list[tuple[int, int]]]]:
    """How many rows repeat an earlier one, exactly and nearly, and the first of them with the
    earlier line."""
    counts = {True: 0, False: 0}
    kept: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for found in repeats.found(lambda offset: read_line(file, offset)):
        counts[found.exact] += 1
        first = kept[found.exact]
        first.append((found.line, found.earlier))
        if len(first) > 1000:  # sorted now and then: the rows come in no order
            kept[found.exact] = sorted(first)[:_KEPT]
    for exact in (True, False):
        if counts[exact]:
            yield exact, counts[exact], sorted(kept[exact])[:_KEPT]


def _fitting(methods: frozenset[str]) -> str:
    usual, *others = [name for name in METHODS if name in methods and name != "reinforcement"]
    return f"{usual} (or {', '.join(others)})" if others else usual
