"""Charts: lines, bands, bars and dots, on linear, logarithmic or binned axes.

Computes shapes; the template ``parts.html`` writes them as SVG.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

COLORS = 8
RIGHT, BOTTOM = 22, 40  # pixels beside and below the plot
ROW = 16  # pixels for the name of a marker
APART = 1.5  # pixels between two lines that are one to the eye, at most
X_APART, Y_APART = 46, 24  # pixels from a figure on an axis to the next, at least

Bin = tuple[int, int, int]  # first, last (inclusive), how many
Point = tuple[float, float]
Tick = tuple[float, str]  # where on the axis, from 0 to 1, and its figure


@dataclass(frozen=True, slots=True)
class Shape:
    """One element of an SVG; ``title`` shows when it is pointed at."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG of ``width`` by ``height`` pixels. Without a ``label`` to read aloud it is hidden
    from screen readers and stretched to its place."""

    kind: str  # wide or narrow: the screens that show it; inline: both
    width: int
    height: int
    shapes: list[Shape]
    label: str = ""


# -- axes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``, evenly or by powers of ten; ``unit`` stands before each figure.
    Figures are whole numbers unless ``fractions``; on a logarithmic scale they may be any."""

    name: str
    low: float
    high: float
    log: bool = False
    unit: str = ""
    fractions: bool = False

    @property
    def title(self) -> str:
        """Its name, and that it is logarithmic."""
        return f"{self.name}, log scale" if self.log else self.name

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 at the low end to 1."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, share: float) -> float:
        """Return the value at a place from 0 to 1."""
        if self.log:
            return self.low * math.pow(self.high / self.low, share)
        return self.low + (self.high - self.low) * share

    def ticks(self, most: int) -> list[Tick]:
        """Return round values with their figures, about ``most`` of them or fewer."""
        if self.log:
            values = log_ticks(self.low, self.high, most)
        else:
            values = linear_ticks(self.low, self.high, most, least=0.0 if self.fractions else 1.0)
        return [(self.share(value), f"{self.unit}{short(value)}") for value in values]


@dataclass(frozen=True, slots=True)
class Bins:
    """An axis of equally wide columns, whatever they span."""

    name: str
    bins: Sequence[Bin]
    log: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """Its name, and that it is logarithmic: later columns span more."""
        first, last = self.bins[0], self.bins[-1]
        grows = last[1] - last[0] > first[1] - first[0]
        return f"{self.name}, log scale" if grows else self.name

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 at the low end to 1."""
        place = next(
            (at for at, (_, high, _) in enumerate(self.bins) if value <= high), len(self.bins) - 1
        )
        low, high, _ = self.bins[place]
        inside = (value - low + 0.5) / (high - low + 1)
        return (place + min(1.0, max(0.0, inside))) / len(self.bins)

    def ticks(self, most: int) -> list[Tick]:
        """Return edges of columns with their figures, at most ``most``."""
        edges = [low for low, _, _ in self.bins] + [self.bins[-1][1]]
        step = max(1, -(-len(edges) // most))
        return [
            (place / len(self.bins), short(edges[place])) for place in range(0, len(edges), step)
        ]


def log_axis(
    name: str,
    values: Sequence[float],
    *,
    least: float = 0.0,
    factors: tuple[float, ...] = (1, 2, 5),
    unit: str = "",
) -> Axis:
    """Return an axis that begins and ends at such a factor of a power of ten, around the values;
    those below ``least`` are drawn there, since 0 has no logarithm."""
    low = max(min(values), least)
    high = max(*values, low)
    round_values = _round_values(low, 10 * high, factors)
    first = max(at for at, value in enumerate(round_values) if value <= low)
    last = min(at for at, value in enumerate(round_values) if value >= high)
    return Axis(name, round_values[first], round_values[max(last, first + 1)], log=True, unit=unit)


def linear_axis(name: str, values: Sequence[float]) -> Axis:
    """Return an axis that begins and ends at round values around these."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - abs(low) / 2, high + abs(high) / 2 or 1.0
    step = _round_step((high - low) / 4)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Axis(name, low, high, fractions=True)


def linear_ticks(low: float, high: float, most: int, least: float = 1.0) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, of ``least`` if that is more; about half
    of ``most``."""
    step = _round_step(max(least, (high - low) / max(1, (most + 1) // 2)))
    inside = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [float(f"{step * n:.12g}") for n in inside]


def _round_step(rough: float) -> float:
    """Return the next of 1, 2 and 5 times a power of ten."""
    power = math.floor(math.log10(rough))
    steps = (float(f"{factor}e{power}") for factor in (1, 2, 5, 10))
    return next(step for step in steps if step >= rough * (1 - 1e-9))


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return 1, 2 and 5 times powers of ten; powers alone beyond three decades."""
    ticks = [value for value in _round_values(low, high, (1, 2, 5)) if low <= value <= high]
    if len(ticks) <= most and high / low <= 1000:
        return ticks
    powers = [value for value in _round_values(low, high, (1,)) if low <= value <= high]
    return powers[:: max(1, -(-len(powers) // max(1, most)))]


def _round_values(low: float, high: float, factors: tuple[float, ...]) -> list[float]:
    """Return these factors of powers of ten, from one below ``low`` to one above ``high``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [float(f"{factor}e{power}") for power in powers for factor in factors]


def short(value: float) -> str:
    """Return a figure in few letters: 950, 1.2k, 65.5k, 2M."""
    rounded = float(f"{value:.3g}")
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g}{unit}"
    return f"{value:g}"


# -- charts --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, perhaps with a band from its low to its high values."""

    name: str
    points: Sequence[Point]
    color: int = 0
    dashed: bool = False
    band: tuple[Sequence[Point], Sequence[Point]] | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """The name of a line with its color; of several that lie on each other, theirs."""

    name: str
    colors: Sequence[int]

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Key:
        """Return the key of one line, or of several that coincide."""
        names = " and ".join(line.name for line in lines)
        together = f"{names} (the same line)" if len(lines) > 1 else names
        return cls(together, [line.color for line in lines])


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of its own; without a color it is as dark as text."""

    x: float
    y: float
    title: str
    color: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Marker:
    """An upright line across the plot, named at its top."""

    value: float
    name: str = ""
    kind: str = "middle"  # or limit, volume


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn on two axes; on ``Bins`` a column for each. ``label`` is read aloud."""

    x: Axis | Bins
    y: Axis
    label: str
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    markers: Sequence[Marker] = ()
    wide: tuple[int, int] = (720, 300)
    narrow: tuple[int, int] = (340, 260)

    @property
    def keys(self) -> list[Key]:
        """What each line is; lines that lie on each other are named together."""
        plot = _Plot(self, *self.wide)
        groups: list[list[Line]] = []
        for line in self.lines:
            same = (group for group in groups if plot.coincide(group[0], line))
            if group := next(same, None):
                group.append(line)
            else:
                groups.append([line])
        return [Key.of(group) for group in groups]

    def pictures(self) -> list[Picture]:
        """Return the chart for wide screens and for narrow ones, with letters just as large."""
        return [
            Picture(kind, *size, [*_Plot(self, *size).shapes()], self.label)
            for kind, size in (("wide", self.wide), ("narrow", self.narrow))
        ]


class _Plot:
    """A chart in a picture of ``width`` by ``height`` pixels."""

    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart = chart
        self.width, self.height = width, height
        self.top = 12 + ROW * sum(bool(marker.name) for marker in chart.markers)
        self.foot = height - BOTTOM
        self.up = chart.y.ticks((self.foot - self.top) // Y_APART)
        self.left = 26 + 7 * max(len(figure) for _, figure in self.up)
        self.right = width - RIGHT

    def shapes(self) -> Iterator[Shape]:
        """Yield everything, what lies below first."""
        yield from self._y_axis()
        yield from self._x_axis()
        if isinstance(self.chart.x, Bins):
            yield from self._columns(self.chart.x.bins)
        for line in self.chart.lines:
            yield from self._line(line)
        yield from self._markers()
        yield from map(self._dot, self.chart.dots)

    def x(self, share: float) -> float:
        return self.left + (self.right - self.left) * share

    def y(self, share: float) -> float:
        return self.foot - (self.foot - self.top) * share

    def at(self, point: Point) -> tuple[float, float]:
        """Return the pixels of a point."""
        return self.x(self.chart.x.share(point[0])), self.y(self.chart.y.share(point[1]))

    def coincide(self, one: Line, other: Line) -> bool:
        """Return True if nobody can tell two lines apart: each point is on the other line."""
        first, second = [[*map(self.at, line.points)] for line in (one, other)]
        return _all_on(first, second) and _all_on(second, first)

    def _y_axis(self) -> Iterator[Shape]:
        for share, figure in self.up:
            y = self.y(share)
            yield _path("grid", f"M{self.left} {y:.1f}H{self.right}")
            yield _text(figure, self.left - 6, y + 4, "end")
        middle = f"translate(11 {(self.foot + self.top) / 2:.0f}) rotate(-90)"
        yield Shape("text", {"transform": middle, "text-anchor": "middle"}, self.chart.y.title)

    def _x_axis(self) -> Iterator[Shape]:
        end = f"V{self.top}" if self.chart.x.log else "v4"
        for share, figure in self.chart.x.ticks((self.right - self.left) // X_APART):
            x = self.x(share)
            yield _path("grid", f"M{x:.1f} {self.foot}{end}")
            yield _text(figure, x, self.foot + 17, "middle")
        yield _text(self.chart.x.title, (self.left + self.right) / 2, self.height - 6, "middle")

    def _columns(self, bins: Sequence[Bin]) -> Iterator[Shape]:
        step = (self.right - self.left) / len(bins)
        for place, (low, high, count) in enumerate(bins):
            if count:
                # A single row among a million can still be seen.
                height = max(1.5, self.foot - self.y(self.chart.y.share(count)))
                size = {"width": max(1.0, step - 1), "height": height}
                corner = {"x": self.left + step * place + 0.5, "y": self.foot - height}
                span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
                yield _rect("bar", **corner, **size, title=f"{span}: {count:,}")

    def _line(self, line: Line) -> Iterator[Shape]:
        series = f"series-{line.color}"
        if line.band:
            low, high = line.band
            area = {"class": f"band {series}", "points": self._points([*low, *reversed(high)])}
            yield Shape("polygon", area)
        kind = f"line {series}{' dashed' if line.dashed else ''}"
        yield Shape(
            "polyline", {"class": kind, "points": self._points(line.points)}, title=line.name
        )

    def _points(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))

    def _markers(self) -> Iterator[Shape]:
        """Yield the upright lines, then their names over them."""
        names: list[Shape] = []
        for marker in self.chart.markers:
            x, y = self.x(self.chart.x.share(marker.value)), 12 + ROW * len(names)
            yield _path(marker.kind, f"M{x:.1f} {y - 8 if marker.name else self.top}V{self.foot}")
            if marker.name:
                shift, anchor = (-5, "end") if x > self.width / 2 else (5, "start")
                names.append(_text(marker.name, x + shift, y, anchor, marker.kind))
        yield from names

    def _dot(self, dot: Dot) -> Shape:
        x, y = self.at((dot.x, dot.y))
        kind = f"dot {f'series-{dot.color}' if dot.color is not None else ''} {dot.kind}"
        size = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "3" if dot.color is not None else "5"}
        return Shape("circle", {"class": " ".join(kind.split()), **size}, title=dot.title)


def _all_on(points: Sequence[Point], line: Sequence[Point]) -> bool:
    """Return True if each point is at most APART pixels above or below the line."""
    across = [x for x, _ in line]
    return all(_distance(point, line, bisect_left(across, point[0])) <= APART for point in points)


def _distance(point: Point, line: Sequence[Point], place: int) -> float:
    """Return the pixels from a point to the line between its points at ``place`` and before."""
    (x, y), (left, low), (right, high) = (
        point,
        line[max(0, place - 1)],
        line[min(place, len(line) - 1)],
    )
    if not left - APART <= x <= right + APART:
        return math.inf
    share = (x - left) / (right - left) if right > left else 0.0
    return abs(y - low - (high - low) * min(1.0, max(0.0, share)))


def _path(kind: str, line: str) -> Shape:
    return Shape("path", {"class": kind, "d": line})


def _text(text: str, x: float, y: float, anchor: str, kind: str = "") -> Shape:
    at = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    return Shape("text", at | ({"class": kind} if kind else {}), text)


def _rect(kind: str, *, title: str = "", **sizes: float) -> Shape:
    return Shape("rect", {"class": kind} | {k: f"{v:.2f}" for k, v in sizes.items()}, title=title)


# -- bars in tables ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BarRow:
    """Named figures, the last with its share of a whole."""

    name: str
    figures: tuple[int, ...]
    share: float

    @property
    def picture(self) -> Picture:
        """The share as a bar in a frame."""
        filled = _rect("bar", width=self.share * 100, height=8)
        return Picture("inline", 100, 8, [filled, _rect("whole", width=100, height=8)])


@dataclass(frozen=True, slots=True)
class BarTable:
    """A table with a bar in each row."""

    caption: str
    head: tuple[str, ...]
    rows: list[BarRow]


def bar_table(
    caption: str, head: tuple[str, ...], rows: Sequence[tuple[str, tuple[int, ...]]], whole: int
) -> BarTable:
    """Return named figures as a table; the last figure of each is drawn as a share of ``whole``."""
    shares = [min(1.0, figures[-1] / whole) if whole else 0.0 for _, figures in rows]
    drawn = [BarRow(*row, share) for row, share in zip(rows, shares, strict=True)]
    return BarTable(caption, (*head, "share", ""), drawn)


def range_bar(low: float, expected: float, high: float, top: float) -> Picture:
    """Return a bar from low to high with a tick at the expected value, on a scale up to ``top``."""
    low, expected, high = (100 * value / top for value in (low, expected, high))
    bar = _rect("range", x=low, width=max(0.8, high - low), height=8)
    return Picture(
        "inline", 100, 8, [bar, _rect("expected", x=min(99.2, expected), width=0.8, height=8)]
    )
