"""Detectors of personal data and keys: a pattern for each, verified by a check of its own.

Numbers that only look personal (orders, dates, prices, sums) are excluded by checksums, by the
ways people group digits, and, for bare digits, by the word before them. Names and postal
addresses are not detected: that takes a language model. Matches are always shown masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from finetune_gateway.text.regex import searcher

Finder = Callable[[str], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of match: the rule it breaks, its name, how to find it and how to show it.

    ``hints``: texts without any of these have no match.
    """

    code: str
    name: str
    hints: tuple[str, ...]
    find: Finder
    mask: Callable[[str], str]


def masked(text: str) -> str:
    """Return the first and last character and the length: ``j...m (20 characters)``."""
    return f"{text[0]}...{text[-1]} ({len(text)} characters)"


def private_keys(text: str) -> str:
    """Return the first line of a key block, which reveals nothing of the key."""
    return repr(text)


# A hint that is not a plain piece of text.
NUMBERS = ("a run of digits",)

KEYS = (
    "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_", "AKIA", "ASIA",
    "AIza", "xox", "xapp-", "sk_live_", "rk_live_", "sk_test_", "rk_test_", "whsec_", "SG.", "npm_",
    "pypi-", "gsk_", "xai-", "r8_", "ya29.", "dop_v1_", "eyJ",
)  # fmt: skip

TELEGRAM = ":AA"
OTHER_KEYS = (
    "ecret_access_key", "ECRET_ACCESS_KEY", "ecretAccessKey", "AccountKey=", "SharedAccessKey=",
    "hooks.slack.com", TELEGRAM,
)  # fmt: skip
PASSWORDS = ("assword", "asswort", "ASSWORD", "asswd", "ASSWD", "pwd", "Pwd", "PWD")


def digits_of(text: str) -> str:
    """Return the ASCII digits of a text."""
    return "".join(char for char in text if char in "0123456789")


def _find(pattern: re.Pattern[str], verify: Callable[[str], bool], text: str) -> Iterator[str]:
    for match in pattern.finditer(text):
        group = match[match.lastindex or 0]
        if verify(group):
            yield group


def finder(pattern: str, verify: Callable[[str], bool] = bool) -> Finder:
    """Return a function that yields what the pattern (its last group, if any) matches and
    ``verify`` accepts."""
    return partial(_find, re.compile(pattern), verify)


# -- cards --------------------------------------------------------------------------------

# Groups as they are printed: 4-4-4-4, 4-6-5 (American Express), 4-6-4 (Diners), 4-4-4-4-3.
_CARD = (
    r"(?<![\w-])(?<!\d[.,])(?:\d{14,16}|\d{19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|\d{4}([ -])\d{6}\2\d{4,5})(?![\w-])(?![.,]\d)"
)
# First digits and lengths (ISO/IEC 7812 ranges of the large networks).
_NETWORKS = re.compile(
    r"4\d{15}|4\d{18}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|2720\d{12}|3[47]\d{13}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}|35\d{14}|62\d{14}"
)


def luhn(digits: str) -> bool:
    """Return True if the check digit of a payment card is right (ISO/IEC 7812-1)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _is_card(text: str) -> bool:
    digits = digits_of(text)
    plausible = text.isascii() and _NETWORKS.fullmatch(digits) is not None
    return plausible and len(set(digits)) > 1 and luhn(digits)


def _find_cards(text: str) -> Iterator[str]:
    for match in re.finditer(_CARD, text):
        if _is_card(match[0]):
            yield match[0]


# -- IBAN ---------------------------------------------------------------------------------

# Lengths by country, from the IBAN registry (SWIFT).
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27,
    "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32,
    "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24,
    "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31,
    "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23,
    "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")


def _find_ibans(text: str) -> Iterator[str]:
    """Yield IBANs, cut at the length of their country: words in capitals may follow."""
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        taken = end = 0
        while end < len(match[0]) and taken < length:
            taken += match[0][end].isalnum()
            end += 1
        after = text[match.start() + end : match.start() + end + 1]
        if taken == length and not after.isalnum() and _mod97(match[0][:end]):
            yield match[0][:end]
        elif length and match[0].isalnum() and _mod97(match[0]):  # another length, in one piece
            yield match[0]


def _mod97(text: str) -> bool:
    """Return True if the check digits of an IBAN are right (ISO 13616)."""
    plain = re.sub("[ -]", "", text)
    rotated = plain[4:] + plain[:4]
    valid = plain != "" and plain.isascii()
    return valid and int("".join(str(int(char, 36)) for char in rotated)) % 97 == 1


# -- telephone numbers ----------------------------------------------------------------------

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
    if not text.isascii():
        return False
    number = re.split(" ?,? ?[xe#]", text)[0]
    digits = digits_of(number)
    return 9 <= len(digits) <= (15 if number.strip("+") != digits else 13) and len(set(digits)) > 1


_PHONE_PATTERNS = tuple(re.compile(pattern) for pattern in _PHONES)
_CALL_PATTERNS = tuple(re.compile(pattern) for pattern in _CALL)


def _find_phones(text: str) -> Iterator[str]:
    for pattern in _PHONE_PATTERNS:
        yield from (match[0] for match in pattern.finditer(text) if _is_phone(match[0]))
    for pattern in _CALL_PATTERNS:
        yield from (match[1] for match in pattern.finditer(text) if match[1].isascii())


# -- e-mail, social security, keys ----------------------------------------------------------

_EMAIL = (
    r"(?<![\w.+-])(?!git@)[\w](?:[\w.+'%-]{0,62}[\w+-])?@(?:\w(?:[\w-]{0,61}\w)?\.)+"
    r"[^\W\d_]{2,24}(?![\w@-])(?!\()"
)
_SSN = (
    r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"
    r"|(?i:\b(?:ssn|social security(?: (?:number|no\.?))?)\b[^\n\d]{0,12})"
    r"((?!000|666|9\d\d)\d{3} ?(?!00)\d\d ?(?!0000)\d{4})(?!\d)"
)
_KEY = (
    r"(?<![A-Za-z0-9_-])(?:sk-(?:[a-z]{2,12}-)?[A-Za-z0-9_-]{20,250}"
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,60}"
    r"|hf_[A-Za-z0-9]{30,40}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{20,250}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/=]{24,120}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{50,250}|gsk_[A-Za-z0-9]{40,60}|xai-[A-Za-z0-9]{60,90}"
    r"|r8_[A-Za-z0-9]{37,40}|ya29\.[A-Za-z0-9_-]{30,250}|dop_v1_[a-f0-9]{64}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000})"
)
# Keys that are recognized by the words beside them, or by their whole form.
_NAMED_KEY = (
    r"(?:[sS]ecret_access_key|SECRET_ACCESS_KEY|[sS]ecretAccessKey)[\"']?[ \t]{0,3}[:=][ \t]{0,3}"
    r"[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)
_WHOLE_KEY = (
    r"(?:(?<=AccountKey=)|(?<=SharedAccessKey=))[A-Za-z0-9+/]{42,86}={1,2}"
    r"|hooks\.slack\.com/(?:services|workflows)/T[A-Z0-9]{6,14}/[AB][A-Z0-9]{6,14}/[A-Za-z0-9/]{16,60}"
    r"|(?<![\w-])\d{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])"
)
# Set by an equals sign, or named at the beginning of a line, after a comma or "my"; not what an
# assistant makes up ("Your new password: ...").
_PASSWORD = (
    r"(?:(?i:passwor[dt]|passwd|pwd) {0,3}=[ \t]{0,3}"
    r"|(?:^|[\n,;/(] ?|\b(?i:my|use|with|and) )(?i:passwor[dt]|passwd|pwd)(?::| is)[ \t]{1,3})"
    r"[\"']?([A-Za-z0-9!@#$%^&*_+~?-]{8,40})(?![^\s\"'<,;.]|[.][^\s\"'<])"
)
_BLOCK = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"


def _is_key(text: str) -> bool:
    """Return True if the text looks random: placeholders have few distinct letters, names of CSS
    classes a single case."""
    mixed = text[4:] != text[4:].lower() or any(char in "0123456789" for char in text)
    return mixed and len(set(text)) >= 10


def _is_password(text: str) -> bool:
    """Require letters of both cases, digits and a sign: identifiers in code lack one of them."""
    kinds = ("[a-z]", "[A-Z]", "[0-9]", "[!@#$%^&*+~?]")
    return all(re.search(kind, text) for kind in kinds)


# One of these matches every text in which a detector of numbers finds something: the patterns
# above without lookaround, narrowed by the digits that ``_is_card`` and ``_is_phone`` accept. An
# automaton without lookaround reads them 20 times as fast (measured).
_GAP = "[ .()-]{0,3}"
_IBAN_HINT = r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11}"
_REST = r"(?:\d{3,4}[ .-]?\d{3,4}|\d{5}|\d{2,3} \d\d \d\d)"
NUMBER_HINTS = (
    r"(?:^|\D)[2-6](?:\d{13,15}|\d{18})(?:\D|$)",  # cards
    r"\d{4}[ -]\d{4}[ -]\d{4}[ -]",
    r"\d{4}[ -]\d{6}[ -]\d{4}",
    _IBAN_HINT,
    r"\d{3}-\d{2}-\d{4}",  # social security
    r"(?i:ssn|social security)[^\n\d]{0,20}\d{3} ?\d{2} ?\d{4}",
    rf"\+[1-9](?:{_GAP}\d){{7}}", rf"00[1-9]\d{{0,2}}[ .(-](?:{_GAP}\d){{4}}",
    r"\([2-9]\d{2}\)[ -]?[2-9]\d{2}[ .-]\d{4}",  # telephones, as above
    r"[2-9]\d{2}[ .-][2-9]\d{2}[ .-]\d{4}",
    r"\([1-9]\d\) ?9?\d{4}-\d{4}",
    r"0[1-9](?:[ .-]\d{2}){4}",
    rf"(?:\(0\d{{1,4}}\)[ -]?|0[1-9]\d{{0,3}}[ /.-]){_REST}",
    rf"(?i:{_WORDS}{_FILL}{{1,9}})\d(?:[ ().-]{{0,2}}\d){{8}}",
    r"\d(?:[ ().-]{0,2}\d){8}(?i: is (?:my|our|the|his|her) )",
)  # fmt: skip

_RUN = re.compile(r"\d(?:[ .()/-]{0,3}\d){8}")
_NEAR = 80  # characters; matches with the words beside them are shorter


def windows_around_numbers(text: str) -> list[str]:
    """Return the parts of a text in which a detector of numbers can match: long runs of digits
    with the text around them, close ones joined. Saves time: the patterns read 4 to 30 MB/s."""
    if searcher(_IBAN_HINT)(text):  # has letters between the digits
        return [text]
    windows: list[tuple[int, int]] = []
    for match in _RUN.finditer(text):
        start, end = max(0, match.start() - _NEAR), match.end() + _NEAR
        if windows and start <= windows[-1][1]:
            start = windows.pop()[0]
        windows.append((start, end))
    return [text[start:end] for start, end in windows]


PII_DETECTORS = (
    Detector("pii", "an e-mail address", ("@",), finder(_EMAIL), masked),
    Detector("pii", "a card number", NUMBERS, _find_cards, masked),
    Detector("pii", "an IBAN", NUMBERS, _find_ibans, masked),
    Detector("pii", "a US social security number", NUMBERS, finder(_SSN, str.isascii), masked),
    Detector("pii", "a telephone number", NUMBERS, _find_phones, masked),
    Detector("secret", "a key or token", KEYS, finder(_KEY, _is_key), masked),
    Detector(
        "secret",
        "a key or token",
        OTHER_KEYS,
        finder(f"{_NAMED_KEY}|{_WHOLE_KEY}", _is_key),
        masked,
    ),
    Detector("secret", "a password", PASSWORDS, finder(_PASSWORD, _is_password), masked),
    Detector("secret", "a private key", ("-----BEGIN",), finder(_BLOCK), private_keys),
)


def find_pii(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, match) for all personal data and keys in a text, unmasked, in no order."""
    for detector in PII_DETECTORS:
        for window in windows_around_numbers(text) if detector.hints == NUMBERS else [text]:
            yield from ((detector.name, match) for match in detector.find(window))
