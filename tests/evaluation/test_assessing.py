"""From scores to figures: which rows count, which examples come first, what is served."""

from __future__ import annotations

from pathlib import Path

from finetune_gateway.evaluation import assessing, costs
from finetune_gateway.evaluation.comparison import ScoredAnswer
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.questions import pairs_of
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    Leak,
    Measure,
    Score,
)
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

MATCH = Measure(name="match", title="Match", share=True)
MODELS = [
    ComparedFacts(key=key, name=key, title=key, kind="local", way="tuned", model=key, base_model="")
    for key in ("a", "b")
]


def row(name: str, *leaks: Leak) -> ComparedRow:
    prompt = Prompt(id=name, lines=(1,), messages=[{"role": "user", "content": name}])
    return ComparedRow(prompt=prompt, cluster=name, leaks=leaks)


def scored(model: str, row: str, value: float | None) -> ScoredAnswer:
    answer = ComparedAnswer(model=model, row=row, message={"content": "x"})
    return ScoredAnswer(answer=answer, scores={"match": Score(value=value)})


def test_a_row_that_one_model_was_trained_on_counts_for_none() -> None:
    """Neither for the model that has seen it nor for the others."""
    rows = {"new": row("new"), "seen": row("seen", Leak(model="a", kind="near", line=3))}
    answers = [scored(key, name, float(key == "a")) for key in "ab" for name in rows]
    found = assessing.gather(MATCH, MODELS, rows, answers)
    assert found.values == {"a": {"new-0": 1.0}, "b": {"new-0": 0.0}}


def test_examples_of_a_check_begin_with_those_that_failed() -> None:
    """Then those that were not judged; each is counted once."""
    values = [1.0, None, 0.0, 1.0, 0.0]
    answers = [scored("a", f"row {place}", value) for place, value in enumerate(values)]
    figure = assessing.check_figures("match", MODELS, answers)["a"]
    assert (figure.passed, figure.failed, figure.unjudged) == (2, 2, 1)
    assert figure.examples == ("row 2", "row 4", "row 1", "row 0", "row 3")


def test_serving_is_priced_by_the_lengths_that_were_measured(home: Path) -> None:
    """A model without any counts in no mean; without one that has some there is nothing to say."""
    store, silent = Store(Settings.load().create()), AnswerFigures(errors=3)
    assert costs.serving([], {"a": silent}, None, store) is None
    said = AnswerFigures(answers=3, prompt_tokens=100, completion_tokens=10)
    found = costs.serving([], {"a": silent, "b": said}, 500, store)
    assert found is not None
    traffic = found.traffic
    assert (traffic.requests, traffic.tokens_in, traffic.tokens_out) == (500, 100, 10)


def test_a_judge_compares_all_pairs_of_three_and_else_each_with_the_first() -> None:
    """The pairs of 20 models would be 190."""
    assert pairs_of("abc") == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs_of("abcd") == [("a", "b"), ("a", "c"), ("a", "d")]
