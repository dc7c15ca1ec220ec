"""``ftg list``, ``status`` and ``cancel``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from finetune_gateway.cli.options import JobName, Json, Quiet, looked_at, proceed, refresh
from finetune_gateway.errors import BudgetError, GatewayError, SpecError
from finetune_gateway.events import JobStatus, Metric
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs.budget import Actual, Quote
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.reports import output
from finetune_gateway.reports.output import (
    format_age,
    format_duration,
    format_table,
    format_timestamp,
    format_usd,
    print_message,
    print_result,
    print_warning,
    wrap_text,
)

NEWEST = 20  # jobs listed unless -a or --limit


def list_jobs(
    status: Annotated[
        str | None, typer.Option(metavar="WORD", help="queued, running, succeeded, failed, ...")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this backend or host.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Not only the newest 20.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N.")] = None,
    ask: Annotated[bool, typer.Option("--refresh", help="Ask hosted backends too.")] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help="What each was said to cost, and what it did.")
    ] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the ids.")] = False,
) -> None:
    """Jobs, newest first. Local jobs are looked at; hosted ones only with --refresh, so that
    the list needs no network and no key.

    Examples:
      ftg list
      ftg list --status running --refresh
      ftg list --costs
      ftg list -q --limit 1
    """
    if status is not None and status not in list(JobStatus):
        known = ", ".join(JobStatus)
        raise SpecError(f"There is no status {status!r}.", hint=f"Use one of: {known}.")
    gateway = Gateway()
    records = [_fresh(gateway, one, ask) for one in gateway.store.jobs(backend=backend)]
    chosen = [one for one in records if status in (None, one.status)]
    newest = chosen[: None if all_ and limit is None else limit or NEWEST]
    if json:
        output.print_json([record_document(one) for one in newest])
    elif quiet:
        for one in newest:
            print_result(one.id)
    else:
        _listed(newest, len(chosen), costs, filtered=status is not None or backend is not None)


def _fresh(gateway: Gateway, record: JobRecord, ask: bool) -> JobRecord:
    """The record after a look at the job; a look that fails is a warning."""
    if record.status.final or (record.hosted and not ask):
        return record
    try:
        job = gateway.job(record.id)
    except GatewayError as exc:
        print_warning(f"{record.id} is shown as last seen: {exc.message}")
        return record
    refresh(job)
    return job.record


def _listed(records: list[JobRecord], count: int, costs: bool, *, filtered: bool) -> None:
    if not records:
        told = "All of them: ftg list -a" if filtered else "Start one: ftg submit train.jsonl"
        print_message("No such jobs." if filtered else "No jobs.")
        print_message(told if filtered else f"{told} --model builtin/tiny")
        return
    if costs:
        print_result(_fitting(COSTS, records, _cost_row, right="EXPECTED AT_MOST ACTUAL"))
    else:
        print_result(_fitting(JOBS, records, _job_row))
    if count > len(records):
        print_message(f"{count - len(records)} older jobs: ftg list -a")


JOBS = ("JOB", "STATUS", "BACKEND", "MODEL", "DATA", "CREATED")
COSTS = ("JOB", "STATUS", "MODEL", "EXPECTED", "AT_MOST", "ACTUAL")


ROOMS = ((60, 40), (22, 16), (16, 12), (12, 8))  # columns of a model's name and of a file's


def _fitting(
    head: tuple[str, ...],
    records: list[JobRecord],
    row: Callable[[JobRecord, int, int], tuple[str, ...]],
    right: str = "",
) -> str:
    """The table with names as long as the terminal allows."""
    text = ""
    for room in ROOMS:
        text = format_table(head, [row(one, *room) for one in records], right=right)
        if _wide(text) <= output.terminal_width():
            break
    return text


def _wide(text: str) -> int:
    return max(map(len, text.splitlines()))


def _job_row(one: JobRecord, model: int, data: int) -> tuple[str, ...]:
    names = _short(one.spec.model, model), _short(one.name, data)
    return one.id, one.status, one.display_name, *names, format_age(one.created_at)


def _cost_row(one: JobRecord, model: int, _: int) -> tuple[str, ...]:
    said, found = budgets.Quote.of(one).cost_usd, budgets.actual(one)
    expected, most = (format_usd(said.expected), format_usd(said.high)) if said else ("?", "?")
    cost = "-" if found is None else "?" if found.cost_usd is None else format_usd(found.cost_usd)
    return one.id, one.status, _short(one.spec.model, model), expected, most, cost


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 2]}.."


def status(job: JobName, json: Json = False) -> None:
    """One job: where it stands, its last figures, and the model that came of it. Its backend is
    asked once; when that fails the job is shown as last seen.

    Examples:
      ftg status latest
      ftg status ftg-7kq3 --json
    """
    found = looked_at(job)
    if json:
        output.print_json(document(found))
        return
    print_result(screen(found))
    if found.status is JobStatus.SUCCEEDED:
        print_message(f'Next: ftg chat {found.id} "Hello"')
    elif not found.status.final:
        print_message(f"Next: ftg watch {found.id}")


def screen(job: Job) -> str:
    """A job for people, one fact a line."""
    facts = {name: text for name, text in _facts(job).items() if text}
    return "\n".join(wrap_text(text, " " * 14, f"{name:<14}") for name, text in facts.items())


def _facts(job: Job) -> dict[str, str]:
    record, quote = job.record, Quote.of(job.record)
    unusual = record.raw_status not in ("", record.status)
    raw = f" (their word: {record.raw_status})" if unusual else ""
    ended = record.finished_at or time.time()
    model = record.result.model if record.result else ""
    return {
        "job": record.id,
        "status": f"{record.status}{raw}{', ' + record.phase if record.phase else ''}",
        "error": record.error or "",
        "backend": _where(record),
        "provider id": record.provider_id or "",
        "model": f"{record.spec.model}, {record.spec.method}",
        "data": f"{record.name}, {record.train.rows:,} rows",
        "created": f"{format_timestamp(record.created_at)} ({format_age(record.created_at)})",
        "took" if record.finished_at else "running for": _took(record, quote, ended),
        "last figures": _figures(job.metrics()),
        "trained": _trained(record, quote),
        "estimate": _estimate(quote),
        "cost": _cost(job.actual),
        "result": model,
    }


def _where(record: JobRecord) -> str:
    host = record.backend_options.get("base_url")
    return f"{record.display_name}{f' at {host}' if host else ''}"


def _figures(metrics: list[Metric]) -> str:
    if not metrics:
        return ""
    last = metrics[-1]
    of = f"/{last.total_steps}" if last.total_steps else ""
    losses = [
        f"{name} {found[-1]:.4g}"
        for name in ("train_loss", "valid_loss")
        if (found := [v for m in metrics if (v := getattr(m, name)) is not None])
    ]
    return ", ".join([f"step {last.step}{of}", *losses])


def _took(record: JobRecord, quote: Quote, ended: float) -> str:
    text = format_duration(ended - record.created_at)
    said = quote.seconds
    if record.seconds is None or not record.status.final or said is None:
        return text
    low, high = format_duration(said.low), format_duration(said.high)
    worked, expected = format_duration(record.seconds), format_duration(said.expected)
    return f"{text}; {worked} of work, estimated {expected} ({low} to {high})"


def _trained(record: JobRecord, quote: Quote) -> str:
    if not record.trained_tokens:
        return ""
    said = "" if quote.tokens is None else f", estimated {quote.tokens:,}"
    return f"{record.trained_tokens:,} tokens{said}"


def _estimate(quote: Quote) -> str:
    cost = quote.cost_usd
    if cost is None:
        return ""
    low, high = format_usd(cost.low), format_usd(cost.high)
    return format_usd(cost.expected) + (f" ({low} to {high})" if low != high else "")


def _cost(found: Actual | None) -> str:
    """What it came to, and by which price; nothing while the job goes on."""
    if found is None:
        return ""
    return f"{'not known' if found.cost_usd is None else format_usd(found.cost_usd)}: {found.basis}"


def record_document(record: JobRecord) -> dict[str, Any]:
    """A job as JSON: what the store knows, without its bookkeeping."""
    plain = record.model_dump(mode="json", exclude=BOOKKEEPING)
    found = budgets.actual(record)
    actual = found.model_dump(mode="json") if found else None
    return {**plain, "called": record.display_name, "final": record.status.final, "actual": actual}


BOOKKEEPING = {"submit_key", "step_at", "tries", "cursor", "system_prompt"}


def document(job: Job) -> dict[str, Any]:
    """A job as JSON, with its last figures."""
    metrics = job.metrics()
    last = metrics[-1].model_dump(mode="json") if metrics else None
    return {**record_document(job.record), "last_metrics": last}


def cancel(
    job: JobName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop a job. What was paid for stays paid; saved checkpoints stay usable. A job that has
    ended stays as it is. Without a terminal --yes is needed.

    Examples:
      ftg cancel latest
      ftg cancel ftg-7kq3 --yes
    """
    found = Gateway().job(job)
    ended = found.status.final
    if not ended and not yes:
        _ask(found)
    found.cancel()
    if json:
        output.print_json(document(found))
    else:
        print_result(f"{found.id} {found.status}")
    if ended:
        print_message("It had ended before.", quiet=quiet)
    elif not found.status.final:
        print_message(f"It stops as soon as it can: ftg wait {found.id}", quiet=quiet)


def _ask(job: Job) -> None:
    if not sys.stdin.isatty():
        raise BudgetError(
            f"Job {job.id} goes on: there is no terminal to confirm at.", hint="Pass --yes."
        )
    if not proceed(f"Stop {job.id} ({job.record.display_name}, {job.record.spec.model})?"):
        raise BudgetError(f"Job {job.id} goes on: the answer was not yes.")
