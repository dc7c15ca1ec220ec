"""Values from outside (a provider's JSON, the reports of a plug-in, file names) in a form that
UTF-8, SQLite and JSON can hold, and texts as a terminal may show them.
"""

from __future__ import annotations

import math
import re
from typing import Any

INT64 = 2**63
DEEPEST = 32  # levels of lists and objects; pydantic writes 255
LATEST = 253_402_300_800.0  # the year 10000, which no calendar of Python has

# What steers a terminal or hides text: controls other than tab and newline, line ends, marks of
# direction, tags, halves of surrogate pairs.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def clean(value: Any, depth: int = 0) -> Any:
    """Return a JSON value without what cannot be stored: numbers that are not finite or need more
    than 64 bits, and what lies deeper than 32 levels, become None; see ``encodable`` for texts."""
    if isinstance(value, str):
        return encodable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -INT64 <= value < INT64 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == DEEPEST:
        return None
    if isinstance(value, dict):
        return {encodable(str(name)): clean(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner, depth + 1) for inner in value]
    return encodable(str(value))


def encodable(text: str) -> str:
    """Return the text with each half of a surrogate pair as an escape (``\\ud83d``); two halves in
    a row become their character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return joined.encode("utf-8", "backslashreplace").decode()
    return text


def visible(text: str) -> str:
    """Return the text with what steers a terminal or hides text as ``\\u`` escapes."""
    return _STEERING.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


MOST_COUNT = 2**53  # a host may say 10**400, which is no float and no column of the store


def whole(value: object) -> int | None:
    """Return a count, an int from 0 to MOST_COUNT; None for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MOST_COUNT else None


def moment(value: object) -> float | None:
    """Return seconds since the epoch, up to the year 9999; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < LATEST else None
