"""One JSON value that holds all rows: an array, rows under a key, columns as pandas writes them.

Read a window at a time: memory does not grow with the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from finetune_gateway.data.column_names import KNOWN, MAIN, is_turn
from finetune_gateway.data.json_reader import BREAK, JsonReader, Member, opened
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import dumped
from finetune_gateway.errors import DataError
from finetune_gateway.text.quoting import quoted

_MAX_COLUMNS = 64  # each is read by itself
_DEPTH = 3  # keys that lead to the rows
_HOLDERS = frozenset({
    "data", "rows", "train", "training", "train_data", "training_data", "examples", "items",
    "records", "instances", "samples", "dataset", "validation", "valid", "val", "dev", "test",
    "eval", "entries", "conversations", "dialogs", "dialogues", "pairs",
})  # fmt: skip

_BY_ROW = ("rows", "index", "split")  # forms in which one row follows the other
Form = Literal["rows", "columns", "lists", "split", "index"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of an object are: below the keys ``path``, in this ``form``: an array of rows,
    columns of values by index, columns as lists, pandas' split, or rows by index.

    ``columns``: their names. ``others``: keys beside the last of the path, which are not rows.
    ``several``: keys that hold rows, if more than one does. ``numbered``: pandas has written the
    numbers of the rows into them, as ``index``.
    """

    form: Form
    path: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    numbered: bool = False

    @property
    def place(self) -> str:
        """The path in words."""
        return ".".join(self.path)

    @property
    def code(self) -> str:
        """The rule that says so."""
        return "rows_under_key" if self.form == "rows" else "rows_in_columns"

    @property
    def detail(self) -> str:
        """Where the rows are, in words."""
        below = f" under the key {quoted(self.place)}" if self.path else ""
        if self.form == "rows":
            others = ", ".join(map(quoted, self.others[:8]))
            index = "; 'index' numbers them, and is not read" if self.numbered else ""
            return f"the rows are{below}{f'; not read: {others}' if others else ''}{index}"
        forms = {
            "columns": "columns of values by index, as pandas writes them",
            "lists": "columns as lists",
            "split": "names of columns and lists of cells, as pandas writes them",
            "index": "rows by index, which is not read",
        }
        return f"the file{below} holds {forms[self.form]}"


def array_rows(
    path: Path, encoding: str = "utf-8-sig", reading: Reading | None = None
) -> Iterator[tuple[int, str]]:
    """Yield line and text of each element of a JSON array, unchanged but on one line. Of one that
    ends early the whole ones, which is noted in ``reading``. Raises DataError if the array is
    malformed."""
    with opened(path, encoding) as file:
        reader = JsonReader(path, file)
        yield from reader.rows()
        if reader.is_cut:
            _note_cut(reader, reading or Reading())
        elif reader.peek():
            raise reader.malformed("there is more after the array")


def _note_cut(reader: JsonReader, reading: Reading) -> None:
    """Note that the text ends early, with the number of rows that are whole."""
    whole = reader.whole
    rows = "no row is" if not whole else "1 row is" if whole == 1 else f"{whole:,} rows are"
    detail = f"the file ends in line {reader.last_line}, before the list of rows does: {rows} whole"
    reading.note("file_truncated", reader.last_line, detail=detail, blocks=True)


# -- an object ---------------------------------------------------------------------------------


def layout_of(path: Path, encoding: str) -> Layout | None:
    """Return where the rows are in a file that is one object; None if that is itself a row, or
    is not all that the file holds."""
    try:
        with opened(path, encoding) as file:
            reader = JsonReader(path, file)
            whole = reader.member(_DEPTH)
            if not reader.is_cut and reader.peek():
                return None
    except (DataError, ValueError):  # what is wrong with it is said by line
        return None
    layout = None if _is_row(whole.members) else _layout(whole.members, ())
    # Of columns that end early no row is whole.
    return None if layout and reader.is_cut and layout.form not in _BY_ROW else layout


def _is_row(members: dict[str, Member]) -> bool:
    for key in MAIN & members.keys():
        member = members[key]
        if member.kind == "value" and isinstance(member.first, str):
            return True
        if is_turn(member.first) or "messages" in member.members:
            return True
    return False


def _layout(members: dict[str, Member], path: tuple[str, ...]) -> Layout | None:
    if found := _holder(members, path) or _columns(members, path):
        return found
    inner = [
        found
        for key, member in members.items()
        if member.kind == "object" and (found := _layout(member.members, (*path, key)))
    ]
    if len(inner) > 1:
        return Layout("rows", inner[0].path, several=tuple(one.place for one in inner))
    return inner[0] if inner else None


def _holder(members: dict[str, Member], path: tuple[str, ...]) -> Layout | None:
    """Return the layout of rows under one of the keys."""
    holders = [key for key, member in members.items() if _holds_rows(key, member, bool(path))]
    if not holders:
        return None
    others = tuple(key for key in members if key not in holders)
    several = tuple(".".join((*path, key)) for key in holders) if len(holders) > 1 else ()
    schema = members.get("schema", Member("value"))
    numbered = "pandas_version" in schema.members and "index" in members[holders[0]].first
    place = (*path, holders[0])
    return Layout("rows", place, others=others, several=several, numbered=numbered)


def _holds_rows(key: str, member: Member, nested: bool) -> bool:
    if member.kind != "array" or not isinstance(member.first, dict) or is_turn(member.first):
        return False
    if key == "conversation":  # of rounds
        return not MAIN.isdisjoint(member.first)
    parts = {"text"} if nested else set()  # of a message, as services write them
    return key.lower() in _HOLDERS or bool((KNOWN & member.first.keys()) - parts)


def _columns(members: dict[str, Member], path: tuple[str, ...]) -> Layout | None:
    """Return the layout of what pandas writes, by its ``orient``."""
    names, values = tuple(members), [one for one in members.values() if one.whole]
    if {"columns", "data"} <= members.keys() and isinstance(members["data"].first, list):
        return Layout("split", path)
    rounds = members.get("conversation", Member("value"))
    if not values or isinstance(rounds.first, dict):
        return None
    if all(one.kind == "object" for one in values):
        if all(_is_indexed(one) for one in values):
            return Layout("columns", path, names)
        rows = any(all(key in one.members for one in values) for key in KNOWN)
        return Layout("index", path) if rows and len(values) > 1 else None
    same = len({one.count for one in values}) == 1 and all(one.kind == "array" for one in values)
    if same and not MAIN.isdisjoint(members) and not any(is_turn(one.first) for one in values):
        return Layout("lists", path, names)
    return None


def _is_indexed(member: Member) -> bool:
    """Return True for a column: values under the numbers of their rows."""
    return bool(member.members) and all(key.isdigit() for key in member.members)


def object_rows(
    path: Path, encoding: str, layout: Layout, reading: Reading
) -> Iterator[tuple[int, str]]:
    """Yield the rows of an object, each with its line; 0: it has none of its own. Of one that ends
    early the whole ones, which is noted in ``reading``. Raises DataError where several keys hold
    rows, or columns differ in length."""
    if layout.several:
        raise _several(path, layout)
    if layout.form in ("columns", "lists"):
        if len(layout.columns) > _MAX_COLUMNS:
            raise DataError(
                f"{path} holds more than {_MAX_COLUMNS} columns, each as a whole.",
                hint="Export it row by row: DataFrame.to_json(orient='records', lines=True).",
            )
        yield from _from_columns(path, encoding, layout)
    elif layout.form == "split":
        yield from _from_split(path, encoding, layout, reading)
    else:
        with opened(path, encoding) as file:
            reader = JsonReader(path, file)
            reader.enter(layout.path)
            yield from reader.rows() if layout.form == "rows" else reader.rows_by_key()
            if reader.is_cut:
                _note_cut(reader, reading)


def _several(path: Path, layout: Layout) -> DataError:
    keys = ", ".join(quoted(key) for key in layout.several[:8])
    return DataError(
        f"{path} holds rows under several keys: {keys}. Which are meant?",
        hint=f"Write those of one key to a file: jq -c '.{layout.several[0]}[]' {path.name} > "
        "rows.jsonl",
    )


def _from_columns(path: Path, encoding: str, layout: Layout) -> Iterator[tuple[int, str]]:
    """Yield rows from columns, which are read side by side."""
    with ExitStack() as stack:
        columns = []
        for name in layout.columns:
            reader = JsonReader(path, stack.enter_context(opened(path, encoding)))
            reader.enter((*layout.path, name))
            columns.append(_column(reader, layout.form))
        for number, cells in enumerate(zip_longest(*columns, fillvalue=("", "")), 1):
            if len({index for index, _ in cells}) > 1:
                raise _uneven(path, number, layout.columns)
            yield 0, _object(layout.columns, [text for _, text in cells])


def _column(reader: JsonReader, form: Form) -> Iterator[tuple[str, str]]:
    """Yield index and text of each value of a column."""
    if form == "columns":
        for key in reader.members():
            yield key, reader.text()
    else:
        for index in reader.items():
            yield str(index), reader.text()


def _object(names: Sequence[str], texts: Sequence[str]) -> str:
    """Return an object on one line. A cell that pandas has no value for is left out."""
    cells = zip(names, texts, strict=True)
    inner = ",".join(f"{json.dumps(name)}:{text}" for name, text in cells if text != "null")
    return BREAK.sub(" ", f"{{{inner}}}")


def _uneven(path: Path, number: int, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path} cannot be read: row {number}: the columns {', '.join(map(quoted, names[:8]))} do "
        "not have the same rows.",
        hint="Export it again, e.g. with DataFrame.to_json(orient='records', lines=True).",
    )


def _from_split(
    path: Path, encoding: str, layout: Layout, reading: Reading
) -> Iterator[tuple[int, str]]:
    """Yield rows from pandas' split: names of columns, and lists of cells."""
    with opened(path, encoding) as file, opened(path, encoding) as again:
        header = JsonReader(path, file)
        header.enter((*layout.path, "columns"))
        names = [str(name) for name in header.value()]
        reader = JsonReader(path, again)
        reader.enter((*layout.path, "data"))
        for number, (_, row) in enumerate(reader.rows(), 1):
            cells = [dumped(cell) for cell in json.loads(row)]
            if len(cells) != len(names):
                raise _uneven(path, number, names)
            yield 0, _object(names, cells)
        if reader.is_cut:
            _note_cut(reader, reading)
