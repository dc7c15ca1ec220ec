"""A JSON value that was written over several lines: pretty-printed, an array, or a string
with a real line break in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_gateway.data.dataset import Line
from finetune_gateway.findings import Defect
from finetune_gateway.validation.json.parsing import MAX_DEPTH, balance, depth

MAX_TRIES = 3  # failed looks ahead in one file; each costs up to a megabyte of reading
_MAX_BYTES = 1 << 20  # of one object
_MAX_ARRAY = 16 << 20  # of an array, to count what is in it
_MAX_BROKEN = 20  # lines a string with real line breaks may span

_LOOSE = json.JSONDecoder(strict=False)  # takes raw line breaks in strings


@dataclass(slots=True)
class Span:
    """What a look ahead found: the defect, or None and the lines to be read again."""

    defect: Defect | None = None
    read: list[Line] = field(default_factory=list)


def look_ahead(
    line: Line,
    raw: bytes,
    following: Callable[[], Line | None],
    *,
    array: bool,
    in_string: bool,
) -> Span:
    """Read on from an unfinished line until its value is whole.

    ``array``: it is the first row and begins with a bracket, so the file is an array, whole
    or not. ``in_string``: the line ends inside a string.
    """
    span = Span()
    gather = _broken_string if in_string else _brackets
    joined = gather(raw, span, following, _MAX_ARRAY if array else _MAX_BYTES)
    value = _value(joined.rstrip().removesuffix(",")) if joined else None  # an array unbracketed
    last = span.read[-1].number if span.read else line.number
    if isinstance(value, list) or array:
        count = f" of {len(value)} objects" if isinstance(value, list) else ""
        detail = f"the file is one JSON array{count}, not JSON lines"
        span.defect = Defect("json_array_not_jsonl", detail=detail)
    elif isinstance(value, dict):
        span.defect = _object(value, line.number, last, joined)
    return span


def _object(value: object, first: int, last: int, joined: str) -> Defect:
    try:
        json.loads(joined.rstrip().removesuffix(","))
    except ValueError:
        detail = f"a real line break inside a string; the row spans lines {first}-{last}"
        return Defect("json_control_char", detail=detail)
    return Defect("pretty_printed", detail=f"the object spans lines {first}-{last}")


def _brackets(raw: bytes, span: Span, following: Callable[[], Line | None], limit: int) -> str:
    """The text up to where all brackets are closed; "" when that does not come in time."""
    parts = [raw.decode("utf-8", "replace")]
    size, level = len(raw), balance(parts[0])
    while size <= limit and (line := following()):
        span.read.append(line)
        parts.append(line.raw.decode("utf-8", "replace"))
        size += len(line.raw)
        level += balance(parts[-1])
        if level <= 0:
            return "\n".join(parts)
    return ""


def _broken_string(raw: bytes, span: Span, following: Callable[[], Line | None], limit: int) -> str:
    """The text up to where it is a whole value, with line breaks kept inside the string."""
    joined = raw.decode("utf-8", "replace")
    while len(span.read) < _MAX_BROKEN and len(joined) <= limit and (line := following()):
        span.read.append(line)
        joined += "\n" + line.raw.decode("utf-8", "replace")
        if _value(joined) is not None:
            return joined
    return ""


def _value(text: str) -> object:
    if depth(text) > MAX_DEPTH:
        return None
    try:
        value: object = _LOOSE.decode(text)
    except ValueError:
        return None
    return value
