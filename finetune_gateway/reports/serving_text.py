"""What ``ftg estimate --monthly-requests`` prints about serving the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from operator import itemgetter

from finetune_gateway.estimation.break_even import BreakEven
from finetune_gateway.estimation.serving import KINDS, ServingCosts, ServingOption
from finetune_gateway.estimation.throughput import two_digits
from finetune_gateway.estimation.traffic import Traffic
from finetune_gateway.reports.output import (
    apply_style,
    format_count,
    terminal_width,
    wrap_text,
)
from finetune_gateway.settings.money import format_usd

LEAST = 3  # ways of serving that are worth a break-even point below them


@dataclass(frozen=True)
class ServingAnswer:
    """The ways of serving that fit the screen, the cheapest first, and what did not fit."""

    lines: list[str]
    left_out: list[str]


def serving_answer(costs: ServingCosts, room: int) -> ServingAnswer:
    """Return as many ways of serving as fit this many lines, and from where on your own GPU is
    cheaper than a host."""
    priced = [way for way in costs.ways if way.monthly_usd]
    priced.sort(key=lambda way: way.monthly_usd.expected if way.monthly_usd else Decimal(0))
    columns = _Columns.of(priced, costs.traffic)
    head = _head_lines(costs.traffic, columns)
    unpriced = [way for way in costs.ways if not way.monthly_usd and way.where == "own"]
    reasons = dict.fromkeys(text for way in unpriced for text in way.unknown)
    own = [line for text in reasons for line in wrap_text(text, "  ", "").split("\n")]
    room -= len(head) + len(own)
    point, facts = _first_point(priced, costs.break_even), _own_facts(priced)
    if facts and len(_way_row(priced[0], columns)) + len(facts) > room:
        # A figure of your own GPU says nothing without what it is of.
        priced, point, facts = [way for way in priced if not way.serves], None, []
    rows = [_way_row(way, columns) for way in priced]
    below = wrap_text(point.answer, "  ", "").split("\n") if point else []
    room -= len(facts)
    if _fitting(rows, room - len(below)) < min(LEAST, len(rows)):
        point, below = None, []
    count = max(1, _fitting(rows, room - len(below)))
    shown = [line for row in rows[:count] for line in row]
    facts = facts if point or any(way.serves for way in priced[:count]) else []
    left = [
        format_count(len(costs.ways) - len(unpriced) - len(rows[:count]), "more way") + " to serve",
        format_count(len(costs.break_even) - bool(point), "more break-even"),
    ]
    return ServingAnswer(
        [*head, *shown, *own, *facts, *below], [text for text in left if not text.startswith("0 ")]
    )


def _way_row(way: ServingOption, columns: _Columns) -> list[str]:
    return _row(f"{way.where} {way.model}".strip() + f", {way_name(way)}", way, columns)


def _first_point(
    cheapest_first: Sequence[ServingOption], points: Sequence[BreakEven]
) -> BreakEven | None:
    """Return from where on your own GPU is cheaper than the cheapest host that it can be cheaper
    than."""
    found = [
        (point.expected.first, point)
        for way in cheapest_first
        for point in points
        if point.expected and point.hosted == way.title
    ]
    cheapest = [one for one in found if one[1].hosted == found[0][1].hosted]
    return min(cheapest, key=itemgetter(0))[1] if cheapest else None


def _own_facts(ways: Sequence[ServingOption]) -> list[str]:
    """Return what the figures of your own GPU are of; they have two digits, and a wide range."""
    own = next((way for way in ways if way.serves), None)
    return wrap_text(f"own {own.model}: {own.serves}.", "  ", "").split("\n") if own else []


def _fitting(rows: Sequence[list[str]], room: int) -> int:
    """Return how many of these rows fit this many lines."""
    return sum(used <= room for used in accumulate(map(len, rows)))


def serving_text(costs: ServingCosts) -> str:
    """Return a table of all ways of serving, all break-even points, and what the figures rest
    on."""
    columns = _Columns.of(costs.ways, costs.traffic)
    lines = [apply_style(wrap_text(traffic_text(costs.traffic)), "bold"), columns.head()]
    for place, group in group_by_place(costs.ways).items():
        lines.append(place)
        for way in group:
            lines += _row(f"  {way_name(way)}", way, columns)
    lines += [wrap_text(point.text, "  ", "") for point in costs.break_even]
    return "\n".join([*lines, *_ground_lines(costs)])


@dataclass(frozen=True)
class _Columns:
    """Where the cost of a month ends, and how wide the price of 1,000 requests is."""

    traffic: Traffic
    edge: int
    last: int

    @classmethod
    def of(cls, ways: Sequence[ServingOption], traffic: Traffic) -> _Columns:
        """Return the columns for these ways at the width of the terminal."""
        prices = [len(per_thousand_text(way, traffic)) for way in ways]
        last = max(13, 2 + max(prices, default=0))
        return cls(traffic, terminal_width() - last, last)

    def head(self, name: str = "") -> str:
        """Return the heads of the columns, beside a name for the first."""
        return f"{name}{'per month':>{self.edge - len(name)}}{'per 1,000':>{self.last}}"


def _head_lines(traffic: Traffic, columns: _Columns) -> list[str]:
    """Return what the table is about: beside the heads of its columns, or above them."""
    tokens = f"{traffic.tokens_in:,} tokens in, {traffic.tokens_out:,} out"
    name = f"Serving {traffic.requests:,} requests a month, {tokens}"
    beside = len(name) + 2 + len("per month") <= columns.edge
    named = [columns.head(name)] if beside else [*wrap_text(name).split("\n"), columns.head()]
    return [apply_style(line, "bold") for line in named]


def traffic_text(traffic: Traffic) -> str:
    """Return ``Serving 100,000 requests a month, 412 tokens in and 96 out each (...)``."""
    tokens = f"{traffic.tokens_in:,} tokens in and {traffic.tokens_out:,} out each"
    return f"Serving {traffic.requests:,} requests a month, {tokens} ({traffic.lengths})"


def group_by_place(ways: Sequence[ServingOption]) -> dict[str, list[ServingOption]]:
    """Return the ways of serving by host and model, in their order."""
    groups: dict[str, list[ServingOption]] = {}
    for way in ways:
        groups.setdefault(f"{way.where} {way.model}", []).append(way)
    return groups


def way_name(way: ServingOption) -> str:
    """Return the kind of a way of serving, with the GPUs it needs."""
    gpus = f", {format_count(way.machines, 'GPU')}" if way.machines else ""
    return f"{KINDS[way.kind]}{gpus}"


def amount_text(way: ServingOption) -> str:
    """Return ``$5.74``, or with two digits ``$150 ($37 to $1,300)`` of a GPU of your own, whose
    speed is a range."""
    amount = way.monthly_usd
    if amount is None:
        return "not known"
    show = format_usd if amount.low == amount.high else _two_digits
    low, expected, high = map(show, (amount.low, amount.expected, amount.high))
    return expected if low == high else f"{expected} ({low} to {high})"


def per_thousand_text(way: ServingOption, traffic: Traffic) -> str:
    """Return the price of 1,000 requests."""
    if way.monthly_usd is None:
        return "-"
    each = way.monthly_usd.expected * 1000 / traffic.requests
    return format_usd(each) if way.monthly_usd.low == way.monthly_usd.high else _two_digits(each)


def _two_digits(usd: Decimal) -> str:
    rounded = two_digits(float(usd))
    return f"${rounded:,f}" if rounded >= 10 else format_usd(rounded)


def _row(name: str, way: ServingOption, columns: _Columns) -> list[str]:
    """Return a way of serving: its name, its cost per month, and per 1,000 requests.

    In a narrow terminal the range, then the cost too, goes on a line of its own.
    """
    cost, edge = amount_text(way), columns.edge
    last = f"{per_thousand_text(way, columns.traffic):>{columns.last}}"
    expected, _, span = cost.partition(" (")
    room = edge - len(name)
    if len(cost) + 2 <= room:
        return [f"{name}{cost:>{room}}{last}"]
    below = [f"{f'({span}':>{edge}}"] if span else []
    if len(expected) + 2 <= room:
        return [f"{name}{expected:>{room}}{last}", *below]
    return [*wrap_text(name, "    ", "").split("\n"), f"{expected:>{edge}}{last}", *below]


def _ground_lines(costs: ServingCosts) -> Iterator[str]:
    yield from (wrap_text(text, "    ", "  ") for text in price_sources(costs))
    for kind, texts in serving_grounds(costs):
        style = "warning" if kind == "warning" else "dim"
        for text in texts:
            line = wrap_text(f"{kind}: {text}", "    ", "  ")
            yield line.replace(f"{kind}:", f"{apply_style(kind, style)}:", 1)


def price_sources(costs: ServingCosts) -> list[str]:
    """Return the prices used, by source, date and note."""
    groups: dict[tuple[str, str], list[str]] = {}
    for price in dict.fromkeys(price for way in costs.ways for price in way.prices):
        name = " ".join(filter(None, (price.backend, price.model, price.unit, price.market)))
        source = (f"{price.dated}, {price.source}", price.note)
        groups.setdefault(source, []).append(f"{name} {format_usd(price.usd)}")
    return [
        f"prices {source}: {'; '.join(prices)}" + (f". {note}" if note else "")
        for (source, note), prices in groups.items()
    ]


def serving_grounds(costs: ServingCosts) -> list[tuple[str, list[str]]]:
    """Return the warnings, the assumptions and what is not known, each once."""
    return [
        ("warning", costs.warnings),
        ("assumed", list(dict.fromkeys(text for way in costs.ways for text in way.assumptions))),
        ("not known", list(dict.fromkeys(text for way in costs.ways for text in way.unknown))),
    ]
