"""``--fix``: everything that can be mended without a guess, mended in a copy, each change logged.

A line that cannot be read stays as it is: what it was meant to be is not guessed. Afterwards the
copy is validated, and what is left is told with the lines of both files.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

from finetune_gateway.data.containers import array_lines, dumped
from finetune_gateway.data.dataset import Dataset, Line
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Finding, Report
from finetune_gateway.preparation import fix_row
from finetune_gateway.preparation.convert import free, whole_file
from finetune_gateway.preparation.fix_row import Change
from finetune_gateway.text.quoting import hidden, shortened
from finetune_gateway.validation import run as checks
from finetune_gateway.validation.collector import RULES
from finetune_gateway.validation.json.file_type import BOM, HEAD, file_defect
from finetune_gateway.validation.json.parsing import BadLine, balance, decode, parse

MAX_SHOWN = 200  # characters of before and after in the log
_MAX_SPAN = 1 << 20  # bytes of one object that is spread over several lines
_LOOSE = json.JSONDecoder()


class Unsafe(BaseModel):
    """A finding that is left, with its lines in the file that was mended."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    finding: Finding = Field(description="As validating the copy found it, with its lines there.")
    lines: list[int] = Field(description="The lines in the file that was mended.")


class Mended(BaseModel):
    """What ``--fix`` has done (``fix`` in the JSON of ``ftg validate``)."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    out: str = Field(description="The mended copy.")
    log: str = Field(description="Its log: one JSON object a change.")
    rows: int = Field(description="Rows in the copy.")
    changes: dict[str, int] = Field(description="Changes by code.")
    unsafe: list[Unsafe] = Field(description="Errors and warnings that are left.")


class FixReport(Mended):
    """What ``--fix`` has done, and the report on the copy."""

    report: Report

    @property
    def changed(self) -> int:
        """All changes."""
        return sum(self.changes.values())


def fix(
    dataset: Dataset, out: str | os.PathLike[str], *, force: bool = False,
    check: Callable[[Dataset], Report] = checks.validate,
) -> FixReport:  # fmt: skip
    """Write a mended copy and a log of the changes beside it, and ``check`` the copy; see
    ``Dataset.fix``."""
    path = Path(out)
    log = path.with_name(f"{path.name}.changes.jsonl")
    free(path, dataset, force)
    free(log, dataset, force)
    with whole_file(path) as rows, whole_file(log) as changes:
        run = _Fix(rows, changes)
        run.read(dataset)
    report = check(Dataset(path))
    return FixReport(
        out=str(path),
        log=str(log),
        rows=len(run.origin),
        changes=dict(sorted(run.counts.items())),
        unsafe=[_unsafe(found, run.origin) for found in report.errors + report.warnings],
        report=report,
    )


def _unsafe(found: Finding, origin: array[int]) -> Unsafe:
    return Unsafe(finding=found, lines=[origin[line - 1] for line in found.lines])


@dataclass(slots=True)
class _Fix:
    """One pass over one file."""

    rows: IO[bytes]
    log: IO[bytes]
    counts: dict[str, int] = field(default_factory=dict)
    origin: array[int] = field(default_factory=lambda: array("I"))  # of each row written
    seen: tuple[_Seen, ...] = field(default_factory=lambda: tuple(_Seen() for _ in range(256)))
    ahead: deque[Line] = field(default_factory=deque)
    span: int = _MAX_SPAN  # less after each attempt to join lines that came to nothing

    def read(self, dataset: Dataset) -> None:
        """Mend a file, whatever it is written in."""
        if dataset.container not in ("jsonl", "rows"):
            self.note(1, Change("container", "", dataset.container, "jsonl"))
        with dataset.path.open("rb") as file:
            head = file.read(HEAD)
        found = file_defect(head)
        if found and found.code.startswith("encoding_utf"):
            self._decoded(dataset, head, found.code)
        elif found:
            raise DataError(f"{dataset.name}: {found.detail}.", hint=RULES[found.code].fix)
        elif head.removeprefix(BOM).lstrip().startswith(b"[") and _whole_array(dataset.path):
            self._array(dataset, head)
        elif _old_mac(dataset.path):
            self._old_mac(dataset)
        else:
            self._lines(dataset.lines())

    def note(self, line: int, change: Change) -> None:
        """Log a change."""
        self.counts[change.code] = self.counts.get(change.code, 0) + 1
        entry = {"line": line, "path": change.path, "code": change.code}
        entry |= {"before": _shown(change.before), "after": _shown(change.after)}
        self.log.write(dumped(entry).encode() + b"\n")

    # -- the file --------------------------------------------------------------------------

    def _decoded(self, dataset: Dataset, head: bytes, code: str) -> None:
        """UTF-16 and UTF-32 are told by their first bytes, so reading them is no guess."""
        wide = "utf-32" if code == "encoding_utf32" else "utf-16"
        marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
        order = "" if marked else "-be" if head[0] == 0 else "-le"
        self.note(1, Change(code, "", f"{wide}{order}", "utf-8"))
        with dataset.path.open(encoding=f"{wide}{order}", newline="\n") as file:
            lines = (Line(n, 0, text.rstrip("\r\n").encode()) for n, text in enumerate(file, 1))
            try:
                self._lines(lines)
            except UnicodeDecodeError as exc:
                raise DataError(
                    f"{dataset.name} begins as {wide}, but goes on otherwise: {exc.reason}.",
                    hint="Write it again as UTF-8.",
                ) from None

    def _old_mac(self, dataset: Dataset) -> None:
        self.note(1, Change("line_terminator", "", "CR", "LF"))
        with dataset.path.open(encoding="utf-8", newline="\r", errors="surrogateescape") as file:
            raws = (text.rstrip("\r").encode("utf-8", "surrogateescape") for text in file)
            self._lines(Line(number, 0, raw) for number, raw in enumerate(raws, 1))

    def _array(self, dataset: Dataset, head: bytes) -> None:
        """A JSON array of rows; a row of it is a line then."""
        if head.startswith(BOM):
            self.note(1, Change("utf8_bom", "", "EF BB BF", ""))
        self.note(1, Change("json_array_not_jsonl", "", "one array", "one row a line"))
        for number, text in enumerate(array_lines(dataset.path), 1):
            self._line(Line(number, 0, text.encode()), iter(()))

    def _lines(self, source: Iterator[Line]) -> None:
        ends = 0
        while line := self.ahead.popleft() if self.ahead else next(source, None):
            ends += line.end == b"\r\n"
            self._line(line, source)
        if ends:
            self.note(1, Change("line_terminator", "", f"CRLF in {ends} lines", "LF"))

    # -- a line ----------------------------------------------------------------------------

    def _line(self, line: Line, source: Iterator[Line]) -> None:
        raw = line.raw
        if raw.startswith(BOM):
            code = "utf8_bom" if line.number == 1 else "bom_inside"
            self.note(line.number, Change(code, "", "EF BB BF", ""))
            raw = raw.removeprefix(BOM)
        if not raw.strip():
            self.note(line.number, Change("blank_line", "", "", None))
            return
        if line.cut:
            raise DataError(
                f"Line {line.number} is longer than 64 MB; nothing was written.",
                hint="Check that rows end in newlines; split the example.",
            )
        try:
            self._value(parse(decode(raw)), raw, line.number)
        except BadLine as exc:
            self._broken(exc, raw, line.number, source)

    def _broken(self, exc: BadLine, raw: bytes, line: int, source: Iterator[Line]) -> None:
        if exc.unfinished == "value":
            joined = self._joined(raw, source)
        else:
            joined = [raw] if exc.defect.code == "json_extra_data" else []
        pieces = _pieces(b" ".join(joined))
        if not pieces:
            self._keep(raw, line)
            return
        code = "pretty_printed" if len(joined) > 1 else "json_extra_data"
        lines, count = len(joined), len(pieces)
        self.note(line, Change(code, "", f"{count} in {lines} lines", f"{count} lines"))
        for _ in joined[1:]:
            self.ahead.popleft()
        for piece in pieces:
            self._value(parse(piece), piece.encode(), line)

    def _joined(self, raw: bytes, source: Iterator[Line]) -> list[bytes]:
        """The lines up to where all brackets are closed; those read stay in ``ahead``."""
        parts, size = [raw], len(raw)
        level = balance(raw.decode("utf-8", "replace"))
        for line in self._coming(source):
            if level <= 0 or size > self.span:
                break
            parts.append(line.raw)
            size += len(line.raw) + 1
            level += balance(line.raw.decode("utf-8", "replace"))
        # A file of nothing but "{" would else be read to its end from each of its lines.
        self.span = _MAX_SPAN if level <= 0 else self.span // 4
        return parts if level <= 0 else []

    def _coming(self, source: Iterator[Line]) -> Iterator[Line]:
        """The lines that follow, without taking them."""
        yield from self.ahead
        while line := next(source, None):
            self.ahead.append(line)
            yield line

    # -- a row -----------------------------------------------------------------------------

    def _value(self, value: Any, raw: bytes, line: int) -> None:
        if _is_array(value):
            self.note(line, Change("json_array_not_jsonl", "", "an array", "one row a line"))
            for one in value:
                self._value(one, dumped(one).encode(), line)
            return
        if not isinstance(value, dict):
            self._keep(raw, line)
            return
        mended, changes = fix_row.mended(value)
        for change in changes:
            self.note(line, change)
        self._row(dumped(mended).encode() if changes else raw.strip(), line)

    def _row(self, raw: bytes, line: int) -> None:
        digest = hashlib.blake2b(raw, digest_size=9).digest()
        earlier = self.seen[digest[8]].add(int.from_bytes(digest[:8], "little") or 1, line)
        if earlier:
            detail = f"the row of line {earlier} again"
            self.note(line, Change("duplicates", "", detail, None))
        else:
            self._keep(raw, line)

    def _keep(self, raw: bytes, line: int) -> None:
        self.rows.write(raw + b"\n")
        self.origin.append(line)


class _Seen:
    """A share of the rows met so far, by 64 bits of each: 16 to 21 bytes a row, where a dict of
    hashes takes over 100. That two of 10 million rows are mixed up has a chance of 1 in 10^8."""

    def __init__(self) -> None:
        self.keys, self.lines, self.count = array("Q", bytes(512)), array("I", bytes(256)), 0

    def add(self, key: int, line: int) -> int:
        """Remember a row; the line it was met in before, or 0."""
        place = self._place(key)
        if self.keys[place]:
            return self.lines[place]
        self._set(place, key, line)
        if 4 * self.count > 3 * len(self.keys):
            self._grow()
        return 0

    def _place(self, key: int) -> int:
        """Where a key stands, or would stand: keys of one place go to the next free ones."""
        keys, place = self.keys, key % len(self.keys)
        while keys[place] not in (0, key):
            place = place + 1 if place + 1 < len(keys) else 0
        return place

    def _set(self, place: int, key: int, line: int) -> None:
        self.keys[place], self.lines[place] = key, line
        self.count += 1

    def _grow(self) -> None:
        old, size = (self.keys, self.lines), len(self.keys) * 5 // 4
        self.keys, self.lines, self.count = (
            array("Q", bytes(8 * size)),
            array("I", bytes(4 * size)),
            0,
        )
        for key, line in zip(*old, strict=True):
            if key:
                self._set(self._place(key), key, line)


def _is_array(value: Any) -> bool:
    """Whether a line is a list of rows; one of messages is not."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and "role" not in one for one in value)


def _whole_array(path: Path) -> bool:
    """Whether a file is one JSON array of objects to its end; one that is broken stays as it is."""
    try:
        return all(text.startswith("{") for text in array_lines(path))
    except ValueError:
        return False


def _old_mac(path: Path) -> bool:
    """Whether a file has several lines that end in CR alone."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return b"\n" not in head and b"\r" in head.rstrip(b"\r")


def _pieces(raw: bytes) -> list[str]:
    """The JSON values that stand one after another, each strictly valid; else none."""
    try:
        text, at, found = decode(raw).strip(), 0, list[str]()
        while at < len(text):
            end = _LOOSE.raw_decode(text, at)[1]
            parse(text[at:end])
            found.append(text[at:end])
            at = end
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
    except (BadLine, ValueError, RecursionError):
        return []
    return found if all(piece.startswith("{") for piece in found) else []


def _shown(value: Any) -> Any:
    """A value for the log, bounded, personal data and keys masked."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else dumped(value)
    return shortened(hidden(text[: 4 * MAX_SHOWN]), MAX_SHOWN)
