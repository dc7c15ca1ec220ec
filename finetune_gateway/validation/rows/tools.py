"""Defects of the tools of a row, of tool calls and of their results.

Checks both forms: tools, tool_calls and role tool, and the deprecated functions, function_call and
role function.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from finetune_gateway.data.cells import listed as read_text
from finetune_gateway.data.json_schema import TooCostly
from finetune_gateway.findings import Defect, wrong_type
from finetune_gateway.text.quoting import json_type, quoted
from finetune_gateway.validation.json.parsing import BadLine, escape_defects, parse
from finetune_gateway.validation.rows.arguments import mismatch
from finetune_gateway.validation.rows.schema import place, schema_errors

Json = dict[str, Any]
Defects = Iterator[Defect]

MAX_TOOLS = 128  # OpenAI's schema
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# As tools stand in the Responses API of OpenAI, and in Anthropic's with input_schema.
_TYPE = 'Add "type": "function"; --fix does: ftg validate old.jsonl --fix new.jsonl'
_PYTHON = "Write them with json.dumps; --fix does: ftg validate old.jsonl --fix new.jsonl"
_NESTED = 'Write {"type": "function", "function": {"name": "...", "parameters": {...}}}.'
_MAX_DECODES = 3  # of arguments that were encoded several times
# Lists of tools without a defect, by their content: the rows of a file usually offer the same.
_fine: set[bytes] = set()
_MOST_FINE = 10_000  # 1 MB


def tools_defects(row: Json, prefix: str) -> Defects:
    """Yield the defects of the lists of tools; ``prefix`` is ``input.`` in a preference row."""
    if "tools" in row:
        yield from _tools(row["tools"], f"{prefix}tools", may_be_empty=prefix != "")
    if "functions" in row:
        yield Defect("deprecated_functions", f"{prefix}functions")
        yield from _functions(row["functions"], f"{prefix}functions")
    if row.get("tools") and row.get("functions"):
        yield Defect("tools_and_functions", f"{prefix}functions")
    yield from _parallel(row, f"{prefix}parallel_tool_calls", empty=prefix != "")


def _parallel(row: Json, path: str, *, empty: bool) -> Defects:
    """Check ``parallel_tool_calls``. ``empty``: an empty list of tools is enough for it."""
    if "parallel_tool_calls" not in row:
        return
    if row["parallel_tool_calls"] is None:
        yield Defect("null_key", path)
    elif not isinstance(row["parallel_tool_calls"], bool):
        yield wrong_type(path, row["parallel_tool_calls"], "true or false")
    elif not row.get("tools") and not (empty and row.get("tools") == []):
        yield Defect("parallel_without_tools", path)


def _tools(tools: Any, path: str, *, may_be_empty: bool) -> Defects:
    """Check the list of tools. ``may_be_empty``: as in OpenAI's guide, in the input of a pair."""
    if tools is None:
        yield Defect("null_key", path)
    elif not isinstance(tools, list) and not _holds_list(tools):
        yield wrong_type(path, tools, "a list of tools")
    elif not isinstance(tools, list):
        what = "not a list" if tools.strip() else "blank"
        yield Defect("tools_json", path, f"'tools' is {what}: {quoted(tools)}")
    elif not tools:
        if not may_be_empty:
            yield Defect("tools_empty", path)
    elif (digest := _digest(tools)) not in _fine:
        found = list(_listed_tools(tools, path))
        if digest and not found:
            _note_fine(digest)
        yield from found


def _digest(tools: list[Any]) -> bytes:
    """Return what is equal for equal tools; empty for tools that are nested too deep."""
    try:
        return blake2b(marshal.dumps(tools, 2), digest_size=16).digest()
    except ValueError:
        return b""


def _note_fine(digest: bytes) -> None:
    if len(_fine) >= _MOST_FINE:
        _fine.clear()
    _fine.add(digest)


def _holds_list(tools: Any) -> bool:
    """Return True for a blank text, or one that is a list in JSON."""
    if not isinstance(tools, str):
        return False
    try:
        return not tools.strip() or isinstance(parse(tools), list)
    except BadLine:
        return False


def _listed_tools(tools: list[Any], path: str) -> Defects:
    if len(tools) > MAX_TOOLS:
        yield Defect("tools_too_many", path, f"{len(tools)} tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        here = f"{path}[{index}]"
        if not isinstance(tool, dict):
            yield wrong_type(here, tool, "an object")
            continue
        if "function" not in tool and "name" in tool:
            yield Defect("type_error", here, "a tool without 'function'", _NESTED)
            continue
        if tool.get("type") != "function":
            yield Defect("tool_type", f"{here}.type", fix="" if "type" in tool else _TYPE)
        yield from _function(tool.get("function"), f"{here}.function", names)


def _functions(functions: Any, path: str) -> Defects:
    if not isinstance(functions, list) or not functions:
        yield wrong_type(path, functions, "a list of at least one function")
        return
    if len(functions) > MAX_TOOLS:
        yield Defect("tools_too_many", path, f"{len(functions)} functions")
    names: set[str] = set()
    for index, function in enumerate(functions):
        yield from _function(function, f"{path}[{index}]", names)


def _function(function: Any, path: str, names: set[str]) -> Defects:
    if not isinstance(function, dict):
        yield wrong_type(path, function, "an object with name and parameters")
        return
    yield from _name(function, path)
    name = function.get("name")
    if isinstance(name, str):
        if name in names:
            yield Defect(
                "tool_duplicate", f"{path}.name", f"the tool {quoted(name)} is listed twice"
            )
        names.add(name)
    if not isinstance(function.get("description", ""), str | None):
        yield wrong_type(f"{path}.description", function["description"], "a string")
    if not isinstance(function.get("strict"), bool | None):
        yield wrong_type(f"{path}.strict", function["strict"], "true or false")
    if "parameters" in function:
        yield from _parameters(function["parameters"], f"{path}.parameters")


def _name(function: Json, path: str) -> Defects:
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        what = f"the name {quoted(name)}" if "name" in function else "no name"
        yield Defect("tool_name", f"{path}.name", f"a function with {what}")


def _parameters(schema: Any, path: str) -> Defects:
    if not isinstance(schema, dict):
        yield Defect("tool_schema", path, f"the parameters are {json_type(schema)}, not an object")
    elif schema.get("type", "object") != "object":
        detail = f'the type of the parameters must be "object", not {quoted(schema["type"])}'
        yield Defect("tool_schema", f"{path}.type", detail)
    else:
        for error in schema_errors(schema):
            yield Defect(error.code, place(path, error.path), error.detail)


def call_defects(message: Json, path: str) -> Defects:
    """Yield the defects of the calls of a message, or of the id of a result."""
    role = message.get("role")
    if "tool_calls" in message:
        yield from _tool_calls(message["tool_calls"], role, f"{path}.tool_calls")
    if message.get("function_call") is not None:
        yield from _old_call(message["function_call"], role, f"{path}.function_call")
    if role == "function":
        yield Defect("deprecated_functions", path)
        yield from _name(message, path)
    if role == "tool" and not _is_id(message.get("tool_call_id")):
        yield Defect("tool_id_missing", f"{path}.tool_call_id", "a tool result without its id")
    if role in ("system", "user", "assistant") and message.get("tool_call_id") is not None:
        yield Defect(
            "unknown_key", f"{path}.tool_call_id", f"a {role} message is not the result of a call"
        )


def missing_id(messages: list[Any], index: int) -> str:
    """Return what is wrong with a result without its id, and which ids it could have."""
    given: set[Any] = set()
    for message in reversed([one for one in messages[:index] if isinstance(one, dict)]):
        if message.get("role") != "tool":
            calls = message.get("tool_calls")
            listed = (
                [one for one in calls if isinstance(one, dict)] if isinstance(calls, list) else []
            )
            ids = [one["id"] for one in listed if _is_id(one.get("id")) and one["id"] not in given]
            if not ids:
                break
            named = ", ".join(quoted(one) for one in ids[:5])
            return f"a tool result without its id; the open calls before it: {named}"
        given.add(str(message.get("tool_call_id")))
    return "a tool result without its id"


def _old_call(call: Any, role: Any, path: str) -> Defects:
    yield Defect("deprecated_functions", path)
    if role != "assistant":
        yield Defect("tool_calls_role", path)
    if isinstance(call, dict):
        yield from _called_function(call, path)
    else:
        yield wrong_type(path, call, "an object with name and arguments")


def _tool_calls(calls: Any, role: Any, path: str) -> Defects:
    if calls is None:
        return  # some libraries export every field
    if role != "assistant":
        yield Defect("tool_calls_role", path)
    elif not isinstance(calls, list):
        yield wrong_type(path, calls, "a list of calls")
    elif not calls:
        yield Defect("tool_calls_empty", path)
    else:
        yield from _listed_calls(calls, path)


def _listed_calls(calls: list[Any], path: str) -> Defects:
    ids: set[str] = set()
    for index, call in enumerate(calls):
        here = f"{path}[{index}]"
        if not isinstance(call, dict):
            yield wrong_type(here, call, "an object")
            continue
        yield from _call_id(call, here, ids)
        if call.get("type") != "function":
            yield Defect("tool_type", f"{here}.type", fix="" if "type" in call else _TYPE)
        function = call.get("function")
        if isinstance(function, dict):
            yield from _called_function(function, f"{here}.function")
        else:
            yield wrong_type(f"{here}.function", function, "an object with name and arguments")


def _call_id(call: Json, path: str, ids: set[str]) -> Defects:
    own = call.get("id")
    if not _is_id(own):
        yield Defect("tool_id_missing", f"{path}.id", "a tool call without its id")
        return
    if own in ids:
        yield Defect(
            "tool_id_duplicate", f"{path}.id", f"the id {quoted(own)} occurs twice in a message"
        )
    ids.add(str(own))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _called_function(function: Json, path: str) -> Defects:
    yield from _name(function, path)
    arguments, here = function.get("arguments"), f"{path}.arguments"
    if not isinstance(arguments, str):
        yield wrong_arguments(arguments, here)
        return
    try:
        value = parse(arguments)
    except BadLine as exc:
        yield _invalid_json(arguments, str(exc), here)
        return
    if not isinstance(value, dict):
        yield _not_object(value, here)
    for defect in escape_defects(arguments, value):
        if defect.code == "lone_surrogate":
            yield Defect(defect.code, here, defect.detail)


def wrong_arguments(arguments: Any, path: str) -> Defect:
    """Return the defect of arguments that are not a string (templates use an object)."""
    detail = f"tool arguments must be a string, not {json_type(arguments)}"
    return Defect("tool_args_type", path, detail)


def _invalid_json(arguments: str, reason: str, path: str) -> Defect:
    if not arguments.strip():
        return Defect("tool_args_json", path, "tool arguments are an empty string", 'Write "{}".')
    fix = _PYTHON if isinstance(read_text(arguments)[0], dict) else ""
    return Defect("tool_args_json", path, f"tool arguments are not JSON: {reason}", fix)


def _not_object(value: Any, path: str) -> Defect:
    if isinstance(value, str) and isinstance(_decoded(value), dict):
        return Defect("tool_args_double_encoded", path)
    return Defect("tool_args_object", path, f"the arguments are {quoted(value)}, not an object")


def _decoded(text: str) -> Any:
    """Return the value of a text that was encoded as JSON up to three times."""
    value: Any = text
    for _ in range(_MAX_DECODES):
        if not isinstance(value, str):
            break
        try:
            value = parse(value)
        except BadLine:
            return None
    return value


def exchange_defects(messages: list[Json], row: Json, path: str) -> Defects:
    """Yield calls and results that do not match each other or the tools of the row.

    A row may end with calls: the model learns to make them. Elsewhere each call needs a result
    before the conversation continues.
    """
    pending: dict[str, str] = {}  # id -> path of the call, in the order of the calls
    used: set[str] = set()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            yield from _result(message, f"{path}[{index}]", pending)
            continue
        if not pending and not message.get("tool_calls"):
            continue  # most messages
        here = f"{path}[{index}]"
        for call_id, call_path in pending.items():
            detail = f"the call {quoted(call_id)} has no result before the conversation continues"
            yield Defect("tool_result_missing", call_path, detail)
        pending = dict(_ids(message, here))
        for call_id, call_path in pending.items():
            if call_id in used:
                detail = f"the id {quoted(call_id)} is used again"
                yield Defect("tool_id_reused", call_path, detail)
        used.update(pending)
    yield from offered_defects(messages, row, path, f"{path.removesuffix('messages')}tools")


def _result(message: Json, path: str, pending: dict[str, str]) -> Defects:
    own = message.get("tool_call_id")
    if not _is_id(own):  # reported with the message; some call has its result
        pending.pop(next(iter(pending), ""), None)
        return
    if own not in pending:
        detail = f"no open call has the id {quoted(own)}"
        yield Defect("tool_result_orphan", f"{path}.tool_call_id", detail)
        return
    if next(iter(pending)) != own:
        yield Defect("tool_result_order", f"{path}.tool_call_id")
    del pending[str(own)]


def _ids(message: Json, path: str) -> Iterator[tuple[str, str]]:
    for index, call in _calls(message):
        if _is_id(call.get("id")):
            yield call["id"], f"{path}.tool_calls[{index}].id"


def _calls(message: Json) -> list[tuple[int, Json]]:
    calls = message.get("tool_calls")
    listed = calls if isinstance(calls, list) and message["role"] == "assistant" else []
    return [(index, call) for index, call in enumerate(listed) if isinstance(call, dict)]


def offered_defects(messages: list[Json], row: Json, path: str, tools_path: str) -> Defects:
    """Yield calls of tools that the row does not offer, or with arguments that do not match.

    ``tools_path``: the path of the tools.
    """
    tools = row.get("tools")
    if tools and not (isinstance(tools, list) and all(map(_has_function, tools))):
        return  # reported with the tools
    offered = dict(_named_functions(tools or []))
    called = list(_called_functions(messages, path))
    if called and not tools:
        yield Defect("tools_missing", tools_path)
        return
    for name, function, call_path in called:
        if name not in offered:
            detail = f"the tool {quoted(name)} is not offered"
            yield Defect("tool_undeclared", f"{call_path}.name", detail)
            continue
        arguments = function.get("arguments")
        value = _decoded(arguments) if isinstance(arguments, str) else arguments
        if isinstance(value, dict):  # anything else is reported with the call
            yield from _mismatches(value, name, offered[name], f"{call_path}.arguments")


def _mismatches(arguments: Json, name: str, offered: Json, path: str) -> Defects:
    """Yield what of the arguments does not fit the parameters of the tool."""
    try:
        reason = mismatch(arguments, offered.get("parameters"))
    except TooCostly as exc:
        yield Defect("tool_schema_unread", path, f"the call of {quoted(name)}: {exc.message}")
        return
    if reason:
        detail = f"the arguments do not fit the parameters of {quoted(name)}: {reason}"
        yield Defect("tool_args_schema", path, detail)


def _has_function(tool: Any) -> bool:
    return isinstance(tool, dict) and "function" in tool


def _called_functions(messages: list[Json], path: str) -> Iterator[tuple[str, Json, str]]:
    for at, message in enumerate(messages):
        if not message.get("tool_calls"):
            continue
        for index, call in _calls(message):
            for name, function in _named_functions([call]):
                yield name, function, f"{path}[{at}].tool_calls[{index}].function"


def _named_functions(items: list[Any]) -> Iterator[tuple[str, Json]]:
    """Yield the functions of tools or calls that have a name."""
    for item in items:
        function = item.get("function") if isinstance(item, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(name, str):
            yield name, function
