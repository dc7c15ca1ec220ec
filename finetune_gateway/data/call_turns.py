"""Rows whose calls and results stand in their texts, with turns of ShareGPT's for both, or with
OpenAI's ``tool_calls`` and messages of tools."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, TypeGuard

from finetune_gateway.data.calls_in_text import (
    are_results,
    calls_of,
    listed_tools,
    results_of,
    said_and_called,
)
from finetune_gateway.data.canonical_row import SIDES
from finetune_gateway.data.row_access import as_dict, as_list, dumped, tools_of
from finetune_gateway.data.sharegpt import as_string, wrapped

Json = dict[str, Any]

_ANSWERS = ("gpt", "assistant", "model")
_TOOLS_SAY = ("tool", "observation", "tool_response", "function_response")


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
            results = results_of(text)
            if len(results) != open_calls:
                return None
            written += [{**turn, "from": "observation", "value": result} for result in results]
            open_calls = 0
        else:
            written.append(turn)
    if not any(turn.get("from") == "observation" for turn in written) or written == turns:
        return None
    first = as_dict(turns[0]) if turns else {}
    text = first.get("value") if first.get("from") == "system" else ""
    tools = [] if row.get("tools") else [*listed_tools(text)]
    return {**row, key: written, **({"tools": dumped(tools)} if tools else {})}


def with_tool_calls(row: Json) -> Json | None:
    """Return a chat row, or a pair, of OpenAI's whose calls are ``tool_calls`` and whose results
    are messages of tools; None where no text is a call, or where it takes a guess: a call that
    cannot be read or has no result, or one of a tool that the row does not offer."""
    is_pair = "preferred_output" in row
    holder = as_dict(row.get("input")) if is_pair else row
    asked = holder.get("messages")
    sides = [row.get(key) for key in SIDES] if is_pair else [[]]
    lists = [one for one in (asked, *sides) if _are_messages(one)]
    if len(lists) != 1 + len(sides):
        return None
    reader = _Calls({one for messages in lists for one in _ids(messages)})
    made = [reader.read(one, ends=not is_pair or at > 0) for at, one in enumerate(lists)]
    if not reader.names or any(one is None for one in made):
        return None
    offered = holder.get("tools") or []
    first = lists[0][0] if lists[0] else {}
    system = first.get("content") if first.get("role") == "system" else ""
    tools = offered or [_whole(one) for one in listed_tools(system)]
    known = {one.get("name") for one in tools_of({"tools": tools})}
    if not (reader.names <= known or not known and reader.answered):
        return None
    holder = {**holder, "messages": made[0], **({"tools": tools} if tools else {})}
    if not is_pair:
        return holder
    return {**row, "input": holder, **dict(zip(SIDES, made[1:], strict=True))}


class _Calls:
    """The calls of one row: their names, and whether each of them has a result of a tool."""

    def __init__(self, used: set[str]) -> None:
        self.names: set[str] = set()
        self.answered = True
        self._used = used

    def read(self, messages: list[Json], *, ends: bool) -> list[Json] | None:
        """Return a conversation with its calls and results; None if one of them is not certain.
        ``ends``: the last message may call, without a result."""
        written, at = list[Json](), 0
        while at < len(messages):
            message, at = messages[at], at + 1
            words, calls = _written(message)
            if not calls:
                if message["role"] == "assistant" and "<tool_call>" in str(message.get("content")):
                    return None
                written.append(message)
                continue
            results, after = _following(messages, at)
            is_last = ends and at == len(messages)
            if len(results) != len(calls) and not is_last:
                return None
            self.names |= {call["name"] for call in calls}
            self.answered &= bool(results) and messages[at]["role"] == "tool"
            ids = [self._own_id(call, result) for call, result in zip_longest(calls, results)]
            written.append(_calling(message, words, calls, ids))
            for own, result in zip(ids, results, strict=False):
                written.append({**result, "role": "tool", "tool_call_id": own})
            at = after
        return written

    def _own_id(self, call: Json, result: Json | None) -> str:
        given = call.get("id") or as_dict(result).get("tool_call_id")
        own = given if given and isinstance(given, str) else f"call_{len(self._used) + 1}"
        while own in self._used and own != given:
            own += "_"
        self._used.add(own)
        return own


def _calling(message: Json, words: str, calls: list[Json], ids: list[str]) -> Json:
    rest = {key: value for key, value in message.items() if key != "content"}
    tool_calls = [
        {"id": own, "type": "function", "function": {
            "name": call["name"], "arguments": as_string(call["arguments"])
        }}
        for own, call in zip(ids, calls, strict=True)
    ]  # fmt: skip
    return {**rest, **({"content": words} if words.strip() else {}), "tool_calls": tool_calls}


def _written(message: Json) -> tuple[str, list[Json]]:
    """Return the words of an answer and the calls after them."""
    text = message.get("content")
    if message["role"] != "assistant" or not isinstance(text, str) or message.get("tool_calls"):
        return "", []
    return said_and_called(text)


def _following(messages: list[Json], at: int) -> tuple[list[Json], int]:
    """Return the results that follow, a message each, and the number of the message after them. A
    message of the user is one if it holds nothing else."""
    results = list[Json]()
    while at < len(messages):
        message, text = messages[at], messages[at].get("content")
        if message["role"] != "tool" and not (message["role"] == "user" and are_results(text)):
            break
        texts = results_of(text)
        if message.get("tool_call_id") and len(texts) != 1:
            break
        results += [{**message, "content": one} for one in texts]
        at += 1
    return results, at


def _are_messages(value: Any) -> TypeGuard[list[Json]]:
    is_list = isinstance(value, list)
    return is_list and all(isinstance(as_dict(one).get("role"), str) for one in value)


def _ids(messages: list[Json]) -> Iterator[str]:
    for message in messages:
        for call in as_list(message.get("tool_calls")):
            if isinstance(own := as_dict(call).get("id"), str):
                yield own


def _whole(tool: Json) -> Json:
    return tool if isinstance(tool.get("function"), dict) else wrapped(tool)
