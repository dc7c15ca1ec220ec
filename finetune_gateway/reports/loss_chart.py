"""The losses of a job: as a chart, and in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from finetune_gateway.events import Metric
from finetune_gateway.jobs.overfitting import figure, find_overfitting
from finetune_gateway.reports.charts import Axis, Chart, Dot, Line, linear_axis, log_axis

CURVES = (("train_loss", "training", 0), ("valid_loss", "validation", 2))  # metric, name, color
LEAST = 1e-4  # losses below are drawn there
ENDS = (1, 1.5, 2, 3, 4, 5, 7)  # where a logarithmic axis may begin and end, times powers of ten
FALL = 4  # from such a ratio on, later losses would lie on a linear axis
MOST_DOTS = 60  # more evaluations are a line without dots


def series(metrics: Sequence[Metric], name: str) -> list[tuple[int, float]]:
    """Return a metric by step, where there is a number."""
    values = [(metric.step, getattr(metric, name)) for metric in metrics]
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def loss_chart(metrics: Sequence[Metric]) -> Chart | None:
    """Return training and validation loss by step, or None when no loss was reported. The scale
    is logarithmic where losses fall far: later ones would lie on the axis."""
    curves = [Line(name, series(metrics, metric), color) for metric, name, color in CURVES]
    lines = [line for line in curves if line.points]
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    spans = (f"{line.name} {line.points[0][1]:.2f} to {line.points[-1][1]:.2f}" for line in lines)
    return Chart(
        x=Axis("step", 0, max(1, *(step for step, _ in points))),
        y=_loss_axis([loss for _, loss in points]),
        label=f"Loss by step: {'; '.join(spans)}",
        lines=lines,
        dots=_dots(metrics),
    )


def _loss_axis(losses: Sequence[float]) -> Axis:
    if min(losses) < 0 or max(losses) < FALL * max(LEAST, min(losses)):
        return linear_axis("loss", losses)
    return log_axis("loss", losses, least=LEAST, factors=ENDS)


def _dots(metrics: Sequence[Metric]) -> list[Dot]:
    """Return the validation losses as dots, while they are few."""
    metric, _, color = CURVES[1]
    points = series(metrics, metric)
    if len(points) > MOST_DOTS:
        return []
    return [Dot(step, value, f"step {step:,}: {value:.3f}", color) for step, value in points]


# -- in words ------------------------------------------------------------------------------


def span_text(points: Sequence[tuple[int, float]]) -> str:
    """Return ``1.96 → 0.12``, or ``1.96`` of a single one."""
    first, last = figure(points[0][1]), figure(points[-1][1])
    return f"{first} → {last}" if len(points) > 1 else first


def lowest_text(points: Sequence[tuple[int, float]]) -> str:
    """Return ``lowest 0.1 at step 180``; empty where the last one is no higher."""
    step, value = min(points, key=lambda point: point[1])
    lowest = figure(value)
    return "" if lowest == figure(points[-1][1]) else f"lowest {lowest} at step {step:,}"


def overfitting_note(metrics: Sequence[Metric]) -> str:
    """Return from which step on a job overfits, by its losses; empty if they do not show it."""
    found = find_overfitting(series(metrics, "train_loss"), series(metrics, "valid_loss"))
    return str(found or "")
