"""Jobs as people and programs see them: one job, a list, and what each cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.data.columns import in_words
from finetune_gateway.events import DIVERGED, PREFERENCES, REWARDS, JobStatus
from finetune_gateway.jobs import budget, continuing, history, results
from finetune_gateway.jobs.budget import Actual, Quote
from finetune_gateway.jobs.history import Curves
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.overfitting import Overfitting, find_overfitting, result_step_text
from finetune_gateway.jobs.permits import kinds_text
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.reports.output import (
    align_table,
    format_age,
    format_bytes,
    format_count,
    format_duration,
    format_table,
    format_timestamp,
    params_text,
    terminal_width,
    wrap_text,
)
from finetune_gateway.settings.money import format_usd
from finetune_gateway.settings.sizes import bytes_of
from finetune_gateway.text.cleaning import visible

LIST_HEAD = ("JOB", "STATUS", "BACKEND", "MODEL", "DATA", "CREATED")
METHOD_HEAD = ("JOB", "STATUS", "METHOD", "BACKEND", "MODEL", "DATA", "CREATED")
COST_HEAD = ("JOB", "STATUS", "MODEL", "EXPECTED", "AT_MOST", "ACTUAL")
_COUNTED = re.compile(r"([^:]+): (?:step )?(\d+(?:\.\d+)?) of (\d+(?:\.\d+)?)\b")
LEFT_OUT = ("DATA", "BACKEND", "MODEL", "AT_MOST", "EXPECTED")  # columns, on a narrow screen
NAME_LENGTHS = ((60, 40), (22, 16), (16, 12), (12, 8))  # of a model's name and of a file's
INTERNAL_FIELDS = {
    "submit_key", "step_at", "tries", "cursor", "system_prompt",
    "sent_at", "train_file_id", "settled", "turned_away", "erased", "gone",
}  # fmt: skip


# -- JSON ----------------------------------------------------------------------------------


def record_document(record: JobRecord) -> dict[str, Any]:
    """Return a stored job as JSON, without the fields that only the store uses."""
    fields = record.model_dump(mode="json", exclude=INTERNAL_FIELDS)
    actual = budget.actual(record)
    return {
        **fields,
        "called": record.display_name,
        "final": record.status.final,
        "actual": actual.model_dump(mode="json") if actual else None,
    }


def job_document(job: Job) -> dict[str, Any]:
    """Return a job as JSON, with its last metrics."""
    metric = history.curves(job.store, job.id).last
    last = metric.model_dump(mode="json") if metric else None
    return {**record_document(job.record), "last_metrics": last}


# -- one job -------------------------------------------------------------------------------


def job_text(job: Job) -> str:
    """Return a job as text, one fact per line."""
    return "\n".join(
        wrap_text(visible(text), " " * 14, f"{name:<14}") for name, text in job_facts(job).items()
    )


def job_facts(job: Job) -> dict[str, str]:
    """Return what is known of a job, by name."""
    return {name: text for name, text in _job_facts(job).items() if text}


def status_line(job: Job) -> str:
    """Return ``ftg-7kq3 failed: the reason``, and a line on each warning about its result."""
    ended = f": {visible(job.error)}" if job.error else _how_ended(job)
    line = f"{job.id} {job.status}{_not_deployed(job.record)}{ended}"
    return "\n".join([line, *(f"  warning: {visible(text)}" for text in result_warnings(job))])


def result_warnings(job: Job) -> list[str]:
    """Return why the model of a job may be of no use, as its backend found; empty for most."""
    return job.record.result.warnings if job.record.result else []


def phase_share(phase: str) -> tuple[str, float] | None:
    """Return what is being done and how much of it is done, 0 to 1, of a phase such as ``building
    builtin/tiny: step 25 of 600, loss 4.1``; None where a phase says no share."""
    counted = _COUNTED.match(phase)
    if counted is None or not float(counted[3]):
        return None
    return visible(counted[1]), min(1.0, float(counted[2]) / float(counted[3]))


def job_share(record: JobRecord) -> tuple[str, float] | None:
    """Return what a job does and how much of it is done, as ``phase_share``; of a job whose phase
    does not say it, how much of the whole job, where its host tells."""
    counted = phase_share(record.phase)
    if counted is not None or record.progress is None or record.status.final:
        return counted
    return visible(record.phase) or record.status.value, record.progress


def place_text(record: JobRecord) -> str:
    """Return ``place 3 in line, begins in about 12 min`` of a job that waits at its host, or here;
    empty where that is not known."""
    place = None if record.status.final else record.place_in_line
    if place is None:
        return ""
    left = (record.expected_start_at or 0.0) - time.time()
    begins = f", begins in about {format_duration(left)}" if left >= 1 else ""
    return f"place {place:,} in line{begins}"


def schedule_text(record: JobRecord) -> str:
    """Return what a job waits for, or has waited for; empty for one that waits for nothing."""
    first = f"priority {record.priority}" if record.priority else ""
    return ", ".join(filter(None, (first, after_text(record), start_text(record))))


def after_text(record: JobRecord) -> str:
    return f"after {' and '.join(record.after)}" if record.after else ""


def start_text(record: JobRecord) -> str:
    return f"not before {format_timestamp(record.start_at)}" if record.start_at else ""


def _progress(record: JobRecord) -> str:
    share = None if record.status.final else record.progress
    return ", ".join(filter(None, ("" if share is None else f"{share:.0%}", place_text(record))))


def _not_deployed(record: JobRecord) -> str:
    return ", not deployed" if record.deploy else ""


def _how_ended(job: Job) -> str:
    """Return the provider's word for a job that has ended with one that we do not know."""
    if not job.record.ended_otherwise:
        return ""
    word = visible(job.record.raw_status)
    return f", but {job.record.display_name} has ended it as {word!r}, which is not known here"


def next_step(job: Job) -> str:
    """Return a command to run next, or an empty string if there is none."""
    if job.record.removed:
        return ""
    if job.record.deploy:
        named = "" if job.record.deployed_by_us else " --model DEPLOYMENT"
        then = f"Then: ftg chat {job.id}{named}"
        ours = f"ftg deploy {job.id}, or: " if job.record.display_name == "azure" else ""
        return f"Next, deploy it: {ours}{visible(job.record.deploy)}\n{then}"
    if job.status is JobStatus.SUCCEEDED:
        asked = "< FILE.jsonl" if job.record.spec.method == "reward" else '"Hello"'
        return f"Next: ftg chat {job.id} {asked}"
    if job.record.unsent:
        return job.record.outlook
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED):
        logs = [f"ftg logs {job.id}"] if job.status is JobStatus.FAILED else []
        resume = [f"ftg resume {job.id} lets it go on"] if job.resumable else []
        if job.phase == DIVERGED:
            resume = ["submit it with a smaller learning_rate (resumed, it would diverge again)"]
        return f"Next: {'; '.join(logs + resume)}" if logs or resume else ""
    if job.record.ended_otherwise:
        return f"Next: look at {job.provider_id} there; ftg status {job.id} asks again"
    return "" if job.status.final else f"Next: ftg watch {job.id}"


def _job_facts(job: Job) -> dict[str, str]:
    record, quote, curves = job.record, Quote.of(job.record), history.curves(job.store, job.id)
    unusual = record.raw_status not in ("", record.status)
    raw = f" (provider's status: {record.raw_status})" if unusual else ""
    phase = f", {record.phase}" if record.phase else ""
    ended = record.finished_at or time.time()
    return {
        "job": record.id,
        "status": f"{record.status}{_not_deployed(record)}{raw}{phase}",
        "error": record.error or "",
        "warnings": " ".join(result_warnings(job)),
        "changed": "" if record.hosted else history.changed_versions(job.store, record.id),
        "backend": _backend(record),
        "provider id": record.provider_id or "",
        "model": f"{record.spec.model}, {record.spec.method}",
        "chain": continuing.line(record, job.store),
        "data": f"{record.name or '(removed)'}, {_rows(record)}",
        "own settings": params_text(record.spec.backend_params or {}),
        "columns": in_words(record.columns) if record.columns else "",
        "metadata": ", ".join(f"{key}={value}" for key, value in record.metadata.items()),
        "sent anyway": kinds_text(record.allowed),
        "created": f"{format_timestamp(record.created_at)} ({format_age(record.created_at)})",
        **_time(record, quote, ended),
        "last metrics": _last_metrics(curves),
        "preferences": preference_text(curves.values),
        "schedule": schedule_text(record),
        "progress": _progress(record),
        "pace": "" if record.status.final else pace_text(curves.values),
        "overfitting": "" if record.result else str(_overfitting(curves) or ""),
        "trained": _trained_tokens(record, quote),
        "estimate": _estimate(quote),
        "quote": "" if record.quote_usd is None else format_usd(record.quote_usd),
        "cost": _cost(record, job.actual),
        "checkpoints": "" if record.hosted else _checkpoints(job),
        "result": record.result.model if record.result else "",
        "deployment": deployment_fact(record),
        "result is": result_step_text(record.result.metrics) if record.result else "",
        "removed": removed_text(record),
    }


def deployment_fact(record: JobRecord) -> str:
    """Return what is known of a deployment that a plug-in has made and that goes on."""
    kept = (record.handle or {}).get("deployment") or {}
    if "made_at" not in kept:
        return ""
    since = f"{kept['name']}, since {format_timestamp(kept['made_at'])}"
    if kept.get("usd_per_hour") is None:
        return f"{since}; what it costs is not known"
    hour = f"${kept['usd_per_hour']} an hour, used or not"
    return f"{since}, {hour}. End it: ftg deploy {record.id} --delete"


def _checkpoints(job: Job) -> str:
    """Return ``2, steps 150 and 200, 34.5 MB`` of the models saved on this machine, with what was
    set aside."""
    there = results.checkpoints(job.record, job.store)
    points = [one for one in there if Path(one.model).is_absolute()]
    if not points:
        return ""
    size = bytes_of([Path(points[0].model).parent])
    at = " and ".join(f"{one.step:,}" for one in points)
    return f"{len(points)}, at step {at}, {format_bytes(size)}"


def _rows(record: JobRecord) -> str:
    """Return ``243 rows``, and how many are held out of them by us."""
    held_out = record.held_out or (record.validation if record.held_out_share else None)
    more = f", {held_out.rows:,} held out" if held_out else ""
    return f"{format_count(record.train.rows, 'row')}{more}"


def removed_text(record: JobRecord) -> str:
    """Return when the texts of a job were removed; empty if they are kept."""
    if record.removed_at is None:
        return ""
    return f"{format_timestamp(record.removed_at)}: only what it cost is kept"


def _backend(record: JobRecord) -> str:
    host = record.backend_options.get("base_url")
    return f"{record.display_name}{f' at {host}' if host else ''}"


def _last_metrics(curves: Curves) -> str:
    last = curves.last
    if last is None:
        return ""
    of = f"/{last.total_steps}" if last.total_steps else ""
    known = (("train_loss", curves.train), ("valid_loss", curves.valid))
    losses = [f"{name} {points[-1][1]:.4g}" for name, points in known if points]
    return ", ".join([f"step {last.step}{of}", *losses])


def _overfitting(curves: Curves) -> Overfitting | None:
    return find_overfitting(curves.train, curves.valid)


def preference_text(values: Mapping[str, Any]) -> str:
    """Return ``rewards/accuracies 0.92, rewards/margins 0.31 on held-out rows`` of the last metrics
    of a job, on those it trains without held-out ones; empty for a method that has none."""
    for rows, where in (("valid", "held-out rows"), ("train", "the rows it trains")):
        for names in (PREFERENCES, REWARDS):
            known = [(name, values.get(f"{rows}_{name}")) for name in names]
            numbers = [(name, value) for name, value in known if isinstance(value, int | float)]
            if numbers:
                return f"{', '.join(f'{name} {value:.3g}' for name, value in numbers)} on {where}"
    return ""


def pace_text(values: Mapping[str, Any]) -> str:
    """Return ``1,234 tokens/s, 412 MB, grad_norm 0.83, learning_rate 0.00012, 1m left`` of the
    last metrics of a job, as far as they are known."""
    shown: dict[str, Callable[[float], str]] = {
        "trained_tokens_per_second": lambda value: f"{value:,.0f} trained tokens/s",
        "memory_bytes": format_bytes,
        "grad_norm": lambda value: f"grad_norm {value:.3g}",
        "learning_rate": lambda value: f"learning_rate {value:.3g}",
        "seconds_left": lambda value: f"{format_duration(value)} left",
    }
    known = {name: values.get(name) for name in shown}
    return ", ".join(
        shown[name](value) for name, value in known.items() if isinstance(value, int | float)
    )


def last_step(record: JobRecord) -> int | None:
    """Return the last step of a job that has succeeded, where its backend says it."""
    metrics = record.result.metrics if record.result else {}
    step = metrics.get("last_step", metrics.get("step"))
    return step if isinstance(step, int) else None


def _time(record: JobRecord, quote: Quote, ended: float) -> dict[str, str]:
    """Return how long a job took, or for how long it has been running; one that waits or is paused
    does not run, and may have trained before."""
    if record.finished_at or record.status.final:
        return {"took" if record.finished_at else "running for": _time_taken(record, quote, ended)}
    worked = format_duration(record.seconds) if record.seconds else ""
    if record.status in (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED):
        return {"trained for": worked}
    local = worked and not record.hosted
    return {"running for": worked if local else _time_taken(record, quote, ended)}


def _time_taken(record: JobRecord, quote: Quote, ended: float) -> str:
    taken = format_duration(ended - record.created_at)
    estimated = quote.seconds
    if record.seconds is None or not record.status.final or estimated is None:
        return taken
    low, high = format_duration(estimated.low), format_duration(estimated.high)
    expected = f"{format_duration(estimated.expected)} ({low} to {high})"
    return f"{taken}; {format_duration(record.seconds)} of training, estimated {expected}"


def _trained_tokens(record: JobRecord, quote: Quote) -> str:
    if not record.trained_tokens:
        return ""
    estimated = "" if quote.tokens is None else f", estimated {quote.tokens:,}"
    return f"{record.trained_tokens:,} tokens{estimated}"


def _estimate(quote: Quote) -> str:
    cost = quote.cost_usd
    if cost is None:
        return ""
    low, high = format_usd(cost.low), format_usd(cost.high)
    return format_usd(cost.expected) + (f" ({low} to {high})" if low != high else "")


def _cost(record: JobRecord, actual: Actual | None) -> str:
    """Return the actual cost and the price it rests on; while the job runs, what it has cost so
    far, where its host tells."""
    if actual is None and record.cost_usd is not None:
        return f"{format_usd(record.cost_usd)} so far, as {record.display_name} bills it"
    if actual is None:
        return ""
    cost = "not known" if actual.cost_usd is None else format_usd(actual.cost_usd)
    return f"{cost}: {actual.basis}"


# -- several jobs --------------------------------------------------------------------------


def as_last_seen(jobs: Sequence[Job]) -> str:
    """Return ``ftg-7kq3, ftg-9xm2 and 498 more are shown as last seen``."""
    return f"{name_jobs(jobs)} {'is' if len(jobs) == 1 else 'are'} shown as last seen"


def name_jobs(jobs: Sequence[Job]) -> str:
    """Return the ids of up to three jobs, and how many more there are."""
    ids = [job.id for job in jobs[:3]]
    if len(jobs) > 3:
        return f"{', '.join(ids[:2])} and {len(jobs) - 2} more"
    return " and ".join([", ".join(ids[:-1]), ids[-1]] if len(ids) > 1 else ids)


def job_list_text(records: Sequence[JobRecord]) -> str:
    """Return a table of jobs that fits the terminal; with their methods, if they differ."""
    if len({record.spec.method for record in records}) > 1:
        return _fit_table(METHOD_HEAD, records, _method_row)
    return _fit_table(LIST_HEAD, records, _list_row)


def job_costs_text(records: Sequence[JobRecord]) -> str:
    """Return a table of what jobs were estimated to cost, and what they did cost."""
    return _fit_table(COST_HEAD, records, _cost_row, right="EXPECTED AT_MOST ACTUAL")


def _fit_table(
    head: tuple[str, ...],
    records: Sequence[JobRecord],
    row: Callable[[JobRecord, int, int], tuple[str, ...]],
    right: str = "",
) -> str:
    """Return the table with names as long as the terminal allows, in a narrow one with fewer
    columns."""
    for lengths in NAME_LENGTHS:
        rows = [row(record, *lengths) for record in records]
        if _fits(text := align_table(head, rows, right)):
            return text
    left = [*range(len(head))]
    for name in LEFT_OUT:
        left = [number for number in left if head[number] != name]
        cells = [[line[number] for number in left] for line in (head, *rows)]
        if _fits(text := align_table(cells[0], cells[1:], right)):
            return text
    return format_table(cells[0], cells[1:], right=right)


def _fits(table: str) -> bool:
    return max(map(len, table.splitlines())) <= terminal_width()


def _list_row(record: JobRecord, model: int, data: int) -> tuple[str, ...]:
    name = "(removed)" if record.removed else record.name
    names = _shorten(record.spec.model, model), _shorten(name, data)
    status = "queued here" if record.waits_here else f"{record.status} {_progress(record)}".rstrip()
    status += _not_deployed(record) or (", deployed" if deployment_fact(record) else "")
    return record.id, status, record.display_name, *names, format_age(record.created_at)


def _method_row(record: JobRecord, model: int, data: int) -> tuple[str, ...]:
    name, status, *others = _list_row(record, model, data)
    return name, status, record.spec.method, *others


def _cost_row(record: JobRecord, model: int, _: int) -> tuple[str, ...]:
    estimated, actual = Quote.of(record).price, budget.actual(record)
    expected = format_usd(estimated.expected) if estimated else "?"
    most = format_usd(estimated.high) if estimated else "?"
    if actual is None:
        cost = "-"
    else:
        cost = "?" if actual.cost_usd is None else format_usd(actual.cost_usd)
    return record.id, record.status, _shorten(record.spec.model, model), expected, most, cost


def _shorten(name: str, longest: int) -> str:
    text = visible(name)
    return text if len(text) <= longest else f"{text[: longest - 2]}.."
