"""What is trained of a row, in one writing: by this rows are compared.

Two rows are *the same* if it is equal, whatever their format, the order of keys, the spaces and
escapes of the JSON, and keys that are not trained on (an id, say). They are *nearly* the same if
only case and white space of their texts differ. ``duplicates``, ``--fix``, splits and leaks all ask
here.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

from finetune_gateway.data.canonical import read
from finetune_gateway.data.canonical_row import CHAT_KEYS, PAIR_KEYS, CanonicalRow
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.row_access import as_dict

Json = dict[str, Any]

# What is trained on, or with: of a conversation, a pair, a text.
_TRAINED = CHAT_KEYS | PAIR_KEYS | {"label", "text"}
_OLDER = {  # keys of older guides
    "preferred_completion": "preferred_output",
    "non_preferred_completion": "non_preferred_output",
}
_LISTS = ("messages", "preferred_output", "non_preferred_output")
_ANY_LISTS = (*_LISTS, *_OLDER)
LONG = 1 << 20  # characters; folding a longer text would take 30 bytes for each word


def same_digest(row: Json, sent: CanonicalRow | None = None) -> bytes:
    """Return 16 bytes that are equal for rows that are the same. ``sent``: as for ``content``."""
    return _digest(content(row, sent))


def near_digest(row: Json) -> bytes:
    """Return 16 bytes that are equal for rows that differ only in case and white space."""
    return _digest(_with_texts(content(row), folded_text))


def both_digests(row: Json) -> tuple[bytes, bytes]:
    """Return the digest by which rows are the same, and that by which they nearly are."""
    held = content(row)
    return _digest(held), _digest(_with_texts(held, folded_text))


def is_example(row: Json, sent: CanonicalRow | None = None) -> bool:
    """Return True for a row that can be learned from by itself; False for one of no known format,
    which may be a piece of something larger: a message of a chat, a part of a streamed answer.
    ``sent``: as for ``content``."""
    sent = sent or _read(row)
    return sent is not None and all(error.code != "unknown_format" for error in sent.errors)


def content(row: Json, sent: CanonicalRow | None = None) -> Json:
    """Return what is trained of a row; all of a row that cannot be read. ``sent``: its canonical
    row, if that is known."""
    sent = sent or _read(row)
    if sent is None or sent.errors:
        return row
    held = {_OLDER.get(key, key): value for key, value in sent.row.items()}
    made = {key: held[key] for key in _TRAINED if held.get(key) not in (None, [], "")}
    for key in _LISTS:
        if isinstance(made.get(key), list):
            made[key] = [_message(one) for one in made[key]]
    if isinstance(made.get("input"), dict):
        made["input"] = content(made["input"], CanonicalRow(made["input"]))
    if "messages" in made and _is_prompt(made["messages"]):  # what grades it is in other keys
        made |= {key: value for key, value in row.items() if key not in made}
    return made or row


def outline(row: Json, sent: CanonicalRow | None = None) -> list[str]:
    """Return the roles and texts of a row: together equal for rows that are the same, and nearly
    always others for others."""
    sent = sent or _read(row)
    if sent is not None and not sent.errors:
        inner = sent.row.get("input")
        roles: list[str] = []
        texts: list[str] = []
        for holder in (sent.row, inner) if isinstance(inner, dict) else (sent.row,):
            for key in _ANY_LISTS:
                if isinstance(value := holder.get(key), list):
                    _add_texts(value, roles, texts)
        if isinstance(text := sent.row.get("text"), str):
            texts.append(text)
        if texts:
            return roles + texts
    return [json.dumps(row, sort_keys=True, ensure_ascii=False)]


def _add_texts(messages: list[Any], roles: list[str], texts: list[str]) -> None:
    for message in messages:
        if not isinstance(message, dict):
            continue
        if isinstance(role := message.get("role"), str):
            roles.append(role)
        value = message.get("content")
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            texts += filter(None, map(_text_of, value))


def media_digests(row: Json) -> Iterator[str]:
    """Yield what stands for each image, sound or file of a row that was read."""
    holders = [row, row["input"]] if isinstance(row.get("input"), dict) else [row]
    for holder in holders:
        for key in _ANY_LISTS:
            for message in holder.get(key) or ():
                parts = message.get("content") if isinstance(message, dict) else None
                for part in parts if isinstance(parts, list) else ():
                    if isinstance(part, dict) and _text_of(part) is None:
                        yield _digest(part).hex()


def _read(row: Json) -> CanonicalRow | None:
    """Return the canonical row; None if no format is known."""
    return read(row) if format_of(row) else None


def _message(message: Any) -> Any:
    """Return a message without what is usual or empty; images and the like as digests."""
    if not isinstance(message, dict):
        return message
    kept = {key: value for key, value in message.items() if value not in (None, [], "")}
    if kept.get("weight") == 1:
        del kept["weight"]
    if isinstance(parts := kept.get("content"), list):
        read = [_text_of(part) or {"digest": _digest(part).hex()} for part in parts]
        kept["content"] = read[0] if len(read) == 1 and isinstance(read[0], str) else read
    if isinstance(calls := kept.get("tool_calls"), list):
        kept["tool_calls"] = [_call(call) for call in calls]
    return kept


def _call(call: Any) -> Any:
    """Return a call with its arguments as a value."""
    function = as_dict(as_dict(call).get("function"))
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        return {**call, "function": {**function, "arguments": json.loads(arguments)}}
    except (ValueError, RecursionError):
        return call


def _text_of(part: Any) -> str | None:
    """Return the text of a part of a content; None for an image and the like."""
    if isinstance(part, dict) and part.get("type", "text") == "text" and len(part) <= 2:
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None


def _is_prompt(messages: Any) -> bool:
    """Return True for messages without an answer at the end, as reinforcement has them."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    return not isinstance(last, dict) or last.get("role") != "assistant"


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value with all its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _with_texts(one, change) for key, one in value.items()}
    return [_with_texts(one, change) for one in value] if isinstance(value, list) else value


def folded_text(text: str) -> str:
    """Return a text without case, and with one space for all white space; a very long one as it
    is."""
    if len(text) > LONG:
        return text
    plain = text if text.isascii() else unicodedata.normalize("NFC", text)
    return " ".join(plain.casefold().split())
