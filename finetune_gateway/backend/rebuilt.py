"""Values of a plug-in, read once and built again of plain ones, as the type of a field asks.

What comes out shares nothing with what came in: a text is a ``str`` whatever its own class says it
equals, a dict is a copy that nobody changes later, a model is one of ours. A value of another kind
is ``Wrong``, by the path of its field: ``life_cycle.only[0].since``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from finetune_gateway.backend.plain_json import DEEPEST, exact, plain
from finetune_gateway.errors import shown, validation_error_text


class Wrong(Exception):
    """An answer breaks the contract; says how."""


@dataclass(frozen=True)
class Kind:
    """What a type hint allows: in words, by the class of a value, and how such a value is read."""

    words: str
    takes: Callable[[type], bool]
    read: Callable[[Any, str], Any]  # a value of a class that it takes, and its path

    def of(self, value: Any, path: str = "") -> Any:
        """Return a value built again. Raises Wrong for one that is of another kind, or breaks
        whoever reads it."""
        if not self.takes(type(value)):
            raise wrong(path, self.words, value)
        try:
            return self.read(value, path)
        except Wrong:
            raise
        except Exception as exc:  # whatever an object of others raises
            broke = f"{self.words}, not what cannot be read: {type(exc).__name__}"
            raise Wrong(_due(path, broke)) from None


def wrong(path: str, words: str, value: Any) -> Wrong:
    """Return the error for a value: ``must give methods as a set of texts, not 7``."""
    return Wrong(_due(path, f"{words}, not {shown(value)}"))


def _due(path: str, words: str) -> str:
    return f"must give {path} as {words}" if path else f"must return {words}"


def rebuilt(hint: Any, value: Any, path: str = "") -> Any:
    """Return a value as its type hint asks, of plain values alone. Raises Wrong."""
    return kind_of(hint).of(value, path)


@cache
def kind_of(hint: Any) -> Kind:
    """Return the kind of a type hint. Raises TypeError for one that no answer has."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Annotated:
        return kind_of(args[0])
    if origin in (Union, UnionType):
        return _one_of([kind_of(arm) for arm in args])
    if origin is Literal:
        return _words_of({word: word for word in args})
    if origin in (list, tuple, frozenset) and (len(args) == 1 or args[-1] is Ellipsis):
        return _several(origin, kind_of(args[0]))
    if origin is tuple:
        return _row({f"[{at}]": kind_of(one) for at, one in enumerate(args)}, tuple)
    if origin in (dict, Mapping):
        return _pairs(kind_of(args[0]), kind_of(args[1]))
    if isinstance(hint, type):
        return _kind_of_class(hint)
    raise TypeError(f"no kind for {hint!r}")


def _kind_of_class(cls: type[Any]) -> Kind:
    if issubclass(cls, Enum):
        return _words_of({str(one.value): one for one in cls})
    if issubclass(cls, tuple):
        hints = get_type_hints(cls)
        return _row({f".{name}": kind_of(hints[name]) for name in hints}, lambda given: cls(*given))
    # Range[Decimal] is a class of its own, and a Range is none of it.
    generic = getattr(cls, "__pydantic_generic_metadata__", {}).get("origin") or cls
    if not (issubclass(cls, BaseModel) or is_dataclass(cls)):
        raise TypeError(f"no kind for {cls!r}")
    words = f"{'an' if generic.__name__[0] in 'AEIOU' else 'a'} {generic.__name__}"

    def read(value: Any, path: str) -> Any:
        return built(cls, fields_of(cls, value, path), path)

    return Kind(words, lambda given: issubclass(given, generic), read)


# -- models ------------------------------------------------------------------------------


def built(cls: Any, given: Mapping[str, Any], path: str = "", **ready: Any) -> Any:
    """Return the model or dataclass of these fields; ``ready``: those that are built already."""
    fields = {
        name: kind.of(given[name], f"{path}.{name}".lstrip("."))
        for name, kind in _kinds_of(cls).items()
        if name in given and name not in ready
    }
    if not issubclass(cls, BaseModel):
        for one in dataclass_fields(cls):
            if one.name not in fields and one.default is one.default_factory is MISSING:
                raise Wrong(f"must give {path}.{one.name}, and does not".replace(" .", " "))
        return cls(**fields, **ready)
    later = {name: one for name, one in given.items() if name not in cls.model_fields}
    try:
        return cls.model_validate({**plain(later), **fields, **ready})
    except ValidationError as exc:
        what, text = f"a {cls.__name__} that is none", validation_error_text(exc)
        raise Wrong(f"{f'gives {path} as' if path else 'returned'} {what}: {text}") from None


def fields_of(cls: Any, value: Any, path: str = "") -> dict[str, Any]:
    """Return the fields of a value of this class as they are, each asked for once, with those of a
    later version."""
    found = dict(getattr(value, "model_extra", None) or {})
    for name in _kinds_of(cls):
        try:
            one = getattr(value, name, MISSING)
        except Exception as exc:  # a property of others
            broke = f"what can be read: it raised {type(exc).__name__}"
            raise Wrong(_due(f"{path}.{name}".lstrip("."), broke)) from None
        if one is not MISSING:
            found[name] = one
    return found


@cache
def _kinds_of(cls: type[Any]) -> dict[str, Kind]:
    if issubclass(cls, BaseModel):
        hints: dict[str, Any] = {name: one.annotation for name, one in cls.model_fields.items()}
    else:
        hints = get_type_hints(cls)
    return {name: kind_of(hint) for name, hint in hints.items()}


# -- values ------------------------------------------------------------------------------


def _is_number(cls: type) -> bool:
    return issubclass(cls, int | float | Decimal) and not issubclass(cls, bool)


def is_number(value: Any) -> bool:
    """Return True for a number that is a finite float too; True and False are none."""
    if not _is_number(type(value)):
        return False
    try:
        return isfinite(exact(value))
    except (OverflowError, ValueError):  # 10**400; a signalling NaN
        return False


def _number(value: Any, path: str) -> float:
    if not is_number(value):
        raise wrong(path, _NUMBER.words, value)
    return float(exact(value))


def _amount(value: Any, path: str) -> Decimal:
    if not is_number(value):
        raise wrong(path, _AMOUNT.words, value)
    return Decimal(str(exact(value)))  # never by way of a float


def _is_date(cls: type) -> bool:
    return issubclass(cls, date) and not issubclass(cls, datetime)


def _date(value: Any, path: str) -> date:
    return date.fromordinal(date.toordinal(value))


def _json(value: Any, path: str, levels: int = DEEPEST) -> Any:
    """Return JSON without an object of others; raises Wrong for what is none."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int | float) and is_number(value):
        return exact(value)
    if levels and issubclass(kind, Mapping):
        return {
            _TEXT.of(name, f"a key of {path}"): _json(one, f"{path}[{shown(name)}]", levels - 1)
            for name, one in value.items()
        }
    if levels and issubclass(kind, list | tuple):
        return [_json(one, f"{path}[{at}]", levels - 1) for at, one in enumerate(value)]
    raise wrong(path, "plain JSON" if levels else f"JSON of {DEEPEST} levels at most", value)


_TEXT = Kind("a text", lambda cls: issubclass(cls, str), lambda value, path: str.__str__(value))
_NUMBER = Kind("a finite number", _is_number, _number)
_AMOUNT = Kind("a finite amount", _is_number, _amount)
_WHOLE = Kind(
    "a whole number",
    lambda cls: issubclass(cls, int) and not issubclass(cls, bool),
    lambda value, path: int.__index__(value),
)
_PLAIN: dict[Any, Kind] = {
    str: _TEXT,
    bool: Kind("True or False", lambda cls: cls is bool, lambda value, path: value),
    int: _WHOLE,
    float: _NUMBER,
    Decimal: _AMOUNT,
    date: Kind(
        "a date", lambda cls: issubclass(cls, date) and not issubclass(cls, datetime), _date
    ),
    NoneType: Kind("None", lambda cls: cls is NoneType, lambda value, path: None),
    Any: Kind("plain JSON", lambda cls: True, _json),
}


def _one_of(arms: list[Kind]) -> Kind:
    words = " or ".join(dict.fromkeys(arm.words for arm in arms))

    def read(value: Any, path: str) -> Any:
        fitting = [arm for arm in arms if arm.takes(type(value))]
        for arm in fitting:
            try:
                return arm.read(value, path)
            except Wrong:
                if len(fitting) == 1:
                    raise
        raise wrong(path, words, value)

    return Kind(words, lambda cls: any(arm.takes(cls) for arm in arms), read)


def _words_of(known: dict[str, Any]) -> Kind:
    """Return the kind of a Literal or of an enumeration: its words."""
    words = " or ".join(map(repr, known))

    def read(value: Any, path: str) -> Any:
        if (word := str.__str__(value)) not in known:
            raise wrong(path, words, word)
        return known[word]

    return Kind(words, lambda cls: issubclass(cls, str), read)


def _several(make: Any, each: Kind) -> Kind:
    """Return the kind of a list, tuple or frozenset. A list does for a tuple, a set for another."""
    taken: Any = Set if make is frozenset else list | tuple
    words = f"a {make.__name__} with {each.words} in each place"
    if make is frozenset:
        words = f"a frozenset of {each.words}"

    def read(value: Any, path: str) -> Any:
        if make is frozenset:
            return frozenset(each.of(one, f"one of {path}".strip()) for one in value)
        return make([each.of(one, f"{path}[{at}]") for at, one in enumerate(value)])

    return Kind(words, lambda cls: issubclass(cls, taken), read)


def _row(kinds: dict[str, Kind], make: Callable[[list[Any]], Any]) -> Kind:
    """Return the kind of a tuple with a kind for each of its places."""
    words = f"a tuple of {len(kinds)}"

    def read(value: Any, path: str) -> Any:
        parts = list(value)
        if len(parts) != len(kinds):
            raise wrong(path, words, value)
        pairs = zip(kinds.items(), parts, strict=True)
        return make([kind.of(one, f"{path}{place}") for (place, kind), one in pairs])

    return Kind(words, lambda cls: issubclass(cls, list | tuple), read)


def _pairs(names: Kind, values: Kind) -> Kind:
    def read(value: Any, path: str) -> Any:
        return {
            names.of(name, f"a key of {path}"): values.of(one, f"{path}[{shown(name)}]")
            for name, one in value.items()
        }

    return Kind("a dict", lambda cls: issubclass(cls, Mapping), read)
