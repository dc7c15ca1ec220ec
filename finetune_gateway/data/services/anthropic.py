"""Rows of Anthropic's Messages API: ``system`` beside messages, whose content is a list of blocks.

https://docs.anthropic.com/en/api/messages
https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import (
    Turn,
    drop,
    of_blocks,
    result_text,
    tools,
    walk,
)

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
    messages = walk(reader, row, prefix, message)
    return {"messages": messages, **tools(reader, row.get("tools"), f"{prefix}tools")}


def message(reader: Reader, one: Any, path: str) -> list[Json]:
    """Return the messages of one of Anthropic's: results of calls become messages."""
    return of_blocks(reader, one, path, _block, _KEPT)


_KEPT = ("weight", "name", "tool_calls", "tool_call_id", "reasoning_content")
_KNOWN = frozenset(
    {
        "type", "text", "id", "name", "input", "source", "thinking", "tool_use_id", "content",
        "citations", "data", "image_url", "refusal",
    }
)  # fmt: skip


def _block(turn: Turn, block: Json, path: str) -> None:
    kind = block.get("type")
    if kind != "tool_use":  # whose keys are a call's
        drop(turn.reader, block, _KNOWN, path)
    if kind == "text":
        if block.get("citations"):
            fix = "Write the sources into the text, or take the key out."
            turn.refuse("citations", f"{path}.citations", fix)
        turn.text(block.get("text"), path)
    elif kind == "image":
        _image(turn, block.get("source"), f"{path}.source")
    elif kind == "thinking":
        thought = block.get("thinking")
        if isinstance(thought, list):  # Mistral's: a list of texts
            thought = "".join(str(one.get("text", "")) for one in thought if isinstance(one, dict))
        turn.thought(thought, f"{path}.thinking")
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
