"""What ``ftg estimate`` prints: one option in full, or a table with numbered notes below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import (
    cost_text,
    details,
    grounds,
    leaves_machine_text,
    local_figures,
    memory_range_text,
    memory_text,
    new_jobs_until_text,
    retires_on_text,
    time_text,
    tokens_text,
)
from finetune_gateway.reports.output import (
    apply_style,
    format_duration,
    format_usd,
    terminal_width,
    wrap_text,
)

LABEL = 21  # columns of the names beside the figures of one option
LEAST = 7  # columns of a cell in the table
GAP = 2


# -- one option --------------------------------------------------------------------------


def option_text(estimate: Estimate, backend: str) -> str:
    """Return all that is known of one option."""
    to = f", to {estimate.host}" if estimate.host else ""
    rows = [
        ("cost", cost_text(estimate)),
        ("tokens to train", tokens_text(estimate)),
        ("time", time_text(estimate)),
        ("memory", memory_range_text(estimate)),
        *local_figures(estimate),
        ("data leaves machine", f"{leaves_machine_text(estimate)}{to}"),
        ("new jobs until", new_jobs_until_text(estimate)),
        ("retired on", retires_on_text(estimate)),
    ]
    lines = [apply_style(f"{backend} / {estimate.model}", "bold")]
    lines += [wrap_text(f"{name:<{LABEL}}{text}", " " * LABEL, "") for name, text in rows if text]
    lines.append("")
    lines += [_note(kind, text, "  ") for kind, text in grounds(estimate)]
    return "\n".join(lines)


def _note(kind: str, text: str, mark: str) -> str:
    style = "warning" if kind == "warning" else "dim"
    filled = wrap_text(f"{kind}: {text}", " " * max(4, len(mark)), mark)
    return filled.replace(f"{kind}:", f"{apply_style(kind, style)}:", 1)


# -- several options: their cells and notes ------------------------------------------------


class NumberedNotes:
    """Every note on any of the options, listed once, with a number; warnings first."""

    def __init__(self, options: Sequence[Option]) -> None:
        notes = [note for o in options if o.estimate for note in _notes(o.estimate)]
        ordered = sorted(dict.fromkeys(notes), key=lambda note: note[0] != "warning")
        self.numbers = {note: number for number, note in enumerate(ordered, start=1)}

    def numbers_of(self, estimate: Estimate, *, warnings: bool) -> list[int]:
        """Return the numbers of an option's warnings, or of its other notes."""
        notes = {note for note in _notes(estimate) if (note[0] == "warning") is warnings}
        return sorted(self.numbers[note] for note in notes)


def _notes(estimate: Estimate) -> list[tuple[str, str]]:
    return [*details(estimate), *grounds(estimate)]


@dataclass(frozen=True)
class OptionCells:
    """One option of the table: its cells by name, or why it has no figures."""

    cells: dict[str, str]
    refusal: str = ""


def option_cells(options: Sequence[Option], notes: NumberedNotes) -> list[OptionCells]:
    """Return the cells of each option."""
    return [_cells(number, option, notes) for number, option in enumerate(options, start=1)]


def _cells(number: int, option: Option, notes: NumberedNotes) -> OptionCells:
    names = {"number": f"{number}", "backend": option.backend, "model": option.model}
    estimate = option.estimate
    if estimate is None:
        return OptionCells(names, _refusal(option.error))
    figures = {
        "cost": _expected_usd(estimate.cost_usd),
        "range": _low_to_high(estimate.cost_usd),
        "time": format_duration(estimate.seconds.expected) if estimate.seconds else "not known",
        "memory": "" if estimate.data_leaves_machine else memory_text(estimate),
        "leaves": leaves_machine_text(estimate),
        "until": new_jobs_until_text(estimate),
        "retired": retires_on_text(estimate),
        "warnings": _join_runs(notes.numbers_of(estimate, warnings=True)),
        "notes": _join_runs(notes.numbers_of(estimate, warnings=False)),
    }
    return OptionCells(names | figures)


def _refusal(error: GatewayError | None) -> str:
    """Return why there are no figures, and what to do about it."""
    return f"{error.message} {error.hint}".strip() if error else ""


def _expected_usd(cost: Any) -> str:
    return "not known" if cost is None else format_usd(cost.expected)


def _low_to_high(cost: Any) -> str:
    if cost is None or cost.low == cost.high:
        return ""
    return f"{format_usd(cost.low)} to {format_usd(cost.high)}"


def _join_runs(numbers: Sequence[int]) -> str:
    """Return ``1-3 7`` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


# -- several options: the table ------------------------------------------------------------

HEADS = {
    "number": "#",
    "backend": "BACKEND",
    "model": "MODEL",
    "cost": "COST",
    "range": "LOW TO HIGH",
    "time": "TIME",
    "memory": "MEMORY",
    "leaves": "DATA SENT",
    "until": "NEW JOBS UNTIL",
    "retired": "RETIRED ON",
    "warnings": "WARNINGS",
    "notes": "NOTES",
    "": "",
}
ENOUGH = {"backend": 9, "model": 23, "until": 14, "warnings": 8, "notes": 12}  # columns
Layout = tuple[tuple[str, ...], ...]  # the columns, each with its cells from top to bottom

# The first that fits is used: an option takes one line, two, or three.
LAYOUTS: tuple[Layout, ...] = (
    tuple((name,) for name in HEADS if name),
    (
        ("number",),
        ("backend", "leaves"),
        ("model",),
        ("cost", "range"),
        ("time", "memory"),
        ("until", "retired"),
        ("warnings", "notes"),
    ),
    (
        ("number",),
        ("backend", "leaves"),
        ("model", "time", "memory"),
        ("cost", "range"),
        ("until", "retired"),
        ("warnings", "notes"),
    ),
    (
        ("number",),
        ("backend", "leaves", "warnings", "notes"),
        ("model", "time", "memory"),
        ("cost", "range", "until", "retired"),
    ),
)


def options_text(options: Sequence[Option]) -> str:
    """Return a table of the options, and below it the numbered notes."""
    notes = NumberedNotes(options)
    rows = option_cells(options, notes)
    heads = OptionCells(HEADS)
    room = terminal_width()
    fitting = (layout for layout in LAYOUTS if _fits(layout, [heads, *rows], room))
    layout = next(fitting, LAYOUTS[-1])
    widths = _column_widths(layout, [heads, *rows], room)
    gap = [""] if max(map(len, layout)) > 1 else []
    lines = [apply_style(line, "dim") for line in _row_lines(heads, layout, widths, room)]
    for row in rows:
        lines += [*gap, *_row_lines(row, layout, widths, room)]
    lines.append("")
    digits = len(str(len(notes.numbers)))
    lines += [_note(*note, f"{number:>{digits + 2}}  ") for note, number in notes.numbers.items()]
    return "\n".join(lines).rstrip()


def _fits(layout: Layout, rows: Sequence[OptionCells], room: int) -> bool:
    """Return True if the table fits once long cells wrap."""
    least = sum(min(_column_width(column, rows), _enough(column)) for column in layout)
    return least + GAP * (len(layout) - 1) <= room


def _column_width(names: Sequence[str], rows: Sequence[OptionCells]) -> int:
    return max(len(row.cells.get(name, "")) for name in names for row in rows)


def _enough(names: Sequence[str]) -> int:
    return ENOUGH.get(names[0], 16)


def _column_widths(layout: Layout, rows: Sequence[OptionCells], room: int) -> list[int]:
    """Return column widths that fit: the widest columns shrink first, the first one never."""
    widths = [_column_width(column, rows) for column in layout]
    enough = [_enough(column) for column in layout]
    while sum(widths) + GAP * (len(widths) - 1) > room:
        widest = max(
            range(1, len(widths)),
            key=lambda at: (max(0, widths[at] - enough[at]), widths[at]),
        )
        if widths[widest] <= LEAST:
            break
        widths[widest] -= 1
    return widths


def _row_lines(row: OptionCells, layout: Layout, widths: Sequence[int], room: int) -> Iterator[str]:
    """Yield the lines of an option; long cells wrap."""
    if row.refusal:
        yield from _refusal_lines(row, layout, widths, room)
        return
    for level in range(max(map(len, layout))):
        names = [column[level] if level < len(column) else "" for column in layout]
        cells = [
            wrap(row.cells.get(name, ""), width, break_on_hyphens=False) or [""]
            for name, width in zip(names, widths, strict=True)
        ]
        for at in range(max(map(len, cells))):
            texts = [cell[at] if at < len(cell) else "" for cell in cells]
            padded = (f"{text:<{width}}" for text, width in zip(texts, widths, strict=True))
            if "".join(texts):
                yield (" " * GAP).join(padded).rstrip()


def _refusal_lines(
    row: OptionCells, layout: Layout, widths: Sequence[int], room: int
) -> Iterator[str]:
    """Yield the name of an option without figures, and the reason beside or below it."""
    begin = sum(widths[:3]) + GAP * 3
    named = OptionCells(row.cells)
    first = list(_row_lines(named, (*layout[:1], ("backend",), ("model",)), widths[:3], room))
    if room - begin < 40:
        begin = widths[0] + GAP
        yield from first
        first = []
    reason = wrap(f"not possible: {row.refusal}", room - begin, break_on_hyphens=False)
    for at in range(max(len(first), len(reason))):
        name = first[at] if at < len(first) else ""
        text = reason[at] if at < len(reason) else ""
        yield f"{name:<{begin}}{text}".rstrip()
