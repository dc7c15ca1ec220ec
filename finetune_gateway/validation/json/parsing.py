"""Parse a line of JSONL strictly (RFC 8259); ``json_errors`` explains why one fails."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.missing_numbers import without_nan
from finetune_gateway.data.row_access import (
    MAX_DEPTH,
    TOKEN,
    DuplicateKey,
    NotANumber,
    Overflow,
    TooDeep,
    dumped,
    is_too_deep,
    loads_strict,
)
from finetune_gateway.findings import Defect, child, walk
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.json.json_errors import Unfinished, syntax_defect

# Escapes that can be a lone surrogate or a control character; the only raw one allowed is DEL.
_MAY_MATCH = re.compile(r"\\(?:u(?:00[01]|[dD][89a-fA-F]|007[fF])|[bf])|\x7f")
_ADDED = 10  # levels of a row around what is in a text
_ENCODED = re.compile(r"\\{2,}u[dD][89a-fA-F]")  # half a pair in a text that is JSON itself
_RECODE = (
    "Save the file as UTF-8, for example: iconv -f ENCODING -t UTF-8, where ENCODING is its own: "
    "GB18030, SHIFT_JIS, CP1251, ..."
)
_NULL = "Write null, or omit the key; --fix does: ftg validate old.jsonl --fix new.jsonl"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadLine(ValueError):
    """A line that is not a JSON value. ``unfinished``: what may continue in the next line."""

    def __init__(self, defect: Defect, unfinished: Unfinished = "") -> None:
        super().__init__(defect.detail or defect.code)
        self.defect = defect
        self.unfinished = unfinished


def decode(raw: bytes, offset: int = 0) -> str:
    """Return the line as text; ``offset``: bytes before it in the file. Raises BadLine."""
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        byte = raw[exc.start]
        guess = bytes([byte]).decode("cp1252", "replace")
        detail = (
            f"byte {offset + exc.start} of the file (byte {exc.start} of the line) is "
            f"0x{byte:02X}, which is not UTF-8"
        )
        # Imported here: few files are in another encoding.
        from finetune_gateway.text.windows_1252 import read_windows_1252

        if read_windows_1252(raw) is None:  # --fix leaves such a line as it is
            detail, fix = f"{detail}, nor would the line make sense in Windows-1252", _RECODE
        else:
            detail, fix = f"{detail}; in Windows-1252 it would be {quoted(guess)}", ""
        raise BadLine(Defect("encoding_not_utf8", detail=detail, fix=fix)) from None


def parse(text: str) -> Any:
    """Return the JSON value of a line. Raises only BadLine, for any text."""
    try:
        return loads_strict(text)
    except ValueError as exc:
        error = exc
    raise _bad_line(text, error)


def balance(text: str) -> int:
    """Return the number of unclosed brackets outside strings."""
    tokens = (text[token.start()] for token in TOKEN.finditer(text))
    return sum(1 if char in "[{" else -1 for char in tokens if char != '"')


def escape_defects(text: str, value: Any) -> Iterator[Defect]:
    """Yield lone surrogates and control characters that were written as escapes."""
    if not _MAY_MATCH.search(text):
        return
    for path, leaf in walk(value):
        if not isinstance(leaf, str):
            continue
        if match := _SURROGATE.search(leaf):
            detail = f"half of a surrogate pair, \\u{ord(match.group()):04x}"
            yield Defect("lone_surrogate", path, detail)
        if match := _CONTROL.search(leaf):
            detail = f"the control character U+{ord(match.group()):04X} in a text"
            yield Defect("control_char", path, detail)


def decoded_defects(text: str, sent: CanonicalRow) -> Iterator[Defect]:
    """Yield what only the decoding of a text shows: a list of messages, tools or calls that is JSON
    itself, and holds half a surrogate pair, or more levels than a reader takes."""
    brackets = text.count("{") + text.count("[") + _ADDED
    if brackets > MAX_DEPTH and is_too_deep(dumped(sent.row)):
        yield Defect("json_too_deep")
    if "\\\\u" in text and _ENCODED.search(text):
        for path, leaf in walk(sent.row):
            if isinstance(leaf, str) and (match := _SURROGATE.search(leaf)):
                detail = f"half of a surrogate pair, \\u{ord(match.group()):04x}"
                yield Defect("lone_surrogate", sent.origin(path), detail)


def _bad_line(text: str, error: ValueError) -> BadLine:
    if isinstance(error, json.JSONDecodeError):
        return BadLine(*syntax_defect(text, error.pos, error.msg))
    if isinstance(error, TooDeep):
        return BadLine(Defect("json_too_deep"))
    if isinstance(error, DuplicateKey):
        return BadLine(_duplicate(text))
    if isinstance(error, NotANumber):
        fix = _NULL if without_nan(text) else ""
        return BadLine(Defect("json_nan", _not_finite(text), f"{error} in the JSON", fix))
    if isinstance(error, Overflow):
        return BadLine(_overflow(text, str(error)))
    return BadLine(Defect("json_number", detail="a number of more than 4,300 digits"))


def _duplicate(text: str) -> Defect:
    for path in _duplicate_paths(_loads_or_none(text, object_pairs_hook=_Pairs)):
        return Defect("json_duplicate_key", path, f"the key {path} occurs twice in one object")
    return Defect("json_duplicate_key")


class _Pairs(list[tuple[str, Any]]):
    """An object with its duplicate keys."""


def _duplicate_paths(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, _Pairs):
        keys = set()
        for key, inner in value:
            here = child(path, key)
            if key in keys:
                yield here
            keys.add(key)
            yield from _duplicate_paths(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _duplicate_paths(inner, f"{path}[{index}]")


def _overflow(text: str, literal: str) -> Defect:
    path = _not_finite(text)
    # A weight of 1e999 is reported as a wrong weight.
    code = "weight_value" if path.endswith(".weight") else "json_number"
    return Defect(code, path, f"the number {quoted(literal)} is too large for any reader")


def _not_finite(text: str) -> str:
    leaves = walk(_loads_or_none(text))
    return next((path for path, x in leaves if isinstance(x, float) and not math.isfinite(x)), "")


def _loads_or_none(text: str, **hooks: Any) -> Any:
    """Return the value as ``json`` reads it by default; None if the rest of the line is invalid."""
    try:
        return json.loads(text, **hooks)
    except ValueError:
        return None
