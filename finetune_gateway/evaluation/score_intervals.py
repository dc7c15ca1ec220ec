"""Intervals of shares by score tests: those values that the test does not reject."""

from __future__ import annotations

import math
from collections.abc import Callable


def wilson(share: float, n: float, t: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of n (Wilson 1927), with the quantile ``t``.

    (share + t^2/2n +- t sqrt(share (1 - share) / n + t^2 / 4n^2)) / (1 + t^2/n)
    """
    if math.isinf(t):
        return 0.0, 1.0
    middle = share + t * t / (2 * n)
    half = t * math.sqrt(share * (1 - share) / n + t * t / (4 * n * n))
    scale = 1 + t * t / n
    low, high = (middle - half) / scale, (middle + half) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def tango(more: float, less: float, n: float, t: float) -> tuple[float, float]:
    """Return Tango's score interval of a paired difference of shares (Tango 1998).

    ``more``: share of the pairs that only the first has right. ``less``: only the second. It holds
    the differences D that the score test does not reject:

        |more - less - D| <= t sqrt((2 q + D (1 - D)) / n)

    q is the likeliest share for ``less`` if the difference is D. At D = 0 this is McNemar's test.
    Newcombe's interval (1998, method 10) is about as good from 100 pairs on, and covers too few at
    32: see ``bench/interval_coverage.py``, which has both.
    """
    if math.isinf(t):
        return -1.0, 1.0
    seen = more - less

    def held(supposed: float) -> bool:
        b = (2 - seen) * supposed - more - less
        c = -less * supposed * (1 - supposed)
        q = (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 4
        variance = max(2 * q + supposed * (1 - supposed), 0.0) / n
        return (seen - supposed) ** 2 <= t * t * variance

    return _last(held, seen, -1.0), _last(held, seen, 1.0)


def _last(held: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the value nearest to ``outside`` that is held, by bisection."""
    if held(outside):
        return outside
    for _ in range(45):  # to 1e-13
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if held(middle) else (inside, middle)
    return inside
