"""What a row holds that it should not (personal data, keys, broken characters).

Texts are quoted masked, never whole. Nothing here knows formats: every text of a row is
looked at, wherever it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
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

# Escapes that hide what the looks would see: ASCII, half surrogates, slashes, control characters;
# the odd characters below, also where only some of them are escaped; letters of which ASCII ones
# are the lower case; letters new in Unicode 17; what stands next to an at sign or a long number.
_ESCAPED = (
    r"[^\\](?:\\\\)*\\(?:u00[0-7]|u[dD][89a-fA-F]|[bf/]|u202[a-eA-E]|u206|u200[bB]"
    r"|u[fF][eE][fF][fF]|u[fF]{3}[dD]|u00(?:[c-eC-E][0-9a-fA-F]|[fF]0)(?:\\u|[^\x00-\x7f])"
    r"|u017[fF]|u212[aA]"
    r"|u088[fF]|u0[cC]5[cC]|u0[cC][dD][cC]|u1[aA][c-eC-E]|u[aA]7[c-fC-F])"
)
_ESCAPED_NEAR = (
    r"\\u[0-9a-fA-F]{4}@|@\\u|<\\u[fF][fF]5[cC]|[tTlL]\\u00[cCeE]9[lLfF]"
    r"|\\u[0-9a-fA-F]{3}\d[2-6]\d{13}"
    "|[\u00c2-\u00f0][^\\x00-\\x7f]{0,2}"
    r"\\u[0-9a-fA-F]{4}"
)

# What each look needs, as its author says it in ``needs``, narrowed to what it can match; whatever
# is not named here is taken as it is needed.
_NARROWED = {"@": r"[A-Za-z0-9_+-]@[A-Za-z0-9_]|[^\x00-\x7f]@|@[^\x00-\x7f]"}
_NARROWED |= {piece: re.escape(piece) + "[A-Za-z0-9_.+/=-]{8}" for piece in (*KEYS, "rk_test_")}
_ODD = (
    "[\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\ufeff\ufffd\U000e0000-\U000e007f]|" + MOJIBAKE
)
_ODD_LOOKS = {
    "the direction control",
    "the invisible character",
    "wrongly decoded text such as",
    "the character",
}


def text_defects(text: str, row: Any) -> Defects:
    """What the texts of a row hold that they should not; ``text`` is the row as written."""
    if not searcher(*suspects())(text):
        return
    suspect = searcher(*_needed(), *NUMBER_HINTS)
    for path, leaf in walk(row):
        # Half a surrogate pair is nothing that the search could read.
        if isinstance(leaf, str) and suspect(leaf.encode("utf-8", "replace")):
            yield from _found(leaf, path, _hints(leaf))


@cache
def suspects() -> tuple[str, ...]:
    """Patterns of which one is found in every row, as written, that a look would stop at."""
    return (_ESCAPED, _ESCAPED_NEAR, *_needed(), *NUMBER_HINTS)


@cache
def _needed() -> tuple[str, ...]:
    """Patterns of which one is found wherever a look finds something that is not a number."""
    odd = _ODD if _looks_for(FOREIGN) == _ODD_LOOKS else r"[^\x00-\x7f]"
    return (*(_NARROWED.get(piece) or re.escape(piece) for piece in (*PIECES, "rk_test_")), odd)


@cache
def _looks_for(needs: tuple[str, ...]) -> set[str]:
    return {look.name for look in ALL_LOOKS if look.needs == needs}


def _hints(text: str) -> frozenset[str]:
    """Which of the pieces that looks need are in the text. Plain searches for each of them
    take a tenth of the time of the patterns, and nearly all texts have none."""
    hints = {piece for piece in PIECES if piece in text}
    if searcher(*NUMBER_HINTS)(text.encode("utf-8", "replace")):
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
