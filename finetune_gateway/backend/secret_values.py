"""What of the settings of a plug-in holds a key: they are stored and shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from finetune_gateway.text import pii, redaction

# Variables that hold a key by their name, and what of their values is none: a path, a number, a
# word that may be a part of others.
_NAME = re.compile(r"(?i)(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_|$)")
_VALUE = re.compile(r"(?![\d.]*\Z)[^\s/~][^\s]{15,}")


def of_environment() -> set[str]:
    """Return the keys in the environment: a plug-in may have read one there by itself."""
    return {
        value
        for name, value in os.environ.items()
        if _NAME.search(name) and _VALUE.fullmatch(value)
    }


def texts(path: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield each text in a value with its path: ``options()['keys']``."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from texts(f"{path}[{name!r}]", one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(path, one)


def holds_key(text: str, keys: Iterable[str | None]) -> bool:
    """Return True for a text with one of these keys in it, in whatever form, or with what looks
    like one."""
    raw = text.encode(errors="replace")
    return (
        redaction.redact(text) != text
        or any(code == "secret" for code, _ in pii.find_pii(text, ()))
        or any(redaction.holds(raw, key) for key in keys)
    )
