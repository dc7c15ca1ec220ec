"""What of the data of a plug-in is JSON."""

from __future__ import annotations

from typing import Any

from finetune_gateway.model import MOST

DEEPEST = 20  # levels
_LEFT_OUT = object()


def plain(value: Any, levels: int = DEEPEST) -> Any:
    """Return a value without what no JSON has: NaN, infinity, objects, keys that are no text."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) <= MOST else _LEFT_OUT  # a NaN is not
    if levels == 0 or not isinstance(value, dict | list | tuple):
        return _LEFT_OUT
    if isinstance(value, dict):
        pairs = ((name, plain(one, levels - 1)) for name, one in value.items())
        return {k: one for k, one in pairs if isinstance(k, str) and one is not _LEFT_OUT}
    return [one for one in (plain(one, levels - 1) for one in value) if one is not _LEFT_OUT]
