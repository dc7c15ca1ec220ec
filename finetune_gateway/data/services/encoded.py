"""A conversation that is written as JSON in a text, as tables of the Hugging Face Hub have it."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data import readers
from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.data.row_reader import Reader

Json = dict[str, Any]


def is_encoded(row: Json) -> bool:
    """Return True for ``conversations`` or ``conversation`` that are a list in a text."""
    return any(
        isinstance(row.get(key), str) and row[key].lstrip().startswith("[")
        for key in ("conversations", "conversation")
    )


def read(reader: Reader) -> Json:
    """Read the turns of the list in the text."""
    keys = ("conversations", "conversation")
    key = next(key for key in keys if isinstance(reader.row.get(key), str))
    reader.used.add(key)
    reader.lists["messages"] = key
    try:
        turns = loads_strict(reader.row[key])
    except (ValueError, RecursionError):
        reader.refuse_type(key, reader.row[key], "a list of turns, or one as JSON in a text")
        return {"messages": []}
    inner = Reader({**reader.row, "conversations": turns})
    read = readers.sharegpt(inner)
    reader.used |= inner.used
    reader.unsent |= inner.unsent
    for error in inner.errors:
        reader.refuse(key, f"{error.path}: {error.reason}", error.code, error.fix)
    reader.origins |= {one: (key, "text") for one in inner.origins}
    reader.lists |= {name: path for name, path in inner.lists.items() if name != "messages"}
    return read
