"""What a row holds that it should not (personal data, keys, broken characters).

Texts are quoted masked, never whole. Nothing here knows formats: every text of a row is
looked at, wherever it stands.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from finetune_gateway.findings import Defect, walk
from finetune_gateway.text.pii import (
    KEYS,
    LOOKS,
    NUMBER_HINTS,
    NUMBERS,
    OTHER_KEYS,
    PASSWORDS,
    TELEGRAM,
    Look,
    around_numbers,
    finder,
)
from finetune_gateway.text.quoting import quoted
from finetune_gateway.text.regex import searcher

Defects = Iterator[Defect]


def _shown(text: str) -> str:
    return quoted(text)


def _is_mojibake(text: str) -> bool:
    """Whether the characters are UTF-8 read as Windows-1252, so that the way back works, or with
    another code page."""
    if _of_other_page(text):
        return text[:2] != text[2:4]  # a letter with three dots twice is a stammer
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


def _high(page: str, first: int, last: int = 0xBF) -> str:
    """The characters of a code page for these bytes."""
    return bytes(range(first, last + 1)).decode(page, "ignore")


def _other_pages(one: Callable[[str], str]) -> str:
    """UTF-8 read with other code pages than Windows-1252, in forms that no text has by itself:
    a root of pi, a branch of a tree and a chain of carbon are none. ``one``: the pattern for one
    of some characters."""
    quotes = bytes([0x93, 0x94, 0x98, 0x99, 0x9C, 0x9D, 0xA2, 0xA6])  # the ends of such, and dashes
    capital, small = one("\u0420"), one("\u0421")  # what letters of Russian begin with
    capital += one(
        _high("cp1251", 0x90, 0x9F) + _high("cp1251", 0xA1, 0xAC) + _high("cp1251", 0xAE)
    )
    small += one(_high("cp1251", 0x80, 0x8F) + "\u2018\u201d")
    root, branch = one("\u221a"), one("\u251c")  # Mac Roman; DOS
    pieces = (
        f"(?:{capital}|{small}){{2}}",
        one("\u951f") + one("\u65a4") + one("\u62f7"),  # U+FFFD, read as GBK
        root + one(_high("mac_roman", 0x80, 0xAF) + "\u00aa\u00ba\u00e6\u00f8"),
        "[A-Za-z]" + root + one("\u2202") + "[A-Za-z]",
        one("\u201a") + one("\u00c4") + one(quotes.decode("mac_roman")),
        branch + one(_high("cp437", 0x80, 0xAF) + _high("cp850", 0x80, 0xAF)),
        "[A-Za-z]" + branch + one(_high("cp437", 0xB0) + _high("cp850", 0xB0)),
        one("\u0393") + one("\u00c7") + one(quotes.decode("cp437")),
        one("\u00d4") + one("\u00c7") + one(quotes.decode("cp850")),
    )
    return "|".join(pieces)


def _raw(chars: str) -> str:
    return f"[{chars}]"


def _raw_or_escaped(chars: str) -> str:
    escapes = "|".join(f"{ord(char):04x}" for char in chars)
    return rf"(?:[{chars}]|\\u(?i:{escapes}))"


OTHER_PAGES = _other_pages(_raw)
_of_other_page = re.compile(OTHER_PAGES).fullmatch

FOREIGN = ("characters beyond ASCII",)
_TOKENS = (
    "<|", "<\uff5c", "INST]", "<s>", "</s>", "SYS>>", "_of_turn>", "<bos>", "<eos>", "<pad>",
    "<unk>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
)  # fmt: skip
PIECES = ("@", "-----BEGIN", *KEYS, *OTHER_KEYS, *PASSWORDS, *_TOKENS)

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
            # One selects the form of an ideograph; more carry bytes.
            "|[\U000e0100-\U000e01ef]{2}"
        ),
        _shown,
    ),
    Look(
        "mojibake", "wrongly decoded text such as", FOREIGN,
        finder(f"{MOJIBAKE}|{OTHER_PAGES}", _is_mojibake), _shown,
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
_SET = r"""(?i:passwor[dt]|passwd|pwd) {0,3}(?:[:=]|is)[ \t\\"']{0,8}[A-Za-z0-9!@#$%^&*_+~?-]{8}"""
_NARROWED |= dict.fromkeys(PASSWORDS, _SET)
_NARROWED[TELEGRAM] = r"\d:AA[A-Za-z0-9_-]{33}"
_ODD = (
    "[\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\ufeff\ufffd\U000e0000-\U000e007f]"
    f"|[\U000e0100-\U000e01ef]{{2}}|{MOJIBAKE}|{OTHER_PAGES}"
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
    """Patterns of which one is found in every row, as written, that a look would stop at, or
    the parser for an escape or a raw DEL."""
    escaped = (_ESCAPED, _ESCAPED_NEAR, _other_pages(_raw_or_escaped))
    return (r"\x7f", *escaped, *_needed(), *NUMBER_HINTS)


@cache
def _needed() -> tuple[str, ...]:
    """Patterns of which one is found wherever a look finds something that is not a number."""
    odd = _ODD if _looks_for(FOREIGN) == _ODD_LOOKS else r"[^\x00-\x7f]"
    pieces = (_NARROWED.get(piece) or re.escape(piece) for piece in (*PIECES, "rk_test_"))
    return (*dict.fromkeys(pieces), odd)


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


def folded_row(text: str) -> str:
    """A row as ``folded`` gives it, written anew: neither spaces between tokens nor the order of
    keys make a difference. What is no object stays as it is written."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    return folded(json.dumps(_ordered(row), ensure_ascii=False) if isinstance(row, dict) else text)


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (folded(key), key))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(one) for one in value] if isinstance(value, list) else value
