"""Convert ShareGPT turns (``from``/``value``) to OpenAI messages and back.

As in LLaMA-Factory, a call is a ``function_call`` turn with name and arguments as JSON, a result
an ``observation`` turn, and tools are bare functions in a JSON string. Turns have no ids: calls
are numbered in order, and an id is written only if it differs from its number.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.text.quoting import json_type, quoted

Json = dict[str, Any]

# Speakers of ShareGPT and their roles in chat.
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_TURN = frozenset({"from", "value", "weight"})
_CALL = frozenset({"name", "arguments", "id"})


class ConversionError(ValueError):
    """A row, or a field of it, cannot be represented in another format. ``code``: of the rule that
    it breaks; ``fix``: what to do, if the rule does not know."""

    def __init__(
        self, path: str, reason: str, code: str = "not_convertible", fix: str = ""
    ) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason
        self.code = code
        self.fix = fix


def wrong_type(path: str, value: object, expected: str) -> ConversionError:
    """Return the error of a value of the wrong JSON type."""
    reason = f"this must be {expected}, not {json_type(value)}"
    return ConversionError(path, reason, "type_error")


@dataclass(slots=True)
class TurnReader:
    """Reads the turns of one row. What a chat cannot represent is added to ``errors`` and read as
    far as possible."""

    errors: list[ConversionError]
    count: int = 0  # calls so far
    waiting: list[str] = field(default_factory=list)  # ids of calls without a result

    def messages(self, turns: Any, path: str) -> list[Json]:
        """Return one message for each turn."""
        if not isinstance(turns, list):
            self.errors.append(wrong_type(path, turns, "a list of turns"))
            return []
        messages = []
        for index, turn in enumerate(turns):
            if isinstance(turn, dict):
                messages.append(self.message(turn, f"{path}[{index}]"))
            else:
                here = f"{path}[{index}]"
                self.errors.append(wrong_type(here, turn, "an object with from and value"))
        return messages

    def message(self, turn: Json, path: str) -> Json:
        """Return the message of a turn."""
        speaker, value = turn.get("from"), turn.get("value")
        role = ROLES.get(str(speaker))
        if role is None:
            self.errors.append(_no_speaker(speaker, f"{path}.from"))
        if value is None:
            reason = "a turn without 'value'"
            self.errors.append(ConversionError(f"{path}.value", reason, "missing_content"))
        elif not isinstance(value, str):
            self.errors.append(wrong_type(f"{path}.value", value, "a string"))
        if not _TURN.issuperset(turn):
            for key in turn.keys() - _TURN:
                reason = "a chat message has no such key"
                self.errors.append(ConversionError(f"{path}.{key}", reason))
        message = self._content(speaker, role or "user", value, path)
        if "weight" in turn:
            message["weight"] = turn["weight"]
        return message

    def _content(self, speaker: Any, role: str, value: Any, path: str) -> Json:
        if speaker == "function_call" and isinstance(value, str):
            return self._calls(value, f"{path}.value")
        message: Json = {"role": role}
        if role == "tool" and self.waiting:
            message["tool_call_id"] = self.waiting.pop(0)
        elif role == "tool":
            self.errors.append(ConversionError(path, "a result without a call before it"))
        return {**message, "content": value}

    def _calls(self, value: str, path: str) -> Json:
        try:
            read = loads_strict(value)
        except (ValueError, RecursionError):
            read = None
        listed = read if isinstance(read, list) else [read]
        if not listed or not all(_is_call(call) for call in listed):
            fix = 'Write the call as JSON: {"name": "...", "arguments": {...}}.'
            reason = "this is not JSON with name and arguments"
            self.errors.append(ConversionError(path, reason, fix=fix))
            self.waiting.append("")  # its result is no orphan
            return {"role": "assistant", "content": value}
        return {"role": "assistant", "tool_calls": [self._call(call) for call in listed]}

    def _call(self, call: Json) -> Json:
        self.count += 1
        name = call.get("id", f"call_{self.count}")
        self.waiting.append(name)
        function = {"name": call["name"], "arguments": as_string(call["arguments"])}
        return {"id": name, "type": "function", "function": function}

    def tools(self, value: Any, path: str = "tools") -> list[Json]:
        """Return the tools of a row from a list or a JSON string; bare functions are wrapped."""
        try:
            text = value.strip() if isinstance(value, str) else ""
            read = (loads_strict(text) or []) if text else [] if isinstance(value, str) else value
        except (ValueError, RecursionError):
            read = None
        if not isinstance(read, list) or not all(isinstance(tool, dict) for tool in read):
            self.errors.append(
                ConversionError(path, "this is not a list of functions", "type_error")
            )
            return []
        return [tool if "function" in tool else _wrapped(tool) for tool in read]


def _wrapped(function: Json) -> Json:
    """Return the tool of a bare function; its type may stand beside its name."""
    bare = {key: value for key, value in function.items() if (key, value) != ("type", "function")}
    return {"type": "function", "function": bare}


def _no_speaker(speaker: Any, path: str) -> ConversionError:
    if not isinstance(speaker, str):
        return ConversionError(path, "a turn without 'from'", "missing_role")
    close = difflib.get_close_matches(speaker.strip().lower()[:40], ROLES, 1)
    fix = f'Did you mean "{close[0]}"?' if close else "Write human, gpt or system."
    return ConversionError(path, f"there is no speaker {quoted(speaker)}", "unknown_role", fix)


def _is_call(call: Any) -> bool:
    return (
        isinstance(call, dict)
        and isinstance(call.get("name"), str)
        and "arguments" in call
        and isinstance(call.get("id", ""), str)
        and not call.keys() - _CALL
    )


def as_string(arguments: Any) -> Any:
    """Return arguments as JSON in a string, as OpenAI's API has them."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def call_errors(message: Json, path: str) -> Iterator[ConversionError]:
    """Yield errors of malformed calls, which no format could represent."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        yield wrong_type(f"{path}.tool_calls", calls, "a list of calls")
        return
    for index, call in enumerate(calls or []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or "name" not in function:
            yield ConversionError(
                f"{path}.tool_calls[{index}]", "a call has a function with a name"
            )
    if not isinstance(message.get("function_call"), dict | None):
        yield wrong_type(f"{path}.function_call", message["function_call"], "a call")


def with_string_arguments(message: Json) -> Json:
    """Return a message with the arguments of its calls as JSON in a string."""
    converted = dict(message)
    if isinstance(message.get("function_call"), dict):
        converted["function_call"] = _string_arguments(message["function_call"])
    if isinstance(message.get("tool_calls"), list):
        converted["tool_calls"] = [_string_call(call) for call in message["tool_calls"]]
    return converted


def _string_call(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    return {**call, "function": _string_arguments(call["function"])}


def _string_arguments(function: Json) -> Json:
    if not isinstance(function.get("arguments"), dict):
        return function
    return {**function, "arguments": as_string(function["arguments"])}


# -- writing -----------------------------------------------------------------------------------


def turns(messages: list[Json], path: str) -> list[Json]:
    """Return the turns of a conversation. Raises ConversionError for what a turn cannot hold."""
    count, converted = 0, []
    for index, message in enumerate(messages):
        here = f"{path}[{index}]"
        converted.append(_turn(message, here, count))
        count += len(message.get("tool_calls") or [])
    return converted


def _turn(message: Json, path: str, count: int) -> Json:
    role, calls = message.get("role"), message.get("tool_calls")
    known = {"role", "content", "weight", "tool_calls" if calls else "", "tool_call_id"}
    for key, value in message.items():
        if key not in known and value is not None:
            raise ConversionError(f"{path}.{key}", f"a ShareGPT turn cannot hold {key!r}")
    if role not in _SPEAKERS:
        raise ConversionError(f"{path}.role", f"ShareGPT has no speaker for the role {role!r:.60}")
    turn = {"from": _SPEAKERS[role], "value": message.get("content")}
    if calls:
        if message.get("content") is not None:
            raise ConversionError(
                f"{path}.content", "a ShareGPT turn holds a text or calls, not both"
            )
        turn = {"from": "function_call", "value": _call_value(calls, path, count)}
    elif not isinstance(turn["value"], str):
        raise ConversionError(f"{path}.content", "a ShareGPT turn holds one text")
    return {**turn, "weight": message["weight"]} if "weight" in message else turn


def _call_value(calls: list[Json], path: str, count: int) -> str:
    items = []
    for index, call in enumerate(calls):
        here = f"{path}.tool_calls[{index}]"
        arguments = as_object(call["function"].get("arguments"), f"{here}.function.arguments")
        item = {"name": call["function"]["name"], "arguments": arguments}
        own = {} if call.get("id") == f"call_{count + index + 1}" else {"id": call.get("id")}
        items.append({**own, **item})
    return json.dumps(items[0] if len(items) == 1 else items, ensure_ascii=False)


def as_object(arguments: Any, path: str) -> Any:
    """Return arguments as an object, as templates need them. Raises ConversionError."""
    try:
        read = loads_strict(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise ConversionError(path, "the arguments are not a JSON object, which this format needs")
    return read


def tools_string(tools: list[Json]) -> str:
    """Return tools as bare functions in a JSON string. Raises ConversionError for other tools."""
    for index, tool in enumerate(tools):
        if (
            not isinstance(tool, dict)
            or tool.keys() != {"type", "function"}
            or tool["type"] != "function"
        ):
            raise ConversionError(
                f"tools[{index}]", "ShareGPT knows only tools of the type function"
            )
    return json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
