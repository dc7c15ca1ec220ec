"""What a model is asked when its training has ended: no row of its data costs the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.method_rows import small_rows
from support.training import log_of, method_run, train_run

from finetune_gateway import SpecError
from finetune_gateway.backends.local.finishing import result_of
from finetune_gateway.backends.local.inference import first_answer
from finetune_gateway.backends.local.run import Run
from finetune_gateway.events import Result
from finetune_gateway.tokens.chat_template import ChatTemplate

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

OTHERS = ["dpo", "orpo", "kto", "pretrain", "reward"]
LONG = "Where is parcel number 1? " * 200
NO_FUNCTION = {"name": "find", "description": "Finds a parcel"}  # a template writes it all the same


def with_question(row: dict[str, Any], question: str) -> dict[str, Any]:
    """The row, of a conversation or a pair, with another question."""
    asked = {"role": "user", "content": question}
    if "input" in row:
        return {**row, "input": {"messages": [asked]}}
    return {**row, "messages": [asked, *row["messages"][1:]]}


def question_of(row: dict[str, Any]) -> str:
    """What a row asks."""
    return str(row.get("input", row)["messages"][0]["content"])


def with_tools(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a tool of which serving takes no request."""
    if "input" in row:
        return {**row, "input": {**row["input"], "tools": [NO_FUNCTION]}}
    return {**row, "tools": [NO_FUNCTION]}


def of_context(folder: Path, tmp_path: Path, tokens: int) -> Path:
    """The model with another context."""
    copy = shutil.copytree(folder, tmp_path / f"model-{tokens}")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": tokens}))
    return copy


def asked_tokens(run: Run) -> int:
    """How many tokens the model of a run was asked with, as if it had been saved."""
    return first_answer(run, Result(kind="merged", model=run.spec.model)).usage.prompt_tokens


def prompt_tokens(folder: Path, question: str) -> int:
    return len(ChatTemplate.load(folder).prompt_ids([{"role": "user", "content": question}]))


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_the_first_row_that_can_be_asked_is(tmp_path: Path, tiny_folder: Path, method: str) -> None:
    """Not one whose prompt is longer than the context, or than what was trained of a row, nor one
    with tools that serving refuses. Where none is left, a plain question is asked."""
    rows = small_rows(method, 8)
    odd = [with_question(rows[0], LONG), with_tools(rows[1])]
    run = method_run(tmp_path / "some", tiny_folder, method, "lora", [*odd, *rows], max_length=1024)
    assert asked_tokens(run) == prompt_tokens(tiny_folder, question_of(rows[0]))
    cut = with_question(rows[0], LONG[:400])
    run = method_run(tmp_path / "cut", tiny_folder, method, "lora", [cut, *rows], max_length=64)
    assert 0 < asked_tokens(run) < 64
    run = method_run(tmp_path / "none", tiny_folder, method, "lora", odd)
    assert asked_tokens(run) == prompt_tokens(tiny_folder, "Hello.")
    assert "a plain one is" in log_of(run)


def test_texts_that_are_too_long_cost_no_training(tmp_path: Path, tiny_folder: Path) -> None:
    """Characters of four bytes each: their beginning alone is longer than a small context."""
    folder, owls = of_context(tiny_folder, tmp_path, 64), {"text": "\N{OWL}" * 99}
    rows = [owls, {"text": ""}, {"text": "A parcel"}]
    run = method_run(tmp_path / "home", folder, "pretrain", "lora", rows, max_length=16)
    whole = method_run(tmp_path / "one", folder, "pretrain", "lora", rows[2:], max_length=16)
    assert asked_tokens(run) == asked_tokens(whole)
    run = method_run(tmp_path / "none", folder, "pretrain", "lora", rows[:1])
    assert 0 < asked_tokens(run) < 8


def test_a_model_that_cannot_answer_still_fails(tmp_path: Path, tiny_folder: Path) -> None:
    """It has no room for a plain question."""
    folder = of_context(tiny_folder, tmp_path, 4)
    run = method_run(tmp_path / "home", folder, "sft", "lora", small_rows("sft", 2))
    with pytest.raises(SpecError, match="this model reads at most 4"):
        asked_tokens(run)


def test_rows_without_an_answer_cost_no_training(tmp_path: Path, tiny_folder: Path) -> None:
    """With train_on=all they are trained; all of one is its prompt."""
    question = [{"role": "user", "content": "Where is it?"}]
    rows = [{"messages": question}]
    run = method_run(tmp_path / "home", tiny_folder, "sft", "lora", rows, train_on="all")
    assert asked_tokens(run) == prompt_tokens(tiny_folder, "Where is it?")


def test_a_template_that_wants_tools_gets_some(tmp_path: Path, tiny_folder: Path) -> None:
    """In the plain question too."""
    folder = of_context(tiny_folder, tmp_path, 512)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    refuses = "{%- if not tools -%}{{- raise_exception('no tools') -}}{%- endif -%}"
    path.write_text(json.dumps({**config, "chat_template": refuses + config["chat_template"]}))
    run = method_run(tmp_path / "home", folder, "sft", "lora", small_rows("sft", 2))
    assert asked_tokens(run) > prompt_tokens(tiny_folder, "Hello.")


@pytest.mark.parametrize(
    "method",
    ["sft", *(pytest.param(one, marks=pytest.mark.chaos) for one in OTHERS)],
)
def test_a_training_beyond_the_context_has_a_result(
    tmp_path: Path, tiny_folder: Path, method: str
) -> None:
    """What --allow-longer lets in: a first row that is trained whole, and cannot be asked so."""
    first, *rows = small_rows(method, 8)
    first = {"text": LONG} if method == "pretrain" else with_question(first, LONG[:1800])
    folder = of_context(tiny_folder, tmp_path, 128)
    options: dict[str, Any] = {"max_length": 1024, "n_epochs": 1}
    run = method_run(tmp_path / "home", folder, method, "lora", [first, *rows], **options)
    result, trained = result_of(train_run(run))
    assert result.first_answer is not None and trained
