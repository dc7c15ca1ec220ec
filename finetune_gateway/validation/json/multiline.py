"""A JSON value written over several lines: pretty-printed, an array, or a string with a raw line
break."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune_gateway.data.dataset import Line
from finetune_gateway.data.json_files import array_rows
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import is_too_deep
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect
from finetune_gateway.validation.json.parsing import balance

MAX_TRIES = 3  # failed attempts in one file; each reads up to a megabyte
_MAX_BYTES = 1 << 20  # of one object
_MAX_ARRAY = 16 << 20  # of an array, to count its rows
_MAX_BROKEN = 20  # lines a string with raw line breaks may span

_LOOSE = json.JSONDecoder(strict=False)  # accepts raw line breaks in strings


@dataclass(slots=True)
class Span:
    """The result of looking ahead: the defect, or None and the lines to read again. ``is_whole``:
    the value ends where all of its brackets are closed."""

    defect: Defect | None = None
    is_whole: bool = True
    lines: list[Line] = field(default_factory=list)


def look_ahead(
    line: Line,
    raw: bytes,
    following: Callable[[], Line | None],
    *,
    array: bool,
    in_string: bool,
) -> Span:
    """Read from an unfinished line to the end of its value.

    ``array``: the line is the first row and begins with a bracket, so the file is an array.
    ``in_string``: the line ends inside a string.
    """
    span = Span()
    read = _read_broken_string if in_string else _read_brackets
    joined = read(raw, span, following, _MAX_ARRAY if array else _MAX_BYTES)
    value = _value(joined.rstrip().removesuffix(",")) if joined else None  # a row of an array
    last = span.lines[-1].number if span.lines else line.number
    if isinstance(value, list) or array:
        count = f" of {len(value)} objects" if isinstance(value, list) else ""
        detail = f"the file is one JSON array{count}, not JSON lines"
        span.defect = Defect("json_array_not_jsonl", detail=detail)
        span.is_whole = isinstance(value, list)
    elif isinstance(value, dict):
        span.defect = _object_defect(line.number, last, joined)
    return span


def early_end(path: Path) -> Iterator[tuple[Defect, int]]:
    """Yield the defect of a list of rows whose file ends before it does, with its last line; of one
    without a whole row nothing."""
    reading = Reading()
    try:
        whole = sum(1 for _ in array_rows(path, reading=reading))
    except DataError:  # malformed before its end
        return
    for one in reading.observations.values() if whole else ():
        yield Defect(one.code, detail=one.detail), one.lines[0]


def _object_defect(first: int, last: int, joined: str) -> Defect:
    try:
        json.loads(joined.rstrip().removesuffix(","))
    except ValueError:
        detail = f"a raw line break inside a string; the row spans lines {first}-{last}"
        return Defect("json_control_char", detail=detail)
    return Defect("pretty_printed", detail=f"the object spans lines {first}-{last}")


def _read_brackets(raw: bytes, span: Span, following: Callable[[], Line | None], limit: int) -> str:
    """Return the text up to where all brackets are closed; "" if that is beyond the limit."""
    parts = [raw.decode("utf-8", "replace")]
    size, level = len(raw), balance(parts[0])
    while size <= limit and (line := following()):
        span.lines.append(line)
        parts.append(line.raw.decode("utf-8", "replace"))
        size += len(line.raw)
        level += balance(parts[-1])
        if level <= 0:
            return "\n".join(parts)
    return ""


def _read_broken_string(
    raw: bytes, span: Span, following: Callable[[], Line | None], limit: int
) -> str:
    """Return the text up to where it is a whole value, line breaks included."""
    joined = raw.decode("utf-8", "replace")
    while len(span.lines) < _MAX_BROKEN and len(joined) <= limit and (line := following()):
        span.lines.append(line)
        joined += "\n" + line.raw.decode("utf-8", "replace")
        if _value(joined) is not None:
            return joined
    return ""


def _value(text: str) -> object:
    if is_too_deep(text):
        return None
    try:
        value: object = _LOOSE.decode(text)
    except ValueError:
        return None
    return value
