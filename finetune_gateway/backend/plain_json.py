"""What of the data of a plug-in is JSON."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from finetune_gateway.model import MOST

DEEPEST = 20  # levels
_LEFT_OUT = object()


def plain(value: Any, levels: int = DEEPEST) -> Any:
    """Return a value without what no JSON has: NaN, infinity, objects, keys that are no text.
    Texts and numbers come without a class of their own."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int | float):
        number = exact(value)
        return number if abs(number) <= MOST else _LEFT_OUT  # a NaN is not
    if levels == 0 or not issubclass(kind, dict | list | tuple):
        return _LEFT_OUT
    if issubclass(kind, dict):
        pairs = ((name, plain(one, levels - 1)) for name, one in value.items())
        return {
            str.__str__(name): one
            for name, one in pairs
            if issubclass(type(name), str) and one is not _LEFT_OUT
        }
    return [one for one in (plain(one, levels - 1) for one in value) if one is not _LEFT_OUT]


def exact(value: Any) -> Any:
    """Return a number without a class of its own."""
    kind = type(value)
    if issubclass(kind, int):
        return int.__index__(value)
    return float.__float__(value) if issubclass(kind, float) else Decimal(value)
