"""What a model of the provider says: the same to the same question, in each form of the wire."""

from __future__ import annotations

import json
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from support.provider_memory import JSON

EXAMPLES: JSON = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}


def reply_to(body: JSON, calls: str = "always", number: int = 0) -> tuple[JSON, str]:
    """The message and why it ended: an echo, the further ones of ``n`` with their number; or a
    call of a tool, where tools are given and ``calls`` says when."""
    messages = body.get("messages") or []
    if not messages:
        raise ValueError("messages must not be empty", "messages")
    last = messages[-1]
    tools = called(body, str(last.get("content")), calls) if last["role"] == "user" else []
    if tools:
        made = [call(tool, f"call_{number}{at}") for at, tool in enumerate(tools, 1)]
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": made}
        return message, "tool_calls"
    text = f"{body['model']} heard: {last['content']}" + (f" ({number + 1})" if number else "")
    return {"role": "assistant", "content": text, "refusal": None}, "stop"


def planted(body: JSON, models: dict[str, JSON]) -> tuple[JSON, str] | None:
    """What the rows of a file answer to this prompt, by a model that is right in a share of them;
    None for a model that knows no rows."""
    part = next((part for part in models if part in body["model"]), None)
    if part is None:
        return None
    asked = question(body["messages"])
    right = row_answers(str(models[part]["file"])).get(asked)
    if right is None:
        return None
    chance = zlib.crc32(f"{part} {asked}".encode()) / 2**32
    said = right if chance < float(models[part]["right"]) else wrong(right)
    message = {"role": "assistant", "content": None, "refusal": None, **said}
    return message, "tool_calls" if said.get("tool_calls") else "stop"


@cache
def row_answers(file: str) -> dict[str, JSON]:
    """The answer of each row of a file, by its last question."""
    rows = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    return {question(row["messages"][:-1]): row["messages"][-1] for row in rows}


def question(messages: list[JSON]) -> str:
    return str(messages[-1].get("content"))


def wrong(right: JSON) -> JSON:
    """The same form with another content."""
    if right.get("tool_calls"):
        calls = [
            {**one, "function": {**one["function"], "arguments": '{"symbol": "NONE"}'}}
            for one in right["tool_calls"]
        ]
        return {**right, "tool_calls": calls}
    return {**right, "content": f"Nobody knows {len(str(right['content']))} things."}


def called(body: JSON, text: str, calls: str) -> list[JSON]:
    """The functions that a user's text leads to: with ``always`` the first of the tools; with
    ``asked`` those that the text names, or the first if it says "call"."""
    functions = [tool["function"] for tool in body.get("tools") or [] if "function" in tool]
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        return [one for one in functions if one["name"] == choice["function"]["name"]]
    if choice == "none":
        return []
    if calls == "always" or choice == "required":
        return functions[:1]
    named = [one for one in functions if one["name"] in text]
    return named or (functions[:1] if "call" in text else [])


def call(function: JSON, name: str) -> JSON:
    """A call with a value for each argument that must be there."""
    schema = function.get("parameters") or {}
    properties = schema.get("properties", {})
    values = {one: example(properties.get(one, {})) for one in schema.get("required", ())}
    made = {"name": function["name"], "arguments": json.dumps(values)}
    return {"id": name, "type": "function", "function": made}


def example(schema: JSON) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    return EXAMPLES.get(str(schema.get("type")), "text")


def cut_short(message: JSON, reason: str, most: int | None) -> tuple[JSON, str]:
    """The answer within so many tokens."""
    found = tokens(message["content"] or "")
    if most is None or len(found) <= most:
        return message, reason
    return {**message, "content": "".join(found[:most])}, "length"


def tokens(text: str) -> list[str]:
    """Words with the space before them: not a real tokenizer, and the whole comes together."""
    return re.findall(r"\s*\S+", text)


def count(*texts: Any) -> int:
    """Words, of JSON as Python writes it."""
    return sum(len(str(text).split()) for text in texts if text)


def logprobs(text: str | None, top: int) -> JSON:
    """As the contract has them: of each token, with the likeliest at its place."""
    if text is None:
        return {"content": None, "refusal": None}
    content = []
    for at, token in enumerate(tokens(text)):
        first = -(zlib.crc32(f"{at}{token}".encode()) % 1000) / 1000
        others = [f" other{rank}" for rank in range(1, top)]
        ranked = [chance(one, first - rank) for rank, one in enumerate([token, *others][:top])]
        content.append({**chance(token, first), "top_logprobs": ranked})
    return {"content": content, "refusal": None}


def chance(token: str, logprob: float) -> JSON:
    return {"token": token, "logprob": round(logprob, 4), "bytes": [*token.encode()]}
