"""Texts as a person reads them, for detectors: full-width and foreign digits as ASCII, without what
has no width, escapes of JSON and base64 decoded."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Iterator
from functools import cache

from finetune_gateway.text.regex import LazyPattern, searcher

# What is not there when one reads: spaces of no width, joiners, marks of direction, soft hyphens.
_NO_WIDTH = (
    "\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e01ef"
)
_DASHES = "\u2010-\u2015\u2212\ufe58\ufe63"
_SPACES = "\u00a0\u2000-\u200a\u202f\u205f\u3000"
_DIGITS = "\uff10-\uff19\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u0e50-\u0e59"
# Texts hold JSON, such as the arguments of a call, which may hold JSON in turn.
_ESCAPE = (
    r"\\{1,8}(?:u[dD][89abAB][0-9a-fA-F]{2}\\{1,8}u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|u[0-9a-fA-F]{4}|[nrt\"/])"
)
_ODD = LazyPattern(
    f"{_ESCAPE}|[{_NO_WIDTH}{_DASHES}{_SPACES}{_DIGITS}\uff01-\uff5e\ufe6b]"
    f"|(?<=[0-9{_DIGITS}])\u30fc"  # a long vowel, typed for a dash
)
_REMOVED = LazyPattern(f"[{_NO_WIDTH}]")

# A row has one of these wherever the forms here hide something; a JSON escape stands for itself.
_HIDDEN = r"[\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]"
_GAP = f"[ .()\\-{_DASHES}{_SPACES}\uff08\uff09\uff0d\uff0e\u30fc]"
HINTS = (
    f"[0-9A-Za-z@.+-] ?{_HIDDEN}+ ?[0-9A-Za-z@.+-]",
    "[\uff01-\uff5e]{16}",
    f"(?:[{_DIGITS}]{_GAP}{{0,3}}){{7}}",
    f"[0-9][{_DASHES}{_SPACES}\u30fc][0-9]{{1,6}}[{_DASHES}{_SPACES}\u30fc -][0-9]{{2}}",
    f"[0-9]{{6}}[{_DASHES}{_SPACES}\u30fc][0-9]{{7}}",
    # (010)62345678 in wide brackets, 0755-83765566 with another dash
    f"\uff080[0-9]{{2,3}}\uff09|0[0-9]{{2,3}}[{_DASHES}\uff0d\u30fc][0-9]{{7}}",
    "[\uff20\ufe6b]",
    "[\uff08\uff3b\u3010] ?(?i:at|\uff41\uff54) ?[\uff09\uff3d\u3011]",
)
ESCAPED_HINTS = (
    r"\\\\+u00[2-7][0-9a-fA-F]",  # ASCII, escaped twice
    r"(?:\\u[fF][fF][0-5][0-9a-fA-F]){16}",
    r"[0-9A-Za-z@.+-] ?\\+u(?:00[aA][dD]|034[fF]|180[eE]|200[b-fB-F]|206[0-4]|[fF][eE]0[0-9a-fA-F]"
    r"|[fF][eE][fF][fF]) ?[0-9A-Za-z@.+-]",
    r"(?:\\+u(?:[fF][fF]1[0-9]|066[0-9]|06[fF][0-9]|096[6-9a-fA-F]|0[eE]5[0-9])"
    r"(?:\\+u[0-9a-fA-F]{4}|[ .()-]){0,3}){7}",
    r"[0-9]\\+u(?:201[0-5]|2212|00[aA]0|202[fF]|2009|200[0-9aA]|3000|30[fF][cC])[0-9]{1,7}",
    r"\\+u[fF][fF]080[0-9]{2,3}\\+u[fF][fF]09",
    r"0[0-9]{2,3}\\+u(?:201[0-5]|2212|[fF][eE](?:58|63)|[fF][fF]0[dD]|30[fF][cC])[0-9]{7}",
    r"\\+u(?:[fF][fF]20|[fF][eE]6[bB])",
    r"\\+u(?:[fF][fF]08|[fF][fF]3[bB]|3010) ?(?i:at)",
)

# Base64 of text: four characters stand for three bytes, of ASCII (which never has its highest bit)
# or of letters of three bytes, that begin with the first, the third or the second of the bytes, or
# of letters of two.
_FOUR = (
    "[I-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]"
    "|[4-7][I-LYZabo-r4-7][CGKOSWaeimquy26+-][A-Za-z0-9+/_-]"
    "|[g-v][I-LYZabo-r4-7][DHLPTXbfjnrvz37/_][g-v]"
    "|[g-v][Oeu+-][CGKOSWaeimquy26+-][A-Za-z0-9+/_-]"
    "|[w-z0-3][I-LYZabo-r4-7][DHLPTXbfjnrvz37/_][A-Za-f]"
    "|[g-v][MNcdst89][CGKOSWaeimquy26+-][A-Za-z0-9+/_-]"
)
BASE64_HINTS = (f"(?:{_FOUR}){{4}}",)
_RUN = LazyPattern(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{16,}={0,2}(?![A-Za-z0-9+/_=-])")
_LONGEST = 65_536  # characters of base64; a text of a person is shorter


def _plain_of(odd: str) -> str:
    """Return what a character, or an escape of one, is read as."""
    if not odd.startswith("\\"):
        return _plain_char(odd)
    code = odd.lstrip("\\")
    if code[0] != "u":
        return {"n": "\n", "r": "\n", "t": "\t"}.get(code, code)
    char = chr(int(code[1:5], 16))
    if len(code) > 5:  # two halves
        char = chr(0x10000 + (ord(char) - 0xD800) * 0x400 + int(code[-4:], 16) - 0xDC00)
    return char if char == "\u30fc" else _plain_char(char)  # a dash after digits alone


@cache
def _plain_char(char: str) -> str:
    if _REMOVED.match(char):
        return ""
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    if unicodedata.category(char) == "Pd" or char in "\u2212\u30fc":
        return "-"
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 and folded.isascii() else char


def read_as(text: str) -> str:
    """Return a text as it is read: itself, unless it has one of the forms here."""
    hides = not text.isascii() and searcher(*HINTS)(text.encode("utf-8", "replace"))
    if not hides and not has_escapes(text):
        return text
    return _ODD.sub(lambda match: _plain_of(match[0]), text)


def has_escapes(text: str) -> bool:
    """Return True for a text with escapes of JSON."""
    return "\\" in text and searcher(_ESCAPE)(text.encode("utf-8", "replace"))


def places_of(text: str) -> list[tuple[int, int]]:
    """Return where in a text each character of ``read_as(text)`` begins and ends."""
    places: list[tuple[int, int]] = []
    done = 0
    for match in _ODD.finditer(text):
        places += ((place, place + 1) for place in range(done, match.start()))
        places += [match.span()] if _plain_of(match[0]) else []
        done = match.end()
    return places + [(place, place + 1) for place in range(done, len(text))]


def decoded(text: str) -> Iterator[tuple[str, str]]:
    """Yield each part of a text that is base64 of text, and that text."""
    if not searcher(*BASE64_HINTS)(text.encode("utf-8", "replace")):
        return
    for run in _RUN.finditer(text):
        if len(run[0]) <= _LONGEST and (inner := _decode(run[0])):
            yield run[0], inner


def _decode(run: str) -> str:
    """Return the text in a run of base64; empty if there is none."""
    plain = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        inner = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    printed = inner.replace("\n", " ").replace("\r", " ").replace("\t", " ")
    return inner if printed.isprintable() else ""
