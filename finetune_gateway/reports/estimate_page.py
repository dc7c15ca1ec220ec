"""The page of ``ftg estimate --html``: the options in a table, their notes, and what serving the
result costs where that was asked for. One file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape

from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports import serving_page
from finetune_gateway.reports.estimate_figures import time_text
from finetune_gateway.reports.estimate_text import NumberedNotes, OptionCells, option_cells
from finetune_gateway.reports.layout import document

STYLE = """
:root { --wide: 76rem; --of: #2b5fa8; --warn: #8a5300 }
@media (prefers-color-scheme: dark) { :root { --of: #8ab4f0; --warn: #f0b660 } }
.options td, .options th { font-variant-numeric: tabular-nums; overflow-wrap: normal }
.options td:nth-child(3) { overflow-wrap: anywhere; min-width: 12.5rem }
.options td:nth-child(4) { min-width: 8.5rem }
.options td:nth-child(n + 8):nth-child(-n + 9) { white-space: nowrap }
.options b { font-size: 1.05rem } .options .soft { font-size: .85rem }
.options svg { height: .55rem; max-width: 9rem; margin: .25rem 0 } .bar { fill: var(--of);
  opacity: .35 } .tick { fill: var(--of) } .why { color: var(--bad) }
.warn, .warn a { color: var(--warn) } .marks a { margin-right: .35rem }
a { color: inherit } a:focus-visible { outline: 3px solid var(--of); outline-offset: 2px }
ol.notes { list-style: none; padding: 0; font-size: .93rem; margin: 0 }
ol.notes li { padding: .1rem 0 .1rem 2.2rem; text-indent: -2.2rem }
ol.notes li:target { background: var(--card); outline: 2px solid var(--of) }
ol.notes b { display: inline-block; width: 2.2rem; text-indent: 0; font-weight: 600 }
@media (max-width: 40rem) { .options td:nth-child(n) { display: grid; min-width: 0;
  grid-template-columns: 7.5rem 1fr; white-space: normal; align-items: baseline }
  .options td:nth-child(1) { display: none } .options td.why { display: block }
  .options td.why::before { display: none } }
"""
HEAD = (
    "#", "Backend", "Model", "Cost", "Time", "Memory", "Data leaves this machine",
    "New jobs until", "Retired on", "Notes",
)  # fmt: skip


def page(name: str, options: Sequence[Option], costs: ServingCosts | None) -> str:
    """The whole file."""
    notes = NumberedNotes(options)
    lines = option_cells(options, notes)
    top = max((o.estimate.cost_usd.high for o in options if o.estimate and o.estimate.cost_usd),
              default=Decimal(0))  # fmt: skip
    rows = [_row(line, option, notes, top) for line, option in zip(lines, options, strict=True)]
    title = f"What training on {name} takes"
    body = [
        f"<h1>{escape(title)}</h1>",
        '<p class="soft">Figures are estimates, made on this machine; nothing was sent. A cost is '
        "the expected one, with low to high below it.</p>",
        _table(rows),
        *_notes(notes),
    ]
    if costs is not None:
        body.append(serving_page.body(costs))
    return document(title, STYLE + serving_page.STYLE, "\n".join(body))


def _table(rows: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in HEAD)
    top = f"<thead><tr>{heads}</tr></thead>"
    return f'<table class="options stack">{top}<tbody>{"".join(rows)}</tbody></table>'


def _row(line: OptionCells, option: Option, notes: NumberedNotes, top: Decimal) -> str:
    named = [escape(line.cells[name]) for name in ("number", "backend", "model")]
    found = option.estimate
    if found is None:
        why = f'<td class="why" colspan="{len(HEAD) - 3}">not possible: {escape(line.refusal)}</td>'
        return f"<tr>{_cells(named)}{why}</tr>"
    figures = [
        _cost(found.cost_usd, line, top),
        escape(time_text(found)),
        *(escape(line.cells[name] or "-") for name in ("memory", "leaves", "until", "retired")),
        _marks(found, notes),
    ]
    return f"<tr>{_cells([*named, *figures])}</tr>"


def _cells(cells: Sequence[str]) -> str:
    """Each says its column, for narrow screens."""
    pairs = zip(HEAD, cells, strict=False)
    filled = (f'<td data-name="{escape(name)}"><div>{cell}</div></td>' for name, cell in pairs)
    return "".join(filled)


def _cost(cost: Range[Decimal] | None, line: OptionCells, top: Decimal) -> str:
    shown = f"<b>{escape(line.cells['cost'])}</b>"
    if cost is None or not top:
        return shown
    low, expected, high = (
        float(100 * amount / top) for amount in (cost.low, cost.expected, cost.high)
    )
    picture = (
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar" x="{low:.2f}" width="{max(0.8, high - low):.2f}" height="8"/>'
        f'<rect class="tick" x="{max(0.0, expected - 1):.2f}" width="2" height="8"/></svg>'
    )
    told = line.cells["range"]
    return f'{shown}{picture}<span class="soft">{escape(told)}</span>' if told else shown


def _marks(found: Estimate, notes: NumberedNotes) -> str:
    """Links to its notes, the warnings first."""
    groups = []
    for warnings, kind in ((True, "marks warn"), (False, "marks soft")):
        links = [f'<a href="#n{n}">{n}</a>' for n in notes.numbers_of(found, warnings=warnings)]
        if links:
            groups.append(f'<span class="{kind}">{" ".join(links)}</span>')
    return " ".join(groups)


def _notes(notes: NumberedNotes) -> list[str]:
    parts = []
    for title, style in (("Warnings", "notes warn"), ("What the figures rest on", "notes")):
        items = "".join(
            f'<li id="n{number}"><b>{number}</b>{escape(text if kind == "warning" else told)}</li>'
            for (kind, text), number in notes.numbers.items()
            if (kind == "warning") == (title == "Warnings")
            for told in (f"{kind}: {text}",)
        )
        if items:
            parts.append(f'<h2>{title}</h2><ol class="{style}">{items}</ol>')
    return parts
