"""The base of all public pydantic models, what pydantic lets pass for a number, what a type allows
in words, and functions that refuse keywords they do not have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from inspect import CO_COROUTINE, CO_VARKEYWORDS
from types import FunctionType, NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
    overload,
)

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from finetune_gateway.errors import SpecError, shown, unknown, validation_error_text

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
R = TypeVar("R")

MOST = 10**15  # of whatever is counted; a float holds no whole numbers far above it


class Model(BaseModel):
    """A pydantic model that is written as JSON and read by other versions: fields that it does not
    know are kept, and written again as they came.

    pydantic's deprecated methods (``dict``, ``json``, ``copy``, ...) stay out of ``dir`` and so out
    of completion.
    """

    model_config = ConfigDict(extra="allow", defer_build=True)

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in deprecated_names()]


class Given(Model):
    """A model that users make: a name that it does not know is a mistake, and refused with what was
    probably meant. What is read (``model_validate``) may have fields of a later version."""

    if not TYPE_CHECKING:  # type checkers know the fields, and refuse others

        def __new__(cls, /, **given: Any) -> Self:
            stored = cls._was_stored(given)
            for name in () if stored else given:
                if name not in cls.model_fields and name not in cls.model_computed_fields:
                    raise unknown(cls.__name__, name, cls.model_fields)
            return super().__new__(cls)

    @classmethod
    def _was_stored(cls, values: Mapping[str, Any]) -> bool:
        """Return True for what has a field that only what was stored has."""
        return False


class Computing(Model):
    """A model with computed fields: they are in its JSON, and computed again when that is read."""

    @model_validator(mode="before")
    @classmethod
    def _without_computed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        computed = cls.__pydantic_decorators__.computed_fields
        return {name: value for name, value in values.items() if name not in computed}


class GivenOrStored(Given):
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


@contextmanager
def reading_document(document: object, what: str) -> Iterator[None]:
    """Raise SpecError for what is no JSON of this, where the block reads it. ``what``: ``a
    preview``."""
    if not isinstance(document, Mapping):
        raise SpecError(f"{shown(document)} is no JSON of {what}.")
    try:
        yield
    except ValidationError as exc:
        raise SpecError(f"This is no JSON of {what}: {validation_error_text(exc)}.") from None
    except (TypeError, AttributeError, LookupError) as exc:
        wrong = f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
        raise SpecError(f"This is no JSON of {what}: {wrong}.") from None


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


class lazy_property(Generic[R]):
    """A property that is computed when it is first read, and kept.

    ``functools.cached_property`` of Python 3.11 holds one lock for all objects of a class while it
    computes: one that waits would hold up those of every other Gateway.
    """

    def __init__(self, compute: Callable[[Any], R]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, holder: None, owner: type) -> Self: ...

    @overload
    def __get__(self, holder: object, owner: type) -> R: ...

    def __get__(self, holder: object | None, owner: type) -> Self | R:
        if holder is None:
            return self
        found: R = vars(holder).setdefault(self.name, self.compute(holder))
        return found


# -- types in words ----------------------------------------------------------------------


def type_words(type_: Any, *fields: FieldInfo) -> str:
    """Return what a type allows, within the limits of a field of it, in words."""
    arms = list(_arms(type_, _limits([*fields])))
    return f"{', '.join(arms[:-1])} or {arms[-1]}" if len(arms) > 1 else "".join(arms)


def _arms(type_: Any, limits: dict[str, Any]) -> Iterator[str]:
    """Yield what each part of a type allows, in words; None goes without saying."""
    if get_origin(type_) is Annotated:
        inner, *metadata = get_args(type_)
        yield from _arms(inner, limits | _limits(metadata))
    elif get_origin(type_) is Literal:
        yield from (repr(value) for value in get_args(type_))
    elif type_ in (int, float):
        yield f"{'a whole number' if type_ is int else 'a number'}{_bounds(limits)}"
    elif type_ is str:
        longest = limits.get("max_length")
        yield f"text of 1 to {longest} characters" if longest else "text"
    elif type_ is bool:
        yield from ("True", "False")
    elif get_origin(type_) in (tuple, list):
        yield "a list of names"
    elif get_origin(type_) is dict:
        yield "names with their values"
    elif type_ is not NoneType:
        for arm in get_args(type_):
            yield from _arms(arm, limits)


def _limits(metadata: list[Any]) -> dict[str, Any]:
    fields = (one for one in metadata if isinstance(one, FieldInfo))
    return {
        name: getattr(limit, name)
        for one in fields
        for limit in one.metadata
        for name in ("ge", "gt", "le", "lt", "max_length")
        if hasattr(limit, name)
    }


def _bounds(limits: dict[str, Any]) -> str:
    """Return limits in words: ``from 1 to 50``, ``from 0 to below 1``, ``above 0, at most 1``."""
    low, high = limits.get("ge"), limits.get("le")
    if low is None:
        words = {"gt": "above", "lt": "below", "le": "at most"}
        return ",".join(f" {word} {limits[key]}" for key, word in words.items() if key in limits)
    if "lt" in limits:
        return f" from {low} to below {limits['lt']}"
    return f" of at least {low}" if high is None else f" from {low} to {high}"


# -- keywords of functions ---------------------------------------------------------------


def exact_keywords(function: F, known: Collection[str] | None = None) -> F:
    """Return a function that raises SpecError, with what was probably meant, for a keyword that is
    not ``known``: by default those that it is written with."""
    code = function.__code__
    own = frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    taken = own - {"self", "cls"} if known is None else known

    def require_known(given: dict[str, Any], args: tuple[Any, ...]) -> None:
        for name in given:
            if name not in taken:
                made = function.__name__ == "__init__"
                raise unknown(type(args[0]).__name__ if made else function.__name__, name, taken)

    @wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        require_known(given, args)
        return function(*args, **given)

    @wraps(function)
    async def awaited(*args: Any, **given: Any) -> Any:
        require_known(given, args)
        return await function(*args, **given)

    return cast(F, awaited if code.co_flags & CO_COROUTINE else checked)


def takes_any(function: FunctionType) -> bool:
    """Return True for a function with ``**options``."""
    return bool(function.__code__.co_flags & CO_VARKEYWORDS)


def exact_methods(cls: C) -> C:
    """Let the public methods of a class, and its constructor, take their own keywords alone."""
    for name, value in [*vars(cls).items()]:
        if name.startswith("_") and name != "__init__":
            continue  # of a model, also what builds its schema as soon as it is looked at: 30 ms
        inner = getattr(value, "__func__", value)  # of a class method
        if isinstance(inner, FunctionType) and not takes_any(inner):
            checked = exact_keywords(inner)
            setattr(cls, name, checked if inner is value else type(value)(checked))
    return cls
