"""Charts: axes with round figures, columns, lines, markers; bars in tables."""

from __future__ import annotations

import pytest

from finetune_gateway.reports.charts import (
    Axis,
    Bins,
    Chart,
    Dot,
    Line,
    Marker,
    Shape,
    bar_table,
    linear_ticks,
    log_axis,
    log_ticks,
    range_bar,
    short,
)
from finetune_gateway.reports.layout import fragment


def figures(axis: Axis | Bins, most: int) -> list[str]:
    """What stands at an axis."""
    return [figure for _, figure in axis.ticks(most)]


def test_figures_are_short() -> None:
    """Three digits and a unit; a rounded one takes the next unit."""
    values = (0.05, 7, 950, 1200, 65536, 999_950, 2e6, 3e9, 1e12)
    assert [*map(short, values)] == [
        "0.05", "7", "950", "1.2k", "65.5k", "1M", "2M", "3B", "1T",
    ]  # fmt: skip


def test_linear_ticks_are_round() -> None:
    """1, 2 and 5 times powers of ten; the high end is not passed."""
    assert linear_ticks(0, 204, 14) == [0, 50, 100, 150, 200]
    assert linear_ticks(0, 3, 14) == [0, 1, 2, 3]
    assert linear_ticks(0, 1, 8) == [0, 1] and linear_ticks(0, 0, 8) == [0]
    assert linear_ticks(0, 37, 7) == [0, 10, 20, 30]


def test_logarithmic_ticks_are_round() -> None:
    """1, 2 and 5 on a few decades, powers of ten beyond, every other one where room is short."""
    assert log_ticks(0.05, 2, 9) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    assert log_ticks(0.05, 2, 4) == [0.1, 1]
    assert log_ticks(1, 1e6, 17) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
    assert log_ticks(1, 1e6, 4) == [1, 100, 1e4, 1e6]


def test_a_logarithmic_axis_holds_its_values() -> None:
    """The ends are round values around them; 0 is drawn at the least."""
    axis = log_axis("loss", [1.96, 0.07], least=1e-4)
    assert (axis.low, axis.high) == (0.05, 2.0)
    axis = log_axis("loss", [1.0], least=1e-4)
    assert (axis.low, axis.high) == (1.0, 2.0)
    axis = log_axis("loss", [0.0], least=1e-4)
    assert (axis.low, axis.high) == (1e-4, 2e-4) and axis.share(0.0) == 0.0
    for values, ends in (
        ([700.0], (100, 1000)),
        ([3.0, 70], (1, 100)),
        ([10.0], (10, 100)),
        ([2e-12], (1e-12, 1e-11)),
    ):
        axis = log_axis("USD", values, factors=(1,))
        assert (axis.low, axis.high) == ends


@pytest.mark.parametrize("log", [False, True])
def test_a_value_lies_between_the_ends(log: bool) -> None:
    """From 0 to 1; halfway by its distance, or by its power of ten."""
    axis = Axis("x", 1, 10_000, log=log)
    assert axis.share(1) == 0 and axis.share(10_000) == 1
    assert axis.share(100 if log else 5000.5) == pytest.approx(0.5)
    assert axis.value(0.5) == pytest.approx(100 if log else 5000.5)


def test_columns_are_equally_wide() -> None:
    """Whatever they span; a value lies in its own."""
    bins = Bins("tokens", [(1, 1, 5), (2, 9, 0), (10, 99, 1)])
    assert 0 < bins.share(1) < 1 / 3 < bins.share(2) < bins.share(9) < 2 / 3 < bins.share(10)
    assert bins.share(1000) == 1
    assert figures(bins, 9) == ["1", "2", "10", "99"] and figures(bins, 2) == ["1", "10"]
    chart = Chart(bins, Axis("rows", 0, 5), "c<", markers=[Marker(9, "high")])
    wide, narrow = chart.pictures()
    titles = [shape.title for shape in wide.shapes if shape.tag == "rect"]
    assert titles == ["1: 5", "10 to 99: 1"]  # an empty one is not drawn
    assert (wide.kind, narrow.kind) == ("wide", "narrow")
    assert "c&lt;" in fragment("parts.html", "picture", wide)


def test_lines_bands_and_dots_are_inside_the_picture() -> None:
    """On two logarithmic axes, above the marker."""
    axis = Axis("x", 1, 1000, log=True, unit="$")
    points = [(1.0, 1.0), (1000.0, 1000.0)]
    line = Line("a", points, 1, dashed=True, band=(points, points))
    chart = Chart(axis, axis, "c", [line], [Dot(10, 10, "here")], [Marker(10, kind="volume")])
    for picture in chart.pictures():
        shapes = {shape.tag: shape for shape in picture.shapes}
        assert shapes["polyline"].attributes["class"] == "line series-1 dashed"
        assert shapes["polygon"].attributes["class"] == "band series-1"
        assert shapes["circle"].title == "here"
        for x, y in places(shapes["polyline"]) + places(shapes["polygon"]):
            assert 0 <= x <= picture.width and 0 <= y <= picture.height
        assert "$1k" in [shape.text for shape in picture.shapes]


def places(shape: Shape) -> list[tuple[float, float]]:
    """The points of a line or a band, in pixels."""
    pairs = [point.split(",") for point in shape.attributes["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_bars_in_tables() -> None:
    """A share of the whole, at most all of it; a range is never too thin to be seen."""
    table = bar_table("caption", ("what", "rows"), [("a", (5,)), ("b", (30,))], 20)
    assert [row.share for row in table.rows] == [0.25, 1.0]
    assert table.head == ("what", "rows", "share", "")
    assert bar_table("", ("what", "rows"), [("a", (5,))], 0).rows[0].share == 0
    bar, expected = range_bar(5, 5, 5, 10).shapes
    assert bar.attributes["x"] == "50.00" and float(bar.attributes["width"]) > 0.5
    assert expected.attributes["x"] == "50.00"
