"""JSON as RFC 8259 has it, and no key twice.

``json`` takes NaN, keeps the last of two equal keys and makes infinity of 1e999, all without a
word. What is read here to be written again would change silently.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


class Duplicate(ValueError):
    """A key came twice in one object."""


class NotANumber(ValueError):
    """NaN or Infinity was written."""


class Overflow(ValueError):
    """A number is larger than a double."""


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, and RecursionError near 1,000 levels."""
    return _DECODER.decode(text)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Duplicate("a key comes twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    raise NotANumber(name)


def _float(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise Overflow(literal)
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)
