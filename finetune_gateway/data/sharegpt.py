"""Convert ShareGPT turns (``from``/``value``) to OpenAI messages and back.

As in LLaMA-Factory, a call is a ``function_call`` turn with name and arguments as JSON, a result
an ``observation`` turn, and tools are bare functions in a JSON string. Turns have no ids: calls
are numbered in order, and an id is written only if it differs from its number.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.data.cells import listed
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
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function": "tool",
}
CALLERS = ("function_call", "tool_call")  # speakers whose value is a call
_SAYS = {who: role for who, role in ROLES.items() if role != "tool" and who not in CALLERS}
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_TURN = frozenset({"from", "value", "weight"})
# True or false, as ms-swift, XTuner and Axolotl mark what is trained.
TRAINED = ("loss", "train", "training")
REASONING = ("reasoning_content", "thinking", "reasoning")
# Texts beside a turn that are no part of what is said.
_ABOUT = frozenset({
    "id", "turn_id", "message_id", "parent_id", "user_id", "hash", "ts", "time", "timestamp",
    "date", "created_at", "create_time", "model", "source", "lang", "language", "emotion",
    "intent", "topic",
})  # fmt: skip
_CALL = frozenset({"name", "arguments", "id"})
_WRAPPED = frozenset({"id", "type", "function", "index"})
_BESIDE = "If it is part of what is said, write it into the value; if not, leave it out."
_AS_CALL = (
    'Write that turn as {"from": "function_call", "value": {"name": "...", "arguments": {}}}.'
)
_BY_FIX = (
    "Write calls and results as turns of their own, function_call and observation; --fix does: "
    "ftg validate old.jsonl --fix new.jsonl"
)
NUMBER_AS_TEXT = "Write it as a text; --fix does: ftg validate old.jsonl --fix new.jsonl"
_SPEAK = "Write human, gpt or system; function_call and observation for a call and its result."


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


def no_text(path: str, value: object, expected: str) -> ConversionError:
    """Return the error of what should be a text, with the way to one."""
    error = wrong_type(path, value, expected)
    error.fix = text_way(value)
    return error


def text_way(value: object) -> str:
    """Return how a value becomes the text that it stands for; "" where that is not known."""
    if isinstance(value, bool):
        return 'Write the word that the model is to say, for instance "yes" or "no".'
    if isinstance(value, int | float):
        return NUMBER_AS_TEXT
    as_json = "Write it as a string: its text; or, if it is to be JSON, as json.dumps writes it."
    return as_json if isinstance(value, dict) else ""


@dataclass(slots=True)
class TurnReader:
    """Reads the turns of one row. What a chat cannot represent is added to ``errors`` and read as
    far as possible; keys that say nothing of the conversation, to ``unsent``."""

    errors: list[ConversionError]
    unsent: dict[str, None] = field(default_factory=dict)
    count: int = 0  # calls so far
    waiting: list[str] = field(default_factory=list)  # ids of calls without a result
    called_in_text: str = ""  # the turn before, if it writes its call as a text

    def messages(self, turns: Any, path: str) -> list[Json]:
        """Return one message for each turn."""
        if not isinstance(turns, list):
            self.errors.append(wrong_type(path, turns, "a list of turns"))
            return []
        messages = []
        for index, turn in enumerate(turns):
            if plain := self._plain(turn):
                messages.append(plain)
            elif isinstance(turn, dict):
                messages.append(self.message(turn, f"{path}[{index}]"))
            else:
                here = f"{path}[{index}]"
                self.errors.append(wrong_type(here, turn, "an object with from and value"))
        return messages

    def _plain(self, turn: Any) -> Json | None:
        """Return the message of a turn of a person or a model that is a text; None for others."""
        if type(turn) is not dict or len(turn) != 2:
            return None
        speaker, value = turn.get("from"), turn.get("value")
        role = _SAYS.get(speaker) if type(speaker) is str else None
        if role is None or type(value) is not str:
            return None
        self.called_in_text = value if "<tool_call>" in value else ""
        return {"role": role, "content": value}

    def message(self, turn: Json, path: str) -> Json:
        """Return the message of a turn."""
        speaker, value = turn.get("from"), turn.get("value")
        role = ROLES.get(str(speaker))
        if role is None:
            self.errors.append(_no_speaker(speaker, f"{path}.from"))
        if value is None:
            self.errors.append(_no_value(turn, path))
        elif not isinstance(value, str) and not _is_structured(speaker, role, value):
            self.errors.append(no_text(f"{path}.value", value, "a string"))
        message = self._content(speaker, role or "user", value, path)
        if turn.get("weight") is not None and not _is_untrained(turn["weight"], role):
            message["weight"] = turn["weight"]
        if not _TURN.issuperset(turn):
            for key in (name for name in turn if name not in _TURN):
                self._beside(message, key, turn[key], f"{path}.{key}")
        return message

    def _beside(self, message: Json, key: str, value: Any, path: str) -> None:
        """Read a key beside who speaks and what is said."""
        is_answer = message["role"] == "assistant"
        if value in (None, "", [], {}) and value is not False or value == message.get("content"):
            return
        if key in TRAINED and isinstance(value, bool):
            if is_answer:
                message.setdefault("weight", int(value))
        elif key in REASONING and is_answer and isinstance(value, str):
            message[key] = value
        elif isinstance(value, bool | int | float) or (key in _ABOUT and isinstance(value, str)):
            self.unsent[re.sub(r"\[\d+\]", "[]", path)] = None
        elif not (key in ("content", "text") and message.get("content") is None):
            self.errors.append(ConversionError(path, "a chat message has no such key", fix=_BESIDE))

    def _content(self, speaker: Any, role: str, value: Any, path: str) -> Json:
        if speaker in CALLERS and isinstance(value, str | dict | list):
            return self._calls(value, f"{path}.value")
        if role == "tool" and isinstance(value, dict | list):
            value = as_string(value)
        message: Json = {"role": role}
        if role == "tool" and self.waiting:
            message["tool_call_id"] = self.waiting.pop(0)
        elif role == "tool":
            reason = "a result without a call before it"
            if self.called_in_text:
                reason += "; the turn before writes its call as a text"
            fix = _as_call(self.called_in_text) or "Add the call before it, or take it out."
            self.errors.append(ConversionError(path, reason, fix=fix))
        in_text = isinstance(value, str) and "<tool_call>" in value
        self.called_in_text = value if in_text else ""
        return {**message, "content": value}

    def _calls(self, value: str | Json | list[Any], path: str) -> Json:
        try:
            read = loads_strict(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            read = None
        calls = [*map(_bare_call, read if isinstance(read, list) else [read])]
        if not calls or not all(_is_call(call) for call in calls):
            fix = 'Write the call as JSON: {"name": "...", "arguments": {...}}.'
            reason = "this is not JSON with name and arguments"
            self.errors.append(ConversionError(path, reason, fix=fix))
            self.waiting.append("")  # its result is no orphan
            return {"role": "assistant", "content": as_string(value)}
        return {"role": "assistant", "tool_calls": [self._call(call) for call in calls]}

    def _call(self, call: Json) -> Json:
        self.count += 1
        name = call.get("id", f"call_{self.count}")
        self.waiting.append(name)
        function = {"name": call["name"], "arguments": as_string(call["arguments"])}
        return {"id": name, "type": "function", "function": function}

    def tools(self, value: Any, path: str = "tools") -> list[Json]:
        """Return the tools of a row from a list, or from one in a text; bare functions are
        wrapped."""
        read = _listed_tools(value)
        if read is None:
            reason = "this is not a list of functions"
            fix = 'Write a list: [{"type": "function", "function": {"name": "...", ...}}].'
            self.errors.append(ConversionError(path, reason, "type_error", fix))
            return []
        return [tool if "function" in tool else wrapped(tool) for tool in read]


def _as_call(text: str) -> str:
    """Return what to do about a call that is written as a text; empty for a blank one."""
    if not text:
        return ""
    # Imported here: few rows have such calls.
    from finetune_gateway.data.calls_in_text import calls_of

    return _BY_FIX if calls_of(text) else _AS_CALL


def _listed_tools(value: Any) -> list[Json] | None:
    """Return the tools of a list, or of a text in JSON or as Python prints it, or of a list of such
    texts; None for anything else."""
    if isinstance(value, str):
        if value.strip() in ("", "null", "None"):
            return []
        value = listed(value)[0]
    if not isinstance(value, list):
        return None
    tools = [listed(tool)[0] if isinstance(tool, str) else tool for tool in value]
    return tools if all(isinstance(tool, dict) for tool in tools) else None


def wrapped(function: Json) -> Json:
    """Return the tool of a bare function; its type may stand beside its name, and its parameters
    be called as Anthropic does."""
    bare = {key: value for key, value in function.items() if (key, value) != ("type", "function")}
    if "input_schema" in bare and "parameters" not in bare:
        bare = {"parameters" if key == "input_schema" else key: bare[key] for key in bare}
    if bare.get("parameters", {}) is None:  # as Responses writes a function without parameters
        del bare["parameters"]
    return {"type": "function", "function": bare}


def _no_value(turn: Json, path: str) -> ConversionError:
    other = next((key for key in ("content", "text") if isinstance(turn.get(key), str)), "")
    if not other:
        return ConversionError(f"{path}.value", "a turn without 'value'", "missing_content")
    reason = f"a turn without 'value' (there is {quoted(other)})"
    fix = f"Rename {quoted(other)} to 'value'; --fix does: ftg validate old.jsonl --fix new.jsonl"
    return ConversionError(f"{path}.value", reason, "missing_content", fix)


def _is_untrained(weight: Any, role: str | None) -> bool:
    """Return True for the weight 0 of a turn that is never trained, as SlimOrca has it."""
    return role in ("user", "system", "tool") and type(weight) in (int, float) and weight == 0


def _is_structured(speaker: Any, role: str | None, value: Any) -> bool:
    """Return True for a call or a result that is JSON, not JSON in a text."""
    return isinstance(value, dict | list) and (speaker in CALLERS or role == "tool")


def _no_speaker(speaker: Any, path: str) -> ConversionError:
    if not isinstance(speaker, str):
        return ConversionError(path, "a turn without 'from'", "missing_role")
    close = difflib.get_close_matches(speaker.strip().lower()[:40], ROLES, 1)
    fix = f'Did you mean "{close[0]}"?' if close else _SPEAK
    return ConversionError(path, f"there is no speaker {quoted(speaker)}", "unknown_role", fix)


def _bare_call(call: Any) -> Any:
    """Return a call as name, arguments and id: OpenAI wraps them, Llama calls them parameters."""
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict) and call.keys() <= _WRAPPED:
        call = ({"id": call["id"]} if "id" in call else {}) | call["function"]
    if "parameters" in call and "arguments" not in call:
        call = {"arguments" if key == "parameters" else key: call[key] for key in call}
    return {key: value for key, value in call.items() if (key, value) != ("type", "function")}


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
