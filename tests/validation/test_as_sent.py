"""Rows of any format are counted, priced and judged as they are sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.forms import (
    ASK,
    CHOSEN,
    COUNTS,
    FROM_USER,
    GOOD,
    PAIR,
    PAIRS,
    SIDES,
    SYSTEM,
    SYSTEM_TOKENS,
    TOOL,
    TURNS,
    USER,
    WITH_SYSTEM,
)

import finetune_gateway as gateway
from finetune_gateway import FakeBackend
from finetune_gateway.data.formats import format_of
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report

Json = dict[str, Any]


def judged(rows: Any) -> Report:
    """Return the report on rows, or on a file, by the method of their kind."""
    return gateway.validate(rows, method=method_of(rows[0]), quality=False)


def method_of(row: Json) -> Any:
    row_format = format_of(row)
    kind = row_format.kind if row_format else ""
    methods = {"preference": "dpo", "unpaired_preference": "kto", "text": "pretrain"}
    return methods.get(kind, "sft")


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_all_forms_count_alike(name: str, home: object) -> None:
    """The prompt once, both answers, nothing else."""
    tokens = judged([PAIRS[name]] * 12).tokens or {}
    assert (tokens["total"], tokens["trained"]) == (12 * COUNTS[0], 12 * COUNTS[1])


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_a_system_prompt_of_a_pair_is_counted(name: str, home: object) -> None:
    """A column beside the pair is the first message of its prompt."""
    tokens = judged([{"system": SYSTEM, **PAIRS[name]}] * 12).tokens or {}
    total = COUNTS[0] + SYSTEM_TOKENS
    assert (tokens["total"], tokens["trained"]) == (12 * total, 12 * COUNTS[1])


# Rows that cannot be sent, or have nothing to learn: the code, and the user's own field.
BAD_ROWS: dict[str, tuple[Json, str, str]] = {
    "result without a call": (
        {"conversations": [FROM_USER, {"from": "observation", "value": "1"}, TURNS["chosen"]]},
        "not_convertible",
        "conversations[1]",
    ),
    "call as text": (
        {"conversations": [FROM_USER, {"from": "function_call", "value": "find()"}]},
        "not_convertible",
        "conversations[1].value",
    ),
    "another system prompt": (
        {"system": "Be brief.", "conversations": [{"from": "system", "value": SYSTEM}, FROM_USER,
                                                  TURNS["chosen"]]},
        "not_convertible",
        "system",
    ),
    "two system prompts": (
        {"system": SYSTEM, "system_prompt": "Be brief.", "instruction": ASK, "output": GOOD},
        "not_convertible",
        "system_prompt",
    ),
    "nothing asked": (
        {"instruction": "", "input": " ", "output": "Hello"}, "missing_prompt", "instruction",
    ),
    "undeclared tool": (
        {
            "conversations": [
                FROM_USER,
                {"from": "function_call", "value": '{"name": "lose", "arguments": {}}'},
                {"from": "observation", "value": "1"},
                TURNS["chosen"],
            ],
            "tools": json.dumps([TOOL["function"]]),
        },
        "tool_undeclared",
        "conversations[1].value",
    ),
    "equal answers": (
        {"prompt": ASK, "chosen": GOOD, "rejected": [CHOSEN]}, "preference_identical", "rejected",
    ),
    "equal but for null keys and parts": (
        {**PAIR, "non_preferred_output": [
            {"role": "assistant", "content": [{"type": "text", "text": GOOD}], "refusal": None}]},
        "preference_identical",
        "non_preferred_output",
    ),
    "blank answer": (
        {"conversations": [FROM_USER], "chosen": TURNS["chosen"],
         "rejected": {"from": "gpt", "value": "\u200b "}},
        "empty_assistant",
        "rejected.value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_what_cannot_be_sent_is_a_finding_with_its_line(name: str, home: object) -> None:
    """An error of validate, in the user's line and field: never a surprise in submit."""
    row, code, path = BAD_ROWS[name]
    row_format = format_of(row)
    assert row_format is not None
    report = judged([*good_rows(row_format.name), row])
    assert [(one.code, one.line, one.path) for one in report.errors] == [(code, 13, path)]


def good_rows(name: str) -> list[Json]:
    """Return 12 rows of a format."""
    make: dict[str, Callable[[str], Json]] = {
        "sharegpt": lambda n: {"conversations": [{"from": "human", "value": n}, TURNS["chosen"]]},
        "alpaca": lambda n: {"instruction": n, "input": "", "output": GOOD},
        "trl-preference": lambda n: {"prompt": n, **SIDES},
        "openai-preference": lambda n: {**PAIR, "input": {"messages": [{**USER, "content": n}]}},
    }
    return [make[name](f"Question {number}") for number in range(12)]


def test_keys_that_are_not_sent_are_named(home: object) -> None:
    """One note for the file."""
    rows = [{"prompt": f"{n}?", "completion": "Yes", "id": n, "source": "x"} for n in range(12)]
    (note,) = [one for one in gateway.validate(rows).findings if one.code == "not_sent"]
    assert "'id', 'source'" in note.message and (note.severity, note.count) == ("note", 12)


# -- of any format ---------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=12).map(
    lambda text: f"{text} x"
)


@st.composite
def rows(draw: st.DrawFn) -> Json:
    """A row of any readable format but OpenAI's own, with or without more keys."""
    ask, good, bad, system, more = (draw(WORDS) for _ in range(5))
    user, answer = {"role": "user", "content": ask}, {"role": "assistant", "content": good}
    other = {"role": "assistant", "content": f"{bad} y"}
    history = [{"role": "user", "content": more}, {"role": "assistant", "content": system}, user]
    turn = {"from": "gpt", "value": good}
    calls = [
        {"from": "human", "value": ask},
        {"from": "function_call", "value": json.dumps({"name": "find", "arguments": {"q": more}})},
        {"from": "observation", "value": more},
        turn,
    ]
    prompt = draw(st.sampled_from(("prompt", "history", "turns", "messages", "alpaca", "shared")))
    listed = prompt == "history"
    prompts: dict[str, Json] = {
        "prompt": {"prompt": ask},
        "history": {"prompt": history},
        "turns": {"conversations": [{"from": "human", "value": ask}]},
        "messages": {"messages": [user]},
        "alpaca": {"instruction": "", "input": ask},
        "shared": {},
    }
    asked = prompts[prompt]
    full = prompt == "shared" or draw(st.booleans()) and prompt in ("prompt", "messages")
    sides: Json = {"chosen": good, "rejected": other["content"]}
    if full:
        sides = {"chosen": [user, answer], "rejected": [user, other]}
    single = {"prompt": history if listed else ask, "completion": [answer] if listed else good}
    forms: list[Json] = [
        single,
        {**single, "label": True},
        {"instruction": ask, "input": more, "output": good, "history": [[more, bad]]},
        {"instruction": " ", "input": ask, "output": good},
        {"conversations": [{"from": "human", "value": ask}, turn]},
        {"conversations": calls, "tools": json.dumps([TOOL["function"]])},
        {**asked, **sides},
        {**asked, **sides},
        {"text": ask},
    ]
    row: Json = draw(st.sampled_from(forms))
    extra: list[Json] = [{}, {"source": more}]
    if "text" not in row:
        extra += [{"system": system}, {"system_prompt": system, "id": 7}]
    return {**row, **draw(st.sampled_from(extra))}


@settings(max_examples=25)
@given(rows())
def test_tokens_are_those_of_the_rows_that_are_sent(row: Json) -> None:
    """The report on the rows and on the file that a submit sends of them: the same tokens, and no
    error."""
    own = judged([row] * 12)
    assert own.errors == []
    assert own.tokens == judged(sent_rows(row)).tokens


def sent_rows(row: Json) -> list[Json]:
    """Return the rows that a submit sends of 12 such rows."""
    backend = FakeBackend()
    try:
        gateway.submit(
            [row] * 12, model="gpt-4o", backend=backend, method=method_of(row), again=True
        )
    except DataError as exc:
        raise AssertionError(f"validate had no error, but submit: {exc}") from None
    return [json.loads(line) for line in backend.started[0][2].path.read_text("utf-8").splitlines()]
