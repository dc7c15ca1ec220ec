"""``ftg pull``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import DryRun, Json, Quiet, Yes, require_yes
from finetune_gateway.cli.progress import working
from finetune_gateway.cli.push import NO_BARS
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.publishing import PullPlan
from finetune_gateway.reports.output import format_bytes, print_json, print_message, print_result
from finetune_gateway.text.cleaning import visible


def pull(
    repo: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME[@REVISION]", help="On the Hub; at a commit, tag or branch."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Not there yet (default: in the home folder)."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME[@COMMIT]", help="Its base, in the place of the one it names."
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring an adapter or a whole model from the Hugging Face Hub onto this machine: anybody's.
    'ftg chat FOLDER' asks it then. The base that an adapter names is shown and asked for, and
    pinned to one commit; it is downloaded when the model is first asked.

    Taken are weights as safetensors, settings, tokenizer and chat template, of one commit: no
    pickle and no code. What an adapter says of itself is compared with its weights first. The
    folder is there whole or not at all: after Ctrl-C or a kill the same command goes on.

    Examples:
      ftg pull acme/support
      ftg pull acme/support@v1 --to ./support --yes
      ftg pull acme/support --base Qwen/Qwen3-0.6B
    """
    os.environ.setdefault(NO_BARS, "1")
    name, _, revision = repo.partition("@")
    shown: list[PullPlan] = []
    confirm = _asking(shown, ask=not yes, dry_run=dry_run, quiet=quiet or json)
    with working(f"looking at {visible(name)}", quiet=quiet or json) as say:
        found = ModelHandle.pull(
            name, revision=revision or None, base=base, to=to, confirm=confirm, report=say
        )
    if found is None:
        if json:
            print_json({"dry_run": True, **asdict(shown[0])})
        print_message("Dry run: nothing was brought.", quiet=quiet)
        return
    if json:
        print_json(found.model_dump(mode="json"))
        return
    print_result(found.model)
    print_message(f"Ask it here: ftg chat {visible(found.model)}", quiet=quiet)


def _asking(
    shown: list[PullPlan], *, ask: bool, dry_run: bool, quiet: bool
) -> Callable[[PullPlan], bool]:
    """Return what shows a plan, and asks."""

    def confirm(plan: PullPlan) -> bool:
        shown.append(plan)
        asks = ask and not dry_run
        print_message(_plan_text(plan), quiet=quiet and not asks)
        if asks:
            question = "Use it on that base?" if plan.base else "Bring it?"
            require_yes(question, "Nothing was brought", hint="Pass --yes.")
        return not dry_run

    return confirm


def _plan_text(plan: PullPlan) -> str:
    what = "An adapter" if plan.base else "A whole model"
    lines = [
        f"{what}: {visible(plan.repo)} at commit {plan.commit[:12]}, {format_bytes(plan.bytes)}."
    ]
    if plan.base:
        lines.append(
            f"It answers on {visible(plan.base)} at commit {(plan.base_commit or '')[:12]}."
        )
    return "\n".join(lines)
