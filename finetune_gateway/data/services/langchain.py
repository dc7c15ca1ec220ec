"""Messages of LangChain, as its own functions and LangSmith write them: a type instead of a role.

https://reference.langchain.com/python/langchain-core/messages
https://docs.langchain.com/langsmith/run-data-format
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import Turn, drop, tools
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_ROLES = {
    "human": "user", "user": "user", "ai": "assistant", "assistant": "assistant",
    "system": "system", "developer": "developer", "tool": "tool", "function": "function",
    "humanmessage": "user", "aimessage": "assistant", "systemmessage": "system",
    "toolmessage": "tool", "functionmessage": "function",
}  # fmt: skip
_MESSAGE = {"content", "type", "tool_calls", "tool_call_id", "name", "additional_kwargs", "role"}
_ENVELOPE = ("lc", "type", "id", "kwargs", "data")
_BLOCK = ("type", "text", "image_url", "thinking", "reasoning")
_CALLS = ("tool_use", "tool_call", "function_call")
_CALL_KEYS = ("id", "name", "args")


def is_message(value: Any) -> bool:
    """Return True for a message of LangChain: dumped, as a dict with ``data``, or flat."""
    if not isinstance(value, dict) or ("role" in value and "lc" not in value):
        return False
    return _kind(value) in _ROLES and isinstance(_fields(value, "")[0].get("content"), str | list)


def are_messages(value: Any) -> bool:
    """Return True for a list of such messages, or LangSmith's list with one such list."""
    first = value[0] if isinstance(value, list) and value else None
    return are_messages(first) if isinstance(first, list) else is_message(first)


def is_answer(value: Any) -> bool:
    """Return True for a message of the model."""
    return is_message(value) and _ROLES[_kind(value)] == "assistant"


def _kind(value: Json) -> str:
    """Return the type of a message in small letters: ``human``, or ``humanmessage``."""
    name = value.get("type")
    if isinstance(value.get("kwargs"), dict):
        path = value.get("id")
        name = path[-1] if isinstance(path, list) and path else ""
    return name.lower().removesuffix("chunk") if isinstance(name, str) else ""


def _fields(value: Json, path: str) -> tuple[Json, str]:
    """Return the fields of a message and where they are."""
    for key in ("kwargs", "data"):
        if isinstance(value.get(key), dict):
            return value[key], f"{path}.{key}"
    return value, path


def read(reader: Reader) -> Json:
    """Read a row of messages."""
    reader.used |= {"messages", "tools"}
    read = conversation(reader, reader.row, "")
    return {**read, "messages": reader.with_system(read["messages"])}


def conversation(reader: Reader, row: Json, prefix: str) -> Json:
    """Read the messages and tools of a request at ``prefix``."""
    made = messages(reader, row["messages"], f"{prefix}messages")
    return {"messages": made, **tools(reader, row.get("tools"), f"{prefix}tools")}


def messages(reader: Reader, listed: list[Any], path: str) -> list[Json]:
    """Return the messages of a list at ``path``, or of the one list in it."""
    if listed and isinstance(listed[0], list):
        if len(listed) > 1:
            reader.refuse(path, f"{len(listed)} conversations", fix="Write one row for each.")
        listed, path = listed[0], f"{path}[0]"
    reader.lists["messages"] = path
    return [made for at, one in enumerate(listed) for made in message(reader, one, f"{path}[{at}]")]


def message(reader: Reader, one: Any, path: str) -> list[Json]:
    """Return the message, or the result of a call."""
    if not is_message(one):
        return [reader.message(one, path)]
    fields, here = _fields(one, path)
    if fields is not one:
        drop(reader, one, _ENVELOPE, path)
    drop(reader, fields, _MESSAGE, here)
    turn = Turn(reader, _ROLES[_kind(one)], here)
    if turn.role == "tool":
        inner = Turn(reader, "tool", here)
        _content(inner, fields["content"], here, [])
        turn.result(fields.get("tool_call_id"), inner.messages()[-1]["content"], here)
        return turn.messages()
    if isinstance(fields.get("name"), str):
        turn.keys["name"] = fields["name"]
    beside = fields.get("additional_kwargs")
    beside = beside if isinstance(beside, dict) else {}
    drop(reader, beside, _BESIDE, f"{here}.additional_kwargs")
    turn.thought(beside.get("reasoning_content") or "", f"{here}.additional_kwargs")
    turn.keys |= {key: beside[key] for key in ("refusal", "function_call") if beside.get(key)}
    calls = [call for call in _listed(fields, "tool_calls") if isinstance(call, dict)]
    _content(turn, fields["content"], here, calls)
    for at, call in enumerate(calls):
        turn.call(call, f"{here}.tool_calls[{at}]", _CALL_KEYS)
    if not calls and _listed(beside, "tool_calls"):
        turn.keys["tool_calls"] = beside["tool_calls"]  # OpenAI's own
    if _listed(fields, "invalid_tool_calls"):
        reader.refuse(f"{here}.invalid_tool_calls", "a call whose arguments are no JSON")
    return turn.messages()


_BESIDE = ("reasoning_content", "refusal", "function_call", "tool_calls")


def _listed(value: Json, key: str) -> list[Any]:
    given = value.get(key)
    return given if isinstance(given, list) else []


def _content(turn: Turn, content: Any, path: str, called: list[Json]) -> None:
    """Add a text or blocks. ``called``: the calls that stand beside them, and may be blocks too."""
    if isinstance(content, str):
        if content or not called:
            turn.text(content, path, "content")
        return
    for at, block in enumerate(content):
        here = f"{path}.content[{at}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(block, dict) and kind not in _CALLS:
            drop(turn.reader, block, _BLOCK, here)
        if isinstance(block, str):
            turn.parts.append(({"type": "text", "text": block}, here))
        elif kind == "text":
            turn.text(block.get("text"), here)
        elif kind == "image_url":
            url = block.get("image_url")
            turn.image(url if isinstance(url, str) else _url(url), f"{here}.image_url")
        elif kind in ("thinking", "reasoning"):
            turn.thought(block.get(kind, ""), f"{here}.{kind}")
        elif kind in _CALLS and (same := _same(block, called)):
            known = {"type", *_CALL_KEYS, "index"}
            repeated = {"input"} if block.get("input") == same.get("args") else set()
            drop(turn.reader, block, known | repeated, here)
        else:
            turn.refuse(kind or quoted(block), here)


def _same(block: Json, calls: list[Json]) -> Json:
    """Return the call that a block repeats, or {}."""
    return next((call for call in calls if call.get("id") == block.get("id")), {})


def _url(given: Any) -> str:
    return str(given.get("url", "")) if isinstance(given, dict) else ""
