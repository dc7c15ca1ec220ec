"""Detectors of what no text should hold: personal data, keys, broken characters.

Searches every text of a row, in any format. Matches are quoted masked, never whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from finetune_gateway.findings import Defect, walk
from finetune_gateway.text import pii, pii_email, pii_forms, pii_names
from finetune_gateway.text.pii import Regions
from finetune_gateway.text.pii_detector import Detector, finder
from finetune_gateway.text.pii_numbers import NUMBERS
from finetune_gateway.text.pii_secrets import (
    HEADERS,
    HEX_KEYS,
    KEYS,
    LOGIN,
    NAMED_KEYS,
    OTHER_KEYS,
    PASSWORDS,
    TELEGRAM,
)
from finetune_gateway.text.quoting import quoted
from finetune_gateway.text.regex import LazyPattern, searcher
from finetune_gateway.validation import special_tokens

Defects = Iterator[Defect]
Columns = dict[tuple[str, str], str]  # a kind of private data and a match -> its first column


def _is_mojibake(text: str) -> bool:
    """Return True if the text is UTF-8 read as Windows-1252, so that the reverse works, or as
    another code page."""
    if _is_other_page(text):
        return text[:2] != text[2:4]  # one letter repeated is a stammer
    try:
        b"".join(map(_encode, text)).decode()
    except UnicodeError:
        return False
    return True


def _encode(char: str) -> bytes:
    # cp1252 leaves 81 8D 8F 90 9D undefined; damaged text has C1 controls instead.
    return char.encode("latin-1" if "\x7f" < char < "\xa0" else "cp1252")


_HIGH = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
# Damaged Latin letters and emoji are recognized by one character. Cyrillic, Greek, Hebrew, Arabic,
# Chinese and the like need two in a row, since real words hold letters that look the same.
MOJIBAKE = (
    f"[\u00c2\u00c3]{_HIGH}|[\u00e2]{_HIGH}{_HIGH}|\u00f0[\u0178\u009f]{_HIGH}{_HIGH}"
    f"|(?:[\u00c4-\u00df]{_HIGH}){{2}}|(?:[\u00e0-\u00ef]{_HIGH}{_HIGH}){{2}}"
)


def _high(page: str, first: int, last: int = 0xBF) -> str:
    """Return the characters of a code page for these bytes."""
    return bytes(range(first, last + 1)).decode(page, "ignore")


def _other_pages(one: Callable[[str], str]) -> str:
    """Return a pattern for UTF-8 read as another code page than Windows-1252.

    It avoids what real texts hold, such as a root of pi or a branch of a drawn tree. ``one``
    returns the pattern for one of some characters.
    """
    quotes = bytes(
        [0x93, 0x94, 0x98, 0x99, 0x9C, 0x9D, 0xA2, 0xA6]
    )  # the last bytes of quotes and dashes
    capital, small = one("\u0420"), one("\u0421")  # the first bytes of Russian letters
    capital += one(
        _high("cp1251", 0x90, 0x9F) + _high("cp1251", 0xA1, 0xAC) + _high("cp1251", 0xAE)
    )
    small += one(_high("cp1251", 0x80, 0x8F) + "\u2018\u201d")
    root, branch = one("\u221a"), one("\u251c")  # Mac Roman; DOS
    patterns = (
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
    return "|".join(patterns)


def _raw(chars: str) -> str:
    return f"[{chars}]"


def _raw_or_escaped(chars: str) -> str:
    escapes = "|".join(f"{ord(char):04x}" for char in chars)
    return rf"(?:[{chars}]|\\u(?i:{escapes}))"


# What pandas and spreadsheets write where there is no value. As a whole text, never inside one.
# NaN is a word of JavaScript too, so only a table's cell with it says the same.
_NO_VALUE = ("nan", "<NA>", "NaT", "NULL")
_SHEET_ERRORS = ("#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#N/A", "#NUM!", "#NULL!")
_NO_TEXT = dict.fromkeys(_NO_VALUE, "no_value") | dict.fromkeys(_SHEET_ERRORS, "spreadsheet_error")
_NO_TEXT_PATTERN = f'"(?:{"|".join(map(re.escape, _NO_TEXT))})"'

OTHER_PAGES = _other_pages(_raw)
_is_other_page = LazyPattern(OTHER_PAGES).fullmatch

# Half of the texts of a row, in which nothing is found.
_WORDS = frozenset(("system", "user", "assistant", "tool", "function", "text"))

NON_ASCII = ("non-ASCII characters",)
HINTS = (
    "@",
    "-----BEGIN",
    *KEYS,
    *OTHER_KEYS,
    *NAMED_KEYS,
    *HEADERS,
    *PASSWORDS,
    LOGIN,
    *special_tokens.HINTS,
)

DETECTORS = (
    Detector(
        "special_tokens_in_text", "the special token", special_tokens.HINTS, special_tokens.find,
        special_tokens.described,
    ),
    Detector(
        "bidi_control", "the direction control", NON_ASCII,
        finder("[\u202a-\u202e\u2066-\u2069]"), quoted,
    ),
    Detector(
        "invisible_char", "the invisible character", NON_ASCII,
        finder(
            # Thai, Lao, Burmese and Khmer separate words by a zero-width space.
            "(?<![\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b|[\u2060-\u2064\ufeff]"
            "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
            # One selects a variant of an ideograph; several can carry bytes.
            "|[\U000e0100-\U000e01ef]{2}"
        ),
        quoted,
    ),
    Detector(
        "mojibake", "wrongly decoded text such as", NON_ASCII,
        finder(f"{MOJIBAKE}|{OTHER_PAGES}", _is_mojibake), quoted,
    ),
    Detector("replacement_char", "the character", NON_ASCII, finder("\ufffd"), quoted),
)  # fmt: skip

# Escapes that can hide what a detector finds: ASCII, half surrogates, slashes, control characters;
# the odd characters below, even if only some of them are escaped; letters whose lower case is
# ASCII; letters new in Unicode 17; neighbours of an at sign or a long number.
_ESCAPED = (
    r"[^\\](?:\\\\)*\\(?:u00[0-7]|u[dD][89a-fA-F]|[bf/]|u202[a-eA-E]|u206|u200[bB]"
    r"|u[fF][eE][fF][fF]|u[fF]{3}[dD]|u00(?:[c-eC-E][0-9a-fA-F]|[fF]0)(?:\\u|[^\x00-\x7f])"
    r"|u017[fF]|u212[aA]"
    r"|u088[fF]|u0[cC]5[cC]|u0[cC][dD][cC]|u1[aA][c-eC-E]|u[aA]7[c-fC-F])"
)
_ESCAPED_NEAR = (
    r"\\u[0-9a-fA-F]{4}@|@\\u|<\\u[fF][fF]5[cC]|[tTlL]\\u00[cCeE]9[lLfF]"
    r"|\\u[0-9a-fA-F]{3}\d[2-689]\d{13}"
    "|[\u00c2-\u00f0][^\\x00-\\x7f]{0,2}"
    r"\\u[0-9a-fA-F]{4}"
)

# The hints of the detectors, narrowed to what these can match; other hints are used unchanged.
_NARROWED = {"@": r"[A-Za-z0-9_+-]@[A-Za-z0-9_]|[^\x00-\x7f]@|@[^\x00-\x7f]"}
_NARROWED |= {hint: re.escape(hint) + "[A-Za-z0-9_.+/=-]{8}" for hint in (*KEYS, "rk_test_")}
_PASSWORD = (
    r"""(?i:passwor[dt]|passwd|pwd) {0,3}(?:[:=]|is)[ \t\\"']{0,8}[A-Za-z0-9!@#$%^&*_+~?-]{8}"""
)
_NARROWED |= dict.fromkeys(PASSWORDS, _PASSWORD)
_NARROWED[TELEGRAM] = r"[0-9]:AA[A-Za-z0-9_-]{33}"
_NARROWED |= dict.fromkeys(
    NAMED_KEYS,
    r"""(?i:key|token|secret)[\\"' ]{0,3}(?:[:=]|is)[ \t\\"']{0,6}[A-Za-z0-9_/+.-]{20}""",
)
_NARROWED |= dict.fromkeys(HEX_KEYS, r"(?:SK|key-)[a-f0-9]{32}")
_NARROWED |= dict.fromkeys(HEADERS, r"(?:(?i:bearer)|Basic) [A-Za-z0-9_/+.-]{16}")
_NARROWED[LOGIN] = r":/{2}[A-Za-z0-9._%+-]*:[A-Za-z0-9._~!*+,;=%-]{8,}@"
_ODD = (
    "[\u202a-\u202e\u2066-\u2069\u200b\u2060-\u2064\ufeff\ufffd\U000e0000-\U000e007f]"
    f"|[\U000e0100-\U000e01ef]{{2}}|{MOJIBAKE}|{OTHER_PAGES}"
)
_ODD_NAMES = {
    "the direction control",
    "the invisible character",
    "wrongly decoded text such as",
    "the character",
}


def text_defects(text: str, row: Any, regions: Regions = ()) -> Defects:
    """Yield what the detectors find in the texts of a row; ``text`` is its JSON. ``regions``: whose
    national telephone numbers are looked for. Of private data that several columns have, the first
    is named: one is often a copy of another."""
    searches = [searcher(*patterns) for patterns in prefilters(regions)]
    if not any(search(text) for search in searches):
        return
    columns: Columns = {}
    for path, leaf in walk(row):
        if not isinstance(leaf, str) or leaf in _WORDS:
            continue
        raw = leaf.encode("utf-8", "replace")  # the search cannot read half of a surrogate pair
        found = any([search(raw) for search in searches])
        if found or pii_forms.has_escapes(leaf):
            written = found and _is_written(leaf, raw, regions)
            hints = _hints_in(leaf, regions) if written else frozenset(pii_email.SPELT)
            yield from _private_defects(leaf, path, hints, regions, columns)
            yield from _odd_defects(leaf, path, hints)
        if leaf in _NO_TEXT:
            yield Defect(_NO_TEXT[leaf], path, f"the text is {quoted(leaf)}")
    yield from _name_defects(text, row, regions, columns)


@cache
def prefilters(regions: Regions = ()) -> tuple[tuple[str, ...], ...]:
    """Return groups of patterns of which at least one matches the JSON of every row in which a
    detector finds something, and every text in which one does; or the JSON if the parser finds an
    escape or a raw DEL.

    Groups: an automaton for all of them has more states than it keeps, and takes 40 times as long
    as these three one after the other (measured).
    """
    escaped = (_ESCAPED, _ESCAPED_NEAR, _other_pages(_raw_or_escaped), *pii_forms.ESCAPED_HINTS)
    disguised = (*pii_email.HINTS, *pii_forms.HINTS, *pii_names.HINTS)
    written = (
        r"\x7f", _NO_TEXT_PATTERN, *escaped, *_plain_hints(), _odd_pattern(), *disguised
    )  # fmt: skip
    return written, pii.number_hints(regions), pii_forms.BASE64_HINTS


@cache
def quick_prefilters() -> tuple[tuple[str, ...], ...]:
    """Return groups of patterns of which at least one matches wherever one of ``prefilters`` does,
    for any regions, in two thirds of the time; they match 3 % of the lines of prose more."""
    written, _, base64 = prefilters()
    return (*written, pii.IBAN_BEGIN), base64, (pii.DIGITS_HINT,)


def _is_written(text: str, raw: bytes, regions: Regions) -> bool:
    """Return True if a detector may find something in a text as it is written: not spelt out, in
    other digits or in base64."""
    if searcher(*_plain_hints())(raw) or searcher(*pii.number_hints(regions))(raw):
        return True
    return not text.isascii() and searcher(_odd_pattern())(raw)


def _odd_pattern() -> str:
    return _ODD if _names_by_hints(NON_ASCII) == _ODD_NAMES else r"[^\x00-\x7f]"


@cache
def _plain_hints() -> tuple[str, ...]:
    patterns = (_NARROWED.get(hint) or re.escape(hint) for hint in (*HINTS, "rk_test_"))
    return tuple(dict.fromkeys(patterns))


@cache
def _names_by_hints(hints: tuple[str, ...]) -> set[str]:
    return {detector.name for detector in DETECTORS if detector.hints == hints}


def _hints_in(text: str, regions: Regions) -> frozenset[str]:
    """Return the hints in a text. Plain searches for each of them take a tenth of the time of the
    patterns, and nearly all texts have none."""
    raw = text.encode("utf-8", "replace")
    hints = {hint for hint in HINTS if hint in text} if searcher(*_plain_hints())(raw) else set()
    if searcher(*pii.number_hints(regions))(raw):
        hints.update(NUMBERS)
    if searcher(*pii_email.HINTS)(raw):
        hints.update(pii_email.SPELT)
    if not text.isascii():
        hints.update(NON_ASCII)
    return frozenset(hints)


def _odd_defects(leaf: str, path: str, hints: frozenset[str]) -> Defects:
    """Yield special tokens and broken characters in a text."""
    for detector in DETECTORS:
        first = None if hints.isdisjoint(detector.hints) else next(detector.find(leaf), None)
        if first is not None:
            yield Defect(detector.code, path, f"{detector.name} {detector.mask(first)} in {path}")


# -- private data ---------------------------------------------------------------------------


def _private_defects(
    leaf: str, path: str, hints: frozenset[str], regions: Regions, columns: Columns
) -> Defects:
    """Yield the first of each kind of personal data and secrets in a text, as a person reads it and
    as base64."""
    plain = pii_forms.read_as(leaf)
    kinds = set[str]()
    hints = hints if plain == leaf else _hints_in(plain, regions)
    for defect in _kinds_in(plain, path, hints, regions, columns):
        kinds.add(defect.kind)
        yield defect
    for _, inner in pii_forms.decoded(plain):
        for defect in _kinds_in(inner, path, _hints_in(inner, regions), regions, columns):
            if defect.kind not in kinds:
                kinds.add(defect.kind)
                yield replace(defect, detail=f"{defect.detail}, written in base64")


def _kinds_in(
    text: str, path: str, hints: frozenset[str], regions: Regions, columns: Columns
) -> Defects:
    column = re.split(r"[.\[]", path, maxsplit=1)[0]
    firsts: dict[tuple[str, str], Defect] = {}
    for detector in pii.detectors(regions):
        if hints.isdisjoint(detector.hints):
            continue
        found = (
            match
            for match in pii.matches(detector, text, regions)
            if columns.setdefault((detector.name, match), column) == column
        )
        for code, match in _firsts(detector, found):
            detail = f"{detector.name} {detector.mask(match)} in {path}"
            defect = Defect(code, path, detail, kind=detector.name)
            firsts.setdefault((code, detector.name), defect)
    yield from firsts.values()


def _firsts(detector: Detector, found: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield the first match that stands for somebody and the first that does not, with the code of
    the rule for it."""
    reserved = None
    for match in found:
        if not detector.reserved(match):
            yield detector.code, match
            break
        reserved = reserved or match
    if reserved:
        yield "pii_reserved", reserved


def _name_defects(text: str, row: Any, regions: Regions, columns: Columns) -> Defects:
    """Yield what the names of users say: those of people, and what is written in one with
    underscores."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not searcher(*pii_names.HINTS)(text):
        return
    for place, message in enumerate(messages):
        name = message.get("name") if isinstance(message, dict) else None
        if isinstance(name, str) and message.get("role") == "user":
            yield from _name_defect(name, f"messages[{place}].name", regions, columns)


def _name_defect(name: str, path: str, regions: Regions, columns: Columns) -> Defects:
    if pii_names.is_person(name):
        detail = f"a name {pii.masked(name)} in {path}"
        yield Defect("pii", path, detail, kind="a name")
        return
    user, at, domain = name.partition("_at_")
    address = f"{user}@{domain.replace('_dot_', '.').replace('_', '.')}" if at else ""
    if "_" in name:  # of others the walk over the row has seen all
        plain = address or name.replace("_", " ")
        yield from _kinds_in(plain, path, _hints_in(plain, regions), regions, columns)
