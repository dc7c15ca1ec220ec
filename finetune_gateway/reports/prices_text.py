"""The price table: rows by host and unit, one row in full, and what is old or wrong in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.estimation import price_table
from finetune_gateway.estimation.price_table import UNITS, Issue, Price
from finetune_gateway.reports.output import apply_style, format_count, format_table, wrap_text

if TYPE_CHECKING:
    from finetune_gateway.price_updates.azure_retail import RetailPrice

TOKEN_COLUMNS = {
    "TRAIN": "train_mtok",
    "IN": "in_mtok",
    "CACHED": "cached_in_mtok",
    "OUT": "out_mtok",
}
BATCH = ("batch_in_mtok", "batch_cached_in_mtok", "batch_out_mtok")
TOKENS = (*TOKEN_COLUMNS.values(), *BATCH)
HOURS = {"train_hour": "training", "hosting_hour": "hosting"}
OWN_ROW = "your own row (ftg prices path)"


# -- JSON ----------------------------------------------------------------------------------


def price_document(row: Price, own_keys: Collection[Any], own: Path, today: date) -> dict[str, Any]:
    """Return a row as JSON, with where it comes from and when its model closed."""
    origin = str(own) if row.key in own_keys else "package"
    if row.source.startswith("genai-prices "):
        origin = "genai-prices"
    closed = price_table.shut_down_on(row, today)
    return {**row.model_dump(mode="json"), "origin": origin, "closed_on": closed}


def issues_document(issues: Sequence[Issue]) -> dict[str, Any]:
    """Return the findings of ``ftg prices check`` as JSON."""
    broken = any(issue.severity == "error" for issue in issues)
    return {"ok": not broken, "findings": [asdict(issue) for issue in issues]}


# -- tables --------------------------------------------------------------------------------


def prices_text(rows: Sequence[Price], own_keys: Collection[Any]) -> str:
    """Return a table per host for tokens, and one for hours, for GPUs, for units of plug-ins."""
    tokens = [row for row in rows if row.unit in TOKENS]
    hours = [row for row in rows if row.unit in HOURS]
    gpus = [row for row in rows if row.unit == "gpu_hour"]
    others = [row for row in rows if row.unit not in UNITS]
    parts = [
        _token_table(name, [row for row in tokens if row.backend == name], own_keys)
        for name in dict.fromkeys(row.backend for row in tokens)
    ]
    parts += [_hour_table(hours, own_keys)] if hours else []
    parts += [_gpu_table(gpus, own_keys)] if gpus else []
    parts += [_other_table(others, own_keys)] if others else []
    parts += [f"* {OWN_ROW}"] if any(row.key in own_keys for row in rows) else []
    return "\n\n".join(parts)


def _token_table(backend: str, rows: Sequence[Price], own_keys: Collection[Any]) -> str:
    models: dict[str, dict[str, Price]] = {}
    for row in rows:
        name = f"{row.model} ({row.tier})" if row.tier else row.model
        models.setdefault(name, {})[row.unit] = row
    lines = []
    for model, units in models.items():
        cells = [_cell(units.get(unit), own_keys) for unit in TOKEN_COLUMNS.values()]
        batch = " / ".join(_cell(units.get(unit), own_keys) for unit in BATCH)
        lines.append((model, *cells, "" if batch == "- / - / -" else batch))
    head = ("MODEL", *TOKEN_COLUMNS, "BATCH IN / CACHED / OUT")
    if not any(line[-1] for line in lines):
        head, lines = head[:-1], [line[:-1] for line in lines]
    title = f"{apply_style(backend, 'bold')}: USD per million tokens; ft: is a fine-tuned model"
    return "\n".join([title, format_table(head, lines, " ".join(TOKEN_COLUMNS)), *_sources(rows)])


def _hour_table(rows: Sequence[Price], own_keys: Collection[Any]) -> str:
    lines = [
        (f"{row.backend} {row.model}", HOURS[row.unit], _cell(row, own_keys), _day(row))
        for row in rows
    ]
    table = format_table(("WHERE", "WHAT", "USD", "AS OF"), lines, "USD")
    return "\n".join([apply_style("USD per hour", "bold"), table, *_sources(rows)])


def _gpu_table(rows: Sequence[Price], own_keys: Collection[Any]) -> str:
    lines = [
        (row.model, row.backend, row.market or "-", _cell(row, own_keys), _day(row))
        for row in sorted(rows, key=lambda row: (row.model, row.usd))
    ]
    table = format_table(("GPU", "VENDOR", "MARKET", "USD", "AS OF"), lines, "USD")
    return "\n".join([apply_style("USD per GPU hour", "bold"), table, *_sources(rows)])


def _other_table(rows: Sequence[Price], own_keys: Collection[Any]) -> str:
    lines = [(row.backend, row.model, row.unit, _cell(row, own_keys), _day(row)) for row in rows]
    table = format_table(("WHERE", "WHAT", "UNIT", "USD", "AS OF"), lines, "USD")
    return "\n".join([apply_style("USD per unit of a plug-in", "bold"), table, *_sources(rows)])


def _cell(row: Price | None, own_keys: Collection[Any]) -> str:
    return "-" if row is None else f"{row.usd}{'*' if row.key in own_keys else ''}"


def _sources(rows: Sequence[Price]) -> list[str]:
    sources = {(_day(row), row.source) for row in rows}
    return [f"  {day}  {source}" for day, source in sorted(sources)]


def _day(row: Price) -> str:
    return str(row.as_of or row.dated)


# -- single rows ---------------------------------------------------------------------------


def price_rows_text(rows: Sequence[Price], own_keys: Collection[Any] = ()) -> str:
    """Return each row with its source and note."""
    lines = []
    places = {unit: at for at, unit in enumerate(UNITS)}  # units of plug-ins come last
    unit = {row.unit: (places.get(row.unit, len(places)), row.unit) for row in rows}
    for row in sorted(rows, key=lambda row: (row.backend, row.model, unit[row.unit], row.usd)):
        name = " ".join(filter(None, (row.backend, row.model, row.unit, row.market, row.tier)))
        lines.append(f"{f'${row.usd}':>8}  {name}")
        about = [f"{_day(row)}, {row.source}", row.note, OWN_ROW if row.key in own_keys else ""]
        lines.append(wrap_text("; ".join(filter(None, about)), " " * 10))
    return "\n".join(lines)


def price_change_text(before: Decimal | None, row: Price) -> str:
    """Return an updated price beside the one before."""
    change = "" if before == row.usd else "  (new)" if before is None else f"  (before: ${before})"
    what = f"{row.model:<16}" if row.unit == "gpu_hour" else f"{_what(row)} "
    return f"{what}${row.usd}{change}"


def retail_price_text(price: RetailPrice) -> str:
    """Return a list price in its own currency."""
    return f"{_what(price)} {price.amount} {price.currency}"


def _what(row: Price | RetailPrice) -> str:
    """Return ``gpt-4.1-nano-2025-04-14 train_mtok (global)``."""
    return f"{row.model} {row.unit}{f' ({row.tier})' if row.tier else ''}"


def issues_text(issues: Sequence[Issue]) -> str:
    """Return what is old or wrong, then a verdict."""
    return "\n".join([*map(_issue_text, issues), _verdict(issues)])


def _issue_text(issue: Issue) -> str:
    style = "dim" if issue.severity == "note" else issue.severity
    text = wrap_text(f"{issue.severity}: {issue.where}: {issue.message}", "    ")
    return text.strip().replace(issue.severity, apply_style(issue.severity, style), 1)


def _verdict(issues: Sequence[Issue]) -> str:
    kinds = Counter(issue.severity for issue in issues)
    if kinds["error"]:
        return "Your price file cannot be used."
    if kinds["warning"]:
        warnings = format_count(kinds["warning"], "warning")
        return f"{warnings}. To add a newer price: ftg prices set --help"
    return "Nothing is old or wrong."
