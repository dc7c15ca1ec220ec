"""The part of the page of ``ftg estimate --html`` on serving: what it costs over requests a month,
as a chart and a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_gateway.estimation.break_even import BreakEven, Curve
from finetune_gateway.estimation.serving import ServingCosts, ServingOption
from finetune_gateway.reports.charts import COLORS, Axis, Chart, Dot, Line, Marker, Point, log_axis
from finetune_gateway.reports.serving_text import (
    amount_text,
    per_thousand_text,
    price_sources,
    serving_grounds,
    traffic_text,
    way_name,
)

POINTS = 240  # per line
STEPS = 80  # of a line with GPUs always on are drawn; later ones are finer than a pixel


@dataclass(frozen=True)
class ServingView:
    """What the page shows of serving."""

    title: str
    chart: Chart | None
    table: list[tuple[str, str, str, str, str]]  # where, how, a month, 1,000 requests, sent
    break_even: list[str]
    sources: list[str]
    grounds: list[tuple[str, list[str]]]


def serving_view(costs: ServingCosts) -> ServingView:
    """Return what the page shows of serving."""
    options = [option for option in costs.ways if option.curves]
    rows = [
        (
            f"{option.where} {option.model}",
            way_name(option),
            amount_text(option),
            per_thousand_text(option, costs.traffic),
            "yes" if option.data_leaves_machine else "no",
        )
        for option in costs.ways
    ]
    return ServingView(
        title=traffic_text(costs.traffic),
        chart=costs_chart(costs, options) if options else None,
        table=rows,
        break_even=[one.text for one in costs.break_even],
        sources=price_sources(costs),
        grounds=[(kind.capitalize(), texts) for kind, texts in serving_grounds(costs) if texts],
    )


def costs_chart(costs: ServingCosts, options: Sequence[ServingOption]) -> Chart:
    """Return USD a month over requests a month: a line per option, a dot per break-even."""
    requests = _requests_axis(costs)
    lines = [_line(option, place % COLORS, requests) for place, option in enumerate(options)]
    return Chart(
        x=requests,
        y=_usd_axis(options, requests),
        label=" ".join(one.text for one in costs.break_even) or "No break-even.",
        lines=lines,
        dots=[*_dots(costs.break_even, options, requests)],
        markers=[Marker(costs.traffic.requests, kind="volume")],
        wide=(900, 420),
        narrow=(340, 380),
    )


def _requests_axis(costs: ServingCosts) -> Axis:
    """Return whole decades around the volume and every crossing that is not far off."""
    volume = costs.traffic.requests
    first = [one.expected.first for one in costs.break_even if one.expected]
    far = 1000 * max([volume, *first])
    crossings = [n for one in costs.break_even for n in _crossings(one) if n <= far]
    ends = [min([volume, *crossings]) / 10, max([volume, *crossings]) * 5]
    return log_axis("requests a month", ends, least=1, factors=(1,))


def _usd_axis(options: Sequence[ServingOption], requests: Axis) -> Axis:
    """Return whole decades around the costs at both ends of the requests."""
    ends = [
        float(curve.at(round(volume)))
        for option in options
        for curve in option.curves or ()
        for volume in (requests.low, requests.high)
    ]
    costs = [cost for cost in ends if cost > 0] or [1.0]
    return log_axis("USD a month", costs, factors=(1,), unit="$")


def _line(option: ServingOption, color: int, requests: Axis) -> Line:
    assert option.curves is not None
    low, expected, high = (_points(curve, requests) for curve in option.curves)
    band = None if low == high else (low, high)
    # The line of the base may lie on that of batches.
    return Line(option.title, expected, color, dashed=option.kind == "base", band=band)


def _points(curve: Curve, requests: Axis) -> list[Point]:
    volumes = {max(1, round(requests.value(i / POINTS))) for i in range(POINTS + 1)}
    if curve.capacity:  # a step is upright
        ends = (curve.capacity * k for k in range(1, STEPS + 1))
        inside = [n for n in ends if requests.low <= n < requests.high]
        volumes.update(inside, (n + 1 for n in inside))
    return [(n, float(curve.at(n))) for n in sorted(volumes)]


def _crossings(break_even: BreakEven) -> list[int]:
    """Return the volumes from which the own machine costs less."""
    spans = break_even.expected.spans if break_even.expected else ()
    return [span.first for span in spans if span.first > 1]


def _dots(
    break_evens: Sequence[BreakEven], options: Sequence[ServingOption], requests: Axis
) -> Iterator[Dot]:
    by_title = {option.title: option for option in options}
    for break_even in break_evens:
        curves = by_title[break_even.own].curves
        assert curves is not None
        for volume in (n for n in _crossings(break_even) if n <= requests.high):
            yield Dot(volume, float(curves[1].at(volume)), break_even.text, kind="break-even")
