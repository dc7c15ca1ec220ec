"""Of every format: what validate accepts is sent, as it was judged, and --fix makes no file worse.

Some rows by default; `make fuzz` takes 10,000 a property (--hypothesis-profile=deep).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.broken_rows import EXAMPLES, any_rows, at, broken, places

import finetune_gateway as gateway
from finetune_gateway import Dataset, FakeBackend
from finetune_gateway.data.canonical import canonical, read_as
from finetune_gateway.data.formats import FORMATS, format_of
from finetune_gateway.data.row_access import dumped
from finetune_gateway.data.sharegpt import ConversionError
from finetune_gateway.errors import DataError
from finetune_gateway.findings import RANK, Finding, Report
from finetune_gateway.preparation.convert import TARGETS, convert_row
from finetune_gateway.validation.rows.formats import row_defects
from finetune_gateway.validation.run import usual_method_of

Json = dict[str, Any]

PAID = ("sft", "dpo")  # what OpenAI trains
FEWER = settings() if settings().max_examples > 1000 else settings(max_examples=25)


def judged(data: Any, backend: Any = None, method: Any = None) -> Report:
    return gateway.validate(data, backend=backend, method=method, quality=False)


def said(report: Report) -> list[Finding]:
    """What is said of the rows, however few they are."""
    return [one for one in report.findings if one.code != "too_few_examples"]


def errors(report: Report) -> list[str]:
    return [one.code for one in said(report) if one.severity == "error"]


def worst(report: Report) -> int:
    """The rank of the worst that is said: errors come first."""
    return min((RANK[one.severity] for one in said(report)), default=len(RANK))


@FEWER
@given(any_rows())
def test_what_is_accepted_is_sent_and_accepted_again(row: Json) -> None:
    """By the same method. The row that is sent has the tokens that were counted, and OpenAI would
    refuse it for nothing that was not said of the user's row."""
    backend = FakeBackend()
    method: Any = usual_method_of(row)
    report = judged([row], backend, method)
    try:
        gateway.submit([row], model="gpt-4o", backend=backend, method=method, again=True)
    except DataError as exc:
        assert errors(report), f"refused: {exc}"
        return
    assert not errors(report)
    sent = json.loads(backend.started[0][2].path.read_text("utf-8"))
    again = judged([sent], backend, method)
    assert (errors(again), again.tokens) == ([], report.tokens)
    if method in PAID:
        by_openai = judged([row], "openai", method), judged([sent], "openai", method)
        assert {*errors(by_openai[1])} <= {*errors(by_openai[0])}


FILES = st.sampled_from(EXAMPLES).flatmap(
    lambda row: st.lists(st.just(row) | broken(row), min_size=1, max_size=3)
)


IDEAL: Json = {"input": [{"role": "user", "content": "Is it dark?"}], "ideal": "Yes."}
TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
]


BARE = {"type": "function", "name": "lamp", "parameters": None}
CALLED = {"type": "function_call", "call_id": "c1", "name": "lamp", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "off"}
SAID = {"type": "message", "role": "assistant", "content": "Yes."}
VERTEX_PAIR: Json = {
    "contents": [{"role": "user", "parts": [{"text": "Is it dark?"}]}],
    "completions": [
        {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
        for score, text in ((1.0, "Yes."), (0.0, "No."))
    ],
}
DEPRECATED: Json = {
    "messages": [
        {"role": "user", "content": "Please explain how a heat pump works in winter."},
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "find", "arguments": "{}"},
        },
        {"role": "function", "name": "find", "content": "1"},
        {"role": "assistant", "content": "It moves heat from outside air into the house."},
    ],
    "functions": [{"name": "find", "parameters": {"type": "object"}}],
}
LAMP_CALL = {"type": "function", "function": {"name": "lamp", "arguments": "{}"}}


COHERE = [{"role": "User", "content": "Is it dark?"}, {"role": "Chatbot", "content": "Yes."}]
DONE: Json = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}}]}
REQUEST_LOG: Json = {"messages": [{"role": "user", "content": "Is it dark?"}], "response": DONE}
LINE = {
    "custom_id": "1",
    "body": {"messages": [{"role": "user", "content": "Is it dark?"}]},
    "response": {"status_code": 200, "body": DONE},
}


@FEWER
@given(FILES)
@example([{"messages": COHERE, "mood": "calm"}])
@example([{**IDEAL, "tools": TOOLS}])
@example([{**IDEAL, "tools": "[]"}])
@example([{"query": "Hi", "tools": None, "answers": '[{"name": "find", "arguments": {}}]'}])
@example([{"input": IDEAL["input"] + [CALLED, RESULT, SAID], "tools": [BARE]}])
@example([DEPRECATED])
def test_mending_makes_nothing_worse(rows: list[Json]) -> None:
    """For no backend; and rows that were right have their tokens still: all but those whose calls
    are written with tools, where the role of a result is another word."""
    method: Any = usual_method_of(rows[0])
    with tempfile.TemporaryDirectory() as folder:
        fixed = Dataset.open(rows).fix(Path(folder) / "fixed.jsonl", method=method)
        made = [json.loads(line) for line in Path(fixed.out).read_text("utf-8").splitlines()]
    for backend in ("openai", "local") if method in PAID else ("local",):
        before, after = judged(rows, backend, method), judged(made, backend, method)
        assert worst(after) >= worst(before), said(after)
        if before.ok and not fixed.changes.keys() & {"duplicates", "deprecated_functions"}:
            assert after.tokens == before.tokens


@FEWER
@given(any_rows())
@example(
    {
        "input": {"messages": [{"role": "user", "content": "Is it dark?"}]},
        "preferred_output": [{"role": "assistant", "content": "Yes."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
        "label": True,
    }
)
@example(
    {
        "messages": [
            {"role": "user", "content": "Is it dark?"},
            {"role": "assistant", "content": "Yes."},
        ],
        "rejected_response": "No.",
        "label": True,
    }
)
@example({**LINE, "tools": "[]"})
@example({**LINE, "input": "Hi", "tools": "[]"})
@example({"prompt": "Is it dark?", "chosen": "Yes.", "rejected": json.dumps(COHERE)})
@example({"prompt": "Is it dark?", "chosen": "Yes.", "rejected": json.dumps(IDEAL["input"])})
@example({**REQUEST_LOG, "system": "Be brief.", "system_prompt": "You are a helpful engineer."})
@example({**VERTEX_PAIR, "system": "You are a helpful engineer and you are brief."})
@example({"input": [*IDEAL["input"], CALLED, {**RESULT, "call_id": ""}, SAID], "tools": [BARE]})
@example(
    {
        "prompt": [*IDEAL["input"], {"role": "assistant", "tool_calls": [LAMP_CALL]}],
        "completion": [{"role": "tool", "content": "off"}, SAID],
    }
)
def test_what_is_accepted_is_converted_with_its_tokens(row: Json) -> None:
    """Into every format that can hold it; OpenAI's holds all but labels and texts."""
    row_format, report = format_of(row), judged([row], FakeBackend())
    if not report.ok or row_format is None:
        return
    for to in TARGETS:
        try:
            made = json.loads(dumped(convert_row(canonical(row, rename=True), to)))
        except ConversionError:
            assert to != "openai" or row_format.kind in ("unpaired_preference", "text")
            continue
        written = judged([made], FakeBackend())
        assert (errors(written), written.tokens) == ([], report.tokens)


@pytest.mark.parametrize("odd", [1.5, "x", [[1], [1]], {}], ids=repr)
def test_any_value_at_any_place_is_read_and_judged(odd: Any) -> None:
    """No traceback, whatever stands where in a row of whatever format."""
    for row in EXAMPLES:
        for place in [*places(row)][1:]:
            changed = json.loads(json.dumps(row))
            at(changed, place[:-1])[place[-1]] = odd
            if row_format := format_of(changed):
                [*row_defects(changed, row_format, read_as(changed, row_format))]


@FEWER
@given(any_rows())
@example({"messages": [{"role": "user", "content": ["Is it dark?"]}, SAID]})
@example({"messages": [{"role": "user", "content": [[]]}, SAID]})
@example({"messages": [{"role": "user", "content": {"a": 1}}, SAID]})
@example({"messages": ["x", SAID]})
@example({"messages": [SAID], "tools": {"find": 1}})
@example({"messages": [*IDEAL["input"], {**SAID, "tool_calls": {"id": "c1"}}]})
@example({"messages": [*IDEAL["input"], {**SAID, "tool_calls": 1.5}]})
@example({"messages": [*IDEAL["input"], {**SAID, "tool_calls": [None]}]})
@example({"messages": [*IDEAL["input"], {**SAID, "tool_calls": [{"type": "text"}]}]})
@example({"messages": [*IDEAL["input"], {**SAID, "tool_calls": [{"function": [1]}]}]})
@example({"messages": [*IDEAL["input"], {**SAID, "refusal": {"a": 1}, "content": None}]})
@example({**DEPRECATED, "messages": [{**SAID, "function_call": {"arguments": "Oslo"}}]})
def test_no_row_breaks_a_template(row: Json) -> None:
    """Rows with errors too are shown to a model's template by what looks at the whole file: it
    refuses them in our words. The first rows of a file are read so."""
    rows = [row, {"messages": [*IDEAL["input"], SAID]}]
    method: Any = usual_method_of(row)
    gateway.validate(rows, backend="local", model="builtin/tiny", method=method)


def test_there_is_a_row_of_each_format() -> None:
    """So that the properties above are about all."""
    assert {format_of(row) for row in EXAMPLES} == {*FORMATS}
