"""A request and an answer of whatever service, read by the keys they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune_gateway.data import readers
from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services import anthropic, bedrock, gemini, responses
from finetune_gateway.data.services.foreign import service_of
from finetune_gateway.data.services.turn import drop

Json = dict[str, Any]

ASKED = ("messages", "contents", "input", "prompt")
_BODY = ("body", "inputBodyJson", "outputBodyJson", "kwargs")
_READ = frozenset(
    {
        *ASKED, "system", "systemInstruction", "system_instruction", "tools", "toolConfig",
        "instructions", "functions", "parallel_tool_calls",
    }
)  # fmt: skip
_FAILED = "Leave the line out: there is nothing to learn from a request that failed."
_ONE_EACH = "Write one row for each answer, or keep the best."


def inner(value: Any, path: str) -> tuple[Any, str]:
    """Return what an envelope holds, and its path."""
    for key in _BODY:
        if isinstance(value, dict) and isinstance(value.get(key), dict | list):
            return inner(value[key], f"{path}.{key}".lstrip("."))
    return value, path


# -- the request -------------------------------------------------------------------------------


def request(reader: Reader, value: Any, path: str) -> Json:
    """Return the conversation of a request at ``path``: a text, messages, or a service's own."""
    reader.lists["messages"] = path
    if isinstance(value, str):
        return {"messages": [reader.said("user", value, path)]}
    if isinstance(value, list):
        held = Reader({"messages": value})
        read = request(held, held.row, "")
        return _taken(reader, held, read, path)
    if not isinstance(value, dict):
        reader.refuse_type(path, value, "a request")
        return {"messages": []}
    if path:
        drop(reader, value, _READ, path)
    return _object(reader, value, f"{path}." if path else "")


def _taken(reader: Reader, held: Reader, read: Json, path: str) -> Json:
    """Take over what another reader has read of a bare list, which is at ``path``."""

    def here(one: str) -> str:
        return path + one.removeprefix("messages")

    for error in held.errors:
        reader.refuse(here(error.path), error.reason, error.code, error.fix)
    for key, (source, form) in held.origins.items():
        fields = {k: here(v) for k, v in form.items()} if isinstance(form, dict) else form
        reader.origins[key] = here(source), fields
    reader.unsent |= {here(key): None for key in held.unsent}
    return read


def _object(reader: Reader, value: Json, prefix: str) -> Json:
    if "contents" in value:
        return gemini.conversation(reader, value, prefix)
    if "messages" in value:
        return _messages(reader, value, prefix)
    if "input" in value:
        return responses.conversation(reader, {**value, "output": None}, prefix)
    return {"messages": [reader.said("user", value.get("prompt"), f"{prefix}prompt")]}


def _messages(reader: Reader, value: Json, prefix: str) -> Json:
    service = service_of(value)
    if service == "bedrock":
        return bedrock.conversation(reader, value, prefix)
    if service == "responses":
        items = {**value, "input": value["messages"]}
        return responses.conversation(reader, items, prefix, "messages")
    if service or value.get("system"):
        return anthropic.conversation(reader, value, prefix)
    reader.lists["messages"] = f"{prefix}messages"
    for at, _ in enumerate(value["tools"] if isinstance(value.get("tools"), list) else ()):
        reader.lists[f"tools[{at}]"] = f"{prefix}tools[{at}]"
    read = readers.chat(reader, value, prefix)
    return {key: one for key, one in read.items() if key in readers.CHAT_KEYS}


# -- the answer --------------------------------------------------------------------------------


def answer(reader: Reader, value: Any, path: str, before: list[Json]) -> list[Json]:
    """Return the messages of an answer at ``path``. ``before``: those of the request."""
    if isinstance(value, str):
        return [reader.said("assistant", value, path)]
    if isinstance(value, list):
        return _listed(reader, value, path)
    key = next((key for key in _ANSWERS if _has(value, key)), "")
    if not key:
        reader.refuse(path, "a request without its answer", "missing_completion", _FAILED)
        return []
    return _ANSWERS[key](reader, value, path, before)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and value.get(key) not in (None, [])


def _listed(reader: Reader, value: list[Any], path: str) -> list[Json]:
    if len(value) == 1 and isinstance(value[0], dict) and "type" not in value[0]:
        return [_chat_message(reader, value[0], f"{path}[0]")]
    return responses.answer(reader, value, path)


def _choices(key: str) -> Callable[[Reader, Json, str, list[Json]], list[Json]]:
    def read(reader: Reader, value: Json, path: str, before: list[Json]) -> list[Json]:
        drop(reader, value, {key}, path)
        return _choice(reader, value[key], f"{path}.{key}".lstrip("."))

    return read


def _choice(reader: Reader, listed: Any, path: str) -> list[Json]:
    """Return the messages of the one answer of several choices."""
    if not isinstance(listed, list) or len(listed) != 1:
        count = len(listed) if isinstance(listed, list) else 0
        reader.refuse(path, f"{count} answers to one request", fix=_ONE_EACH)
        return []
    one, here = listed[0], f"{path}[0]"
    if isinstance(one, list):
        return _choice(reader, one, here)
    if isinstance(one, dict) and isinstance(one.get("content"), dict):
        return gemini.answer(reader, one["content"], f"{here}.content")
    if isinstance(one, dict) and isinstance(one.get("message"), dict):
        return [_chat_message(reader, one["message"], f"{here}.message")]
    text = one.get("text") if isinstance(one, dict) else one
    return [reader.said("assistant", text, f"{here}.text")]


def _held(key: str) -> Callable[[Reader, Json, str, list[Json]], list[Json]]:
    def read(reader: Reader, value: Json, path: str, before: list[Json]) -> list[Json]:
        drop(reader, value, {key}, path)
        return answer(reader, value[key], f"{path}.{key}".lstrip("."), before)

    return read


def _conversation(reader: Reader, value: Json, path: str, before: list[Json]) -> list[Json]:
    """Return the messages of an answer that repeats the conversation before it."""
    listed = value["messages"] if isinstance(value["messages"], list) else []
    said = [{key: one[key] for key in ("role", "content") if key in one} for one in before]
    start = len(said) if listed[: len(said)] == said else 0
    return reader.messages(listed, f"{path}.messages")[start:]


def _message(reader: Reader, value: Json, path: str, before: list[Json]) -> list[Json]:
    if not isinstance(value.get("content"), list):
        return [_chat_message(reader, value, path)]
    if service_of({"messages": [value]}) == "bedrock":
        return bedrock.message(reader, value, path)
    return anthropic.message(reader, {"role": "assistant", **value}, path)


def _chat_message(reader: Reader, message: Json, path: str) -> Json:
    """Return a message of the Chat API, without keys that are null or say nothing."""
    value, path = inner(message, path)
    if not isinstance(value, dict):
        return reader.message(value, path)
    kept = {key: one for key, one in value.items() if one not in (None, []) or key == "content"}
    for key in ("annotations", "provider_specific_fields"):
        if kept.pop(key, None):
            reader.unsent[f"{path}.{key}"] = None
    return reader.message({"role": "assistant", **kept}, path)


# By the key that an answer has, in order of precedence.
_ANSWERS: dict[str, Callable[[Reader, Json, str, list[Json]], list[Json]]] = {
    "choices": _choices("choices"),
    "candidates": _choices("candidates"),
    "generations": _choices("generations"),
    "output": _held("output"),
    "content": _message,
    "tool_calls": _message,
    "messages": _conversation,
    "message": _held("message"),
    "completion": _held("completion"),
    "output_text": _held("output_text"),
}
