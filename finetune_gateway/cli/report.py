"""``ftg report``: what jobs were said to cost, and what they did cost."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.ledger import Ledger, Line, Totals
from finetune_gateway.reports import output
from finetune_gateway.reports.output import (
    format_duration,
    format_usd,
    print_message,
    print_result,
    wrap_text,
)

FORMATS = ("table", "csv", "json")


def report(
    what: Annotated[str, typer.Argument(metavar="costs", show_default=False)],
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="The first day (of this month).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="The last day, included (today).")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="table, csv or json.")
    ] = "table",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The ledger: one line a job, by the day it was submitted (UTC), with its estimate, its actual
    cost, and the price row with source and date that both rest on. From the store alone: no
    network, no key. A price that changes later changes nothing here.

    What is not known is left open, never guessed. Jobs are shown as they were last seen; look
    at hosted ones with: ftg list --refresh

    Examples:
      ftg report costs
      ftg report costs --since 2026-10-01 --format csv > costs.csv
      ftg report costs --since 2026-01-01 --json | jq .totals
    """
    if what != "costs":
        raise SpecError(f"There is no 'report {what}'.", hint="Run: ftg report costs")
    if form not in FORMATS:
        raise SpecError(f"There is no format {form!r}.", hint=f"Use one of: {', '.join(FORMATS)}.")
    first = _day("since", since) or datetime.now(UTC).date().replace(day=1)
    ledger = Gateway().costs(first, _day("until", until))
    if json or form == "json":
        output.print_json(ledger.model_dump(mode="json"))
    elif form == "csv":
        sys.stdout.write(ledger.to_csv())
        print_message(_sums(ledger.totals), quiet=quiet)
    else:
        _table(ledger, quiet)


def _day(name: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise SpecError(f"--{name} {text!r} is no day.", hint="Like 2026-11-21.") from None


def _table(ledger: Ledger, quiet: bool) -> None:
    if not ledger.jobs:
        print_message(f"No jobs since {ledger.since}.")
        return
    print_result("\n".join(_job(line) for line in ledger.jobs))
    print_result()
    print_result(_sums(ledger.totals))
    print_message("For a spreadsheet: --format csv", quiet=quiet)


def _job(line: Line) -> str:
    """A job on three lines: what it was, its cost, and what that rests on."""
    indent = " " * 12
    head = f"{line.date}  {line.job_id}  {line.status:<9}  {line.backend} / {line.model}"
    actual = _money(line.actual_usd) if line.status.final else "not yet known"
    costs = f"actual {actual}, estimated {_range(line)}"
    took = f"; took {format_duration(line.seconds)}" if line.seconds else ""
    price = ""
    if line.actual_usd is None and line.price_usd is not None:
        price = f"; ${line.price_usd} {line.price_unit} of {line.price_as_of}, {line.price_source}"
    rest = wrap_text(f"{line.basis}{took}{price}", indent)
    return "\n".join([head, f"{indent}{costs}", rest])


def _money(amount: object) -> str:
    return "not known" if amount is None else format_usd(amount)


def _range(line: Line) -> str:
    if line.estimated_low_usd == line.estimated_high_usd:
        return _money(line.estimated_usd)
    low, high = format_usd(line.estimated_low_usd), format_usd(line.estimated_high_usd)
    return f"{_money(line.estimated_usd)} ({low} to {high})"


def _sums(totals: Totals) -> str:
    open_, unknown = totals.open, totals.without_actual
    low, high = format_usd(totals.estimated_low_usd), format_usd(totals.estimated_high_usd)
    lines = [
        f"{totals.jobs} job{'' if totals.jobs == 1 else 's'}{f', {open_} going on' * bool(open_)}",
        f"estimated  {format_usd(totals.estimated_usd)} ({low} to {high})"
        + f", {totals.without_estimate} without a price" * bool(totals.without_estimate),
        f"actual     {format_usd(totals.actual_usd)}" + f", {unknown} not known" * bool(unknown),
        f"budget     {format_usd(totals.counted_usd)} counted: actual, else the high estimate",
    ]
    return "\n".join(lines)
