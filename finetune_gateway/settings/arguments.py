"""What callers give for a count, a function, a path: refused in words where it is none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import TypeVar

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


def require_function(value: object, name: str) -> None:
    """Raise SpecError for what is neither a function nor None."""
    if value is not None and not callable(value):
        raise SpecError(f"{name} cannot be {shown(value)}.", hint="Give a function.")


def as_path(value: object, name: str) -> Path:
    """Return a path. Raises SpecError for what no file system can have."""
    try:
        path = Path(value)  # type: ignore[arg-type]  # what is none raises TypeError
        if b"\0" not in os.fsencode(path):
            return path
    except (TypeError, ValueError):  # half of a character in it, too
        pass
    raise SpecError(f"{name} cannot be {shown(value)}.", hint="Give the path of a file or folder.")


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
