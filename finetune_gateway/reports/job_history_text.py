"""What a job has reported: events, metrics, checkpoints."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from finetune_gateway.events import PREFERENCES, REWARDS, Checkpoint, Event, Metric
from finetune_gateway.jobs.overfitting import figure
from finetune_gateway.jobs.results import held_out_loss
from finetune_gateway.reports.charts import Chart
from finetune_gateway.reports.loss_chart import (
    CURVES,
    loss_chart,
    lowest_text,
    overfitting_note,
    series,
    span_text,
)
from finetune_gateway.reports.output import (
    format_table,
    format_timestamp,
    terminal_width,
    wrap_text,
)
from finetune_gateway.reports.terminal_chart import ASCII, Signs, chart_lines, signs_for
from finetune_gateway.text.cleaning import visible

FIRST_COLUMNS = (
    *("step", "total_steps", "train_loss", "valid_loss"),
    *(f"{rows}_{name}" for rows in ("valid", "train") for name in (*PREFERENCES, *REWARDS)),
    "learning_rate",
)


def event_line(event: Event) -> str:
    """Return an event on one line: its time, its level unless it is info, its message."""
    level = "" if event.level == "info" else f"{event.level}: "
    message = " ".join(visible(event.message).split())
    return f"{format_timestamp(event.created_at)}  {level}{message}"


def metrics_document(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Return the metrics as JSON, one object per step."""
    return [metric.model_dump(mode="json", exclude_none=True) for metric in metrics]


def metrics_csv(metrics: Sequence[Metric]) -> str:
    """Return the metrics as CSV, one line per step."""
    rows = metrics_document(metrics)
    target = io.StringIO()
    writer = csv.DictWriter(target, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def metrics_text(metrics: Sequence[Metric]) -> str:
    """Return a table of the usual columns, then as many others as fit the terminal."""
    columns, cells = metric_rows(metrics)
    while True:
        text = format_table(columns, cells, right=" ".join(columns))
        if len(text.partition("\n")[0]) <= terminal_width() or len(columns) <= 2:
            return visible(text)
        columns = columns[:-1]
        cells = [row[:-1] for row in cells]


def metric_rows(metrics: Sequence[Metric]) -> tuple[list[str], list[list[str]]]:
    """Return the names of all columns, and the figures of each step."""
    rows = metrics_document(metrics)
    columns = [name for name in _columns(rows) if name != "total_steps"]
    return columns, [[_cell(row.get(name)) for name in columns] for row in rows]


def plot_text(job_id: str, metrics: Sequence[Metric], encoding: str | None) -> str:
    """Return the losses as a chart of the terminal's width, in characters that the encoding has;
    empty without losses."""
    chart = loss_chart(metrics)
    if chart is None:
        return ""
    signs = signs_for(encoding)
    note = overfitting_note(metrics)
    scale = ", log scale" if chart.y.log else ""
    return "\n".join(
        [
            wrap_text(f"{job_id}  {chart.y.name} by {chart.x.name}{scale}{_progress(metrics[-1])}"),
            *chart_lines(chart, terminal_width(), signs),
            *_plot_keys(chart, metrics, signs),
            *([wrap_text(f"note: {note}")] if note else []),
        ]
    )


def _progress(last: Metric) -> str:
    if not last.total_steps or last.step >= last.total_steps:
        return ""
    return f", step {last.step:,} of {last.total_steps:,}"


def _plot_keys(chart: Chart, metrics: Sequence[Metric], signs: Signs) -> Iterator[str]:
    """Yield what each line of the chart is, from where to where it goes, and its lowest value."""
    for metric, name, color in CURVES:
        if points := series(metrics, metric):
            sign = signs.line if color == chart.lines[0].color else signs.dot
            facts = ", ".join(filter(None, (span_text(points), lowest_text(points))))
            if signs is ASCII:
                facts = facts.replace("→", "to")
            yield wrap_text(facts, " " * 14, f"{sign * 2} {name:<11}")


def checkpoints_text(checkpoints: Sequence[Checkpoint]) -> str:
    """Return a table of checkpoints."""
    head, rows = checkpoint_rows(checkpoints)
    cells = [[visible(cell) for cell in row] for row in rows]
    return format_table([name.upper() for name in head], cells, right="STEP")


def checkpoint_rows(checkpoints: Sequence[Checkpoint]) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the cells of each checkpoint: with its loss on held-out
    rows where any is known, and which is the best."""
    known = [(loss, one.step) for one in checkpoints if (loss := held_out_loss(one)) is not None]
    if not known:
        rows = [[str(one.step), one.id, one.model] for one in checkpoints]
        return ["step", "checkpoint", "model"], rows
    losses = {step: figure(loss) for loss, step in known}
    losses[min(known)[1]] += " (best)"
    return ["step", "valid_loss", "checkpoint", "model"], [
        [str(one.step), losses.get(one.step, ""), one.id, one.model] for one in checkpoints
    ]


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Return every name that occurs, the usual ones first."""
    names = {name: None for row in rows for name in row}
    first = [name for name in FIRST_COLUMNS if name in names or name == "step"]
    return [*first, *(name for name in names if name not in FIRST_COLUMNS)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
