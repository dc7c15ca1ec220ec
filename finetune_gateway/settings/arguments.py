"""What callers give for a count, a function, a path: refused in words where it is none."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.model import MOST

T = TypeVar("T")


def whole_number(value: object, name: str) -> int:
    """Return a whole number from 0, ``MOST`` for one above. Raises SpecError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise SpecError(
            f"{name} cannot be {shown(value)}.", hint="Give a whole number of at least 0."
        )
    return min(int(value), MOST)


def require_function(value: object, name: str, *given: str) -> None:
    """Raise SpecError for what is neither None nor a function that can be called with what is
    ``given``, in words: now, not when it is called for the first time."""
    if value is None:
        return
    if not callable(value):
        raise SpecError(f"{name} cannot be {shown(value)}.", hint="Give a function.")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some of those that are written in C have none
        return
    try:
        signature.bind(*given)
    except TypeError as exc:
        raise SpecError(
            f"{name} cannot be called with {' and '.join(given)}: {exc}.",
            hint=f"Give a function of {len(given)} argument{'s'[: len(given) != 1]}.",
        ) from None


def as_path(value: object, name: str) -> Path:
    """Return a path. Raises SpecError for what no file system can have."""
    try:
        path = Path(value)  # type: ignore[arg-type]  # what is none raises TypeError
        if b"\0" not in os.fsencode(path):
            return path
    except (TypeError, ValueError):  # half of a character in it, too
        pass
    raise SpecError(f"{name} cannot be {shown(value)}.", hint="Give the path of a file or folder.")


def several(values: object, name: str) -> tuple[Any, ...]:
    """Return some values, or one text or path, as a tuple. Raises SpecError for what is no list."""
    if isinstance(values, str | os.PathLike):
        return (values,)
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise SpecError(f"{name} cannot be {shown(values)}.", hint="Give a list.")
    return tuple(values)


def mapping_of(values: object, name: str) -> dict[str, Any]:
    """Return values by name; none for None. Raises SpecError for what has no names."""
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(isinstance(one, str) for one in values):
        raise SpecError(f"{name} cannot be {shown(values)}.", hint="Give names with their values.")
    return dict(values)


def list_of(values: object, kind: type[T], name: str) -> list[T]:
    """Return some values as a list. Raises SpecError for one that is not of this kind, and for what
    is no list of any."""
    given = values if isinstance(values, Iterable) and not isinstance(values, str | bytes) else None
    found = None if given is None else [*given]
    wrong = [values] if found is None else [one for one in found if not isinstance(one, kind)]
    if found is None or wrong:
        raise SpecError(
            f"{name} is a list of {kind.__name__}: {shown(wrong[0])} is none.",
            hint=f"Give a list, like [{kind.__name__.lower()}].",
        )
    return found
