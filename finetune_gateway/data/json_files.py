"""One JSON value that holds all rows: an array, rows under a key, columns as pandas writes them.

Read a window at a time: memory does not grow with the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TextIO

from finetune_gateway.data.column_names import KNOWN, MAIN, is_turn
from finetune_gateway.errors import DataError
from finetune_gateway.text.quoting import quoted
from finetune_gateway.text.regex import LazyPattern
from finetune_gateway.text.windows_1252 import HANDLER

CHUNK = 1 << 20  # characters read at a time
MAX_ROW = 64 << 20  # characters of one row
_MAX_COLUMNS = 64  # each is read by itself
_MAX_KEYS = 1000  # of an object that are looked at
_DEPTH = 3  # keys that lead to the rows
_BLANK = re.compile(r"[ \t\r\n]*")
_BREAK = LazyPattern(r"\r?\n[ \t]*|\r")
_HOLDERS = frozenset({
    "data", "rows", "train", "training", "train_data", "training_data", "examples", "items",
    "records", "instances", "samples", "dataset", "validation", "valid", "val", "dev", "test",
    "eval", "entries", "conversations", "dialogs", "dialogues", "pairs",
})  # fmt: skip

Form = Literal["rows", "columns", "lists", "split", "index"]


@dataclass(slots=True)
class Member:
    """The value of a key: an array or an object with its number of items, the first of them, and
    what is in an object; or another value."""

    kind: Literal["array", "object", "value"]
    first: Any = None
    count: int = 0
    members: dict[str, Member] = field(default_factory=dict)


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


class JsonReader:
    """A JSON text, read a window at a time."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.window, self.at = "", 0
        self.count = 0
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder()

    @property
    def line(self) -> int:
        """The number of the line that is read next."""
        self._line += self.window.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def peek(self) -> str:
        """Return the next character that is not blank; "" at the end."""
        while True:
            blank = _BLANK.match(self.window, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.window) or not self._more(CHUNK):
                return self.window[self.at : self.at + 1]

    def expect(self, allowed: str) -> str:
        """Take one of these characters. Raises DataError for another."""
        char = self.peek()
        if not char or char not in allowed:
            actual = repr(char) if char else "the end of the file"
            raise self.malformed(f"expected {' or '.join(allowed)}, not {actual}")
        self.at += 1
        return char

    def items(self) -> Iterator[int]:
        """Yield the index of each item of an array; the caller takes its value."""
        yield from self._members("[", "]", "")

    def members(self) -> Iterator[str]:
        """Yield each key of an object; the caller takes its value."""
        for _ in self._members("{", "}", '"'):
            key = json.loads(self.text())
            self.expect(":")
            yield key

    def _members(self, start: str, end: str, begin: str) -> Iterator[int]:
        self.expect(start)
        if self.peek() == end:
            self.at += 1
            return
        index = 0
        while True:
            if begin and self.peek() != begin:
                raise self.malformed("expected a key")
            yield index
            index += 1
            if self.expect("," + end) == end:
                return
            if not begin and self.peek() == end:  # a comma after the last item
                self.at += 1
                return

    def rows(self) -> Iterator[tuple[int, str]]:
        """Yield line and text of each item of an array, on one line."""
        for index in self.items():
            self.count = index + 1
            self.peek()
            line = self.line
            yield line, _BREAK.sub(" ", self.text())

    def text(self) -> str:
        """Take the next value and return its text. Raises DataError if it is malformed."""
        self.peek()
        size = CHUNK
        while True:
            end = self._decode()
            if isinstance(end, int):
                text = self.window[self.at : end]
                self.at = end
                return text
            if not self._may_continue(end) or not self._more(size):
                raise self.malformed(str(end))
            size *= 2  # decoding starts again from the start of the value: double, to stay linear

    def value(self) -> Any:
        """Take the next value."""
        return json.loads(self.text())

    def member(self, depth: int) -> Member:
        """Take the next value and return what it is, down to this depth of objects."""
        char = self.peek()
        if char == "[":
            first, count = None, 0
            for index in self.items():
                text = self.text()
                first = json.loads(text) if index == 0 else first
                count = index + 1
            return Member("array", first, count)
        if char == "{" and depth:
            members, count = dict[str, Member](), 0
            for key in self.members():
                count += 1
                if key in members:  # one of the two would be lost
                    raise self.malformed(f"the key {quoted(key)} occurs twice")
                if len(members) < _MAX_KEYS:
                    members[key] = self.member(depth - 1)
                else:
                    self.text()
            return Member("object", None, count, members)
        value = self.value()
        return Member("object" if char == "{" else "value", value, 1)

    def enter(self, path: tuple[str, ...]) -> None:
        """Go to the value below these keys."""
        for name in path:
            for key in self.members():
                if key == name:
                    break
                self.member(1)

    def _decode(self) -> int | ValueError:
        """Return the end of the value at this place, or the error."""
        try:
            end = self._decoder.raw_decode(self.window, self.at)[1]
        except RecursionError:
            raise self.malformed("it is nested too deep") from None
        except ValueError as exc:
            return exc
        # A number may continue in the next window.
        if end == len(self.window) and self.window[end - 1] not in '}]"':
            end -= self.at  # reading on moves the window to this place
            return self._decode() if self._more(CHUNK) else end
        return end

    def _may_continue(self, error: ValueError) -> bool:
        """Return True if more text could complete the value."""
        if len(self.window) - self.at > MAX_ROW:
            return False
        if not isinstance(error, json.JSONDecodeError):
            return "digits" not in str(error)
        if error.msg.startswith("Unterminated"):
            return True
        return error.pos > len(self.window) - 64

    def _more(self, size: int) -> bool:
        text = self.file.read(size)
        self._line = self.line
        self.window, self.at, self._counted = self.window[self.at :] + text, 0, 0
        return bool(text)

    def malformed(self, reason: str) -> DataError:
        """Return the error of a text that is not what it began as."""
        row = f"row {self.count}, which begins in line {self.line}" if self.count else "the array"
        return DataError(
            f"{self.path} cannot be read: {row}: {reason}.", hint="Fix it, or write it as JSONL."
        )


def opened(path: Path, encoding: str, newline: str = "") -> TextIO:
    """Open a text; bytes that are not UTF-8 are read as Windows-1252."""
    errors = HANDLER if encoding == "utf-8-sig" else "strict"
    return path.open(encoding=encoding, errors=errors, newline=newline)


def lines_of(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text. One that is longer than a row can be is cut, to be refused: it
    would fill the memory."""
    while line := file.readline(MAX_ROW + 2):
        yield line


def array_rows(path: Path, encoding: str = "utf-8-sig") -> Iterator[tuple[int, str]]:
    """Yield line and text of each element of a JSON array, unchanged but on one line. Raises
    DataError if the array is malformed."""
    with opened(path, encoding) as file:
        reader = JsonReader(path, file)
        yield from reader.rows()
        if reader.peek():
            raise reader.malformed("there is more after the array")


# -- an object ---------------------------------------------------------------------------------


def layout_of(path: Path, encoding: str) -> Layout | None:
    """Return where the rows are in a file that is one object; None if that is itself a row, or
    is not all that the file holds."""
    try:
        with opened(path, encoding) as file:
            reader = JsonReader(path, file)
            whole = reader.member(_DEPTH)
            if reader.peek():
                return None
    except (DataError, ValueError):  # what is wrong with it is said by line
        return None
    return None if _is_row(whole.members) else _layout(whole.members, ())


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
    names, values = tuple(members), list(members.values())
    if {"columns", "data"} <= members.keys() and isinstance(members["data"].first, list):
        return Layout("split", path)
    rounds = members.get("conversation", Member("value"))
    if not members or isinstance(rounds.first, dict):
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


def object_rows(path: Path, encoding: str, layout: Layout) -> Iterator[tuple[int, str]]:
    """Yield the rows of an object, each with its line; 0: it has none of its own. Raises DataError
    where several keys hold rows, or columns differ in length."""
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
        yield from _from_split(path, encoding, layout)
    else:
        with opened(path, encoding) as file:
            reader = JsonReader(path, file)
            reader.enter(layout.path)
            yield from reader.rows() if layout.form == "rows" else _by_index(reader)


def _by_index(reader: JsonReader) -> Iterator[tuple[int, str]]:
    for number, _ in enumerate(reader.members(), 1):
        reader.count = number
        reader.peek()
        line = reader.line
        yield line, _BREAK.sub(" ", reader.text())


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
    return _BREAK.sub(" ", f"{{{inner}}}")


def _uneven(path: Path, number: int, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path} cannot be read: row {number}: the columns {', '.join(map(quoted, names[:8]))} do "
        "not have the same rows.",
        hint="Export it again, e.g. with DataFrame.to_json(orient='records', lines=True).",
    )


def _from_split(path: Path, encoding: str, layout: Layout) -> Iterator[tuple[int, str]]:
    """Yield rows from pandas' split: names of columns, and lists of cells."""
    with opened(path, encoding) as file, opened(path, encoding) as again:
        header = JsonReader(path, file)
        header.enter((*layout.path, "columns"))
        names = [str(name) for name in header.value()]
        reader = JsonReader(path, again)
        reader.enter((*layout.path, "data"))
        for index in reader.items():
            cells = [reader.text() for _ in reader.items()]
            if len(cells) != len(names):
                raise _uneven(path, index + 1, names)
            yield 0, _object(names, cells)
