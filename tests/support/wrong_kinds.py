"""Values of every wrong kind, and where an answer of a plug-in may hold one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel

TODAY = date(2026, 12, 3)


class Lying(str):
    """A text that says of itself what is not so."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "another text"

    __repr__ = strip = __str__  # type: ignore[assignment]


class Raising(int):
    """A number that raises whatever it is asked."""

    def broken(self, *_: Any) -> Any:
        raise ZeroDivisionError

    __float__ = __abs__ = __le__ = __ge__ = __lt__ = __gt__ = __repr__ = __index__ = broken


class Claiming:
    """An object that claims to be a text."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return str


class Exploding(dict[str, Any]):
    """A dict whose items cannot be had."""

    def items(self) -> Any:
        raise ZeroDivisionError


class Endless(list[Any]):
    """Lists within lists, without an end."""

    def __iter__(self) -> Iterator[Any]:
        yield self


NAN = float("nan")
WRONG: dict[str, Any] = {
    "None": None, "True": True, "a number": 7, "below zero": -1, "a fraction": 1.5, "NaN": NAN,
    "infinity": math.inf, "400 digits": 10**400, "a signalling NaN": Decimal("sNaN"), "a text": "x",
    "a lying text": Lying("x"), "bytes": b"x", "a list": [], "a list of None": [None],
    "a dict": {}, "keys of other kinds": {1: object()}, "NaN within": {"a": NAN},
    "a set": {7}, "an object": object(), "a number that raises": Raising(3), "claims": Claiming(),
    "a day": TODAY, "a moment": datetime.now(UTC), "explodes": Exploding(a=1),
    "endless": Endless(), "lying within": {"a": [Lying("x")], Lying("b"): 1},
}  # fmt: skip

PLAIN = (str, int, float, bool, type(None), Decimal, date, dict, list, tuple, frozenset)
Reached = set[tuple[type, str]]


def models_in(value: Any) -> tuple[str, ...]:
    if isinstance(value, BaseModel):
        return tuple(type(value).model_fields)
    named = getattr(type(value), "_fields", ())  # a NamedTuple
    return tuple(one.name for one in fields(value)) if is_dataclass(value) else tuple(named)


def with_field(value: Any, name: str, given: Any) -> Any:
    """A copy with this in a field, unchecked."""
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: given})
    if hasattr(value, "_replace"):
        return value._replace(**{name: given})
    changed: Any = replace
    return changed(value, **{name: given})


def variants(value: Any, path: str, wrong: Any, reached: Reached) -> Iterator[tuple[str, Any]]:
    """Copies of an answer with this in place of one field of it, at whatever depth."""
    for name in models_in(value):
        reached.add((original(type(value)), name))
        inner, where = getattr(value, name), f"{path}.{name}".lstrip(".")
        yield where, with_field(value, name, wrong)
        for at, copy in variants(inner, where, wrong, reached):
            yield at, with_field(value, name, copy)
    if isinstance(value, dict):
        for key, one in value.items():
            for at, copy in variants(one, path, wrong, reached):
                yield at, {**value, key: copy}
    elif isinstance(value, list | tuple) and not models_in(value):
        for number, one in enumerate(value):
            for at, copy in variants(one, f"{path}[{number}]", wrong, reached):
                yield at, type(value)([*value[:number], copy, *value[number + 1 :]])


def original(cls: Any) -> type:
    """Range, for Range[int]."""
    found: type = getattr(cls, "__pydantic_generic_metadata__", {}).get("origin") or cls
    return found


def fields_below(hint: Any, found: Reached) -> Reached:
    """Every field of the models and dataclasses that a type hint leads to."""
    for one in get_args(hint):
        fields_below(one, found)
    cls = original(hint) if isinstance(hint, type) else None
    if cls is not None and (is_dataclass(cls) or issubclass(cls, BaseModel)):
        inner = hint.model_fields if issubclass(cls, BaseModel) else get_type_hints(cls)
        for name, each in inner.items():
            found.add((cls, name))
            fields_below(getattr(each, "annotation", each), found)
    elif cls is not None and issubclass(cls, tuple) and get_origin(hint) is None:
        found |= {(cls, name) for name in get_type_hints(cls)}
    return found


def not_plain(value: Any, path: str = "") -> Iterator[str]:
    """Where a value holds what is not of a plain class of ours."""
    if models_in(value):
        if not type(value).__module__.startswith("finetune_gateway."):
            yield f"{path}: {type(value)}"
        for name in models_in(value):
            yield from not_plain(getattr(value, name), f"{path}.{name}")
        for name, one in (getattr(value, "model_extra", None) or {}).items():
            yield from not_plain(one, f"{path}.{name}")
    elif not isinstance(value, Path | Enum):
        if type(value) not in PLAIN:
            yield f"{path}: {type(value)}"
        inside = [*value.items()] if isinstance(value, Mapping) else value
        for one in inside if isinstance(inside, list | tuple | frozenset) else ():
            yield from not_plain(one, f"{path}[]")


def containers(value: Any) -> set[int]:
    """The ids of everything in a value that can be changed."""
    if models_in(value):
        return set().union(*(containers(getattr(value, name)) for name in models_in(value)))
    inside = [*value.values()] if isinstance(value, dict) else value
    below = inside if isinstance(inside, list | tuple) else []
    own = {id(value)} if isinstance(value, dict | list) else set()
    return own.union(*(containers(one) for one in below))
