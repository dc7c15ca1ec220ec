"""One turn of another service, made of its blocks into messages of the canonical form.

A service has calls, results, thinking and images as blocks of a turn; the canonical form has calls
and reasoning as keys of a message, and each result as a message of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.sharegpt import as_string
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_INDEX = re.compile(r"\[\d+\]")
_NO_ORDER = "a chat row has the reasoning of a message first, then its text, then its calls"


class Turn:
    """The blocks of one turn, in order. ``path``: of the turn in the user's row."""

    def __init__(self, reader: Reader, role: Any, path: str) -> None:
        if not isinstance(role, str):
            reader.refuse_type(f"{path}.role", role, "a string")
            role = "user"
        self.reader, self.role, self.path = reader, role, path
        self.parts: list[tuple[Json, str]] = []
        self.calls: list[tuple[Json, str, str, str]] = []
        self.thoughts: list[tuple[str, str]] = []
        self.results: list[Json] = []
        self.keys: Json = {}  # further keys of the message

    def text(self, text: Any, path: str, key: str = "text") -> None:
        """Add a text, which is at a key of the block at ``path``."""
        if not isinstance(text, str):
            self.reader.refuse_text(f"{path}.{key}", text)
        elif self.calls and text.strip():
            self.reader.refuse(path, f"a text after a call: {_NO_ORDER}")
        else:
            self.parts.append(({"type": "text", "text": text}, f"{path}.{key}"))

    def image(self, url: str, path: str) -> None:
        """Add an image by its address, which is at ``path``."""
        self.parts.append(({"type": "image_url", "image_url": {"url": url}}, path))

    def thought(self, text: Any, path: str) -> None:
        """Add reasoning."""
        if not isinstance(text, str):
            self.reader.refuse_text(path, text)
        elif text and (self.calls or self.parts):
            self.reader.refuse(path, f"reasoning after a text or a call: {_NO_ORDER}")
        elif text:
            self.thoughts.append((text, path))

    def call(self, call: Json, path: str, keys: tuple[str, str, str]) -> None:
        """Add a call: ``keys`` are those of its id, its name and its arguments."""
        call_id, name, arguments = (call.get(key) for key in keys)
        if not isinstance(name, str) or not isinstance(call_id, str):
            missing = keys[0] if isinstance(name, str) else keys[1]
            self.reader.refuse(f"{path}.{missing}", f"a call without {missing!r}")
            return
        drop(self.reader, call, {*keys, "type"}, path)
        written = as_string({} if arguments is None else arguments)
        function = {"name": name, "arguments": written}
        made = {"id": call_id, "type": "function", "function": function}
        self.calls.append((made, f"{path}.{keys[0]}", f"{path}.{keys[1]}", f"{path}.{keys[2]}"))

    def result(self, call_id: Any, content: Any, path: str) -> None:
        """Add the result of a call: a text, or parts that are in the canonical form."""
        if not isinstance(call_id, str):
            self.reader.refuse(path, "a result without the id of its call")
            return
        message = {"role": "tool", "tool_call_id": call_id, "content": content}
        self.results.append(self.reader.noted(message, path, "text"))

    def refuse(self, kind: Any, path: str, fix: str = "") -> None:
        """Refuse a block of a kind that a chat row does not have."""
        fix = fix or "Write what it says as a text, or leave it out on purpose."
        self.reader.refuse(path, f"a chat row cannot hold {quoted(kind)}", fix=fix)

    def messages(self) -> list[Json]:
        """Return its messages: the results, then the turn itself."""
        if self.results and not (self.parts or self.calls or self.thoughts):
            return self.results
        message: Json = {"role": self.role, **self.keys}
        fields: dict[str, str] = {}
        texts = [part["text"] for part, _ in self.parts if part["type"] == "text"]
        if len(self.parts) == 1 and texts:
            message["content"] = texts[0]
            fields[".content"] = self.parts[0][1]
        elif self.parts:
            message["content"] = [part for part, _ in self.parts]
            for at, (part, path) in enumerate(self.parts):
                inner = ".text" if part["type"] == "text" else ".image_url.url"
                fields[f".content[{at}]"] = path
                fields[f".content[{at}]{inner}"] = path
        elif not self.calls:
            message["content"] = ""
        if self.thoughts:
            message["reasoning_content"] = "\n\n".join(text for text, _ in self.thoughts)
            fields[".reasoning_content"] = self.thoughts[0][1]
        if self.calls:
            message["tool_calls"] = [call for call, *_ in self.calls]
        for at, (_, call_id, name, arguments) in enumerate(self.calls):
            here = f".tool_calls[{at}]"
            fields[here] = call_id.rpartition(".")[0]
            fields[f"{here}.id"] = call_id
            fields[f"{here}.function.name"] = name
            fields[f"{here}.function.arguments"] = arguments
        return [*self.results, self.reader.noted(message, self.path, fields)]


def walk(
    reader: Reader, row: Json, prefix: str, message: Callable[[Reader, Any, str], list[Json]]
) -> list[Json]:
    """Return the messages of a request at ``prefix``: its system text, and what ``message`` makes
    of each of its messages."""
    reader.lists["messages"] = f"{prefix}messages"
    messages: list[Json] = []
    if row.get("system"):
        text = joined(reader, row["system"], f"{prefix}system")
        messages += [reader.said("system", text, f"{prefix}system")] if text else []
    listed = row.get("messages")
    if not isinstance(listed, list):
        reader.refuse_type(f"{prefix}messages", listed, "a list of messages")
        return messages
    for at, one in enumerate(listed):
        messages += message(reader, one, f"{prefix}messages[{at}]")
    return messages


def of_blocks(
    reader: Reader, one: Any, path: str, block: Callable[[Turn, Json, str], None],
    kept: tuple[str, ...] = (),
) -> list[Json]:  # fmt: skip
    """Return the messages of one message, whose content is a list of blocks, each added by
    ``block``: results of calls become messages of their own."""
    if not isinstance(one, dict) or not isinstance(one.get("content"), list):
        return [reader.message(one, path)]
    turn = Turn(reader, one.get("role", "assistant"), path)
    turn.keys = {key: one[key] for key in kept if key in one}
    drop(reader, one, {"role", "content", *kept}, path)
    for at, given in enumerate(one["content"]):
        here = f"{path}.content[{at}]"
        if isinstance(given, dict):
            block(turn, given, here)
        else:
            reader.refuse_type(here, given, "an object")
    return turn.messages()


def joined(reader: Reader, blocks: Any, path: str) -> str | list[Json]:
    """Return texts of blocks with a ``text``: one as a text, several as parts. Marks of caches say
    nothing."""
    parts: list[Json] = []
    for at, block in enumerate(blocks if isinstance(blocks, list) else [blocks]):
        here = f"{path}[{at}]" if isinstance(blocks, list) else path
        text = block.get("text") if isinstance(block, dict) else block
        if isinstance(block, dict):
            drop(reader, block, {"type", "text", "cachePoint"}, here)
        if isinstance(text, str):
            parts.append({"type": "text", "text": text})
        elif not isinstance(block, dict) or "cachePoint" not in block:
            reader.refuse(here, "a chat row has only texts here")
    return parts[0]["text"] if len(parts) == 1 else parts if parts else ""


def result_text(value: Any) -> str:
    """Return the value of a result as a text, JSON if it is not one."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tools(reader: Reader, given: Any, path: str) -> Json:
    """Return the tools of a list at ``path``: OpenAI's, or functions with their schema in
    ``input_schema`` (Anthropic) or ``parameters`` (Responses)."""
    read: list[Json] = []
    for at, one in enumerate(given if isinstance(given, list) else []):
        here = f"{path}[{at}]"
        if isinstance(one, dict) and "function" in one:
            reader.lists[f"tools[{len(read)}]"] = here
            read.append(one)
        elif isinstance(one, dict) and one.get("type", "function") not in ("function", "custom"):
            fix = "A model learns calls of functions: declare it as one, or take it out."
            reader.refuse(here, "a tool that the service itself runs", fix=fix)
        else:
            by = "input_schema" if isinstance(one, dict) and "input_schema" in one else "parameters"
            read += tool(reader, one, here, f"tools[{len(read)}]", by)
    if not isinstance(given, list | None):
        reader.refuse_type(path, given, "a list of tools")
    return {"tools": read} if read else {}


def tool(
    reader: Reader, given: Any, path: str, to: str, schema_key: str, schema: Any = None
) -> list[Json]:
    """Return a function that another service declares, as a tool. ``path``: of the declaration;
    ``to``: of the tool in the canonical row; ``schema_key``: of its parameters."""
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        reader.refuse(path, "a tool that is no function with a name")
        return []
    kept = ("name", "description", "strict")
    drop(reader, given, {*kept, "type", schema_key.partition(".")[0]}, path)
    function = {key: given[key] for key in kept if key in given}
    parameters = given.get(schema_key) if schema is None else schema
    if parameters is not None:
        function["parameters"] = parameters
    reader.lists |= {
        to: path,
        f"{to}.function": path,
        f"{to}.function.parameters": f"{path}.{schema_key}",
    }
    return [{"type": "function", "function": function}]


def drop(reader: Reader, value: Json, known: Iterable[str], path: str) -> None:
    """Note keys of an object at ``path`` that are not part of the example, without indexes."""
    known = set(known)
    for key in value:  # in their order: a report reads the same in each run
        if key not in known and value[key] not in (None, [], {}):
            reader.unsent[_INDEX.sub("[]", f"{path}.{key}").lstrip(".")] = None
