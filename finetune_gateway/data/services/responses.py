"""Rows of OpenAI's Responses API: ``input`` and ``output`` of items, ``instructions``.

https://platform.openai.com/docs/api-reference/responses/create
https://platform.openai.com/docs/guides/migrate-to-responses
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import Turn, drop, joined, result_text, tools

Json = dict[str, Any]

PARTS = frozenset({"input_text", "output_text", "input_image", "input_file"})
_MESSAGE = frozenset({"type", "role", "content", "weight"})
_PART = ("type", "text", "image_url", "refusal")
_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
_SENT_BACK = "Write what it says as a message, or take it out."


def is_row(row: Json) -> bool:
    """Return True for a request or a response of this API, with its items under ``input``."""
    given, output = row.get("input"), row.get("output")
    if output is None:
        return _are_items(given)
    return _are_items(output) and (_are_items(given) or isinstance(given, str | None))


def _are_items(value: Any) -> bool:
    """Return True for a list of items of this API: messages, calls and their results."""
    return isinstance(value, list) and any(
        isinstance(one, dict) and (one.get("type") in _ITEMS or "role" in one) for one in value[:8]
    )


def read(reader: Reader) -> Json:
    """Read a request and its response."""
    reader.used |= {"input", "output", "instructions", "tools", "object", "messages"}
    drop(reader, {"object": reader.row.get("object")}, (), "")
    if "messages" in reader.row:
        row, key = {**reader.row, "input": reader.row["messages"]}, "messages"
        made = conversation(reader, row, "", key)
    else:
        made = conversation(reader, reader.row, "")
    return {**made, "messages": reader.with_system(made["messages"])}


def conversation(reader: Reader, row: Json, prefix: str, key: str = "input") -> Json:
    """Read the items, instructions and tools of a request at ``prefix``."""
    reader.lists["messages"] = f"{prefix}{key}"
    messages: list[Json] = []
    if row.get("instructions"):
        where = f"{prefix}instructions"
        messages.append(reader.said("system", joined(reader, row["instructions"], where), where))
    if isinstance(row.get("input"), str):
        messages.append(reader.said("user", row["input"], f"{prefix}{key}"))
        listed: list[tuple[Any, str]] = []
    else:
        listed = _listed(row.get("input"), f"{prefix}{key}")
    listed += _listed(row.get("output"), f"{prefix}output")
    messages += items(reader, listed)
    return {"messages": messages, **tools(reader, row.get("tools"), f"{prefix}tools")}


def _listed(value: Any, path: str) -> list[tuple[Any, str]]:
    if isinstance(value, list):
        return [(one, f"{path}[{at}]") for at, one in enumerate(value)]
    return [({"role": "assistant", "content": value}, path)] if isinstance(value, str) else []


def answer(reader: Reader, output: Any, path: str) -> list[Json]:
    """Return the messages of the items of an answer."""
    return items(reader, _listed(output, path))


def items(reader: Reader, listed: list[tuple[Any, str]]) -> list[Json]:
    """Return the messages of items: reasoning, a text and calls in a row are one message."""
    messages: list[Json] = []
    turn: Turn | None = None  # the assistant's, as long as it goes on
    for one, path in listed:
        if not isinstance(one, dict):
            reader.refuse_type(path, one, "an item")
            continue
        kind = one.get("type", "message")
        of_assistant = kind in ("function_call", "reasoning") or one.get("role") == "assistant"
        if turn and (not of_assistant or (kind != "function_call" and (turn.parts or turn.calls))):
            messages += turn.messages()
            turn = None
        if not of_assistant:
            messages += _other(reader, one, kind, path)
            continue
        turn = turn or Turn(reader, "assistant", path)
        if kind == "function_call":
            turn.call(one, path, ("call_id", "name", "arguments"))
        elif kind == "reasoning":
            _reasoning(turn, one, path)
        else:
            _message(turn, one, path)
    return messages + (turn.messages() if turn and (turn.parts or turn.calls) else [])


def _other(reader: Reader, one: Json, kind: Any, path: str) -> list[Json]:
    """Return the messages of an item that is not the assistant's."""
    turn = Turn(reader, one.get("role", "user"), path)
    if kind == "function_call_output":
        drop(reader, one, {"type", "call_id", "output"}, path)
        output = one.get("output")
        inner = Turn(reader, "tool", path)
        _content(inner, output if isinstance(output, list) else result_text(output), path, "output")
        turn.result(one.get("call_id"), inner.messages()[-1]["content"], path)
    elif kind == "message":
        _message(turn, one, path)
    else:
        turn.refuse(kind, path, _SENT_BACK)
        return []
    return turn.messages()


def _message(turn: Turn, one: Json, path: str) -> None:
    drop(turn.reader, one, _MESSAGE, path)
    if "weight" in one:
        turn.keys["weight"] = one["weight"]
    _content(turn, one.get("content"), path, "content")


def _content(turn: Turn, content: Any, path: str, key: str) -> None:
    if not isinstance(content, list):
        turn.text(content, path, key)
        return
    for at, part in enumerate(content):
        here = f"{path}.{key}[{at}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, dict) and kind != "image_url":
            drop(turn.reader, part, _PART, here)
        if kind in ("input_text", "output_text", "text"):
            if part.get("annotations"):
                fix = "Write the sources into the text, or take the key out."
                turn.refuse("annotations", f"{here}.annotations", fix)
            turn.text(part.get("text"), here)
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            turn.image(part["image_url"], f"{here}.image_url")
        elif kind == "refusal":
            turn.keys["refusal"] = part.get("refusal")
        elif kind == "image_url":
            turn.parts.append((part, here))
        else:
            turn.refuse(kind, here)


def _reasoning(turn: Turn, one: Json, path: str) -> None:
    drop(turn.reader, one, {"type", "summary", "content"}, path)
    for key in ("content", "summary"):
        given = one.get(key)
        listed = [part for part in given if isinstance(part, dict)] if type(given) is list else []
        texts = [part["text"] for part in listed if isinstance(part.get("text"), str)]
        if texts:
            turn.thought("\n\n".join(texts), path)
            for part in listed:
                drop(turn.reader, part, _PART, f"{path}.{key}[]")
            if key == "content":
                drop(turn.reader, one, {"type", "content"}, path)
            return
