"""Answers that a service cut off, refused or never finished are warned of, at their field."""

from __future__ import annotations

from typing import Any

import pytest
from support.services import ASK, CONTENTS, CONVERSE, ROWS, SAY

import finetune_gateway as gateway
from finetune_gateway.validation.rows.endings import ending_defects

Json = dict[str, Any]
CUT, REFUSED = "answer_cut", "answer_refused"
BLOCKS = [{"type": "text", "text": "Yes."}]


def log(response: Json) -> Json:
    return {"request": {"messages": [ASK]}, "response": response}


# A row, and what is said of it, where.
ENDED: dict[str, tuple[Json, str, str]] = {
    "chat": (
        log({"choices": [{"message": SAY, "finish_reason": "length"}]}),
        CUT, "response.choices[0].finish_reason",
    ),
    "filtered": (
        log({"choices": [{"message": SAY, "finish_reason": "content_filter"}]}),
        REFUSED, "response.choices[0].finish_reason",
    ),
    "never finished": (
        log({"choices": [{"message": SAY, "finish_reason": None}]}),
        CUT, "response.choices[0].finish_reason",
    ),
    "vLLM": (
        log({"choices": [{"message": SAY, "finish_reason": "abort", "stop_reason": None}]}),
        CUT, "response.choices[0].finish_reason",
    ),
    "Mistral": (
        log({"choices": [{"message": SAY, "finish_reason": "model_length"}]}),
        CUT, "response.choices[0].finish_reason",
    ),
    "a refusal": (
        log({"choices": [{"message": {"role": "assistant", "content": None, "refusal": "No."}}]}),
        REFUSED, "response.choices[0].message.refusal",
    ),
    "Anthropic": (
        log({"type": "message", "role": "assistant", "content": BLOCKS,
             "stop_reason": "max_tokens"}),
        CUT, "response.stop_reason",
    ),
    "Anthropic, refused": (
        log({"type": "message", "role": "assistant", "content": BLOCKS, "stop_reason": "refusal"}),
        REFUSED, "response.stop_reason",
    ),
    "Anthropic, streamed": (
        log({"type": "message", "role": "assistant", "content": BLOCKS, "stop_reason": None}),
        CUT, "response.stop_reason",
    ),
    "Gemini": (
        {"request": {"contents": CONTENTS[:1]},
         "response": {"candidates": [{"content": CONTENTS[1], "finishReason": "MAX_TOKENS"}]}},
        CUT, "response.candidates[0].finishReason",
    ),
    "Gemini, unsafe": (
        {"request": {"contents": CONTENTS[:1]},
         "response": {"candidates": [{"content": CONTENTS[1], "finishReason": "SAFETY"}]}},
        REFUSED, "response.candidates[0].finishReason",
    ),
    "Bedrock": (
        {"request": {"messages": CONVERSE[:1]},
         "response": {"output": {"message": CONVERSE[1]}, "stopReason": "guardrail_intervened"}},
        REFUSED, "response.stopReason",
    ),
    "Responses": (
        {"request": {"input": "Is it dark?"},
         "response": {"object": "response", "status": "incomplete",
                      "incomplete_details": {"reason": "max_output_tokens"},
                      "output": [{"type": "message", **SAY, "status": "completed"}]}},
        CUT, "response.status",
    ),
    "an item": (
        {"input": "Is it dark?", "output": [{"type": "message", **SAY, "status": "incomplete"}]},
        CUT, "output[0].status",
    ),
    "Batch": (
        {"custom_id": "1", "body": {"messages": [ASK]}, "response": {"status_code": 200, "body": {
            "choices": [{"message": SAY, "finish_reason": "length"}]}}},
        CUT, "response.body.choices[0].finish_reason",
    ),
    "evals": (
        {"item": {"question": "Is it dark?"},
         "sample": {"outputs": [SAY], "finish_reason": "length"}},
        CUT, "sample.finish_reason",
    ),
    "Ollama": (log({"message": SAY, "done": True, "done_reason": "length"}), CUT,
               "response.done_reason"),
    "Ollama, streamed": (log({"message": SAY, "done": False}), CUT, "response.done"),
    "a chat row": ({"messages": [ASK, SAY], "finish_reason": "length"}, CUT, "finish_reason"),
    "a message": (
        {"messages": [ASK, {**SAY, "finish_reason": "length"}]}, CUT, "messages[1].finish_reason"
    ),
    "a column": (
        {"prompt": "Is it?", "completion": "Yes", "finish_reason": "length"}, CUT, "finish_reason"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDED)
def test_an_answer_that_did_not_end_is_warned_of(name: str) -> None:
    row, code, path = ENDED[name]

    report = gateway.validate([row], quality=False)

    found = [(one.code, one.path) for one in report.warnings if one.code in (CUT, REFUSED)]
    assert found == [(code, path)]


ENDS = ("stop", "end_turn", "tool_use", "tool_calls", "STOP", "eos", "stop_sequence", "COMPLETE", 1)


@pytest.mark.parametrize("reason", ENDS)
def test_an_answer_that_ended_is_not(reason: Any) -> None:
    choice = {"message": SAY, "finish_reason": reason, "stop_reason": None}
    assert [*ending_defects(log({"choices": [choice]}))] == []


def test_what_models_and_tools_write_is_no_ending() -> None:
    """A call's arguments, a result and a parameter may have such keys; a worse answer may be cut;
    a refusal that someone wrote is to be learned."""
    said = {"finish_reason": "length", "status": "incomplete", "content": "x", "object": "response"}
    blocks = [
        {"type": "tool_use", "id": "c", "name": "n", "input": said},
        {"functionCall": {"name": "n", "args": said}},
        {"toolResult": {"toolUseId": "c", "content": [{"json": said}]}},
    ]
    row = {
        "messages": [ASK, {"role": "assistant", "content": blocks}],
        "tools": [{"type": "function", "function": {"name": "n", "parameters": said}}],
        "metadata": said,
        "rejected": [{"role": "assistant", "content": "No", **said}],
    }
    assert [*ending_defects(row)] == []
    written = {"messages": [ASK, {"role": "assistant", "content": None, "refusal": "No."}]}
    assert not gateway.validate([written], quality=False).warnings


def test_rows_of_services_end_well() -> None:
    assert not [one for _, row, _ in ROWS.values() for one in ending_defects(row)]


def test_any_depth_is_looked_at_without_end() -> None:
    deep: Json = {"finish_reason": "length"}
    for _ in range(5000):
        deep = {"x": [deep]}
    assert len([*ending_defects(deep)]) <= 1
