"""Which names in ``required`` no schema declares, in the parameters of a tool.

What applies to one value stands in many places: in the schema itself, in the branches of its
``allOf``, ``anyOf``, ``oneOf``, ``if``, ``then``, ``else`` and ``dependentSchemas``, and behind
``$ref``. A name is declared if any of them has it among its properties.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import unquote

Json = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]
Place: TypeAlias = tuple[Path, Any]  # of a schema, and the schema

_MOST = 20_000  # schemas looked at, each as often as it is referred to
_BRANCHES = ("allOf", "anyOf", "oneOf")
_CASES = ("if", "then", "else")
_BY_NAME = ("dependentSchemas", "dependencies")
# What other values must be, so it declares nothing of this one. What stands in ``not`` is left
# alone: it may well name what must not be there.
_INNER = ("items", "contains", "additionalItems", "additionalProperties", "unevaluatedProperties")
_INNER_MAPS = ("properties", "patternProperties")
_INNER_LISTS = ("prefixItems", "items")


@dataclass
class _Value:
    """All schemas that apply to one value."""

    declared: set[str] | None = None  # None: nothing says which names there are
    patterns: list[str] = field(default_factory=list)
    required: list[tuple[Path, list[Any]]] = field(default_factory=list)
    # By the place of another value: what applies to it.
    inner: dict[tuple[str, str | int], list[Place]] = field(default_factory=dict)
    open: bool = False  # it has further names, which no schema lists

    def undeclared(self) -> Iterator[tuple[Path, str]]:
        """Yield the first name in each list of required ones that is not declared."""
        if self.open or self.declared is None:
            return
        for path, names in self.required:
            for name in names:
                if isinstance(name, str) and not self._has(name):
                    yield path, name
                    break

    def _has(self, name: str) -> bool:
        return name in (self.declared or ()) or any(_matches(one, name) for one in self.patterns)


def undeclared(root: Json) -> Iterator[tuple[Path, str]]:
    """Yield the path of each ``required`` that names what is not declared, with the first name."""
    anchors, said = _anchors(root), set[Path]()
    values: list[list[Place]] = [[((), root)]]
    seen, left = set[tuple[int, ...]](), _MOST
    while values and left > 0:
        places = values.pop()
        which = tuple(id(schema) for _, schema in places)
        if which in seen:
            continue
        seen.add(which)
        value, count = _read(root, anchors, places)
        left -= count
        for where, name in value.undeclared():
            if where not in said:
                said.add(where)
                yield where, name
        values += reversed(value.inner.values())


def _read(root: Json, anchors: dict[str, Path], places: list[Place]) -> tuple[_Value, int]:
    """Return what applies to a value, of which these schemas are known, and how many there are."""
    value, seen = _Value(), set[int]()
    stack = places[::-1]
    while stack and len(seen) < _MOST:
        here, one = stack.pop()
        if not isinstance(one, dict) or id(one) in seen:
            continue
        seen.add(id(one))
        value.open |= _add(value, here, one)
        for key in ("$ref", "$dynamicRef"):
            if isinstance(reference := one.get(key), str):
                target = _target(root, anchors, reference)
                value.open |= target is None
                stack += [target] if target else []
        stack += reversed([*_beside(one, here)])
    return value, len(seen)


def _add(value: _Value, path: Path, schema: Json) -> bool:
    """Add what a schema says itself; return True if it lets in names that it does not list."""
    properties, patterns = schema.get("properties"), schema.get("patternProperties")
    if isinstance(properties, dict):
        value.declared = (value.declared or set()) | properties.keys()
    if isinstance(patterns, dict):
        value.patterns += patterns
    if isinstance(names := schema.get("required"), list):
        value.required.append(((*path, "required"), names))
    _add_inner(value, path, schema)
    names_any = (schema.get(key) for key in ("additionalProperties", "unevaluatedProperties"))
    return any(isinstance(one, dict) and one for one in names_any)


def _add_inner(value: _Value, path: Path, schema: Json) -> None:
    """Add what a schema says of the values inside."""
    for key in _INNER:
        if isinstance(schema.get(key), dict):
            value.inner.setdefault((key, ""), []).append(((*path, key), schema[key]))
    for key in _INNER_MAPS:
        if isinstance(schema.get(key), dict):
            for name, one in schema[key].items():
                value.inner.setdefault((key, name), []).append(((*path, key, name), one))
    for key in _INNER_LISTS:
        if isinstance(schema.get(key), list):
            for at, one in enumerate(schema[key]):
                value.inner.setdefault((key, at), []).append(((*path, key, at), one))


def _beside(schema: Json, path: Path) -> Iterator[Place]:
    """Yield the schemas inside one that apply to the same value."""
    for key in _BRANCHES:
        if isinstance(schema.get(key), list):
            yield from (((*path, key, at), one) for at, one in enumerate(schema[key]))
    for key in _CASES:
        yield (*path, key), schema.get(key)
    for key in _BY_NAME:
        if isinstance(schema.get(key), dict):
            yield from (((*path, key, name), one) for name, one in schema[key].items())


def _anchors(root: Json) -> dict[str, Path]:
    """Return the places that have a name of their own, as references write it."""
    found: dict[str, Path] = {}
    stack: list[Place] = [((), root)]
    for _ in range(_MOST):
        if not stack:
            break
        path, one = stack.pop()
        if isinstance(one, dict):
            for key, mark in (("$anchor", "#"), ("$dynamicAnchor", "#"), ("$id", "")):
                if isinstance(one.get(key), str):
                    found.setdefault(mark + one[key], path)
            stack += [((*path, key), inner) for key, inner in one.items()]
        elif isinstance(one, list):
            stack += [((*path, at), inner) for at, inner in enumerate(one)]
    return found


def _target(root: Json, anchors: dict[str, Path], reference: str) -> Place | None:
    """Return the place and schema that a reference leads to; None if it leads out of the root."""
    if reference in anchors:
        path = anchors[reference]
    elif reference == "#" or reference.startswith("#/"):
        steps = unquote(reference).split("/")[1:]
        path = tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)
    else:
        return None
    found: list[str | int] = []
    value: Any = root
    for step in path:
        inside: str | int = int(step) if isinstance(value, list) and _is_index(step) else step
        try:
            value = value[inside]
        except (KeyError, IndexError, TypeError):
            return None
        found.append(inside)
    return tuple(found), value


def _is_index(step: str | int) -> bool:
    return isinstance(step, int) or step.isdecimal()


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True  # a pattern of JavaScript: it may
