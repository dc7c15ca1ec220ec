"""What ``ftg costs`` shows: estimated and actual cost of each job."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from finetune_gateway.jobs.charges import AT_MOST, DEPLOYMENT
from finetune_gateway.jobs.ledger import Ledger, Line, Totals
from finetune_gateway.reports.output import format_count, format_duration, wrap_text
from finetune_gateway.settings.money import format_usd


def ledger_document(ledger: Ledger) -> dict[str, Any]:
    """Return the ledger as JSON."""
    return ledger.model_dump(mode="json")


def ledger_text(ledger: Ledger) -> str:
    """Return every job and charge, then the totals."""
    return "\n".join([*map(_line_text, ledger.lines), "", totals_text(ledger.totals)])


def totals_text(totals: Totals) -> str:
    """Return the totals, one per line."""
    low, high = format_usd(totals.estimated_low_usd), format_usd(totals.estimated_high_usd)
    count = format_count(totals.jobs, "job")
    count += f", {format_count(totals.charges, 'charge')}" if totals.charges else ""
    lines = [
        f"{count}, {totals.open} not finished" if totals.open else count,
        f"estimated  {format_usd(totals.estimated_usd)} ({low} to {high})"
        + f", {totals.without_estimate} without a price" * bool(totals.without_estimate),
        f"actual     {'at most ' * totals.at_most}{format_usd(totals.actual_usd)}"
        + f", {totals.without_actual} not known" * bool(totals.without_actual),
        f"budget     {format_usd(totals.counted_usd)} counted"
        " (the actual cost, else the high estimate)",
    ]
    return "\n".join(wrap_text(line, " " * 11, "") for line in lines)


def _line_text(line: Line) -> str:
    """Return a job on three lines: what it is, its cost, and what the cost rests on."""
    indent = " " * 12
    head = f"{line.date}  {line.job_id}  {line.status:<9}  {line.backend} / {line.model}"
    actual = _usd(line.actual_usd) if line.status.final else "not yet known"
    actual = f"at most {actual}" if AT_MOST in line.basis else actual
    if line.kind == "charge" and not line.status.final:
        actual = f"not yet known, {format_usd(line.counted_usd)} reserved"
    costs = f"actual {actual}, estimated {_estimate(line)}"
    if line.job_id.startswith(DEPLOYMENT) and not line.status.final:  # its price is below
        costs = f"actual not yet known, {format_usd(line.counted_usd)} counted until now"
    took = f"; took {format_duration(line.seconds)}" if line.seconds else ""
    price = ""
    if line.actual_usd is None and line.price_usd is not None:
        price = f"; ${line.price_usd} {line.price_unit} of {line.price_as_of}, {line.price_source}"
    below = [wrap_text(text, indent) for text in (costs, f"{line.basis}{took}{price}")]
    return "\n".join([wrap_text(head, indent, ""), *below])


def _usd(amount: Decimal | None) -> str:
    return "not known" if amount is None else format_usd(amount)


def _estimate(line: Line) -> str:
    if line.estimated_low_usd == line.estimated_high_usd:
        return _usd(line.estimated_usd)
    low, high = format_usd(line.estimated_low_usd), format_usd(line.estimated_high_usd)
    return f"{_usd(line.estimated_usd)} ({low} to {high})"
