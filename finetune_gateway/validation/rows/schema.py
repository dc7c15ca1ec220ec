"""The parameters of tools: are they a JSON Schema, and what matches arguments with them.

Draft 2020-12, by jsonschema-rs, with the forms of draft-07 (``items`` as a list, ``dependencies``,
``definitions``) and OpenAPI's ``nullable``. Nothing is fetched. At most 10,000 inner schemas of one
tool are looked at, and its errors are in our words.
"""

from __future__ import annotations

import marshal
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from finetune_gateway.data.json_schema import (
    Matcher,
    Validator,
    compiled,
    schema_matcher,
    without_target,
)
from finetune_gateway.errors import SpecError
from finetune_gateway.findings import child
from finetune_gateway.text.quoting import MAX_PATH, hidden, json_type, quoted, shortened
from finetune_gateway.text.regex import LazyPattern
from finetune_gateway.validation.rows.required import undeclared

Json = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]

TYPES = ("object", "string", "number", "integer", "boolean", "array", "null")
_MAX_SCHEMAS = 10_000  # inner schemas looked at
_MAX_ERRORS = 20  # of one schema
_MOST_KEPT = 5_000  # inner schemas kept compiled: 4 MB
_PATTERN = 50_000  # characters of a pattern, repeated ones as often: 5 ms to compile
_PATTERNS = 1_000_000  # of all patterns of a schema
_WHY = 120  # characters of the library's reason
_NO_PATTERN = "is not a regular expression"
_TUPLE = LazyPattern(r"/items/([0-9]+)(?=/|$)")
_REPEATS = LazyPattern(r"\{(?:[0-9]+,)?([1-9][0-9]*)\}")

_ONE = frozenset({
    "additionalProperties", "additionalItems", "propertyNames", "contains", "not", "if", "then",
    "else", "unevaluatedItems", "unevaluatedProperties", "contentSchema", "items",
})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_MAPS = frozenset({
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
})  # fmt: skip
_TOP = ("anyOf", "oneOf", "allOf", "not", "enum")  # OpenAI refuses these at the top level
_REFERENCES = ("$ref", "$dynamicRef")
_COMBINED = (*_REFERENCES, "allOf", "anyOf", "oneOf", "not", "if", "then", "else")


class SchemaError(NamedTuple):
    """An error in a schema; ``path`` is relative to it."""

    code: str
    path: Path
    detail: str = ""


class ToolSchema(NamedTuple):
    """What is wrong with the parameters of a tool, at most 20 errors, and how arguments are
    matched with them; None if they cannot be."""

    errors: tuple[SchemaError, ...]
    match: Matcher | None
    size: int = 1  # inner schemas


def schema_errors(schema: Json) -> tuple[SchemaError, ...]:
    """Return the errors in the parameters of a function, in order, at most 20."""
    return _kept.read(schema).errors


def matcher(schema: Json) -> Matcher | None:
    """Return what matches arguments with the parameters of a function; None if nothing can."""
    return _kept.read(schema).match


def place(parent: str, path: Path) -> str:
    """Return a path inside a value as findings show it, and no longer."""
    for step in path:
        if isinstance(step, int):
            parent += f"[{step}]"
        else:
            parent = f"{parent}.{step}" if parent and step in _FORMS else child(parent, step)
        if len(parent) > MAX_PATH:
            break
    return parent


# -- read once: the rows of a file usually offer the same tools ----------------------------------


class _Kept:
    """The schemas read last, by their content."""

    def __init__(self) -> None:
        self.schemas: OrderedDict[bytes, ToolSchema] = OrderedDict()
        self.size = 0  # inner schemas

    def read(self, schema: Json) -> ToolSchema:
        """Return the schema, read now or before."""
        try:
            # marshal also writes half surrogate pairs and numbers of any size.
            key = blake2b(marshal.dumps(schema, 2), digest_size=16).digest()
        except ValueError:  # too deep for marshal
            return ToolSchema((SchemaError("tool_schema", (), "it is nested too deep"),), None)
        if key in self.schemas:
            self.schemas.move_to_end(key)
            return self.schemas[key]
        made = self.schemas[key] = _Reader(schema).read()
        self.size += made.size
        while self.size > _MOST_KEPT and len(self.schemas) > 1:
            self.size -= self.schemas.popitem(last=False)[1].size
        return made


_kept = _Kept()


class _Reader:
    """Reads the schema of one tool."""

    def __init__(self, root: Json) -> None:
        self.root = root
        self.references: list[tuple[Path, str]] = []
        self.patterns: dict[str, str] = {}  # "", or why a pattern cannot be used
        self.pattern_sizes = 0
        self.unread: list[SchemaError] = []
        self.older = False  # has forms that draft 2020-12 has not

    def read(self) -> ToolSchema:
        """Return its errors, and what matches arguments with it."""
        found = list(_walk(self.root))
        errors = list(self._errors(found))
        match = None
        if len(found) > _MAX_SCHEMAS:
            self._leave((), f"more than {_MAX_SCHEMAS:,} schemas in it")
        elif all(one.code != "tool_schema" for one in errors):
            match, broken = self._compile()
            errors += broken
        return ToolSchema((*errors, *self.unread)[:_MAX_ERRORS], match, len(found))

    def _errors(self, found: list[tuple[Path, Any]]) -> Iterator[SchemaError]:
        for key in _TOP:
            if key in self.root:
                detail = f"{key!r} at the top of the parameters"
                yield SchemaError("tool_schema_top", (key,), detail)
        for path, schema in found:
            if isinstance(schema, dict):
                yield from self._object(schema, path)
            elif not isinstance(schema, bool):  # true and false are schemas too
                detail = f"a schema must be an object, not {json_type(schema)}"
                yield SchemaError("tool_schema", path, detail)
        if any(isinstance(one, dict) and "required" in one for _, one in found):
            for path, name in undeclared(self.root):
                detail = f"'required' names {quoted(name)}, which is not declared"
                yield SchemaError("tool_schema_required", path, detail)

    def _object(self, schema: Json, path: Path) -> Iterator[SchemaError]:
        if not _fits_all_forms(schema):
            for key in [key for key in schema if key in _FORMS]:
                if detail := _form_error(key, schema[key]):
                    yield SchemaError("tool_schema", (*path, key), detail)
        yield from self._patterns(schema, path)
        for key in _REFERENCES:
            if isinstance(schema.get(key), str):
                self.references.append(((*path, key), schema[key]))
        self.older = self.older or _is_older(schema)
        yield from _incomplete(schema, path)

    def _patterns(self, schema: Json, path: Path) -> Iterator[SchemaError]:
        named = schema.get("patternProperties")
        places = [(("patternProperties",), one) for one in named] if isinstance(named, dict) else []
        if isinstance(schema.get("pattern"), str):
            places.append((("pattern",), schema["pattern"]))
        for step, pattern in places:
            if pattern not in self.patterns:
                self.patterns[pattern] = self._pattern(pattern)
            if why := self.patterns[pattern]:
                detail = f"{quoted(pattern)} {why}"
                if why == _NO_PATTERN:
                    yield SchemaError("tool_schema", (*path, *step), detail)
                else:
                    self._leave((*path, *step), detail)

    def _pattern(self, pattern: str) -> str:
        """Return why a pattern cannot be used, or ""."""
        size = len(pattern) * math.prod(min(int(n), 10**6) for n in _REPEATS.findall(pattern))
        self.pattern_sizes += size
        if size > _PATTERN or self.pattern_sizes > _PATTERNS:
            return _NO_PATTERN if _unbalanced(pattern) else "is too large to be used here"
        try:
            compiled({"pattern": pattern}, look_around=True)
        except SpecError:
            return _NO_PATTERN if _unbalanced(pattern) else "cannot be used here"
        return ""

    def _leave(self, path: Path, why: str) -> None:
        self.unread.append(SchemaError("tool_schema_unread", path, why))

    def _compile(self) -> tuple[Matcher | None, list[SchemaError]]:
        """Return what matches arguments; None, and why, if the library cannot read the schema."""
        broken = {pattern for pattern, why in self.patterns.items() if why}
        try:
            older = self.older or broken
            schema = _as_2020_12(self.root, broken) if older else self.root
            return schema_matcher(schema, look_around=True), []
        except RecursionError:
            return None, [SchemaError("tool_schema", (), "it is nested too deep")]
        except SpecError as exc:
            why = shortened(hidden(exc.message), _WHY)
        lost = without_target(schema, {reference for _, reference in self.references})
        inside = []
        for path, reference in self.references:
            if reference in lost and reference.startswith("#"):
                detail = f"the reference {quoted(reference)} has no target"
                inside.append(SchemaError("tool_schema", path, detail))
            elif reference in lost:
                self._leave(path, f"{quoted(reference)} is outside the schema, and is not fetched")
        if not lost:
            self._leave((), why)
        return None, inside


def _walk(root: Json) -> Iterator[tuple[Path, Any]]:
    """Yield the inner schemas with their paths, in order, without recursion: at most one more than
    are looked at."""
    stack: list[tuple[Path, Any]] = [((), root)]
    rest = _MAX_SCHEMAS
    while stack:
        path, schema = stack.pop()
        yield path, schema
        if isinstance(schema, dict):
            inner = [*islice(_inner(schema, path), rest)]
            rest -= len(inner)
            stack += reversed(inner)


def _inner(schema: Json, path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in schema.items():
        if key in _LISTS and isinstance(value, list):
            yield from (((*path, key, at), one) for at, one in enumerate(value))
        elif key in _ONE:
            yield (*path, key), value
        elif key in _MAPS and isinstance(value, dict):
            for name, one in value.items():
                if key != "dependencies" or not isinstance(one, list):
                    yield (*path, key, name), one


def _incomplete(schema: Json, path: Path) -> Iterator[SchemaError]:
    """Yield what the metaschema allows, but OpenAI or a model cannot use."""
    types = schema.get("type")
    array = types == "array" or (isinstance(types, list) and "array" in types)
    if array and not {"items", "prefixItems", "$ref"} & schema.keys():
        yield SchemaError("tool_schema_items", path)


# -- keywords ------------------------------------------------------------------------------------

_COUNT = ({"type": "integer", "minimum": 0}, "a whole number of at least 0")
_NUMBER = ({"type": "number"}, "a number")
_TEXT = ({"type": "string"}, "a string")
_FLAG = ({"type": "boolean"}, "true or false")
_LIST = ({"type": "array"}, "a list")
_OBJECT = ({"type": "object"}, "an object")
_SCHEMAS = ({"type": "array", "minItems": 1}, "a list of at least one schema")
_NAMES: Json = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_ONE_TYPE: Json = {"enum": [*TYPES]}
_ANY_TYPE: Json = {
    "if": {"type": "array"},
    "then": {"items": _ONE_TYPE, "minItems": 1, "uniqueItems": True},
    "else": _ONE_TYPE,
}
# What the value of a keyword must be, as a schema and in words.
_FORMS: dict[str, tuple[Json, str]] = {
    "type": (_ANY_TYPE, f"one of the types of JSON Schema ({', '.join(TYPES)})"),
    "required": (_NAMES, "a list of names"),
    "dependentRequired": (
        {"type": "object", "additionalProperties": _NAMES},
        "an object with lists of names",
    ),
    "dependencies": (
        {"type": "object", "additionalProperties": {"if": {"type": "array"}, "then": _NAMES}},
        "an object with lists of names, or schemas",
    ),
    "multipleOf": ({"type": "number", "exclusiveMinimum": 0}, "a number above 0"),
    "pattern": _TEXT,
    "enum": _LIST,
    "examples": _LIST,
    **dict.fromkeys(_MAPS - {"dependencies"}, _OBJECT),
    **dict.fromkeys(_LISTS - {"items"}, _SCHEMAS),
    **dict.fromkeys(
        (
            "title", "description", "format", "$ref", "$id", "$schema", "$comment", "$anchor",
            "$dynamicRef", "$dynamicAnchor", "contentEncoding", "contentMediaType",
        ),
        _TEXT,
    ),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), _FLAG),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(
        (
            "minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains",
            "minProperties", "maxProperties",
        ),
        _COUNT,
    ),
}  # fmt: skip


@cache
def _all_forms() -> Validator:
    return compiled({"properties": {key: form for key, (form, _) in _FORMS.items()}})


def _fits_all_forms(schema: Json) -> bool:
    """Return True if no keyword is wrong: one call for most schemas."""
    try:
        return _all_forms().is_valid(schema)
    except UnicodeEncodeError:  # half a surrogate pair: each keyword by itself
        return False


@cache
def _form(key: str) -> Matcher:
    return schema_matcher(_FORMS[key][0])


def _form_error(key: str, value: Any) -> str:
    """Return what is wrong with the value of a keyword, or ""."""
    error = _form(key)(value)
    if not error:
        return ""
    inner = value
    for step in error.path:
        inner = inner[step]
    if error.kind == "UniqueItems":
        odd = [one for one in inner if not isinstance(one, str)]
        if not odd:
            twice, _ = Counter(inner).most_common(1)[0]
            return f"{key!r} names {quoted(twice)} twice"
        inner = odd[0]
    return f"{key!r} must be {_FORMS[key][1]}, not {_display(inner)}"


def _display(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return quoted(value).strip("'")
    if isinstance(value, list) and not value:
        return "an empty list"
    return quoted(value) if isinstance(value, str) else json_type(value)


def _unbalanced(pattern: str) -> bool:
    """Return True if a bracket is not closed. JSON Schema uses JavaScript's regular expressions;
    the library refuses some of them."""
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


# -- older forms -----------------------------------------------------------------------------------


def _is_older(schema: Json) -> bool:
    anchor = schema.get("$id")
    return (
        schema.get("nullable") is True
        or isinstance(schema.get("items"), list)
        or (isinstance(anchor, str) and anchor.startswith("#"))
    )


def _as_2020_12(schema: Any, broken: set[str]) -> Any:
    """Return a schema with what drafts before 2020-12 and OpenAPI write otherwise, and without
    patterns that cannot be used."""
    if not isinstance(schema, dict):
        return schema
    made: Json = {key: _inner_as_2020_12(key, value, broken) for key, value in schema.items()}
    if isinstance(made.get("items"), list):  # a tuple
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in made:
            made["items"] = made.pop("additionalItems")
        if not made["prefixItems"]:
            del made["prefixItems"]
    if isinstance(made.get("$id"), str) and made["$id"].startswith("#"):
        made["$anchor"] = made.pop("$id")[1:]
    if isinstance(made.get("$ref"), str):
        made["$ref"] = _TUPLE.sub(r"/prefixItems/\1", made["$ref"])
    if made.get("pattern") in broken:
        del made["pattern"]
    if broken & set(patterns := made.get("patternProperties") or {}):
        made["patternProperties"] = {key: patterns[key] for key in patterns if key not in broken}
        made["additionalProperties"] = True
    return _with_null(made) if made.get("nullable") is True else made


def _inner_as_2020_12(key: str, value: Any, broken: set[str]) -> Any:
    if key in _LISTS and isinstance(value, list):
        return [_as_2020_12(one, broken) for one in value]
    if key in _MAPS and isinstance(value, dict):
        return {name: _as_2020_12(one, broken) for name, one in value.items()}
    return _as_2020_12(value, broken) if key in _ONE else value


def _with_null(schema: Json) -> Json:
    """Return a schema that null fits too, whatever else it asks for."""
    combined = {key: schema.pop(key) for key in _COMBINED if key in schema}
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = types if "null" in types else [*types, "null"]
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema | ({"if": {"not": {"type": "null"}}, "then": combined} if combined else {})
