"""What a row holds that it should not (personal data, keys, broken characters).

Texts are quoted masked, never whole. Nothing here knows formats: every text of a row is
looked at, wherever it stands.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from finetune_gateway.checks.findings import Defect, quoted
from finetune_gateway.checks.parsing import walk
from finetune_gateway.checks.searching import searcher
from finetune_gateway.quality.private import (
    KEYS,
    LOOKS,
    NUMBER_HINTS,
    NUMBERS,
    Look,
    around_numbers,
    finder,
)

Defects = Iterator[Defect]


def _shown(text: str) -> str:
    return quoted(text)


def _is_mojibake(text: str) -> bool:
    """Whether the characters are UTF-8 read as Windows-1252: then the way back works."""
    try:
        b"".join(map(_byte, text)).decode()
    except UnicodeError:
        return False
    return True


def _byte(char: str) -> bytes:
    # cp1252 leaves 81 8D 8F 90 9D undefined; damaged text has them as C1 controls.
    return char.encode("latin-1" if "\x7f" < char < "\xa0" else "cp1252")


_HIGH = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
# One character is enough of what Latin texts and emoji turn into; of Cyrillic, Greek, Hebrew,
# Arabic, Chinese and the like two in a row, since real words hold letters and signs that look so.
MOJIBAKE = (
    f"[\u00c2\u00c3]{_HIGH}|[\u00e2]{_HIGH}{_HIGH}|\u00f0[\u0178\u009f]{_HIGH}{_HIGH}"
    f"|(?:[\u00c4-\u00df]{_HIGH}){{2}}|(?:[\u00e0-\u00ef]{_HIGH}{_HIGH}){{2}}"
)

FOREIGN = ("characters beyond ASCII",)
_TOKENS = (
    "<|", "<\uff5c", "INST]", "<s>", "</s>", "SYS>>", "_of_turn>", "<bos>", "<eos>", "<pad>",
    "<unk>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
)  # fmt: skip
PIECES = ("@", "-----BEGIN", *KEYS, *_TOKENS)

ALL_LOOKS = (
    *LOOKS,
    Look(
        "special_tokens_in_text", "the special token", _TOKENS,
        finder(
            r"<[|\uff5c][A-Za-z0-9_\u2581 -]{1,40}[|\uff5c]>|\[/?INST\]|</?s>|<</?SYS>>"
            r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
            r"|\[(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
        ),
        _shown,
    ),
    Look(
        "bidi_control", "the direction control", FOREIGN,
        finder("[\u202a-\u202e\u2066-\u2069]"), _shown,
    ),
    Look(
        "invisible_char", "the invisible character", FOREIGN,
        finder(
            # Thai, Lao, Burmese and Khmer part words by a zero-width space.
            "(?<![\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b|[\u2060-\u2064\ufeff]"
            "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
        ),
        _shown,
    ),
    Look(
        "mojibake", "wrongly decoded text such as", FOREIGN,
        finder(MOJIBAKE, _is_mojibake), _shown,
    ),
    Look("replacement_char", "the character", FOREIGN, finder("\ufffd"), _shown),
)  # fmt: skip


def text_defects(text: str, row: Any) -> Defects:
    """What the texts of a row hold that they should not; ``text`` is the row as written."""
    if "\\u" not in text and not _hints(text):
        return
    for path, leaf in walk(row):
        if isinstance(leaf, str) and (hints := _hints(leaf)):
            yield from _found(leaf, path, hints)


def _hints(text: str) -> frozenset[str]:
    """Which of the pieces that looks need are in the text. Plain searches for each of them
    take a tenth of the time of the patterns, and nearly all texts have none."""
    hints = {piece for piece in PIECES if piece in text}
    if searcher(*NUMBER_HINTS)(text):
        hints.update(NUMBERS)
    if not text.isascii():
        hints.update(FOREIGN)
    return frozenset(hints)


def _found(leaf: str, path: str, hints: frozenset[str]) -> Defects:
    for look in ALL_LOOKS:
        if hints.isdisjoint(look.needs):
            continue
        near = around_numbers(leaf) if look.needs == NUMBERS else [leaf]
        first = next((found for text in near for found in look.find(text)), None)
        if first is not None:
            yield Defect(look.code, path, f"{look.name} {look.mask(first)} in {path}")


_LONG = 1 << 20  # characters; splitting a longer row into words would take 30 bytes for each


def folded(text: str) -> str:
    """A row as written, but for case and spaces, so that near copies are equal."""
    if len(text) > _LONG:
        return text
    plain = text.replace("\\n", " ").replace("\\t", " ").replace("\\r", " ")
    plain = plain if plain.isascii() else unicodedata.normalize("NFC", plain)
    spaced = " ".join(plain.casefold().split())
    return spaced.replace('" ', '"').replace(' "', '"')  # at the ends of a text too
