"""What is inside a row: its messages, texts, calls and tools, however badly it is formed.

Knows the shapes of OpenAI's and TRL's rows; judges nothing (``checks`` does). A field of the
wrong type reads as absent, so that a bad row can still be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


def as_dict(value: Any) -> Json:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def first(row: Json, *keys: str) -> Any:
    """The first of these keys that holds something, or None."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def messages_of(value: Any, role: str = "user") -> list[Json]:
    """The messages in a list, in one message, or in a plain string said by ``role``."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    listed = value if isinstance(value, list) else [value]
    return [message for message in listed if isinstance(message, dict)]


def parts_of(content: Any) -> list[Json]:
    """The parts of a multimodal content; none for a plain string."""
    return [part for part in as_list(content) if isinstance(part, dict)]


def is_image(part: Json) -> bool:
    """Whether a content part is an image."""
    return part.get("type") == "image_url" or "image_url" in part


def texts_of(message: Json) -> Iterator[str]:
    """Every text in a message: content, parts, refusal, names and arguments of calls."""
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
    """The functions a message calls, in today's form and in the deprecated one."""
    listed = as_list(message.get("tool_calls"))
    calls = [as_dict(as_dict(call).get("function")) for call in listed]
    old = as_dict(message.get("function_call"))
    return [*calls, old] if old else calls


def tools_of(row: Json) -> list[Json]:
    """The functions a row offers, in today's form and in the deprecated one."""
    tools = [as_dict(as_dict(tool).get("function")) for tool in as_list(row.get("tools"))]
    return tools + [as_dict(function) for function in as_list(row.get("functions"))]
