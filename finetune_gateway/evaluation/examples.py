"""Training rows that a base is shown before the question: few-shot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.evaluation.framing import SYSTEM, Example
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, fingerprint, prompt_of
from finetune_gateway.evaluation.row_matching import matches
from finetune_gateway.validation.dataset.row_text import message_text

Json = dict[str, Any]

NO_RESULT = "(not shown)"  # of a call that ends a row: hosts refuse a call without a result


def with_examples(
    models: Sequence[EvaluatedModel], prompts: Sequence[Prompt], *, seed: int
) -> list[EvaluatedModel]:
    """Return the models, each ``few-shot:`` one with its examples: drawn by content and seed, never
    a row that is, or nearly is, one of these prompts. Raises SpecError if there are too few."""
    return [_with_examples(model, prompts, seed) if model.shots else model for model in models]


def _with_examples(model: EvaluatedModel, prompts: Sequence[Prompt], seed: int) -> EvaluatedModel:
    source = model.examples_from
    if source is None:
        raise SpecError(f"There are no training rows to show to {shown(model.name)}.")
    asked = {line for match in matches(prompts, source.path).values() for line in match.lines}
    usable = [one for one in _rows(source) if not asked & {*one.lines}]
    if len(usable) < model.shots:
        raise SpecError(
            f"{shown(model.name)} needs {model.shots} examples; {len(usable)} of the training rows "
            "are neither a compared row nor nearly one.",
            hint="Ask for fewer.",
        )
    drawn = sorted(usable, key=lambda one: fingerprint([seed, one.id]))[: model.shots]
    chosen = tuple(example(one, model.system_prompt) for one in drawn)
    return replace(model, examples=chosen)


def _rows(source: Dataset) -> list[Prompt]:
    """Return the rows with an answer, each prompt once."""
    found: dict[str, Prompt] = {}
    for row in source.rows():
        prompt = prompt_of(row.data, row.line)
        if prompt is None or not prompt.references:
            continue
        first = found.get(prompt.id, prompt)
        found[prompt.id] = first.model_copy(update={"lines": (*first.lines, row.line)})
    return list(found.values())


def example(row: Prompt, system: str | None) -> Example:
    """Return the messages of a row as an example, with its calls and their results. A system prompt
    of its own, which is not that of all, goes before its first question."""
    own = [*takewhile(lambda message: message.get("role") in SYSTEM, row.messages)]
    turns = [*row.messages[len(own) :], row.references[0]]
    said = "\n".join(map(message_text, own))
    if said and said != system:
        turns = _behind(said, turns)
    return row.lines[0], [*turns, *_results(row.references[0])]


def _behind(text: str, turns: list[Json]) -> list[Json]:
    """Return the turns with a text before the first question."""
    first, *rest = turns
    content = first.get("content")
    if isinstance(content, str):
        return [{**first, "content": f"{text}\n\n{content}"}, *rest]
    parts = content if isinstance(content, list) else []
    return [{**first, "content": [{"type": "text", "text": text}, *parts]}, *rest]


def _results(answer: Json) -> list[Json]:
    """Return a result for each call of an answer that ends a row."""
    old = answer.get("function_call")
    if isinstance(old, dict):
        return [{"role": "function", "name": str(old.get("name", "")), "content": NO_RESULT}]
    calls = map(as_dict, as_list(answer.get("tool_calls")))
    return [
        {"role": "tool", "tool_call_id": str(call.get("id", "")), "content": NO_RESULT}
        for call in calls
    ]
