"""The base of all public pydantic models, and what pydantic lets pass for a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from finetune_gateway.errors import SpecError, shown

MOST = 10**15  # of whatever is counted; a float holds no whole numbers far above it


class Model(BaseModel):
    """A pydantic model whose deprecated methods (``dict``, ``json``, ``copy``, ...) stay out of
    ``dir`` and so out of completion."""

    model_config = ConfigDict(defer_build=True)

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in deprecated_names()]


class Document(Model):
    """A model that is written as JSON and read by other versions: fields that it does not know are
    kept, and written again as they came."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _without_computed(cls, values: Any) -> Any:
        computed = cls.__pydantic_decorators__.computed_fields
        if not computed or not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name not in computed}


class GivenOrStored(Model):
    """A model that a user gives, in which a name that it does not know is a mistake, and that is
    stored and read by other versions, in which it is a field of theirs."""

    _later: dict[str, Any] = PrivateAttr(default_factory=dict)  # fields of a later version

    @classmethod
    def _stored(cls, values: dict[str, Any], read: Callable[[Any], Self]) -> Self:
        """Return the model of what was stored; fields that it does not know are kept aside."""
        known = {name: value for name, value in values.items() if name in cls.model_fields}
        model = read(known)
        model._later = {name: value for name, value in values.items() if name not in known}
        return model


@cache
def deprecated_names() -> frozenset[str]:
    """Return the names that pydantic marks as deprecated."""
    marked = {
        name
        for name, value in vars(BaseModel).items()
        if hasattr(getattr(value, "__func__", value), "__deprecated__")
    }
    return frozenset({*marked, "__fields__", "__fields_set__"})


def require_numbers(given: Mapping[str, Any], model: Model, wanted: Callable[[str], str]) -> None:
    """Raise SpecError for True or False that was ``given`` for a number, since True would be 1, and
    for a count that nothing can be computed with. ``wanted``: returns what a field may be."""
    for name in given.keys() & type(model).model_fields.keys():
        if isinstance(given[name], bool) and "number" in wanted(name):
            raise SpecError(f"{name} must be {wanted(name)}, not {given[name]}.")
        if isinstance(value := getattr(model, name), int) and value > MOST:
            raise SpecError(f"{name} must be at most {MOST:,}, not {shown(value)}.")
