"""The canonical row: the one form in which a row is counted, judged and sent.

================  ===============================================================================
chat              OpenAI's: ``messages`` and ``tools``
preference        OpenAI's: ``input`` with the prompt, ``preferred_output``,
                  ``non_preferred_output``
unpaired (KTO)    a chat row with ``label``
text              ``text``
================  ===============================================================================

``read`` makes it of a row of any known format, and remembers which field of the user's row each
message comes from. Rows of OpenAI's own formats are sent as they are, unless a system text stands
beside their messages or their tools are a text; of all others only the keys above are sent.
Counting (``tokens``), judging (``validation``) and sending (``jobs.planning``) all take their row
from here, so none of them can see another row than the one that leaves.
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data import call_ids
from finetune_gateway.data.canonical_row import (
    CHAT_KEYS,
    PAIR_KEYS,
    SIDES,
    CanonicalRow,
    of_messages,
    of_texts,
)
from finetune_gateway.data.cells import listed
from finetune_gateway.data.column_names import is_turn
from finetune_gateway.data.formats import (
    CHAT,
    PROMPT_COMPLETION,
    TEXT,
    TRL_PREFERENCE,
    Format,
    format_of,
    is_unchanged,
    no_format_text,
)
from finetune_gateway.data.readers import untrain
from finetune_gateway.data.row_reader import SYSTEM_KEYS, Reader
from finetune_gateway.data.sharegpt import ConversionError
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]


_READ_BESIDE = frozenset({"messages", "tools"})  # in the canonical form of conversations


def read(row: Json) -> CanonicalRow:
    """Return the canonical row of a row of any known format; malformed fields are read as far as
    possible. A row of OpenAI's own formats, or of none, is returned itself. Never raises."""
    return read_as(row, format_of(row))


def read_as(row: Json, row_format: Format | None) -> CanonicalRow:
    """Return the canonical row of a row of this format, as ``read`` does."""
    if row_format is None or is_unchanged(row, row_format):
        return CanonicalRow(row)
    is_short = len(row) <= 3 and (row_format is PROMPT_COMPLETION or row_format is TRL_PREFERENCE)
    short = (of_texts(row) or of_messages(row)) if is_short else None
    if short is not None:
        return short
    reader = Reader(row)
    converted = _made(reader, row_format)
    filled = _fill(converted, row_format)
    known = {"text"} if row_format is TEXT else PAIR_KEYS | CHAT_KEYS | {"label"}
    for key in ("functions", "parallel_tool_calls"):
        if row_format.kind not in ("preference", "text") and key in row:
            converted[key] = row[key]
            reader.used.add(key)
    if row_format.kind == "unpaired_preference":
        untrain(converted["messages"][:-1])  # the label is for the last answer
    sent = {key: value for key, value in converted.items() if key in known}
    others = (*(key for key in row if key not in reader.used), *reader.unsent)
    made = CanonicalRow(sent, reader.errors, others, reader.origins, reader.lists)
    made.filled = tuple((made.origin(path), own) for path, own in filled)
    return made


def _made(reader: Reader, row_format: Format) -> Json:
    """Return what the reader of a format makes of a row, with the system text beside it where the
    format itself has none."""
    made = row_format.reader(reader)
    given = {key: reader.row[key] for key in SYSTEM_KEYS if key in reader.row.keys() - reader.used}
    holder: Any = made.get("input") if row_format.kind == "preference" else made
    messages = holder.get("messages") if isinstance(holder, dict) else None
    if given and isinstance(messages, list):
        holder["messages"] = reader.with_system(messages, given)
        reader.used |= given.keys()
    if reader.marked and row_format.kind == "preference":
        for message in (*made["input"]["messages"], *made["preferred_output"],
                        *made["non_preferred_output"]):  # fmt: skip
            message.pop("weight", None)  # both sides are compared
    return made


def _fill(made: Json, row_format: Format) -> list[tuple[str, str]]:
    """Write the ids of calls and results that are missing, where no other can be meant; return the
    path of each in the canonical row, and the id. Whatever the format: a row that is written in
    another one is read again with the same ids."""
    if row_format.kind != "preference":  # a text has no messages
        chat = made.get("messages", [])
        return _fill_in([(f"messages[{at}]", one) for at, one in enumerate(chat)])
    asked = [(f"input.messages[{at}]", one) for at, one in enumerate(made["input"]["messages"])]
    sides = ([(f"{key}[{at}]", one) for at, one in enumerate(made[key])] for key in SIDES)
    return [found for side in sides for found in _fill_in([*asked, *side])]


def _fill_in(conversation: list[tuple[str, Json]]) -> list[tuple[str, str]]:
    if not any("tool_calls" in message for _, message in conversation):
        return []
    places = [place for place, _ in conversation]
    filled = call_ids.fill([message for _, message in conversation])
    return [(f"{places[at]}{where}", own) for at, where, own in filled]


def as_sent(row: Json) -> Json:
    """Return a row as it is sent. Never raises."""
    return read(row).row


def readable(row: Json) -> Json | None:
    """Return the canonical row; None for a row that cannot be read without loss, which validate
    reports."""
    row_format = format_of(row)
    if row_format is None:
        return None
    if not is_unchanged(row, row_format):
        read = read_as(row, row_format)
        return None if read.errors else read.row
    if row_format is CHAT:
        return row if _are_messages(row["messages"]) else None
    pair_input = row.get("input")
    asked = pair_input.get("messages") if isinstance(pair_input, dict) else None
    lists = (asked, row.get("preferred_output"), row.get("non_preferred_output"))
    return row if all(map(_are_messages, lists)) else None


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in value
    )


def canonical(row: Json, *, rename: bool = False) -> Json:
    """Return a row in the canonical form of its kind, with its other keys (``converted``)."""
    return converted(row, rename=rename)[0]


def converted(row: Json, *, rename: bool = False) -> tuple[Json, tuple[str, ...]]:
    """Return a row in the canonical form of its kind, with its other keys, and what is left out:
    keys within others, which have no place there.

    Arguments of calls become a JSON string. Raises ConversionError for a row that cannot be read
    without loss, and for a key that means something else in the canonical form; with ``rename``
    that becomes ``other_KEY``.
    """
    row_format = format_of(row)
    if row_format is None:
        raise ConversionError("", no_format_text(row))
    reader = Reader(row)
    made = _made(reader, row_format)
    _fill(made, row_format)
    if reader.errors:
        raise reader.errors[0]
    for key, value in row.items():
        if key in reader.used or (row_format is CHAT and key in made):
            continue
        # A key that its format does not read must not be read in the canonical form.
        taken = key in made or (key in _READ_BESIDE and row_format is not CHAT)
        if taken and rename:
            key, taken = f"other_{key}", f"other_{key}" in made
        if taken:
            reason = f"the key {quoted(key)} means something else in the target format"
            raise ConversionError(key, reason)
        made[key] = value
    return made, tuple(reader.unsent)


# -- rows within a row -------------------------------------------------------------------------


def rows_within(row: Json) -> tuple[str, list[Json]]:
    """Return the key of a row of no known format that holds rows, and them; "" if none does. One
    that lacks its answer has it beside, and a text beside other keys is a part of what they say.
    Collectors of logs (Docker's, Fluentd's, Splunk's) keep each row as a text in JSON."""
    for key, value in row.items():
        held = encoded(value) or value
        rows = held if isinstance(held, list) else [held]
        if rows and all(_is_whole(one, alone=len(row) == 1) for one in rows):
            return key, rows
    return "", []


def encoded(value: Any) -> Any:
    """Return the object or list that a text writes; None for another value."""
    is_text = isinstance(value, str) and value.lstrip()[:1] in ("{", "[")
    held = listed(value)[0] if is_text else None
    return held if isinstance(held, dict | list) else None


def _is_whole(value: Any, *, alone: bool) -> bool:
    if not isinstance(value, dict) or is_turn(value):
        return False
    found = format_of(value)
    if found is None or (found is TEXT and not alone) or is_request(value):
        return False
    return found is CHAT or not read_as(value, found).errors


def is_request(value: Any) -> bool:
    """Return True for messages none of which is an answer: what was asked of a model."""
    messages = value.get("messages") if isinstance(value, dict) else None
    roles = [one.get("role") for one in messages or () if isinstance(one, dict)]
    return isinstance(messages, list) and "user" in roles and "assistant" not in roles
