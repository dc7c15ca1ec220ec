"""Rows of Anthropic's Messages API: ``system`` beside messages, whose content is a list of blocks.

https://docs.anthropic.com/en/api/messages
https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import Turn, drop, joined, result_text, tool

Json = dict[str, Any]

BLOCKS = frozenset(
    {
        "tool_use", "tool_result", "thinking", "redacted_thinking", "image", "document",
        "server_tool_use", "web_search_tool_result", "search_result",
    }
)  # fmt: skip
_FIXES = {
    "redacted_thinking": "Take the block out: it is encrypted, and no model can learn from it.",
    "document": "Write the text of the document into the message.",
}


def read(reader: Reader) -> Json:
    """Read a request, with the answer as its last message."""
    reader.used |= {"messages", "system", "tools"}
    return conversation(reader, reader.row, "")


def conversation(reader: Reader, row: Json, prefix: str) -> Json:
    """Read the messages, system prompt and tools of a request at ``prefix``."""
    reader.lists["messages"] = f"{prefix}messages"
    listed = row.get("messages")
    messages: list[Json] = []
    if not isinstance(listed, list):
        reader.refuse_type(f"{prefix}messages", listed, "a list of messages")
        listed = []
    if row.get("system"):
        text = joined(reader, row["system"], f"{prefix}system")
        messages.append(reader.said("system", text, f"{prefix}system"))
    for at, one in enumerate(listed):
        messages += message(reader, one, f"{prefix}messages[{at}]")
    return {"messages": messages, **_tools(reader, row.get("tools"), f"{prefix}tools")}


def message(reader: Reader, one: Any, path: str) -> list[Json]:
    """Return the messages of one of Anthropic's: results of calls become messages."""
    if not isinstance(one, dict) or not isinstance(one.get("content"), list):
        return [reader.message(one, path)]
    turn = Turn(reader, one.get("role", "assistant"), path)
    turn.keys = {key: one[key] for key in one.keys() - {"role", "content"} if key in _KEPT}
    drop(reader, one, {"role", "content", *_KEPT}, path.partition("[")[0] + "[]")
    for at, block in enumerate(one["content"]):
        here = f"{path}.content[{at}]"
        if isinstance(block, dict):
            _block(turn, block, here)
        else:
            reader.refuse_type(here, block, "an object with a type")
    return turn.messages()


_KEPT = ("weight", "name", "tool_calls", "tool_call_id")
_KNOWN = frozenset(
    {
        "type", "text", "id", "name", "input", "source", "thinking", "tool_use_id", "content",
        "citations", "data", "image_url", "refusal",
    }
)  # fmt: skip


def _block(turn: Turn, block: Json, path: str) -> None:
    kind = block.get("type")
    drop(turn.reader, block, _KNOWN, path.partition("[")[0] + "[].content[]")
    if kind == "text":
        if block.get("citations"):
            fix = "Write the sources into the text, or take the key out."
            turn.refuse("citations", f"{path}.citations", fix)
        turn.text(block.get("text"), path)
    elif kind == "image":
        _image(turn, block.get("source"), f"{path}.source")
    elif kind == "thinking":
        turn.thought(block.get("thinking"), f"{path}.thinking")
    elif kind == "tool_use":
        turn.call(block, path, ("id", "name", "input"))
    elif kind == "tool_result":
        turn.result(block.get("tool_use_id"), _result(turn, block, path), path)
    elif kind in ("image_url", "refusal"):  # OpenAI's own
        turn.parts.append((block, path))
    else:
        turn.refuse(kind, path, _FIXES.get(str(kind), ""))


def _image(turn: Turn, source: Any, path: str) -> None:
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "base64":
        turn.image(f"data:{source.get('media_type')};base64,{source.get('data')}", f"{path}.data")
    elif kind == "url":
        turn.image(str(source.get("url")), f"{path}.url")
    else:
        fix = "Give the image as base64 or by its https address."
        turn.refuse("an image that is a file at the service", path, fix)


def _result(turn: Turn, block: Json, path: str) -> Any:
    content = block.get("content", "")
    if not isinstance(content, list):
        return result_text(content)
    inner = Turn(turn.reader, "tool", path)
    for at, one in enumerate(content):
        _block(inner, one if isinstance(one, dict) else {}, f"{path}.content[{at}]")
    return inner.messages()[-1]["content"]


def _tools(reader: Reader, given: Any, path: str) -> Json:
    tools: list[Json] = []
    for at, one in enumerate(given if isinstance(given, list) else []):
        here = f"{path}[{at}]"
        if isinstance(one, dict) and "function" in one:
            tools.append(one)
        elif isinstance(one, dict) and one.get("type", "custom") != "custom":
            fix = "A model learns calls of functions: declare it with a schema, or take it out."
            reader.refuse(here, "a tool that the service itself runs", fix=fix)
        else:
            tools += tool(reader, one, here, f"tools[{len(tools)}]", "input_schema")
    if not isinstance(given, list | None):
        reader.refuse_type(path, given, "a list of tools")
    return {"tools": tools} if tools else {}
