"""The part of the page of ``ftg estimate --html`` on serving: what it costs over requests a month,
as a picture and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from finetune_gateway.estimation.break_even import BreakEven, Curve
from finetune_gateway.estimation.serving import ServingCosts, Way
from finetune_gateway.reports.layout import table
from finetune_gateway.reports.serving_text import (
    amount_text,
    per_thousand_text,
    price_sources,
    serving_grounds,
    traffic_text,
    way_name,
)

STYLE = """
:root { --c0: #1f5fbf; --c1: #16734a; --c2: #a3541b; --c3: #7a3fb0; --c4: #0f7285; --c5: #a02c5d;
  --c6: #6b6413; --c7: #56606b }
@media (prefers-color-scheme: dark) { :root { --c0: #82b1ff; --c1: #5fca98; --c2: #eba36c;
  --c3: #c39bf0; --c4: #62c7da; --c5: #ef8fb7; --c6: #d3c964; --c7: #b4bec9 } }
.line { fill: none; stroke-width: 2.2 } .band { opacity: .14; stroke: none }
.here { stroke: var(--text); stroke-dasharray: 4 4 }
.dot { fill: var(--text); stroke: var(--ground) }
.keys { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .6rem 0; padding: 0;
  list-style: none; font-size: .92rem } .keys i { display: inline-block; width: 1.4rem;
  border-top: 3px solid; margin-right: .45rem; vertical-align: .25em }
ul.said { padding-left: 1.2rem; font-size: .92rem; color: var(--soft) }
"""
LEGEND = (
    "USD a month over requests a month, both in powers of ten. A band is low to high, a step one "
    "GPU more, a dot where a GPU of your own becomes cheaper, the dashed line your volume."
)
COLORS = 8
POINTS = 240  # per line
STEPS = 80  # of a line with GPUs always on are drawn; later ones are finer than a pixel


class Frame(NamedTuple):
    """A picture's size and the decades it spans, both axes logarithmic."""

    width: int
    height: int
    left: float  # log10 of requests
    right: float
    low: float  # log10 of USD
    high: float

    def x(self, requests: float) -> float:
        share = (math.log10(requests) - self.left) / (self.right - self.left)
        return 62 + share * (self.width - 62 - 14)

    def y(self, dollars: float) -> float:
        share = (math.log10(max(dollars, 10**self.low)) - self.low) / (self.high - self.low)
        return self.height - 40 - share * (self.height - 40 - 14)


def body(costs: ServingCosts) -> str:
    """The part of a page on serving."""
    ways = [way for way in costs.ways if way.curves]
    body = [f"<h2>{escape(traffic_text(costs.traffic))}</h2>"]
    if ways:
        body += [_keys(ways), _picture(costs, ways, 900, 420, "wide")]
        body += [_picture(costs, ways, 420, 420, "narrow")]
        body += [f'<p class="soft">{LEGEND}</p>']
    body += ["<h3>A month</h3>", _table(costs)]
    if costs.break_even:
        body += ["<h3>Break-even</h3>", _list([meet.text for meet in costs.break_even])]
    body += ["<h3>What serving figures rest on</h3>", _list(price_sources(costs))]
    body += [
        f"<h4>{escape(kind.capitalize())}</h4>{_list(texts)}"
        for kind, texts in serving_grounds(costs)
        if texts
    ]
    return "\n".join(body)


def _list(texts: list[str]) -> str:
    return f'<ul class="said">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def _color(place: int) -> str:
    return f"var(--c{place % COLORS})"


def _keys(ways: list[Way]) -> str:
    keys = (
        f'<li><i style="border-color: {_color(place)}"></i>{escape(way.title)}</li>'
        for place, way in enumerate(ways)
    )
    return f'<ul class="keys">{"".join(keys)}</ul>'


def _table(costs: ServingCosts) -> str:
    rows = [
        (
            escape(f"{way.where} {way.model}"),
            escape(way_name(way)),
            escape(amount_text(way.monthly_usd)),
            escape(per_thousand_text(way, costs.traffic)),
            "yes" if way.data_leaves_machine else "no",
        )
        for way in costs.ways
    ]
    head = ("Where", "How", "A month", "1,000 requests", "Data goes to a host")
    return table("stack", head, rows)


def _picture(costs: ServingCosts, ways: list[Way], width: int, height: int, name: str) -> str:
    frame = _frame(costs, ways, width, height)
    parts = [*_grid(frame)]
    for place, way in enumerate(ways):
        parts += _line(frame, way, _color(place))
    here = frame.x(costs.traffic.requests)
    parts.append(f'<line class="here" x1="{here:.1f}" x2="{here:.1f}" y1="14" y2="{height - 40}"/>')
    parts += _dots(frame, costs, ways)
    label = escape(" ".join(meet.text for meet in costs.break_even) or "No break-even.")
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(costs: ServingCosts, ways: list[Way], width: int, height: int) -> Frame:
    """Whole decades around the volume and every crossing that is not far off."""
    volume = costs.traffic.requests
    first = [meet.expected.first for meet in costs.break_even if meet.expected]
    far = 1000 * max([volume, *first])
    met = [n for meet in costs.break_even for n in _crossings(meet) if n <= far]
    left = max(0, math.floor(math.log10(min([volume, *met]) / 10)))
    right = math.ceil(math.log10(max([volume, *met]) * 5))
    ends = [
        float(curve.at(round(10**edge)))
        for way in ways
        for curve in way.curves or ()
        for edge in (left, right)
    ]
    costs_seen = [cost for cost in ends if cost > 0] or [1.0]
    low = math.floor(math.log10(min(costs_seen)))
    high = max(low + 1, math.ceil(math.log10(max(costs_seen))))
    return Frame(width, height, left, right, low, high)


def _grid(frame: Frame) -> Iterator[str]:
    bottom, edge = frame.height - 40, frame.width - 14
    for power in range(int(frame.low), int(frame.high) + 1):
        y = frame.y(10.0**power)
        yield f'<line class="grid" x1="62" x2="{edge}" y1="{y:.1f}" y2="{y:.1f}"/>'
        words = f"${10.0**power:,.6g}" if power < 6 else f"${_count(power)}"
        yield f'<text x="56" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
    for power in range(int(frame.left), int(frame.right) + 1):
        x = frame.x(10.0**power)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{bottom}"/>'
        side = "end" if power == frame.right else "middle"
        yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="{side}">{_count(power)}</text>'
    yield f'<text x="{edge}" y="{bottom + 34}" text-anchor="end">requests a month</text>'


def _count(power: int) -> str:
    for size, word in ((9, "G"), (6, "M"), (3, "k")):
        if power >= size:
            return f"{10 ** (power - size):,} {word}"
    return f"{10**power}"


def _line(frame: Frame, way: Way, color: str) -> Iterator[str]:
    assert way.curves is not None
    low, expected, high = (_points(frame, curve) for curve in way.curves)
    if low != high:
        yield f'<polygon class="band" fill="{color}" points="{" ".join([*low, *high[::-1]])}"/>'
    title = f"<title>{escape(way.title)}</title>"
    points = " ".join(expected)
    dashed = ' stroke-dasharray="7 6"' if way.kind == "base" else ""  # may lie on the batch line
    yield f'<polyline class="line" stroke="{color}"{dashed} points="{points}">{title}</polyline>'


def _points(frame: Frame, curve: Curve) -> list[str]:
    reach = frame.right - frame.left
    places = (10 ** (frame.left + reach * i / POINTS) for i in range(POINTS + 1))
    volumes = {max(1, round(place)) for place in places}
    if curve.capacity:  # a step stands upright
        ends = (curve.capacity * k for k in range(1, STEPS + 1))
        inside = [n for n in ends if 10**frame.left <= n < 10**frame.right]
        volumes.update(inside, (n + 1 for n in inside))
    return [f"{frame.x(n):.1f},{frame.y(float(curve.at(n))):.1f}" for n in sorted(volumes)]


def _crossings(meet: BreakEven) -> list[int]:
    """Where the expected lines cross: the own one goes below."""
    spans = meet.expected.spans if meet.expected else ()
    return [span.first for span in spans if span.first > 1]


def _dots(frame: Frame, costs: ServingCosts, ways: list[Way]) -> Iterator[str]:
    titles = {way.title: way for way in ways}
    for meet in costs.break_even:
        way = titles[meet.own]
        assert way.curves is not None
        title = f"<title>{escape(meet.text)}</title>"
        for volume in (n for n in _crossings(meet) if n <= 10**frame.right):
            x, y = frame.x(volume), frame.y(float(way.curves[1].at(volume)))
            yield f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'
