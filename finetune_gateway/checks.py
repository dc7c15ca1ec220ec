"""``validate``: every rule against every row of a dataset, in one pass.

Streams: what it keeps does not grow with the rows, but for 16 bytes each to find repeated
ones. Never raises for what a file holds; everything said is a ``Finding`` in the ``Report``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from finetune_gateway import formats, spanning
from finetune_gateway.dataset import Dataset, Line
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect, Finding, Findings, Report, json_type, quoted
from finetune_gateway.formats import Format
from finetune_gateway.parsing import BadLine, decode, escape_defects, parse
from finetune_gateway.quality import Repetition, text_defects
from finetune_gateway.row_checks import row_defects
from finetune_gateway.sniffing import BOM, HEAD, file_defect

__all__ = ["Finding", "Report", "RowCounter", "validate"]

Json = dict[str, Any]

MIN_ROWS = 10  # OpenAI's guide on supervised fine-tuning
MAX_FILE = 512 << 20  # bytes; OpenAI's limit for a training file
_KEPT = 10  # blank lines and repeated rows whose numbers are kept

_FITTING = {
    "chat": "sft",
    "prompt_completion": "sft",
    "preference": "dpo (or orpo)",
    "unpaired_preference": "kto",
    "text": "pretrain",
}


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


def validate(
    dataset: Dataset,
    *,
    model: str | None = None,
    backends: Sequence[str] | None = None,
    method: str = "sft",
    counter: RowCounter | None = None,
    max_context: int | None = None,
    min_rows: int | None = None,
    on_row: Callable[[Json, int], None] | None = None,
) -> Report:
    """Check a dataset and report what is wrong, where, why, and what to do.

    ``backends``: whose rules count (default: openai, azure and local). ``counter`` and
    ``on_row`` are given each row that has no error, ``on_row`` with its line.
    ``max_context``: tokens an example may have; needs a ``counter``. ``min_rows``: examples a
    job needs (default 10).
    """
    check = _Check(method, Findings(backends), counter, on_row)
    check.limit(max_context, f"{model} takes" if model else "the limit is")
    check.read(dataset)
    return check.report(MIN_ROWS if min_rows is None else min_rows)


class _Check:
    """One pass over one file."""

    def __init__(
        self,
        method: str,
        findings: Findings,
        counter: RowCounter | None,
        on_row: Callable[[Json, int], None] | None,
    ) -> None:
        self.method = method
        self.findings = findings
        self.counter = counter
        self.on_row = on_row
        self.max_context: int | None = None
        self.limit_words = ""
        self.format: Format | None = None
        self.format_line = 0
        self.rows = self.objects = self.lookaheads = 0
        self.ends: set[bytes] = set()
        self.blanks: list[int] = []
        self.blank_count = 0
        self.ahead: deque[Line] = deque()
        self.repetition = Repetition()

    def limit(self, max_context: int | None, words: str) -> None:
        self.max_context, self.limit_words = max_context, words

    # -- the file --------------------------------------------------------------------------

    def read(self, dataset: Dataset) -> None:
        """Look at the file as a whole, then at each line."""
        with dataset.path.open("rb") as file:
            head = file.read(HEAD)
        if defect := file_defect(head):
            self.findings.add(defect)
            return
        if dataset.size > MAX_FILE:
            self.findings.add(Defect("file_too_large", detail=f"the file has {dataset.size} bytes"))
        self._lines(dataset.lines())
        self._ended()

    def _lines(self, source: Iterator[Line]) -> None:
        while line := self._next(source):
            if line.cut:
                self.findings.add(Defect("line_too_long"), line.number)
                self.rows += 1
                return
            if not self._line(line, source):
                return

    def _next(self, source: Iterator[Line]) -> Line | None:
        return self.ahead.popleft() if self.ahead else next(source, None)

    def _line(self, line: Line, source: Iterator[Line]) -> bool:
        """Check one line; False when reading on makes no sense."""
        self.ends.add(line.end)
        raw = self._without_bom(line)
        if not raw.strip():
            self._blank(line.number)
            return True
        self._blanks_inside()
        self.rows += 1
        try:
            text = decode(raw, line.offset + len(line.raw) - len(raw))
            value = parse(text)
        except BadLine as exc:
            return self._bad(exc, line, raw, source)
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
        if self.blank_count and self.rows:
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
        if not exc.unfinished or self.lookaheads >= spanning.MAX_TRIES:
            self.findings.add(exc.defect, line.number)
            return True
        array = self.rows == 1 and raw.lstrip().startswith(b"[")
        in_string = exc.unfinished == "string"
        span = spanning.look_ahead(
            line, raw, lambda: self._next(source), array=array, in_string=in_string
        )
        if span.defect is None:
            self.lookaheads += 1
            self.ahead.extendleft(reversed(span.read))
        self.findings.add(span.defect or exc.defect, line.number)
        return not array

    def _ended(self) -> None:
        if not self.rows:
            self.findings.add(Defect("no_examples"))
        elif self.blank_count:
            self._note_blanks("trailing_blank_line")
        if {b"\n", b"\r\n"} <= self.ends:
            self.findings.add(Defect("mixed_line_endings"))
        self._repeated()

    def _repeated(self) -> None:
        for code in ("duplicates", "near_duplicates"):
            count, first = _first_repeated(self.repetition, code)
            for line, earlier in first:
                rows = "1 row repeats" if count == 1 else f"{count} rows repeat"
                but = " but for case or spaces" if code == "near_duplicates" else ""
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
        self.repetition.add(text, line)
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
            yield from row_defects(row, found, self.method)
            return
        detail = (
            f"line {line} is in the format {found.name}, but line {self.format_line} in "
            f"{self.format.name}"
        )
        yield Defect("mixed_formats", detail=detail)

    def _first(self, found: Format, line: int) -> Iterator[Defect]:
        if found.note:
            yield Defect(found.note)
        if self.method not in found.methods:
            fits = _FITTING.get(found.kind, "another method")
            detail = f"the rows are in the format {found.name}, but the method is {self.method}"
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
        if self.max_context is not None and total > self.max_context:
            detail = f"an example of {total:,} tokens, but {self.limit_words} {self.max_context:,}"
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


def _first_repeated(repetition: Repetition, code: str) -> tuple[int, list[tuple[int, int]]]:
    """How many rows repeat an earlier one, and the first of them with the earlier line."""
    count, kept = 0, list[tuple[int, int]]()
    for own, line, earlier in repetition.repeated():
        if own != code:
            continue
        count += 1
        kept.append((line, earlier))
        if len(kept) > 1000:  # sorted now and then: the rows come in no order
            kept = sorted(kept)[:_KEPT]
    return count, sorted(kept)[:_KEPT]
