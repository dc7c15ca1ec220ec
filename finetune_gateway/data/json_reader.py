"""A JSON text, read a window at a time: memory does not grow with the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from finetune_gateway.errors import DataError
from finetune_gateway.text.quoting import quoted
from finetune_gateway.text.regex import LazyPattern
from finetune_gateway.text.windows_1252 import HANDLER

CHUNK = 1 << 20  # characters read at a time
MAX_ROW = 64 << 20  # characters of one row
BREAK = LazyPattern(r"\r?\n[ \t]*|\r")
_MAX_KEYS = 1000  # of an object that are looked at
_BLANK = re.compile(r"[ \t\r\n]*")
# A value that ends with the file: half an escape, half a word, a sign, or nothing of it yet.
_HALF = LazyPattern(r"(?:\\?u[0-9a-fA-F]{0,3}|t(?:ru?)?|f(?:a|al|als)?|n(?:ul?)?|-)?\s*\Z")


class CutOff(DataError):
    """The text ends before the value does."""


@dataclass(slots=True)
class Member:
    """The value of a key: an array or an object with its number of items, the first of them, and
    what is in an object; or another value. ``whole``: False where the text ends within it."""

    kind: Literal["array", "object", "value"]
    first: Any = None
    count: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    whole: bool = True


class JsonReader:
    """A JSON text, read a window at a time."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.window, self.at = "", 0
        self.count = self.whole = 0  # rows that were begun, and read
        self.is_cut = False  # the text ended early; what is whole was read
        self._line, self._counted = 1, 0
        self._decoder = json.JSONDecoder()

    @property
    def line(self) -> int:
        """The number of the line that is read next."""
        self._line += self.window.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    @property
    def last_line(self) -> int:
        """The number of the last line of a text that was read to its end."""
        return self.line + self.window.rstrip().count("\n", self.at)

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
            if not char:
                raise self._cut_off()
            raise self.malformed(f"expected {' or '.join(allowed)}, not {char!r}")
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
            if not self.peek():
                raise self._cut_off()
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
        """Yield line and text of each item of an array, on one line; where the text ends early, of
        the whole ones: see ``is_cut``."""
        return self._rows(self.items())

    def rows_by_key(self) -> Iterator[tuple[int, str]]:
        """Yield line and text of each value of an object, as ``rows`` does."""
        return self._rows(self.members())

    def _rows(self, places: Iterator[object]) -> Iterator[tuple[int, str]]:
        try:
            for _ in places:
                self.count += 1
                self.peek()
                line = self.line
                text = BREAK.sub(" ", self.text())
                self.whole += 1
                yield line, text
        except CutOff:
            self.is_cut = True

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
            half = self._is_half(end)  # of the window of the error: reading on moves it
            if not self._may_continue(end) or not self._more(size):
                raise self._cut_off() if half else self.malformed(str(end))
            size *= 2  # decoding starts again from the start of the value: double, to stay linear

    def value(self) -> Any:
        """Take the next value."""
        return json.loads(self.text())

    def member(self, depth: int) -> Member:
        """Take the next value and return what it is, down to this depth of objects. ``is_cut``
        says whether the text ended within it."""
        char = self.peek()
        found = Member("array" if char == "[" else "object")
        try:
            if char == "[":
                self._look_at_items(found)
                return found
            if char == "{" and depth:
                self._look_at_members(found, depth)
                return found
        except CutOff:
            found.whole = False
            self.is_cut, self.at = True, len(self.window)  # of the objects around it too
            return found
        value = self.value()
        return Member("object" if char == "{" else "value", value, 1)

    def _look_at_items(self, found: Member) -> None:
        for index in self.items():
            text = self.text()
            found.first = json.loads(text) if index == 0 else found.first
            found.count = index + 1

    def _look_at_members(self, found: Member, depth: int) -> None:
        for key in self.members():
            found.count += 1
            if key in found.members:  # one of the two would be lost
                raise self.malformed(f"the key {quoted(key)} occurs twice")
            if len(found.members) < _MAX_KEYS:
                found.members[key] = self.member(depth - 1)
            else:
                self.text()

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

    def _is_half(self, error: ValueError) -> bool:
        """Return True if the text ends within the value, which is right so far."""
        if not isinstance(error, json.JSONDecodeError) or len(self.window) - self.at > MAX_ROW:
            return False
        unclosed = error.msg.startswith("Unterminated")
        return unclosed or _HALF.match(self.window, error.pos) is not None

    def _cut_off(self) -> CutOff:
        where = f"row {self.count}" if self.count else "it"
        return CutOff(
            f"{self.path} cannot be read: it ends early, in line {self.line}, within {where}.",
            hint="Export or download it again.",
        )

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
