"""Chat rows in the deprecated form (functions, function_call, role function), written with tools.

https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_access import as_dict, as_list

Json = dict[str, Any]

_CALL = frozenset({"name", "arguments"})
_RESULT = frozenset({"role", "name", "content", "weight"})


def with_tools(row: Json) -> Json | None:
    """Return a row with tools, tool_calls and role tool in place of the deprecated form; None where
    that is not all that changes: a result whose call is not right before it, or another name."""
    functions, messages = row.get("functions", []), row.get("messages")
    if "tools" in row or not isinstance(functions, list) or not isinstance(messages, list):
        return None
    if not all(isinstance(one, dict) and "function" not in one for one in functions):
        return None
    written, called = list[Any](), 0
    for at, message in enumerate(messages):
        before = messages[at - 1] if at else None
        if "tool_calls" in as_dict(message) or as_dict(message).get("role") == "tool":
            return None
        if as_dict(message).get("function_call") is not None:
            called += 1
            made = _calling(message, f"call_{called}")
        elif as_dict(message).get("role") == "function":
            made = _result(message, before, f"call_{called}")
        else:
            made = message
        if made is None:
            return None
        written.append(made)
    tools = [{"type": "function", "function": one} for one in functions]
    return {
        ("tools" if key == "functions" else key): value
        for key, value in {**row, "messages": written, "functions": tools}.items()
        if key != "functions" or tools
    }


def _calling(message: Json, own_id: str) -> Json | None:
    """Return an answer that calls by ``tool_calls``."""
    call = message["function_call"]
    if message.get("role") != "assistant" or not isinstance(call, dict) or call.keys() != _CALL:
        return None
    rest = {key: value for key, value in message.items() if key != "function_call"}
    return {**rest, "tool_calls": [{"id": own_id, "type": "function", "function": call}]}


def _result(message: Json, before: Any, own_id: str) -> Json | None:
    """Return a result as a message of role tool; the name is that of its call."""
    call = as_dict(as_dict(before).get("function_call"))
    if not message.keys() <= _RESULT or not call or message.get("name") != call.get("name"):
        return None
    rest = {key: value for key, value in message.items() if key not in ("role", "name")}
    return {"role": "tool", "tool_call_id": own_id, **rest}


def is_deprecated(row: Json) -> bool:
    """Return True for a row with anything of the deprecated form."""
    return "functions" in row or any(
        as_dict(one).get("function_call") is not None or as_dict(one).get("role") == "function"
        for one in as_list(row.get("messages"))
    )
