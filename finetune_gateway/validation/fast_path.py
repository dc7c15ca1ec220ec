"""The short way for a row with nothing to say about it.

Takes only what is certainly clean: plain chat, known keys, an order without a finding, no text
that any look of ``quality`` could stop at. Whatever it does not take goes the long way, so it
decides speed and never a finding (held by tests/validation/test_speed_paths.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal

import msgspec

from finetune_gateway.data import formats
from finetune_gateway.text.regex import searcher
from finetune_gateway.tokens.encodings import NEW_LETTERS
from finetune_gateway.validation.detectors import suspects
from finetune_gateway.validation.rows.chat import NOTHING
from finetune_gateway.validation.rows.row import row_defects

_AT_ONCE = 16  # rows searched as one text
_ENDS, _BRACES = itemgetter(0, -1), {(ord("{"), ord("}"))}
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
MAX_ROW = 1 << 20  # bytes; longer rows are too few to be worth it, and copies of them are not

# A message with a third member, a row with a second: msgspec takes a key twice without a word.
_TWICE = (
    r'"[ \t\r]*,[ \t\r]*"(?:role|content)"[ \t\r]*:[ \t\r]*"(?:[^"\\]|\\.)*"[ \t\r]*,'
    r'|\][ \t\r]*,[ \t\r]*"'
)
# A text that shows nothing, however it is written: the characters of NOTHING and their escapes.
_BLANK = (
    rf':[ \t\r]*"(?:[{NOTHING}]|\\[bfnrt]'
    r"|\\u(?:00(?:[0189][0-9a-fA-F]|20|7[fF]|[aA][0dD])|034[fF]|061[cC]|11(?:5[fF]|60)|1680"
    r"|17[bB][45]|180[b-fB-F]|20[0-6][0-9a-fA-F]|2800|3000|3164|[fF][eE](?:0[0-9a-fA-F]|[fF]{2})"
    r'|[fF]{2}[aA]0|[dD][bB]4[0-3]\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"'
)


Roles = tuple[str, ...]


class Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message as most are."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[Message]


@dataclass(slots=True)
class Batch:
    """Rows with nothing to say about them: the roles of each, and the texts of all, one after
    another. No text has a special token in it, or a letter of NEW_LETTERS."""

    roles: list[Roles] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Screen:
    """Takes rows whose method and order are known to be fine; knows nothing of files.

    Several rows at once: one search through 16 kB takes half the time of many short ones, and
    reading them together three quarters.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        decoder = msgspec.json.Decoder(_Row)
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._suspect = searcher(_TWICE, _BLANK, NEW_LETTERS, *suspects())
        self._orders: dict[Roles, bool] = {}

    def clean(self, raws: Sequence[bytes]) -> Batch:
        """The first of these rows, as many as are certainly clean one after another."""
        whole = Batch()
        for start in range(0, len(raws), _AT_ONCE):
            few = raws[start : start + _AT_ONCE]
            found = self._together(few) or self._one_by_one(few)
            whole.roles += found.roles
            whole.texts += found.texts
            if len(found.roles) < len(few):
                break
        return whole

    def _together(self, raws: Sequence[bytes]) -> Batch | None:
        """All of them, or None when one may not be clean."""
        if len(raws) < 2 or max(map(len, raws)) > MAX_ROW:
            return None
        if raws[0].endswith(b"\r"):
            raws = [raw.removesuffix(b"\r") for raw in raws]
        joined = b"\n".join(raws)
        rows = self._rows(raws, joined)
        if rows is None or self._suspect(joined):
            return None
        roles: list[Roles] = [tuple([message.role for message in row.messages]) for row in rows]
        if not all(map(self._orders.get, roles)) and not all(map(self._fine, roles)):
            return None
        return Batch(roles, [message.content for row in rows for message in row.messages])

    def _rows(self, raws: Sequence[bytes], joined: bytes) -> list[_Row] | None:
        """All rows read as one text; None when one of the lines is no such row.

        A line feed between } and { is in no value, and none is in a text: so each line is one or
        more whole values, and as many values as lines are one in each.
        """
        with contextlib.suppress(*_UNREADABLE, IndexError):  # an empty line has no ends
            if set(map(_ENDS, raws)) == _BRACES:
                rows: list[_Row] = self._decode_lines(joined)
                return rows if len(rows) == len(raws) else None
        return None

    def _one_by_one(self, raws: Sequence[bytes]) -> Batch:
        found = Batch()
        # What is no such row at all is for the long way to say.
        with contextlib.suppress(*_UNREADABLE):
            for raw in raws:
                if len(raw) > MAX_ROW:
                    break
                messages = self._decode(raw).messages
                roles = tuple([message.role for message in messages])
                if not self._fine(roles) or self._suspect(raw):
                    break
                found.roles.append(roles)
                found.texts += [message.content for message in messages]
        return found

    def _fine(self, roles: Roles) -> bool:
        if roles not in self._orders:
            if len(self._orders) > 1000:  # conversations of very many lengths
                self._orders.clear()
            self._orders[roles] = _in_order(roles, self._method)
        return self._orders[roles]


def _in_order(roles: Roles, method: str) -> bool:
    row = {"messages": [{"role": role, "content": "a"} for role in roles]}
    return not any(True for _ in row_defects(row, formats.CHAT, method))
