"""What ``ftg estimate --monthly-requests`` prints about serving the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from finetune_gateway.estimation.break_even import BreakEven
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.serving import KINDS, ServingCosts, ServingOption, Traffic
from finetune_gateway.reports.output import (
    apply_style,
    format_count,
    format_usd,
    terminal_width,
    wrap_text,
)

FIRST = 3  # break-even points in the answer


def serving_text(costs: ServingCosts, *, explain: bool = False) -> str:
    """Return a table of costs and the first break-even points; with ``explain`` all of them, and
    what the figures rest on."""
    lines = [apply_style(wrap_text(traffic_text(costs.traffic)), "bold")]
    ways = [way for way in costs.ways if explain or way.monthly_usd]
    prices = [per_thousand_text(way, costs.traffic) for way in ways]
    last = max(13, 2 + max(map(len, prices), default=0))
    edge = terminal_width() - last
    lines.append(f"{'per month':>{edge}}{'per 1,000':>{last}}")
    for place, group in group_by_place(ways).items():
        lines.append(place)
        for way in group:
            lines += _row(way, edge, f"{per_thousand_text(way, costs.traffic):>{last}}")
    points = [point for point in costs.break_even if explain or point.expected]
    shown = points if explain else points[:FIRST]
    lines += [wrap_text(point.text if explain else point.answer, "  ", "") for point in shown]
    rest = _ground_lines(costs) if explain else _left_out_lines(costs, ways, shown)
    return "\n".join([*lines, *rest])


def _left_out_lines(
    costs: ServingCosts, ways: Sequence[ServingOption], points: Sequence[BreakEven]
) -> Iterator[str]:
    """Yield what ``--explain`` also prints, in one line."""
    left = [
        format_count(len(costs.break_even) - len(points), "more break-even"),
        format_count(len(costs.ways) - len(ways), "way") + " without a price",
    ]
    if more := ", ".join(text for text in left if not text.startswith("0 ")):
        yield wrap_text(f"{more}: --explain", "  ", "")


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


def amount_text(amount: Range[Decimal] | None) -> str:
    """Return ``$5.74`` or ``$5.74 ($3.83 to $7.65)``."""
    if amount is None:
        return "not known"
    low, expected, high = map(format_usd, (amount.low, amount.expected, amount.high))
    return expected if low == high else f"{expected} ({low} to {high})"


def per_thousand_text(way: ServingOption, traffic: Traffic) -> str:
    """Return the price of 1,000 requests."""
    if way.monthly_usd is None:
        return "-"
    return format_usd(way.monthly_usd.expected * 1000 / traffic.requests)


def _row(way: ServingOption, edge: int, last: str) -> list[str]:
    """Return a way of serving: its name, its cost per month, and the ``last`` column.

    In a narrow terminal the range, then the cost too, goes on a line of its own.
    """
    name, cost = f"  {way_name(way)}", amount_text(way.monthly_usd)
    expected, _, span = cost.partition(" (")
    room = edge - len(name)
    if len(cost) + 2 <= room:
        return [f"{name}{cost:>{room}}{last}"]
    below = [f"{f'({span}':>{edge}}"] if span else []
    if len(expected) + 2 <= room:
        return [f"{name}{expected:>{room}}{last}", *below]
    return [name, f"{expected:>{edge}}{last}", *below]


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
