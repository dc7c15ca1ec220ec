"""NaN in a row, which JSON does not have: pandas writes it where a table has no value."""

from __future__ import annotations

import json
from typing import Any

from finetune_gateway.data.canonical import read
from finetune_gateway.data.formats import format_of

Json = dict[str, Any]


def without_nan(text: str) -> tuple[Json, list[str]] | None:
    """Return a row with null for each NaN, and the keys that hold one; None where that is no row
    of a known format, or the example is another without one of these keys."""
    try:
        row, marked = (json.loads(text, parse_constant=read_as) for read_as in (_null, _Mark))
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    keys = [key for key in row if _holds_mark(marked[key])]
    rest = {key: value for key, value in row.items() if key not in keys}
    row_format = format_of(rest)
    if row_format is None or "label" in keys or format_of(row) is not row_format:
        return None
    sent = {key: value for key, value in read(row).row.items() if key not in keys}
    return (row, keys) if keys and sent == read(rest).row else None


class _Mark(str):
    """Stands for NaN."""


def _null(constant: str) -> None:
    if constant != "NaN":
        raise ValueError(f"{constant} is no missing value")


def _holds_mark(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_mark, value.values()))
    if isinstance(value, list):
        return any(map(_holds_mark, value))
    return isinstance(value, _Mark)
