"""What programs write around a row of JSON: the time and level of a log, the quotes of a cell, NUL
bytes; and around all rows: an assignment in JavaScript, marks and prose in Markdown.

It is taken off where the rows are whole without it. Only lines that are not JSON get here.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.text.regex import LazyPattern

_PREFIX = 200  # characters before the row of a line of a log
_LOGGED = LazyPattern(
    r"\d\d:\d\d|\b(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|stdout|stderr)\b|^data:"
)
_CELL = LazyPattern(r'\s*"\s*\{\s*""')
_SCRIPT = LazyPattern(
    r"\s*(?:export\s+default|module\.exports\s*=|(?:export\s+)?(?:const|let|var)\s+[\w$]+\s*=)"
    r"\s*(?=\[)"
)
_CONFLICT = re.compile(r"(?:<{7}|>{7}|\|{7})(?: .*)?|={7}")
_FENCE = re.compile(rb"\s*(?:```+|~~~+)\s*[\w-]*\s*")


def row_within(text: str) -> tuple[str, str] | None:
    """Return what stands around the row in a line, in words, and the JSON of the row; None if there
    is not one whole row, or nothing around it."""
    for what, inner in (
        ("NUL bytes", text.strip("\0 \t\r\n") if "\0" in text else ""),
        ("the quotes of a cell of a table", _in_cell(text)),
        ("the beginning of a line of a log", _after_prefix(text)),
    ):
        if inner and _is_row(inner):
            return what, inner
    return None


def script_before(text: str) -> str:
    """Return the beginning of a program in JavaScript that assigns rows, up to their bracket; "" if
    the line does not begin so."""
    match = _SCRIPT.match(text)
    return match[0] if match else ""


def is_conflict_mark(line: str) -> bool:
    """Return True for a line that Git writes around the sides of a conflict."""
    return _CONFLICT.fullmatch(line.rstrip("\r\n")) is not None


def is_fence(line: bytes) -> bool:
    """Return True for a line of Markdown that opens or closes a block of code."""
    return _FENCE.fullmatch(line) is not None


def is_fenced(path: Path) -> bool:
    """Return True for a file with blocks of code in Markdown, all of them closed, one of which
    begins as rows do."""
    in_block = begins = has_rows = False
    with path.open("rb") as file:
        for line in file:
            start = line.lstrip()[:3]
            if start in (b"```", b"~~~") and is_fence(line):
                in_block = begins = not in_block
            elif start:
                has_rows |= begins and start[:1] in b"{["
                begins = False
    return has_rows and not in_block


def _in_cell(text: str) -> str:
    if not _CELL.match(text):
        return ""
    try:
        cells = next(csv.reader([text.strip()], strict=True), [])
    except csv.Error:  # a part of the row is missing
        return ""
    return "" if any(map(str.strip, cells[1:])) else cells[0]


def _after_prefix(text: str) -> str:
    prefix, brace, row = text.partition("{")
    logged = 0 < len(prefix) <= _PREFIX and _LOGGED.search(prefix)
    return brace + row.rstrip() if logged else ""


def _is_row(text: str) -> bool:
    try:
        return isinstance(loads_strict(text), dict)
    except (ValueError, RecursionError):
        return False
