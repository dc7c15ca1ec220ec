"""What a comparison says of money and time: training, answers, speed, model beside model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation.best import number_text
from finetune_gateway.evaluation.results import AnswerFigures, ComparisonData, TrainingFacts
from finetune_gateway.reports.asking_text import spent_text
from finetune_gateway.reports.output import format_count, format_duration
from finetune_gateway.settings.money import format_usd

Cells = tuple[str, ...]  # of a table: one for each model

EMPTY = "–"


def cost_rows(data: ComparisonData) -> list[tuple[str, Cells]]:
    """Return what training and answering cost, model beside model; rows that say nothing are left
    out."""
    rows = [
        ("training, estimated", _trained(data, _estimated_usd)),
        ("training, actual", _trained(data, _actual_usd)),
        ("time to train, estimated", _trained(data, _estimated_seconds)),
        ("time to train, actual", _trained(data, _actual_seconds)),
        ("trained with", _trained(data, training_text)),
        ("tokens read per answer", _answered(data, lambda one: _number(one.prompt_tokens))),
        ("tokens written", _answered(data, lambda one: _number(one.completion_tokens))),
        ("per answer", _answered(data, lambda one: usd_text(one.usd_per_answer))),
        ("per 1,000 answers", _answered(data, _per_thousand)),
        *_monthly(data),
        ("this comparison", _answered(data, _spent)),
    ]
    return [(name, tuple(cell or EMPTY for cell in cells)) for name, cells in rows if any(cells)]


def speed_rows(data: ComparisonData) -> list[tuple[str, Cells]]:
    """Return how fast each model answers, and how often it did not."""
    rows = [
        ("first token, median", _answered(data, lambda one: _seconds(one.first_token_seconds, 0))),
        ("first token, 95%", _answered(data, lambda one: _seconds(one.first_token_seconds, 1))),
        ("whole answer, median", _answered(data, lambda one: _seconds(one.seconds, 0))),
        ("whole answer, 95%", _answered(data, lambda one: _seconds(one.seconds, 1))),
        ("tokens per second", _answered(data, lambda one: _number(one.tokens_per_second))),
        ("answers that were timed", _answered(data, lambda one: f"{one.timed:,}")),
        ("answers", _answered(data, lambda one: f"{one.answers:,}")),
        ("no answer", _answered(data, lambda one: f"{one.errors - one.not_sent:,}")),
        ("not sent", _answered(data, lambda one: f"{one.not_sent:,}" if one.not_sent else "")),
        ("empty", _answered(data, lambda one: f"{one.empty:,}" if one.empty else "")),
        ("refused", _answered(data, lambda one: f"{one.refusals:,}")),
    ]
    return [(name, tuple(cell or EMPTY for cell in cells)) for name, cells in rows if any(cells)]


def _trained(data: ComparisonData, text: Callable[[TrainingFacts], str]) -> list[str]:
    return [text(one.training) if one.training else "" for one in data.models]


def _answered(data: ComparisonData, text: Callable[[AnswerFigures], str]) -> list[str]:
    found = [data.answers.get(one.key) for one in data.models]
    return [text(figures) if figures else "" for figures in found]


def _estimated_usd(training: TrainingFacts) -> str:
    return usd_range_text(training.estimated_usd)


def _actual_usd(training: TrainingFacts) -> str:
    return usd_text(training.actual_usd)


def _estimated_seconds(training: TrainingFacts) -> str:
    time = training.estimated_seconds
    if time is None:
        return ""
    low, high = format_duration(time.low), format_duration(time.high)
    return low if low == high else f"{format_duration(time.expected)} ({low} to {high})"


def _actual_seconds(training: TrainingFacts) -> str:
    return "" if training.actual_seconds is None else format_duration(training.actual_seconds)


def training_text(training: TrainingFacts) -> str:
    """Return ``243 rows, sft, lora``."""
    rows = "" if training.rows is None else format_count(training.rows, "row")
    return ", ".join(filter(None, (rows, training.method, training.training_type or "")))


def usd_range_text(amount: Range[Decimal] | None) -> str:
    """Return ``$1.20 ($0.90 to $1.60)``; empty where it is not known."""
    if amount is None:
        return ""
    low, expected, high = map(format_usd, (amount.low, amount.expected, amount.high))
    return expected if low == high else f"{expected} ({low} to {high})"


def usd_text(amount: Decimal | None) -> str:
    """Return an amount; empty where it is not known."""
    return "" if amount is None else format_usd(amount)


def _per_thousand(figures: AnswerFigures) -> str:
    return "" if figures.usd_per_answer is None else format_usd(1000 * figures.usd_per_answer)


def _spent(figures: AnswerFigures) -> str:
    return spent_text(figures.spent_usd, figures.unanswered)


def _monthly(data: ComparisonData) -> Iterator[tuple[str, list[str]]]:
    """Yield what so many requests a month cost, each model by the lengths of its own."""
    if data.serving is not None and data.serving.traffic.requests != 1000:
        requests = data.serving.traffic.requests
        cells = _answered(data, lambda one: _times(requests, one.usd_per_answer))
        yield f"{requests:,} requests a month", cells


def _times(requests: int, usd: Decimal | None) -> str:
    return "" if usd is None else format_usd(requests * usd)


def _number(value: float | None) -> str:
    return "" if value is None else number_text(value)


def _seconds(quantiles: tuple[float, float] | None, place: int) -> str:
    return "" if quantiles is None else seconds_text(quantiles[place])


def seconds_text(seconds: float) -> str:
    """Return ``310 ms``, ``2.4 s`` or ``1 min 12 s``."""
    if seconds < 0:  # the end of an interval
        return f"-{seconds_text(-seconds)}"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.2g} s" if seconds < 9.95 else format_duration(seconds)
