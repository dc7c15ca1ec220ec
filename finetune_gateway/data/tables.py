"""Tables as rows: the header, the cells, and messages that are a line each.

Knows nothing of files: ``csv_file`` and ``workbook`` bring the records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from finetune_gateway.data.cells import cell_value
from finetune_gateway.data.column_names import CONVERSATIONS, KNOWN, MAIN, normalized
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import dumped
from finetune_gateway.errors import DataError
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_NAME = 40  # characters of a column's name, at most
_SENTENCE = re.compile(r"[.?!;:,]\s*\Z|\S+(?:\s+\S+){3,}")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*\Z")
_MESSAGE = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"})
_SHOWN = 8  # names of columns in a message


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a table: its number, its cells, and what it was written as if these cannot be
    trusted, with the ``fault``."""

    line: int
    cells: list[str]
    raw: str = ""
    fault: str = ""


def table_rows(records: Iterable[Record], reading: Reading, name: str) -> Iterator[tuple[int, str]]:
    """Yield line and JSON of each row of a table. What cannot be read is a string with its text.
    Raises DataError for two columns of one name."""
    source = iter(records)
    first = next((record for record in source if any(map(str.strip, record.cells))), None)
    if first is None:
        return
    names = header_of(first, reading)
    if names is None:
        names = [f"column {number}" for number in range(1, len(first.cells) + 1)]
        source = chain([first], source)
    if {"role", "content"} <= set(names) and "messages" not in names:
        yield from _conversations(source, names, reading, name)
        return
    for record in source:
        if not any(record.cells):
            continue
        row = _row(record, names, reading, name)
        yield record.line, dumped(record.raw if row is None else row)


# -- the header --------------------------------------------------------------------------------


def header_of(first: Record, reading: Reading) -> list[str] | None:
    """Return the names of the columns, known ones as they are known; None if the first line is a
    row, so that there are no names."""
    plain = [normalized(cell) for cell in first.cells]
    if _is_row(first.cells, plain):
        shown = ", ".join(quoted(cell) for cell in first.cells[:3])
        reading.note(
            "header_missing",
            first.line,
            detail=f"no header? Line {first.line} looks like a row, not like names of columns: "
            f"{shown}",
            blocks=True,
        )
        return None
    names = [
        key if key in KNOWN and plain.count(key) == 1 else cell.strip("\ufeff \t\r\n")
        for cell, key in zip(first.cells, plain, strict=True)
    ]
    pairs = zip(first.cells, names, strict=True)
    changed = [(cell, key) for cell, key in pairs if cell.strip("\ufeff") != key]
    if changed:
        written = ", ".join(quoted(cell) for cell, _ in changed[:_SHOWN])
        read = ", ".join(quoted(key) for _, key in changed[:_SHOWN])
        reading.note("header_names", first.line, detail=f"columns {written} are read as {read}")
    if KNOWN.isdisjoint(names):
        shown = ", ".join(quoted(key) for key in names[:_SHOWN] if key)
        reading.note(
            "header_unknown",
            first.line,
            detail=f"line {first.line} is taken for the names of the columns: {shown}",
        )
    return names


def _is_row(cells: list[str], plain: list[str]) -> bool:
    """Return True if the first line looks like a row: no main name, and a cell that no name is."""
    if not MAIN.isdisjoint(plain):
        return False
    if len(set(plain) & KNOWN) >= 2:
        return False
    return any(_is_text(cell.strip()) for cell in cells)


def _is_text(cell: str) -> bool:
    return (
        len(cell) > _NAME
        or cell[:1] in ("[", "{")
        or bool(_NUMBER.match(cell))
        or bool(_SENTENCE.search(cell))
    )


# -- a row -------------------------------------------------------------------------------------


def _row(record: Record, names: list[str], reading: Reading, name: str) -> Json | None:
    """Return the cells that are not empty, by the names of their columns; None if they cannot be
    trusted."""
    if record.fault:
        reading.note("quote_unbalanced", record.line, detail=record.fault, blocks=True)
        return None
    more = [cell for cell in record.cells[len(names) :] if cell.strip()]
    if more:
        count = len(record.cells)
        detail = f"the line has {count} cells, but there are {len(names)} columns"
        reading.note("cells_extra", record.line, detail=detail, blocks=True)
        return None
    row: Json = {}
    for key, text in zip(names, record.cells, strict=False):
        if not text:
            continue
        if key in row:
            raise DataError(
                f"{name} cannot be read: line {record.line}: two columns are named {key!r:.60}.",
                hint="Rename one of them, or remove it.",
            )
        if text == "NaN":
            reading.note("no_value", record.line, path=key, detail="the cell is 'NaN'")
        row[key], is_python = cell_value(key, text)
        if is_python:
            reading.note("cell_python", record.line, path=key)
    return row


# -- messages, a line each ---------------------------------------------------------------------


def _conversations(
    records: Iterable[Record], names: list[str], reading: Reading, name: str
) -> Iterator[tuple[int, str]]:
    """Yield a conversation for each value of the column that tells them apart, or for each system
    message; without either, the messages as they are."""
    source = iter(records)
    first = next((record for record in source if any(record.cells)), None)
    if first is None:
        return
    source = chain([first], source)
    key = next((one for one in map(_column(names).get, CONVERSATIONS) if one), None)
    by_system = _cell(first, names, "role").strip().lower() in ("system", "developer")
    rows = ((record, _row(record, names, reading, name)) for record in source if any(record.cells))
    if key is None and not by_system:
        reading.note(
            "conversation_unknown",
            first.line,
            detail="each line is one message, and no column tells which conversation it belongs to",
            blocks=True,
        )
        yield from ((record.line, dumped(row or record.raw)) for record, row in rows)
        return
    _note_messages(names, key, reading)
    yield from _grouped(rows, key, reading)


def _column(names: list[str]) -> dict[str, str]:
    """Return the names of the columns by their normalized names."""
    return {normalized(one): one for one in reversed(names)}


def _cell(record: Record, names: list[str], key: str) -> str:
    at = names.index(key)
    return record.cells[at] if at < len(record.cells) else ""


def _note_messages(names: list[str], key: str | None, reading: Reading) -> None:
    others = [one for one in names if one and one not in _MESSAGE and one != key]
    by = f"the column {quoted(key)}" if key else "their system messages"
    left = f"; not read: {', '.join(map(quoted, others[:_SHOWN]))}" if others else ""
    detail = f"each line is one message; conversations are told apart by {by}{left}"
    reading.note("messages_by_line", detail=detail)


def _grouped(
    rows: Iterable[tuple[Record, Json | None]], key: str | None, reading: Reading
) -> Iterator[tuple[int, str]]:
    messages, line, current = list[Json](), 0, object()
    seen: set[int] = set()
    for record, row in rows:
        if row is None:
            yield from _conversation(line, messages)
            messages = []
            yield record.line, dumped(record.raw)
            continue
        belongs = row.get(key) if key else None
        starts = belongs != current if key else row.get("role") in ("system", "developer")
        if starts or not messages:
            yield from _conversation(line, messages)
            messages, line = [], record.line
        if starts and key:
            if (mark := hash(str(belongs))) in seen:
                reading.note(
                    "conversation_unknown",
                    record.line,
                    path=key,
                    detail=f"the conversation {quoted(belongs)} goes on after another one",
                    fix=f"Sort the table by {quoted(key)}, and by time within it.",
                    blocks=True,
                )
            seen.add(mark)
            current = belongs
        messages.append({one: value for one, value in row.items() if one in _MESSAGE})
    yield from _conversation(line, messages)


def _conversation(line: int, messages: list[Json]) -> Iterator[tuple[int, str]]:
    if messages:
        yield line, dumped({"messages": messages})
