"""A request and an answer of whatever service, read by the keys they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune_gateway.data import readers
from finetune_gateway.data.canonical_row import CHAT_KEYS
from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.data.row_reader import FAILED, Reader
from finetune_gateway.data.services import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    langchain,
    responses,
)
from finetune_gateway.data.services.foreign import service_of
from finetune_gateway.data.services.turn import drop

Json = dict[str, Any]

_QUESTIONS = ("prompt", "inputText", "question", "query")  # keys of a question that is a text
ASKED = ("messages", "contents", "input", "message", *_QUESTIONS)
_BODY = ("body", "inputBodyJson", "outputBodyJson", "kwargs")
_READ = frozenset(
    {
        *ASKED, "system", "systemInstruction", "system_instruction", "tools", "toolConfig",
        "instructions", "functions", "parallel_tool_calls", *cohere.KEYS,
    }
)  # fmt: skip
# Keys of messages of the Chat API, and of reasoning that templates know.
_MESSAGE = frozenset(
    {
        "role", "content", "name", "refusal", "tool_calls", "function_call", "tool_call_id",
        "weight", "reasoning_content", "reasoning", "thinking", "audio",
    }
)  # fmt: skip
_BY_HAND = (
    "If it failed, leave the line out; if not, write its answer without the mark of an error."
)
_NO_ANSWER = (
    "Write the answer there, as the service returned it or as its text, or leave the line out."
)
_ONE_EACH = "Write one row for each answer, or keep the best."
_IN_PIECES = "the pieces of a streamed answer"
_JOIN = "Join the pieces to the text they make, and write that as the answer."
# What tells a conversation or an answer that was written as JSON in a text from a plain text.
_ENCODED = ("messages", "contents", "choices", "candidates", "generations")


def opened(reader: Reader, value: Any, path: str) -> tuple[Any, str]:
    """Return what an envelope holds, and its path; what is beside it is noted."""
    held, where = inner(value, path)
    at, key = path, where[len(path) + 1 :].partition(".")[0]
    value = _decoded(value) if isinstance(value, str) else value
    while key and isinstance(value, dict) and key in value:
        drop(reader, value, {key}, at)
        value, at = value[key], f"{at}.{key}"
        value = _decoded(value) if isinstance(value, str) else value
        key = where[len(at) + 1 :].partition(".")[0]
    return held, where


def inner(value: Any, path: str) -> tuple[Any, str]:
    """Return what an envelope holds, and its path; a log may have it as JSON in a text."""
    value = _decoded(value) if isinstance(value, str) else value
    for key in _BODY if isinstance(value, dict) and not langchain.is_message(value) else ():
        held = value.get(key)
        held = _decoded(held) if isinstance(held, str) else held
        if isinstance(held, dict | list):
            return inner(held, f"{path}.{key}".lstrip("."))
    return value, path


def _decoded(text: str) -> Any:
    """Return the conversation or the answer that a text holds as JSON; other texts themselves."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        value = loads_strict(text)
    except (ValueError, RecursionError):
        return text
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return text
    known = any(key in first for key in _ENCODED) or {"role", "content"} <= first.keys()
    return value if known or langchain.is_message(first) else text


# -- the request -------------------------------------------------------------------------------


def request(reader: Reader, value: Any, path: str) -> Json:
    """Return the conversation of a request at ``path``: a text, messages, or a service's own."""
    reader.lists["messages"] = path
    if isinstance(value, str):
        return {"messages": [reader.said("user", value, path)]}
    if isinstance(value, list) and value and all(map(_has_text, value)):
        return {"messages": [_of_text(reader, one, f"{path}[{n}]") for n, one in enumerate(value)]}
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


def _has_text(one: Any) -> bool:
    """Return True for a message of YandexGPT: a role and a text."""
    return isinstance(one, dict) and "role" in one and "text" in one and "content" not in one


def _of_text(reader: Reader, one: Json, path: str) -> Json:
    drop(reader, one, {"role", "text"}, path)
    return reader.said(one["role"], one["text"], f"{path}.text")


def _object(reader: Reader, value: Json, prefix: str) -> Json:
    if "contents" in value:
        return gemini.conversation(reader, value, prefix)
    if "messages" in value:
        return _messages(reader, value, prefix)
    if "input" in value:
        return responses.conversation(reader, {**value, "output": None}, prefix)
    if "chat_history" in value or "message" in value:
        return cohere.conversation(reader, value, prefix)
    key = next((key for key in _QUESTIONS if key in value), "prompt")
    made = [reader.said("user", value.get(key), f"{prefix}{key}")]
    if value.get("system"):
        made.insert(0, reader.said("system", value["system"], f"{prefix}system"))
    if key in ("question", "query"):  # of the user's own making: the others may be part of it
        for other in (one for one in value if one not in (key, "system")):
            reader.refuse(f"{prefix}{other}", f"it is not known what this is to {key!r}", fix=_OWN)
    return {"messages": made}


_OWN = 'Write one row for each: {"prompt": all of the question, "completion": the answer}.'


def _messages(reader: Reader, value: Json, prefix: str) -> Json:
    if langchain.are_messages(value["messages"]):
        return langchain.conversation(reader, value, prefix)
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
    return {key: one for key, one in read.items() if key in CHAT_KEYS}


# -- the answer --------------------------------------------------------------------------------


def answer(reader: Reader, value: Any, path: str, before: list[Json]) -> list[Json]:
    """Return the messages of an answer at ``path``. ``before``: those of the request."""
    if _is_in_pieces(value):
        reader.refuse(path, _IN_PIECES, fix=_JOIN)
        return []
    if isinstance(value, str):
        return [reader.said("assistant", value, path)]
    if isinstance(value, list):
        return _listed(reader, value, path, before)
    if langchain.is_message(value):
        return langchain.message(reader, value, path)
    key = next((key for key in _ANSWERS if _has(value, key)), "")
    if not key:
        if isinstance(value, dict) and value.get("error"):
            refuse_failed(reader, path, value)
        else:
            what = "a request without its answer"
            reader.refuse(path, what, "missing_completion", _NO_ANSWER)
        return []
    return _ANSWERS[key](reader, value, path, before)


def refuse_failed(reader: Reader, path: str, value: Any) -> None:
    """Note that a field says that a request failed. ``value``: its answer, if there is any."""
    answers = _has_any(value) if isinstance(value, dict) else bool(value)
    way = _BY_HAND if answers else FAILED
    reader.refuse(path, "a request that failed", "missing_completion", way)


def _has_any(value: Json) -> bool:
    return langchain.is_message(value) or any(_has(value, key) for key in _ANSWERS)


def _is_in_pieces(value: Any) -> bool:
    """Return True for a streamed answer: events as a text, or a list of chunks."""
    if isinstance(value, str):
        return value.startswith(("data: {", "event: ", "data:{"))
    first = value[0] if isinstance(value, list) and value else None
    kind = first.get("object", first.get("type")) if isinstance(first, dict) else None
    return kind in ("chat.completion.chunk", "message_start", "response.created")


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and value.get(key) not in (None, [])


def _listed(reader: Reader, value: list[Any], path: str, before: list[Json]) -> list[Json]:
    if langchain.are_messages(value) or (len(value) > 1 and _are_messages(value)):
        return _conversation(reader, {"messages": value}, path, before, path)
    if len(value) == 1 and isinstance(value[0], dict) and "type" not in value[0]:
        return answer(reader, value[0], f"{path}[0]", before)
    return responses.answer(reader, value, path)


def _are_messages(value: list[Any]) -> bool:
    """Return True for messages of the Chat API, without a type."""
    return all(isinstance(one, dict) and "role" in one and "type" not in one for one in value)


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
    if isinstance(one, dict):
        drop(reader, one, {"content", "message", "text", "outputText"}, here)
        if "delta" in one:
            reader.refuse(here, _IN_PIECES, fix=_JOIN)
            return []
    if isinstance(one, list):
        return _choice(reader, one, here)
    if isinstance(one, dict) and isinstance(one.get("content"), dict):
        return gemini.answer(reader, one["content"], f"{here}.content")
    if isinstance(one, dict) and isinstance(one.get("message"), dict):
        return answer(reader, one["message"], f"{here}.message", [])
    key = "outputText" if isinstance(one, dict) and "outputText" in one else "text"
    text = one.get(key) if isinstance(one, dict) else one
    return [reader.said("assistant", text, f"{here}.{key}")]


def _held(key: str) -> Callable[[Reader, Json, str, list[Json]], list[Json]]:
    def read(reader: Reader, value: Json, path: str, before: list[Json]) -> list[Json]:
        drop(reader, value, {key}, path)
        return answer(reader, value[key], f"{path}.{key}".lstrip("."), before)

    return read


def _conversation(
    reader: Reader, value: Json, path: str, before: list[Json], given: str = ""
) -> list[Json]:
    """Return the messages of an answer that repeats the conversation before it."""
    where = given or f"{path}.messages"
    drop(reader, value, {"messages"}, path)
    if langchain.are_messages(value["messages"]):
        asked = reader.lists["messages"]
        made = langchain.messages(reader, value["messages"], where)
        reader.lists["messages"] = asked
    else:
        made = reader.messages(value["messages"], where)
    said = [_meant(one) for one in before]
    start = len(said) if [_meant(one) for one in made[: len(said)]] == said else 0
    return made[start:]


def _meant(message: Json) -> tuple[Any, Any]:
    return message.get("role"), message.get("content")


def _message(reader: Reader, value: Json, path: str, before: list[Json]) -> list[Json]:
    if "tool_plan" in value:  # Cohere's, written before its calls
        value = {**value, "reasoning_content": value["tool_plan"]}
        del value["tool_plan"]
    if not isinstance(value.get("content"), list):
        return [_chat_message(reader, value, path)]
    if service_of({"messages": [value]}) == "bedrock":
        return bedrock.message(reader, value, path)
    return anthropic.message(reader, {"role": "assistant", **value}, path)


def _chat_message(reader: Reader, message: Json, path: str) -> Json:
    """Return a message of the Chat API, without keys that are null or no part of it."""
    value, path = opened(reader, message, path)
    if not isinstance(value, dict):
        return reader.message(value, path)
    kept = {
        key: one
        for key, one in value.items()
        if key == "content" or (key in _MESSAGE and one not in (None, []))
    }
    drop(reader, value, _MESSAGE, path)
    return reader.message({"role": "assistant", **kept}, path)


# By the key that an answer has, in order of precedence.
_ANSWERS: dict[str, Callable[[Reader, Json, str, list[Json]], list[Json]]] = {
    "choices": _choices("choices"),
    "candidates": _choices("candidates"),
    "generations": _choices("generations"),
    "results": _choices("results"),
    "output": _held("output"),
    "content": _message,
    "tool_calls": _message,
    "messages": _conversation,
    "message": _held("message"),
    "completion": _held("completion"),
    "output_text": _held("output_text"),
    "response": _held("response"),
    "generation": _held("generation"),
    "answer": _held("answer"),
    "text": _held("text"),
}
