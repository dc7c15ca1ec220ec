"""The intervals, tests and corrections of a comparison once more, by other formulas: limits where a
test no longer rejects, found by root finding. Imports nothing of the gateway."""

from __future__ import annotations

import math
from collections import defaultdict

from scipy.optimize import brentq
from scipy.special import ndtri, stdtr, stdtrit


class Sample:
    """Scores by conversation: their mean, its standard error, the degrees of freedom."""

    def __init__(self, scores: list[float], clusters: list[str]) -> None:
        groups: dict[str, list[float]] = defaultdict(list)
        for value, cluster in zip(scores, clusters, strict=True):
            groups[cluster].append(value)
        self.scores, self.groups, self.n = scores, [*groups.values()], len(scores)
        self.count = len(self.groups)
        self.mean = math.fsum(scores) / self.n
        offs = [math.fsum(group) - len(group) * self.mean for group in self.groups]
        more = self.count / (self.count - 1) if self.count > 1 else 0.0
        self.squares = more * math.fsum(off * off for off in offs)
        self.error = math.sqrt(self.squares) / self.n
        self.spread = max(scores) - min(scores)
        if self.spread < 1e-12 * max(map(abs, scores)):
            self.spread = 0.0
        self.varies = self.error > 1e-9 * self.spread and self.spread > 0
        sizes = [len(group) for group in self.groups]
        self.square_size = sum(size**2 for size in sizes) / self.count
        alike = correlation(self.groups, self.mean)
        parts = [size + size * (size - 1) * alike for size in sizes]
        effective = sum(parts) ** 2 / math.fsum(part**2 for part in parts)
        self.df = 0.0 if self.count == 1 else max(1.0, effective - 1)
        self.t = float(stdtrit(self.df, 0.975)) if self.df else math.inf

    def independent(self, of_rows: float, unseen: float, least: float) -> float:
        """How many independent scores say as much."""
        most = self.square_size / (self.n / self.count)
        below = of_rows + unseen * self.n / self.count
        effect = (self.squares + unseen * self.square_size) / below if below else most
        return self.n / min(most, max(least, effect))

    def p(self, statistic: float) -> float:
        return 2 * float(stdtr(self.df, -abs(statistic))) if self.df else 1.0


def correlation(groups: list[list[float]], mean: float) -> float:
    """How alike the scores of a conversation are: the share of the variance that is between them,
    as the analysis of variance of one way has it."""
    n, count = sum(map(len, groups)), len(groups)
    if count in (1, n):
        return 0.0
    means = [math.fsum(group) / len(group) for group in groups]
    pairs = [*zip(groups, means, strict=True)]
    inside = math.fsum((one - own) ** 2 for group, own in pairs for one in group) / (n - count)
    apart = math.fsum(len(group) * (own - mean) ** 2 for group, own in pairs) / (count - 1)
    size = (n - sum(len(group) ** 2 for group in groups) / n) / (count - 1)
    between = (apart - inside) / size
    return min(1.0, max(0.0, between / (between + inside))) if between + inside > 0 else 1.0


def mean_interval(scores: list[float], clusters: list[str], share: bool) -> list[float]:
    sample = Sample(scores, clusters)
    binary, within = {*scores} <= {0, 1}, min(scores) >= 0 and max(scores) <= 1
    if not share and not within:
        spread = max(abs(sample.mean), sample.spread) or 1.0
        half = sample.t * sample.error if sample.varies else rare(sample) * spread
        return [sample.mean, sample.mean - half, sample.mean + half]
    p = sample.mean
    unseen = 0.25 * max(p, 1 - p) ** 2
    if sample.varies:
        squares = math.fsum((value - p) ** 2 for value in scores)
        unseen *= squares / (sample.n * p * (1 - p))  # of 0 and 1: once
    n = sample.independent(sample.n * p * (1 - p), unseen, 1.0 if binary else 0.0)
    return [p, *wilson(p, n, sample.t)]


def rare(sample: Sample) -> float:
    """The share of conversations of another kind that may not have been seen."""
    return 1.0 if math.isinf(sample.t) else sample.t**2 / (sample.count + sample.t**2)


def wilson(p: float, n: float, quantile: float) -> tuple[float, float]:
    """The shares that a score test of p does not reject."""
    if math.isinf(quantile):
        return 0.0, 1.0

    def off(share: float) -> float:
        return (p - share) ** 2 - quantile**2 * share * (1 - share) / n

    low = 0.0 if p <= 1e-12 else float(brentq(off, 0, p - 1e-13, xtol=1e-14))
    high = 1.0 if p >= 1 - 1e-12 else float(brentq(off, p + 1e-13, 1, xtol=1e-14))
    return low, high


def difference(
    one: list[float], other: list[float], clusters: list[str], share: bool
) -> list[float]:
    """Mean, low, high and p of paired scores."""
    sample = Sample([a - b for a, b in zip(one, other, strict=True)], clusters)
    if share and {*one, *other} <= {0, 1}:
        return of_shares(sample)
    seen = abs(sample.mean)
    if sample.varies:
        half, p = sample.t * sample.error, sample.p(sample.mean / sample.error)
    elif seen:
        spread = max(2 * seen, sample.spread)
        half, p = rare(sample) * spread, sample.p(math.sqrt(seen * sample.count / (spread - seen)))
    else:
        spread = max(*one, *other) - min(*one, *other) or abs(one[0])
        half, p = rare(sample) * (max(spread, sample.spread) or 1.0), 1.0
    return [sample.mean, sample.mean - half, sample.mean + half, p]


def of_shares(sample: Sample) -> list[float]:
    more = sum(value > 0 for value in sample.scores) / sample.n
    less = sum(value < 0 for value in sample.scores) / sample.n
    n = sample.independent(sample.n * (more + less - sample.mean**2), 0.1, 1.0)
    if math.isinf(sample.t):
        return [sample.mean, -1.0, 1.0, 1.0]
    p = sample.p((more - less) * math.sqrt(n / (more + less))) if more + less else 1.0

    def off(supposed: float) -> float:
        spread = 2 * likeliest(more, less, supposed) + supposed * (1 - supposed)
        return (more - less - supposed) ** 2 - sample.t**2 * spread / n

    seen = more - less
    low = -1.0 if off(-1.0) <= 0 else float(brentq(off, -1.0, seen - 1e-9, xtol=1e-13))
    high = 1.0 if off(1.0) <= 0 else float(brentq(off, seen + 1e-9, 1.0, xtol=1e-13))
    return [sample.mean, low, high, p]


def likeliest(more: float, less: float, supposed: float) -> float:
    """The likeliest share of pairs for the second model if the true difference is this one."""
    low, high = max(0.0, -supposed), (1 - supposed) / 2

    def slope(q: float) -> float:  # of the likelihood, times what keeps it finite
        first = more * q * (1 - 2 * q - supposed) + less * (q + supposed) * (1 - 2 * q - supposed)
        return first - 2 * (1 - more - less) * q * (q + supposed)

    inside = (low + high) / 2
    if high - low < 1e-12:
        return inside
    edge = 1e-13 * (high - low)
    if slope(low + edge) <= 0:
        return low
    return (
        high
        if slope(high - edge) >= 0
        else float(brentq(slope, low + edge, high - edge, xtol=1e-15))
    )


def holm(ps: list[float]) -> list[float]:
    order = sorted(range(len(ps)), key=ps.__getitem__)
    steps = [min(1.0, (len(ps) - rank) * ps[place]) for rank, place in enumerate(order)]
    return [max(steps[: order.index(place) + 1]) for place in range(len(ps))]


def rows_needed(
    one: list[float], other: list[float], clusters: list[str], share: bool, tests: int
) -> int | None:
    sample = Sample([a - b for a, b in zip(one, other, strict=True)], clusters)
    per_row = sample.n * sample.error**2
    worth = 0.05
    if not share:
        middle = math.fsum([*one, *other]) / (2 * sample.n)
        variance = math.fsum((value - middle) ** 2 for value in [*one, *other]) / (2 * sample.n)
        worth = 0.2 * math.sqrt(variance) or math.inf
    if share and {*one, *other} <= {0, 1}:
        differ = sum(value != 0 for value in sample.scores) / sample.n - sample.mean**2
        per_row = (
            max(differ, 1 / sample.n) * sample.n / sample.independent(sample.n * differ, 0.1, 1.0)
        )
    z2 = float(ndtri(1 - 0.025 / tests) + ndtri(0.8)) ** 2
    seen = abs(sample.mean)
    needed = z2 * per_row / max(seen, worth) ** 2
    if needed <= sample.n:
        needed = z2 * per_row / seen**2 if seen else math.inf
    if needed > 100_000:
        return None
    needed = max(needed, sample.n + 1)
    unit = int(10 ** max(0, len(str(int(needed))) - 2))
    return math.ceil(needed / unit) * unit
