"""Detector of telephone numbers: international ones everywhere, national ones as people group them,
beside a word or text that says so, or in the regions that the user has named.

The package phonenumbers knows the numbering plans. It is imported when a text has digits that only
it can judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from finetune_gateway.text.pii_detector import Detector, digits_of, masked
from finetune_gateway.text.pii_numbers import NUMBERS
from finetune_gateway.text.regex import LazyPattern

Regions = tuple[str, ...]  # like ("DE", "US")

_END = r"(?:(?: ?,? ?ext\.? ?| ?x ?|#)\d{1,6})?(?! ?\d)(?![\w-])(?![.,]\d)"
_BEGIN = r"(?<![\w.+/-])(?<!\d )"
_PHONES = (
    # +44 20 7946 0958, +49 (0)30 901820, +14155552671, 0049 30 901820
    r"(?<![\w)+.-])(?<!\d )(?:\+|00(?=[1-9]\d{0,2}[ .(-]))"
    rf"[1-9]\d{{0,2}}[ .-]?(?:\(\d{{1,5}}\)[ .-]?)?\d{{1,5}}(?:[ .-]?\d{{2,5}}){{1,6}}{_END}",
    # (415) 555-2671, 415-555-2671, 1-800-555-0199, 415 555 2671
    rf"{_BEGIN}(?:1[ .-])?(?:\([2-9]\d\d\)[ -]?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{{4}}{_END}",
    rf"(?<!,){_BEGIN}(?:1 )?[2-9]\d\d [2-9]\d\d \d{{4}}{_END}",
    # (11) 91234-5678
    rf"{_BEGIN}\([1-9]\d\) ?9?\d{{4}}-\d{{4}}{_END}",
    # 06 12 34 56 78, 01.23.45.67.89
    rf"{_BEGIN}0[1-9]([ .-])\d\d\1\d\d\1\d\d\1\d\d{_END}",
    # 020 7946 0958, 07700 900123, 030/901820, 090-1234-5678, 08.3736.9669
    rf"{_BEGIN}(?:\(0\d{{1,4}}\)[ -]?|0[1-9]\d{{0,3}}[ /.-])"
    rf"(?:\d{{3,4}}[ .-]?\d{{3,4}}|\d{{5,8}}|\d{{2,3}} \d\d \d\d){_END}",
)
# Bare digits, or digits grouped otherwise, are a telephone number only next to such words.
_WORDS = (
    r"(?:tel|phone|call|mobile|cell|fax|whatsapp|telefon|handy|t\u00e9l\u00e9phone|tel\u00e9fono"
    r"|sms|dial|ring|reach|my number)"
)
_FILL = r"(?:[ :#.=(-]|number|no|nr|me|us|him|her|is|at|on|our|my|office|line|to)"
_NO_YEARS = r"(?!(?:19|20)\d\d-(?:19|20)\d\d)"
_CALL = (
    rf"(?i:\b{_WORDS}{_FILL}{{1,9}})({_NO_YEARS}\d(?:[ ().-]{{0,2}}\d){{8,14}})(?![\w-])",
    rf"{_BEGIN}(\d(?:[ ().-]{{0,2}}\d){{8,14}})(?i: is (?:my|our|the|his|her) {_WORDS})",
)


def _is_phone(text: str) -> bool:
    """Return True if the digits can be a phone number: E.164 allows 15, but 14 and more in one
    piece are an amount."""
    number = re.split(" ?,? ?[xe#]", text)[0]
    digits = digits_of(number)
    return 9 <= len(digits) <= (15 if number.strip("+") != digits else 13) and len(set(digits)) > 1


_PHONE_PATTERNS = tuple(LazyPattern(pattern, re.ASCII) for pattern in _PHONES)
_CALL_PATTERNS = tuple(LazyPattern(pattern, re.ASCII) for pattern in _CALL)


# The same in Chinese, Japanese, Korean, Thai, Russian, Arabic and Hindi.
_SIGNS = (
    "(?:\u7535\u8bdd|\u96fb\u8a71|\u624b\u673a|\u624b\u6a5f|\u5ea7\u673a|\u8054\u7cfb\u65b9\u5f0f"
    "|\u643a\u5e2f|\u9023\u7d61\u5148|\u30b1\u30fc\u30bf\u30a4"
    "|\uc804\ud654|\ud734\ub300\ud3f0|\ud578\ub4dc\ud3f0|\uc5f0\ub77d\ucc98"
    "|\u0e42\u0e17\u0e23|\u0e40\u0e1a\u0e2d\u0e23\u0e4c|\u0e21\u0e37\u0e2d\u0e16\u0e37\u0e2d"
    "|[\u0422\u0442]\u0435\u043b|[\u0417\u0437]\u0432\u043e\u043d|[\u041c\u043c]\u043e\u0431\u0438\u043b\u044c\u043d|\u0647\u0627\u062a\u0641|\u062c\u0648\u0627\u0644|\u0645\u0648\u0628\u0627\u064a\u0644|\u0627\u062a\u0635\u0644"
    "|\u092b\u094b\u0928|\u092b\u093c\u094b\u0928|\u092e\u094b\u092c\u093e\u0907\u0932)"
)
_SIGN = LazyPattern(
    rf"{_SIGNS}[^\d\n,.;]{{0,8}}(\+?\d(?:[ ().-]{{0,2}}\d){{7,14}})(?![\w-])(?![.,]\d)", re.ASCII
)
# Mobile numbers in one piece, or grouped as there, beside text in the script of their country.
_HAN, _KANA = "\u3400-\u9fff", "\u3040-\u30ff"
_MOBILES = tuple(
    (
        LazyPattern(rf"(?<![\w.+/-])(?<!\d ){number}(?![\w-])(?![.,]\d)", re.ASCII),
        LazyPattern(script),
    )
    for number, script in (
        (r"1[3-9]\d(?:\d{8}|([ -])\d{4}\1\d{4})", f"[{_HAN}]"),
        (r"09\d\d(?:\d{6}|([ -])\d{3}\1\d{3})", f"[{_HAN}]"),
        (r"0[5789]0(?:\d{8}|([ -])\d{4}\1\d{4})", f"[{_HAN}{_KANA}]"),
        (r"01[016-9](?:\d{7,8}|([ -])\d{3,4}\1\d{4})", "[\uac00-\ud7a3]"),
        (r"0[689]\d(?:\d{7}|([ -])\d{3}\1\d{4})", "[\u0e00-\u0e7f]"),
        (r"8[ -]?\(?9\d\d\)?[ -]?\d{3}[ -]?\d\d[ -]?\d\d", "[\u0400-\u04ff]"),
        (r"0(?:5\d|1[0125]\d)[ -]?\d{3}[ -]?\d{4}", "[\u0600-\u06ff]"),
        (r"[6-9]\d{4} ?\d{5}", "[\u0900-\u097f]"),
    )
)
_BESIDE = 20  # characters
# What counts or costs so much is no telephone number.
_AMOUNT = LazyPattern(
    "\\s?[\u5143\u5186\u5706\u5757\u500b\u4e2a\u4eba\u4e07\u842c\u4ebf\u5104\u679a\u4ef6\uc6d0\uac1c\uba85"
    "%\uff05]|\\s?\u0e1a\u0e32\u0e17|\\s?\u7f8e\u5143"
)
# An international number in any grouping; whether it is one, phonenumbers knows.
_PLUS = LazyPattern(
    r"(?<![\w+.])(?<!\d )\+[1-9](?:[ .()/-]{0,3}\d){7,14}(?![\w-])(?![.,]\d)", re.ASCII
)
_PLUS_IN_BRACKETS = LazyPattern(
    r"(?<![\w.])\(\+[1-9]\d{0,2}\)(?:[ .()/-]{0,3}\d){6,12}(?![\w-])(?![.,]\d)", re.ASCII
)
# A national number in any grouping that is no sum, such as "<<1000-200=800>>" or "$0.75-0.25".
_NATIONAL = LazyPattern(
    r"(?<![\w+/<>=*@$#-])(?<![\d ][.,])\(?\d(?:[ .()/-]{0,2}\d){6,13}(?<!\D\d)(?![\w-])(?![.,]\d)"
    r"(?! ?[=*/+<>%])",
    re.ASCII,
)


def _find_phones(text: str, regions: Regions = ()) -> Iterator[str]:
    found = [*_grouped(text), *_called(text), *_mobiles(text)]
    yield from found
    known = {digits_of(number) for number in found}
    for pattern in (_PLUS, _PLUS_IN_BRACKETS):
        for match in pattern.finditer(text):
            if digits_of(match[0]) not in known and _is_valid(match[0]):
                yield match[0]
    if regions:
        yield from _national(text, regions, known)


def _grouped(text: str) -> Iterator[str]:
    for pattern in _PHONE_PATTERNS:
        yield from (match[0] for match in pattern.finditer(text) if _is_phone(match[0]))


def _called(text: str) -> Iterator[str]:
    for pattern in (*_CALL_PATTERNS, _SIGN):
        for match in pattern.finditer(text):
            if not _AMOUNT.match(text, match.end()):
                yield match[1]


def _mobiles(text: str) -> Iterator[str]:
    for pattern, script in _MOBILES:
        for match in pattern.finditer(text):
            start, end = match.span()
            around = text[max(0, start - _BESIDE) : start] + text[end : end + _BESIDE]
            rounded = match[0].endswith("00000")
            if script.search(around) and not rounded and not _AMOUNT.match(text, end):
                yield match[0]


def _is_valid(text: str) -> bool:
    """Return True for an international number of a numbering plan that exists."""
    # Imported here: nearly all texts have nothing to ask it.
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text.strip("(").replace(")", "", 1)))
    except phonenumbers.NumberParseException:
        return False


def _national(text: str, regions: Regions, known: set[str]) -> Iterator[str]:
    """Yield the numbers of these regions; phonenumbers leaves out dates, times and the like."""
    candidates = [m for m in _NATIONAL.finditer(text) if digits_of(m[0]) not in known]
    if not candidates:
        return
    import phonenumbers

    for match in candidates:
        # With what is beside it: "12/08/2011", "211-227 (2003)" and the like are no numbers.
        part = text[max(0, match.start() - 3) : match.end() + 3]
        for region in regions:
            matches = phonenumbers.PhoneNumberMatcher(part, region)
            if any(True for _ in matches):
                yield match[0]
                break


def phones(regions: Regions) -> Detector:
    """Return the detector, for national numbers of these regions too."""
    find = partial(_find_phones, regions=regions)
    return Detector("pii", "a telephone number", NUMBERS, find, masked, is_fictional)


def is_fictional(text: str) -> bool:
    """Return True for 555-0100 to 555-0199, which North America keeps for films and examples."""
    digits = digits_of(re.split(" ?,? ?[xe#]", text)[0]).removeprefix("001")
    return re.fullmatch(r"1?\d{3}55501\d\d", digits) is not None


# As in pii_numbers; narrowed by the digits that ``_is_phone`` accepts.
_GAP = "[ .()-]{0,3}"
_REST = "(?:[0-9]{3,4}[ .-]?[0-9]{3,4}|[0-9]{5}|[0-9]{2,3} [0-9][0-9] [0-9][0-9])"
HINTS = (
    r"\+[1-9](?:[ .()/-]{0,3}[0-9]){7}",
    rf"00[1-9][0-9]{{0,2}}[ .(-](?:{_GAP}[0-9]){{4}}",
    r"\([2-9][0-9]{2}\)[ -]?[2-9][0-9]{2}[ .-][0-9]{4}",
    r"[2-9][0-9]{2}[ .-][2-9][0-9]{2}[ .-][0-9]{4}",
    r"\([1-9][0-9]\) ?9?[0-9]{4}-[0-9]{4}",
    r"0[1-9](?:[ .-][0-9]{2}){4}",
    rf"(?:\(0[0-9]{{1,4}}\)[ -]?|0[1-9][0-9]{{0,3}}[ /.-]){_REST}",
    rf"(?i:{_WORDS}{_FILL}{{1,9}})[0-9](?:[ ().-]{{0,2}}[0-9]){{8}}",
    r"[0-9](?:[ ().-]{0,2}[0-9]){8}(?i: is (?:my|our|the|his|her) )",
    rf"(?:{_SIGNS}|\\u[0-9a-fA-F]{{4}})[^0-9\n,.;]{{0,8}}[0-9](?:[ ().-]{{0,2}}[0-9]){{7}}",
    r"1[3-9][0-9][ -][0-9]{4}[ -][0-9]{4}",
    r"(?:^|[^0-9.]|\\u[0-9a-fA-F]{4})(?:(?:1[3-9][0-9]|0[15-9][0-9]?)[0-9]{8}"
    r"|[6-9][0-9]{4} ?[0-9]{5}"
    r"|8[ -]?\(?9[0-9][0-9]\)?[ -]?[0-9]{3}[ -]?[0-9][0-9][ -]?[0-9][0-9]"
    r"|0(?:5[0-9]|1[0125][0-9])[ -]?[0-9]{3}[ -]?[0-9]{4})(?:[^0-9]|$)",
)  # fmt: skip
REGION_HINT = r"[0-9](?:[ .()/-]{0,2}[0-9]){6}"
