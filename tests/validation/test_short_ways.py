"""What spares work on usual rows gives what the long way gives, whatever came before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.work import calls

from finetune_gateway import Dataset
from finetune_gateway.data import formats
from finetune_gateway.data.row_content import both_digests, near_digest, same_digest
from finetune_gateway.data.sharegpt import ConversionError, TurnReader
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation import run
from finetune_gateway.validation.rows.pairs import _are_equal, _plain, _without_whitespace
from finetune_gateway.validation.rows.tools import tools_defects

Json = dict[str, Any]

TEXTS = st.text("ab \n", max_size=6) | st.text("a ", min_size=190, max_size=210)


def tool(strict: Any, name: str = "look_up") -> Json:
    parameters = {"type": "object", "properties": {"topic": {"type": "string"}}}
    function = {"name": name, "strict": strict, "parameters": parameters}
    return {"type": "function", "function": function}


def test_tools_are_judged_by_what_they_are() -> None:
    """Tools that are nearly those of a row before have defects of their own, each time."""
    fine, wrong = {"tools": [tool(True)]}, {"tools": [tool(1)]}
    for _ in range(2):
        assert [*tools_defects(fine, "")] == []
        assert [one.path for one in tools_defects(wrong, "")] == ["tools[0].function.strict"]
        assert [one.code for one in tools_defects({"tools": []}, "")] == ["tools_empty"]
        twice = {"tools": [tool(True), tool(True)]}
        assert [one.code for one in tools_defects(twice, "input.")] == ["tool_duplicate"]


def test_tools_that_were_fine_are_not_looked_at_again() -> None:
    """The second row with 20 tools takes a tenth of the calls of the first."""
    row = {"tools": [tool(True, f"tool_{number}") for number in range(20)]}
    first, second = (calls(lambda: [*tools_defects(row, "")]) for _ in range(2))
    assert second < first / 10


def test_a_row_is_read_once_for_judging_and_counting(tmp_path: Path) -> None:
    """Of each row of turns the format is looked for once."""
    path = tmp_path / "rows.jsonl"
    turns = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]
    with pytest.MonkeyPatch.context() as patch:
        seen: list[Json] = []
        known = formats.format_of

        def noted(row: Json) -> formats.Format | None:
            seen.append(row)
            return known(row)

        patch.setattr(formats, "format_of", noted)
        asked = []
        for rows in (20, 40):
            lines = [json.dumps({"conversations": [*turns], "n": at}) for at in range(rows)]
            path.write_text("\n".join(lines) + "\n")
            seen.clear()
            run.validate(Dataset(path), counter=HostedCounter(None), near_duplicates=False)
            asked.append(len(seen))
    assert asked[1] - asked[0] == 20


TURNS = st.lists(
    st.dictionaries(
        st.sampled_from(("from", "value", "weight")),
        st.sampled_from(
            ("human", "gpt", "tool", "function_call", "system", "Bot", "", None, 1, ["gpt"],
             "<tool_call>", '{"name": "f", "arguments": {}}')
        ),
    )
    | st.sampled_from(
        ({"from": "human", "value": "Hi."}, {"from": "gpt", "value": "<tool_call>x"},
         {"from": "observation", "value": "r"}, "x", None)
    ),
    max_size=5,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(TURNS)
def test_plain_turns_are_read_as_all_turns_are(turns: list[Any]) -> None:
    """Messages, errors and what is left out are those of the long way."""

    def read() -> Iterator[Any]:
        errors: list[ConversionError] = []
        reader = TurnReader(errors)
        yield reader.messages(turns, "conversations")
        yield [(one.path, one.reason, one.code, one.fix) for one in errors]
        yield reader.unsent

    short = [*read()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TurnReader, "_plain", lambda self, turn: None)
        assert short == [*read()]


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_two_answers_are_equal_as_by_all_of_them(good: str, bad: str) -> None:
    """With and without white space."""
    one, other = ([{"role": "assistant", "content": text}] for text in (good, bad))
    for text in (str.strip, _without_whitespace):
        assert _are_equal(one, other, text) == (_plain(one, text) == _plain(other, text))
        assert _are_equal(one, bad, text) == (_plain(one, text) == _plain(bad, text))


def test_both_digests_are_those_of_one_row() -> None:
    row = {"messages": [{"role": "user", "content": "A  b"}, {"role": "assistant", "content": "C"}]}
    assert both_digests(row) == (same_digest(row), near_digest(row))
