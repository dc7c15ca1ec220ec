"""``--fix``: write a copy with everything fixed that needs no guess, and log each change.

A line that cannot be read is kept unchanged. The copy is then validated, and the remaining
findings are listed with their lines in both files.
"""

from __future__ import annotations

import codecs
import os
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from finetune_gateway.data.around_rows import is_fence, is_fenced
from finetune_gateway.data.canonical import read
from finetune_gateway.data.cells import listed
from finetune_gateway.data.column_names import with_path
from finetune_gateway.data.columns import Renaming
from finetune_gateway.data.compression import decompressed
from finetune_gateway.data.dataset import BOM, Dataset, Line
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.json_files import array_rows
from finetune_gateway.data.python_literals import read_literal
from finetune_gateway.data.reading import Observation, Reading
from finetune_gateway.data.row_access import dumped
from finetune_gateway.data.row_content import is_example, same_digest
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report
from finetune_gateway.preparation.convert import raise_if_taken, whole_file
from finetune_gateway.preparation.fix_line import split_values, unlisted, whole_row
from finetune_gateway.preparation.fix_report import FixReport, kept_as, left, unsafe
from finetune_gateway.preparation.fix_row import (
    Change,
    Formats,
    failure_of,
    fix_row,
    pairs_of,
    unwrapped,
)
from finetune_gateway.preparation.line_table import LineTable
from finetune_gateway.settings.arguments import as_path
from finetune_gateway.text.quoting import hidden, shortened
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.file_bytes import HEAD, file_defect
from finetune_gateway.validation.json.parsing import BadLine, balance, decode, parse
from finetune_gateway.validation.rows.formats import is_message
from finetune_gateway.validation.run import MIN_ROWS
from finetune_gateway.validation.text_only import not_text, require_cells

MAX_SHOWN = 200  # characters of before and after in the log
_MAX_SPAN = 1 << 20  # bytes of one object that spans several lines
_MARKS = frozenset({"role", "from"})  # keys of a message or a turn
# What was seen when a table was read: written otherwise in the copy, or left as it is.
_READ_AS = {
    "encoding_converted": "utf-8",
    "encoding_not_utf8": "read as Windows-1252, written as UTF-8",
    "file_truncated": "the rows that are whole",
    "rows_under_key": "one row a line",
    "rows_in_columns": "one row a line",
    "rows_in_cells": "one row a line",
    "header_names": "the known names",
    "header_missing": "column 1, column 2, ...",
    "cell_python": "JSON",
    "messages_by_line": "one conversation a line",
    "sheet_chosen": "the rows of that sheet",
}
_LEFT = (
    "file_truncated", "header_missing", "conversation_unknown", "no_value", "spreadsheet_error",
)  # fmt: skip
# Before each row of application/json-seq (RFC 7464); a line of Markdown around rows.
_BESIDE = re.compile(rb"\x1e|\s*(?:```+|~~~+)\s*[\w-]*\s*\Z")
_PYTHON = ("json_single_quotes", "json_python_literal")  # rules: what Python prints breaks them


def fix(
    dataset: Dataset, out: str | os.PathLike[str], *, force: bool = False,
    check: Callable[[Dataset], Report] = validation_run.validate,
) -> FixReport:  # fmt: skip
    """Write a fixed copy and a log of the changes, ``check`` the copy; see ``Dataset.fix``."""
    if dataset.reading.is_other_file:
        dataset.require_certain()
    path = as_path(out, "out")
    log = path.with_name(f"{path.name}.changes.jsonl")
    raise_if_taken(path, dataset, force)
    raise_if_taken(log, dataset, force)
    held = decompressed(dataset.given or dataset).by_content()
    require_cells(held)
    renaming = Renaming(dataset.reading.columns, held) if dataset.reading.columns else None
    with whole_file(path) as rows, whole_file(log) as changes:
        fixer = _Fixer(rows, changes, renaming)
        fixer.read(held)
        while fixer.formats.is_wrong or fixer.lacks_repeats:
            fixer = fixer.anew(renaming and Renaming(dataset.reading.columns, held))
            fixer.read(held)
        if fixer.renaming:
            fixer.renaming.require_found()
    report = check(Dataset(path))
    return FixReport(
        out=str(path),
        log=str(log),
        rows=len(fixer.origin),
        changes=dict(sorted(fixer.counts.items())),
        kept=with_path(kept_as(fixer.formats), path, {}),
        unsafe=[
            *map(left, fixer.left),
            *(unsafe(finding, fixer.origin) for finding in report.errors + report.warnings),
        ],
        report=report,
    )


@dataclass(slots=True)
class _Fixer:
    """One pass over a file."""

    rows: IO[bytes]
    log: IO[bytes]
    renaming: Renaming | None = None
    counts: dict[str, int] = field(default_factory=dict)
    origin: array[int] = field(default_factory=lambda: array("I"))  # input line of each row written
    tables: tuple[LineTable, ...] = field(
        default_factory=lambda: tuple(LineTable() for _ in range(256))
    )
    pushed_back: deque[Line] = field(default_factory=deque)  # lines read ahead
    max_span: int = _MAX_SPAN  # reduced by each failed attempt to join lines
    formats: Formats = field(default_factory=Formats)
    left: list[Observation] = field(default_factory=list)  # to be corrected by hand
    cut: bool = False  # an array begins in line 1, which was cut off
    is_fenced: bool = False  # blocks of code in Markdown hold the rows
    in_block: bool = False  # the line is in one
    keeps_repeats: bool = False  # rows that repeat an earlier one are left
    has_pieces: bool = False  # lines are pieces of something larger, and "Yes." may come twice

    @property
    def lacks_repeats(self) -> bool:
        """True if rows that repeat an earlier one were needed. Of a file with pieces each is; and
        where a job has enough rows only with them: hosts refuse a shorter file, and only warn of
        repeats."""
        rows, repeats = len(self.origin), self.counts.get("duplicates", 0)
        return repeats > 0 and (self.has_pieces or rows < MIN_ROWS <= rows + repeats)

    def anew(self, renaming: Renaming | None) -> _Fixer:
        """Return a pass from the start that leaves rows in their format, labels as they are, or
        repeats where they are."""
        for file in (self.rows, self.log):
            file.seek(0)
            file.truncate()
        formats = self.formats.corrected()
        repeats = self.keeps_repeats or self.lacks_repeats
        return _Fixer(self.rows, self.log, renaming, formats=formats, keeps_repeats=repeats)

    def read(self, dataset: Dataset) -> None:
        """Fix a file in any container or encoding."""
        if dataset.container not in ("jsonl", "rows"):
            self.note(1, Change("container", "", dataset.container, "jsonl"))
        self._note_reading(dataset.reading)
        self.has_pieces |= dataset.container == "text"
        with dataset.path.open("rb") as file:
            head = file.read(HEAD)
        self.is_fenced = is_fenced(dataset.path)
        defect = file_defect(head)
        if defect and defect.code.startswith("encoding_utf"):
            self._fix_wide_encoding(dataset, head, defect.code)
        elif defect:
            raise not_text(dataset, defect)
        elif head.removeprefix(BOM).lstrip().startswith(b"[") and _is_array_file(dataset.path):
            self._fix_array(dataset, head)
        elif _has_cr_lines(dataset.path):
            self._fix_cr_lines(dataset)
        elif dataset.is_spooled:
            self._fix_lines(line for line in dataset.lines() if line.raw)
        else:
            self._fix_lines(dataset.lines())

    def _note_reading(self, reading: Reading) -> None:
        """Log what was read otherwise than it was written."""
        self.left += [one for one in reading.observations.values() if one.code in _LEFT]
        for one in reading.observations.values():
            if one.code in _READ_AS:
                change = Change(one.code, one.path, one.detail or None, _READ_AS[one.code])
                for line in one.lines or [1]:
                    self.note(line, change)
                self.counts[one.code] += one.count - len(one.lines or [1])

    def note(self, line: int, change: Change) -> None:
        """Log a change."""
        self.counts[change.code] = self.counts.get(change.code, 0) + 1
        entry = {"line": line, "path": change.path, "code": change.code}
        entry |= {"before": _shown(change.before), "after": _shown(change.after)}
        self.log.write(dumped(entry).encode() + b"\n")

    # -- the file --------------------------------------------------------------------------

    def _fix_wide_encoding(self, dataset: Dataset, head: bytes, code: str) -> None:
        """Read UTF-16 or UTF-32, which the first bytes identify."""
        wide = "utf-32" if code == "encoding_utf32" else "utf-16"
        marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
        order = "" if marked else "-be" if head[0] == 0 else "-le"
        self.note(1, Change(code, "", f"{wide}{order}", "utf-8"))
        with dataset.path.open(encoding=f"{wide}{order}", newline="\n") as file:
            lines = (Line(n, 0, text.rstrip("\r\n").encode()) for n, text in enumerate(file, 1))
            try:
                self._fix_lines(lines)
            except UnicodeDecodeError as exc:
                raise DataError(
                    f"{dataset.name} begins as {wide}, but is not {wide} throughout: {exc.reason}.",
                    hint="Export it again as UTF-8.",
                ) from None

    def _fix_cr_lines(self, dataset: Dataset) -> None:
        self.note(1, Change("line_terminator", "", "CR", "LF"))
        with dataset.path.open(encoding="utf-8", newline="\r", errors="surrogateescape") as file:
            raws = (text.rstrip("\r").encode("utf-8", "surrogateescape") for text in file)
            self._fix_lines(Line(number, 0, raw) for number, raw in enumerate(raws, 1))

    def _fix_array(self, dataset: Dataset, head: bytes) -> None:
        """Write each row of a JSON array on its own line; its number counts as the line."""
        if head.startswith(BOM):
            self.note(1, Change("utf8_bom", "", "EF BB BF", ""))
        self.note(1, Change("json_array_not_jsonl", "", "one array", "one row a line"))
        last = 0
        reading = Reading()
        for line, text in array_rows(dataset.path, reading=reading):
            last = max(line, last + 1)
            self._fix_line(Line(last, 0, text.encode()), iter(()))
        self._note_reading(reading)

    def _fix_lines(self, source: Iterator[Line]) -> None:
        crlf = 0
        while line := self.pushed_back.popleft() if self.pushed_back else next(source, None):
            crlf += line.end == b"\r\n"
            self._fix_line(line, source)
        if crlf:
            self.note(1, Change("line_terminator", "", f"CRLF in {crlf} lines", "LF"))

    # -- a line ----------------------------------------------------------------------------

    def _fix_line(self, line: Line, source: Iterator[Line]) -> None:
        raw = line.raw
        if raw.startswith(BOM):
            code = "utf8_bom" if line.number == 1 else "bom_inside"
            self.note(line.number, Change(code, "", "EF BB BF", ""))
            raw = raw.removeprefix(BOM)
        if not raw.strip():
            self.note(line.number, Change("blank_line", "", "", None))
            return
        if not raw.strip(b"\0 \t"):
            self.note(line.number, Change("nul_byte", "", f"{raw.count(0)} NUL bytes", None))
            return
        if match := _BESIDE.match(raw):
            self.in_block ^= is_fence(raw)
            self.note(line.number, Change("not_json", "", match[0].decode(), None))
            if not (raw := raw[match.end() :]).strip():
                return
        if line.cut:
            raise DataError(
                f"Line {line.number} is longer than 64 MB; nothing was written.",
                hint="Check that rows end in newlines; split the example.",
            )
        try:
            self._fix_value(parse(decode(raw)), raw, line.number)
        except BadLine as exc:
            if (text := self._readable(exc, raw, line.number, source)) is None:
                if self.is_fenced and not self.in_block and raw.lstrip()[:1] not in b"{[":
                    self.note(
                        line.number, Change("not_json", "", raw.decode("utf-8", "replace"), None)
                    )
                    return
                self._fix_bad_line(exc, raw, line.number, source)
            else:
                self._fix_line(Line(line.number, line.offset, text.encode()), source)

    def _readable(self, exc: BadLine, raw: bytes, line: int, source: Iterator[Line]) -> str | None:
        """Return the JSON of a line in Windows-1252, in Python's marks, with NaN or with something
        around it, else None."""
        code = exc.defect.code
        if found := whole_row(raw, code, first=line == 1):
            for change in found[0]:
                self.note(line, change)
            return found[1]
        if code not in _PYTHON:
            return None
        lines = (
            self._join_lines(raw, source) if balance(raw.decode("utf-8", "replace")) > 0 else [raw]
        )
        try:
            value = read_literal(b"\n".join(lines).decode())
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) and not _is_array_of_rows(value):
            return None
        for _ in lines[1:]:
            self.pushed_back.popleft()
        self.note(line, Change(code, "", "Python", "JSON"))
        return dumped(value)

    def _fix_bad_line(self, exc: BadLine, raw: bytes, line: int, source: Iterator[Line]) -> None:
        if exc.unfinished == "value":
            joined = self._join_lines(raw, source)
        else:
            is_listed = raw.rstrip().endswith(b",")  # taken out of an array
            joined = [raw] if is_listed or exc.defect.code == "json_extra_data" else []
        values = split_values(b" ".join(joined)) or split_values(unlisted(raw))
        mark = raw.strip(b"; \t\r")
        if not values and mark == (b"[" if line == 1 else b"]") and (line == 1 or self.cut):
            self.cut = True
            self.note(line, Change("json_array_not_jsonl", "", raw.decode(), None))
            return
        if not values:
            self._keep(raw, line)
            return
        self.cut |= raw.lstrip().startswith(b"[")
        code = "pretty_printed" if len(joined) > 1 else exc.defect.code
        lines, count = len(joined), len(values)
        self.note(line, Change(code, "", f"{count} in {lines} lines", f"{count} lines"))
        for _ in joined[1:]:
            self.pushed_back.popleft()
        for text in values:
            self._fix_value(parse(text), text.encode(), line)

    def _join_lines(self, raw: bytes, source: Iterator[Line]) -> list[bytes]:
        """Return the lines up to where all brackets are closed, without consuming them."""
        parts, size = [raw], len(raw)
        level = balance(raw.decode("utf-8", "replace"))
        for line in self._peek(source):
            if level <= 0 or size > self.max_span:
                break
            parts.append(line.raw)
            size += len(line.raw) + 1
            level += balance(line.raw.decode("utf-8", "replace"))
        # Without this limit, a file of nothing but "{" would be read to its end from each line.
        self.max_span = _MAX_SPAN if level <= 0 else self.max_span // 4
        return parts if level <= 0 else []

    def _peek(self, source: Iterator[Line]) -> Iterator[Line]:
        """Yield the lines that follow without consuming them."""
        yield from self.pushed_back
        while line := next(source, None):
            self.pushed_back.append(line)
            yield line

    # -- a row -----------------------------------------------------------------------------

    def _fix_value(self, value: Any, raw: bytes, line: int) -> None:
        if _is_array_of_rows(value):
            self.note(line, Change("json_array_not_jsonl", "", "an array", "one row a line"))
            for row in value:
                self._fix_value(row, dumped(row).encode(), line)
            return
        if _is_list_of_messages(value):
            key = "messages" if "role" in value[0] else "conversations"
            self.note(line, Change("row_not_object", "", "a list of messages", key))
            value = {key: value}
            raw = dumped(value).encode()
        if isinstance(value, str) and isinstance(inner := listed(value)[0], dict):
            self.note(line, Change("row_not_object", "", "an object in a text", "the object"))
            value, raw = inner, dumped(inner).encode()
        if not isinstance(value, dict):
            self._keep(raw, line)
        else:
            self._fix_row(value, raw, line)

    def _fix_row(self, value: dict[str, Any], raw: bytes, line: int) -> None:
        if not self.renaming and (rows := unwrapped(value)):
            self.note(line, Change("unknown_format", "", "rows in a row", "one row a line"))
            for row in rows:
                self._fix_value(row, dumped(row).encode(), line)
            return
        if self.renaming:
            known, own = len(self.renaming.found), value
            value = self.renaming.row(own, line)
            raw = raw if value is own else dumped(value).encode()
            if len(found := self.renaming.found) > known:
                self.note(line, Change("columns_mapped", "", [*found], [*found.values()]))
        if failed := failure_of(value):
            self.note(line, Change("missing_completion", failed, value, None))
            return
        if pairs := pairs_of(value):
            self.note(line, Change("not_convertible", "", "a list of answers", "one pair a line"))
            for pair in pairs:
                self._fix_row(pair, dumped(pair).encode(), line)
            return
        self.has_pieces |= not self.formats.names and is_message(value)
        fixed, changes = fix_row(value, self.formats)
        for change in changes:
            self.note(line, change)
        written = dumped(fixed).encode() if changes else raw.strip()
        sent = read(fixed) if format_of(fixed) else None
        self.has_pieces |= sent is None or not is_example(fixed, sent)
        self._keep_unless_repeated(written, same_digest(fixed, sent), line)

    def _keep_unless_repeated(self, raw: bytes, digest: bytes, line: int) -> None:
        earlier = self.tables[digest[8]].add(int.from_bytes(digest[:8], "little") or 1, line)
        if earlier and not self.keeps_repeats:
            detail = f"the row of line {earlier} again"
            self.note(line, Change("duplicates", "", detail, None))
        else:
            self._keep(raw, line)

    def _keep(self, raw: bytes, line: int) -> None:
        self.rows.write(raw + b"\n")
        self.origin.append(line)


def _is_array_of_rows(value: Any) -> bool:
    """Return True for a list of rows; False for a list of messages."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, dict) and _MARKS.isdisjoint(item) for item in value)


def _is_list_of_messages(value: Any) -> bool:
    """Return True for a list of chat messages, or of ShareGPT turns."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, dict) and not _MARKS.isdisjoint(item) for item in value)


def _is_array_file(path: Path) -> bool:
    """Return True if a file is one JSON array of objects, the last of which may be cut off."""
    try:
        reading = Reading()
        marks = {text[:1] for _, text in array_rows(path, reading=reading)}
    except ValueError:
        return False
    return marks <= {"{"} and (bool(marks) or not reading.observations)


def _has_cr_lines(path: Path) -> bool:
    """Return True if the lines of a file end in CR only."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return b"\n" not in head and b"\r" in head.rstrip(b"\r")


def _shown(value: Any) -> Any:
    """Return a value for the log, shortened, with personal data and keys masked."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else dumped(value)
    return shortened(hidden(text[: 4 * MAX_SHOWN]), MAX_SHOWN)
