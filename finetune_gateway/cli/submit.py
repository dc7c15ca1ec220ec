"""``ftg submit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.jobs import document
from finetune_gateway.cli.options import (
    BaseUrl,
    Data,
    Epochs,
    Json,
    KeyName,
    Method,
    Profile,
    Quiet,
    Settings,
    TrainingType,
    TrainPrice,
    backend_for,
    chosen_backend,
    money,
    proceed,
    spec_options,
)
from finetune_gateway.cli.watch import end_code, follow
from finetune_gateway.errors import BudgetError
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.budget import BILLED, Budget
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.reports import output
from finetune_gateway.reports.estimate_text import dates, priced
from finetune_gateway.reports.output import (
    format_bytes,
    format_duration,
    format_usd,
    print_message,
    print_result,
    print_warning,
    wrap_text,
)
from finetune_gateway.settings import config


def submit(
    data: Data,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Base model to train.", show_default=False)
    ],
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="openai, local, ...; see ftg backends.")
    ] = None,
    validation_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out rows, same format.")
    ] = None,
    validation_split: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Hold out a share, like 0.1.")
    ] = None,
    method: Method = None,
    training_type: TrainingType = None,
    n_epochs: Epochs = None,
    suffix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Part of the model's name.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same run.")] = None,
    settings: Settings = None,
    train_price: TrainPrice = None,
    max_cost: Annotated[
        str | None,
        typer.Option(
            "--max-cost", "--max-cost-usd", metavar="USD", help="Refuse above this estimate."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop before the question.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="A new job even if the same one is running.")
    ] = False,
    allow_pii: Annotated[
        bool, typer.Option("--allow-pii", help="Send personal data that was found.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end.")] = False,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    profile: Profile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check the data, price the run, ask, and start the job.

    Nothing is sent before the answer. A hosted job is asked for; without a terminal it needs
    --yes (exit 4). A job that does not fit into the month's budget (ftg config) is refused. A
    local job costs nothing and is not asked for. The same submit twice gives
    the job that is already running, unless --again. Without --backend: 'owner/name', builtin
    models and folders are trained here, others at OpenAI.

    Keys come from the environment, never from an option.

    Examples:
      ftg submit train.jsonl --model builtin/tiny
      ftg submit train.jsonl --model gpt-4.1-mini-2025-04-14 --max-cost 20
      ftg submit train.jsonl --model Qwen/Qwen3-0.6B --n-epochs 2 --set lora_r=8
      ftg submit train.jsonl --model gpt-4o-mini-2024-07-18 --yes --json --wait
    """
    chosen = spec_options(
        settings,
        method=method,
        training_type=training_type,
        n_epochs=n_epochs,
        suffix=suffix,
        seed=seed,
    )
    limit = None if max_cost is None else config.amount("--max-cost", max_cost)
    started = time.time()
    gateway = Gateway()
    gate = Gate(gateway, yes=yes, dry_run=dry_run, limit=limit, json=json, quiet=quiet)
    job = gateway.submit(
        data,
        model=model,
        backend=chosen_backend(backend or backend_for(model), base_url, api_key_env, profile),
        validation=validation_file,
        validation_split=validation_split,
        train_price=money("train-price", train_price),
        max_cost_usd=limit,
        confirm=gate.passed,
        allow_pii=allow_pii,
        again=again,
        **chosen,
    )
    found = job.record.created_at < started
    if wait:
        _told(job, found, quiet=quiet)
        follow(job, quiet=quiet)
    return _result(job, found, waited=wait, json=json, quiet=quiet)


@dataclass(frozen=True)
class Gate:
    """Shows the plan and asks for a yes where data leaves the machine."""

    gateway: Gateway
    yes: bool
    dry_run: bool
    limit: Decimal | None
    json: bool
    quiet: bool

    def passed(self, plan: Plan) -> bool:
        """Raises BudgetError when a yes is needed and nobody is there to say it."""
        hosted = plan.estimate.data_leaves_machine
        capped = self.gateway.monthly_usd is not None
        budget = self.gateway.budget() if capped else None
        if self.dry_run and self.json:
            told = budget.summary() if budget else None
            found = plan.estimate.model_dump(mode="json")
            output.print_json({"dry_run": True, "estimate": found, "budget": told})
        if not self.quiet or (hosted and not self.yes):
            print_message(plan_text(plan, self.limit, budget))
        for text in plan.estimate.warnings:
            print_warning(text)
        if self.dry_run:
            print_message("Dry run: nothing was written down or sent.")
            raise typer.Exit(0)
        if self.yes or not hosted:
            return True
        if not sys.stdin.isatty():
            raise BudgetError(
                "Nothing was sent: there is no terminal to confirm the price at.",
                hint="Pass --yes, with --max-cost USD if you like.",
            )
        if not proceed("Proceed?"):
            raise BudgetError("Nothing was sent: the answer was not yes.")
        return True


def plan_text(plan: Plan, limit: Decimal | None, budget: Budget | None) -> str:
    """What is about to happen: cost, time, what leaves for where, what is left of the month."""
    found = plan.estimate
    count = f"{plan.reports[0].rows:,} rows"
    lines = [f"{found.backend} / {plan.spec.model}: {plan.spec.method} on {count}"]
    if found.data_leaves_machine:
        kept = f"; limit {_exact(limit)}" if limit is not None else ""
        sent = " and ".join(_leaving(plan))
        lines.append(f"Estimated cost: {_prices(found.cost_usd)}{kept}")
        rows = [row for row in found.prices if row.unit in BILLED]
        lines += [wrap_text(f"At {priced(row)}.") for row in rows]
        if budget is not None:
            lines.append(wrap_text(_left(found.cost_usd, budget)))
        host = found.host or getattr(plan.backend, "host", plan.backend.name)
        lines.append(wrap_text(f"{sent} will be uploaded to {host}."))
        lines += [wrap_text(f"{told}.")] if (told := dates(found)) else []
    else:
        if found.seconds is not None:
            low, high = format_duration(found.seconds.low), format_duration(found.seconds.high)
            expected = format_duration(found.seconds.expected)
            lines.append(f"About {expected} ({low} to {high}) on this machine.")
            if found.cost_usd is not None and found.cost_usd.high:
                lines.append(f"Estimated cost: {_prices(found.cost_usd)}")
                lines += [wrap_text(_left(found.cost_usd, budget))] if budget else []
        lines.append("Nothing leaves this machine.")
    warned = [w for report in plan.reports for w in report.warnings]
    if warned:
        lines.append(
            f"{len(warned)} kinds of warnings about the data: ftg validate {plan.train.name}"
        )
    return "\n".join(lines)


def _prices(cost: Range[Decimal] | None) -> str:
    if cost is None:
        return "not known"
    if cost.low == cost.high:
        return format_usd(cost.expected)
    return f"{format_usd(cost.expected)} (low {format_usd(cost.low)}, high {format_usd(cost.high)})"


def _exact(amount: Decimal) -> str:
    """``$20.00`` and ``$0.0234``: cents, and every digit that was given."""
    return f"${amount:,.2f}" if amount == round(amount, 2) else f"${amount:,f}"


def _leaving(plan: Plan) -> Iterator[str]:
    """Each file that will be sent, with its bytes; rows of another format are rewritten first."""
    files = [plan.train, *([plan.validation] if plan.validation else [])]
    for file, report in zip(files, plan.reports, strict=True):
        about = "" if report.format.startswith("openai-") else "rewritten as chat rows, about "
        yield f"{file.name} ({about}{format_bytes(file.size)}: {file.size:,} bytes)"


def _left(cost: Range[Decimal] | None, budget: Budget) -> str:
    """What the month still allows, and whether this job fits."""
    left, needed = budget.left_usd or Decimal(0), cost.high if cost else Decimal(0)
    fits = f"this job reserves {format_usd(needed)}" if needed <= left else "this job does not fit"
    used = f"{format_usd(budget.spent_usd)} spent, {format_usd(budget.reserved_usd)} reserved"
    of = f"{format_usd(left)} of {format_usd(budget.cap_usd)} left"
    return f"Budget of {budget.month}: {of} ({used}); {fits}."


def _told(job: Job, found: bool, *, quiet: bool) -> None:
    provider = f" ({job.provider_id})" if job.provider_id not in (None, job.id) else ""
    if found:
        print_message(f"The same job is already there: {job.id}{provider}, {job.status}.")
    elif job.provider_id or job.status.final:
        print_message(f"Submitted {job.id}{provider}.", quiet=quiet)
    if job.provider_id is None and not job.status.final:
        why = job.phase.removeprefix("not confirmed: ")
        print_message(f"{job.id} is written down; {job.backend.name} has not confirmed it: {why}")
        print_message(
            f"The next look at it settles that, and never buys twice: ftg status {job.id}"
        )


def _result(job: Job, found: bool, *, waited: bool, json: bool, quiet: bool) -> int:
    if not waited:
        _told(job, found, quiet=quiet)
    if json:
        output.print_json(document(job))
    else:
        print_result(f"{job.id}")
    if waited:
        print_message(f"{job.id} {job.status}{': ' + job.error if job.error else ''}")
        return end_code(job)
    print_message(f"Next: ftg watch {job.id}", quiet=quiet)
    return 0
