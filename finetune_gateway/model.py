"""The base of all public pydantic models."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A pydantic model whose deprecated methods (``dict``, ``json``, ``copy``, ...) stay out of
    ``dir`` and so out of completion."""

    model_config = ConfigDict(defer_build=True)

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in deprecated_names()]


@cache
def deprecated_names() -> frozenset[str]:
    """Return the names that pydantic marks as deprecated."""
    marked = {
        name
        for name, value in vars(BaseModel).items()
        if hasattr(getattr(value, "__func__", value), "__deprecated__")
    }
    return frozenset({*marked, "__fields__", "__fields_set__"})
