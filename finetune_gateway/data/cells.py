"""The cells of a table as values: texts, and the lists that columns such as messages hold, as JSON
or as Python prints them."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.python_literals import read_literal
from finetune_gateway.data.row_access import loads_strict

# Columns that always hold lists, and columns that may hold JSON or a text that looks like it: an
# answer to be learned is often JSON itself.
MESSAGES = frozenset({"messages", "conversations", "preferred_output", "non_preferred_output"})
LISTS = MESSAGES | {"tools", "functions", "history", "tool_calls"}
EITHER = frozenset({"prompt", "completion", "chosen", "rejected", "input"})
# What says of an answer that it is good or bad; "positive" may be a class.
LABELS = {
    **{word: True for word in ("true", "yes", "good", "1", "thumbs_up", "thumbs up", "up", "like")},
    **{word: False for word in ("false", "no", "bad", "0", "thumbs_down", "thumbs down", "down")},
    "dislike": False,
    "\N{THUMBS UP SIGN}": True,
    "\N{THUMBS DOWN SIGN}": False,
}
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def truth(text: str) -> bool | str:
    """Return the label of an answer (KTO) as a value: true, false, or the text that is neither."""
    return _TRUTH.get(text.strip().lower(), text)


def cell_value(key: str, text: str) -> tuple[Any, bool]:
    """Return the value of a cell, and True if it was written as Python writes it, not as JSON."""
    if key not in LISTS | EITHER or text.lstrip()[:1] not in ("[", "{"):
        return text, False
    value, is_python = listed(text)
    if value is None or not (key in LISTS or holds_messages(value)):
        return text, False  # a text that begins with a bracket
    return value, is_python


def listed(text: str) -> tuple[Any, bool]:
    """Return the value of a text in JSON or, then with True, in Python's own marks; None if it is
    neither."""
    try:
        return loads_strict(text), False
    except (ValueError, RecursionError):
        pass
    try:
        return read_literal(text), True
    except (ValueError, RecursionError):
        return None, False


def holds_messages(value: Any) -> bool:
    """Return True if a value is messages, turns, or the input of a pair."""
    if isinstance(value, dict) and "messages" in value:
        return True
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, dict)
        and ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys())
        for turn in turns
    )
