"""``ftg rm`` and ``ftg prune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet, confirm, refresh_or_warn
from finetune_gateway.errors import BudgetError, NotFoundError, SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import compared
from finetune_gateway.jobs.compared import ANSWERS, COMPARISON
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.pruning import Item, Pruned
from finetune_gateway.jobs.recordings import PREFIX
from finetune_gateway.jobs.removal import forget, forgettable
from finetune_gateway.reports.output import (
    format_count,
    print_json,
    print_message,
    print_result,
)
from finetune_gateway.reports.removal_text import (
    forgotten_text,
    item_text,
    items_text,
    left_text,
    not_pruned_text,
    pruned_document,
    pruned_text,
    removed_document,
    removed_text,
    to_clear_text,
    to_forget_text,
    to_remove_text,
    to_unrecord_text,
)
from finetune_gateway.settings.sizes import bytes_of

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def rm(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB...",
            help="Id, its beginning, or 'latest'; a model or job of a host; recorded:NAME; cmp-ID.",
            show_default=False,
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

    The id of a model or of a job at a host (ft:..., ftjob-..., at Azure BASE.ft-...) removes what
    was fetched of it ('ftg migrate fetch') and added ('ftg models add'), and a job of yours with
    that id. After the host's last day it may be in no other place. So it is with recorded:NAME
    ('ftg migrate record'), of which prompts, answers and errors go.

    cmp-ID removes a comparison; answers:MODEL what is kept of a model's answers, by its name or the
    beginning of its fingerprint. With a job go the comparisons of its model, and its answers.

    Examples:
      ftg rm latest
      ftg rm ftg-7kq3 ftg-9xm2 --yes
      ftg rm ft:gpt-4.1-mini-2025-04-14:acme::AbC1
      ftg rm recorded:support-2026-12-01
      ftg rm cmp-3f9a2c1d
      ftg rm cmp-latest
    """
    gateway = Gateway()
    recorded = [name for name in dict.fromkeys(names) if name.startswith(PREFIX)]
    cleared = [name for name in dict.fromkeys(names) if name.startswith((ANSWERS, COMPARISON))]
    names = [name for name in names if name not in (*recorded, *cleared)]
    folders = _folders(gateway, recorded)
    clearing = _compared(gateway, cleared)
    kept = {name: found for name in names if (found := forgettable(gateway.settings, name))}
    own = [job for name in names if (job := _own_job(gateway, name, fetched=name in kept))]
    jobs = list({job.id: job for job in own}.values())
    for job in jobs:
        if not (job.status.final or job.record.removed):
            refresh_or_warn(job, quiet=quiet)
    planned = gateway.removable(jobs)
    fetched = [one for found in kept.values() for one in found]
    if not yes:
        said = [to_remove_text(jobs, planned), to_forget_text(fetched), to_unrecord_text(folders)]
        said.append(to_clear_text(clearing))
        print_message("\n".join(filter(None, said)))
        count = len(jobs) + len(fetched) + len(folders) + len(clearing)
        what = "it" if count == 1 else f"these {count}"
        if not _confirmed(f"Remove {what} for good?"):
            raise BudgetError("Nothing was removed: the answer was not yes.")
    for name in kept:
        forget(gateway.settings, name)
    freed = _remove_recordings(gateway, recorded)
    gone = _remove_compared(gateway, clearing)
    removed = gateway.remove(jobs) if jobs else []
    if json:
        print_json(removed_document(removed, fetched, freed, gone))
        return
    for text in (*map(removed_text, removed), *map(forgotten_text, fetched)):
        print_result(text)
    for name in (*recorded, *gone):
        print_result(f"{name} removed")
    if text := left_text(removed):
        print_message(text, quiet=quiet)


def _folders(gateway: Gateway, names: list[str]) -> list[Path]:
    """Return the folders of recordings that are to go. Raises NotFoundError."""
    if not names:
        return []
    # Imported here: it brings the SDK of hosts, which no other removal needs.
    from finetune_gateway.evaluation import keeping

    return keeping.doomed(gateway.settings, names)


def _remove_recordings(gateway: Gateway, names: list[str]) -> dict[str, int]:
    """Remove recordings, and return the bytes of each."""
    if not names:
        return {}
    from finetune_gateway.evaluation import keeping

    return {name: keeping.remove(gateway.settings, name) for name in names}


def _compared(gateway: Gateway, names: list[str]) -> list[Path]:
    """Return the folders of comparisons and kept answers that are to go. Raises NotFoundError."""
    if f"{COMPARISON}latest" in names:
        from finetune_gateway.evaluation.comparison import Comparison  # only where it is asked for

        newest = Comparison.at(gateway.settings, f"{COMPARISON}latest").id
        names = [newest if name == f"{COMPARISON}latest" else name for name in names]
    every = (folder for name in names for folder in compared.find(gateway.settings, name))
    return [*dict.fromkeys(every)]


def _remove_compared(gateway: Gateway, folders: list[Path]) -> dict[str, int]:
    """Remove comparisons and kept answers, and return the bytes of each."""
    freed = {compared.name_of(folder): bytes_of([folder]) for folder in folders}
    for folder in folders:
        compared.remove(gateway.store, folder)
    return freed


def _own_job(gateway: Gateway, name: str, *, fetched: bool) -> Job | None:
    """Return the job of this home with this name; None if there is none, and something was
    ``fetched`` under it. Raises NotFoundError."""
    try:
        return gateway.job(name)
    except NotFoundError:
        if not fetched:
            raise
        return None


def prune(
    older_than: Annotated[
        str | None,
        typer.Option(metavar="DAYS", help="Of jobs that ended longer ago: 30d (default), 0d."),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Delete uploads and models at hosts too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Remove data that no job needs any more: copies of files and, of local jobs, rows, logs and
    checkpoints, if their jobs have ended long ago; and what killed processes have left. Says first
    what goes, in bytes. Models, metrics and costs stay: 'ftg rm' removes the texts of a job.

    --remote also deletes what this home has put at hosts, each thing named and asked for: uploads
    of these jobs, and all models of jobs that were removed with 'ftg rm', however young. What a job
    needs that has not ended stays. What was fetched from hosts ('ftg migrate fetch'), recordings
    ('ftg migrate record'), comparisons and kept answers go only by an age that you have named, with
    --older-than or in the settings: they may be in no other place. 'ftg config set retention.days
    90' sets another age; nothing is removed before you run this. Without a terminal, --yes is
    required.

    Examples:
      ftg prune
      ftg prune --older-than 7d --dry-run
      ftg prune --remote --yes
    """
    days = _parse_days(older_than)

    def ask(items: list[Item]) -> bool:
        if not json or not yes:
            print_message(items_text(items), quiet=quiet and yes)
        if dry_run or yes:
            return yes and not dry_run
        if items[0].host:
            return _confirmed(f"Delete {item_text(items[0])}?")
        return _confirmed("Remove this for good?")

    gateway = Gateway()
    pruned = gateway.prune(days, remote=remote, confirm=ask)
    if json:
        print_json(pruned_document(pruned))
        return _pruned_code(pruned)
    if text := pruned_text(pruned, dry_run=dry_run):
        print_result(text)
    else:
        age = format_count(round(gateway.retention_days(days)), "day")
        said = f"There is nothing to remove of jobs that ended more than {age} ago."
        print_message(said, quiet=quiet)
    if text := not_pruned_text(pruned):
        print_message(text)
    return _pruned_code(pruned)


def _pruned_code(pruned: Pruned) -> int:
    """Return 1 if something could not be removed or asked."""
    return 1 if pruned.failed or pruned.unknown else 0


def _parse_days(text: str | None) -> float | None:
    if text is None:
        return None
    number = text.strip().removesuffix("d")
    if not number.isdecimal():
        raise SpecError(f"--older-than {text!r} is no number of days.", hint="Like 30d, or 0d.")
    return float(number)


def _confirmed(question: str) -> bool:
    """Ask at the terminal. Raises BudgetError where there is none."""
    if not sys.stdin.isatty():
        raise BudgetError(
            "Nothing was removed: there is no terminal to confirm at.", hint="Pass --yes."
        )
    return confirm(question)
