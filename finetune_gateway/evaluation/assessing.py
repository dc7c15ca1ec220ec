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
from finetune_gateway.evaluation.missing_scores import Unjudged, alike, choosers
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
    Verdict,
)
from finetune_gateway.jobs.budget import ZERO

EXAMPLES = 20  # rows that are named for a check of one model
KINDS_OF_ERROR = 5
MANY = 1000  # scores from which a tenth of a percent says something
SMALL = 0.01  # difference of shares of which tenths of a point are said
FORM = ("json_valid", "json_schema")  # measures that say nothing of what stands in an answer
NAMED = 3  # models with their figures, where one cannot tell which is best


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


def answer_figures(answers: Sequence[ComparedAnswer], refused: int) -> AnswerFigures:
    """Return how one model answers: lengths, seconds, money, errors. What a filter of the host has
    held back is an error too."""
    good = [one for one in answers if measures.unjudged(one) is None]
    errors = Counter(one.error or measures.FILTERED for one in answers if measures.unjudged(one))
    timed = [one for one in good if one.seconds is not None]
    spent = [one.usd for one in answers if one.usd is not None]
    paid = [one.usd for one in good if one.usd is not None]
    return AnswerFigures(
        answers=len(good),
        errors=sum(errors.values()),
        error_kinds=dict(alike(errors).most_common(KINDS_OF_ERROR)),
        refusals=refused,
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


# -- the verdict -----------------------------------------------------------------------------


def verdict(
    measure: Measure,
    models: Sequence[ComparedFacts],
    found: Mapping[str, MeasureFigure],
    pairs: Sequence[Difference],
    money: Mapping[str, str],
    left: Mapping[str, tuple[int, int]],
    matches: Mapping[str, MeasureFigure] | None = None,
    silent: Mapping[str, Unjudged] | None = None,
    doubts: Sequence[str] = (),
) -> Verdict:
    """Return which models are best by a measure, as far as one can tell. ``pairs``: as ``untold``
    leaves them. ``money``: a clause on the cost of a model's answers, by its key; ``left``: what it
    has left unanswered. ``matches``: the share of answers that match, if any. ``silent``: what the
    measure has not judged of a model. ``doubts``: how far the judge can be trusted, if it decides,
    as clauses that begin with "it"."""
    silent = silent or {}
    titles = {model.key: model.title for model in models}
    ranked = _ranked(measure, found)
    if not ranked:
        return Verdict(
            text=f"Can't tell: no model has a figure for {measure.title.lower()}.",
            measure=measure.name,
        )
    choosy = choosers(left)
    worse = {_other(pair) for pair in pairs if pair.better}
    unbeaten = [key for key in ranked if key not in worse] or ranked
    top = unbeaten[0]
    rivals = [pair for pair in pairs if top in (pair.first, pair.second) and not pair.better]
    like_top = {key for pair in rivals for key in (pair.first, pair.second)}
    best = [key for key in ranked if key in unbeaten or key in like_top]
    decided = len(ranked) > 1 and len(best) == 1
    chosen = choosy | {key for key, one in silent.items() if one.too_many}
    unknown = [] if top in chosen else [pair.rows_needed or 0 for pair in rivals]
    needed = max(unknown, default=0) or None  # more rows do not help one that leaves them out
    sentences = [
        _headline(measure, top, best, titles, found, decided=decided),
        *_right(measure, best, titles, matches or {}),
        *_against(measure, top, ranked, pairs, titles, "It" if len(best) == 1 else titles[top]),
        *(f"But of the judge: {doubt}." for doubt in doubts),
        *([f"About {needed:,} rows would do."] if needed else []),
        *_without(found, titles),
        *_left_out({key: left[key] for key in ranked if key in choosy}, titles),
        *_not_judged(silent, titles),
        *(f"{titles[key]}: {money[key]}." for key in best[:3] if key in money),
    ]
    return Verdict(
        text=" ".join(sentences),
        measure=measure.name,
        best=tuple(best),
        decided=decided,
        rows_needed=None if decided else needed,
    )


def _ranked(measure: Measure, found: Mapping[str, MeasureFigure]) -> list[str]:
    """Return the models with a figure, the best mean first."""
    means = {key: one.interval.mean for key, one in found.items() if one.interval}
    return sorted(means, key=lambda key: means[key], reverse=measure.better != "lower")


def _other(pair: Difference) -> str:
    return pair.second if pair.better == pair.first else pair.first


def _headline(
    measure: Measure,
    top: str,
    best: Sequence[str],
    titles: Mapping[str, str],
    found: Mapping[str, MeasureFigure],
    *,
    decided: bool,
) -> str:
    by = f"by {measure.by or measure.title.lower()}"
    what = f"{figure_text(measure, found[top])} {by}"
    lower = ", where lower is better" if measure.better == "lower" else ""
    if decided:
        return f"{titles[top]} is the best: {what}{lower}."
    if len(best) == 1:
        return f"{titles[top]}: {what}{lower}. There is nothing to compare it with."
    named = [f"{titles[key]} {figure_text(measure, found[key])}" for key in best[:NAMED]]
    named += [f"{len(best) - NAMED} more"] if len(best) > NAMED else []
    which = "better" if sum(one.interval is not None for one in found.values()) == 2 else "best"
    return f"Can't tell which is {which} {by}{lower}: {', '.join(named)}."


def _right(
    measure: Measure,
    best: Sequence[str],
    titles: Mapping[str, str],
    matches: Mapping[str, MeasureFigure],
) -> list[str]:
    """Return a sentence on the answers that are right, where what decides says nothing of it: a
    loss if none is, and what is asked of the form."""
    shares = {key: one.interval for key, one in matches.items() if one.interval}
    if not measure.share and shares and not any(one.mean for one in shares.values()):
        return ["But no answer of any model matches its reference."]
    named = [f"{share_text(shares[key].mean)} of {titles[key]}" for key in best if key in shares]
    if measure.name not in FORM or not named:
        return []
    return [f"That is their form alone: {', '.join(named[:NAMED])} match the reference."]


def _against(
    measure: Measure,
    top: str,
    ranked: Sequence[str],
    pairs: Sequence[Difference],
    titles: Mapping[str, str],
    subject: str,
) -> list[str]:
    """Return a sentence for each model that the top one, ``subject``, is better than."""
    found = []
    for key in ranked:
        pair = next((one for one in pairs if {one.first, one.second} == {top, key}), None)
        if pair is not None and pair.better == top and pair.interval is not None:
            found.append(f"{titles[key]} ({difference_text(measure, pair, top)})")
    return [f"{subject} is better than {', '.join(found)}."] if found else []


def _without(found: Mapping[str, MeasureFigure], titles: Mapping[str, str]) -> list[str]:
    """Return a sentence for each model without a figure."""
    empty = [(titles[key], one.empty) for key, one in found.items() if one.interval is None]
    return [f"{title} has no figure: {why.rstrip('.')}." for title, why in empty]


def _left_out(left: Mapping[str, tuple[int, int]], titles: Mapping[str, str]) -> list[str]:
    """Return a sentence for each number of requests without an answer, with whose they are."""
    having: dict[tuple[int, int], list[str]] = defaultdict(list)
    for key, counts in left.items():
        having[counts].append(titles[key])
    return [
        f"Of {none:,} of {asked:,} requests to {' and as many to '.join(names)} there is no "
        "answer, and the figures are of the others alone."
        for (none, asked), names in having.items()
    ]


def _not_judged(silent: Mapping[str, Unjudged], titles: Mapping[str, str]) -> list[str]:
    """Return a sentence for each number of answers that were not judged, with whose they are."""
    having: dict[Unjudged, list[str]] = defaultdict(list)
    for key, one in silent.items():
        if one.many:
            having[one].append(titles[key])
    return [f"Of {' and of '.join(names)} {one}." for one, names in having.items()]


def share_text(value: float, n: int = 0) -> str:
    """Return ``81%`` of so many scores; ``99.7%`` where 100% would say that it is all of them."""
    near = value not in (0.0, 1.0) and not 0.005 <= value < 0.995
    return f"{value:.{1 if near or n >= MANY else 0}%}"


def number_text(value: float) -> str:
    """Return a number in three digits, or all of its whole ones."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure_text(measure: Measure, figure: MeasureFigure) -> str:
    """Return ``81% (72 to 88%, n 104)``."""
    interval = figure.interval
    if interval is None:
        return figure.empty
    n, unit = interval.n, "" if measure.share else f" {measure.unit}".rstrip()
    mean, low, high = (
        share_text(end, n) if measure.share else number_text(end)
        for end in (interval.mean, interval.low, interval.high)
    )
    return f"{mean}{unit} ({low.removesuffix('%')} to {high}, n {n:,})"


def difference_text(measure: Measure, pair: Difference, top: str) -> str:
    """Return ``+12 points, 4 to 20``, from the side of ``top``."""
    interval = pair.interval
    if interval is None:
        return ""
    turn = 1 if pair.first == top else -1
    mean, low, high = turn * interval.mean, *sorted((turn * interval.low, turn * interval.high))
    sign = "+" if mean >= 0 else ""
    if not measure.share:
        unit = f" {measure.unit}".rstrip()
        return f"{sign}{number_text(mean)}{unit}, {number_text(low)} to {number_text(high)}"
    small = any(0 < abs(end) < SMALL for end in (mean, low, high))
    digits = 1 if small or interval.n >= MANY else 0
    shown = [f"{100 * end:.{digits}f}" for end in (mean, low, high)]
    return f"{sign}{shown[0]} points, {shown[1]} to {shown[2]}"
