"""How far a figure can be trusted: means with intervals, paired differences, and who is better.

Rows of one conversation are one cluster: they are not asked independently, so what they say counts
for less. ``bench/interval_coverage.py`` measures how often these intervals hold the true value.

    one score a row, 0 or 1      Wilson's interval (1927) at the effective sample size
    scores between 0 and 1       the same, as wide as the scores are spread
    other numbers                Student's t over the sums of the clusters
    two models, 0 or 1           Tango's interval (1998) of the paired difference, McNemar's test
    two models, other numbers    Student's t over the sums of the paired differences
    several models               Holm's correction (1979)

All use the t quantile of the clusters instead of the normal one. Standard errors by clusters: Liang
and Zeger (1986), as Miller, "Adding error bars to evals" (arXiv:2411.00640, 2024), says for
evaluations. An interval excludes 0 exactly where its p is below 0.05: both are of one test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import gt, lt
from typing import TYPE_CHECKING, Any

from finetune_gateway.errors import MissingDependency, SpecError
from finetune_gateway.evaluation.results import Difference, Interval, Measure
from finetune_gateway.evaluation.score_intervals import tango, wilson

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

LEVEL = 0.05  # that a difference by chance is called one, at most
POWER = 0.8  # that a true difference is found in ``rows_needed`` rows
SMALLEST_SHARE = 0.05  # a difference of shares that is worth finding: five points
SMALLEST_SPREADS = 0.2  # of other numbers: a fifth of their standard deviation, small by Cohen
MOST_ROWS = 100_000  # more rows than these nobody asks for
# In the design effect, and there alone, part of one more conversation counts that scores wholly the
# other way: else a few answers that happen to lie in conversations of their own look independent.
# By simulation (bench/interval_coverage.py): without it 50 conversations of 8 cover 90 %.
UNSEEN_OF_MEAN = 0.25
UNSEEN_OF_DIFFERENCE = 0.1


def mean(scores: Sequence[float], clusters: Sequence[str], share: bool) -> Interval:
    """Return the mean of the scores with its 95 % interval.

    ``clusters``: of which conversation each score is. ``share``: the scores are 0 or 1.
    """
    sums = _Sums.of(scores, clusters)
    t = quantile(sums.df)
    if share or _within_unit(scores):
        low, high = wilson(sums.mean, _effective(sums, binary=_are_binary([scores])), t)
    else:
        half = t * sums.error if sums.varies else _half_of_equal(abs(sums.mean), sums, t)
        low, high = sums.mean - half, sums.mean + half
    return _interval(sums, low, high)


def difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], share: bool
) -> tuple[Interval, float]:
    """Return the mean of first minus second, with its 95 % interval and its p.

    The scores are paired by position. The interval excludes 0 where p is below 0.05.
    """
    sums = _Sums.of(_differences(first, second), clusters)
    if share and _are_binary([first, second]):
        return _difference_of_shares(first, second, sums)
    if sums.varies:
        half, p = quantile(sums.df) * sums.error, _p(sums.mean / sums.error, sums.df)
    else:
        half, p = _of_equal_differences(first, second, sums)
    return _interval(sums, sums.mean - half, sums.mean + half), p


def compare_all(
    measure: Measure,
    scores: Mapping[str, Mapping[str, float]],
    clusters: Mapping[str, str],
) -> list[Difference]:
    """Return the differences of all pairs of models in one measure, corrected for their number.

    ``scores``: model -> row -> score; a pair is compared on the rows that both have. One is
    ``better`` only if the corrected p is below 0.05 and the interval excludes 0.
    """
    pairs = [_compare(measure, scores, clusters, *pair) for pair in combinations(scores, 2)]
    tested = [pair for pair in pairs if pair.found.p is not None]
    adjusted = holm([pair.found.p or 0.0 for pair in tested])
    corrected = {id(pair): p for pair, p in zip(tested, adjusted, strict=True)}
    return [_judged(measure, pair, corrected.get(id(pair)), len(tested)) for pair in pairs]


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number, in the same order (Holm 1979).

    The smallest is multiplied by their number, the next one by one less, and so on; none becomes
    smaller than one before it, and none larger than 1.
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted


def rows_needed(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[str],
    share: bool,
    tests: int = 1,
) -> int | None:
    """Return about how many rows would tell the models apart; None if nobody would ask as many.

    With so many rows, of conversations like these, a difference as large as the one seen is found
    with a probability of 80 %, after the correction for ``tests`` differences. Where the one seen
    is smaller than what is worth finding, the latter is taken: 5 points of a share, a fifth of a
    standard deviation of other numbers. (Miller 2024, section 5: n = (z_a + z_b)^2 v / d^2.)
    """
    special = _special()
    sums = _Sums.of(_differences(first, second), clusters)
    z = float(special.ndtri(1 - LEVEL / 2 / tests) + special.ndtri(POWER))
    per_row = _variance_of_difference(first, second, sums, share)
    seen, worth = abs(sums.mean), _worth_finding(first, second, share)
    needed = z * z * per_row / max(seen, worth) ** 2
    if needed <= sums.n:  # these rows would have shown it: what is there, is smaller
        needed = z * z * per_row / seen**2 if seen else math.inf
    return None if needed > MOST_ROWS else _rounded_up(max(needed, sums.n + 1))


# -- intervals -------------------------------------------------------------------------------


def _difference_of_shares(
    first: Sequence[float], second: Sequence[float], sums: _Sums
) -> tuple[Interval, float]:
    more, less = _discordant(first, second)
    n = _effective_pairs(more, less, sums)
    low, high = tango(more, less, n, quantile(sums.df))
    p = _p(sums.mean * math.sqrt(n / (more + less)), sums.df) if more + less else 1.0
    return _interval(sums, low, high), p


def _of_equal_differences(
    first: Sequence[float], second: Sequence[float], sums: _Sums
) -> tuple[float, float]:
    """Return half the width of the interval and the p where all pairs differ by the same.

    Others are taken to differ by as much the other way round; where there is no difference at all,
    by the spread of the scores, or by the score if all have the same.
    """
    t, seen = quantile(sums.df), abs(sums.mean)
    if not seen:
        spread = max(*first, *second) - min(*first, *second)
        return _half_of_equal(spread or abs(first[0]), sums, t), 1.0
    spread = max(2 * seen, sums.spread)
    p = _p(math.sqrt(seen * sums.clusters / (spread - seen)), sums.df)
    return _half_of_equal(spread, sums, t), p


def _half_of_equal(spread: float, sums: _Sums, t: float) -> float:
    """Return half the width of an interval around scores that are all equal.

    They say nothing of their spread. By Wilson's interval of 0 of so many conversations, up to a
    share t^2 / (clusters + t^2) of all others may score otherwise (about the rule of three): it is
    taken that these are off by ``spread``, or by 1 if that is 0.
    """
    spread = max(spread, sums.spread) or 1.0
    return spread if math.isinf(t) else spread * t * t / (sums.clusters + t * t)


def _interval(sums: _Sums, low: float, high: float) -> Interval:
    return Interval(mean=sums.mean, low=low, high=high, n=sums.n, clusters=sums.clusters)


# -- clusters --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sums:
    """Scores summed by cluster. ``offs``: what the sum of each is off what its size lets expect.
    ``sizes``: scores in each. ``spread``: the largest less the smallest; ``variance``: of all.
    ``error``: the standard error of the mean, robust to clusters; ``varies``: it is not 0.
    ``alike``: how much the scores of one cluster are correlated, from 0 to 1."""

    mean: float
    n: int
    clusters: int
    offs: Array
    sizes: Array
    spread: float
    variance: float
    error: float
    varies: bool
    alike: float

    @classmethod
    def of(cls, scores: Sequence[float], clusters: Sequence[str]) -> _Sums:
        """Sum the scores of each cluster; raise SpecError if there are none, or no numbers."""
        numpy = _numpy()
        values = numpy.asarray(scores, dtype=float)
        if len(values) != len(clusters) or not len(values):
            raise SpecError(f"There are {len(values)} scores and {len(clusters)} conversations.")
        if not numpy.isfinite(values).all():
            raise SpecError("A score is not a finite number.", hint="Look at the checks' scores.")
        places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
        of_row = numpy.asarray([*map(places.__getitem__, clusters)])
        sizes = numpy.bincount(of_row, minlength=len(places)).astype(float)
        spread = float(numpy.ptp(values))
        if spread <= 1e-12 * float(numpy.abs(values).max()):
            spread = 0.0  # what is left of sums of equal scores
        average = float(values.mean()) if spread else float(values[0])
        offs = numpy.bincount(of_row, weights=values - average, minlength=len(places))
        count = len(places)
        scale = count / (count - 1) if count > 1 else 0.0
        error = math.sqrt(scale * float((offs**2).sum())) / len(values)
        variance = float(((values - average) ** 2).mean())
        return cls(
            mean=average,
            n=len(values),
            clusters=count,
            offs=offs,
            sizes=sizes,
            spread=spread,
            variance=variance,
            error=error,
            varies=error > spread * 1e-9,
            alike=_correlation(variance, offs, sizes),
        )

    @property
    def df(self) -> float:
        """Degrees of freedom: the clusters less one; fewer if some say much more than others.

        Satterthwaite (1946), with the variances that the sums of clusters have where their scores
        are so much alike. Carter, Schnepel and Steigerwald (2017) have the same for those at the
        worst, each of one mind; one long conversation among many then left nothing to tell.
        """
        if self.clusters == 1:
            return 0.0
        variances = self.sizes * (1 + (self.sizes - 1) * self.alike)
        return max(1.0, float(variances.sum() ** 2 / (variances**2).sum()) - 1)

    @property
    def square_size(self) -> float:
        """The mean square of their sizes."""
        return float((self.sizes**2).mean())

    @property
    def most_effect(self) -> float:
        """The design effect if each cluster is of one mind (Kish 1965): the size of clusters, or
        more if they are not of one size."""
        return self.square_size * self.clusters / self.n

    @property
    def squared_offs(self) -> float:
        """The sum of the squares of ``offs``, corrected for the clusters."""
        return (self.error * self.n) ** 2


def _effective(sums: _Sums, binary: bool) -> float:
    """Return how many independent 0/1 scores say as much of the mean as these.

    n / design effect; the effect is the variance of the mean by clusters over that of independent
    0/1 scores (Kish 1965; Korn and Graubard 1998 for intervals of shares). 0/1 scores: never above
    n, never below the number of clusters, which is that of equal ones: n^2 / sum of sizes^2. Others
    between 0 and 1 may say more than that, and less is unseen where they are less spread than 0/1.
    """
    p = sums.mean
    spread = 1.0 if binary or not sums.varies else sums.variance / (p * (1 - p))
    unseen = UNSEEN_OF_MEAN * max(p, 1 - p) ** 2 * spread
    return _of_effect(sums, sums.n * p * (1 - p), unseen, least=1.0 if binary else 0.0)


def _effective_pairs(more: float, less: float, sums: _Sums) -> float:
    """Return how many independent pairs say as much of the difference as these."""
    of_rows = sums.n * (more + less - sums.mean**2)
    return _of_effect(sums, of_rows, UNSEEN_OF_DIFFERENCE, least=1.0)


def _of_effect(sums: _Sums, of_rows: float, unseen: float, least: float) -> float:
    by_clusters = sums.squared_offs + unseen * sums.square_size
    by_rows = of_rows + unseen * sums.n / sums.clusters
    effect = by_clusters / by_rows if by_rows > 0 else sums.most_effect
    return sums.n / min(max(effect, least), sums.most_effect)


def _correlation(variance: float, offs: Array, sizes: Array) -> float:
    """Return how much the scores of one cluster are correlated, by the analysis of variance (Fisher
    1925). ``variance``: of all scores."""
    n, count = float(sizes.sum()), len(sizes)
    if not 1 < count < n:
        return 0.0
    between = float((offs**2 / sizes).sum())
    within = max(0.0, n * variance - between) / (n - count)
    between /= count - 1
    usual = (n - float((sizes**2).sum()) / n) / (count - 1)  # size of a cluster
    total = between + (usual - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 1.0


# -- pairs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    found: Difference
    first: Sequence[float]
    second: Sequence[float]
    clusters: Sequence[str]


def _compare(
    measure: Measure,
    scores: Mapping[str, Mapping[str, float]],
    clusters: Mapping[str, str],
    first: str,
    second: str,
) -> _Pair:
    rows = [row for row in scores[first] if row in scores[second]]
    ones = [scores[first][row] for row in rows]
    others = [scores[second][row] for row in rows]
    of_rows = [clusters[row] for row in rows]
    found = Difference(measure=measure.name, first=first, second=second)
    if rows:
        interval, p = difference(ones, others, of_rows, measure.share)
        found = found.model_copy(update={"interval": interval, "p": p})
    return _Pair(found, ones, others, of_rows)


def _judged(measure: Measure, pair: _Pair, adjusted: float | None, tests: int) -> Difference:
    found, interval = pair.found, pair.found.interval
    if interval is None or adjusted is None:
        return found
    told = adjusted < LEVEL and not interval.low <= 0 <= interval.high
    update: dict[str, Any] = {"adjusted_p": adjusted}
    if told and measure.better:
        first_is_better = (interval.mean > 0) == (measure.better == "higher")
        update["better"] = found.first if first_is_better else found.second
    if not told:
        needed = rows_needed(pair.first, pair.second, pair.clusters, measure.share, tests)
        update["rows_needed"] = needed
    return found.model_copy(update=update)


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(first, second, strict=True)]


def _discordant(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    more, less = sum(map(gt, first, second)), sum(map(lt, first, second))
    return more / len(first), less / len(first)


def _variance_of_difference(
    first: Sequence[float], second: Sequence[float], sums: _Sums, share: bool
) -> float:
    """Return the variance of the mean difference, times the rows."""
    if not (share and _are_binary([first, second])):
        return sums.n * sums.error**2
    more, less = _discordant(first, second)
    of_row = max(more + less - sums.mean**2, 1 / sums.n)
    return of_row * sums.n / _effective_pairs(more, less, sums)


def _worth_finding(first: Sequence[float], second: Sequence[float], share: bool) -> float:
    if share:
        return SMALLEST_SHARE
    return SMALLEST_SPREADS * float(_numpy().std([*first, *second])) or math.inf


def _rounded_up(rows: float) -> int:
    """Round up to two digits: it is an estimate."""
    unit = 10.0 ** max(0, math.floor(math.log10(rows)) - 1)
    return int(math.ceil(rows / unit) * unit)


def _are_binary(all_scores: Sequence[Sequence[float]]) -> bool:
    return all({*scores} <= {0, 1} for scores in all_scores)


def _within_unit(scores: Sequence[float]) -> bool:
    return min(scores) >= 0 and max(scores) <= 1


# -- scipy -----------------------------------------------------------------------------------


def require() -> None:
    """Raise MissingDependency, which names the extra, where scipy is not installed."""
    _special()


def quantile(df: float) -> float:
    """Return the 97.5 % quantile of Student's t; infinite without a degree of freedom."""
    return float(_special().stdtrit(df, 1 - LEVEL / 2)) if df > 0 else math.inf


def _p(t: float, df: float) -> float:
    """Return the two-sided p of Student's t."""
    return 2 * float(_special().stdtr(df, -abs(t))) if df > 0 else 1.0


def _special() -> Any:
    try:
        from scipy import special
    except ImportError:
        raise MissingDependency("Telling models apart (ftg compare)", "eval") from None
    return special


def _numpy() -> Any:
    _special()
    import numpy

    return numpy
