"""The page of ``ftg estimate --html``: the options in a table, their notes, and what serving the
result costs where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.charts import Picture, range_bar
from finetune_gateway.reports.estimate_figures import time_text
from finetune_gateway.reports.estimate_text import NumberedNotes, OptionCells, option_cells
from finetune_gateway.reports.layout import render
from finetune_gateway.reports.serving_page import ServingView, serving_view

NAMES = ("#", "Backend", "Model")
FIGURES = (
    "Cost", "Time", "Memory", "Data leaves this machine", "New jobs until", "Retired on", "Notes",
)  # fmt: skip


@dataclass(frozen=True)
class OptionRow:
    """One option of the table: its figures, or why there are none."""

    names: list[tuple[str, str]]  # column and text
    refusal: str = ""
    cost: str = ""
    cost_range: str = ""
    cost_bar: Picture | None = None
    figures: list[tuple[str, str]] = field(default_factory=list)  # from the time on
    warnings: list[int] = field(default_factory=list)  # numbers of its notes
    notes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class EstimatePage:
    """What the page shows."""

    title: str
    head: tuple[str, ...]
    rows: list[OptionRow]
    warnings: list[tuple[int, str]]
    notes: list[tuple[int, str]]
    serving: ServingView | None


def page(name: str, options: Sequence[Option], costs: ServingCosts | None) -> str:
    """Return the whole page."""
    notes = NumberedNotes(options)
    estimates = [option.estimate for option in options if option.estimate]
    highest = [float(one.cost_usd.high) for one in estimates if one.cost_usd]
    lines = zip(option_cells(options, notes), options, strict=True)
    numbered = [(number, *note) for note, number in notes.numbers.items()]
    view = EstimatePage(
        title=f"Estimates for training on {name}",
        head=NAMES + FIGURES,
        rows=[_row(line, option, notes, max(highest, default=0.0)) for line, option in lines],
        warnings=[(number, text) for number, kind, text in numbered if kind == "warning"],
        notes=[(number, f"{kind}: {text}") for number, kind, text in numbered if kind != "warning"],
        serving=serving_view(costs) if costs else None,
    )
    return render("estimate.html", view)


def _row(line: OptionCells, option: Option, notes: NumberedNotes, top: float) -> OptionRow:
    """Return the row of an option; ``top``: the highest cost of all, in USD."""
    names = [*zip(NAMES, (line.cells[key] for key in ("number", "backend", "model")), strict=True)]
    estimate = option.estimate
    if estimate is None:
        return OptionRow(names, refusal=line.refusal)
    texts = [line.cells[key] or "-" for key in ("memory", "leaves", "until", "retired")]
    return OptionRow(
        names,
        cost=line.cells["cost"],
        cost_range=line.cells["range"],
        cost_bar=_bar(estimate.cost_usd, top),
        figures=[*zip(FIGURES[1:-1], [time_text(estimate), *texts], strict=True)],
        warnings=notes.numbers_of(estimate, warnings=True),
        notes=notes.numbers_of(estimate, warnings=False),
    )


def _bar(cost: Range[Decimal] | None, top: float) -> Picture | None:
    if cost is None or not top:
        return None
    return range_bar(float(cost.low), float(cost.expected), float(cost.high), top)
