"""Shows what models are to be asked, and asks for a yes where that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import typer

from finetune_gateway.cli.options import CONFIRM_PRICE, require_yes
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
    print_warning,
)


@dataclass
class Confirmation:
    """How a command asks: its options. ``asked``: the plan was shown."""

    yes: bool
    dry_run: bool
    json: bool
    quiet: bool
    asked: bool = False

    def confirm(
        self,
        text: str,
        document: Callable[[], Any],
        *,
        costs: bool,
        notes: Iterable[str] = (),
        result: str = "",
    ) -> bool:
        """Show a plan, and return True to go on. ``document``, ``result``: what a dry run prints
        with --json, and with --quiet. Raises BudgetError without a yes, Exit after a dry run."""
        self.asked = True
        asks = costs and not (self.yes or self.dry_run)
        quiet = self.quiet and not asks
        print_message(text, quiet=quiet)
        for note in notes:
            print_warning(note, quiet=quiet)
        if self.dry_run:
            self._end_dry_run(document, result)
        if asks:
            require_yes("Proceed?", "Nothing was sent", of="the price ", hint=CONFIRM_PRICE)
        return True

    def _end_dry_run(self, document: Callable[[], Any], result: str) -> NoReturn:
        if self.json:
            print_json(document())
        elif self.quiet and result:
            print_result(result)
        print_message("Dry run: nothing was stored or sent.", quiet=self.quiet)
        raise typer.Exit(0)


def capped_budget(gateway: Gateway) -> Budget | None:
    """Return the budget of the month; None where it has no cap."""
    return gateway.budget() if gateway.monthly_usd is not None else None
