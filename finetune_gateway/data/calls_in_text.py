"""ShareGPT turns whose calls and results stand in their texts, as Hermes and Qwen write them, with
turns of their own for both.

https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_gateway.data.row_access import as_dict, as_list, dumped, loads_strict
from finetune_gateway.text.regex import LazyPattern

Json = dict[str, Any]

_CALLS = LazyPattern(r"(?s)\s*(?:<tool_call>(?:(?!</?tool_call>).)*</tool_call>\s*)+")
_CALL = LazyPattern(r"(?s)<tool_call>(.*?)</tool_call>")
_RESULTS = LazyPattern(r"(?s)\s*(?:<tool_response>(?:(?!</?tool_response>).)*</tool_response>\s*)+")
_RESULT = LazyPattern(r"(?s)<tool_response>(.*?)</tool_response>")
_TOOLS = LazyPattern(r"(?s)<tools>(.*?)</tools>")
_ANSWERS = ("gpt", "assistant", "model")
_TOOLS_SAY = ("tool", "observation", "tool_response", "function_response")


def calls_of(text: Any) -> list[Json]:
    """Return the calls of an answer that is nothing else; empty for another text."""
    if not isinstance(text, str) or not _CALLS.fullmatch(text):
        return []
    calls = [_read(one) for one in _CALL.findall(text)]
    whole = all(isinstance(one, dict) and {"name", "arguments"} <= one.keys() for one in calls)
    return [as_dict(one) for one in calls] if whole else []


def with_turns(row: Json) -> Json | None:
    """Return a row whose calls and results are turns of their own, and whose tools are a list; None
    where a text holds more than these, or results are not as many as the calls before them."""
    key = "conversations" if "conversations" in row else "conversation"
    turns, written, open_calls = as_list(row.get(key)), list[Json](), 0
    for turn in map(as_dict, turns):
        speaker, text = turn.get("from"), turn.get("value")
        calls = calls_of(text) if speaker in _ANSWERS else []
        if calls:
            written.append({**turn, "from": "function_call", "value": dumped(calls)})
            open_calls = len(calls)
        elif speaker in _TOOLS_SAY and open_calls:
            results = _results(text)
            if len(results) != open_calls:
                return None
            written += [{**turn, "from": "observation", "value": result} for result in results]
            open_calls = 0
        else:
            written.append(turn)
    if not any(turn.get("from") == "observation" for turn in written) or written == turns:
        return None
    tools = [] if row.get("tools") else [*_listed_tools(turns)]
    return {**row, key: written, **({"tools": dumped(tools)} if tools else {})}


def _results(text: Any) -> list[str]:
    if isinstance(text, str) and _RESULTS.fullmatch(text):
        return [one.strip() for one in _RESULT.findall(text)]
    return [text] if isinstance(text, str) else []


def _listed_tools(turns: list[Any]) -> Iterator[Json]:
    """Yield the tools that the system text lists, as one list or a line each."""
    first = as_dict(turns[0]) if turns else {}
    text = first.get("value") if first.get("from") == "system" else ""
    for listed in _TOOLS.findall(text if isinstance(text, str) else ""):
        whole = _read(listed)
        lines = whole if isinstance(whole, list) else [_read(one) for one in listed.splitlines()]
        if lines and all(isinstance(one, dict) for one in lines):
            yield from lines


def _read(text: str) -> Any:
    try:
        return loads_strict(text)
    except (ValueError, RecursionError):
        return None
