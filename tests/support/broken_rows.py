"""Rows of every format, whole or broken in one place or two."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from support.forms import (
    ASK,
    BAD,
    CHOSEN,
    GOOD,
    LISTS,
    PAIR,
    PAIRS,
    REJECTED,
    SIDES,
    SYSTEM,
    TOOL,
    USER,
)  # fmt: skip
from support.services import ROWS as SERVICES
from support.shapes import SHAPES

Json = dict[str, Any]
Place = tuple[str | int, ...]

CALL: Json = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
CALLS: Json = {"role": "assistant", "tool_calls": [CALL]}
RESULT: Json = {"role": "tool", "tool_call_id": "c1", "content": "Nothing."}
IMAGE: Json = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
LOOK: Json = {"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE]}
SAID: Json = {"role": "system", "content": SYSTEM}
ASIDE: Json = {"role": "assistant", "content": "So.", "weight": 0}
LONG: list[Json] = [SAID, {**USER, "name": "jo"}, CALLS, RESULT, ASIDE, USER]
ARGUED: Json = {**CALL, "function": {"name": "find", "arguments": {"q": "x"}}}
BY_TRL: list[Json] = [USER, {"role": "assistant", "tool_calls": [ARGUED]}, RESULT]
TURNS = [
    {"from": "system", "value": SYSTEM},
    {"from": "human", "value": ASK},
    {"from": "function_call", "value": '{"name": "find", "arguments": {"q": "x"}}'},
    {"from": "observation", "value": "Nothing."},
    {"from": "gpt", "value": "So.", "weight": 0},
    {"from": "human", "value": "Why?"},
    {"from": "gpt", "value": GOOD},
]

# As much as each format can hold.
FULL: dict[str, Json] = {
    "chat": {"messages": [*LONG, CHOSEN], "tools": [TOOL], "parallel_tool_calls": False},
    "vision": {"messages": [LOOK, CHOSEN], "id": 7},
    "chat with functions": {
        "messages": [USER, {"role": "assistant", "content": None,
                            "function_call": {"name": "find", "arguments": "{}"}},
                     {"role": "function", "name": "find", "content": "1"}, CHOSEN],
        "functions": [TOOL["function"]],
    },
    "openai pair": {**PAIR, "input": {"messages": LONG, "tools": [TOOL]}},
    "trl pair": {"prompt": LONG, **LISTS, "tools": [TOOL], "score": 0.5},
    "trl pair of calls": {"prompt": BY_TRL, **LISTS, "tools": json.dumps([TOOL])},
    "trl": {"prompt": BY_TRL, "completion": [CHOSEN], "tools": [TOOL["function"]]},
    "texts": {"prompt": ASK, "completion": GOOD, "system": SYSTEM},
    "kto": {"prompt": [SAID, USER], "completion": [REJECTED], "label": False},
    "kto of texts": {"prompt": ASK, "completion": BAD, "label": True},
    "kto chat": {"messages": [*LONG, CHOSEN], "tools": [TOOL], "label": True},
    "kto tag": {"conversations": TURNS, "tools": json.dumps([TOOL["function"]]), "kto_tag": False},
    "kto alpaca": {"instruction": "Sum up.", "input": ASK, "output": GOOD, "label": True},
    "alpaca": {"instruction": "Sum up.", "input": ASK, "output": GOOD, "system": SYSTEM,
               "history": [["Hi", "Hello"]]},
    "sharegpt": {"conversations": TURNS, "tools": json.dumps([TOOL["function"]])},
    "sharegpt pair": {"conversations": TURNS[:-1], "chosen": TURNS[-1],
                      "rejected": {"from": "gpt", "value": BAD}},
    "text": {"text": ASK},
    "system beside": {"system": SYSTEM, "messages": [USER, CHOSEN]},
    "tools as a text": {"messages": [*LONG, CHOSEN], "tools": json.dumps([TOOL])},
    "listed sides": {"system": SYSTEM, "question": ASK, **SIDES},
}  # fmt: skip
EXAMPLES = [
    *FULL.values(),
    *(row for _, row, _ in (*SHAPES.values(), *SERVICES.values())),
    *PAIRS.values(),
]

ODD: tuple[Any, ...] = (
    None, "", " ", "\u200b", "[]", "null", "None", 0, 1, 0.5, True, False, [], {}, [[]], [None],
    ["x"], {"a": 1}, "user", "assistant", "tool", "system", "Human", "gpt", "x",
    [USER], [CHOSEN], [USER, CHOSEN], {"role": "assistant"}, {"from": "gpt", "value": ""},
    [TOOL], json.dumps([TOOL]), json.dumps([USER, CHOSEN]), [{"type": "text", "text": ""}], [IMAGE],
)  # fmt: skip
BESIDE: tuple[tuple[str, Any], ...] = (
    ("mood", "calm"), ("id", 7), ("n", None), ("weight", 0), ("weight", 1), ("weight", "1"),
    ("name", "jo"), ("name", None), ("name", "J o"), ("content", ""), ("role", "user"),
    ("system", SYSTEM), ("system", " "), ("system_prompt", SYSTEM), ("tools", "[]"),
    ("tools", [TOOL]), ("tools", None), ("functions", [TOOL["function"]]),
    ("parallel_tool_calls", True), ("images", ["a.png"]), ("image", "a.png"), ("audio", "a.wav"),
    ("label", True), ("label", 1), ("label", None), ("history", [["Hi", "Hello"]]),
    ("history", "Hi"), ("text", "Once."), ("messages", [USER, CHOSEN]), ("refusal", None),
    ("reasoning_content", "Hm."), ("tool_calls", [CALL]), ("tool_calls", []), ("input", "Hi"),
    ("prompt", "Hi"), ("completion", "Hello"), ("chosen", "Yes"), ("rejected", "No"),
    ("output", "Hello"), ("score", 0.5), ("loss", False), ("train", True), ("kto_tag", True),
    ("rejected_response", BAD), ("rejected_messages", [USER, REJECTED]), ("query", "Hi"),
    ("system_message", SYSTEM), ("answers", "[]"), ("timestamp", "now"),
)  # fmt: skip
MORE: tuple[Any, ...] = (
    USER, CHOSEN, SAID, ASIDE, CALLS, RESULT, LOOK, TURNS[1], TURNS[2], TURNS[3], TURNS[6], IMAGE,
    {"type": "text", "text": ""}, {"role": "assistant", "content": ""}, TOOL, TOOL["function"],
    {"role": "tool", "content": "1"}, {"role": "assistant", "content": []}, "x", None, 1, {},
    {"from": "tool_call", "value": {"name": "find", "parameters": {}}}, {"from": "ai", "text": "x"},
)  # fmt: skip


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Yield where something is in a row, itself first."""
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    for key, one in enumerate(value) if isinstance(value, list) else inner:
        yield from places(one, (*path, key))


def at(row: Any, place: Place) -> Any:
    for key in place:
        row = row[key]
    return row


@st.composite
def broken(draw: st.DrawFn, row: Json) -> Json:
    """The row, changed in one place."""
    row = copy.deepcopy(row)
    place = draw(st.sampled_from([*places(row)]))
    held = at(row, place)
    changes = ["set", "remove", "as a text", "rename"] if place else []
    changes += ["add"] if isinstance(held, dict) else []
    changes += ["insert", "repeat", "reverse"] if isinstance(held, list) and held else []
    change = draw(st.sampled_from(changes))
    if change == "add":
        key, value = draw(st.sampled_from(BESIDE))
        held[key] = copy.deepcopy(value)
    elif change == "insert":
        new = copy.deepcopy(draw(st.sampled_from(MORE)))
        held.insert(draw(st.integers(0, len(held))), new)
    elif change == "repeat":
        held.append(copy.deepcopy(draw(st.sampled_from(held))))
    elif change == "reverse":
        held.reverse()
    else:
        _change_place(draw, at(row, place[:-1]), place[-1], change)
    return row


def _change_place(draw: st.DrawFn, holder: Any, key: Any, change: str) -> None:
    if change == "remove":
        del holder[key]
    elif change == "rename" and isinstance(holder, dict):
        name = draw(st.sampled_from((str(key).title(), f"{key} ", f"{key}s")))
        holder[name] = holder.pop(key)
    elif change == "as a text":
        holder[key] = json.dumps(holder[key])
    else:
        holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))


@st.composite
def any_rows(draw: st.DrawFn) -> Json:
    """A row of any format: as it should be, or broken in one place or two."""
    row: Json = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2)))):
        row = draw(broken(row))
    return row
