"""Options side by side: one line each, two where the terminal is narrow and high enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import fit_text, new_jobs_until_text, usd_text
from finetune_gateway.reports.estimate_notes import Ranking
from finetune_gateway.reports.output import (
    apply_style,
    elide,
    terminal_width,
    wrap_text,
)

HEADS = {
    "number": "#",
    "backend": "BACKEND",
    "model": "MODEL",
    "cost": "COST",
    "range": "LOW TO HIGH",
    "time": "TIME",
    "until": "FITS, UNTIL",
}
LESS = ("time", "until", "range")  # columns that a narrow terminal leaves out, in this order
MODEL, LEAST = 18, 6  # columns of a model's name: enough, and at least
GAP = 2
OTHER = 8  # lines of the screen that are not of the table

Cells = dict[str, str]


def table_lines(ranking: Ranking, *, numbered: bool, height: int | None) -> Iterator[str]:
    """Yield the table. What it has no columns for goes on a second line of each option, unless the
    screen has fewer lines (``height``)."""
    rows = [_cells(number, one) for number, one in enumerate(ranking.possible, start=1)]
    heads = HEADS | {"until": _head_of_until(ranking.estimates)}
    left_out = () if numbered else ("number",)
    names = [name for name in HEADS if name not in left_out and any(row[name] for row in rows)]
    widths = _widths(names, [heads, *rows])
    below = [name for name in names if name not in widths]
    stacked = below and (height is None or 2 * len(rows) + OTHER <= height)
    yield apply_style(_line(heads, widths), "dim")
    for row in rows:
        yield _line(row, widths)
        if stacked and (rest := _rest(row, below)):
            yield elide(f"  {rest}", terminal_width())
    if below and not stacked:
        missing = ", ".join(heads[name].lower() for name in below)
        yield wrap_text(f"no room for {missing}: see --explain", "  ", "")


def _cells(number: int, option: Option) -> Cells:
    estimate = option.estimate
    assert estimate is not None  # for the type checker: it is possible
    cost = estimate.cost_usd
    names = {"number": f"{number}", "backend": option.backend, "model": option.model}
    return names | {
        "cost": usd_text(estimate, cost.expected) if cost else "not known",
        "range": _low_to_high(estimate),
        "time": rough_duration(estimate.seconds.expected) if estimate.seconds else "",
        "until": _short_until(estimate) if estimate.data_leaves_machine else fit_text(estimate),
    }


def _low_to_high(estimate: Estimate) -> str:
    """Return ``0.139 to 0.289``; empty if the price is certain, or not known."""
    cost = estimate.cost_usd
    if cost is None or cost.low == cost.high:
        return ""
    ends = usd_text(estimate, cost.low), usd_text(estimate, cost.high)
    return " to ".join(ends).replace("$", "")


def _short_until(estimate: Estimate) -> str:
    """Return ``2027-01-05``, ``2027-04-13+`` or ``closed``."""
    until = new_jobs_until_text(estimate)
    return "closed" if until.startswith("closed") else until.replace(" or later", "+")


def _head_of_until(estimates: Sequence[Estimate]) -> str:
    places = {estimate.data_leaves_machine for estimate in estimates}
    return "FITS, UNTIL" if len(places) > 1 else "UNTIL" if True in places else "FITS"


def rough_duration(seconds: float) -> str:
    """Return ``26 s``, ``41 min``, ``1.2 h`` or ``3.4 d``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


# -- what fits -----------------------------------------------------------------------------


def _widths(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Return the columns that fit with their widths. The model's name gives way first, then whole
    columns do."""
    widths = {name: max(len(row[name]) for row in rows) for name in names}
    room, model = terminal_width(), widths["model"]
    for name in LESS:
        if _total(widths | {"model": min(model, MODEL)}) <= room:
            break
        widths.pop(name, None)
    others = _total(widths | {"model": 0})
    return widths | {"model": max(LEAST, min(model, room - others))}


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _line(row: Mapping[str, str], widths: Mapping[str, int]) -> str:
    cells = (f"{elide(row[name], width):<{width}}" for name, width in widths.items())
    return (" " * GAP).join(cells).rstrip()


def _rest(row: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the cells that have no column: ``0.139 to 0.289, until 2027-01-05``."""
    texts = {name: row[name] for name in names if row[name]}
    if (until := texts.get("until", "")) and until[0].isdigit():
        texts["until"] = f"until {until}"
    return ", ".join(texts.values())
