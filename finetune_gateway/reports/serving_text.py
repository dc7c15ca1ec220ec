"""What ``ftg estimate --monthly-requests`` says of serving the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.serving import (
    KINDS,
    USUAL_GPU,
    ServingCosts,
    Traffic,
    Way,
    check_counts,
    check_gpu,
    serving_costs,
)
from finetune_gateway.methods import METHODS
from finetune_gateway.reports import output
from finetune_gateway.reports.output import apply_style, format_usd, wrap_text


@dataclass(frozen=True)
class Asked:
    """What was asked of serving on the command line."""

    requests: int | None
    tokens_in: int | None
    tokens_out: int | None
    gpu: str | None
    usd_per_hour: Decimal | None
    tokens_per_second: Decimal | None

    def check(self) -> None:
        """Raise SpecError for an option that would do nothing, or makes no sense."""
        if self.requests is None and (names := [*self._given()]):
            raise SpecError(
                f"{names[0]} is about serving, which was not asked for.",
                hint="Add --monthly-requests N.",
            )
        check_gpu(self.usd_per_hour, self.tokens_per_second)
        check_counts(self.requests or 1, self.tokens_in, self.tokens_out)

    def _given(self) -> Iterator[str]:
        names = ("tokens_in", "tokens_out", "gpu", "usd_per_hour", "tokens_per_second")
        for name in names:
            if getattr(self, name) is not None:
                prefix = "serve-" if name in ("gpu", "usd_per_hour", "tokens_per_second") else ""
                yield f"--{prefix}{name.replace('_', '-')}"

    def costs(self, options: Sequence[Estimate], prices: Path) -> ServingCosts | None:
        """None when serving was not asked for, or nothing can be trained to be served."""
        first = next((one for one in options if one.tokens), None)
        if self.requests is None or first is None or first.tokens is None:
            return None
        traffic = Traffic.like(
            first.tokens,
            self.requests,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            answers=METHODS[first.method].sequences,
        )
        hosted = [(one.backend, one.model) for one in options if one.data_leaves_machine]
        return serving_costs(
            traffic,
            list(dict.fromkeys(hosted)),
            gpu=self.gpu or USUAL_GPU,
            usd_per_hour=self.usd_per_hour,
            tokens_per_second=self.tokens_per_second,
            extra=prices,
        )


def screen(costs: ServingCosts) -> str:
    """The table, where the lines meet, and what the figures rest on."""
    lines = [apply_style(wrap_text(headline(costs.traffic)), "bold")]
    last = max(13, 2 + max((len(each(way, costs.traffic)) for way in costs.ways), default=0))
    edge = output.terminal_width() - last
    lines.append(f"{'a month':>{edge}}{'for 1,000':>{last}}")
    for place, ways in grouped(costs.ways).items():
        lines.append(place)
        for way in ways:
            lines += _row(way, edge, f"{each(way, costs.traffic):>{last}}")
    lines += [wrap_text(meet.text, "  ", "") for meet in costs.break_even]
    return "\n".join([*lines, *_grounds(costs)])


def headline(traffic: Traffic) -> str:
    """``Serving 100,000 requests a month, 412 tokens in and 96 out each (...)``."""
    each = f"{traffic.tokens_in:,} tokens in and {traffic.tokens_out:,} out each"
    return f"Serving {traffic.requests:,} requests a month, {each} ({traffic.lengths})"


def grouped(ways: Sequence[Way]) -> dict[str, list[Way]]:
    """The ways by place, in their order."""
    found: dict[str, list[Way]] = {}
    for way in ways:
        found.setdefault(f"{way.where} {way.model}", []).append(way)
    return found


def named(way: Way) -> str:
    """What kind of way, with the GPUs it takes."""
    more = f", {way.machines} GPU{'' if way.machines == 1 else 's'}" if way.machines else ""
    return f"{KINDS[way.kind]}{more}"


def amount(found: Range[Decimal] | None, share: Decimal = Decimal(1)) -> str:
    """``$5.74`` or ``$5.74 ($3.83 to $7.65)``."""
    if found is None:
        return "not known"
    low, expected, high = (
        format_usd(value * share) for value in (found.low, found.expected, found.high)
    )
    return expected if low == high else f"{expected} ({low} to {high})"


def each(way: Way, traffic: Traffic) -> str:
    """USD for 1,000 requests."""
    if way.monthly_usd is None:
        return "-"
    return format_usd(way.monthly_usd.expected * 1000 / traffic.requests)


def _row(way: Way, edge: int, last: str) -> list[str]:
    """What, the cost of a month, and the ``last`` column; the range, and in a narrow terminal the
    cost, has a line of its own where one is too short."""
    name, cost = f"  {named(way)}", amount(way.monthly_usd)
    expected, _, span = cost.partition(" (")
    room = edge - len(name)
    if len(cost) + 2 <= room:
        return [f"{name}{cost:>{room}}{last}"]
    below = [f"{f'({span}':>{edge}}"] if span else []
    if len(expected) + 2 <= room:
        return [f"{name}{expected:>{room}}{last}", *below]
    return [name, f"{expected:>{edge}}{last}", *below]


def _grounds(costs: ServingCosts) -> Iterator[str]:
    yield from (wrap_text(text, "    ", "  ") for text in sources(costs))
    for kind, texts in grounds(costs):
        style = "warning" if kind == "warning" else "dim"
        for text in texts:
            yield wrap_text(f"{kind}: {text}", "    ", "  ").replace(
                f"{kind}:", f"{apply_style(kind, style)}:", 1
            )


def sources(costs: ServingCosts) -> list[str]:
    """The rows used, by source, day and note."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in dict.fromkeys(row for way in costs.ways for row in way.prices):
        what = " ".join(filter(None, (row.backend, row.model, row.unit, row.market)))
        said = (f"{row.dated}, {row.source}", row.note)
        found.setdefault(said, []).append(f"{what} ${row.usd:f}")
    return [
        f"prices {source}: {'; '.join(rows)}" + (f". {note}" if note else "")
        for (source, note), rows in found.items()
    ]


def grounds(costs: ServingCosts) -> list[tuple[str, list[str]]]:
    """Warnings, assumptions and what is not known, each once."""
    return [
        ("warning", costs.warnings),
        ("assumed", list(dict.fromkeys(x for way in costs.ways for x in way.assumptions))),
        ("not known", list(dict.fromkeys(x for way in costs.ways for x in way.unknown))),
    ]
