"""``ftg push``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.chat import open_model
from finetune_gateway.cli.options import DryRun, Json, Quiet, Yes, require_yes
from finetune_gateway.jobs.publishing import Pushed, PushPlan
from finetune_gateway.reports.output import format_bytes, print_json, print_message, print_result

NO_BARS = "HF_HUB_DISABLE_PROGRESS_BARS"  # read by the Hub's client when it is imported


def push(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="JOB[@STEP], or the folder of a model.")
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the Hub.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Merge the adapter into its base, and send that.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="For all to read (default: for you alone).")
    ] = False,
    branch: Annotated[str | None, typer.Option(metavar="NAME", help="By default main.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME", help="For the commit.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME[@COMMIT]", help="The base on the Hub, where it is not known here."
        ),
    ] = None,
    checks: Annotated[
        Path | None, typer.Option(metavar="GUIDE", help="A behaviour guide for the card.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a model of this machine to the Hugging Face Hub, with its model card: private, in one
    commit. What will be sent, and by whose token, is shown before; --yes sends it without asking.

    Sent are weights as safetensors, configuration, tokenizer, chat template, the card (ftg card)
    and facts of the handle. No optimiser state, no pickle, no row, no system prompt and no path of
    this machine. After Ctrl-C or a kill the same command goes on; what is there already is not sent
    again. The token is that of HF_TOKEN or 'hf auth login'; HF_ENDPOINT is another Hub.

    Examples:
      ftg push latest acme/support --dry-run
      ftg push ftg-7kq3 acme/support --tag v1 --checks behaviour.yaml
      ftg push ftg-7kq3@200 acme/support --merged --public --yes
    """
    if quiet or json or not sys.stderr.isatty():
        os.environ.setdefault(NO_BARS, "1")
    handle = open_model(model, quiet=quiet or json)
    shown: list[PushPlan] = []
    found = handle.push(
        repo,
        merged=merged,
        public=public,
        branch=branch,
        tag=tag,
        base=base,
        checks=checks,
        confirm=_asking(shown, ask=not yes, dry_run=dry_run, quiet=quiet or json),
        report=lambda text: print_message(f"{text} ...", quiet=quiet or json),
    )
    if found is None:
        if json:
            print_json(_document(shown[0]))
        print_message("Dry run: nothing was sent.", quiet=quiet)
        return
    if json:
        print_json(asdict(found))
        return
    print_result(found.url)
    print_message(_done_text(found), quiet=quiet)


def _asking(
    shown: list[PushPlan], *, ask: bool, dry_run: bool, quiet: bool
) -> Callable[[PushPlan], bool]:
    """Return what shows a plan, and asks."""

    def confirm(plan: PushPlan) -> bool:
        shown.append(plan)
        asks = ask and not dry_run
        print_message(_plan_text(plan), quiet=quiet and not asks)
        if asks:
            require_yes("Send it?", "Nothing was sent", hint="Pass --yes.")
        return not dry_run

    return confirm


def _plan_text(plan: PushPlan) -> str:
    whom = "for all to read" if plan.public else "for you and your organisation alone"
    there = "is there" if plan.exists else "is made"
    place = f"{plan.repo}, branch {plan.branch}" if plan.branch else plan.repo
    width = max(len(one.name) for one in plan.files)
    lines = [f"To {place}, which {there}, {whom}, by the token of {plan.account}:"]
    lines += [f"  {one.name:<{width}}  {format_bytes(one.bytes):>9}" for one in plan.files]
    return "\n".join([*lines, f"  {'in all':<{width}}  {format_bytes(plan.bytes):>9}"])


def _document(plan: PushPlan) -> dict[str, object]:
    files = [one._asdict() for one in plan.files]
    return {"dry_run": True, **asdict(plan), "files": files, "bytes": plan.bytes}


def _done_text(found: Pushed) -> str:
    did = "Sent" if found.new else "All of it was there already"
    tagged = f", tag {found.tag}" if found.tag else ""
    return f"{did}: commit {found.commit[:12]}{tagged}. For others: ftg pull {found.repo}"
