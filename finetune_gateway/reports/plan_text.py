"""What ``ftg submit`` shows: the plan before the question, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from finetune_gateway.data.column_names import as_option
from finetune_gateway.data.columns import in_words
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.events import JobStatus
from finetune_gateway.findings import Report
from finetune_gateway.jobs.budget import BILLED, Budget
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.methods import HOLD_OUT_ROWS
from finetune_gateway.reports.estimate_figures import price_text, rows_text, training_text
from finetune_gateway.reports.job_text import after_text, start_text
from finetune_gateway.reports.output import (
    format_bytes,
    format_count,
    format_duration,
    params_text,
    wrap_text,
)
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible


def plan_document(plan: Plan, budget: Budget | None, equal: Job | None) -> dict[str, Any]:
    """Return a dry run as JSON. ``equal``: the job that a submit would return."""
    return {
        "dry_run": True,
        "existing": equal.id if equal else None,
        "estimate": plan.estimate.model_dump(mode="json"),
        "budget": budget.summary() if budget else None,
    }


def plan_text(plan: Plan, limit: Decimal | None, budget: Budget | None) -> str:
    """Return what is about to happen: cost, time, what is sent where, what is left of the month."""
    estimate = plan.estimate
    rows = format_count(plan.reports[0].rows, "row")
    spec = plan.spec
    how = f"{spec.method} ({spec.training_type})" if spec.training_type else spec.method
    lines = [f"{estimate.backend} / {spec.model}: {how} on {rows}"]
    if spec.continue_from is not None:
        lines.append(f"Trains on from the model of {visible(str(spec.continue_from))}.")
    if spec.backend_params:
        own = f"Settings of {visible(estimate.backend)}: {params_text(spec.backend_params)}"
        lines.append(wrap_text(own, "  ", ""))
    if columns := plan.train.reading.columns:
        lines.append(wrap_text(f"Columns: {visible(in_words(columns))}", "  ", ""))
    if text := rows_text(estimate):
        lines.append(wrap_text(f"Rows: {text}", "  ", ""))
    if estimate.data_leaves_machine:
        lines += _hosted_lines(plan, limit, budget)
    else:
        lines += _local_lines(estimate, budget)
    if plan.spec.model.startswith("builtin/"):
        lines.append(wrap_text(_builtin_text(plan)))
    kinds = sum(len(report.warnings) for report in plan.reports)
    if kinds:
        name = visible(plan.train.name)
        # A local model's own template and limit warn of more, and hosts tune few on images.
        model, warnings = visible(plan.spec.model), (one.warnings for one in plan.reports)
        own = "" if estimate.data_leaves_machine else f" --model {model}"
        if any(one.code == "image_model" for found in warnings for one in found):
            own = f" --backend {visible(estimate.backend)} --model {model}"
        if plan.spec.method != "sft":
            own += f" --method {plan.spec.method}"
        own += f" {visible(as_option(columns))}" if columns else ""
        lines.append(f"{_kinds_of_warnings(kinds)} in the data: ftg validate {name}{own}")
    return "\n".join(lines)


def _builtin_text(plan: Plan) -> str:
    # Imported here: they were for this plan, and other models need none of them.
    from finetune_gateway.backends.local import builtin
    from finetune_gateway.backends.local.backend import LocalBackend

    if not isinstance(plan.backend, LocalBackend):
        return builtin.ABOUT
    return builtin.about(plan.backend.settings.models / builtin.folder_name())


def _kinds_of_warnings(count: int) -> str:
    return "1 kind of warning" if count == 1 else f"{count} kinds of warnings"


def _hosted_lines(plan: Plan, limit: Decimal | None, budget: Budget | None) -> Iterator[str]:
    estimate = plan.estimate
    limited = f"; limit {_exact_usd(limit)}" if limit is not None else ""
    yield f"Estimated cost: {_cost(estimate.cost_usd)}{limited}"
    if plan.backend.gives_quotes:
        yield wrap_text(
            f"{visible(estimate.backend)} names its price once the files are there, before the job "
            "is created."
        )
    for price in estimate.prices:
        if price.unit in BILLED:
            yield wrap_text(f"At {price_text(price)}.")
    if budget is not None:
        yield wrap_text(_budget_left(estimate.cost_usd, budget))
    host = estimate.host or getattr(plan.backend, "host", plan.backend.name)
    kept = " The held-out rows stay here." if plan.held_out else ""
    yield wrap_text(f"{' and '.join(_uploads(plan))} will be uploaded to {host}.{kept}")
    if estimate.azure_training:
        yield wrap_text(f"{training_text(estimate)} Another way: --azure-training.")


def _local_lines(estimate: Estimate, budget: Budget | None) -> Iterator[str]:
    if estimate.seconds is not None:
        low, high = format_duration(estimate.seconds.low), format_duration(estimate.seconds.high)
        expected = format_duration(estimate.seconds.expected)
        yield f"About {expected} ({low} to {high}) on this machine."
        if estimate.cost_usd is not None and estimate.cost_usd.high:
            yield f"Estimated cost: {_cost(estimate.cost_usd)}"
            if budget is not None:
                yield wrap_text(_budget_left(estimate.cost_usd, budget))
    yield "Nothing leaves this machine."


def _cost(cost: Range[Decimal] | None) -> str:
    if cost is None:
        return "not known"
    if cost.low == cost.high:
        return format_usd(cost.expected)
    return f"{format_usd(cost.expected)} (low {format_usd(cost.low)}, high {format_usd(cost.high)})"


def _exact_usd(amount: Decimal) -> str:
    """Return ``$20.00`` or ``$0.0234``: cents, or every digit that was given."""
    return f"${amount:,.2f}" if amount == round(amount, 2) else f"${amount:,f}"


def _uploads(plan: Plan) -> Iterator[str]:
    """Yield each file that will be sent, with its size."""
    files = [plan.train, *([plan.validation] if plan.validation else [])]
    part = plan.files is not None and plan.files.whole is not None
    for file, report, sent in zip(files, plan.reports, plan.sent, strict=True):
        name = "its held-out rows" if part and file is plan.validation else visible(file.name)
        note = "" if report.format.startswith("openai-") else f"as {_openai_rows(report)}, "
        yield f"{name} ({note}{format_bytes(sent.bytes)}: {sent.bytes:,} bytes)"


def _openai_rows(report: Report) -> str:
    return "preference rows" if report.kind == "preference" else "chat rows"


def _budget_left(cost: Range[Decimal] | None, budget: Budget) -> str:
    """Return what is left of the month's budget, and whether this job fits."""
    left, needed = budget.left_usd or Decimal(0), cost.high if cost else Decimal(0)
    fits = f"this job reserves {format_usd(needed)}" if needed <= left else "this job does not fit"
    used = f"{format_usd(budget.spent_usd)} spent, {format_usd(budget.reserved_usd)} reserved"
    of = f"{format_usd(left)} of {format_usd(budget.cap_usd)} left"
    return f"Budget of {budget.month}: {of} ({used}); {fits}."


def submitted_text(job: Job) -> str:
    """Return what came of a submit: confirmed by the provider, or only stored."""
    if job.record.waits_here:
        return f"{job.id} is stored, and not sent yet.\n{job.record.outlook}"
    if job.provider_id is None and not job.status.final:
        reason = job.phase.removeprefix("not confirmed: ")
        return (
            f"{job.id} is stored, but {job.backend.name} has not confirmed it: {reason}\n"
            f"{job.record.outlook}"
        )
    if job.status.final:
        return f"Submitted {job.id}{_provider(job)}.{_quoted(job.record)}"
    where = f"at {job.record.display_name}" if job.record.hosted else "on this machine"
    waits = ", ".join(filter(None, (after_text(job.record), start_text(job.record))))
    begins = f"begins {waits}" if waits else "runs"
    runs = f"It {begins} {where}; you may close this terminal."
    return f"Submitted {job.id}{_provider(job)}.{_quoted(job.record)} {runs}"


def _quoted(record: JobRecord) -> str:
    if record.quote_usd is None:
        return ""
    return f" {record.display_name} quotes {format_usd(record.quote_usd)} for it."


def existing_job_text(job: Job) -> str:
    """Return that the same job is there already."""
    return f"{_existing(job)}{_all_rows(job.record)}"


def _all_rows(record: JobRecord) -> str:
    """Return that a job of an earlier version trains on what would be held out now."""
    if record.held_out_share is not None or record.validation or record.train.rows < HOLD_OUT_ROWS:
        return ""
    return (
        f"\nIt trains on all {record.train.rows:,} rows: it was made before a tenth was held out "
        "by default. --again starts one that holds it out."
    )


def _existing(job: Job) -> str:
    if job.status is JobStatus.SUCCEEDED:
        return (
            f"This job has succeeded already: {job.id}{_provider(job)}. Nothing was sent. "
            "To train it once more: --again"
        )
    return f"This job is already there: {job.id}{_provider(job)}, {job.status}."


def metadata_notes(job: Job, given: dict[str, str]) -> Iterator[str]:
    """Yield what became of the metadata of a submit, if not what one would expect."""
    if given and given != job.metadata:
        yield f"{job.id} keeps the metadata of its first submit."
    notes = (event.message for event in job.events() if event.id == "ftg-note-metadata")
    yield from notes if given else ()


def _provider(job: Job) -> str:
    return f" ({job.provider_id})" if job.provider_id not in (None, job.id) else ""
