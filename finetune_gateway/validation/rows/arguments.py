"""Match the arguments of a tool call with the tool's JSON Schema, as far as that is certain.

Knows the keywords that describe tools; ignores others: patterns, formats, conditions, references
to other documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.findings import child
from finetune_gateway.text.quoting import json_type, quoted

Json = dict[str, Any]
Mismatches = Iterator[str]

_STEPS = 10_000  # schemas tried on one value: references can be circular
_SHOWN = 5  # values of an enum that are named


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": _is_integer,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
# Bounds of numbers and of the lengths of texts and lists: the test, and its words.
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda size, bound: size >= bound, "at least"),
    "maximum": (lambda size, bound: size <= bound, "at most"),
    "exclusiveMinimum": (lambda size, bound: size > bound, "more than"),
    "exclusiveMaximum": (lambda size, bound: size < bound, "less than"),
    "minLength": (lambda size, bound: size >= bound, "at least"),
    "maxLength": (lambda size, bound: size <= bound, "at most"),
    "minItems": (lambda size, bound: size >= bound, "at least"),
    "maxItems": (lambda size, bound: size <= bound, "at most"),
}


class _TooManySteps(Exception):
    """The schema takes more steps than a real tool needs."""


def mismatch(value: Any, schema: Any) -> str:
    """Return the first mismatch of a value with a schema in words; "" if there is none for sure."""
    try:
        return next(_Matcher(schema).mismatches(value, schema, ""), "")
    except (_TooManySteps, RecursionError):
        return ""


class _Matcher:
    """Matches one value with one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def mismatches(self, value: Any, schema: Any, path: str) -> Mismatches:
        """Yield the mismatches in order, without values of the row."""
        self._steps += 1
        if self._steps > _STEPS:
            raise _TooManySteps
        if schema is False:
            yield f"{_display(path)} is not allowed"
        if not isinstance(schema, dict) or (value is None and schema.get("nullable") is True):
            return
        yield from _value(value, schema, path)
        if isinstance(value, dict):
            yield from self._object(value, schema, path)
        elif isinstance(value, list):
            yield from self._list(value, schema, path)
        yield from self._combined(value, schema, path)

    def _object(self, value: Json, schema: Json, path: str) -> Mismatches:
        listed = schema.get("required")
        for key in listed if isinstance(listed, list) else []:
            if isinstance(key, str) and key not in value:
                yield f"{_display(child(path, key))} is missing"
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        for key, inner in value.items():
            if key not in known and others is False:
                yield f"{_display(child(path, key))} is not declared"
            else:
                yield from self.mismatches(inner, known.get(key, others), child(path, key))

    def _list(self, value: list[Any], schema: Json, path: str) -> Mismatches:
        items, first = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):  # a tuple, as older drafts write it
            items, first = schema.get("additionalItems"), items
        leading = first if isinstance(first, list) else []
        for index, inner in enumerate(value):
            own = leading[index] if index < len(leading) else items
            yield from self.mismatches(inner, own, f"{path}[{index}]")

    def _combined(self, value: Any, schema: Json, path: str) -> Mismatches:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield from self.mismatches(value, self._resolve(reference), path)
        for inner in _listed(schema, "allOf"):
            yield from self.mismatches(value, inner, path)
        for key in ("anyOf", "oneOf"):
            choices = _listed(schema, key)
            if choices and all(self._fails(value, inner, path) for inner in choices):
                yield f"{_display(path)} fits none of its {len(choices)} forms"

    def _fails(self, value: Any, schema: Any, path: str) -> bool:
        return any(True for _ in self.mismatches(value, schema, path))

    def _resolve(self, reference: str) -> Any:
        """Return the target of ``#/$defs/name``; True (anything fits) if it cannot be resolved."""
        if not reference.startswith("#"):
            return True
        target = self._root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or name not in target:
                return True
            target = target[name]
        return target


def _value(value: Any, schema: Json, path: str) -> Mismatches:
    """Yield mismatches of type, enum and bounds."""
    named = schema.get("type")
    listed = named if isinstance(named, list) else [named]
    types = [name for name in listed if isinstance(name, str) and name in _TYPES]
    if types and not any(_TYPES[name](value) for name in types):
        yield f"{_display(path)} must be of the type {' or '.join(types)}, not {json_type(value)}"
        return
    allowed = [schema["const"]] if "const" in schema else _listed(schema, "enum")
    if allowed and not any(_same(value, one) for one in allowed):
        more = ", ..." if len(allowed) > _SHOWN else ""
        shown = ", ".join(quoted(one) for one in allowed[:_SHOWN])
        yield f"{_display(path)} must be one of {shown}{more}"
    yield from _bounds(value, schema, path)


def _bounds(value: Any, schema: Json, path: str) -> Mismatches:
    for keyword in [key for key in schema if key in _BOUNDS]:
        bound, (fits, words) = schema[keyword], _BOUNDS[keyword]
        size, unit = _size(value, keyword)
        if size is None or isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        if not fits(size, bound):
            yield f"{_display(path)} must be {words} {quoted(bound)}{unit}"


def _size(value: Any, keyword: str) -> tuple[float | None, str]:
    """Return what a bound limits: the number, the length of a text or list, and the unit."""
    if keyword.endswith("Length"):
        return (len(value), " characters") if isinstance(value, str) else (None, "")
    if keyword.endswith("Items"):
        return (len(value), " items") if isinstance(value, list) else (None, "")
    return (value, "") if _TYPES["number"](value) else (None, "")


def _listed(schema: Json, key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _same(one: Any, other: Any) -> bool:
    """Return True if two values are equal in JSON, where true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _display(path: str) -> str:
    return path or "the value"
