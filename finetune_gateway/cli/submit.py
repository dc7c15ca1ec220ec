"""``ftg submit``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from finetune_gateway.cli.backend_params import BackendParam, parse_backend_params
from finetune_gateway.cli.confirmation import capped_budget
from finetune_gateway.cli.options import (
    CONFIRM_PRICE,
    AllowHttp,
    AzureTraining,
    BaseUrl,
    ChatTemplate,
    ContinueFrom,
    Data,
    Epochs,
    Json,
    KeyName,
    Map,
    Metadata,
    Method,
    Profile,
    Quiet,
    Settings,
    Split,
    TrainingType,
    TrainOn,
    TrainPrice,
    confirm,
    models_to_train,
    named_backend,
    parse_amount,
    parse_map,
    parse_metadata,
    parse_settings,
    require_yes,
)
from finetune_gateway.cli.watch import exit_code, follow, watch_job
from finetune_gateway.estimation.hosted import price_ways
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import scheduling
from finetune_gateway.jobs.budget import Budget, require_room
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.reports.estimate_figures import price
from finetune_gateway.reports.job_text import job_document, next_step, status_line
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
    print_warning,
)
from finetune_gateway.reports.plan_text import (
    existing_job_text,
    metadata_notes,
    plan_document,
    plan_text,
    submitted_text,
)


def submit(
    data: Data,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Base model to train.", show_default=False),
    ] = None,
    continue_from: ContinueFrom = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="openai, local, ...; see ftg backends.")
    ] = None,
    validation_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out rows.", readable=False)
    ] = None,
    validation_split: Split = None,
    columns: Map = None,
    method: Method = None,
    training_type: TrainingType = None,
    n_epochs: Epochs = None,
    suffix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Part of the model's name.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same run.")] = None,
    train_on: TrainOn = None,
    chat_template: ChatTemplate = None,
    settings: Settings = None,
    backend_param: BackendParam = None,
    train_price: TrainPrice = None,
    max_cost: Annotated[
        str | None,
        typer.Option(
            "--max-cost", "--max-cost-usd", metavar="USD", help="Refuse if the estimate is higher."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, then stop.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Start a new job even if the same one exists.")
    ] = False,
    metadata: Metadata = None,
    priority: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of the jobs that wait here the largest begins first (0)."),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", help="Begin once this local job has succeeded; repeatable."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin no earlier: 18:30, or '2026-12-24 18:30'."),
    ] = None,
    allow_pii: Annotated[
        bool, typer.Option("--allow-pii", help="Send personal data that was found.")
    ] = False,
    allow_secrets: Annotated[
        bool, typer.Option("--allow-secrets", help="Send keys and passwords that were found.")
    ] = False,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Train rows of which the template drops a part.")
    ] = False,
    allow_longer: Annotated[
        bool, typer.Option("--allow-longer", help="Train rows longer than the model's context.")
    ] = False,
    allow_oversize: Annotated[
        bool, typer.Option("--allow-oversize", help="Start what does not fit by the estimate.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job ends.")] = False,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    profile: Profile = None,
    allow_http: AllowHttp = False,
    azure_training: AzureTraining = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check the data, estimate the cost, ask for confirmation, and start the job.

    Nothing is sent before you confirm. Hosted jobs ask; without a terminal they need --yes
    (exit 4). Local jobs cost nothing and do not ask. A job that does not fit the budget of the
    month (ftg config) is refused. Submitting the same job twice returns the one that is running or
    has succeeded, unless --again. Personal data and secrets go to a host only with --allow-pii and
    --allow-secrets; what was allowed is kept with the job. Without --backend, 'owner/name', builtin
    models and folders are trained on this machine, other models at OpenAI.

    --continue-from trains on from the model of a job of this machine: its adapter, or its whole
    model. JOB@STEP is a checkpoint; @best and @last too. --model may be left out then.

    Jobs of this machine wait in line for its GPUs, or its CPU: by --priority, then in the order of
    their submits. One that waits for --at or --after is passed over meanwhile, and fails if the job
    that it waits for does. See: ftg list, ftg pause.

    --dry-run checks all of this up to the question, sends nothing, and ends with the exit code that
    the submit would have. In a terminal you can watch the job at once; then the exit code is that
    of 'ftg watch'.

    Keys come from the environment, never from an option: --api-key-env names the variable. An
    address and a variable given together belong together from then on.

    Examples:
      ftg submit train.jsonl --model builtin/tiny
      ftg submit train.jsonl --model gpt-4.1-mini-2025-04-14 --max-cost 20
      ftg submit train.jsonl --model Qwen/Qwen3-0.6B --n-epochs 2 --set lora_r=8
      ftg submit more.jsonl --continue-from latest
      ftg submit train.jsonl --model Qwen/Qwen3-4B --at 22:00 --priority 5
      ftg submit train.jsonl --model gpt-4o-mini-2024-07-18 --yes --json --wait
    """
    fields = parse_settings(
        settings,
        method=method,
        training_type=training_type,
        n_epochs=n_epochs,
        suffix=suffix,
        seed=seed,
        train_on=train_on,
        chat_template=chat_template,
        continue_from=continue_from,
        backend_params=parse_backend_params(backend_param),
    )
    limit = parse_amount("max-cost", max_cost)
    tags = parse_metadata(metadata)
    gateway = Gateway()
    newest = _newest(gateway)
    files: dict[str, Any] = {
        "validation": validation_file,
        "validation_split": validation_split,
        "columns": parse_map(columns),
    }
    asked = {**fields, **files}
    gateway.settle_latest(data, model, backend, asked, again=again)
    fields = {name: asked[name] for name in fields}
    [model] = models_to_train(gateway, [model] if model else None, fields)
    question = Confirmation(
        gateway, yes=yes, dry_run=dry_run, again=again, limit=limit, json=json, quiet=quiet
    )
    job = gateway.submit(
        data,
        model=model,
        backend=named_backend(
            backend,
            model,
            base_url=base_url,
            api_key_env=api_key_env,
            profile=profile,
            allow_http=allow_http,
            azure_training=azure_training,
        ),
        **files,
        train_price=parse_amount("train-price", train_price),
        max_cost_usd=limit,
        confirm=question.ask,
        allow_pii=allow_pii,
        allow_secrets=allow_secrets,
        allow_loss=allow_loss,
        allow_longer=allow_longer,
        allow_oversize=allow_oversize,
        again=again or dry_run,  # an equal job that was not sent would be sent
        metadata=tags,
        priority=priority,
        after=after,
        at=at,
        **fields,
    )
    existing = newest is not None and gateway.store.in_order([newest, job.id])[0] == job.id
    _print_submitted(job, existing=existing, quiet=quiet)
    for text in metadata_notes(job, tags):
        print_warning(text, quiet=quiet)
    if existing and (given := scheduling.schedule_of(gateway.store, priority, after, at)).used:
        for text in scheduling.notes(job.record, given):
            print_warning(text, quiet=quiet)
    if wait:
        follow(job, quiet=quiet)
    if json:
        print_json({**job_document(job), "existing": existing})
    else:
        print_result(job.id)
    if wait:
        print_message(status_line(job), quiet=quiet)
        return exit_code(job)
    if job.record.unsent:
        return 0
    if not (yes or json or quiet or job.status.final) and wants_to_watch():
        return watch_job(job)
    print_message(next_step(job), quiet=quiet)
    return 0


def wants_to_watch() -> bool:
    """Ask in a terminal whether to watch the job; Ctrl-C is a no, and leaves the job alone."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        return False
    try:
        return confirm("Watch it now?", default=True)
    except KeyboardInterrupt:
        return False


@dataclass(frozen=True)
class Confirmation:
    """Shows the plan and asks for a yes if data leaves the machine."""

    gateway: Gateway
    yes: bool
    dry_run: bool
    again: bool
    limit: Decimal | None
    json: bool
    quiet: bool

    def ask(self, plan: Plan) -> bool:
        """Return True to go on. Raises BudgetError without a yes, Exit after a dry run."""
        hosted = plan.estimate.data_leaves_machine
        budget = capped_budget(self.gateway)
        # What is asked about is shown in any case.
        quiet = self.quiet and (self.yes or self.dry_run or not hosted)
        print_message(plan_text(plan, self.limit, budget), quiet=quiet)
        for text in plan.estimate.warnings:
            print_warning(text, quiet=quiet)
        point_out_leaving(" ".join(plan.estimate.warnings), quiet=quiet)
        if self.dry_run:
            self._end_dry_run(plan, budget)
        if self.yes or not hosted:
            return True
        way = plan.estimate.azure_training
        question = f"Proceed with {way!r} training?" if way else "Proceed?"
        require_yes(question, "Nothing was sent", of="the price ", hint=CONFIRM_PRICE)
        return True

    def _end_dry_run(self, plan: Plan, budget: Budget | None) -> NoReturn:
        """Raise Exit, or BudgetError if the month has no room: what the submit itself would do."""
        equal = None if self.again else self.gateway.equal_job(plan)
        if equal is None and budget is not None:
            priced_here = plan.estimate.data_leaves_machine and not plan.backend.gives_quotes
            priced = plan.estimate
            require_room(
                priced.cost_usd,
                budget,
                unpriced=plan.spec.model if priced_here else None,
                price_way=price_ways(priced.backend, priced, priced.billed_tokens),
            )
        if self.json:
            print_json(plan_document(plan, budget, equal))
        elif self.quiet:
            print_result(price(plan.estimate))
        if equal is not None:
            print_message(existing_job_text(equal), quiet=self.quiet)
        print_message("Dry run: nothing was stored or sent.", quiet=self.quiet)
        raise typer.Exit(0)


def _newest(gateway: Gateway) -> str | None:
    """Return the job that was submitted last, by no clock; None in a new home, which stays new
    should the submit be refused."""
    jobs = gateway.jobs(limit=1) if gateway.settings.database.exists() else []
    return jobs[0].id if jobs else None


def _print_submitted(job: Job, *, existing: bool, quiet: bool) -> None:
    """Print what came of the submit; ``quiet`` leaves out what went as expected."""
    if existing:
        print_message(existing_job_text(job), quiet=quiet)
    confirmed = job.provider_id is not None or job.status.final
    if not existing or not confirmed:
        print_message(submitted_text(job), quiet=quiet and confirmed)
