"""Ids of calls and of their results where a row has none, as TRL writes them.

OpenAI's contract matches results to calls by id. Where only one way to match them is possible, the
ids can be filled in: a call and its result beside each other, or several of which each result names
its call. Nothing is guessed from the order alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_gateway.data.row_access import as_dict, as_list

Json = dict[str, Any]


def fill(messages: list[Any]) -> Iterator[tuple[int, str, str]]:
    """Write the ids that are missing into a conversation, in place; yield the number of the
    message, the path within it, and the id."""
    used = {one for message in messages for one in _ids(message)}
    for at, message in enumerate(messages):
        calls = calls_of(message)
        if not calls:
            continue
        results = _results(messages, at + 1)
        if all(map(_has_id, calls)) and all(one.get("tool_call_id") for one in results):
            continue
        pairs = _matched(calls, results)
        if pairs is None:
            continue
        for index, (call, result) in enumerate(pairs):
            own = call.get("id") or as_dict(result).get("tool_call_id")
            own = own or _new(f"call_{at}_{index}", used)
            if not call.get("id"):
                call["id"] = own
                yield at, f".tool_calls[{index}].id", own
            if result is not None and not result.get("tool_call_id"):
                result["tool_call_id"] = own
                where = next(n for n in range(at + 1, len(messages)) if messages[n] is result)
                yield where, ".tool_call_id", own


def calls_of(message: Any) -> list[Json]:
    """Return the calls of a message; none if one of them is malformed."""
    calls = as_list(as_dict(message).get("tool_calls"))
    whole = all(isinstance(as_dict(one).get("function"), dict) for one in calls)
    return calls if whole and as_dict(message).get("role") == "assistant" else []


def _results(messages: list[Any], start: int) -> list[Json]:
    """Return the results that follow directly."""
    found = []
    for message in messages[start:]:
        if as_dict(message).get("role") != "tool":
            break
        found.append(message)
    return found


def _matched(calls: list[Json], results: list[Json]) -> list[tuple[Json, Json | None]] | None:
    """Return each call with its result, in the order of the calls; None if that takes a guess."""
    if not results:
        return [(call, None) for call in calls]
    if len(results) != len(calls):
        return None
    left = [*results]
    open_calls: dict[int, Json | None] = {}
    for index, call in enumerate(calls):
        named = [one for one in left if call.get("id") and one.get("tool_call_id") == call["id"]]
        if named:
            left.remove(named[0])
        open_calls[index] = named[0] if named else None
    waiting = [index for index, found in open_calls.items() if found is None]
    # A result with an id of its own fits none of the calls that have one.
    if any(_has_id(calls[index]) and one.get("tool_call_id") for index in waiting for one in left):
        return None
    for index in waiting:
        own = _own_result(calls, waiting, index, left)
        if own is None:
            return None
        open_calls[index] = own
    return [(call, open_calls[index]) for index, call in enumerate(calls)]


def _own_result(calls: list[Json], waiting: list[int], index: int, left: list[Json]) -> Json | None:
    """Return the one result that can belong to a call."""
    names = [calls[at]["function"].get("name") for at in waiting]
    said = [one.get("name") for one in left]
    name = calls[index]["function"].get("name")
    if len(waiting) == 1:
        return left[0] if said[0] in (name, None) else None
    if names == said and name is not None:
        return left[waiting.index(index)]
    return left[said.index(name)] if names.count(name) == said.count(name) == 1 else None


def _has_id(call: Json) -> bool:
    return isinstance(call.get("id"), str) and call["id"] != ""


def _ids(message: Any) -> Iterator[str]:
    calls = (call.get("id") for call in calls_of(message))
    yield from (
        one for one in (as_dict(message).get("tool_call_id"), *calls) if isinstance(one, str)
    )


def _new(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    used.add(name)
    return name
