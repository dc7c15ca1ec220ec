"""Whether the parameters of a tool are a JSON Schema: the metaschema of draft 2020-12 as tables.

What draft-07 writes otherwise (``items`` as a list, ``dependencies``) is no fault. Nothing is
fetched, and a schema of any size takes less than 0.1 s: beyond 10,000 inner schemas none is looked
at.
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
_MOST = 10_000  # inner schemas looked at
_KEPT = 1024  # schemas remembered: the rows of a file usually offer the same tools
_TOLD = 20  # faults of one schema; nobody reads more

_ONE = frozenset({
    "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties", "contentSchema",
})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_TOP = ("anyOf", "oneOf", "allOf", "not", "enum")  # what OpenAI refuses beside type: object


# The place above, the step down from there, and whether it is a name of the data. Written out for
# a fault only: the paths of thousands of good places would take a second.
Place: TypeAlias = "tuple[Place | None, str, bool]"


class Fault(NamedTuple):
    """One thing wrong with a schema; ``path`` begins below it."""

    code: str
    path: str
    detail: str = ""


def faults(schema: Json) -> tuple[Fault, ...]:
    """What is wrong with the parameters of a function, first things first."""
    try:
        # Not JSON: half a surrogate pair and numbers of any size are written by it too.
        key = blake2b(marshal.dumps(schema, 2), digest_size=16).digest()
    except ValueError:  # deeper than marshal goes
        return _looked(schema)
    if key not in _known:
        if len(_known) >= _KEPT:
            _known.clear()
        _known[key] = _looked(schema)
    return _known[key]


_known: dict[bytes, tuple[Fault, ...]] = {}


def _looked(schema: Json) -> tuple[Fault, ...]:
    return tuple(islice(_Look(schema).faults(), _TOLD))


class _Look:
    """One walk over a schema, without recursion."""

    def __init__(self, root: Json) -> None:
        self.root = root
        self.left: list[tuple[Any, Place | None]] = [(root, None)]
        self.inner: list[tuple[Any, Place | None]] = []  # of the schema at hand
        self.anchors: set[str] = set()
        self.references: list[tuple[str, Place]] = []
        self.room = _MOST

    def faults(self) -> Iterator[Fault]:
        """Every fault, in the order of the schema; references last."""
        for key in _TOP:
            if key in self.root:
                yield Fault("tool_schema_top", f".{key}", f"{key!r} at the top of the parameters")
        while self.left:
            schema, path = self.left.pop()
            if isinstance(schema, dict):
                yield from self._object(schema, path)
            elif not isinstance(schema, bool):  # true and false are schemas: anything, nothing
                detail = f"a schema that is not an object, but {json_type(schema)}"
                yield Fault("tool_schema", _told(path), detail)
        if self.room > 0:  # else anchors may not have been seen
            yield from self._lost()

    def _object(self, schema: Json, path: Place | None) -> Iterator[Fault]:
        for key in [key for key in schema if key in _KEYWORDS]:
            if detail := self._keyword(key, schema[key], path):
                yield Fault("tool_schema", _told((path, f".{key}", False)), detail)
        self.left += reversed(self.inner)
        self.inner.clear()
        yield from _declared(schema, path)

    def _keyword(self, key: str, value: Any, path: Place | None) -> str:
        """What is wrong with the value of one keyword; its schemas are noted for later."""
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
        self._later([(value, here)])
        return ""

    def _later(self, inner: list[tuple[Any, Place | None]]) -> None:
        self.inner += inner
        self.room -= len(inner)

    def _map(self, key: str, value: Any, path: Place) -> str:
        if not isinstance(value, dict):
            return f"{key!r} is not an object, but {json_type(value)}"
        first = islice(value.items(), max(self.room, 0))
        self._later([(inner, (path, name, True)) for name, inner in first])
        broken = key == "patternProperties" and next(filter(_unbalanced, value), None)
        return f"{quoted(broken)} is no regular expression" if broken else ""

    def _list(self, key: str, value: Any, path: Place) -> str:
        if not isinstance(value, list):
            return f"a list of schemas is needed here, not {json_type(value)}"
        first = islice(value, max(self.room, 0))
        self._later([(inner, (path, f"[{at}]", False)) for at, inner in enumerate(first)])
        return "" if value or key == "items" else "an empty list of schemas"

    def _dependencies(self, value: Any, path: Place) -> str:
        if not isinstance(value, dict):
            return f"'dependencies' is not an object, but {json_type(value)}"
        schemas = {key: one for key, one in value.items() if not isinstance(one, list)}
        self._map("dependencies", schemas, path)
        return _dependent("", {key: one for key, one in value.items() if isinstance(one, list)})

    def _lost(self) -> Iterator[Fault]:
        """References to places that the schema does not have. One with an address of its own
        is left alone: what its references mean depends on it."""
        if isinstance(self.root.get("$id"), str):
            return
        for reference, path in self.references:
            if reference.startswith("#") and not self._has(unquote(reference[1:])):
                detail = f"the reference {quoted(reference)} leads nowhere"
                yield Fault("tool_schema", _told(path), detail)

    def _has(self, pointer: str) -> bool:
        if not pointer.startswith("/"):
            return pointer == "" or pointer in self.anchors
        found: Any = self.root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and _INDEX.fullmatch(name) and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return False
        return True


def _told(place: Place | None) -> str:
    """A place as it is written in findings, no longer than they show it."""
    steps = []
    while place is not None:
        place, step, named = place
        steps.append((step, named))
    path = ""
    for step, named in reversed(steps):
        path = child(path, step) if named else path + step
        if len(path) > MAX_PATH:
            break
    return path


def _declared(schema: Json, path: Place | None) -> Iterator[Fault]:
    """What the metaschema allows, and the model or OpenAI makes nothing of."""
    named = schema.get("type")
    array = named == "array" or (isinstance(named, list) and "array" in named)
    if array and not {"items", "prefixItems", "$ref"} & schema.keys():
        yield Fault("tool_schema_items", _told(path))
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return
    lost = next((one for one in required if isinstance(one, str) and one not in properties), None)
    if lost is not None:
        detail = f"'required' names {quoted(lost)}, which is not declared"
        yield Fault("tool_schema_required", _told((path, ".required", False)), detail)


# -- keywords without schemas inside -----------------------------------------------------------


def _is(wanted: str, fits: Callable[[Any], bool]) -> Callable[[str, Any], str]:
    def leaf(key: str, value: Any) -> str:
        if fits(value):
            return ""
        return f"{key!r} must be {wanted}, not {_shown(value)}"

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
            return f"{_shown(one)} is no JSON Schema type ({', '.join(TYPES)})"
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
        return f"{key!r} is not an object, but {json_type(value)}"
    return next(filter(None, (_names(name, one) for name, one in _first(value))), "")


def _first(value: Json) -> Iterator[tuple[str, Any]]:
    """Its members, the names cut to what is ever shown."""
    return ((name[:MAX_QUOTE], one) for name, one in value.items())


def _pattern(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"{key!r} must be a string, not {json_type(value)}"
    return f"{quoted(value)} is no regular expression" if _unbalanced(value) else ""


def _unbalanced(pattern: str) -> bool:
    """Whether brackets are left open. Dialects differ in all else: JSON Schema names that of
    JavaScript, and Python's would refuse good patterns."""
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


_text = _is("a string", lambda value: isinstance(value, str))
_flag = _is("true or false", lambda value: isinstance(value, bool))
_number = _is("a number", _is_number)
_count = _is("a whole number of at least 0", _is_count)

_LEAVES: dict[str, Callable[[str, Any], str]] = {
    "type": _type,
    "required": _names,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "multipleOf": _is("a number above 0", lambda value: _is_number(value) and value > 0),
    "enum": lambda key, value: "" if isinstance(value, list) else "'enum' is not a list",
    "examples": _is("a list", lambda value: isinstance(value, list)),
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
