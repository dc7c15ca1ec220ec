"""The page of ``ftg report JOB``, ``ftg metrics --html`` and ``job.report``: how a job went, its
losses, what its model answers, estimate and actual, data and settings; figures by step and events
are folded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from finetune_gateway.events import Event, JobStatus, Metric
from finetune_gateway.jobs.budget import Quote
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.overfitting import result_step_text
from finetune_gateway.jobs.records import StoredFile
from finetune_gateway.jobs.removal import require_kept
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.reports import withheld
from finetune_gateway.reports.charts import Chart
from finetune_gateway.reports.comparison_costs import usd_range_text
from finetune_gateway.reports.html_text import Piece, short_text
from finetune_gateway.reports.job_history_text import checkpoint_rows, metric_rows
from finetune_gateway.reports.job_samples import Samples, samples_of
from finetune_gateway.reports.job_text import job_facts
from finetune_gateway.reports.layout import raise_if_foreign, render
from finetune_gateway.reports.loss_chart import (
    CURVES,
    loss_chart,
    lowest_text,
    overfitting_note,
    series,
    span_text,
)
from finetune_gateway.reports.output import (
    format_bytes,
    format_count,
    format_duration,
    format_timestamp,
)
from finetune_gateway.settings.arguments import as_path
from finetune_gateway.settings.money import format_usd

Pairs = list[tuple[str, str]]

EVENTS = 1_000  # the last ones; 'ftg events' has all
STEPS = 500
WARNINGS = 5
_SIGNS = {JobStatus.SUCCEEDED: "\u2713", JobStatus.FAILED: "\u2717"}
_NAMED = (
    "job",
    "status",
    "error",
    "last metrics",
    "result is",
)  # facts that the head of the page has


@dataclass(frozen=True)
class EventView:
    """An event on one line."""

    time: str
    level: str
    text: list[Piece]


@dataclass(frozen=True)
class JobPage:
    """Everything the page shows."""

    title: str
    sign: str
    outcome: str
    about: list[Piece]
    error: list[Piece]
    tiles: Pairs
    losses: Chart | None
    kept: str  # the step of the result, with its loss and the last one
    note: str
    warnings: list[EventView]
    samples: Samples | None
    no_samples: str  # why there are none
    compared: list[tuple[str, str, str]]  # estimated and actual
    data: list[tuple[str, list[Piece]]]
    settings: list[tuple[str, list[Piece]]]
    facts: list[tuple[str, list[Piece]]]
    head: Sequence[str]
    steps: Sequence[Sequence[str]]
    hidden_steps: int
    checkpoint_head: Sequence[str]
    checkpoints: Sequence[Sequence[str]]
    events: list[EventView]
    hidden_events: int


def write(
    job: Job,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    no_rows: bool = False,
    private: bool = False,
) -> Path:
    """Write the page and return where it is; ``no_rows``: without any text of the rows and the
    answers; ``private``: for this user alone.

    Raises SpecError when the file exists, is not a page of ours, and ``force`` is not set,
    StoreError when it cannot be written, JobRemoved.
    """
    require_kept(job.record)
    to = as_path(path, "path")
    raise_if_foreign(to, force=force)
    with whole_file(to, private=private) as file:
        file.write(page(job, no_rows=no_rows).encode())
    return to


def page(job: Job, *, no_rows: bool = False) -> str:
    """Return the whole page; ``no_rows``: without any text of the rows and the answers."""
    return render("job.html", _view(job, no_rows))


def _view(job: Job, no_rows: bool) -> JobPage:
    metrics, spec = job.metrics(), job.record.spec
    samples = samples_of(job, no_rows=no_rows)
    events = [_event(event) for event in job.events() if event.type != "metrics"]
    head, steps = metric_rows(_thinned(metrics))
    checkpoint_head, checkpoints = checkpoint_rows(job.checkpoints())
    return JobPage(
        title=f"{job.id} {job.status}",
        sign=_SIGNS.get(job.status, "\u25cf"),
        outcome={JobStatus.SUCCEEDED: "good", JobStatus.FAILED: "bad"}.get(job.status, "open"),
        about=short_text(f"{spec.model}, {spec.method}, {job.record.display_name}"),
        error=short_text(job.error or "", 2_000),
        tiles=[*_tiles(job, metrics)],
        losses=loss_chart(metrics),
        kept=result_step_text(job.record.result.metrics) if job.record.result else "",
        note=overfitting_note(metrics),
        warnings=[event for event in events if event.level][-WARNINGS:],
        samples=samples,
        no_samples=_no_samples(job, samples, no_rows),
        compared=[*_compared(job)],
        data=[(name, short_text(fact)) for name, fact in _data(job, no_rows)],
        settings=[(name, short_text(fact)) for name, fact in _settings(job)],
        facts=[(name, short_text(fact)) for name, fact in _facts(job)],
        head=head,
        steps=steps,
        hidden_steps=len(metrics) - len(steps),
        checkpoint_head=checkpoint_head,
        checkpoints=checkpoints,
        events=events[-EVENTS:],
        hidden_events=max(0, len(events) - EVENTS),
    )


def _tiles(job: Job, metrics: Sequence[Metric]) -> Iterator[tuple[str, str]]:
    for metric, name, _ in CURVES:
        if points := series(metrics, metric):
            lowest = lowest_text(points)
            yield span_text(points), f"{name} loss{f', {lowest}' if lowest else ''}"
    if metrics:
        total = metrics[-1].total_steps
        of = f" of {total:,}" if total and total != metrics[-1].step else ""
        yield f"{metrics[-1].step:,}{of}", "steps"
    if job.record.seconds is not None:
        yield format_duration(job.record.seconds), "training"
    if (actual := job.actual) is not None and actual.cost_usd is not None:
        yield format_usd(actual.cost_usd), "cost"


def _no_samples(job: Job, samples: Samples | None, no_rows: bool) -> str:
    if samples is None:
        if job.status is not JobStatus.SUCCEEDED:
            return ""
        if job.record.spec.method == "reward":
            return f"A reward model scores answers: ftg chat {job.id} < FILE.jsonl"
        own = " --data PROMPTS.jsonl" if job.record.spec.method == "pretrain" else ""
        return f"Not compared yet: ftg compare base:{job.id} {job.id}{own}"
    return withheld.NO_TEXTS if no_rows else ""


def _compared(job: Job) -> Iterator[tuple[str, str, str]]:
    """Yield what was estimated and what came of it, where either is known."""
    quote, actual = Quote.of(job.record), job.actual
    cost = actual.cost_usd if actual else None
    seconds = job.record.seconds
    time_range = quote.seconds
    expected = "" if time_range is None else format_duration(time_range.expected)
    if time_range is not None and time_range.low != time_range.high:
        low, high = format_duration(time_range.low), format_duration(time_range.high)
        expected += f" ({low} to {high})"
    tokens = job.record.trained_tokens
    for name, before, after in (
        ("cost", usd_range_text(quote.cost_usd), "" if cost is None else format_usd(cost)),
        ("training", expected, "" if seconds is None else format_duration(seconds)),
        (
            "trained tokens",
            "" if quote.tokens is None else f"{quote.tokens:,}",
            "" if not tokens else f"{tokens:,}",
        ),
    ):
        if before or after:
            yield name, before or "not estimated", after or "not known"


def _data(job: Job, no_rows: bool) -> Iterator[tuple[str, str]]:
    record = job.record
    yield "trained on", f"{record.name}, {_file(record.train)}"
    if record.validation:
        yield "validation", _file(record.validation)
    if record.held_out:
        yield "held out, kept here", _file(record.held_out)
    if record.system_prompt and not no_rows:
        yield "system prompt", record.system_prompt


def _file(file: StoredFile) -> str:
    rows = format_count(file.rows, "row")
    return f"{rows}, {format_bytes(file.bytes)}, sha256 {file.sha256[:16]}"


def _settings(job: Job) -> Iterator[tuple[str, str]]:
    spec = job.record.spec
    for name, value in spec.model_dump(mode="json").items():
        is_said = name in spec.chosen or name in ("n_epochs", "batch_size", "training_type", "seed")
        if is_said and name not in ("model", "chosen") and value is not None:
            yield name, str(value)


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    for name, fact in job_facts(job).items():
        if name not in _NAMED:
            yield name, format_timestamp(job.record.created_at) if name == "created" else fact
    yield (
        "this page",
        f"{format_timestamp(time.time())}, finetune-gateway {metadata.version('finetune-gateway')}",
    )


def _thinned(metrics: Sequence[Metric]) -> Sequence[Metric]:
    """Return at most STEPS of them: the last one, the evaluations if they are few, and of the
    others every so many."""
    if len(metrics) <= STEPS:
        return metrics
    every = -(-2 * len(metrics) // STEPS)
    evaluations = {metric.step for metric in metrics if metric.valid_loss is not None}
    rare = evaluations if len(evaluations) < STEPS // 2 else set()
    last = len(metrics) - 1
    return [
        m for at, m in enumerate(metrics) if at in (0, last) or at % every == 0 or m.step in rare
    ]


def _event(event: Event) -> EventView:
    level = "" if event.level == "info" else event.level
    return EventView(format_timestamp(event.created_at), level, short_text(event.message))
