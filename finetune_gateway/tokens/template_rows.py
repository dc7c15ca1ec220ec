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


def messages_of(row: dict[str, Any]) -> tuple[list[Message], Tools]:
    """Return the conversation and tools of a chat or prompt/completion row. Raises DataError."""
    if isinstance(row.get("messages"), list):
        return row["messages"], row.get("tools") or None
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        prompt = {"role": "user", "content": row["prompt"]}
        return [prompt, {"role": "assistant", "content": row["completion"]}], None
    raise DataError(
        f"A row with the keys {sorted(row)[:8]} is not a conversation.",
        hint="Run: ftg validate FILE",
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
    "None"; reasoning has all its names, as in transformers.
    """
    plain = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if plain.get("role") == "developer":
        plain["role"] = "system"
    if isinstance(plain.get("content"), list):
        plain["content"] = "".join(str(part.get("text", "")) for part in plain["content"])
    refusal = plain.pop("refusal", None)
    plain["content"] = plain.get("content") or refusal or ""
    if "function_call" in plain:  # the deprecated single call
        plain["tool_calls"] = [{"type": "function", "function": plain.pop("function_call")}]
    if plain.get("role") == "function":
        plain["role"] = "tool"
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_call(call, arguments) for call in plain["tool_calls"]]
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


def _call(call: dict[str, Any], wanted: Arguments) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # Some hosts write "" for no arguments.
        arguments = json.loads(arguments) if arguments.strip() else {}
    as_text = wanted == "string"
    function["arguments"] = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
    return {"type": "function", **call, "function": function}
