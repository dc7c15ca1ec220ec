"""``ftg rm``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet, confirm, refresh_or_warn
from finetune_gateway.errors import BudgetError
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.reports.removal_text import (
    left_text,
    removed_document,
    removed_text,
    to_remove_text,
)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def rm(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB...", help="Id, its beginning, or 'latest'.", show_default=False
        ),
    ],
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove every text of jobs that have ended: copies of their data, the system prompt, answers,
    events, errors, metadata, names of files, and of a local job its run folder with checkpoints
    and model. The database is written anew, so that it keeps nothing of them either.

    What stays is the line of costs: id, dates, hashes, model, cost; budgets do not change. A copy
    that another job needs stays with it. What is at a host stays there: ftg prune --remote.
    A job that has not ended is refused. Without a terminal, --yes is required.

    Examples:
      ftg rm latest
      ftg rm ftg-7kq3 ftg-9xm2 --yes
    """
    gateway = Gateway()
    jobs = list({job.id: job for job in map(gateway.job, names)}.values())
    for job in jobs:
        if not (job.status.final or job.record.removed):
            refresh_or_warn(job, quiet=quiet)
    planned = gateway.removable(jobs)
    if not yes:
        print_message(to_remove_text(jobs, planned))
        what = "it" if len(jobs) == 1 else f"these {len(jobs)} jobs"
        require_yes(lambda: confirm(f"Remove {what} for good?"))
    removed = gateway.remove(jobs)
    if json:
        print_json(removed_document(removed))
        return
    for one in removed:
        print_result(removed_text(one))
    if text := left_text(removed):
        print_message(text, quiet=quiet)


def require_yes(ask: Callable[[], bool]) -> None:
    """Ask before anything is removed. Raises BudgetError without a yes."""
    if not sys.stdin.isatty():
        raise BudgetError(
            "Nothing was removed: there is no terminal to confirm at.", hint="Pass --yes."
        )
    if not ask():
        raise BudgetError("Nothing was removed: the answer was not yes.")
