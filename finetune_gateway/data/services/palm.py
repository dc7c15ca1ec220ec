"""Chat rows of PaLM (chat-bison): a context, and messages with an author."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import drop

Json = dict[str, Any]

_AUTHORS = {"user": "user", "human": "user", "assistant": "assistant", "bot": "assistant"}


def is_row(row: Json) -> bool:
    """Return True for messages that have an author instead of a role."""
    messages = row["messages"]
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and "author" in first and "role" not in first


def read(reader: Reader) -> Json:
    """Read rows of chat-bison (PaLM): a context, and messages with an author.

    https://cloud.google.com/vertex-ai/generative-ai/docs/models/tune-chat-models
    """
    reader.used |= {"messages", "context", "examples"}
    messages: list[Json] = []
    if not reader.is_empty("context"):
        messages.append(reader.said("system", reader.row["context"], "context"))
    for at, one in enumerate(reader.row["messages"]):
        here = f"messages[{at}]"
        author = one.get("author") if isinstance(one, dict) else None
        role = _AUTHORS.get(author.lower()) if isinstance(author, str) else None
        if role:
            drop(reader, one, {"author", "content"}, here)
            messages.append(reader.said(role, one.get("content"), f"{here}.content"))
        else:
            reader.refuse(f"{here}.author", "an author that is neither user nor assistant")
    if reader.row.get("examples"):
        fix = "Write them into the context, or as messages of their own before the others."
        reader.refuse("examples", "examples beside the conversation", fix=fix)
    return {"messages": messages}
