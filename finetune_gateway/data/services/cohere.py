"""Rows of Cohere's first Chat API: ``message`` and ``chat_history``, the answer is ``text``.

https://docs.cohere.com/v1/reference/chat
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import drop

Json = dict[str, Any]

KEYS = frozenset({"message", "chat_history", "preamble"})
_ROLES = {"user": "user", "chatbot": "assistant", "system": "system"}
_LOST = ("documents", "tools", "tool_results", "connectors")


def is_row(row: Json) -> bool:
    """Return True for a message, or a history that ends with an answer."""
    return isinstance(row["chat_history"], list) and "messages" not in row


def read(reader: Reader) -> Json:
    """Read a request and the answer beside it."""
    reader.used |= {*KEYS, "text"}
    made: list[Json] = conversation(reader, reader.row, "")["messages"]
    text = reader.row.get("text")
    repeated = made and made[-1]["role"] == "assistant" and made[-1]["content"] == text
    if isinstance(text, str) and not repeated:
        made.append(reader.said("assistant", text, "text"))
    return {"messages": made}


def conversation(reader: Reader, row: Json, prefix: str) -> Json:
    """Read a request at ``prefix``."""
    reader.lists["messages"] = f"{prefix}chat_history"
    messages: list[Json] = []
    if row.get("preamble"):
        messages.append(reader.said("system", row["preamble"], f"{prefix}preamble"))
    history = row.get("chat_history")
    for at, one in enumerate(history if isinstance(history, list) else []):
        here = f"{prefix}chat_history[{at}]"
        role = one.get("role") if isinstance(one, dict) else None
        meant = _ROLES.get(role.lower()) if isinstance(role, str) else None
        if meant is None or not isinstance(one.get("message"), str):
            reader.refuse(here, "a turn without a role of Cohere's and a message")
            continue
        drop(reader, one, {"role", "message"}, here)
        messages.append(reader.said(meant, one["message"], f"{here}.message"))
    if isinstance(row.get("message"), str):
        messages.append(reader.said("user", row["message"], f"{prefix}message"))
    for key in _LOST:
        if row.get(key):
            fix = (
                "Write what the model reads of them into the message, or leave them out on purpose."
            )
            reader.refuse(f"{prefix}{key}", f"a chat row has no {key!r} in this form", fix=fix)
            reader.used.add(key)
    return {"messages": messages}
