"""What ``ftg estimate`` prints: one option with all that is known of it, or several in one table
with numbered notes below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from textwrap import wrap
from typing import Any

from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports import output, placement
from finetune_gateway.reports.output import (
    apply_style,
    format_bytes,
    format_duration,
    format_usd,
    wrap_text,
)
from finetune_gateway.settings import clock

UNITS = {
    "train_mtok": "per million training tokens",
    "train_hour": "per hour of training",
    "gpu_hour": "per GPU hour",
    "hosting_hour": "per hour of hosting",
}
LABEL = 21  # columns of the names beside the figures of one option
LEAST = 7  # columns of a cell in the table
GAP = 2


# -- cells -------------------------------------------------------------------------------


def cost(estimate: Estimate) -> str:
    """``$5.74 ($3.83 to $7.65)``."""
    return _ranged(estimate.cost_usd, format_usd)


def time(estimate: Estimate) -> str:
    """``8 min 41 s (6 min 2 s to 15 min)``."""
    return _ranged(estimate.seconds, format_duration)


def memory(estimate: Estimate) -> str:
    """``3.1 GiB, fits``; nothing where a host takes care of it."""
    if estimate.memory_bytes is None:
        return "-" if estimate.data_leaves_machine else "not known"
    word = fits(estimate)
    return f"{format_bytes(estimate.memory_bytes.expected)}{', ' if word else ''}{word}"


def fits(estimate: Estimate) -> str:
    """``fits``: the high figure does; ``may not fit``: only the expected one; empty: not known."""
    need, have = estimate.memory_bytes, estimate.memory_available_bytes
    if need is not None and have is not None:
        tight = "may not fit" if need.expected <= have else "does not fit"
        return "fits" if need.high <= have else tight
    return "" if estimate.fits is None else "fits" if estimate.fits else "does not fit"


def _memory(found: Estimate) -> str:
    """``571.1 MiB (556.9 MiB to 713.9 MiB): fits in 23.5 GiB``."""
    if found.memory_bytes is None or not fits(found):
        return (
            memory(found)
            if found.memory_bytes is None
            else _ranged(found.memory_bytes, format_bytes)
        )
    have = found.memory_available_bytes
    into = f" in {format_bytes(have)}" if have else ""
    return f"{_ranged(found.memory_bytes, format_bytes)}: {fits(found)}{into}"


def jobs_until(estimate: Estimate, today: date | None = None) -> str:
    """The last day on which a job can be created, or since when none can; ``-``: nobody can
    close it."""
    life = estimate.life_cycle
    if life is None:
        return "-"
    if closed := life.closed_on(today or clock.today()):
        return f"closed {closed}"
    if life.new_jobs_until:
        return str(life.new_jobs_until)
    earliest = life.new_jobs_at_least_until
    return f"{earliest} or later" if earliest else "not known"


def retired_on(estimate: Estimate) -> str:
    """The day from which the fine-tune does not answer."""
    life = estimate.life_cycle
    if life is None:
        return "-"
    return str(life.retires_on) if life.retires_on else "not known"


def leaves(estimate: Estimate) -> str:
    return "yes" if estimate.data_leaves_machine else "no"


def tokens(estimate: Estimate) -> str:
    """``37,000 (2 epochs)``."""
    times = f"{estimate.n_epochs} epoch{'' if estimate.n_epochs == 1 else 's'}"
    counted = estimate.tokens.total * estimate.n_epochs if estimate.tokens else 0
    billed = estimate.billed_tokens
    return f"{billed.expected if billed else counted:,} ({times})"


def _ranged(found: Any, words: Callable[[Any], str]) -> str:
    if found is None:
        return "not known"
    if found.low == found.high:
        return words(found.expected)
    return f"{words(found.expected)} ({words(found.low)} to {words(found.high)})"


def _expected(found: Any, words: Callable[[Any], str]) -> str:
    return "not known" if found is None else words(found.expected)


def _span_of(found: Any, words: Callable[[Any], str]) -> str:
    if found is None or found.low == found.high:
        return ""
    return f"{words(found.low)} to {words(found.high)}"


# -- notes -------------------------------------------------------------------------------


def grounds(found: Estimate) -> Iterator[tuple[str, str]]:
    """What the figures rest on, each with its kind: warnings first."""
    yield from (("warning", text) for text in found.warnings)
    yield from (("price", f"{priced(price)} {price.note}".strip()) for price in found.prices)
    if (rule := found.n_epochs_rule) != "given":
        yield "epochs", f"{found.n_epochs}, {rule}"
    if found.life_cycle is not None and found.life_cycle.known:
        yield "dates", _looked_up(found.life_cycle)
    yield from (("assumed", text) for text in found.assumptions)
    yield from (("not known", text) for text in found.unknown)


def priced(price: Price) -> str:
    """``$5.00 per million training tokens, as of 2026-10-05, https://...``."""
    of = f" ({price.backend}, {price.market})" if price.market else ""
    unit = UNITS.get(price.unit, price.unit)
    return f"${price.usd} {unit}{of}, {price.dated}, {price.source}"


def _looked_up(life: LifeCycle) -> str:
    return f"as of {life.as_of}, {life.source}"


def dates(found: Estimate) -> str:
    """``New jobs until 2027-01-05; retired on 2027-01-14 (as of 2026-11-21, https://...)``;
    empty where no date is known."""
    life = found.life_cycle
    if life is None or not life.known:
        return ""
    told = f"New jobs until {jobs_until(found)}; retired on {retired_on(found)}"
    return f"{told} ({_looked_up(life)})"


def details(found: Estimate) -> Iterator[tuple[str, str]]:
    """The figures that have no column in the table, each with its kind."""
    yield "tokens", f"{tokens(found)} to train"
    if found.host:
        yield "sent", f"to {found.host}"
    if found.memory_bytes is not None:
        on = f" of {found.gpu}" if found.gpu else " of this machine"
        yield "memory", f"{_memory(found)}{on if found.memory_available_bytes else ''}"
    for name, text in placement.rows(found):
        yield f"memory {name.strip()}" if name.strip() == "by part" else name.strip(), text


def _said(found: Estimate) -> list[tuple[str, str]]:
    return [*details(found), *grounds(found)]


class Notes:
    """Everything said of any option, once, with a number."""

    def __init__(self, options: Sequence[Option]) -> None:
        said = [one for o in options if o.estimate for one in _said(o.estimate)]
        ordered = sorted(dict.fromkeys(said), key=lambda one: one[0] != "warning")
        self.numbers = {one: number for number, one in enumerate(ordered, start=1)}

    def listed(self, found: Estimate, *, warnings: bool) -> list[int]:
        """The numbers of its warnings, or of its other notes."""
        told = {one for one in _said(found) if (one[0] == "warning") is warnings}
        return sorted(self.numbers[one] for one in told)


def _runs(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


# -- one option --------------------------------------------------------------------------


def one(found: Estimate, backend: str) -> str:
    """All that is known of one option."""
    to = f", to {found.host}" if found.host else ""
    rows = [
        ("cost", cost(found)),
        ("tokens to train", tokens(found)),
        ("time", time(found)),
        ("memory", _memory(found)),
        *placement.rows(found),
        ("data leaves machine", f"{leaves(found)}{to}"),
        ("takes jobs until", jobs_until(found)),
        ("retired on", retired_on(found)),
    ]
    lines = [apply_style(f"{backend} / {found.model}", "bold")]
    lines += [wrap_text(f"{name:<{LABEL}}{text}", " " * LABEL, "") for name, text in rows if text]
    lines.append("")
    lines += [_note(kind, text, "  ") for kind, text in grounds(found)]
    return "\n".join(lines)


def _note(kind: str, text: str, mark: str) -> str:
    style = "warning" if kind == "warning" else "dim"
    filled = wrap_text(f"{kind}: {text}", " " * max(4, len(mark)), mark)
    return filled.replace(f"{kind}:", f"{apply_style(kind, style)}:", 1)


# -- several -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One option of the table: its cells by name, or why there are none."""

    cells: dict[str, str]
    refusal: str = ""


HEADS = {
    "number": "#",
    "backend": "BACKEND",
    "model": "MODEL",
    "cost": "COST",
    "range": "LOW TO HIGH",
    "time": "TIME",
    "memory": "MEMORY",
    "leaves": "LEAVES?",
    "until": "NEW JOBS UNTIL",
    "retired": "RETIRED ON",
    "warnings": "WARNINGS",
    "notes": "NOTES",
    "": "",
}
ENOUGH = {"backend": 9, "model": 23, "until": 14, "warnings": 8, "notes": 12}  # columns
Layout = tuple[tuple[str, ...], ...]  # the columns, each with what stands in it line by line

# The widest that fits is taken; an option is one line, two, or three.
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


def lines_of(options: Sequence[Option], notes: Notes) -> list[Line]:
    """The options as cells."""
    found = []
    for number, option in enumerate(options, start=1):
        named = {"number": f"{number}", "backend": option.backend, "model": option.model}
        if option.estimate is None:
            found.append(Line(named, _refusal(option.error)))
            continue
        told = option.estimate
        found.append(
            Line(
                named
                | {
                    "cost": _expected(told.cost_usd, format_usd),
                    "range": _span_of(told.cost_usd, format_usd),
                    "time": _expected(told.seconds, format_duration),
                    "memory": "" if told.data_leaves_machine else memory(told),
                    "leaves": leaves(told),
                    "until": jobs_until(told),
                    "retired": retired_on(told),
                    "warnings": _runs(notes.listed(told, warnings=True)),
                    "notes": _runs(notes.listed(told, warnings=False)),
                }
            )
        )
    return found


def _refusal(error: GatewayError | None) -> str:
    """Why there are no figures, and what to do about it."""
    return f"{error.message} {error.hint}".strip() if error else ""


def several(options: Sequence[Option]) -> str:
    """One table, and below it all that the figures rest on."""
    notes = Notes(options)
    lines = lines_of(options, notes)
    heads = Line(HEADS)
    room = output.terminal_width()
    fitting = (layout for layout in LAYOUTS if _fits(layout, [heads, *lines], room))
    layout = next(fitting, LAYOUTS[-1])
    widths = _widths(layout, [heads, *lines], room)
    gap = [""] if max(map(len, layout)) > 1 else []
    shown = [apply_style(row, "dim") for row in _drawn(heads, layout, widths, room)]
    for line in lines:
        shown += [*gap, *_drawn(line, layout, widths, room)]
    shown.append("")
    wide = len(str(len(notes.numbers)))
    shown += [_note(*said, f"{number:>{wide + 2}}  ") for said, number in notes.numbers.items()]
    return "\n".join(shown).rstrip()


def _fits(layout: Layout, lines: Sequence[Line], room: int) -> bool:
    """Whether it does when the longest cells go on below."""
    least = sum(min(_column(column, lines), _enough(column)) for column in layout)
    return least + GAP * (len(layout) - 1) <= room


def _column(names: Sequence[str], lines: Sequence[Line]) -> int:
    return max(len(line.cells.get(name, "")) for name in names for line in lines)


def _enough(names: Sequence[str]) -> int:
    return ENOUGH.get(names[0], 16)


def _widths(layout: Layout, lines: Sequence[Line], room: int) -> list[int]:
    """As wide as the cells, or less where they are wider than enough, then in the widest; the
    first keeps its width."""
    widths = [_column(column, lines) for column in layout]
    enough = [_enough(column) for column in layout]
    while sum(widths) + GAP * (len(widths) - 1) > room:
        places = range(1, len(widths))
        place = max(places, key=lambda at: (max(0, widths[at] - enough[at]), widths[at]))
        if widths[place] <= LEAST:
            break
        widths[place] -= 1
    return widths


def _drawn(line: Line, layout: Layout, widths: Sequence[int], room: int) -> Iterator[str]:
    """An option's lines: cells that are too long go on below."""
    if line.refusal:
        yield from _refused(line, layout, widths, room)
        return
    for place in range(max(map(len, layout))):
        names = [column[place] if place < len(column) else "" for column in layout]
        cells = [
            wrap(line.cells.get(name, ""), width, break_on_hyphens=False) or [""]
            for name, width in zip(names, widths, strict=True)
        ]
        for deep in range(max(map(len, cells))):
            texts = [cell[deep] if deep < len(cell) else "" for cell in cells]
            row = (f"{text:<{width}}" for text, width in zip(texts, widths, strict=True))
            if "".join(texts):
                yield (" " * GAP).join(row).rstrip()


def _refused(line: Line, layout: Layout, widths: Sequence[int], room: int) -> Iterator[str]:
    """Its name in its columns, and why in all those behind, or below where they are narrow."""
    begin = sum(widths[:3]) + GAP * 3
    first = list(
        _drawn(Line(line.cells), (*layout[:1], ("backend",), ("model",)), widths[:3], room)
    )
    if room - begin < 40:
        begin = widths[0] + GAP
        yield from first
        first = []
    said = wrap(f"cannot: {line.refusal}", room - begin, break_on_hyphens=False)
    for place in range(max(len(first), len(said))):
        name = first[place] if place < len(first) else ""
        text = said[place] if place < len(said) else ""
        yield f"{name:<{begin}}{text}".rstrip()
