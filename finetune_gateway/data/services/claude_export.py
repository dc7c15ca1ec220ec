"""Conversations that Claude's app has exported: messages with a sender."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import drop

Json = dict[str, Any]

_SENDERS = {"human": "user", "assistant": "assistant"}


def is_row(row: Json) -> bool:
    """Return True for a conversation that Claude's app has exported."""
    listed = row["chat_messages"]
    first = listed[0] if isinstance(listed, list) and listed else None
    return isinstance(first, dict) and "sender" in first


def read(reader: Reader) -> Json:
    """Read a conversation of Claude's app: messages with a sender and a text.

    https://support.anthropic.com/en/articles/9450526-how-can-i-export-my-claude-data
    """
    reader.used.add("chat_messages")
    reader.lists["messages"] = "chat_messages"
    messages: list[Json] = []
    for at, one in enumerate(reader.row["chat_messages"]):
        here = f"chat_messages[{at}]"
        role = _SENDERS.get(str(one.get("sender"))) if isinstance(one, dict) else None
        if role is None:
            reader.refuse(f"{here}.sender", "a sender that is neither human nor assistant")
            continue
        drop(reader, one, {"sender", "text", "content", "attachments", "files"}, here)
        for key in ("attachments", "files"):
            if one.get(key):
                reader.refuse(f"{here}.{key}", "files are not in the conversation", fix=_FILES)
        blocks = one["content"] if isinstance(one.get("content"), list) else []
        odd = [block for block in blocks if not isinstance(block, dict) or "text" not in block]
        if odd:
            reader.refuse(f"{here}.content", "blocks that are no text: calls, or thinking")
        messages.append(reader.said(role, one.get("text"), f"{here}.text"))
    return {"messages": messages}


_FILES = "Write what the model reads of them into the text, or leave them out on purpose."
