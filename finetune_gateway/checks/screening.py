"""The short way for a row with nothing to say about it.

Takes only what is certainly clean: plain chat, known keys, an order without a finding, no text
that any look of ``quality`` could stop at. Whatever it does not take goes the long way, so it
decides speed and never a finding (held by tests/test_speed_paths.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal

import msgspec

from finetune_gateway import formats
from finetune_gateway.checks.chat import blank
from finetune_gateway.checks.rows import row_defects
from finetune_gateway.checks.searching import searcher
from finetune_gateway.quality.looks import ALL_LOOKS, FOREIGN, MOJIBAKE, PIECES, text_defects
from finetune_gateway.quality.private import KEYS, NUMBERS, RUN

MAX_ROW = 1 << 20  # bytes; longer rows are too few to be worth it, and copies of them are not

# Escapes that hide what the looks would see: ASCII, half surrogates, slashes, control characters.
_ESCAPED = r"[^\\](?:\\\\)*\\(?:u00[0-7]|u[dD][89a-fA-F]|[bf/])"
# A message with a third member, a row with a second: msgspec takes a key twice without a word.
_TWICE = (
    r'"[ \t\r]*,[ \t\r]*"(?:role|content)"[ \t\r]*:[ \t\r]*"(?:[^"\\]|\\.)*"[ \t\r]*,'
    r'|\][ \t\r]*,[ \t\r]*"'
)
# What each look needs, as its author says it in ``needs``, narrowed to what it can match; whatever
# is not named here is taken as it is needed.
_NARROWED = {"@": r"[A-Za-z0-9_+-]@[A-Za-z0-9_]|[^\x00-\x7f]@|@[^\x00-\x7f]"}
_NARROWED |= {piece: re.escape(piece) + "[A-Za-z0-9_.+/=-]{8}" for piece in (*KEYS, "rk_test_")}
_DIGITS = r"(?:\d[ .()/-]{0,3}){8}\d"
_IBAN = r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11}"
_NUMBERS = f"{_DIGITS}|{_IBAN}"
_RUNS = re.compile(_DIGITS)
_NEAR = 80  # characters
_NUMBER_LOOKS = {"a card number", "an IBAN", "a US social security number", "a telephone number"}
_ODD = (
    "[\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\ufeff\ufffd\U000e0000-\U000e007f]|" + MOJIBAKE
)
_ODD_LOOKS = {
    "the direction control",
    "the invisible character",
    "wrongly decoded text such as",
    "the character",
}


class Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message as most are."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[Message]


class Screen:
    """Takes rows whose method and order are known to be fine; knows nothing of files."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._decode = msgspec.json.Decoder(_Row).decode
        self._suspect = searcher(_ESCAPED, _TWICE, *_needed(), *_needed_by_numbers())
        self.text = ""
        self.marks = False
        self._orders: dict[tuple[str, ...], bool] = {}

    def take(self, raw: bytes) -> list[Message] | None:
        """The messages of a row that is certainly clean, or None; ``text`` is the row then, and
        ``marks`` whether there may be something like a special token in it."""
        if len(raw) > MAX_ROW:
            return None
        try:
            messages = self._decode(raw).messages
            self.text = text = raw.decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        contents = [one.content for one in messages]
        if not self._usual(messages, contents):
            return None
        if self._suspect(text) or (_hides(text, contents) and self._suspect(_foreign(contents))):
            self.marks = True
            return messages if _cleared(text, messages) else None
        self.marks = False
        return messages

    def _usual(self, messages: list[Message], contents: list[str]) -> bool:
        """Whether there is an order without a finding, and something in each message."""
        roles = tuple([one.role for one in messages])
        fine = self._orders.get(roles)
        if fine is None:
            if len(self._orders) > 1000:  # conversations of very many lengths
                self._orders.clear()
            fine = self._orders[roles] = _in_order(roles, self._method)
        # An ASCII letter or digit at the start takes a fifth of the time of the whole check.
        return fine and not any([not "0" <= c[:1] <= "z" and blank(c) for c in contents])


def _hides(text: str, contents: list[str]) -> bool:
    """Whether characters beyond ASCII may stand behind escapes."""
    return not all(map(str.isascii, contents)) if text.isascii() else "\\u" in text


def _foreign(contents: list[str]) -> str:
    return "\n".join([content for content in contents if not content.isascii()])


def _in_order(roles: tuple[str, ...], method: str) -> bool:
    row = {"messages": [{"role": role, "content": "a"} for role in roles]}
    return not any(True for _ in row_defects(row, formats.CHAT, method))


def _cleared(text: str, messages: list[Message]) -> bool:
    """Whether the real looks find nothing in a row that only looked suspicious."""
    if searcher(_ESCAPED, _TWICE)(text):
        return False
    said = "\n".join([one.content for one in messages])
    if not searcher(*_needed())(said) and _looks_for(NUMBERS) == _NUMBER_LOOKS:
        return not any(_numbers(said))
    row = {"messages": [{"role": one.role, "content": one.content} for one in messages]}
    return not any(True for _ in text_defects(text, row))


def _numbers(text: str) -> Iterator[str]:
    """What the looks for numbers find around runs of digits. They read 4 to 30 MB/s (measured),
    and their matches and the words before them are shorter than what is shown to them."""
    looks = [look for look in ALL_LOOKS if look.needs == NUMBERS]
    for near in [text] if searcher(_IBAN)(text) else _numbered(text):
        for look in looks:
            yield from look.find(near)


def _numbered(text: str) -> Iterator[str]:
    """The pieces of a text with many digits; no number goes over a line end."""
    digits = searcher(_DIGITS)
    for line in text.split("\n"):
        if digits(line):
            yield from _around_numbers(line)


def _around_numbers(text: str) -> Iterator[str]:
    """The runs of digits with what stands before and after them, those close by in one."""
    start = end = 0
    for match in _RUNS.finditer(text):
        if end and match.start() - _NEAR > end:
            yield text[start:end]
            end = 0
        start = start if end else max(0, match.start() - _NEAR)
        end = match.end() + _NEAR
    if end:
        yield text[start:end]


@cache
def _needed() -> tuple[str, ...]:
    """Patterns of which one is found wherever a look finds something that is not a number."""
    odd = _ODD if _looks_for(FOREIGN) == _ODD_LOOKS else r"[^\x00-\x7f]"
    return (*(_NARROWED.get(piece) or re.escape(piece) for piece in (*PIECES, "rk_test_")), odd)


def _needed_by_numbers() -> Iterator[str]:
    yield _NUMBERS if _looks_for(NUMBERS) == _NUMBER_LOOKS else RUN.pattern


@cache
def _looks_for(needs: tuple[str, ...]) -> set[str]:
    return {look.name for look in ALL_LOOKS if look.needs == needs}
