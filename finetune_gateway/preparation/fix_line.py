"""``--fix`` of a line that is not JSON, but a whole row written otherwise, or several rows."""

from __future__ import annotations

import json

from finetune_gateway.data.around_rows import row_within, script_before
from finetune_gateway.data.missing_numbers import without_nan
from finetune_gateway.data.row_access import dumped
from finetune_gateway.preparation.fix_row import Change
from finetune_gateway.text.windows_1252 import read_windows_1252
from finetune_gateway.validation.json.parsing import BadLine, decode, parse

_LOOSE = json.JSONDecoder()


def whole_row(raw: bytes, code: str, *, first: bool) -> tuple[list[Change], str] | None:
    """Return the changes that make JSON of a line, and the JSON; None if none of them does.

    ``code``: the rule that the line breaks. ``first``: it is the first line of the file.
    """
    if code == "encoding_not_utf8":
        text = read_windows_1252(raw)
        shown = raw.decode("utf-8", "replace")
        return None if text is None else ([Change(code, "", shown, text)], text)
    text = raw.decode()
    if code == "json_nan" and (found := without_nan(text)):
        row, keys = found
        return [Change(code, key, "NaN", None) for key in keys], dumped(row)
    if around := row_within(text):
        return [Change(code, "", around[0], "the row")], around[1]
    if first and (before := script_before(text)):
        return [Change(code, "", before, None)], text.removeprefix(before)
    return None


def unlisted(raw: bytes) -> bytes:
    """Return a line without the bracket that opens or closes the array it was cut out of."""
    return raw.strip().rstrip(b",; \t").removeprefix(b"[").removesuffix(b"]")


def split_values(raw: bytes) -> list[str]:
    """Return the JSON objects of a text with several; empty if one of them is not valid."""
    try:
        text, at, values = decode(raw).strip(), 0, list[str]()
        while at < len(text):
            end = _LOOSE.raw_decode(text, at)[1]
            parse(text[at:end])
            values.append(text[at:end])
            at = end
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
    except (BadLine, ValueError, RecursionError):
        return []
    return values if all(value.startswith("{") for value in values) else []
