"""Tables as rows: the header, the cells, and messages that are a line each.

Knows nothing of files: ``csv_file`` and ``workbook`` bring the records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from typing import Any, NamedTuple

from finetune_gateway.data.cells import cell_value, truth
from finetune_gateway.data.column_names import ANSWERS, CONVERSATIONS, KNOWN, MAIN, normalized
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import dumped, loads_strict
from finetune_gateway.errors import DataError
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_NAME = 40  # characters of a column's name, at most
_SENTENCE = re.compile(r"[.?!;:,]\s*\Z|\S+(?:\s+\S+){3,}")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)*\Z")
_SYSTEM = ("system", "developer")
_LOOKED_AT = 6  # records, of which one may be the header
# Beside what is no value anywhere: these are words of programs and answers too.
_NO_VALUE = ("NaN", "None", "null", r"\N")
_FORMULA = re.compile(r"=[A-Z][A-Z0-9.]+\(.*\)", re.DOTALL)  # as a whole cell
_MEANT = "Write the value that it shows. Nothing to do if the model is to write formulas."
# As MySQL writes a quote in a cell: INTO OUTFILE ... ENCLOSED BY '"', which escapes by \.
_BACKSLASHES = (
    'a quote inside a cell is written as \\", as MySQL exports it, where CSV has it twice'
)
_DOUBLED = """Write each quote twice: sed 's/\\\\"/""/g' old.csv > new.csv"""
_SHOWN = 8  # names of columns in a message
_INDEX = frozenset({"", "Unnamed: 0", "Unnamed: 0.1"})  # what pandas numbers rows with


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
    filled = (record for record in records if any(record.cells))
    source: Iterator[Record] = dropwhile(_is_blank, filled)
    head = list(islice(source, _LOOKED_AT))
    if not head:
        return
    if (start := _start_of_json(head)) is not None:
        reading.note("rows_in_cells", head[start].line)
        yield from map(_json_row, chain(head[start:], source))
        return
    names, above = _names(head, reading)
    source = chain(head[above:], source)
    if turns := _turns(names):
        yield from _conversations(source, names, turns, reading, name)
        return
    for record in source:
        row = _row(record, names, reading, name)
        yield record.line, dumped(record.raw if row is None else row)


def _is_blank(record: Record) -> bool:
    return not any(map(str.strip, record.cells))


# -- rows as JSON in cells ---------------------------------------------------------------------


def _start_of_json(head: list[Record]) -> int | None:
    """Return which of the first records begins rows that are JSON: in one cell, or cut in cells at
    its commas, as spreadsheets save JSON lines. None for another table."""
    if _json_of(head[0]) is not None:
        return 0
    cells = [cell for cell in head[0].cells if cell.strip()]
    named = len(cells) == 1 and normalized(cells[0]) not in KNOWN
    at = next((at for at, one in enumerate(head) if at and not _is_blank(one)), None)
    if not named or not at or _json_of(head[at]) is None:
        return None
    # The others may be broken JSON. A text is a row of its column.
    others = (_joined(one) for one in head[at + 1 :] if not _is_blank(one))
    return at if all(text.startswith("{") for text in others) else None


def _json_of(record: Record) -> Json | None:
    text = _joined(record)
    if not text.startswith("{"):
        return None
    try:
        value = loads_strict(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None  # {} is a text as well


def _json_row(record: Record) -> tuple[int, str]:
    """Return line and JSON of a record; what is none as it is, to be judged by line."""
    row = _json_of(record)
    return record.line, " ".join(_joined(record).splitlines()) if row is None else dumped(row)


def _joined(record: Record) -> str:
    return ",".join(record.cells).strip().rstrip(",")


# -- the header --------------------------------------------------------------------------------


def _names(head: list[Record], reading: Reading) -> tuple[list[str], int]:
    """Return the names of the columns, and how many of the first records are not rows."""
    at = _lines_above(head)
    if at:
        shown = ", ".join(f"line {record.line}" for record in head[:at])
        detail = f"what stands above the names of the columns in line {head[at].line} is not read"
        reading.note("header_names", head[0].line, path=shown, detail=detail)
    names = header_of(head[at], reading)
    if names is None:
        return [f"column {number}" for number in range(1, len(head[0].cells) + 1)], 0
    return names, at + 1


def _lines_above(head: list[Record]) -> int:
    """Return how many lines of one cell, such as a title, stand above the header."""
    for at, record in enumerate(head):
        if not MAIN.isdisjoint(map(normalized, record.cells)):
            return at
        if sum(map(bool, map(str.strip, record.cells))) > 1:
            return 0
    return 0


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
    if index := [name for name in names[:1] if name in _INDEX]:
        detail = f"the column {quoted(index[0])} numbers the rows, and is not read"
        reading.note("header_names", first.line, path="index", detail=detail)
    if KNOWN.isdisjoint(names):
        reading.header = tuple(names)
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
        fault, fix = (_BACKSLASHES, _DOUBLED) if '\\"' in record.raw else (record.fault, "")
        reading.note("quote_unbalanced", record.line, detail=fault, fix=fix, blocks=True)
        return None
    more = [cell for cell in record.cells[len(names) :] if cell.strip()]
    if more:
        count = len(record.cells)
        columns = "is 1 column" if len(names) == 1 else f"are {len(names)} columns"
        detail = f"the line has {count} cells, but there {columns}"
        reading.note("cells_extra", record.line, detail=detail, blocks=True)
        return None
    row: Json = {}
    for key, text in zip(names, record.cells, strict=False):
        if not text or (key in _INDEX and text.isdecimal()):
            continue
        if key in row:
            raise DataError(
                f"{name} cannot be read: two of its columns are named {quoted(key)}.",
                hint="Rename one of them, or remove it.",
            )
        if text in _NO_VALUE:
            reading.note("no_value", record.line, path=key, detail=f"the cell is '{text}'")
        if _FORMULA.fullmatch(text):
            detail = f"the cell is a formula, not its value: {quoted(text)}"
            reading.note("spreadsheet_error", record.line, path=key, detail=detail, fix=_MEANT)
        if key == "label" and not ANSWERS.isdisjoint(names):
            row[key] = truth(text)
            continue
        row[key], is_python = cell_value(key, text)
        if is_python:
            reading.note("cell_python", record.line, path=key)
    return row


# -- messages, a line each ---------------------------------------------------------------------


class Turns(NamedTuple):
    """Columns of a table of which each line is a message: who speaks, all that a message has, and
    the key for the messages of a conversation."""

    role: str
    fields: frozenset[str]
    key: str


_MESSAGES = Turns(
    "role",
    frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"}),
    "messages",
)
_SHAREGPT = Turns("from", frozenset({"from", "value", "weight"}), "conversations")


def _turns(names: list[str]) -> Turns | None:
    """Return how messages stand in a table of one message a line; None for another table."""
    if {"role", "content"} <= set(names) and "messages" not in names:
        return _MESSAGES
    return _SHAREGPT if {"from", "value"} <= set(names) else None


def _conversations(
    records: Iterable[Record], names: list[str], turns: Turns, reading: Reading, name: str
) -> Iterator[tuple[int, str]]:
    """Yield a conversation for each value of the column that tells them apart, or for each system
    message; without either, the messages as they are."""
    source = iter(records)
    first = next(source, None)
    if first is None:
        return
    source = chain([first], source)
    key = next((one for one in map(_column(names).get, CONVERSATIONS) if one), None)
    by_system = _cell(first, names, turns.role).strip().lower() in _SYSTEM
    rows = ((record, _row(record, names, reading, name)) for record in source)
    if key is None and not by_system:
        reading.note(
            "conversation_unknown",
            first.line,
            detail="each line is one message, and no column tells which conversation it belongs to",
            blocks=True,
        )
        yield from ((record.line, dumped(row or record.raw)) for record, row in rows)
        return
    _note_messages(names, key, turns, reading)
    yield from _grouped(rows, key, turns, reading)


def _column(names: list[str]) -> dict[str, str]:
    """Return the names of the columns by their normalized names."""
    return {normalized(one): one for one in reversed(names)}


def _cell(record: Record, names: list[str], key: str) -> str:
    at = names.index(key)
    return record.cells[at] if at < len(record.cells) else ""


def _note_messages(names: list[str], key: str | None, turns: Turns, reading: Reading) -> None:
    others = [one for one in names if one and one not in turns.fields and one != key]
    by = f"the column {quoted(key)}" if key else "their system messages"
    left = f"; not read: {', '.join(map(quoted, others[:_SHOWN]))}" if others else ""
    detail = f"each line is one message; conversations are told apart by {by}{left}"
    reading.note("messages_by_line", detail=detail)


def _grouped(
    rows: Iterable[tuple[Record, Json | None]], key: str | None, turns: Turns, reading: Reading
) -> Iterator[tuple[int, str]]:
    messages, line, current = list[Json](), 0, object()
    seen: set[int] = set()
    for record, row in rows:
        if row is None:
            yield from _conversation(line, messages, turns)
            messages = []
            yield record.line, dumped(record.raw)
            continue
        belongs = row.get(key) if key else None
        starts = belongs != current if key else row.get(turns.role) in _SYSTEM
        if starts or not messages:
            yield from _conversation(line, messages, turns)
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
        messages.append({one: value for one, value in row.items() if one in turns.fields})
    yield from _conversation(line, messages, turns)


def _conversation(line: int, messages: list[Json], turns: Turns) -> Iterator[tuple[int, str]]:
    if messages:
        yield line, dumped({turns.key: messages})
