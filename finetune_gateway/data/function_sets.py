"""Data sets of calls: a question, the functions that are offered, and the calls that answer it."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.sharegpt import TurnReader

Json = dict[str, Any]

# Types as Python calls them, in JSON Schema.
_TYPES = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array",
    "tuple": "array", "set": "array", "dict": "object",
}  # fmt: skip


def is_function_row(row: Json) -> bool:
    """Return True for a query with tools and the calls that answer it."""
    return "query" in row and "tools" in row and isinstance(row["answers"], str | list)


def function_row(reader: Reader) -> Json:
    """Read APIGen's rows: query, tools, answers, each a list in a text.

    https://huggingface.co/datasets/Salesforce/xlam-function-calling-60k
    """
    asked = reader.spoken("query", "user")
    reader.used.add("answers")
    reader.lists["messages"] = "answers"
    turn = {"from": "function_call", "value": reader.row["answers"]}
    said = TurnReader(reader.errors).message(turn, "answers")
    for error in reader.errors:
        error.path = error.path.replace("answers.value", "answers")
    messages = reader.with_system([*asked, reader.noted(said, "answers", "text")])
    tools = [_with_schema(tool) for tool in reader.tools().get("tools", [])]
    reader.lists["tools"] = "tools"
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _with_schema(tool: Json) -> Json:
    """Return a tool whose parameters are a JSON Schema, where they are APIGen's own list of them:
    the type, description and default of each name."""
    function = tool["function"]
    given = function.get("parameters") if isinstance(function, dict) else None
    if not isinstance(given, dict) or given.get("type") == "object" or "properties" in given:
        return tool
    if not all(isinstance(one, dict) for one in given.values()):
        return tool
    required = [name for name, one in given.items() if not _is_optional(one)]
    schema: Json = {
        "type": "object",
        "properties": {name: {**one, **_type(one)} for name, one in given.items()},
    }
    schema |= {"required": required} if required else {}
    return {**tool, "function": {**function, "parameters": schema}}


def _is_optional(parameter: Json) -> bool:
    return "default" in parameter or "optional" in str(parameter.get("type"))


def _type(parameter: Json) -> Json:
    """Return the type of a parameter: ``{"type": "string"}`` for ``"str, optional"``."""
    kind = parameter.get("type")
    if not isinstance(kind, str):
        return {}
    name = kind.partition(",")[0].partition("[")[0].strip()
    return {"type": _TYPES.get(name.lower(), name)}
