"""Read one row of any format: its messages, turns, texts and tools, with what cannot be read.

Each part that a reader makes remembers the field of the user's row that it comes from
(``CanonicalRow.origin``). What cannot be read without loss is an error with the code of its rule.
"""

from __future__ import annotations

import re
from typing import Any

from finetune_gateway.data.canonical_row import MESSAGE_KEYS, TOOL_KEYS
from finetune_gateway.data.cells import holds_messages, listed
from finetune_gateway.data.row_access import blank
from finetune_gateway.data.sharegpt import (
    REASONING,
    TRAINED,
    ConversionError,
    TurnReader,
    call_errors,
    no_text,
    with_string_arguments,
    wrong_type,
)
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_INDEX = re.compile(r"\[\d+\]")
_DETAILS = ("train_detail", "training_detail")  # Axolotl's
MARKS = frozenset({*TRAINED, *_DETAILS})
FAILED = (
    "Leave the line out: there is nothing to learn from a request that failed; --fix does: "
    "ftg validate old.jsonl --fix new.jsonl"
)
_AS_LIST = "Write them as a list; --fix does: ftg validate old.jsonl --fix new.jsonl"
_READ = MESSAGE_KEYS.union(REASONING)  # of a message
# Other keys of a message that may be part of what is said: they are left to be judged.
_SAID = TOOL_KEYS | {
    "image", "images", "image_url", "video", "videos", "audios", "files", "cot", "rationale",
    "reasoning_text", "think", "thought", "thoughts",
}  # fmt: skip
_CALL_KEYS = frozenset({"tool_calls", "function_call"})
SYSTEM_KEYS = ("system", "system_prompt", "system_message", "systemPrompt")


class Reader:
    """Reads one row. ``used``: the keys it has read; ``lists``: the key of each list of messages;
    ``origins``: of each message, its path in the user's row and its form there; ``unsent``: keys
    within others that are not part of the example; ``marked``: True if a message had its weight
    under another name."""

    def __init__(self, row: Json) -> None:
        self.row = row
        self.errors: list[ConversionError] = []
        self.origins: dict[int, tuple[str, str | dict[str, str]]] = {}
        self.lists: dict[str, str] = {}
        self.used: set[str] = set()
        self.unsent: dict[str, None] = {}
        self.marked = False

    def refuse(self, path: str, reason: str, code: str = "not_convertible", fix: str = "") -> None:
        """Note an error."""
        self.errors.append(ConversionError(path, reason, code, fix))

    def refuse_type(self, path: str, value: Any, expected: str) -> None:
        """Note a value of the wrong type."""
        self.errors.append(wrong_type(path, value, expected))

    def refuse_text(self, path: str, value: Any, expected: str = "a string") -> None:
        """Note a value that should be a text, with the way to one."""
        self.errors.append(no_text(path, value, expected))

    def said(self, role: str, text: Any, path: str) -> Json:
        """Return a message made of a text."""
        return self.noted({"role": role, "content": text}, path, "text")

    def noted(self, message: Json, path: str, form: str | dict[str, str]) -> Json:
        """Return a message, whose origin is noted."""
        self.origins[id(message)] = (path, form)
        return message

    def messages(self, messages: Any, path: str) -> list[Json]:
        """Return messages with the arguments of their calls as strings."""
        if not isinstance(messages, list):
            self.refuse_type(path, messages, "a list of messages")
            return []
        return [self.message(one, f"{path}[{index}]") for index, one in enumerate(messages)]

    def message(self, message: Any, path: str) -> Json:
        """Return a copy of a message, with the arguments of its calls as strings."""
        if not isinstance(message, dict):
            self.refuse_type(path, message, "an object with role and content")
            return self.noted({"role": "user", "content": ""}, path, "text")
        if is_marked(message):
            message = self._weighted(message, path)
        if not _READ.issuperset(message):
            message = self._without_others(message, path)
        if "role" not in message:
            self.refuse(f"{path}.role", "a message without 'role'", "missing_role")
        elif not isinstance(message["role"], str):
            self.refuse_type(f"{path}.role", message["role"], "a string")
        elif _CALL_KEYS.isdisjoint(message):  # most messages; a copy, for weights are set in it
            return self.noted(dict(message), path, "message")
        else:
            self.errors += call_errors(message, path)
        return self.noted(with_string_arguments(message), path, "message")

    def _weighted(self, message: Json, path: str) -> Json:
        """Return a message with its loss or train as its weight."""
        self.marked = True
        read = {key: value for key, value in message.items() if key not in MARKS}
        for key in (key for key in _DETAILS if message.get(key)):
            what = "parts of an answer that are trained, and others that are not"
            self.refuse(f"{path}.{key}", what, fix="Write a weight for the whole answer: 0 or 1.")
        for key in TRAINED:
            value, here = message.get(key), f"{path}.{key}"
            if value is None:
                continue
            if value not in (0, 1):
                fix = "Write weight: 1 to train on the message, 0 not to."
                self.refuse(here, f"{key!r} is {quoted(value)}, not true or false", fix=fix)
            elif message.get("role") != "assistant":
                self.unsent[f"{re.sub(_INDEX, '[]', path)}.{key}"] = None
            elif read.setdefault("weight", int(value)) != value:
                fix = "Keep the one that is meant."
                self.refuse(here, f"{key!r} says otherwise than another key", fix=fix)
        return read

    def _without_others(self, message: Json, path: str) -> Json:
        """Return a message without the keys that are no part of it, such as an address or a mood;
        as it is if it says nothing by the keys that it should have."""
        if message.get("content") is None and _CALL_KEYS.isdisjoint(message):
            return message
        others = [
            key
            for key in message
            if key not in _READ and key not in _SAID and key.strip().lower() not in _READ
        ]
        for key in others:
            if message[key] not in (None, "", [], {}) or message[key] is False:
                self.unsent[f"{re.sub(_INDEX, '[]', path)}.{key}"] = None
        return {key: value for key, value in message.items() if key not in others}

    def turns(self, turns: Any, path: str) -> list[Json]:
        """Return the messages of ShareGPT turns."""
        messages = TurnReader(self.errors, self.unsent).messages(turns, path)
        places = [
            f"{path}[{index}]"
            for index, turn in enumerate(turns if isinstance(turns, list) else [])
            if isinstance(turn, dict)
        ]
        for message, place in zip(messages, places, strict=True):
            self.noted(message, place, "turn")
        return messages

    def turns_or_messages(self, value: Any, path: str) -> list[Json]:
        """Return the messages of a list of ShareGPT turns, or of messages."""
        first = value[0] if isinstance(value, list) and value else None
        is_chat = isinstance(first, dict) and "role" in first and "from" not in first
        return self.messages(value, path) if is_chat else self.turns(value, path)

    def spoken(self, key: str, role: str) -> list[Json]:
        """Return the messages of a field: a text by ``role``, TRL's messages, or ShareGPT turns."""
        self.used.add(key)
        value = self.row.get(key)
        if value == []:
            self.refuse(key, f"{key!r} is empty", "empty_messages")
        if isinstance(value, list):
            by_turns = bool(value) and isinstance(value[0], dict) and "from" in value[0]
            return self.turns(value, key) if by_turns else self.messages(value, key)
        if isinstance(value, dict) and "from" in value:
            turn = TurnReader(self.errors, self.unsent).message(value, key)
            return [self.noted(turn, key, "turn")]
        if isinstance(value, dict) and isinstance(value.get("messages"), list):
            self.unsent |= {f"{key}.{other}": None for other in value if other != "messages"}
            return self.messages(value["messages"], f"{key}.messages")
        if isinstance(value, dict) and not {"role", "content", "tool_calls"}.isdisjoint(value):
            return [self.message(value, key)]
        if not isinstance(value, str):
            self.refuse_text(key, value, "a string or a list of messages")
        elif value.lstrip()[:1] in ("[", "{") and holds_messages(listed(value)[0]):
            self.refuse(key, "messages that were written as a text", "type_error", _AS_LIST)
        return [self.said(role, value, key)]

    def with_system(
        self, messages: list[Json], holder: Json | None = None, prefix: str = ""
    ) -> list[Json]:
        """Return a conversation that begins with the system prompt of the row, or of the part of it
        at ``prefix``, if it has one."""
        holder = self.row if holder is None else holder
        if holder is self.row:
            self.used |= {*SYSTEM_KEYS}
        key, *more = [key for key in SYSTEM_KEYS if not is_blank(holder.get(key))] or [""]
        if not key:
            return messages
        text = holder[key]
        if any(holder[other] != text for other in more):
            self.refuse(prefix + more[0], f"{key!r} holds another system prompt")
        if not isinstance(text, str):
            self.refuse_text(prefix + key, text)
            return messages
        first = messages[0] if messages else {}
        if first.get("role") not in ("system", "developer"):
            return [self.said("system", text, prefix + key), *messages]
        if first.get("content") != text:
            self.refuse(prefix + key, "the conversation has another system prompt of its own")
        return messages

    def is_empty(self, key: str) -> bool:
        """Return True if the row has no such key, or null or a blank text there."""
        return is_blank(self.row.get(key))

    def tools(self) -> Json:
        """Return the row's ``tools``, if it has any."""
        self.used.add("tools")
        given: Any = self.row.get("tools")
        tools = [] if given is None else TurnReader(self.errors).tools(given)
        if isinstance(given, str):
            self.lists["tools"] = "tools"
        elif tools:
            bare = (f"tools[{at}]" for at, tool in enumerate(given) if "function" not in tool)
            self.lists |= {f"{path}.function": path for path in bare}
        return {"tools": tools} if tools else {}


def is_blank(value: Any) -> bool:
    """Return True for null, and for a text without a visible character."""
    return value is None or (isinstance(value, str) and blank(value))


def is_marked(message: Any) -> bool:
    """Return True for a message that says by ``loss`` or ``train`` whether it is trained.

    https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
    https://docs.axolotl.ai/docs/dataset-formats/conversation.html
    """
    return type(message) is dict and len(message) > 2 and not MARKS.isdisjoint(message)
