"""Conversations that ChatGPT has exported: messages in a tree, where that is a single path."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_access import as_dict
from finetune_gateway.data.row_reader import Reader, is_blank
from finetune_gateway.data.services.turn import drop
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_ROLES = ("system", "user", "assistant")
_PLACE = "mapping[].message"  # of keys that stay here
_NODE = {"id", "parent", "children", "message"}
_OWN = "Write what it says as a message of its own, or leave this conversation out."


def is_row(row: Json) -> bool:
    """Return True for a conversation without branches: no message has two answers."""
    nodes = row["mapping"]
    is_export = isinstance(nodes, dict) and not {"title", "conversation_id"}.isdisjoint(row)
    return is_export and any(nodes[name].get("message") for name in _path(nodes))


def read(reader: Reader) -> Json:
    """Read a conversation of ChatGPT: nodes with a message, from the first to the last.

    https://help.openai.com/en/articles/7260999-how-do-i-export-my-chatgpt-history-and-data
    """
    reader.used.add("mapping")
    reader.lists["messages"] = "mapping"
    messages: list[Json] = []
    nodes = reader.row["mapping"]
    path = _path(nodes)
    for at, name in enumerate(path):
        message, here = nodes[name].get("message"), f"mapping[{at}].message"
        drop(reader, nodes[name], _NODE, "mapping[]")
        if isinstance(message, dict):
            messages += _message(reader, message, here, last=at == len(path) - 1)
        elif message is not None:
            reader.refuse_type(here, message, "an object with author and content")
    return {"messages": messages}


def _path(nodes: Json) -> list[str]:
    """Return the names of all nodes in order; empty if they are no single path."""
    if not all(isinstance(node, dict) and _next(node) is not None for node in nodes.values()):
        return []
    first = [name for name, node in nodes.items() if node.get("parent") is None]
    path = dict.fromkeys(first)
    name = _next(nodes[first[0]]) if len(first) == 1 else ""
    while name in nodes and name not in path:
        path[name] = None
        name = _next(nodes[name])
    return list(path) if len(path) == len(nodes) else []


def _next(node: Json) -> str | None:
    """Return the name of the node that follows, "" for the last; None where several do."""
    children = node.get("children") or [""]
    one = children[0] if isinstance(children, list) and len(children) == 1 else None
    return one if isinstance(one, str) else None


def _message(reader: Reader, message: Json, here: str, *, last: bool) -> list[Json]:
    author, content = as_dict(message.get("author")), as_dict(message.get("content"))
    role, parts, kind = author.get("role"), content.get("parts"), content.get("content_type")
    texts = parts if isinstance(parts, list) else [content.get("text")]
    drop(reader, message, {"author", "content"}, _PLACE)
    drop(reader, author, {"role"}, f"{_PLACE}.author")
    drop(reader, content, {"content_type", "parts"}, f"{_PLACE}.content")
    if kind == "text" and all(map(is_blank, texts)) and not last:
        return []  # as in place of the app's own system prompt, and before a call
    if role not in _ROLES:
        reader.refuse(f"{here}.author.role", "a message of one of ChatGPT's own tools", fix=_OWN)
    elif message.get("recipient") not in (None, "all"):
        reader.refuse(f"{here}.recipient", "a call of one of ChatGPT's own tools", fix=_OWN)
    elif kind != "text":
        reader.refuse(
            f"{here}.content.content_type", f"content of the type {quoted(kind)}", fix=_OWN
        )
    elif len(texts) != 1 or not isinstance(texts[0], str):
        reader.refuse(f"{here}.content.parts", "parts beside a text", fix=_OWN)
    else:
        said = reader.said(role, texts[0], f"{here}.content.parts[0]")
        if role == "assistant" and message.get("weight") == 0:
            said["weight"] = 0
        return [said]
    return []
