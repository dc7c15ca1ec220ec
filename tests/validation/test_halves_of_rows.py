"""Rows that hold a part of an example: a request without its answer, an answer in no column of
text, turns in one text, a weight where nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import Dataset, Report

Json = dict[str, Any]


def _checked(tmp_path: Path, *rows: Json) -> Report:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Dataset(path).validate()


def _asked(number: int) -> list[Json]:
    return [{"role": "user", "content": f"Question {number}?"}]


def _answered(number: int) -> Json:
    return {"choices": [{"message": {"role": "assistant", "content": f"Answer {number}."}}]}


@pytest.mark.parametrize("key", ["body", "request", "input_data"])
def test_a_request_and_its_answer_on_two_lines_belong_into_one(tmp_path: Path, key: str) -> None:
    pairs = [
        ({"id": n, key: {"model": "m", "messages": _asked(n)}}, {"id": n, key: _answered(n)})
        for n in range(12)
    ]

    report = _checked(tmp_path, *(row for pair in pairs for row in pair))

    (found,) = {finding.code: finding for finding in report.errors}.values()
    assert found.code == "unknown_format"
    assert "a request, and no answer is beside it" in found.message
    assert "Write both in one row" in (found.fix or "")
    assert "--fix" not in (found.fix or "")
    with_fix = Dataset(tmp_path / "rows.jsonl").fix(tmp_path / "new.jsonl")
    assert "unknown_format" not in with_fix.changes


def test_an_answer_alone_lacks_its_request(tmp_path: Path) -> None:
    report = _checked(tmp_path, *({"n": n, "body": _answered(n)} for n in range(12)))

    assert any("its request is not beside it" in finding.message for finding in report.errors)


def test_a_whole_row_in_an_envelope_is_still_taken_out_of_it(tmp_path: Path) -> None:
    answers = [[*_asked(n), {"role": "assistant", "content": f"Answer {n}."}] for n in range(12)]
    _checked(tmp_path, *({"n": n, "body": {"messages": answers[n]}} for n in range(12)))

    with_fix = Dataset(tmp_path / "rows.jsonl").fix(tmp_path / "new.jsonl")

    assert with_fix.changes["unknown_format"] == 12
    assert not with_fix.report.errors


def test_the_weight_of_a_turn_that_is_never_trained_may_be_0(tmp_path: Path) -> None:
    """https://huggingface.co/datasets/Open-Orca/SlimOrca"""
    turns = [
        [
            {"from": "system", "value": "Be short.", "weight": None},
            {"from": "human", "value": f"Question {n}?", "weight": 0},
            {"from": "gpt", "value": f"Answer {n}.", "weight": 1},
        ]
        for n in range(12)
    ]

    assert not _checked(tmp_path, *({"conversations": one} for one in turns)).errors


@pytest.mark.parametrize("weight", [1, 0.5, "0", True])
def test_another_weight_there_is_refused(tmp_path: Path, weight: object) -> None:
    turns = [
        {"from": "human", "value": "Question?", "weight": weight},
        {"from": "gpt", "value": "Answer.", "weight": 1},
    ]

    report = _checked(tmp_path, *[{"conversations": turns}] * 12)

    assert "weight_role" in {finding.code for finding in report.errors}


def test_a_column_that_is_asked_is_not_offered_as_the_answer(tmp_path: Path) -> None:
    """https://huggingface.co/datasets/rajpurkar/squad"""
    rows = [
        {
            "id": f"x{n}",
            "context": f"Paragraph {n}.",
            "question": f"What is {n}?",
            "answers": {"text": [f"number {n}"], "answer_start": [5]},
        }
        for n in range(12)
    ]

    (found,) = _checked(tmp_path, *rows).errors

    assert "--map" not in (found.fix or "")


def test_a_column_that_is_asked_is_offered_as_the_prompt(tmp_path: Path) -> None:
    rows = [{"alpha": f"Said {n}", "question": f"What is {n}?"} for n in range(12)]

    (found,) = _checked(tmp_path, *rows).errors

    assert "--map question=prompt,alpha=completion" in (found.fix or "")


def test_turns_in_one_text_are_named(tmp_path: Path) -> None:
    """https://huggingface.co/datasets/glaiveai/glaive-function-calling-v2"""
    rows = [
        {
            "system": "SYSTEM: You are a helpful assistant.",
            "chat": f"USER: Hello {n}\n\n\nASSISTANT: Hi {n}. <|endoftext|>\n\n\n",
        }
        for n in range(12)
    ]

    found = next(one for one in _checked(tmp_path, *rows).errors if one.code == "unknown_format")

    assert "with USER: and ASSISTANT: before its turns" in found.message
