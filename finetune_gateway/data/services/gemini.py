"""Rows of Gemini and of Vertex AI's tuning: ``contents`` of parts, the assistant is the model.

https://ai.google.dev/api/caching#Content
https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-supervised-tuning-prepare
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.canonical_row import SIDES
from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.turn import Turn, drop, joined, result_text, tool

Json = dict[str, Any]

_ROLES = {"model": "assistant", "function": "user", "tool": "user"}
_SYSTEM = ("systemInstruction", "system_instruction")


def read(reader: Reader) -> Json:
    """Read a row of ``contents``."""
    reader.used |= {"contents", "tools", *_SYSTEM}
    return conversation(reader, reader.row, "")


def is_pair(row: Json) -> bool:
    """Return True for Vertex AI's preference rows: contents with scored completions."""
    return isinstance(row.get("completions"), list)


def read_pair(reader: Reader) -> Json:
    """Read ``contents`` with two scored ``completions``.

    https://cloud.google.com/vertex-ai/generative-ai/docs/models/tune-preference-about
    """
    reader.used.add("completions")
    read_prompt = read(reader)
    reader.lists["input.messages"] = "contents"
    sides: dict[str, list[Json]] = {key: [] for key in SIDES}
    for at, one in enumerate(reader.row["completions"]):
        here = f"completions[{at}]"
        inner = one.get("completion") if isinstance(one, dict) else None
        if isinstance(one, dict):
            drop(reader, one, {"completion", "score"}, here)
        side = "preferred_output" if inner and one.get("score") == 1 else "non_preferred_output"
        if sides[side] or not inner:
            reader.refuse(here, "a pair has one completion of score 1 and one of score 0")
        else:
            sides[side] = _content(reader, inner, f"{here}.completion", _Calls())
            reader.lists[side] = f"{here}.completion"
    return {"input": read_prompt, **sides}


class _Calls:
    """Ids of calls: Gemini has none, a result goes by the name of the function."""

    def __init__(self) -> None:
        self.count, self.waiting = 0, list[tuple[str, str]]()

    def add(self, name: Any, given: Any) -> str:
        """Return the id of a call, which waits for its result."""
        self.count += 1
        call_id = given if isinstance(given, str) else f"call_{self.count}"
        self.waiting.append((str(name), call_id))
        return call_id

    def take(self, name: Any, given: Any) -> str | None:
        """Return the id of the first call of this name, or of this id, that waits."""
        for one in self.waiting:
            if given == one[1] or (given is None and name == one[0]):
                self.waiting.remove(one)
                return one[1]
        return given if isinstance(given, str) else None


def conversation(reader: Reader, row: Json, prefix: str) -> Json:
    """Read the contents, system prompt and tools of a request at ``prefix``."""
    reader.lists["messages"] = f"{prefix}contents"
    messages: list[Json] = []
    for key in _SYSTEM:
        if row.get(key):
            given = row[key]
            parts = given.get("parts") if isinstance(given, dict) else given
            if isinstance(given, dict):
                drop(reader, given, {"parts", "role"}, f"{prefix}{key}")
            text = joined(reader, parts, f"{prefix}{key}.parts")
            messages.append(reader.said("system", text, f"{prefix}{key}"))
    contents, calls = row.get("contents"), _Calls()
    if isinstance(contents, str):
        messages.append(reader.said("user", contents, f"{prefix}contents"))
    elif isinstance(contents, dict):
        messages += _content(reader, contents, f"{prefix}contents", calls)
    elif isinstance(contents, list):
        for at, one in enumerate(contents):
            messages += _content(reader, one, f"{prefix}contents[{at}]", calls)
    else:
        reader.refuse_type(f"{prefix}contents", contents, "a list of contents")
    return {"messages": messages, **_tools(reader, row.get("tools"), f"{prefix}tools")}


def answer(reader: Reader, content: Any, path: str) -> list[Json]:
    """Return the messages of the content of an answer."""
    named = {"role": "model", **content} if isinstance(content, dict) else content
    return _content(reader, named, path, _Calls())


def _content(reader: Reader, content: Any, path: str, calls: _Calls) -> list[Json]:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list):
        reader.refuse_type(f"{path}.parts", parts, "a list of parts")
        return []
    role = content.get("role", "user")
    turn = Turn(reader, _ROLES.get(role, role) if isinstance(role, str) else role, path)
    drop(reader, content, {"role", "parts"}, path)
    for at, part in enumerate(parts):
        here = f"{path}.parts[{at}]"
        if isinstance(part, dict):
            _part(turn, part, here, calls)
        else:
            reader.refuse_type(here, part, "an object with a text or a call")
    return turn.messages()


def _part(turn: Turn, part: Json, path: str, calls: _Calls) -> None:
    for old in ("functionCall", "functionResponse", "inlineData", "fileData"):
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in old)
        key = old if old in part else snake
        if isinstance(part.get(key), dict):
            drop(turn.reader, part, {key}, path)
            _object(turn, old, part[key], f"{path}.{key}", calls)
            return
    if "text" in part:
        drop(turn.reader, part, {"text", "thought"}, path)
        add = turn.thought if part.get("thought") is True else None
        add(part["text"], f"{path}.text") if add else turn.text(part["text"], path)
    else:
        turn.refuse(next(iter(part), "an empty part"), path)


def _object(turn: Turn, kind: str, value: Json, path: str, calls: _Calls) -> None:
    if kind == "functionCall":
        named = {**value, "id": calls.add(value.get("name"), value.get("id"))}
        turn.call(named, path, ("id", "name", "args"))
    elif kind == "functionResponse":
        drop(turn.reader, value, {"id", "name", "response"}, path)
        call_id = calls.take(value.get("name"), value.get("id"))
        turn.result(call_id, result_text(value.get("response")), path)
    else:
        mime = str(value.get("mimeType", value.get("mime_type")))
        uri = str(value.get("fileUri", value.get("file_uri")))
        url = uri if kind == "fileData" else f"data:{mime};base64,{value.get('data')}"
        if mime.startswith("image/"):
            turn.image(url, f"{path}.{'fileUri' if kind == 'fileData' else 'data'}")
        else:
            turn.refuse(mime, path, "A chat row has texts and images: write what it says.")


def _tools(reader: Reader, given: Any, path: str) -> Json:
    tools: list[Json] = []
    for at, one in enumerate(given if isinstance(given, list) else []):
        for key in one if isinstance(one, dict) else ():
            here = f"{path}[{at}].{key}"
            if key not in ("functionDeclarations", "function_declarations"):
                fix = "A model learns calls of functions: declare it as one, or take it out."
                reader.refuse(here, "a tool that the service itself runs", fix=fix)
                continue
            if not isinstance(one[key], list | None):
                reader.refuse_type(here, one[key], "a list of functions")
                continue
            for number, function in enumerate(one[key] or ()):
                name = "parameters"
                schema = function.get(name) if isinstance(function, dict) else None
                if isinstance(function, dict) and "parametersJsonSchema" in function:
                    name = "parametersJsonSchema"
                to = f"tools[{len(tools)}]"
                lowered = None if schema is None else _lower(schema)
                tools += tool(reader, function, f"{here}[{number}]", to, name, lowered)
    return {"tools": tools} if tools else {}


def _lower(schema: Any) -> Any:
    """Return a schema with the names of types as JSON Schema has them: OBJECT is object."""
    if isinstance(schema, list):
        return [_lower(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    types = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}
    return {
        key: value.lower()
        if key == "type" and isinstance(value, str) and value in types
        else _lower(value)
        for key, value in schema.items()
    }
