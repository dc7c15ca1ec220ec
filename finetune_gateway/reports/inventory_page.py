"""The page of ``ftg migrate list --html``: the fine-tunes of a host, first lost first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from importlib import metadata

from finetune_gateway.migration.inventory import FineTune, Inventory
from finetune_gateway.reports import inventory_view as view
from finetune_gateway.reports.html_text import Piece, short_text
from finetune_gateway.reports.layout import render
from finetune_gateway.reports.output import format_count, format_timestamp
from finetune_gateway.settings.money import format_usd

HEAD = ("model", "stops", "state", "job", "files", "trained with", "tokens and cost")
STATES = ("state", "job", "files")  # the columns in which something can be missing


@dataclass(frozen=True)
class FineTuneView:
    """A line of the table; each cell is a list of texts, one below the other, each with True if it
    says that something is missing."""

    urgency: str
    cells: list[list[tuple[list[Piece], bool]]]


@dataclass(frozen=True)
class InventoryPage:
    """Everything the page shows."""

    title: str
    tiles: list[tuple[str, str]]
    shortfalls: list[list[Piece]]
    head: tuple[str, ...]
    rows: list[FineTuneView]
    facts: list[tuple[str, str]]


def page(inventory: Inventory) -> str:
    """Return the whole page."""
    written = f"{format_timestamp(inventory.as_of)}, finetune-gateway "
    view_of_it = InventoryPage(
        title=view.headline(inventory),
        tiles=[*_tiles(inventory)],
        shortfalls=[short_text(text) for text in view.shortfalls(inventory)],
        head=HEAD,
        rows=[_row(one, inventory) for one in inventory.fine_tunes],
        facts=[
            ("this page", written + metadata.version("finetune-gateway")),
            ("asked", format_count(inventory.requests, "request")),
            *(("dates", text) for text in _sources(inventory)),
        ],
    )
    return render("inventory.html", view_of_it)


def _tiles(inventory: Inventory) -> Iterator[tuple[str, str]]:
    found = inventory.fine_tunes
    yield f"{len(found):,}", "fine-tunes"
    coming = [one.days_left for one in found if one.days_left is not None and one.days_left > 0]
    if coming:
        soonest = min(coming)
        yield format_count(soonest, "day"), f"until the first {coming.count(soonest):,} stop"
    there = sum(one.model_state == "there" for one in found)
    yield f"{there:,}", "models are there"
    files = sum(
        one.training_file is not None and one.training_file.state == "there" for one in found
    )
    yield f"{files:,}", "training files are there"
    costs = [one.cost for one in found if one.cost]
    if costs:
        total = format_usd(sum((cost.usd for cost in costs), Decimal(0)))
        unknown = len(found) - len(costs)
        left_out = f", {unknown:,} not known" if unknown else ""
        yield f"about {total}", f"training of {len(costs):,}{left_out}"


def _row(one: FineTune, inventory: Inventory) -> FineTuneView:
    day = one.shutdown_date
    left = "" if one.days_left is None else f"{one.days_left:,} days left"
    cells = [
        [one.name, *([] if one.base_model is None else [f"from {one.base_model}"])],
        [str(day) if day else view.UNKNOWN, left, _whose(one)],
        view.model_parts(one),
        [*view.job_parts(one), view.seen_by(one, inventory.keys)],
        view.files(one),
        view.training_parts(one),
        [view.tokens_text(one), view.cost_text(one), view.billed_text(one)],
    ]
    urgency = "lost" if one.days_left is not None and one.days_left <= 0 else "open"
    return FineTuneView(
        urgency,
        [
            [(short_text(text), name in STATES and _is_missing(text)) for text in cell if text]
            for name, cell in zip(HEAD, cells, strict=True)
        ],
    )


def _is_missing(text: str) -> bool:
    """Return True for what is not there, or not shown to these keys."""
    words = re.findall(r"\w+", text.partition("(")[0])  # without the name of a file
    return bool({"gone", "refused", "deleted", "hidden", "visible", "retired"} & {*words})


def _whose(one: FineTune) -> str:
    return {"model": "its own date", "base": "date of its base"}.get(one.shutdown_from or "", "")


def _sources(inventory: Inventory) -> list[str]:
    sources = (view.stops_by(one) for one in inventory.fine_tunes)
    return [text for text in dict.fromkeys(sources) if text]
