"""Rows of evals: a question with its ideal answer, or an item with a sample of a model.

https://github.com/openai/evals/blob/main/docs/build-eval.md
https://platform.openai.com/docs/guides/evals
"""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.services.exchange import answer, request
from finetune_gateway.data.services.turn import drop
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_QUESTIONS = ("messages", "input", "prompt", "question")
_ANSWERS = ("ideal", "expected", "answer", "completion", "output", "reference_answer")


def is_ideal(row: Json) -> bool:
    """Return True for an input with its ideal answer."""
    return isinstance(row.get("input"), str | list)


def read_ideal(reader: Reader) -> Json:
    """Read an input and the ideal answer to it."""
    reader.used |= {"input", "ideal"}
    read = request(reader, reader.row["input"], "input")
    messages = read["messages"] + _ideal(reader, reader.row["ideal"], "ideal")
    return {"messages": messages, **reader.tools()}


def _ideal(reader: Reader, ideal: Any, path: str) -> list[Json]:
    if isinstance(ideal, list) and len(ideal) == 1:
        ideal, path = ideal[0], f"{path}[0]"
    if isinstance(ideal, str):
        return [reader.said("assistant", ideal, path)]
    if isinstance(ideal, list):
        why = f"{len(ideal)} answers that would all be right"
        fix = "Keep the one that the model should give, or write one row for each."
        reader.refuse(path, why, "not_convertible", fix)
    else:
        reader.refuse(path, "an eval without its ideal answer", "missing_completion")
    return []


def is_item(row: Json) -> bool:
    """Return True for an item, by itself or with a model's sample."""
    return isinstance(row["item"], dict) and _OTHERS.isdisjoint(row)


_OTHERS = frozenset({"prompt", "completion", "text", "instruction", "input", "question"})


def read_item(reader: Reader) -> Json:
    """Read the question of an item, and its answer; without one, that of the sample."""
    reader.used |= {"item", "sample"}
    item, sample = reader.row["item"], reader.row.get("sample")
    asked = next((key for key in _QUESTIONS if item.get(key)), "")
    answered = next((key for key in _ANSWERS if item.get(key)), "")
    if not asked or not (answered or sample):
        names = ", ".join(quoted(key) for key in list(item)[:8])
        reader.refuse(
            "item",
            f"a row of evals, of whose columns no question and answer are known: {names}",
            fix='Write one row for each: {"prompt": the question, "completion": the answer}.',
        )
        return {"messages": []}
    others = {key: item[key] for key in item if key not in (asked, answered)}
    reader.unsent |= {f"item.{key}": None for key in others}
    read = request(reader, item[asked], f"item.{asked}")
    if answered:
        return {"messages": read["messages"] + _ideal(reader, item[answered], f"item.{answered}")}
    value: Any = sample
    path = "sample"
    if isinstance(sample, dict) and isinstance(sample.get("outputs"), list):
        drop(reader, sample, {"outputs"}, "sample")
        value, path = sample["outputs"], "sample.outputs"
    return {"messages": read["messages"] + answer(reader, value, path, read["messages"])}
