"""Go or no-go: what a new model has to reach, and how much worse than the old one it may be.

A limit holds only if the whole interval of the figure is on its good side. What cannot be told is
a no: it says so, and how many rows would do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.evaluation.missing_scores import UNANSWERED, UNJUDGED, Unjudged
from finetune_gateway.evaluation.results import ComparisonData, Interval, Measure
from finetune_gateway.settings.arguments import mapping_of

Json = dict[str, Any]
Kind = Literal["min", "max", "max-drop"]
Outcome = Literal["holds", "fails", "can't tell"]

MOST_ROWS = 100_000  # more rows than these nobody asks for


@dataclass(frozen=True)
class Threshold:
    """One limit. ``min`` and ``max``: of the new model's mean; ``max-drop``: of how much worse its
    mean may be than the old one's."""

    kind: Kind
    measure: str
    value: float

    @classmethod
    def read(cls, kind: Kind, text: str) -> Threshold:
        """Return the limit that was typed as MEASURE=VALUE. Raises SpecError."""
        name, equals, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (equals and name.strip() and math.isfinite(number)):
            raise SpecError(
                f"--{kind} {shown(text)} is not MEASURE=VALUE.", hint=f"Like: --{kind} {EXAMPLE}"
            )
        if kind == "max-drop" and number < 0:
            raise SpecError(
                f"--max-drop {shown(text)}: a drop is 0 or more.",
                hint="0.05 allows the new model to be 0.05 worse.",
            )
        return cls(kind, name.strip(), number)

    def __str__(self) -> str:
        """As it was typed: ``--max-drop exact_match=0.05``."""
        return f"--{self.kind} {self.measure}={self.value:g}"


def thresholds_of(
    at_least: Mapping[str, float] | None,
    at_most: Mapping[str, float] | None,
    max_drop: Mapping[str, float] | None,
) -> tuple[Threshold, ...]:
    """Return the limits by measure as a list. Raises SpecError for what is no number."""
    given: tuple[tuple[Kind, Mapping[str, float] | None], ...] = (
        ("min", at_least), ("max", at_most), ("max-drop", max_drop),
    )  # fmt: skip
    return tuple(
        Threshold.read(kind, f"{measure}={value if isinstance(value, Real) else shown(value)}")
        for kind, limits in given
        for measure, value in mapping_of(limits, f"the limits of {kind}").items()
    )


EXAMPLE = "normalized_match=0.05"


@dataclass(frozen=True)
class Finding:
    """What became of one limit. ``rows_needed``: about so many rows would tell, if they show the
    same; None where none would, or nothing is open."""

    threshold: Threshold
    outcome: Outcome
    text: str
    interval: Interval | None = None
    rows_needed: int | None = None

    def document(self) -> Json:
        """Return plain JSON."""
        return {
            "threshold": str(self.threshold),
            "outcome": self.outcome,
            "text": self.text,
            "interval": self.interval.model_dump() if self.interval else None,
            "rows_needed": self.rows_needed,
        }


@dataclass(frozen=True)
class Decision:
    """Go if every limit holds, and the new model has answered."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def go(self) -> bool:
        return not self.notes and all(one.outcome == "holds" for one in self.findings)

    @property
    def text(self) -> str:
        """``go``, ``no-go``, or ``no-go: can't tell`` if nothing is known to fail."""
        if self.go:
            return "go"
        failed = any(one.outcome == "fails" for one in self.findings)
        return "no-go" if failed else "no-go: can't tell"

    def document(self) -> Json:
        """Return plain JSON."""
        return {
            "go": self.go,
            "text": self.text,
            "thresholds": [one.document() for one in self.findings],
            "notes": [*self.notes],
        }


def require_known(thresholds: Iterable[Threshold], measures: Sequence[Measure]) -> None:
    """Raise SpecError for a limit of what is not measured, on the wrong side of it, or that a share
    from 0 to 1 always holds or never."""
    known = {one.name: one for one in measures}
    for one in thresholds:
        measure = known.get(one.measure)
        if measure is None:
            names = ", ".join(name for name, found in known.items() if found.better)
            raise SpecError(
                f"{one}: {one.measure} is not measured on these rows.",
                hint=f"Measured are: {names}. Checks of a guide are check:NAME (--checks FILE).",
            )
        if not measure.better:
            raise SpecError(
                f"{one}: neither more nor less of {one.measure} is better.",
                hint="Take another measure.",
            )
        wrong = {"min": "lower", "max": "higher"}.get(one.kind)
        if measure.better == wrong:
            other = "max" if one.kind == "min" else "min"
            raise SpecError(
                f"{one}: {measure.better} {one.measure} is better.", hint=f"Use --{other}."
            )
        if measure.share and not _within(one):
            raise SpecError(
                f"{one}: {one.measure} is a share from 0 to 1, so that this limit says nothing.",
                hint=f"5 % are 0.05: --{one.kind} {one.measure}=0.05",
            )


def _within(limit: Threshold) -> bool:
    """Return whether a limit of a share can hold, and can fail."""
    if limit.kind == "min":
        return 0 < limit.value <= 1
    return 0 <= limit.value < 1


def decide(data: ComparisonData, new: str, old: str, thresholds: Sequence[Threshold]) -> Decision:
    """Return whether the new model may take the place of the old one; ``new``, ``old``: their keys.
    Raises SpecError for a limit of what was not measured."""
    require_known(thresholds, data.measures)
    findings = [_finding(data, new, old, one) for one in thresholds]
    return Decision(tuple(findings), tuple(_notes(data, new)))


def _notes(data: ComparisonData, new: str) -> Iterator[str]:
    """Yield what makes any figure worthless."""
    figures = data.answers.get(new)
    asked = figures.answers + figures.errors if figures else 0
    if figures is None or not figures.answers:
        yield "The new model has answered nothing."
    elif figures.errors > UNANSWERED * asked:
        yield f"{figures.errors:,} of {asked:,} rows have no answer of the new model."
    if data.stopped:
        yield f"The comparison has stopped: {data.stopped}"


def _finding(data: ComparisonData, new: str, old: str, limit: Threshold) -> Finding:
    figure = data.figures.get(limit.measure, {}).get(new)
    interval = figure.interval if figure else None
    if figure is not None and (silent := Unjudged.of(limit.measure, figure)).many:
        return Finding(limit, "can't tell", f"Can't tell: {silent}.")
    if limit.kind == "max-drop":
        worse = _worse(data, new, old, limit.measure)
        if worse and interval and worse.n < UNJUDGED * interval.n:
            why = (
                f"only {worse.n:,} of {interval.n:,} answers have one of the old model beside them"
            )
            return Finding(limit, "can't tell", f"Can't tell: {why}.")
        return _judged(limit, worse, lambda low, high: (-limit.value < low, high <= -limit.value))
    if interval is None:
        why = figure.empty if figure and figure.empty else "no answer was judged by it"
        return Finding(limit, "can't tell", f"Can't tell: {why}.")
    if limit.kind == "min":
        return _judged(limit, interval, lambda low, high: (low >= limit.value, high < limit.value))
    return _judged(limit, interval, lambda low, high: (high <= limit.value, low > limit.value))


def _worse(data: ComparisonData, new: str, old: str, measure: str) -> Interval | None:
    """Return how much better the new model is, less than 0 if it is worse, whichever side of the
    measure is the good one."""
    higher = any(one.name == measure and one.better == "higher" for one in data.measures)
    for one in data.differences:
        if one.measure != measure or {one.first, one.second} != {new, old}:
            continue
        if one.interval is None:
            return None
        return one.interval if (one.first == new) is higher else _negated(one.interval)
    return None


def _negated(interval: Interval) -> Interval:
    return interval.model_copy(
        update={"mean": -interval.mean, "low": -interval.high, "high": -interval.low}
    )


def _judged(limit: Threshold, interval: Interval | None, sides: Any) -> Finding:
    """Return what an interval says. ``sides``: of its ends, whether it is wholly on the good side,
    and wholly on the bad one."""
    if interval is None:
        return Finding(limit, "can't tell", "Can't tell: the two were not compared by it.")
    good, bad = sides(interval.low, interval.high)
    said = f"{interval.mean:.3g} ({interval.low:.3g} to {interval.high:.3g}, n = {interval.n:,})"
    if good:
        return Finding(limit, "holds", f"Holds: {said}.", interval)
    if bad:
        return Finding(limit, "fails", f"Fails: {said}.", interval)
    needed = _rows_needed(limit, interval)
    if needed is None:
        more = "no number of rows would tell, if they show the same"
    else:
        more = f"about {needed:,} rows would tell, if they show the same"
    return Finding(limit, "can't tell", f"Can't tell: {said}; {more}.", interval, needed)


def _rows_needed(limit: Threshold, interval: Interval) -> int | None:
    """Return about how many rows make the interval so narrow that it does not hold the limit: its
    half shrinks with the square root of the rows."""
    edge = -limit.value if limit.kind == "max-drop" else limit.value
    away = abs(interval.mean - edge)
    half = max(interval.high - interval.mean, interval.mean - interval.low)
    if away <= 0 or half <= 0:
        return None
    rows = interval.n * (half / away) ** 2
    return math.ceil(rows - 1e-6) if rows <= MOST_ROWS else None
