"""How often the intervals of a comparison hold the true value, and equal models are told apart.

Draws models whose true scores are known, many times, and asks the functions that a comparison asks
(``finetune_gateway.evaluation.statistics``). A row repeats its conversation with the probability
sqrt(ICC), so two rows of one conversation are correlated by ICC. Two models share a draw with the
probability ``alike``. A table goes to stderr, the worst cell of each group to stdout.

    make bench NAME=interval_coverage                   # 2,000 trials a cell, some minutes
    python bench/interval_coverage.py --runs 300 --seed 7
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from _common import Bench, arguments, say, versions
from scipy.special import betaincinv, ndtri

from finetune_gateway.evaluation import statistics
from finetune_gateway.evaluation.results import Interval, Measure
from finetune_gateway.evaluation.score_intervals import wilson

Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

SIZES = (32, 104, 400)
MEANS = (0.5, 0.8, 0.95)
CORRELATIONS = (0.0, 0.3, 0.8)  # of the rows of one conversation
ALIKE = (0.0, 0.5, 0.9)  # draws that two models share
EFFECT = 0.1
MANY = 60  # clusters from which on coverage has an upper bound, and a stricter lower one
CONCENTRATION = 10.0  # of the Beta scores: standard deviations of 0.15, 0.12 and 0.07
MODELS = 4


@dataclass(frozen=True)
class Cell:
    """Models that are drawn in one way. ``sizes``: of the conversations."""

    kind: str
    sizes: tuple[int, ...]
    icc: float
    p: float

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    @property
    def clusters(self) -> list[str]:
        """The conversation of each row."""
        return [str(place) for place, size in enumerate(self.sizes) for _ in range(size)]

    @property
    def title(self) -> str:
        shape = f"{self.rows:4} rows of {len(self.sizes):3} conversations"
        return f"{self.kind:10} {shape}, ICC {self.icc:.1f}, mean {self.p:.2f}"


class Uniforms:
    """Uniform draws for the rows of all trials; models share some of them."""

    def __init__(self, random: numpy.random.Generator, trials: int, cell: Cell) -> None:
        self.random, self.trials, self.cell = random, trials, cell
        self.place = numpy.repeat(numpy.arange(len(cell.sizes)), cell.sizes)
        self.common = self._parts()

    def model(self, alike: float) -> Array:
        """Return the draws of one more model, (trials, rows), with as many of them shared."""
        parts = [
            numpy.where(self.random.random(own.shape) < alike, shared, own)
            for shared, own in zip(self.common, self._parts(), strict=True)
        ]
        of_cluster, of_row, repeats = parts
        repeated = repeats < math.sqrt(self.cell.icc)
        drawn: Array = numpy.where(repeated, of_cluster[:, self.place], of_row)
        return drawn

    def _parts(self) -> list[Array]:
        shapes = (len(self.cell.sizes), self.cell.rows, self.cell.rows)
        return [self.random.random((self.trials, shape)) for shape in shapes]


def scored(kind: str, uniforms: Array, mean: float) -> Array:
    """Return scores of the given kind and true mean."""
    if kind == "binary":
        return (uniforms < mean).astype(float)
    if kind == "normal":
        return numpy.asarray(mean + 0.15 * ndtri(uniforms))
    if kind == "lognormal":
        return numpy.asarray(mean * numpy.exp(ndtri(uniforms) - 0.5))
    concentration = 2.0 if kind == "extreme" else CONCENTRATION
    return numpy.asarray(betaincinv(mean * concentration, (1 - mean) * concentration, uniforms))


def holds(interval: Interval, true: float) -> bool:
    return interval.low - 1e-9 <= true <= interval.high + 1e-9


def coverage_of_means(cell: Cell, random: numpy.random.Generator, trials: int) -> float:
    """Return the share of the intervals of one model that hold its true mean, in per cent."""
    scores = scored(cell.kind, Uniforms(random, trials, cell).model(0.0), cell.p)
    clusters, share = cell.clusters, cell.kind == "binary"
    found = [holds(statistics.mean(one, clusters, share), cell.p) for one in scores.tolist()]
    return 100 * sum(found) / trials


def coverage_of_differences(
    cell: Cell,
    alike: float,
    random: numpy.random.Generator,
    trials: int,
    judge: Callable[..., tuple[Interval, float]] = statistics.difference,
) -> float:
    """Return the share of the intervals of two models that hold their true difference."""
    uniforms = Uniforms(random, trials, cell)
    firsts = scored(cell.kind, uniforms.model(alike), cell.p)
    seconds = scored(cell.kind, uniforms.model(alike), cell.p - EFFECT)
    clusters, share = cell.clusters, cell.kind == "binary"
    pairs = zip(firsts.tolist(), seconds.tolist(), strict=True)
    found = [holds(judge(*pair, clusters, share)[0], EFFECT) for pair in pairs]
    return 100 * sum(found) / trials


def false_claims(cell: Cell, alike: float, random: numpy.random.Generator, trials: int) -> float:
    """Return in which share of families of four equal models one is called better."""
    uniforms = Uniforms(random, trials, cell)
    models = [scored(cell.kind, uniforms.model(alike), cell.p).tolist() for _ in range(MODELS)]
    measure = Measure(name="drawn", title="drawn", share=cell.kind == "binary")
    rows = [str(row) for row in range(cell.rows)]
    clusters = dict(zip(rows, cell.clusters, strict=True))
    claims = 0
    for family in zip(*models, strict=True):
        scores = {
            f"model {number}": dict(zip(rows, values, strict=True))
            for number, values in enumerate(family)
        }
        claims += any(one.better for one in statistics.compare_all(measure, scores, clusters))
    return 100 * claims / trials


def newcombe(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], share: bool
) -> tuple[Interval, float]:
    """Return Newcombe's interval (1998, method 10) of rows that are all independent."""
    count, t = len(first), statistics.quantile(len(first) - 1)
    a, b = sum(first) / count, sum(second) / count
    (low_a, high_a), (low_b, high_b) = (wilson(p, count, t) for p in (a, b))
    spread = math.sqrt(a * (1 - a) * b * (1 - b))
    both = sum(one * other for one, other in zip(first, second, strict=True)) / count
    phi = (both - a * b) / spread if spread else 0.0
    down = (a - low_a) ** 2 - 2 * phi * (a - low_a) * (high_b - b) + (high_b - b) ** 2
    up = (high_a - a) ** 2 - 2 * phi * (high_a - a) * (b - low_b) + (b - low_b) ** 2
    low, high = a - b - math.sqrt(max(down, 0)), a - b + math.sqrt(max(up, 0))
    return Interval(mean=a - b, low=low, high=high, n=count, clusters=count), 1.0


# -- cells -----------------------------------------------------------------------------------


def judged_cells() -> Iterator[Cell]:
    """Yield the cells with bounds: conversations of 1 and of 8 rows."""
    for kind in ("binary", "continuous", "normal"):
        for rows in SIZES:
            for size in (1, 8):
                for icc in CORRELATIONS if size > 1 else CORRELATIONS[:1]:
                    for p in MEANS:
                        yield Cell(kind, (size,) * (rows // size), icc, p)


def shown_cells() -> Iterator[Cell]:
    """Yield the cells that are shown without a bound: skewed scores, unequal conversations."""
    ladder = tuple(1 + place % 10 for place in range(40))
    giant = (60, *(1,) * 40)
    for size, count in ((1, 32), (1, 104), (1, 400), (8, 13), (8, 50)):
        for kind, p in (("lognormal", 200.0), ("extreme", 0.95)):
            yield Cell(kind, (size,) * count, 0.3 if size > 1 else 0.0, p)
    for sizes in (ladder, giant):
        for kind in ("binary", "continuous"):
            for icc in CORRELATIONS:
                for p in (0.5, 0.95):
                    yield Cell(kind, sizes, icc, p)


def bounds(cell: Cell) -> tuple[float, float]:
    return (93.0, 97.0) if len(cell.sizes) >= MANY else (91.0, 100.0)


@dataclass
class Worst:
    """The lowest and the highest coverage of a group of cells."""

    bench: Bench
    name: str
    found: list[float]

    def add(self, cell: Cell, value: float, low: float, high: float, about: str = "") -> None:
        self.found.append(value)
        missed = "" if low <= value <= high else f"   MISSED: {low:g} to {high:g} %"
        say(f"{self.name:20} {cell.title}{about}: {value:5.1f} %{missed}")
        if missed:
            self.bench.missed.append(self.name)

    def end(self, nominal: float) -> None:
        if self.found:
            self.bench.figure(f"{self.name}_lowest", [min(self.found)], [nominal], "%")
            self.bench.figure(f"{self.name}_highest", [max(self.found)], [nominal], "%")


def main() -> int:
    options = arguments(__doc__, runs=2000, seed=1, only="")
    bench = Bench("interval_coverage", versions("finetune-gateway", "numpy", "scipy"))
    random = numpy.random.default_rng(options.seed)
    names = ("means", "differences", "newcombe", "false_claims", "shown_means", "shown_differences")
    groups = {name: Worst(bench, name, []) for name in names}
    cells = [cell for cell in judged_cells() if options.only in ("", cell.kind)]
    for cell in cells:
        value = coverage_of_means(cell, random, options.runs)
        groups["means"].add(cell, value, *bounds(cell))
        binary = cell.kind == "binary"
        for alike in ALIKE if binary else ALIKE[1:2]:
            value = coverage_of_differences(cell, alike, random, options.runs)
            groups["differences"].add(cell, value, *bounds(cell), f", alike {alike}")
            if binary and max(cell.sizes) == 1:
                value = coverage_of_differences(cell, alike, random, options.runs, newcombe)
                groups["newcombe"].add(cell, value, 0, 100, f", alike {alike}")
        if cell.kind != "normal":
            value = false_claims(cell, ALIKE[1], random, options.runs)
            groups["false_claims"].add(cell, value, 0, 6, f", alike {ALIKE[1]}")
    for cell in shown_cells() if not options.only else ():
        value = coverage_of_means(cell, random, options.runs)
        groups["shown_means"].add(cell, value, 0, 100)
        if cell.kind != "lognormal":
            value = coverage_of_differences(cell, 0.5, random, options.runs)
            groups["shown_differences"].add(cell, value, 0, 100)
    for name, group in groups.items():
        group.end(5 if name == "false_claims" else 95)
    return bench.end(options.out)


if __name__ == "__main__":
    sys.exit(main())
