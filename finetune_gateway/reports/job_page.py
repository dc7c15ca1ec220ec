"""The page of ``ftg metrics --html`` and ``job.to_html``: how a job went, its losses, its facts;
figures by step and events are folded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from finetune_gateway.events import Event, JobStatus, Metric
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.removal import require_kept
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.reports.charts import Chart
from finetune_gateway.reports.html_text import Piece, short_text
from finetune_gateway.reports.job_history_text import metric_rows
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
from finetune_gateway.reports.output import format_duration, format_timestamp, format_usd

Pairs = list[tuple[str, str]]

EVENTS = 1_000  # the last ones; 'ftg events' has all
STEPS = 500
WARNINGS = 5
_SIGNS = {JobStatus.SUCCEEDED: "\u2713", JobStatus.FAILED: "\u2717"}
_NAMED = ("job", "status", "error", "last metrics")  # facts that the head of the page has


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
    note: str | None
    warnings: list[EventView]
    facts: list[tuple[str, list[Piece]]]
    head: Sequence[str]
    steps: Sequence[Sequence[str]]
    hidden_steps: int
    checkpoints: list[tuple[str, str, str]]
    events: list[EventView]
    hidden_events: int


def write(job: Job, path: Path, *, force: bool = False) -> None:
    """Write the page. Raises SpecError when the file exists, is not a page of ours, and ``force``
    is not set, StoreError when it cannot be written, JobRemoved."""
    require_kept(job.record)
    raise_if_foreign(path, force=force)
    with whole_file(path) as file:
        file.write(page(job).encode())


def page(job: Job) -> str:
    """Return the whole page."""
    return render("job.html", _view(job))


def _view(job: Job) -> JobPage:
    metrics, spec = job.metrics(), job.record.spec
    events = [_event(event) for event in job.events() if event.type != "metrics"]
    head, steps = metric_rows(_thinned(metrics))
    return JobPage(
        title=f"{job.id} {job.status}",
        sign=_SIGNS.get(job.status, "\u25cf"),
        outcome={JobStatus.SUCCEEDED: "good", JobStatus.FAILED: "bad"}.get(job.status, "open"),
        about=short_text(f"{spec.model}, {spec.method}, {job.record.display_name}"),
        error=short_text(job.error or "", 2_000),
        tiles=[*_tiles(job, metrics)],
        losses=loss_chart(metrics),
        note=overfitting_note([value for _, value in series(metrics, "valid_loss")]),
        warnings=[event for event in events if event.level][-WARNINGS:],
        facts=[(name, short_text(fact)) for name, fact in _facts(job)],
        head=head,
        steps=steps,
        hidden_steps=len(metrics) - len(steps),
        checkpoints=[(f"{one.step:,}", one.id, one.model) for one in job.checkpoints()],
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
