"""Rows as Hugging Face's chat templates expect them."""

from __future__ import annotations

import json
from typing import Any, Literal

from finetune_gateway.data import row_access
from finetune_gateway.errors import DataError

Message = dict[str, Any]
Tools = list[dict[str, Any]] | None
# How the arguments of calls are given: most templates want an object, a few a JSON string.
Arguments = Literal["object", "string"]
# How texts are given: those of some models of images and text take a list of parts alone.
Content = Literal["text", "parts"]

# Names of one thing; transformers fills the others too (chat_template_utils.py).
REASONING = ("reasoning_content", "thinking", "reasoning")
HINT = "Run: ftg validate FILE"


def messages_of(row: dict[str, Any]) -> tuple[list[Message], Tools]:
    """Return the conversation and tools of a chat or prompt/completion row. Raises DataError, also
    for messages and tools that are no objects."""
    if isinstance(row.get("messages"), list):
        tools = _objects(row.get("tools") or [], "tools")
        return _objects(row["messages"], "messages"), tools or None
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        prompt = {"role": "user", "content": row["prompt"]}
        return [prompt, {"role": "assistant", "content": row["completion"]}], None
    raise DataError(
        f"A row with the keys {sorted(row)[:8]} is not a conversation.",
        hint=HINT,
    )


def rows_of_pair(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a preference row in OpenAI's form as two conversations: its prompt, of which nothing
    is trained, with the better answer and with the worse one."""
    source = {**row, **row_access.as_dict(row.get("input"))}
    prompt = _untrained(row_access.messages_of(source.get("messages")))
    better, worse = (
        {**source, "messages": [*prompt, *row_access.messages_of(row.get(side), "assistant")]}
        for side in ("preferred_output", "non_preferred_output")
    )
    return better, worse


def row_of_unpaired(row: dict[str, Any]) -> dict[str, Any]:
    """Return an unpaired preference row (KTO) as a conversation of which its last answer alone is
    trained: the label is for that one."""
    messages = row_access.messages_of(row.get("messages"))
    last = max((at for at, one in enumerate(messages) if one.get("role") == "assistant"), default=0)
    return {**row, "messages": [*_untrained(messages[:last]), *messages[last:]]}


def _untrained(messages: list[Message]) -> list[Message]:
    """Return a prompt, of whose answers none is trained."""
    return [
        {**message, "weight": 0} if message.get("role") == "assistant" else message
        for message in messages
    ]


def for_template(
    message: Message, arguments: Arguments = "object", content: Content = "text"
) -> Message:
    """Return a message as Hugging Face templates expect it.

    Arguments of tool calls become objects (OpenAI sends a JSON string, which most templates would
    encode again); developer becomes system; text parts become one string; a refusal is what the
    model says; null keys are dropped, and content that is missing is "", since some templates write
    "None"; reasoning has all its names, as in transformers. Raises DataError for what is none of
    these, whatever JSON it is.
    """
    plain = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if plain.get("role") == "developer":
        plain["role"] = "system"
    refusal = plain.pop("refusal", None)
    plain["content"] = _text_of(plain.get("content")) or _text_of(refusal)
    if "function_call" in plain:  # the deprecated single call
        plain["tool_calls"] = [{"type": "function", "function": plain.pop("function_call")}]
    if plain.get("role") == "function":
        plain["role"] = "tool"
    if plain.get("tool_calls"):
        calls = _objects(plain["tool_calls"], "tool_calls")
        plain["tool_calls"] = [_call(call, arguments) for call in calls]
    else:
        plain.pop("tool_calls", None)
    if content == "parts":
        plain["content"] = [{"type": "text", "text": plain["content"]}]
    reasoning = reasoning_of(plain)
    if reasoning:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def reasoning_of(message: Message) -> str:
    """Return the reasoning of a message, whatever its key is called; "" if there is none."""
    found = (message[key] for key in REASONING if isinstance(message.get(key), str))
    return next((text for text in found if text), "")


def _text_of(content: Any) -> str:
    """Return the text of a content: its own, or that of its parts."""
    if not isinstance(content, str | list | None):
        raise _unreadable("content")
    if not isinstance(content, list):
        return content or ""
    return "".join(str(part.get("text", "")) for part in _objects(content, "content"))


def _call(call: dict[str, Any], wanted: Arguments) -> dict[str, Any]:
    if not isinstance(call.get("function"), dict):
        raise _unreadable("function")
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _arguments(arguments)
    as_text = wanted == "string"
    function["arguments"] = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
    return {"type": "function", **call, "function": function}


def _arguments(text: str) -> Any:
    """Return the arguments that a text holds. Some hosts write "" for none."""
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise _unreadable("arguments") from exc


def _objects(values: Any, key: str) -> list[dict[str, Any]]:
    """Return a list of objects. Raises DataError for anything else."""
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise _unreadable(key)
    return values


def _unreadable(key: str) -> DataError:
    return DataError(f"No chat template can read the {key!r} of this row.", hint=HINT)
