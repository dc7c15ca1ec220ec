"""The short way for a row with nothing to say about it.

Takes only what is certainly clean: plain chat, known keys, an order without a finding, no text
that any look of ``quality`` could stop at. Whatever it does not take goes the long way, so it
decides speed and never a finding (held by tests/test_speed_paths.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from finetune_gateway import formats
from finetune_gateway.checks.chat import blank
from finetune_gateway.checks.rows import row_defects
from finetune_gateway.checks.searching import searcher
from finetune_gateway.encodings import NEW_LETTERS
from finetune_gateway.quality.looks import suspects

_AT_ONCE = 16  # rows searched as one text
MAX_ROW = 1 << 20  # bytes; longer rows are too few to be worth it, and copies of them are not

# A message with a third member, a row with a second: msgspec takes a key twice without a word.
_TWICE = (
    r'"[ \t\r]*,[ \t\r]*"(?:role|content)"[ \t\r]*:[ \t\r]*"(?:[^"\\]|\\.)*"[ \t\r]*,'
    r'|\][ \t\r]*,[ \t\r]*"'
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

    Several rows at once: one search through 16 kB takes half the time of many short ones.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self._decode = msgspec.json.Decoder(_Row).decode
        self._suspect = searcher(_TWICE, NEW_LETTERS, *suspects())
        self._orders: dict[Roles, bool] = {}

    def clean(self, raws: Sequence[bytes]) -> Batch:
        """The first of these rows, as many as are certainly clean one after another."""
        whole = Batch()
        for start in range(0, len(raws), _AT_ONCE):
            few = raws[start : start + _AT_ONCE]
            found = self._few(few)
            whole.roles += found.roles
            whole.texts += found.texts
            if len(found.roles) < len(few):
                break
        return whole

    def _few(self, raws: Sequence[bytes]) -> Batch:
        rows, roles = self._usual(raws)
        texts = [message.content for row in rows for message in row]
        # An ASCII letter or digit at the start takes a fifth of the time of the whole check.
        if any([not "0" <= text[:1] <= "z" and blank(text) for text in texts]):
            shown = [not any(blank(message.content) for message in row) for row in rows]
            return self._few(raws[: shown.index(False)])
        if self._suspect(b"\n".join(raws[: len(rows)])):
            suspects = [self._suspect(raw) for raw in raws[: len(rows)]]
            return self._few(raws[: suspects.index(True)]) if any(suspects) else Batch(roles, texts)
        return Batch(roles, texts)

    def _usual(self, raws: Sequence[bytes]) -> tuple[list[list[Message]], list[Roles]]:
        """The first rows that are plain chat in an order without a finding."""
        rows, listed, fine = list[list[Message]](), list[Roles](), self._orders.get
        # What is no such row at all is for the long way to say.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            for raw in raws:
                messages = self._decode(raw).messages
                roles = tuple([message.role for message in messages])
                if not (fine(roles) or self._fine(roles)) or len(raw) > MAX_ROW:
                    break
                rows.append(messages)
                listed.append(roles)
        return rows, listed

    def _fine(self, roles: Roles) -> bool:
        if roles not in self._orders:
            if len(self._orders) > 1000:  # conversations of very many lengths
                self._orders.clear()
            self._orders[roles] = _in_order(roles, self._method)
        return self._orders[roles]


def _in_order(roles: Roles, method: str) -> bool:
    row = {"messages": [{"role": role, "content": "a"} for role in roles]}
    return not any(True for _ in row_defects(row, formats.CHAT, method))
