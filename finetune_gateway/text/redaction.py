"""Takes a key out of what a host says: hosts echo it, whole or in another form.

The key itself is looked for, not what looks like one: as it is, escaped for JSON, HTML or a URL, in
base64 or hex, and split by spaces and line ends. ``redact`` also removes what looks like a key.
"""

from __future__ import annotations

import html
import re
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote

MARK = "[key]"
SHORTEST = 8  # characters; shorter ones, like EMPTY, are no secret and may be parts of words
SPACES = b" \t\r\n\v\f"

_UNICODE = re.compile(rb"\\+u00([0-9a-fA-F]{2})")
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")
_ENTITY = re.compile(rb"&(?:#\d+|#[xX][0-9a-fA-F]+|amp|lt|gt|quot|apos);")

_LONG_NUMBER = re.compile(rb"(?<=&#)0*(\d{1,8})\d*")  # Python reads none of 4,301 digits

# A character of a key, in these forms: itself, %2B, \u002b, &#43; and &#x2b;.
_CHARACTER = r"(?:%s|(?i:%%(?:25){0,3}%02x)|(?i:\\{1,8}u00%02x)|&#0{0,5}%d;|(?i:&#x0{0,5}%x;))"
# What may be between two of them.
_GAP = r"(?:\s|\\{1,8}[nrt]|\\|%0[aAdD9]|%20){0,16}?"


def redact(text: str, key: str | None = None) -> str:
    """Return the text without ``key``, and without anything that looks like a key."""
    text = without(text, key)
    if key and len(key) < SHORTEST:
        text = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", MARK, text)
    text = re.sub(r"(?i)bearer\s+[^\s\"',]+", f"Bearer {MARK}", text)
    return re.sub(r"\bsk-[\w*-]{4,}", MARK, text)


def without(text: str, key: str | None) -> str:
    """Return the text without a key of at least 8 characters, whatever its form in it."""
    for form in _forms_in(text.encode("utf-8", "replace"), key):
        text = _pattern(form).sub(MARK, text)
    # In a form that the patterns do not know: nothing of that text is kept.
    return MARK if holds(text.encode("utf-8", "replace"), key) else text


def without_in(value: Any, key: str | None) -> Any:
    """Return a JSON value without the key in any of its texts."""
    if isinstance(value, str):
        return without(value, key)
    if isinstance(value, dict):
        return {without(name, key): without_in(inner, key) for name, inner in value.items()}
    return [without_in(inner, key) for inner in value] if isinstance(value, list) else value


def holds(raw: bytes, key: str | None) -> bool:
    """Return True if a text has the key in it, in whatever form."""
    return bool(_forms_in(raw, key))


def _forms_in(raw: bytes, key: str | None) -> list[str]:
    if not key or len(key) < SHORTEST:
        return []
    readings = [*_readings(raw)]
    return [form for form in _forms(key) if any(form.encode() in one for one in readings)]


def _readings(raw: bytes) -> Iterator[bytes]:
    """Yield the bytes as they are, and with their escapes and spaces taken back: a page of a list
    has many of these, so each step is one of C, and is left out where nothing is escaped."""
    yield raw
    plain = raw.translate(None, SPACES)
    yield plain
    if b"\\" in plain:
        for letter in (b"\\n", b"\\r", b"\\t"):
            plain = plain.replace(letter, b"")
        plain = _UNICODE.sub(_character, plain) if b"\\u00" in plain else plain
        plain = plain.translate(None, b"\\")
        yield plain
    if _ENTITY.search(plain):
        plain = _LONG_NUMBER.sub(rb"\1", plain)
        plain = html.unescape(plain.decode("utf-8", "replace")).encode("utf-8", "replace")
        yield plain
    for _ in range(3):
        if _PERCENT.search(plain):
            plain = _PERCENT.sub(_character, plain).translate(None, SPACES)
            yield plain


def _character(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode())


@lru_cache(maxsize=16)
def _forms(key: str) -> tuple[str, ...]:
    """Return the key and what it is in base64, wherever it begins there, and in hex."""
    raw = key.encode("utf-8", "replace")
    forms = [key, key.replace("\\", ""), raw.hex(), raw.hex().upper(), quote(key, safe="")]
    for before in range(3):
        # Without the characters at both ends that hold bits of what is around it.
        begin, end = (0, 2, 3)[before], (before + len(raw)) * 8 // 6
        text = b64encode(bytes(before) + raw).decode()[begin:end]
        forms += [text, text.replace("+", "-").replace("/", "_")]
    return tuple(form for form in dict.fromkeys(forms) if len(form) >= SHORTEST)


@lru_cache(maxsize=64)
def _pattern(form: str) -> re.Pattern[str]:
    """Return what finds a form of a key in its escapes, also with gaps."""
    first, *others = (_CHARACTER % (re.escape(char), *[ord(char)] * 4) for char in form)
    # Decided for each character by itself: a run of backslashes can be read in many ways, and all
    # ways of all characters together would take for ever.
    return re.compile(first + "".join(f"(?>{_GAP}{char})" for char in others))


class Stream:
    """Takes a key out of a text that comes in pieces, which may split it."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._forms = _forms(key) if key and len(key) >= SHORTEST else ()
        self._held = ""

    def ready(self, piece: str) -> str:
        """Return what can be shown of all that came; the beginning of a key is held back."""
        text = without(self._held + piece, self._key)
        begin = next((at for at in self._starts(text)), len(text))
        self._held = text[begin:]
        return text[:begin]

    def rest(self) -> str:
        """Return what was held back, at the end."""
        return self._held

    def _starts(self, text: str) -> list[int]:
        """Return where the end of a text may be the beginning of a key."""
        longest = max(map(len, self._forms), default=1)
        places = range(max(0, len(text) - longest + 1), len(text))
        return [at for at in places if any(form.startswith(text[at:]) for form in self._forms)]
