"""The page of ``ftg estimate --html``: cost beside cost, then the other figures; what they rest on
is folded away. What serving the result costs follows where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.charts import Picture, range_bar
from finetune_gateway.reports.estimate_figures import (
    cost_text,
    data_text,
    memory_range_text,
    new_jobs_until_text,
    retires_on_text,
    rows_text,
    time_text,
    usd_text,
)
from finetune_gateway.reports.estimate_notes import (
    Ranking,
    join_runs,
    name_of,
    refusal,
    sections,
    shown_warnings,
)
from finetune_gateway.reports.layout import render
from finetune_gateway.reports.leaving import LINE, shows_the_end
from finetune_gateway.reports.serving_page import ServingView, serving_view
from finetune_gateway.settings.money import format_usd

FIGURES = ("#", "Option", "Time", "Memory", "Data", "New jobs until", "Retired on")


@dataclass(frozen=True)
class CostRow:
    """The cost of one option, drawn from low to high on the scale of all."""

    number: int
    backend: str
    model: str
    cost: str
    cost_range: str
    bar: Picture | None


@dataclass(frozen=True)
class EstimatePage:
    """What the page shows."""

    title: str
    answer: str
    scale: str  # of the bars; empty without any
    costs: list[CostRow]
    head: tuple[str, ...]
    figures: list[tuple[str, ...]]
    warnings: list[str]
    left_out: list[tuple[str, str]]  # names, and why
    sections: list[tuple[str, list[tuple[str, str]]]]  # numbers of options, and a note on them
    serving: ServingView | None

    @property
    def count(self) -> int:
        """How many notes are folded away."""
        return sum(len(notes) for _, notes in self.sections)

    @property
    def leaving(self) -> str:
        """Where to read on, if OpenAI's last days are shown."""
        return LINE if shows_the_end(str(self.figures)) else ""


def page(name: str, options: Sequence[Option], costs: ServingCosts | None) -> str:
    """Return the whole page."""
    ranking = Ranking.of(options)
    priced = [one.cost_usd for one in ranking.estimates if one.cost_usd]
    top = max((cost.high for cost in priced), default=None)
    numbered = [*enumerate(ranking.possible, start=1)]
    view = EstimatePage(
        title=f"Estimates for training on {name}",
        answer=_answer(ranking),
        scale=f"$0 to {format_usd(top)}" if top else "",
        costs=[_cost_row(number, one, float(top or 0)) for number, one in numbered],
        head=FIGURES,
        figures=[_figures(number, one) for number, one in numbered],
        warnings=[*shown_warnings(ranking)],
        left_out=[(name_of(one), refusal(one)) for one in ranking.left_out],
        sections=[
            (title, [(join_runs(numbers), text) for numbers, text in notes])
            for title, notes in sections(ranking).items()
        ],
        serving=serving_view(costs) if costs else None,
    )
    return render("estimate.html", view)


def _answer(ranking: Ranking) -> str:
    """Return ``Cheapest: openai / gpt-4.1-mini-2025-04-14, $0.208 ($0.139 to $0.289).``"""
    if not ranking.possible:
        return "None of these options is possible."
    if ranking.estimates[0].cost_usd is None:
        return "No price is known."
    name, cost = name_of(ranking.possible[0]), cost_text(ranking.estimates[0])
    rows = rows_text(ranking.estimates[0])
    more = f" Rows: {rows}." if rows else ""
    return f"{'Cheapest: ' if len(ranking.possible) > 1 else ''}{name}, {cost}.{more}"


def _cost_row(number: int, option: Option, top: float) -> CostRow:
    """Return the row of an option; ``top``: the highest cost of all, in USD."""
    estimate = _estimate(option)
    cost = estimate.cost_usd
    if cost is None:
        return CostRow(number, option.backend, option.model, "not known", "", None)
    low, expected, high = float(cost.low), float(cost.expected), float(cost.high)
    return CostRow(
        number,
        option.backend,
        option.model,
        usd_text(estimate, cost.expected),
        "" if low == high else f"{usd_text(estimate, cost.low)} to {usd_text(estimate, cost.high)}",
        range_bar(low, expected, high, top) if top else None,
    )


def _figures(number: int, option: Option) -> tuple[str, ...]:
    estimate = _estimate(option)
    return (
        f"{number}",
        name_of(option),
        time_text(estimate),
        memory_range_text(estimate),
        data_text(estimate),
        new_jobs_until_text(estimate),
        retires_on_text(estimate),
    )


def _estimate(option: Option) -> Estimate:
    assert option.estimate is not None  # for the type checker: it is possible
    return option.estimate
