"""Calls, results and tools in texts, as Hermes and Qwen write them.

https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_gateway.data.cells import listed
from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.text.regex import LazyPattern

Json = dict[str, Any]

_CALLS = LazyPattern(r"(?s)\s*(?:<tool_call>(?:(?!</?tool_call>).)*</tool_call>\s*)+")
_CALL = LazyPattern(r"(?s)<tool_call>(.*?)</tool_call>")
_RESULTS = LazyPattern(r"(?s)\s*(?:<tool_response>(?:(?!</?tool_response>).)*</tool_response>\s*)+")
_RESULT = LazyPattern(r"(?s)<tool_response>(.*?)</tool_response>")
_TOOLS = LazyPattern(r"(?s)<tools>(.*?)</tools>")
_BARE = LazyPattern(r"(?s)\s*(?:<functioncall>\s*(\{.*\})(?:\s*<\|endoftext\|>)?|(\{.*\}))\s*")
_CALL_KEYS = frozenset({"id", "type", "name", "arguments"})


def calls_of(text: Any) -> list[Json]:
    """Return the calls of an answer that is nothing else; empty for another text."""
    words, calls = said_and_called(text) if isinstance(text, str) else ("", [])
    return [] if words else calls


def said_and_called(text: str) -> tuple[str, list[Json]]:
    """Return the words and the calls of a text that ends with calls, or is one; no calls of
    another text. Their arguments are an object, or one in a text."""
    if bare := _BARE.fullmatch(text):
        words, written = "", [bare[1] or bare[2]]
    else:
        words, mark, rest = text.partition("<tool_call>")
        rest = mark + rest
        written = _CALL.findall(rest) if _CALLS.fullmatch(rest) else []
    calls = [listed(one)[0] for one in written]
    return (words.rstrip(), calls) if calls and all(map(_is_call, calls)) else ("", [])


def _is_call(call: Any) -> bool:
    if not isinstance(call, dict) or not {"name", "arguments"} <= call.keys() <= _CALL_KEYS:
        return False
    given = call["arguments"]
    arguments = _read(given) if isinstance(given, str) else given
    texts = (call["name"], call.get("id", ""))
    is_call = isinstance(arguments, dict) and all(isinstance(one, str) for one in texts)
    return is_call and call.get("type", "function") == "function"


def are_results(text: Any) -> bool:
    """Return True for a text that is results of tools in their tags, and nothing else."""
    return isinstance(text, str) and bool(_RESULTS.fullmatch(text))


def results_of(text: Any) -> list[str]:
    """Return the results in a text: those in their tags, or the text itself."""
    if are_results(text):
        return [one.strip() for one in _RESULT.findall(text)]
    return [text] if isinstance(text, str) else []


def listed_tools(text: Any) -> Iterator[Json]:
    """Yield the tools that a system text lists, as one list or a line each."""
    for block in _TOOLS.findall(text if isinstance(text, str) else ""):
        whole = _read(block)
        lines = whole if isinstance(whole, list) else [_read(one) for one in block.splitlines()]
        if lines and all(isinstance(one, dict) for one in lines):
            yield from lines


def _read(text: str) -> Any:
    try:
        return loads_strict(text)
    except (ValueError, RecursionError):
        return None
