"""What a verdict says: whom it calls best, and in which digits."""

from __future__ import annotations

from decimal import Decimal

from finetune_gateway.evaluation import best, costs
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    ComparedFacts,
    Difference,
    Interval,
    Measure,
    MeasureFigure,
    Verdict,
)
from finetune_gateway.reports import comparison_view as view

MATCH = Measure(name="exact_match", title="Exact match", share=True)
CHARACTERS = Measure(name="characters", title="Length", unit="characters", better="lower")


def facts(key: str) -> ComparedFacts:
    return ComparedFacts(
        key=key, name=key, title=key, kind="local", variant="other", model=key, base_model=key
    )


def figure(mean: float, low: float, high: float, n: int = 100) -> MeasureFigure:
    return MeasureFigure(interval=Interval(mean=mean, low=low, high=high, n=n, clusters=n))


def pair(first: str, second: str, better: str = "") -> Difference:
    interval = Interval(mean=0.1, low=0.02, high=0.2, n=100, clusters=100)
    return Difference(
        measure=MATCH.name, first=first, second=second, interval=interval, better=better
    )


def judged(*pairs: Difference) -> Verdict:
    found = {key: figure(mean, mean - 0.1, mean + 0.1) for key, mean in MEANS.items()}
    return best.verdict(MATCH, [*map(facts, MEANS)], found, pairs, {}, {})


MEANS = {"a": 0.8, "b": 0.7, "c": 0.6}


def test_the_best_is_better_than_each_other_one() -> None:
    """Not only than one that is better than the third; what goes round in a circle decides
    nothing."""
    assert judged(pair("a", "b", "a"), pair("a", "c", "a"), pair("b", "c")).decided
    open_pair = judged(pair("a", "b", "a"), pair("a", "c"), pair("b", "c", "b"))
    assert not open_pair.decided and open_pair.best == ("a", "c")
    circle = judged(pair("a", "b", "a"), pair("b", "c", "b"), pair("a", "c", "c"))
    assert not circle.decided


def test_the_verdict_has_the_digits_of_the_tables() -> None:
    """99.7% is not said to be all of them, a length of 1,234 has all its digits, a small difference
    is not none, and cheap answers are not for nothing."""
    for measure, shown in (
        (MATCH, figure(0.997, 0.9, 0.999)),
        (CHARACTERS, figure(1234, 1100, 1400)),
    ):
        text = best.figure_text(measure, shown)
        unit = f" {measure.unit}".rstrip()
        assert text.replace(f"{unit} (", " (").replace(", n 100", "") == view.figure_text(
            measure, shown
        )
    assert best.figure_text(MATCH, figure(0.997, 0.9, 0.999)) == "99.7% (90 to 99.9%, n 100)"
    small = pair("a", "b", "a").model_copy(
        update={"interval": Interval(mean=0.004, low=0.001, high=0.007, n=900, clusters=900)}
    )
    assert best.difference_text(MATCH, small, "a") == "+0.4 points, 0.1 to 0.7"
    assert best.difference_text(MATCH, small, "b") == "-0.4 points, -0.7 to -0.1"
    cheap = costs.money_clauses({"a": AnswerFigures(usd_per_answer=Decimal("0.0000042"))}, {})
    assert cheap == {"a": "$0.0042 per 1,000 answers"}


def test_models_that_leave_as_much_open_are_said_together() -> None:
    """The same sentence thrice hides the answer."""
    found = {key: figure(mean, mean - 0.1, mean + 0.1) for key, mean in MEANS.items()}
    left = {"a": (8, 27), "b": (8, 27), "c": (3, 27)}
    said = best.verdict(MATCH, [*map(facts, MEANS)], found, [], {}, left).text
    assert "Of 8 of 27 requests to a and as many to b there is no answer, and" in said
    assert said.count("there is no answer") == 2


def test_fewer_conversations_than_scores_are_said() -> None:
    """Or else an interval of 3 to 100% beside n 37 reads as a mistake."""
    interval = Interval(mean=1.0, low=0.03, high=1.0, n=37, clusters=24)
    shown = best.figure_text(MATCH, MeasureFigure(interval=interval))
    assert shown == "100% (3 to 100%, n 37 in 24 conversations)"


def test_what_another_measure_tells_is_said_where_this_one_cannot() -> None:
    """Three models that all fit a schema, of which one is right: more rows by the schema help
    nobody."""
    schema = Measure(name="json_schema", title="Fits", by="the JSON schema", share=True)
    found = {key: figure(1.0, 0.9, 1.0) for key in MEANS}
    none = Interval(mean=0.0, low=-0.04, high=0.04, n=100, clusters=100)
    alike = [
        pair(one, other).model_copy(update={"interval": none, "rows_needed": 110})
        for one, other in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    match = [pair("a", "b", "a"), pair("a", "c", "a"), pair("b", "c")]
    models = [*map(facts, MEANS)]
    said = best.verdict(schema, models, found, alike, {}, {}, others=[(MATCH, match)])
    first = "Can't tell which is best by the JSON schema. By exact match a is the best of them"
    assert said.short.startswith(f"{first} (--by exact_match).")
    assert "About 110 rows would show a small difference." in said.text and not said.decided
    said = best.verdict(schema, models, found, alike, {}, {}, others=[(MATCH, match[1:])])
    assert "best of them" not in said.text
