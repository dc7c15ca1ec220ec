"""How bases are asked: bare, with the system prompt of the training, with examples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.leaked import SYSTEM, different_rows, leaked

from finetune_gateway import Dataset, SpecError
from finetune_gateway.evaluation.examples import NO_RESULT, with_examples
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.evaluation.results import Variant

Row = dict[str, Any]


def asked(row: Row) -> Prompt:
    found = prompt_of(row, 1)
    assert found is not None
    return found


def model(way: Variant, **fields: Any) -> EvaluatedModel:
    return EvaluatedModel("k", "n", "t", "hosted", way, "m", "m", host="h", **fields)


def few_shot(folder: Path, rows: list[Row], shots: int) -> EvaluatedModel:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return model("few-shot", system_prompt=SYSTEM, shots=shots, examples_from=Dataset(path))


def roles(prompt: Prompt) -> list[str]:
    return [message["role"] for message in prompt.messages]


def test_the_system_prompt_of_the_training() -> None:
    """A base is asked without it, and keeps one of the row's own; with prompt: a row without one
    gets it. A tuned model is asked the row as it is. Another question has another id."""
    with_it, without = (asked(different_rows(1, system=one)[0]) for one in (SYSTEM, None))
    other = asked(different_rows(1, system="Be rude.")[0])
    base, prompt = model("base", drops=SYSTEM), model("prompt", system_prompt=SYSTEM)
    assert base.framed(with_it) == with_it.model_copy(
        update={"messages": without.messages, "id": without.id}
    )
    assert base.framed(without) is without and base.framed(other) is other
    assert prompt.framed(without).id == with_it.id and prompt.framed(with_it) is with_it
    assert prompt.framed(other) is other
    for row in (with_it, without, other):
        assert replace(base, variant="tuned").framed(row) is row


def test_examples_are_drawn_by_content_and_seed(tmp_path: Path) -> None:
    """The same for the same seed in whatever order of the file, others for another one, each with
    question and answer before the question; never a row that is, or nearly is, compared."""
    rows = different_rows(60)
    exact, changed = leaked(rows, 4)
    prompts = [asked(row) for row in (*exact, *changed)]
    few = few_shot(tmp_path, rows, 4)
    [one] = with_examples([few], prompts, seed=1)
    turned = [
        rows[len(rows) - line]["messages"] for line, _ in _shots(tmp_path, rows[::-1], prompts)
    ]
    assert [rows[line - 1]["messages"] for line, _ in one.examples] == turned
    assert with_examples([few], prompts, seed=2)[0].examples != one.examples
    assert one.facts().examples == tuple(line for line, _ in one.examples)
    framed = one.framed(prompts[0])
    assert roles(framed) == ["system", *["user", "assistant"] * 4, "user"]
    assert framed.messages[-1] == prompts[0].messages[-1] and framed.id != prompts[0].id
    taken = {message["content"] for _, shown in one.examples for message in shown}
    for row in exact:
        assert row["messages"][1]["content"] not in taken
    every = few_shot(tmp_path, rows, 40)
    [most] = with_examples([every], prompts, seed=1)
    lines = {line for line, _ in most.examples}
    near = {rows.index(row) + 1 for row in rows if row in exact}
    assert len(lines) == 40 and not lines & near
    with pytest.raises(SpecError, match="needs 60 examples; 4[0-2] of the training rows"):
        with_examples([few_shot(tmp_path, rows, 60)], prompts, seed=1)


def _shots(folder: Path, rows: list[Row], prompts: list[Prompt]) -> Any:
    return with_examples([few_shot(folder, rows, 4)], prompts, seed=1)[0].examples


def test_rows_with_tools_keep_calls_and_results(tmp_path: Path) -> None:
    """A call in the middle has its own result; one that ends a row gets a result that says nothing,
    without which a host refuses the conversation. A system prompt of its own goes before the
    question."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calls = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "7"}
    question = {"role": "user", "content": "How many?"}
    answer = {"role": "assistant", "content": "Seven."}
    whole = {
        "messages": [{"role": "system", "content": "Table t."}, question, calls, result, answer]
    }
    [one] = with_examples([few_shot(tmp_path, [whole], 1)], [], seed=0)
    [(line, shown)] = one.examples
    assert line == 1 and shown[1:] == [calls, result, answer]
    assert shown[0] == {"role": "user", "content": "Table t.\n\nHow many?"}
    dangling = {"messages": [{"role": "system", "content": SYSTEM}, question, calls]}
    [one] = with_examples([few_shot(tmp_path, [dangling], 1)], [], seed=0)
    assert one.examples[0][1] == [question, calls, {**result, "content": NO_RESULT}]
