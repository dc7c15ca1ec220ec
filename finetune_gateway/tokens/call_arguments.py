"""Arguments of calls as models write them: JSON, tags, Python, Gemma's notation.

Each reader begins at an index of a text and returns what it read and the index after it. It raises
ValueError where the text is something else, also if it ends too early.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Arguments = dict[str, Any]
# Of one tool: argument -> the JSON types that its schema allows. Empty if the schema does not say.
Types = Mapping[str, tuple[str, ...]]
ArgumentReader = Callable[[str, int, Types], tuple[Arguments, int]]

DEPTH = 64  # of objects and lists in each other
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
GEMMA_QUOTE = '<|"|>'
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def types_of(tools: list[dict[str, Any]] | None) -> dict[str, Types]:
    """Return the types of the arguments of each tool, by its name."""
    found: dict[str, Types] = {}
    for tool in tools or []:
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        by_key = properties if isinstance(properties, dict) else {}
        found[str(function.get("name"))] = {
            key: _schema_types(schema) for key, schema in by_key.items()
        }
    return found


def _schema_types(schema: Any, depth: int = 0) -> tuple[str, ...]:
    if not isinstance(schema, dict) or depth > DEPTH:
        return ()
    declared = schema.get("type")
    types = [declared] if isinstance(declared, str) else _list(declared)
    for choice in (*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))):
        types = [*types, *_schema_types(choice, depth + 1)]
    if schema.get("nullable"):
        types.append("null")
    values = _list(schema.get("enum"))
    if not types and values and all(isinstance(one, str) for one in values):
        types.append("string")
    return tuple(str(one) for one in types)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


# -- values --------------------------------------------------------------------------------

_OF_TYPE: dict[str, Callable[[Any], bool]] = {
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def read_value(raw: str, types: tuple[str, ...]) -> Any:
    """Return a value that was written without quotes. ``75001`` may be a number or a text: the
    first type of the schema that fits decides; without a schema, what is JSON is JSON."""
    value = _literal(raw)
    for name in types:
        if name == "string":
            return raw
        if name == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
        if name in _OF_TYPE and not isinstance(value, str) and _OF_TYPE[name](value):
            return value
    return raw if types else value


def _literal(raw: str) -> Any:
    """Return what JSON, or Python's ``True`` and ``{'a': 1}``, say in a text; the text if it is
    neither. These formats write a text without quotes, so one with quotes has them."""
    try:
        value = json.loads(raw, parse_constant=_refuse)
        return raw if isinstance(value, str) else value
    except (ValueError, RecursionError):
        stripped = raw.strip()
    if stripped in _PYTHON_WORDS:
        return _PYTHON_WORDS[stripped]
    if not stripped.startswith(("{", "[")):
        return raw
    try:
        return _json_like(ast.literal_eval(stripped))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return raw


def _json_like(value: Any) -> Any:
    """Return a value of Python that JSON has too. Raises ValueError."""
    if isinstance(value, list):
        return [_json_like(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _json_like(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("not JSON")


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


# -- readers -------------------------------------------------------------------------------


def read_json(text: str, at: int) -> tuple[Any, int]:
    """Read any JSON, line breaks inside of strings too."""
    at += len(text[at:]) - len(text[at:].lstrip())
    decoder = json.JSONDecoder(strict=False, parse_constant=_refuse)
    return decoder.raw_decode(text, at)


def as_arguments(value: Any) -> Arguments:
    """Return arguments; some templates encode them twice. Raises ValueError if they are none."""
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else {}
    if not isinstance(value, dict):
        raise ValueError("arguments are no object")
    return value


def json_object(text: str, at: int, types: Types) -> tuple[Arguments, int]:
    """Read arguments as a JSON object."""
    value, end = read_json(text, at)
    return as_arguments(value), end


def tags(pattern: str) -> ArgumentReader:
    """Return a reader of one tag per argument. ``pattern`` has the groups ``key`` and ``value``,
    and ``string`` where the tag says whether the value is a text."""
    tag = re.compile(pattern, re.DOTALL)

    def read(text: str, at: int, types: Types) -> tuple[Arguments, int]:
        found: Arguments = {}
        while match := tag.match(text, at):
            key, raw = match["key"].strip(), match["value"]
            said = match.groupdict().get("string")
            if raw.startswith("<![CDATA[") and raw.endswith("]]>"):
                found[key] = raw[9:-3]
            elif said:
                found[key] = raw if said == "true" else _literal(raw)
            else:
                found[key] = read_value(raw, types.get(key, ()))
            at = match.end()
        return found, at

    return read


def python_arguments(*, escapes: bool) -> ArgumentReader:
    """Return a reader of ``key='text', other=3``, up to the bracket that closes the call.
    ``escapes``: whether a backslash in a text escapes what follows it."""
    key = re.compile(r"\s*,?\s*(\w+)\s*=\s*")

    def read(text: str, at: int, types: Types) -> tuple[Arguments, int]:
        found: Arguments = {}
        while match := key.match(text, at):
            start = match.end()
            if text[start : start + 1] in ("'", '"'):
                found[match[1]], at = _quoted(text, start, escapes)
            else:
                raw, at = _unquoted(text, start)
                found[match[1]] = _literal(raw)
        return found, at

    return read


def _quoted(text: str, at: int, escapes: bool) -> tuple[str, int]:
    """Read a text in quotes. Where none are escaped, the last is the one that an argument or the
    end of the call follows."""
    quote = text[at]
    inside = r"(?:\\.|[^\\])*?" if escapes else ".*?"
    pattern = rf"{quote}({inside}){quote}(?=\s*(?:,\s*\w+\s*=|\)))"
    match = re.compile(pattern, re.DOTALL).match(text, at)
    if match is None:
        raise ValueError("a text has no end")
    if not escapes:
        return match[1], match.end()
    short = {"n": "\n", "r": "\r", "t": "\t"}
    said = re.sub(r"\\(.)", lambda one: short.get(one[1], one[1]), match[1], flags=re.DOTALL)
    return said, match.end()


def _unquoted(text: str, at: int) -> tuple[str, int]:
    """Read a value with its brackets, up to the comma or bracket after it."""
    depth, quote, start = 0, "", at
    while at < len(text):
        char = text[at]
        if quote:
            at += 1 if char == "\\" else 0
            quote = "" if char == quote else quote
        elif char in "'\"" and depth:
            quote = char
        elif char in "[{(":
            depth += 1
        elif depth == 0 and char in ",)":
            return text[start:at], at
        elif char in "]})":
            depth -= 1
        at += 1
    raise ValueError("a value has no end")


def gemma_object(text: str, at: int, types: Types) -> tuple[Arguments, int]:
    """Read Gemma's notation: keys without quotes, texts in tokens of their own."""
    value, end = _gemma(text, at, 0)
    return as_arguments(value), end


def _gemma(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > DEPTH:
        raise ValueError("too deep")
    if text.startswith(GEMMA_QUOTE, at):
        start = at + len(GEMMA_QUOTE)
        end = text.index(GEMMA_QUOTE, start)
        return text[start:end], end + len(GEMMA_QUOTE)
    if text[at : at + 1] in ("{", "["):
        return _gemma_items(text, at, depth)
    if match := re.compile(r"true|false|null|None").match(text, at):
        return _WORDS[match.group().lower()], match.end()
    if match := NUMBER.match(text, at):
        return json.loads(match.group()), match.end()
    raise ValueError("neither a text nor a number")


def _gemma_items(text: str, at: int, depth: int) -> tuple[Any, int]:
    closing = "}" if text[at] == "{" else "]"
    pairs: Arguments = {}
    items: list[Any] = []
    at += 1
    while not text.startswith(closing, at):
        if closing == "}":
            key, at = _gemma_key(text, at)
        value, at = _gemma(text, at, depth + 1)
        if closing == "}":
            pairs[key] = value
        else:
            items.append(value)
        if text.startswith(",", at):
            at += 1
        elif not text.startswith(closing, at):
            raise ValueError("no comma")
    return (pairs if closing == "}" else items), at + 1


def _gemma_key(text: str, at: int) -> tuple[str, int]:
    if text.startswith(GEMMA_QUOTE, at):
        key, at = _gemma(text, at, 0)
        if not text.startswith(":", at):
            raise ValueError("no colon")
        return str(key), at + 1
    end = text.index(":", at)
    return text[at:end].strip(), end + 1
