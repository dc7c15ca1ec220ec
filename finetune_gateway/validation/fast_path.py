"""A fast check for rows that certainly have no defect.

Takes plain chat rows only: known keys, a correct order of roles, no text that a detector could
match. All other rows get the full check, so the fast path changes speed and never a finding (held
by tests/validation/test_speed_paths.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, takewhile
from operator import itemgetter
from typing import Literal

import msgspec

from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.row_access import NOTHING
from finetune_gateway.text.pii import Regions
from finetune_gateway.text.regex import searcher
from finetune_gateway.tokens.encodings import NEW_LETTERS
from finetune_gateway.validation.detectors import prefilters, quick_prefilters
from finetune_gateway.validation.file_bytes import FLAGGED, UNSURE
from finetune_gateway.validation.rows.chat import chat_defects
from finetune_gateway.validation.rows.leftovers import HINTS_WITHOUT_CALLS, leftover_defects

GROUP = 16  # rows decoded, and at most searched, as one text
_GROUP_BYTES = 12_000
_ENDS, _BRACES = itemgetter(0, -1), {(ord("{"), ord("}"))}
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
MAX_ROW = 1 << 20  # bytes; longer rows are too rare to be worth copying

# A message with a third member, a row with a second: msgspec accepts duplicate keys silently.
_DUPLICATE_KEY = (
    r'"[ \t\r]*,[ \t\r]*"(?:role|content)"[ \t\r]*:[ \t\r]*"(?:[^"\\]|\\.)*"[ \t\r]*,'
    r'|\][ \t\r]*,[ \t\r]*"'
)
# A text with nothing visible, in any notation: the characters of NOTHING and their escapes.
_BLANK = (
    rf':[ \t\r]*"(?:[{NOTHING}]|\\[bfnrt]'
    r"|\\u(?:00(?:[0189][0-9a-fA-F]|20|7[fF]|[aA][0dD])|034[fF]|061[cC]|11(?:5[fF]|60)|1680"
    r"|17[bB][45]|180[b-fB-F]|20[0-6][0-9a-fA-F]|2800|3000|3164|[fF][eE](?:0[0-9a-fA-F]|[fF]{2})"
    r'|[fF]{2}[aA]0|[dD][bB]4[0-3]\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"'
)
_UNUSUAL = (_DUPLICATE_KEY, _BLANK, NEW_LETTERS)
_CHAT_ENDS = (b'"}]}', b'"}]}\r')
_is_utf8 = searcher(r"\A")  # without a copy of the text, as decoding it makes one
USUAL = 2  # what the prefilter says of a line that is not flagged


Roles = tuple[str, ...]


class Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A plain message."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[Message]


@dataclass(slots=True)
class PlainRows:
    """Rows without defects: the roles of each, and the texts of all of them in order.

    No text has a special token or a letter of NEW_LETTERS.
    """

    roles: list[Roles] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


Search = Callable[[str | bytes], bool]
Group = tuple[Sequence[int], bytes]  # places of lines, and their texts as one


class Prefilter:
    """Says which lines may hold what a detector finds.

    Many lines at once: a search through 16 lines takes half the time of 16 short ones, and each
    pattern goes through all lines before the next, while its table is in the cache.
    """

    def __init__(self, regions: Regions = ()) -> None:
        self._regions = regions
        _, base64, digits = quick_prefilters()
        self._base64, self._digits = searcher(*base64), searcher(*digits)

    # Compiled in up to 6 ms each, and not needed by every file.

    @cached_property
    def _written_or_unusual(self) -> Search:
        return searcher(*quick_prefilters()[0], *HINTS_WITHOUT_CALLS, *_UNUSUAL)

    @cached_property
    def _written(self) -> Search:
        return searcher(*prefilters(self._regions)[0])

    @cached_property
    def _numbers(self) -> Search:
        return searcher(*prefilters(self._regions)[1])

    @cached_property
    def _written_quick(self) -> Search:
        return searcher(*quick_prefilters()[0])

    def flags_of(self, lines: Sequence[bytes]) -> bytearray:
        """Return for each line FLAGGED if something may be found in it; else USUAL if it also has
        nothing of what keeps a row from the fast path, and nothing that an export has left half
        done, as far as a search can tell; else UNSURE."""
        flags = bytearray(len(lines))
        chats, others = (list(self._groups_of(some, lines, flags)) for some in _by_ending(lines))
        for groups, flag in ((chats, USUAL), (others, UNSURE)):
            for place in chain.from_iterable(places for places, _ in groups):
                flags[place] = flag
        found = _matching(self._written_or_unusual, chats, lines) if chats else []
        found += _matching(self._written_quick, others, lines) if others else []
        for place in found:
            flags[place] = UNSURE
        for search in (self._written, self._numbers) if found else ():
            for place in found:
                if flags[place] == UNSURE and search(lines[place]):
                    flags[place] = FLAGGED
        for place in _matching(self._base64, chats + others, lines):
            flags[place] = FLAGGED
        for place in self._with_numbers(_matching(self._digits, chats + others, lines), lines):
            flags[place] = FLAGGED
        return flags

    def _flag_of(self, line: bytes) -> int:
        return FLAGGED if self._written(line) or self._numbers(line) else UNSURE

    def _groups_of(
        self, places: Sequence[int], lines: Sequence[bytes], flags: bytearray
    ) -> Iterator[Group]:
        """Yield lines that are searched as one text. Those of a text that no search reads are
        searched one by one, and their flags are set."""
        size = _group_size(places, lines)
        for start in range(0, len(places), size):
            some = places[start : start + size]
            if _is_searchable(text := b"\n".join([lines[place] for place in some])):
                yield some, text
                continue
            for place in some:
                line = lines[place]
                found = self._base64(line) or not _is_searchable(line)
                flags[place] = FLAGGED if found else self._flag_of(line)

    def _with_numbers(self, places: Sequence[int], lines: Sequence[bytes]) -> Iterator[int]:
        """Yield the places of lines with a number. Short rows with many digits are rarely searched
        one by one."""
        for start in range(0, len(places), GROUP):
            some = places[start : start + GROUP]
            if self._numbers(b"\n".join([lines[place] for place in some])):
                yield from (place for place in some if self._numbers(lines[place]))


def _group_size(places: Sequence[int], lines: Sequence[bytes]) -> int:
    """Return how many lines are searched as one text: fewer of long ones, of which one with a match
    makes a search of each."""
    size = sum(map(len, map(lines.__getitem__, places)))
    return max(1, min(GROUP, _GROUP_BYTES * len(places) // max(size, 1)))


def _by_ending(lines: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Return the places of lines that end as plain chat rows do, and of the others. Most of the
    others are unusual, so that a search for that in a group of lines would nearly always hit."""
    chats: list[int] = []
    others: list[int] = []
    for place, line in enumerate(lines):
        (chats if line.endswith(_CHAT_ENDS) else others).append(place)
    return chats, others


def _matching(search: Search, groups: Sequence[Group], lines: Sequence[bytes]) -> list[int]:
    """Return the places of lines in which a search finds something."""
    hits = [places for places, text in groups if search(text)]
    return [place for places in hits for place in places if search(lines[place])]


def _is_searchable(text: bytes) -> bool:
    """Return True if a search reads a text: it finds nothing in what is not UTF-8."""
    if len(text) > GROUP * MAX_ROW:
        return False  # too rare to be worth the time
    return text.isascii() or _is_utf8(text)


class FastPath:
    """Takes rows that have no defect under a method.

    Decoding several rows together takes three quarters of the time, searching them half.
    """

    def __init__(self, method: str, regions: Regions = ()) -> None:
        self._method = method
        self.prefilter = Prefilter(regions)
        self._is_unusual = searcher(*_UNUSUAL)
        decoder = msgspec.json.Decoder(_Row)
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._orders: dict[Roles, bool] = {}
        self._left = 0  # how many more rows with leftovers than without were looked at

    def take(self, raws: Sequence[bytes], flags: bytearray | None = None) -> PlainRows:
        """Return the first of these rows, up to one that may have a defect. ``flags``: what the
        prefilter says of them, if it was asked before."""
        known = self.prefilter.flags_of(raws) if flags is None else flags
        if self._left > GROUP:  # as where each answer begins with its reasoning
            known = known.replace(bytes([UNSURE]), bytes([FLAGGED]))
        count = known.find(FLAGGED)
        clean = raws if count < 0 else raws[:count]
        rows = PlainRows()
        for start in range(0, len(clean), GROUP):
            group = clean[start : start + GROUP]
            # A short run of plain rows ends in one of another kind, and would be read twice.
            decoded = self._decode_together(group) if len(clean) > GROUP else None
            some = known[start : start + len(group)]
            taken = self._check(group, some, decoded or self._decode_singly(group))
            rows.roles += taken.roles
            rows.texts += taken.texts
            if len(taken.roles) < len(group):
                break
        return rows

    def _decode_together(self, raws: Sequence[bytes]) -> list[_Row] | None:
        """Decode all rows as one text; None if a line is not a plain row.

        A line feed between } and { is not inside a value or a text, so each line is one or more
        whole values; if there are as many values as lines, each line is one.
        """
        if raws[0].endswith(b"\r"):
            raws = [raw.removesuffix(b"\r") for raw in raws]
        with contextlib.suppress(*_UNREADABLE, IndexError):  # an empty line has no ends
            if set(map(_ENDS, raws)) == _BRACES and max(map(len, raws)) <= MAX_ROW:
                rows: list[_Row] = self._decode_lines(b"\n".join(raws))
                return rows if len(rows) == len(raws) else None
        return None

    def _decode_singly(self, raws: Sequence[bytes]) -> list[_Row]:
        """Decode the first of these rows, up to one that is not a plain row."""
        rows: list[_Row] = []
        # The full check reports what cannot be decoded.
        with contextlib.suppress(*_UNREADABLE):
            for raw in raws:
                if len(raw) > MAX_ROW:
                    break
                rows.append(self._decode(raw))
        return rows

    def _check(self, raws: Sequence[bytes], flags: bytearray, rows: list[_Row]) -> PlainRows:
        """Return the first of these decoded rows, up to one that may have a defect."""
        roles: list[Roles] = [tuple([message.role for message in row.messages]) for row in rows]
        unsure = [raw for raw, flag in zip(raws[: len(rows)], flags, strict=False) if flag != USUAL]
        if not all(map(self._is_ordered, roles)) or (
            unsure and self._is_unusual(b"\n".join(unsure))
        ):
            fine = (
                self._is_ordered(order) and (flag == USUAL or not self._is_unusual(raw))
                for raw, flag, order in zip(raws, flags, roles, strict=False)
            )
            count = sum(1 for _ in takewhile(bool, fine))
            rows, roles = rows[:count], roles[:count]
        if UNSURE in flags:
            count = self._before_leftovers(raws, flags, rows)
            rows, roles = rows[:count], roles[:count]
        return PlainRows(roles, [message.content for row in rows for message in row.messages])

    def _before_leftovers(self, raws: Sequence[bytes], flags: bytearray, rows: list[_Row]) -> int:
        """Return the number of rows before the first in which an export left something."""
        for place, (flag, row) in enumerate(zip(flags, rows, strict=False)):
            if flag == UNSURE:
                found = _has_leftovers(raws[place], row)
                self._left = max(0, self._left + (1 if found else -1))
                if found:
                    return place
        return len(rows)

    def _is_ordered(self, roles: Roles) -> bool:
        known = self._orders.get(roles)
        if known is None:
            if len(self._orders) > 1000:  # conversations of very many lengths
                self._orders.clear()
            known = self._orders[roles] = _has_no_defect(roles, self._method)
        return known


def _has_leftovers(raw: bytes, row: _Row) -> bool:
    plain = {"messages": [{"role": one.role, "content": one.content} for one in row.messages]}
    return any(True for _ in leftover_defects(raw.decode(), plain, CanonicalRow(plain)))


def _has_no_defect(roles: Roles, method: str) -> bool:
    row = {"messages": [{"role": role, "content": "a"} for role in roles]}
    return not any(True for _ in chat_defects(row, reinforcement=method == "reinforcement"))
