"""Ids of calls and results that a row lacks: filled in where no other can be meant."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as gateway
from finetune_gateway import Dataset, FakeBackend
from finetune_gateway.data.call_ids import fill
from finetune_gateway.data.canonical import read

Json = dict[str, Any]
ASK = {"role": "user", "content": "Is the hall lamp on, and is it warm?"}


def call(own: str | None = None, name: str = "lamp") -> Json:
    made: Json = {"type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"id": own, **made} if own else made


def calls(*made: Json) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(made)}


def result(own: str | None = None, name: str | None = None) -> Json:
    named = {"name": name} if name else {}
    given = {"tool_call_id": own} if own else {}
    return {"role": "tool", **given, **named, "content": "on"}


# Conversations, and what is filled in; the ids of calls and results pair up then.
FILLED: dict[str, tuple[list[Json], list[str]]] = {
    "one": ([calls(call("c1")), result()], ["c1"]),
    "one_named": ([calls(call("c1")), result(name="lamp")], ["c1"]),
    "neither": ([calls(call()), result()], ["call_0_0", "call_0_0"]),
    "of_the_result": ([calls(call()), result("r7")], ["r7"]),
    "at_the_end": ([ASK, calls(call(), call(name="heat"))], ["call_1_0", "call_1_1"]),
    "null": ([calls(call("c1")), result() | {"tool_call_id": None}], ["c1"]),
    "by_name": (
        [calls(call("c1"), call("c2", "heat")), result(name="heat"), result(name="lamp")],
        ["c1", "c2"],
    ),
    "in_order": (
        [calls(call("c1"), call("c2")), result(name="lamp"), result(name="lamp")],
        ["c1", "c2"],
    ),
    "one_is_left": ([calls(call("c1"), call("c2")), result("c2"), result()], ["c1"]),
    "twice": ([calls(call("a")), result(), ASK, calls(call("b")), result()], ["a", "b"]),
    "taken": ([calls(call()), result(), calls(call("call_0_0")), result("call_0_0")],
              ["call_0_0_", "call_0_0_"]),
}  # fmt: skip
# What takes a guess, or is none of ours.
LEFT: dict[str, list[Json]] = {
    "order_alone": [calls(call("c1"), call("c2")), result(), result()],
    "other_name": [calls(call("c1")), result(name="heat")],
    "too_many": [calls(call("c1")), result(), result()],
    "too_few": [calls(call("c1"), call("c2")), result(name="lamp")],
    "same_name_twice": [
        calls(call("c1"), call("c2"), call("c3", "heat")),
        result(name="lamp"), result(name="heat"), result(name="lamp"),
    ],
    "other_id": [calls(call("c1"), call("c2")), result("x"), result()],
    "no_call": [ASK, result()],
    "apart": [calls(call("c1")), ASK, result()],
    "malformed": [{"role": "assistant", "tool_calls": ["lamp"]}, result()],
    "whole": [calls(call("c1")), result("c1")],
}  # fmt: skip


@pytest.mark.parametrize("name", FILLED)
def test_what_can_be_meant_alone_is_filled_in(name: str) -> None:
    """Then each call has its own result, and nothing else has changed."""
    messages, ids = copy.deepcopy(FILLED[name])
    assert [own for *_, own in fill(messages)] == ids
    made = [one["id"] for message in messages for one in message.get("tool_calls", [])]
    given = [one["tool_call_id"] for one in messages if one["role"] == "tool"]
    assert set(given) <= set(made) and len({*made}) == len(made)
    assert list(fill(messages)) == []


@pytest.mark.parametrize("name", LEFT)
def test_nothing_is_guessed(name: str) -> None:
    """The conversation stays as it is."""
    messages = copy.deepcopy(LEFT[name])
    assert list(fill(messages)) == [] and messages == LEFT[name]


def trl(number: int) -> Json:
    """A pair as TRL has it: no ids, arguments as objects."""
    made = {"type": "function", "function": {"name": "lamp", "arguments": {"room": f"r{number}"}}}
    parameters = {"type": "object", "properties": {"room": {"type": "string"}}}
    return {
        "prompt": [
            {"role": "user", "content": f"Is the lamp of room {number} on?"},
            {"role": "assistant", "tool_calls": [made]},
            {"role": "tool", "name": "lamp", "content": "on"},
        ],
        "chosen": [{"role": "assistant", "content": f"Yes, in room {number}."}],
        "rejected": [{"role": "assistant", "content": "No lamp."}],
        "tools": [{"type": "function", "function": {"name": "lamp", "parameters": parameters}}],
    }


def test_validate_fix_convert_and_submit_fill_them_alike(home: Path, tmp_path: Path) -> None:
    """A note says so; what is written and what is sent has the ids, and the user's row none."""
    rows = [trl(number) for number in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for backend in ("openai", "azure", "local"):
        report = gateway.validate(path, backend=backend, method="dpo", quality=False)
        (note,) = [one for one in report.findings if one.code == "tool_id_filled"]
        assert (report.ok, note.severity, note.count) == (True, "note", 12), backend
        assert note.path == "prompt[1].tool_calls[0].id"
    sent = [read(row).row for row in rows]
    assert sent[0]["input"]["messages"][2]["tool_call_id"] == "call_1_0"
    assert rows == [trl(number) for number in range(12)]
    Dataset.open(path).convert("openai", tmp_path / "openai.jsonl")
    Dataset.open(path).fix(tmp_path / "fixed.jsonl", method="dpo")
    fake = FakeBackend()
    gateway.submit(path, model="any", method="dpo", backend=fake).wait()
    (tmp_path / "sent.jsonl").write_bytes(fake.started[0][2].path.read_bytes())
    for name in ("openai.jsonl", "fixed.jsonl", "sent.jsonl"):
        written = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        calls_and_results = [row["input"]["messages"][1:] for row in written]
        assert calls_and_results == [row["input"]["messages"][1:] for row in sent]


def test_openais_own_rows_are_fixed_and_never_sent_otherwise(tmp_path: Path) -> None:
    """They leave byte for byte, so the missing id is an error that names the open calls."""
    row = {
        "messages": [ASK, calls(call("c1")), result(), {"role": "assistant", "content": "Yes."}],
        "tools": [{"type": "function", "function": {"name": "lamp"}}],
    }
    rows = [
        row | {"messages": [{**ASK, "content": f"Lamp {n}?"}, *row["messages"][1:]]}
        for n in range(12)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    (error,) = gateway.validate(path, backend="openai", quality=False).errors
    assert (error.code, error.path) == ("tool_id_missing", "messages[2].tool_call_id")
    assert "the open calls before it: 'c1'" in error.message and "--fix" in error.fix
    Dataset.open(path).fix(tmp_path / "fixed.jsonl", method="sft")
    assert gateway.validate(tmp_path / "fixed.jsonl", backend="openai", quality=False).ok
