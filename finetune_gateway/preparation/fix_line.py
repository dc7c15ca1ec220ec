"""``--fix`` of a line that is not JSON, but a whole row written otherwise."""

from __future__ import annotations

from finetune_gateway.data.around_rows import row_within, script_before
from finetune_gateway.data.missing_numbers import without_nan
from finetune_gateway.data.row_access import dumped
from finetune_gateway.preparation.fix_row import Change
from finetune_gateway.text.windows_1252 import read_windows_1252


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
