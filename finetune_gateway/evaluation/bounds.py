"""Whole numbers that a user gives, and the bounds that they are held to."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_gateway.errors import SpecError, shown

Bounds = Mapping[str, tuple[int, int]]  # the least and the most, by the name of the attribute


def require_whole(given: object, bounds: Bounds, *, optional: bool = False) -> None:
    """Raise SpecError for an attribute that is no whole number within its bounds. ``optional``:
    None is no number given."""
    for name, (least, most) in bounds.items():
        value = getattr(given, name)
        if optional and value is None:
            continue
        if not (type(value) is int and least <= value <= most):
            raise SpecError(
                f"{name} cannot be {shown(value)}.",
                hint=f"Give a whole number from {least} to {most:,}.",
            )
