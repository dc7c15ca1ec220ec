"""Rows: strict JSON, and the messages, texts, calls and tools of a row, however malformed.

Knows the shapes of OpenAI's and TRL's rows. A field of the wrong type reads as
absent, so that a malformed row can still be shown.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

Json = dict[str, Any]

MAX_DEPTH = 100  # levels; json recurses and raises RecursionError near 1,000

# A string is one token, an unclosed one up to the end, so that the scan stays linear.
TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
# White space and invisible characters: control characters, zero-width characters, soft hyphen,
# direction controls, Hangul fillers, the empty Braille pattern, variation selectors, tags.
NOTHING = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_is_invisible = re.compile(f"[{NOTHING}]*").fullmatch


class DuplicateKey(ValueError):
    """An object has the same key twice."""


class NotANumber(ValueError):
    """The text has NaN or Infinity in it."""


class TooDeep(ValueError):
    """Values are nested deeper than readers take."""


class Overflow(ValueError):
    """A number is larger than a double."""


def loads_strict(text: str) -> Any:
    """Return the value of a JSON text as RFC 8259 defines it.

    ``json`` accepts NaN, keeps the last of two equal keys and turns 1e999 into infinity; rows that
    are read to be written again must not change silently. Raises ValueError, also for more than 100
    levels: what walks the value recurses.
    """
    if is_too_deep(text):
        raise TooDeep(f"nested deeper than {MAX_DEPTH} levels")
    return _DECODER.decode(text)


def is_too_deep(text: str) -> bool:
    """Return True for a JSON text of more than 100 levels."""
    return text.count("{") + text.count("[") > MAX_DEPTH and _depth(text) > MAX_DEPTH


def _depth(text: str) -> int:
    """Return the depth of the brackets outside strings; stops counting above the limit."""
    level = deepest = 0
    for token in TOKEN.finditer(text):
        char = text[token.start()]
        if char in "[{":
            level += 1
            deepest = max(deepest, level)
            if level > MAX_DEPTH:
                break
        elif char != '"':
            level -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise DuplicateKey("an object has the same key twice")
    return value


def _constant(name: str) -> NoReturn:
    raise NotANumber(name)


def _float(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise Overflow(literal)
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def dumped(row: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return a row as JSON on one line; half of a surrogate pair, which UTF-8 cannot hold, as an
    escape."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=default)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row, separators=(",", ":"), default=default)
    return text


def as_dict(value: Any) -> Json:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def first(row: Json, *keys: str) -> Any:
    """Return the value of the first of these keys that is not null, or None."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def messages_of(value: Any, role: str = "user") -> list[Json]:
    """Return the messages of a list, of one message, or of a plain string by ``role``."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    listed = value if isinstance(value, list) else [value]
    return [message for message in listed if isinstance(message, dict)]


def parts_of(content: Any) -> list[Json]:
    """Return the parts of a multimodal content; empty for a plain string."""
    return [part for part in as_list(content) if isinstance(part, dict)]


def is_image(part: Json) -> bool:
    """Return True if a content part is an image."""
    return part.get("type") == "image_url" or "image_url" in part


def texts_of(message: Json) -> Iterator[str]:
    """Yield every text of a message: content, parts, refusal, names and arguments of calls."""
    for text in (message.get("content"), message.get("refusal")):
        if isinstance(text, str):
            yield text
    for part in parts_of(message.get("content")):
        text = first(part, "text", "refusal")
        if isinstance(text, str):
            yield text
    for call in calls_of(message):
        yield str(call.get("name", ""))
        arguments = call.get("arguments", "")
        yield arguments if isinstance(arguments, str) else json.dumps(arguments)


def calls_of(message: Json) -> list[Json]:
    """Return the functions a message calls, ``tool_calls`` and the old ``function_call``."""
    listed = as_list(message.get("tool_calls"))
    calls = [as_dict(as_dict(call).get("function")) for call in listed]
    old = as_dict(message.get("function_call"))
    return [*calls, old] if old else calls


def tools_of(row: Json) -> list[Json]:
    """Return the functions a row offers, in ``tools`` and in the old ``functions``."""
    tools = [as_dict(as_dict(tool).get("function")) for tool in as_list(row.get("tools"))]
    return tools + [as_dict(function) for function in as_list(row.get("functions"))]


_REASONING = re.compile(
    rb'"(?:reasoning_content|reasoning|thinking)"\s*:\s*"[^"]|<think>|\\u003cthink\\u003e'
)


def has_reasoning(path: Path) -> bool:
    """Return True if a row of a JSONL file has reasoning, by its keys or as a think block."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _REASONING.search(data) is not None


def blank(text: str) -> bool:
    """Return True if a text has no visible character."""
    return text == "" or _is_invisible(text) is not None
