"""Intervals, differences and corrections: against worked examples, and in the corners."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from support.rederive import intervals

from finetune_gateway.errors import MissingDependency, SpecError
from finetune_gateway.evaluation.results import Measure
from finetune_gateway.evaluation.score_intervals import tango, wilson
from finetune_gateway.evaluation.statistics import compare_all, difference, holm, mean, rows_needed

SHARE = Measure(name="exact_match", title="exact match", share=True)
LENGTH = Measure(name="length", title="length", better="lower")


def alone(count: int) -> list[str]:
    """Conversations of one row each."""
    return [str(place) for place in range(count)]


def by_eight(count: int) -> list[str]:
    """Conversations of eight rows each."""
    return [str(place // 8) for place in range(count)]


def test_published_examples() -> None:
    """Wilson as in Newcombe (1998), Tango as in Fagerland and others (2014), Holm as in R."""
    z = 1.959964
    assert wilson(81 / 263, 263, z) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0 / 20, 20, z) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert tango(1 / 21, 7 / 21, 21, z) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_clusters_count_for_less() -> None:
    """The same scores in conversations of one mind are as few as the conversations."""
    scores = [1.0] * 72 + [0.0] * 32
    single, grouped = mean(scores, alone(104), True), mean(scores, by_eight(104), True)
    assert (grouped.n, grouped.clusters) == (104, 13)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)
    few = mean([1.0] * 9 + [0.0] * 4, alone(13), True)
    assert (grouped.low, grouped.high) == pytest.approx((few.low, few.high), abs=1e-6)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0, 37.0])
def test_no_interval_is_of_zero_width(share: bool, count: int, value: float) -> None:
    """Scores that are all equal have an interval too, around them; so have their differences."""
    if share and value not in (0.0, 1.0):
        return
    equal = [value] * count
    found, (same, p) = (
        mean(equal, alone(count), share),
        difference(equal, equal, alone(count), share),
    )
    assert found.low <= value <= found.high and found.high - found.low > 1e-3
    assert same.low < 0 < same.high and p == 1.0


def test_a_constant_difference_needs_seven_conversations() -> None:
    """Five characters more each time is a difference from seven conversations on."""
    for count, told in ((6, False), (7, True)):
        found, p = difference([25.0] * count, [20.0] * count, alone(count), False)
        assert (p < 0.05) == told == (found.low > 0)


def drawn(random: Random, kind: str) -> tuple[list[float], list[float], list[str]]:
    """Scores of two models in any mix of conversations."""
    count = random.randrange(1, 60)
    clusters = [str(random.randrange(1 + count // random.choice([1, 3, 9]))) for _ in range(count)]
    means, shift = (0.5, random.random()), random.choice([0, 30])
    kinds: dict[str, Callable[[float], float]] = {
        "share": lambda p: float(random.random() < p),
        "unit": lambda p: random.betavariate(4 * p + 0.1, 2),
        "number": lambda p: shift + random.gauss(p, 0.5),
        "level": lambda p: random.choice([3.0, 3.0, 3.0, 4.0]),
    }
    ones, others = ([kinds[kind](mean) for _ in clusters] for mean in means)
    return ones, others, clusters


@pytest.mark.parametrize("kind", ["share", "unit", "number", "level"])
def test_p_and_interval_agree_with_each_other_and_with_a_second_derivation(kind: str) -> None:
    """An interval excludes 0 exactly where p is below 0.05; both, means and the rows needed are
    those of formulas that were written without these."""
    random, told, share = Random(5), set(), kind == "share"
    for _ in range(60):
        ones, others, clusters = drawn(random, kind)
        found, p = difference(ones, others, clusters, share)
        assert found.low < found.mean < found.high or abs(found.mean) == 1
        assert (p < 0.05) == (not found.low <= 0 <= found.high)
        told.add(p < 0.05)
        turned, same_p = difference(others, ones, clusters, share)
        assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
        assert same_p == pytest.approx(p)
        other = intervals.difference(ones, others, clusters, share)
        assert [found.mean, found.low, found.high, p] == pytest.approx(other, abs=1e-9)
        one = mean(ones, clusters, share)
        other = intervals.mean_interval(ones, clusters, share)
        assert [one.mean, one.low, one.high] == pytest.approx(other, abs=1e-9)
        needed = rows_needed(ones, others, clusters, share, 3)
        assert needed == intervals.rows_needed(ones, others, clusters, share, 3)
    assert told >= ({False} if kind == "level" else {True, False})


def test_all_pairs_are_corrected_for() -> None:
    """Only what stays below 0.05 after Holm is called better; else the rows that would do."""
    rows = alone(60)
    scores = {
        "good": [1.0] * 50 + [0.0] * 10,
        "less": [1.0] * 44 + [0.0] * 16,
        "poor": [1.0] * 20 + [0.0] * 40,
    }
    found = compare_all(
        SHARE,
        {model: dict(zip(rows, values, strict=True)) for model, values in scores.items()},
        dict(zip(rows, rows, strict=True)),
    )
    pairs = {(one.first, one.second): one for one in found}
    assert pairs["good", "poor"].better == "good" and pairs["less", "poor"].better == "less"
    close = pairs["good", "less"]
    assert close.p is not None and close.adjusted_p is not None
    assert close.p < 0.05 and close.adjusted_p == close.p  # the last of three: times one
    assert [one.adjusted_p for one in found] == pytest.approx(holm([one.p or 0.0 for one in found]))


def test_lower_is_better_where_the_measure_says_so() -> None:
    """The shorter one of two is better; rows that one of them lacks are not compared."""
    short = {str(row): 10.0 + row % 3 for row in range(30)}
    long = {str(row): 14.0 + row % 4 for row in range(25)}
    (found,) = compare_all(LENGTH, {"long": long, "short": short}, {row: row for row in short})
    assert found.better == "short" and found.interval is not None and found.interval.n == 25
    (apart,) = compare_all(LENGTH, {"a": {"1": 1.0}, "b": {"2": 1.0}}, {"1": "1", "2": "2"})
    assert apart.interval is None and apart.better == ""


def test_rows_needed_find_the_difference() -> None:
    """In as many rows as it says, drawn from the same pairs, 80 % of tests find the difference."""
    pairs = [(1.0, 0.0)] * 16 + [(0.0, 1.0)] * 8 + [(1.0, 1.0)] * 70 + [(0.0, 0.0)] * 6
    first, second = zip(*pairs, strict=True)
    needed = rows_needed(first, second, alone(100), True)
    assert needed is not None
    random = Random(3)

    def found() -> bool:
        first, second = zip(*random.choices(pairs, k=needed), strict=True)
        return difference(first, second, alone(needed), True)[1] < 0.05

    assert 70 <= sum(found() for _ in range(100)) <= 90


def test_rows_needed_is_none_where_nobody_asks_so_many() -> None:
    """No difference at all in many rows has no number of rows that would show one."""
    same = [1.0, 0.0] * 500
    assert rows_needed(same, same, alone(1000), True) is None


def test_scores_that_are_no_numbers_are_refused() -> None:
    """A score that is not finite is an error that says so, and no figure."""
    with pytest.raises(SpecError, match="not a finite number"):
        mean([1.0, math.nan], alone(2), False)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where scipy is not installed, the error says how to get it."""
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(MissingDependency, match=r"finetune-gateway\[eval\]"):
        mean([1.0, 0.0], alone(2), True)


def test_one_long_conversation_does_not_hide_the_others() -> None:
    """Of 70 rows alone and 34 of one conversation, much is known if the scores of a conversation
    are not alike; if all 34 have the same, the interval is wide."""
    clusters = [*alone(70), *["long"] * 34]
    mixed = mean([1.0, 0.0] * 52, clusters, True)
    of_one_mind = mean([1.0, 0.0] * 35 + [1.0] * 34, clusters, True)
    assert mixed.high - mixed.low < 0.3 < 0.6 < of_one_mind.high - of_one_mind.low


def test_conversations_of_unequal_size_are_fewer_than_they_are() -> None:
    """Conversations of one mind of 1 and of 9 rows say as much as fewer of one size: their interval
    is wider than if each counted once."""
    sizes = [1, 9] * 20
    clusters = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
    scores = [float(place // 2 % 2) for place, size in enumerate(sizes) for _ in range(size)]
    found, once = mean(scores, clusters, True), mean([0.0, 0.0, 1.0, 1.0] * 10, alone(40), True)
    assert found.high - found.low > 1.25 * (once.high - once.low)
