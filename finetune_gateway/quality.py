"""What a row holds that it should not: personal data, keys, broken characters, repetition.

Texts are quoted masked, never whole. Nothing here knows formats: every text of a row is
looked at, wherever it stands.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from finetune_gateway.findings import Defect, quoted
from finetune_gateway.parsing import walk

Defects = Iterator[Defect]


@dataclass(frozen=True, slots=True)
class _Look:
    """One kind of thing to look for: its rule, what to call it, the pieces of text without
    which it cannot be there, how to find it, how to be sure of it, how to show it."""

    code: str
    name: str
    needs: tuple[str, ...]
    pattern: re.Pattern[str]
    sure: Callable[[str], bool]
    mask: Callable[[str], str]


def _always(_: str) -> bool:
    return True


def _masked(text: str) -> str:
    """First and last character, the length, nothing else: ``j...m (20 characters)``."""
    return f"{text[0]}...{text[-1]} ({len(text)} characters)"


def _shown(text: str) -> str:
    return quoted(text)


def _digits(text: str) -> list[int]:
    return [int(char) for char in text if char in "0123456789"]


def _is_card(text: str) -> bool:
    """Luhn's check of a payment card number."""
    digits = _digits(text)
    if len(set(digits)) == 1:
        return False
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The mod-97 check of ISO 13616."""
    plain = text.replace(" ", "")
    turned = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def _is_phone(text: str) -> bool:
    return 10 <= len(_digits(text)) <= 15


def _is_mojibake(text: str) -> bool:
    """Whether the characters are UTF-8 read as Windows-1252: then the way back works."""
    try:
        text.encode("cp1252").decode()
    except UnicodeError:
        return False
    return True


# cp1252 leaves 81 8D 8F 90 9D undefined; text damaged through latin-1 has them as C1 controls.
_HIGH = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
_MOJIBAKE = re.compile(f"[\u00c2\u00c3]{_HIGH}|[\u00e2]{_HIGH}{_HIGH}|\u00f0\u0178{_HIGH}{_HIGH}")

# What a look may need beside a plain piece of text.
_NUMBERS = ("a run of digits",)
_FOREIGN = ("characters beyond ASCII",)
_RUN = re.compile(r"\d[\d .()-]{7}")

_KEYS = (
    "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_", "AKIA", "ASIA",
    "AIza", "xox", "sk_live_", "rk_live_", "eyJ",
)  # fmt: skip
_TOKENS = (
    "<|", "<\uff5c", "INST]", "<s>", "</s>", "SYS>>", "_of_turn>", "<bos>", "<eos>", "<pad>",
    "<unk>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
)  # fmt: skip
_PIECES = ("@", "-----BEGIN", *_KEYS, *_TOKENS)

_LOOKS = (
    _Look(
        "pii", "an e-mail address", ("@",),
        re.compile(
            r"(?<![\w.+-])[\w][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
            r"[A-Za-z]{2,24}(?![\w@-])"
        ),
        _always, _masked,
    ),
    _Look(
        "pii", "a card number", _NUMBERS,
        re.compile(
            r"(?<![\d.,-])(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6(?:011|5\d\d))([ -]?)\d{4}\1\d{4}\1\d{4}"
            r"(?![\d-])|(?<![\d.,-])3[47]\d\d([ -]?)\d{6}\2\d{5}(?![\d-])"
        ),
        _is_card, _masked,
    ),
    _Look(
        "pii", "an IBAN", _NUMBERS,
        re.compile(
            r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?"
            r"(?![A-Za-z0-9])"
        ),
        _is_iban, _masked,
    ),
    _Look(
        "pii", "a US social security number", _NUMBERS,
        re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"),
        _always, _masked,
    ),
    _Look(
        "pii", "a telephone number", _NUMBERS,
        re.compile(
            r"(?<![\w.+/-])(?:\+1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[.-]\d{4}"
            r"(?![\w-])|(?<![\w)+.-])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}"
            r"(?:[ .-]?\d{2,4}){2,5}(?![\w-])"
        ),
        _is_phone, _masked,
    ),
    _Look(
        "secret", "a key or token", _KEYS,
        re.compile(
            r"(?<![A-Za-z0-9_-])(?:sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,200}"
            r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20}"
            r"|hf_[A-Za-z0-9]{30,40}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35}"
            r"|xox[abprs]-[A-Za-z0-9-]{10,200}|[sr]k_live_[A-Za-z0-9]{16,200}"
            r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,2000})"
        ),
        _always, _masked,
    ),
    _Look(
        "secret", "a private key", ("-----BEGIN",),
        re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY(?: BLOCK)?-----"),
        _always, _shown,
    ),
    _Look(
        "special_tokens_in_text", "the special token", _TOKENS,
        re.compile(
            r"<[|\uff5c][A-Za-z0-9_\u2581 -]{1,40}[|\uff5c]>|\[/?INST\]|</?s>|<</?SYS>>"
            r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
        ),
        _always, _shown,
    ),
    _Look(
        "bidi_control", "the direction control", _FOREIGN,
        re.compile("[\u202a-\u202e\u2066-\u2069]"),
        _always, _shown,
    ),
    _Look(
        "invisible_char", "the invisible character", _FOREIGN,
        re.compile(
            "[\u200b\u2060-\u2064\ufeff]|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
        ),
        _always, _shown,
    ),
    _Look("mojibake", "wrongly decoded text such as", _FOREIGN, _MOJIBAKE, _is_mojibake, _shown),
    _Look("replacement_char", "the character", _FOREIGN, re.compile("\ufffd"), _always, _shown),
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
    hints = {piece for piece in _PIECES if piece in text}
    if _RUN.search(text):
        hints.update(_NUMBERS)
    if not text.isascii():
        hints.update(_FOREIGN)
    return frozenset(hints)


def _found(leaf: str, path: str, hints: frozenset[str]) -> Defects:
    for look in _LOOKS:
        if hints.isdisjoint(look.needs):
            continue
        for match in look.pattern.finditer(leaf):
            if look.sure(match.group()):
                yield Defect(look.code, path, f"{look.name} {look.mask(match.group())} in {path}")
                break


_LONG = 1 << 20  # characters; splitting a longer row into words would take 30 bytes for each


class Repetition:
    """Rows that repeat an earlier one, as they stand or but for case and spaces.

    Keeps 16 bytes a row: 64 bits of a hash of the folded text, 32 of the text as it stands,
    and the line. Two of 10 million different rows collide with a chance of 1 in 350,000.
    """

    def __init__(self) -> None:
        self._folded = [array("Q") for _ in range(256)]  # by the first byte of the hash
        self._exact = [array("I") for _ in range(256)]
        self._lines = [array("I") for _ in range(256)]

    def add(self, text: str, line: int) -> None:
        """Remember a row."""
        digest = blake2b(_folded(text).encode("utf-8", "surrogatepass"), digest_size=9).digest()
        slot = digest[0]
        self._folded[slot].append(int.from_bytes(digest[1:], "little"))
        self._exact[slot].append(zlib.crc32(text.strip().encode("utf-8", "surrogatepass")))
        self._lines[slot].append(line)

    def repeated(self) -> Iterator[tuple[str, int, int]]:
        """(code, line, first line) of every row that repeats an earlier one, in slot order."""
        for folded, exact, lines in zip(self._folded, self._exact, self._lines, strict=True):
            if len(set(folded)) != len(folded):
                yield from _repeated(folded, exact, lines)


def _repeated(
    folded: array[int], exact: array[int], lines: array[int]
) -> Iterator[tuple[str, int, int]]:
    first: dict[int, int] = {}
    seen: dict[tuple[int, int], int] = {}
    for key, own, line in zip(folded, exact, lines, strict=True):
        if (key, own) in seen:
            yield "duplicates", line, seen[key, own]
        elif key in first:
            yield "near_duplicates", line, first[key]
        seen.setdefault((key, own), line)
        first.setdefault(key, line)


def _folded(text: str) -> str:
    if len(text) > _LONG:
        return text
    plain = text.replace("\\n", " ").replace("\\t", " ").replace("\\r", " ")
    plain = plain if plain.isascii() else unicodedata.normalize("NFC", plain)
    return " ".join(plain.casefold().split())
