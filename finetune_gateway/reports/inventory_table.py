"""The fine-tunes of a host as a table: one line each, two where the terminal is narrow.

What is gone, hidden, refused or not known is a word here, never a blank or a zero.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal

from finetune_gateway.migration.inventory import FineTune, Inventory, RemoteFile
from finetune_gateway.migration.names import last_part, short_name
from finetune_gateway.reports import inventory_view as view
from finetune_gateway.reports.output import (
    apply_style,
    elide,
    terminal_width,
    wrap_text,
)
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

SHORTEST_NAME = 24  # columns; with less, each fine-tune has two lines
GAP = "  "
UNSEEN = "unseen"
WIDEST = 16  # columns of a cell; files that need more are counted
CENT = Decimal("0.01")
METHODS = {"reinforcement": "rft"}  # OpenAI's own abbreviation
LEGEND = {
    UNSEEN: "unseen: deleted, or hidden from these keys; the host says the same of both.",
    "~": "~: an estimate, the trained tokens times the price of the base.",
}


def table_text(inventory: Inventory) -> str:
    """Return the fine-tunes by the day on which they stop, as a table."""
    lines = [wrap_text(f"{view.headline(inventory)}."), *view.shortfall_lines(inventory)]
    found = inventory.fine_tunes
    head, facts = _facts(inventory)
    names, wide = _names(found, _width([head, *facts]))
    rows = dict(zip(map(id, found), zip(names, facts, strict=True), strict=True))
    for title, group in view.groups(inventory):
        lines += ["", apply_style(wrap_text(title), "bold")]
        if wide:
            lines += _aligned(
                [("fine-tune", head), *(rows[id(one)] for one in group)], names, facts
            )
            continue
        for one in group:
            name, cells = rows[id(one)]
            lines += [name, wrap_text(_sentence(one, head, cells), GAP)]
    return "\n".join([*lines, *_legend(found, facts, names)])


def _facts(inventory: Inventory) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns after the first, and the cells of each fine-tune."""
    found = inventory.fine_tunes
    used = any(one.last_used or one.unused_since for one in found)
    billed = any(one.billed for one in found)
    head = ["method", "made", *(["used"] if used else []), "state", "files"]
    head += [*(["billed"] if billed else []), "cost"]
    return head, [
        [
            _cell(METHODS.get(one.method or "", one.method or "unknown")),
            _short(view.made(one)),
            *([_last_use(one)] if used else []),
            _state(one),
            _files(one),
            *([_billed(one)] if billed else []),
            _cost(one),
        ]
        for one in found
    ]


def _cell(text: str) -> str:
    """Return what a host says, as it fits."""
    return elide(visible(text), WIDEST)


def _short(text: str) -> str:
    return "unknown" if text == view.UNKNOWN else text


def _last_use(one: FineTune) -> str:
    return str(one.last_used) if one.last_used else "none seen" if one.unused_since else "unknown"


def _state(one: FineTune) -> str:
    """Return the state of the model; of a job without one, its own."""
    if one.model is None:
        return _cell(one.raw_status or "unknown")
    return UNSEEN if one.model_state == "not_visible" else one.model_state


def _files(one: FineTune) -> str:
    """Return ``there`` for all, or what is not: ``train+valid gone``."""
    if one.job_id is None:
        return "unknown"
    named = [("train", one.training_file), ("valid", one.validation_file)]
    named += [("result", file) for file in one.result_files]
    by_state: dict[str, list[str]] = {}
    for name, file in named:
        if file is not None and name not in (kept := by_state.setdefault(_file(file), [])):
            kept.append(name)
    if len(by_state) <= 1:
        return next(iter(by_state), "none")
    there = by_state.pop("there", [])
    text = ", ".join(f"{'+'.join(kept)} {state}" for state, kept in by_state.items())
    if len(text) <= WIDEST:
        return text
    return f"{len(there)} of {len(there) + sum(map(len, by_state.values()))} there"


def _file(file: RemoteFile) -> str:
    return UNSEEN if file.state == "not_visible" else file.state


def _cost(one: FineTune) -> str:
    if one.cost is None:
        return "unknown"
    cents = _cents(one.cost.usd)
    return cents if cents.startswith("<") else f"~{cents}"


def _billed(one: FineTune) -> str:
    return "none seen" if one.billed is None else _cents(one.billed.usd)


def _cents(usd: Decimal) -> str:
    return "<$0.01" if 0 < usd < CENT else format_usd(round(usd, 2))


# -- layout ------------------------------------------------------------------------------------


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Return the columns that all cells but the names need."""
    return sum(max(map(len, column)) + len(GAP) for column in zip(*rows, strict=True))


def _names(found: Sequence[FineTune], needed: int) -> tuple[list[str], bool]:
    """Return the names as they fit, and True if the facts fit beside them. Without a terminal, as
    they are."""
    names = [visible(one.name) for one in found]
    room = terminal_width() - needed
    longest = max(map(len, names), default=0)
    if not sys.stdout.isatty() or longest <= room:
        return names, True
    if room < SHORTEST_NAME:
        return names, False
    return [elide(short_name(name), room) for name in names], True


def _aligned(
    rows: Sequence[tuple[str, list[str]]], names: Sequence[str], facts: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Yield the lines of a table whose columns are as wide as they are for all fine-tunes."""
    first = max(map(len, ["fine-tune", *names]))
    widths = [max(map(len, column)) for column in zip(rows[0][1], *facts, strict=True)]
    for number, (name, cells) in enumerate(rows):
        *inner, cost = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        line = GAP.join([f"{name:<{first}}", *inner, f"{cost.strip():>{widths[-1]}}"])
        yield line if number else apply_style(line, "dim")


def _sentence(one: FineTune, head: Sequence[str], cells: Sequence[str]) -> str:
    """Return the facts for a line of their own: ``sft, made 2026-11-02, files there, ~$3.20``."""
    alone = ("method", "cost")
    words = {"state": "model" if one.model else "job"}
    return ", ".join(
        cell if name in alone and cell != "unknown" else f"{words.get(name, name)} {cell}"
        for name, cell in zip(head, cells, strict=True)
    )


def _legend(
    found: Sequence[FineTune], facts: Sequence[Sequence[str]], names: Sequence[str]
) -> Iterator[str]:
    """Yield what the words of the table mean, and how to see more."""
    if not found:
        return
    shown = " ".join(cell for cells in facts for cell in cells)
    yield ""
    for sign, text in LEGEND.items():
        if sign in shown:
            yield wrap_text(text, "    ", "")
    last = visible(last_part(found[0].name))
    cut = any(name != visible(one.name) for one, name in zip(found, names, strict=True))
    whole = " Whole ids: --quiet, or a wider terminal." if cut else ""
    yield wrap_text(f"All that is known of one: ftg migrate list {last}; of all: --explain.{whole}")
