"""A chart in the terminal: lines in dots of Braille, or in ASCII where that is all there is.

It draws the very ``Chart`` of the pages, so figures on the axes are the same. plotext would be the
library for it: 5.3 has no round figures on a logarithmic axis and no frame in ASCII, and 6 has
another API.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_gateway.reports.charts import Chart, Point

DOTS_WIDE, DOTS_HIGH = 2, 4  # of a character of Braille
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of its dots, by row and column
APART = 2  # columns from a dot to the next, about
FIGURE = 5  # columns from a figure below the chart to the next, at least


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters of a chart."""

    line: str  # of a line in the key
    dot: str
    frame: str  # the axis, the axis at a figure, the corner, the foot, the foot at a figure

    @property
    def all(self) -> str:
        return self.line + self.dot + self.frame


BRAILLE = Signs("⠒", "●", "│┤└─┬")
ASCII = Signs("*", "o", "|++-+")


def signs_for(encoding: str | None) -> Signs:
    """Return the characters that a stream of this encoding can write."""
    try:
        BRAILLE.all.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BRAILLE


def chart_lines(chart: Chart, width: int, signs: Signs) -> list[str]:
    """Return the chart in so many columns, without color: axes with figures, its first line as a
    line, others as dots on top of it."""
    return _Plot(chart, width, signs).text()


class _Plot:
    """A chart in characters; rows count from the top."""

    def __init__(self, chart: Chart, width: int, signs: Signs) -> None:
        self.chart, self.signs = chart, signs
        self.high = max(9, min(16, width // 5))
        most = self.high * 2 // 3 if chart.y.log else self.high
        self.up = {self._row(share): figure for share, figure in chart.y.ticks(most)}
        self.left = max(map(len, self.up.values()))
        self.wide = width - self.left - 2
        self.cells: dict[tuple[int, int], str] = {}  # row, column

    def _row(self, share: float) -> int:
        return round((1 - share) * (self.high - 1))

    def text(self) -> list[str]:
        """Return everything, line by line."""
        first, *others = self.chart.lines
        self._draw(first.points)
        for line in others:
            self._dot(line.points)
        return [*map(self._line, range(self.high)), *self._foot()]

    def _dot(self, points: Sequence[Point]) -> None:
        """Draw the points; of many some, so that the line below can be seen."""
        every = -(-len(points) * APART // self.wide)
        for x, y in points[::-every]:
            column = round(self.chart.x.share(x) * (self.wide - 1))
            self.cells[self._row(self.chart.y.share(y)), column] = self.signs.dot

    def _draw(self, points: Sequence[Point]) -> None:
        across, down = (1, 1) if self.signs is ASCII else (DOTS_WIDE, DOTS_HIGH)
        size = self.wide * across - 1, self.high * down - 1
        places = [
            (self.chart.x.share(x) * size[0], (1 - self.chart.y.share(y)) * size[1])
            for x, y in points
        ]
        bits: dict[tuple[int, int], int] = {}
        for x, y in _between(places):
            cell = y // down, x // across
            bits[cell] = bits.get(cell, 0) | BITS[y % down][x % across]
        for cell, dots in bits.items():
            self.cells[cell] = self.signs.line if self.signs is ASCII else chr(0x2800 + dots)

    def _line(self, row: int) -> str:
        axis = self.signs.frame[1 if row in self.up else 0]
        cells = "".join(self.cells.get((row, column), " ") for column in range(self.wide))
        return f"{self.up.get(row, ''):>{self.left}} {axis}{cells}".rstrip()

    def _foot(self) -> Iterator[str]:
        """Yield the axis below, and its figures."""
        corner, foot, tick = list(self.signs.frame[2:])
        axis, figures = [foot] * self.wide, [" "] * (self.left + 2 + self.wide)
        free = 0
        for share, figure in self.chart.x.ticks(self.wide // FIGURE):
            column = round(share * (self.wide - 1))
            start = max(free, self.left + 2 + column - len(figure) // 2)
            start = min(start, len(figures) - len(figure))
            if start < free:
                continue
            axis[column] = tick
            figures[start : start + len(figure)] = figure
            free = start + len(figure) + 1
        yield " " * (self.left + 1) + corner + "".join(axis)
        yield "".join(figures).rstrip()


def _between(places: Sequence[tuple[float, float]]) -> Iterator[tuple[int, int]]:
    """Yield the dots from each place to the next."""
    last = places[0]
    for x, y in places:
        steps = max(1, round(max(abs(x - last[0]), abs(y - last[1]))))
        for step in range(steps + 1):
            part = step / steps
            yield round(last[0] + (x - last[0]) * part), round(last[1] + (y - last[1]) * part)
        last = x, y
