"""``ftg costs``."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.charges import DEPLOYMENT
from finetune_gateway.reports.ledger_text import ledger_document, ledger_text, totals_text
from finetune_gateway.reports.output import print_json, print_message, print_result, print_warning

FORMATS = ("table", "csv", "json")


def costs(
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="First day (default: of this month).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last day, included (default: today).")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="table, csv or json.")
    ] = "table",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the cost of each job: the day it was submitted (UTC), its estimate, its actual cost,
    and the price both are based on, with source and date. So it does for what is paid without a
    job: recordings, comparisons, checks and deployments. Read from the store: no network, no key.
    Later price changes do not alter it.

    A cost that is not known is shown as not known, never guessed. Jobs are shown as last seen;
    to update hosted ones, run: ftg list --refresh

    Examples:
      ftg costs
      ftg costs --since 2026-10-01 --format csv > costs.csv
      ftg costs --since 2026-01-01 --json | jq .totals
    """
    if form not in FORMATS:
        raise SpecError(f"There is no format {form!r}.", hint=f"Use one of: {', '.join(FORMATS)}.")
    first = _parse_day("since", since) or datetime.now(UTC).date().replace(day=1)
    gateway = Gateway()
    ledger = gateway.costs(first, _parse_day("until", until))
    for error in gateway.store.damaged.values():
        print_warning(f"Not in these sums: {error}", quiet=quiet)
    if json or form == "json":
        print_json(ledger_document(ledger))
    elif form == "csv":
        sys.stdout.write(ledger.to_csv())
        print_message(totals_text(ledger.totals), quiet=quiet)
    elif ledger.lines:
        print_result(ledger_text(ledger))
        print_message("For a spreadsheet: --format csv", quiet=quiet)
        going_on = {line.job_id for line in ledger.charges if not line.status.final}
        # The line of a deployment says how it is ended.
        for name in sorted(name for name in going_on if not name.startswith(DEPLOYMENT)):
            print_message(
                f"While {name} goes on, or to settle it if it was killed: ftg settle {name}",
                quiet=quiet,
            )
    else:
        print_message(f"No jobs since {ledger.since}.", quiet=quiet)


def _parse_day(name: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise SpecError(f"--{name} {text!r} is not a date.", hint="Like 2026-11-21.") from None
