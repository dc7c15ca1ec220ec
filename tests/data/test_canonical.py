"""The canonical row: the form in which a row is counted, judged and sent."""

from __future__ import annotations

from typing import Any

import pytest
from support.forms import ASK, CHOSEN, FULL, PAIR, PAIRS, SYSTEM, TOOL, USER, WITH_SYSTEM

from finetune_gateway.data.canonical import as_sent, read
from finetune_gateway.preparation.convert import convert_row

Json = dict[str, Any]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_all_forms_are_one_row(name: str) -> None:
    """OpenAI's pair, with the system prompt of a column as its first message."""
    assert as_sent(PAIRS[name]) == PAIR
    first = {"role": "system", "content": SYSTEM}
    wanted = {**PAIR, "input": {"messages": [first, USER]}}
    for key in ("system", "system_prompt"):
        assert name not in WITH_SYSTEM or as_sent({key: SYSTEM, **PAIRS[name]}) == wanted


# -- rows of one conversation ---------------------------------------------------------------

ANSWER = {"role": "assistant", "content": "Hello"}
SAID = {"role": "system", "content": SYSTEM}
QUESTION = {"role": "user", "content": "Hi"}
SINGLE: dict[str, tuple[Json, Json]] = {
    "system beside prompt": (
        {"system": SYSTEM, "prompt": "Hi", "completion": "Hello"},
        {"messages": [SAID, QUESTION, ANSWER]},
    ),
    "system_prompt beside alpaca": (
        {"system_prompt": SYSTEM, "instruction": "Hi", "output": "Hello"},
        {"messages": [SAID, QUESTION, ANSWER]},
    ),
    "the same system prompt twice": (
        {"system": SYSTEM, "prompt": [SAID, QUESTION], "completion": [ANSWER]},
        {"messages": [SAID, QUESTION, ANSWER]},
    ),
    "blank instruction": (
        {"instruction": " ", "input": "Hi", "output": "Hello"},
        {"messages": [QUESTION, ANSWER]},
    ),
    "other keys": (
        {"id": 7, "text": "Hi Hello", "prompt": "Hi", "completion": "Hello", "tools": [TOOL]},
        {"messages": [QUESTION, ANSWER], "tools": [TOOL]},
    ),
    "text of a crawl": ({"text": "Once.", "url": "https://example.com"}, {"text": "Once."}),
    "kto": (
        {"prompt": "Hi", "completion": "Hello", "label": True, "id": 7},
        {"messages": [QUESTION, ANSWER], "label": True},
    ),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_conversation(name: str) -> None:
    """Only what the contract has is sent; a system prompt beside the row is its first message."""
    row, wanted = SINGLE[name]
    assert as_sent(row) == wanted
    assert as_sent(wanted) == wanted


def test_two_different_system_prompts_are_refused() -> None:
    """None of them is dropped, and no row has two."""
    row = {"system": "Be brief.", "prompt": [SAID, QUESTION], "completion": [ANSWER]}
    assert [error.path for error in read(row).errors] == ["system"]


def test_ultrafeedback_is_accepted_after_conversion() -> None:
    """What convert writes of it is the pair, and is read as the same pair again."""
    row = PAIRS["ultrafeedback_binarized"]
    for to in ("openai", "trl", "sharegpt"):
        assert as_sent(convert_row(as_sent(row), to)) == PAIR


def test_a_prompt_that_both_sides_repeat_after_a_system_prompt_is_read_once() -> None:
    sides = {side: [SAID, *FULL[side]] for side in ("chosen", "rejected")}
    sent = read({"prompt": ASK, **sides})
    assert sent.errors == [] and sent.row["input"] == {"messages": [SAID, USER]}
    assert sent.row["preferred_output"] == [CHOSEN]


def test_paths_of_a_row_that_is_sent_as_it_is_are_its_own() -> None:
    """What is found in a row of OpenAI's formats is named with the whole path."""
    paths = ["input.messages[0].content", "preferred_output[0].content"]
    assert [read(PAIR).origin(path) for path in paths] == paths
    chat = {"messages": [USER, CHOSEN]}
    assert read(chat).origin("messages[1].content") == "messages[1].content"


@pytest.mark.parametrize("row", [
    {"messages": [QUESTION, ANSWER, QUESTION, ANSWER]},
    {"prompt": [QUESTION, ANSWER, QUESTION], "completion": [ANSWER]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}] * 2},
])  # fmt: skip
def test_a_label_is_for_the_last_answer(row: Json) -> None:
    """Those before are not trained on."""
    messages = [QUESTION, {**ANSWER, "weight": 0}, QUESTION, ANSWER]
    assert as_sent({**row, "label": True}) == {"messages": messages, "label": True}


def test_fields_of_a_turn_are_named_as_it_has_them() -> None:
    """ShareGPT's from and value; a weight is called so in both."""
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": 0}]
    sent = read({"conversations": turns})
    for own, theirs in {"role": "from", "content": "value", "weight": "weight"}.items():
        assert sent.origin(f"messages[1].{own}") == f"conversations[1].{theirs}"
