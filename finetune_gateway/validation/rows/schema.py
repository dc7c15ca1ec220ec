"""Errors in the JSON Schema of a tool's parameters, by the metaschema of draft 2020-12.

Forms of draft-07 (``items`` as a list, ``dependencies``) are accepted. Nothing is fetched, and a
schema of any size takes less than 0.1 s: at most 10,000 inner schemas are checked.
"""

from __future__ import annotations

import marshal
import re
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from finetune_gateway.findings import child
from finetune_gateway.text.quoting import MAX_PATH, MAX_QUOTE, json_type, quoted

Json = dict[str, Any]

TYPES = ("object", "string", "number", "integer", "boolean", "array", "null")
_INDEX = re.compile(r"[0-9]{1,6}")
_MAX_SCHEMAS = 10_000  # inner schemas checked
_CACHED = 1024  # schemas: the rows of a file usually offer the same tools
_MAX_ERRORS = 20  # of one schema

_ONE = frozenset({
    "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties", "contentSchema",
})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_TOP = ("anyOf", "oneOf", "allOf", "not", "enum")  # OpenAI refuses these at the top level


# A path as a linked list: the parent, the last step, and if it is a name from the data. Only paths
# of errors are written out: those of thousands of good schemas would take a second.
LinkedPath: TypeAlias = "tuple[LinkedPath | None, str, bool]"


class SchemaError(NamedTuple):
    """An error in a schema; ``path`` is relative to it."""

    code: str
    path: str
    detail: str = ""


def schema_errors(schema: Json) -> tuple[SchemaError, ...]:
    """Return the errors in the parameters of a function, in order, at most 20."""
    try:
        # marshal also writes half surrogate pairs and numbers of any size.
        key = blake2b(marshal.dumps(schema, 2), digest_size=16).digest()
    except ValueError:  # too deep for marshal
        return _check(schema)
    if key not in _cache:
        if len(_cache) >= _CACHED:
            _cache.clear()
        _cache[key] = _check(schema)
    return _cache[key]


_cache: dict[bytes, tuple[SchemaError, ...]] = {}


def _check(schema: Json) -> tuple[SchemaError, ...]:
    return tuple(islice(_SchemaChecker(schema).errors(), _MAX_ERRORS))


class _SchemaChecker:
    """Walks over a schema without recursion."""

    def __init__(self, root: Json) -> None:
        self.root = root
        self.stack: list[tuple[Any, LinkedPath | None]] = [(root, None)]
        self.inner: list[tuple[Any, LinkedPath | None]] = []  # schemas of the current one
        self.anchors: set[str] = set()
        self.references: list[tuple[str, LinkedPath]] = []
        self.remaining = _MAX_SCHEMAS

    def errors(self) -> Iterator[SchemaError]:
        """Yield all errors in the order of the schema; references last."""
        for key in _TOP:
            if key in self.root:
                yield SchemaError(
                    "tool_schema_top", f".{key}", f"{key!r} at the top of the parameters"
                )
        while self.stack:
            schema, path = self.stack.pop()
            if isinstance(schema, dict):
                yield from self._object(schema, path)
            elif not isinstance(schema, bool):  # true and false are schemas too
                detail = f"a schema must be an object, not {json_type(schema)}"
                yield SchemaError("tool_schema", _write_path(path), detail)
        if self.remaining > 0:  # else an anchor may have been missed
            yield from self._broken_references()

    def _object(self, schema: Json, path: LinkedPath | None) -> Iterator[SchemaError]:
        for key in [key for key in schema if key in _KEYWORDS]:
            if detail := self._keyword(key, schema[key], path):
                yield SchemaError("tool_schema", _write_path((path, f".{key}", False)), detail)
        self.stack += reversed(self.inner)
        self.inner.clear()
        yield from _incomplete(schema, path)

    def _keyword(self, key: str, value: Any, path: LinkedPath | None) -> str:
        """Return the error in the value of a keyword, or ""; its schemas are added to the stack."""
        here = (path, f".{key}", False)
        if isinstance(value, str) and key in ("$anchor", "$dynamicAnchor", "$id"):
            self.anchors.add(value.removeprefix("#"))
        elif isinstance(value, str) and key == "$ref":
            self.references.append((value, here))
        leaf = _LEAVES.get(key)
        if leaf:
            return leaf(key, value)
        if key == "dependencies":
            return self._dependencies(value, here)
        if key in _MAPS:
            return self._map(key, value, here)
        if key in _LISTS or (key == "items" and isinstance(value, list)):
            return self._list(key, value, here)
        self._add_inner([(value, here)])
        return ""

    def _add_inner(self, inner: list[tuple[Any, LinkedPath | None]]) -> None:
        self.inner += inner
        self.remaining -= len(inner)

    def _map(self, key: str, value: Any, path: LinkedPath) -> str:
        if not isinstance(value, dict):
            return f"{key!r} must be an object, not {json_type(value)}"
        first = islice(value.items(), max(self.remaining, 0))
        self._add_inner([(inner, (path, name, True)) for name, inner in first])
        broken = key == "patternProperties" and next(filter(_unbalanced, value), None)
        return f"{quoted(broken)} is not a regular expression" if broken else ""

    def _list(self, key: str, value: Any, path: LinkedPath) -> str:
        if not isinstance(value, list):
            return f"this must be a list of schemas, not {json_type(value)}"
        first = islice(value, max(self.remaining, 0))
        self._add_inner([(inner, (path, f"[{at}]", False)) for at, inner in enumerate(first)])
        return "" if value or key == "items" else "an empty list of schemas"

    def _dependencies(self, value: Any, path: LinkedPath) -> str:
        if not isinstance(value, dict):
            return f"'dependencies' must be an object, not {json_type(value)}"
        schemas = {key: one for key, one in value.items() if not isinstance(one, list)}
        self._map("dependencies", schemas, path)
        return _dependent("", {key: one for key, one in value.items() if isinstance(one, list)})

    def _broken_references(self) -> Iterator[SchemaError]:
        """Yield references to missing parts of the schema. A schema with an $id is skipped: its
        references are relative to that."""
        if isinstance(self.root.get("$id"), str):
            return
        for reference, path in self.references:
            if reference.startswith("#") and not self._has(unquote(reference[1:])):
                detail = f"the reference {quoted(reference)} has no target"
                yield SchemaError("tool_schema", _write_path(path), detail)

    def _has(self, pointer: str) -> bool:
        if not pointer.startswith("/"):
            return pointer == "" or pointer in self.anchors
        target: Any = self.root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and _INDEX.fullmatch(name) and int(name) < len(target):
                target = target[int(name)]
            elif isinstance(target, dict) and name in target:
                target = target[name]
            else:
                return False
        return True


def _write_path(linked: LinkedPath | None) -> str:
    """Return a path as findings show it, and no longer."""
    steps = []
    while linked is not None:
        linked, step, is_name = linked
        steps.append((step, is_name))
    path = ""
    for step, is_name in reversed(steps):
        path = child(path, step) if is_name else path + step
        if len(path) > MAX_PATH:
            break
    return path


def _incomplete(schema: Json, path: LinkedPath | None) -> Iterator[SchemaError]:
    """Yield what the metaschema allows, but OpenAI or a model cannot use."""
    types = schema.get("type")
    array = types == "array" or (isinstance(types, list) and "array" in types)
    if array and not {"items", "prefixItems", "$ref"} & schema.keys():
        yield SchemaError("tool_schema_items", _write_path(path))
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return
    names = (name for name in required if isinstance(name, str))
    undeclared = next((name for name in names if name not in properties), None)
    if undeclared is not None:
        detail = f"'required' names {quoted(undeclared)}, which is not declared"
        yield SchemaError("tool_schema_required", _write_path((path, ".required", False)), detail)


# -- keywords without schemas inside -----------------------------------------------------------


def _must_be(expected: str, fits: Callable[[Any], bool]) -> Callable[[str, Any], str]:
    def leaf(key: str, value: Any) -> str:
        if fits(value):
            return ""
        return f"{key!r} must be {expected}, not {_shown(value)}"

    return leaf


def _shown(value: Any) -> str:
    if _is_number(value):
        return quoted(value).strip("'")
    return quoted(value) if isinstance(value, str) else json_type(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == value // 1


def _type(key: str, value: Any) -> str:
    listed = value if isinstance(value, list) else [value]
    for one in listed:
        if one not in TYPES:
            return f"{_shown(one)} is not a JSON Schema type ({', '.join(TYPES)})"
    if not listed:
        return "an empty list of types"
    return "" if len(set(listed)) == len(listed) else "the same type twice"


def _names(key: str, value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return f"{quoted(key)} is not a list of names"
    if len(set(value)) == len(value):
        return ""
    twice, _ = Counter(value).most_common(1)[0]
    return f"{quoted(key)} names {quoted(twice)} twice"


def _dependent(key: str, value: Any) -> str:
    if not isinstance(value, dict):
        return f"{key!r} must be an object, not {json_type(value)}"
    return next(filter(None, (_names(name, one) for name, one in _first(value))), "")


def _first(value: Json) -> Iterator[tuple[str, Any]]:
    """Yield the members, with names cut to the length that is shown."""
    return ((name[:MAX_QUOTE], one) for name, one in value.items())


def _pattern(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"{key!r} must be a string, not {json_type(value)}"
    return f"{quoted(value)} is not a regular expression" if _unbalanced(value) else ""


def _unbalanced(pattern: str) -> bool:
    """Return True if a bracket is not closed. JSON Schema uses JavaScript's regular expressions;
    Python's parser would refuse valid ones."""
    if "[]" in pattern or "[^]" in pattern:
        return False  # a set in JavaScript; elsewhere the set begins with ]
    depth, inside, escaped = 0, False, False
    for char in pattern:
        if escaped or char == "\\":
            escaped = not escaped
        elif inside or char == "[":
            inside = char != "]"
        elif char in "()":
            depth += 1 if char == "(" else -1
        if depth < 0:
            return True
    return bool(depth) or inside or escaped


_text = _must_be("a string", lambda value: isinstance(value, str))
_flag = _must_be("true or false", lambda value: isinstance(value, bool))
_number = _must_be("a number", _is_number)
_count = _must_be("a whole number of at least 0", _is_count)

_LEAVES: dict[str, Callable[[str, Any], str]] = {
    "type": _type,
    "required": _names,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "multipleOf": _must_be("a number above 0", lambda value: _is_number(value) and value > 0),
    "enum": lambda key, value: "" if isinstance(value, list) else "'enum' is not a list",
    "examples": _must_be("a list", lambda value: isinstance(value, list)),
    **dict.fromkeys(
        (
            "title", "description", "format", "$ref", "$id", "$schema", "$comment", "$anchor",
            "$dynamicRef", "$dynamicAnchor", "contentEncoding", "contentMediaType",
        ),
        _text,
    ),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), _flag),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(
        (
            "minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains",
            "minProperties", "maxProperties",
        ),
        _count,
    ),
}  # fmt: skip
_KEYWORDS = frozenset({*_LEAVES, *_ONE, *_LISTS, *_MAPS, "items", "dependencies"})
