"""Texts for messages: quoted, shortened, printable, with personal data masked."""

from __future__ import annotations

from functools import lru_cache

from finetune_gateway.text import pii

MAX_QUOTE = 60  # characters of the data quoted in a message
MAX_PATH = 200
MASKED = 1000  # characters of a text that are searched before it is quoted

_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
}


def quoted(value: object) -> str:
    """Return a value for a message: in quotes, at most 60 characters, printable, masked."""
    text = value if isinstance(value, str) else str(value)
    return _quoted(text[:MASKED])


@lru_cache(maxsize=1024)  # the same few words in thousands of rows
def _quoted(text: str) -> str:
    return ascii_safe(repr(shortened(hidden(text), MAX_QUOTE)))


@lru_cache(maxsize=1024)
def hidden(text: str) -> str:
    """Return the text with personal data and keys masked."""
    for name, match in pii.find_pii(text):
        if name != "a private key":  # its first line reveals nothing of the key
            text = text.replace(match, pii.masked(match))
    return text


def shortened(text: str, limit: int) -> str:
    """Return the text, or its beginning and three dots, in at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def ascii_safe(text: str) -> str:
    """Return the text with unprintable characters written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def json_type(value: object) -> str:
    """Return what JSON calls a value: a string, a list, null, ..."""
    if value is None:
        return "null"
    return _TYPES.get(type(value), "an object")


def duration(seconds: float) -> str:
    """Return a wait in words: 60 s, 45 min, 3.5 h."""
    if seconds < 600:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"
