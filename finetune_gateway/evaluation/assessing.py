"""From answers to figures: scores, means with intervals, differences, and the verdict."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from finetune_gateway.evaluation import measures, statistics
from finetune_gateway.evaluation.comparison import ScoredAnswer
from finetune_gateway.evaluation.missing_scores import alike
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    CheckFigure,
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    Difference,
    Measure,
    MeasureFigure,
    Score,
)
from finetune_gateway.jobs.budget import ZERO

EXAMPLES = 20  # rows that are named for a check of one model
KINDS_OF_ERROR = 5


class Scorer(Protocol):
    """What scores one answer: a measure, or a check."""

    @property
    def measure(self) -> Measure: ...

    def score(self, row: ComparedRow, answer: ComparedAnswer) -> Score: ...


@dataclass(frozen=True)
class Figure:
    """A figure that an answer brings along, such as its seconds."""

    measure: Measure
    read: Callable[[ComparedAnswer], float | None]
    missing: str

    def score(self, row: ComparedRow, answer: ComparedAnswer) -> Score:
        """Return the figure; not judged where it was not measured."""
        value = self.read(answer)
        if value is None:
            return Score(reason=self.missing)
        return Score(value=value) if math.isfinite(value) else Score(reason=f"it is {value}")


LOSS = Measure(
    name="reference_loss",
    title="Loss on the reference",
    unit="nats per token",
    better="lower",
    about="Mean negative log-likelihood of the data's answer, on the tokens that are trained.",
)
CHECKS = Measure(
    name="checks",
    title="All checks",
    share=True,
    about="Rows whose answer passes every check of the guide, and all that is asked on after it "
    "does too; what shows neither is left out.",
)
FIGURES = (
    Figure(LOSS, lambda answer: answer.loss, "no log-likelihood of a given text from this model"),
    Figure(
        Measure(
            name="seconds", title="Seconds to the whole answer", unit="s", better="lower",
            decides=False, about="From the request to the end of the answer.",
        ),
        lambda answer: answer.seconds,
        "not timed",
    ),
    Figure(
        Measure(
            name="usd", title="USD per answer", unit="USD", better="lower", decides=False,
            about="By the tokens that the host counted, at its dated prices.",
        ),
        lambda answer: None if answer.usd is None else float(answer.usd),
        "no price",
    ),
)  # fmt: skip


# -- scores ----------------------------------------------------------------------------------


def score_of(scorer: Scorer, row: ComparedRow, answer: ComparedAnswer) -> Score:
    """Return what a measure says of an answer; an error is never a 0."""
    if answer.error and scorer.measure.name != LOSS.name:
        return Score(reason=f"error: {answer.error}")
    return scorer.score(row, answer)


@dataclass(frozen=True)
class Scores:
    """The scores of one measure that count: by model, and by row and sample."""

    measure: Measure
    values: dict[str, dict[str, float]]
    unjudged: dict[str, Counter[str]]


def gather(
    measure: Measure,
    models: Sequence[ComparedFacts],
    rows: Mapping[str, ComparedRow],
    answers: Iterable[ScoredAnswer],
) -> Scores:
    """Return the scores of a measure on the rows that no compared model was trained on."""
    values: dict[str, dict[str, float]] = {model.key: {} for model in models}
    unjudged: dict[str, Counter[str]] = {model.key: Counter() for model in models}
    for one in answers:
        row = rows.get(one.answer.row)
        score = one.scores.get(measure.name)
        if row is None or row.leaks or score is None or one.answer.model not in values:
            continue
        if score.value is None:
            unjudged[one.answer.model][score.reason] += 1
        else:
            values[one.answer.model][place(one.answer)] = score.value
    return Scores(measure, values, unjudged)


def place(answer: ComparedAnswer) -> str:
    """Return the place of an answer, at which those of other models are compared with it."""
    return f"{answer.row}-{answer.sample}"


def figures(scores: Scores, clusters: Mapping[str, str]) -> dict[str, MeasureFigure]:
    """Return the mean of each model with its interval."""
    return {
        key: _figure(scores.measure, values, scores.unjudged[key], clusters)
        for key, values in scores.values.items()
    }


def _figure(
    measure: Measure,
    values: Mapping[str, float],
    unjudged: Counter[str],
    clusters: Mapping[str, str],
) -> MeasureFigure:
    unjudged = alike(unjudged)
    if not values:
        reasons = ", ".join(reason for reason, _ in unjudged.most_common(2))
        return MeasureFigure(empty=reasons or "no answer was scored", unjudged=dict(unjudged))
    interval = statistics.mean(
        [*values.values()], [clusters[where] for where in values], share=measure.share
    )
    if min(values.values()) >= 0:  # seconds, lengths, money: their mean is not below 0 either
        interval = interval.model_copy(update={"low": max(0.0, interval.low)})
    return MeasureFigure(interval=interval, unjudged=dict(unjudged))


def differences(scores: Scores, clusters: Mapping[str, str]) -> list[Difference]:
    """Return each pair of models on the rows that both have a score for."""
    having = {key: values for key, values in scores.values.items() if values}
    if len(having) < 2 or not scores.measure.decides:
        return []
    return statistics.compare_all(scores.measure, having, clusters)


# -- answers and checks ----------------------------------------------------------------------


def answer_figures(
    answers: Sequence[ComparedAnswer], refused: int, stopped: str = ""
) -> AnswerFigures:
    """Return how one model answers: lengths, seconds, money, errors. What a filter of the host has
    held back is an error too. ``stopped``: the error of what was not asked."""
    good = [one for one in answers if measures.unjudged(one) is None]
    errors = Counter(one.error or measures.FILTERED for one in answers if measures.unjudged(one))
    timed = [one for one in good if one.seconds is not None]
    spent = [one.usd for one in answers if one.usd is not None]
    paid = [one.usd for one in good if one.usd is not None]
    return AnswerFigures(
        answers=len(good),
        errors=sum(errors.values()),
        not_sent=errors[stopped] if stopped else 0,
        error_kinds=dict(alike(errors).most_common(KINDS_OF_ERROR)),
        refusals=refused,
        empty=sum(one.is_empty for one in good),
        prompt_tokens=_mean(one.prompt_tokens for one in good),
        completion_tokens=_mean(one.completion_tokens for one in good),
        first_token_seconds=_quantiles(one.first_token_seconds for one in good),
        seconds=_quantiles(one.seconds for one in timed),
        timed=len(timed),
        tokens_per_second=_tokens_per_second(timed),
        usd_per_answer=sum(paid, ZERO) / len(paid) if paid else None,
        spent_usd=sum(spent, ZERO) if spent else None,
    )


def unanswered(
    answers: Iterable[ComparedAnswer], not_asked: Collection[str] = ()
) -> tuple[int, int]:
    """Return how many requests a model has left without an answer, and of how many. ``not_asked``:
    errors of requests that it never got."""
    asked = [one for one in answers if one.error not in not_asked]
    return sum(measures.unjudged(one) is not None for one in asked), len(asked)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _quantiles(values: Iterable[float | None]) -> tuple[float, float] | None:
    """Return the median, and the smallest value that 95% do not exceed."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    middle = len(known) // 2
    median = known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
    return median, known[-(-len(known) * 95 // 100) - 1]


def _tokens_per_second(timed: Sequence[ComparedAnswer]) -> float | None:
    """Return the tokens of all timed answers by their seconds, one answer at a time."""
    known = [(one.completion_tokens, one.seconds) for one in timed if one.completion_tokens]
    seconds = sum(second or 0.0 for _, second in known)
    return sum(tokens or 0 for tokens, _ in known) / seconds if seconds else None


def check_figures(
    name: str, models: Sequence[ComparedFacts], answers: Iterable[ScoredAnswer]
) -> dict[str, CheckFigure]:
    """Return for each model how many answers passed a check; the rows that failed come first among
    the examples."""
    sorted_by: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in answers:
        if (score := one.scores.get(name)) is not None:
            sorted_by[one.answer.model][_outcome(score)].append(one.answer.row)
    return {
        model.key: CheckFigure(
            passed=len(found["passed"]),
            failed=len(found["failed"]),
            unjudged=len(found["unjudged"]),
            examples=tuple([*found["failed"], *found["unjudged"], *found["passed"]][:EXAMPLES]),
        )
        for model in models
        for found in (sorted_by[model.key],)
    }


def _outcome(score: Score) -> str:
    if score.value is None:
        return "unjudged"
    return "passed" if score.value >= 1 else "failed"
