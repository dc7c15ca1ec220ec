"""The summary that ``ftg demo`` leaves: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_gateway.cli.demo.answers import Answer, Score
from finetune_gateway.events import Metric
from finetune_gateway.reports.charts import Axis, Chart, Dot, Line, log_axis
from finetune_gateway.reports.layout import render

CURVES = (("train_loss", "training", 0), ("valid_loss", "validation", 2))  # metric, name, color
LEAST = 1e-4  # losses below are drawn there


@dataclass(frozen=True)
class Prices:
    """The table of options, as text, and what it rests on."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Summary:
    """Everything the page shows."""

    model: str
    before: Score
    after: Score
    answers: Sequence[tuple[Answer, Answer]]  # to the same question: before, after
    shown: Sequence[int]  # places of the answers at the top
    metrics: Sequence[Metric]
    data: Sequence[tuple[str, str]]
    run: Sequence[tuple[str, str]]
    prices: Prices

    @property
    def title(self) -> str:
        before, after = self.before, self.after
        return f"{self.model}: {before.kept} of {before.prompts} before, {after.kept} after"

    @property
    def examples(self) -> list[tuple[Answer, Answer]]:
        """The answers at the top."""
        return [self.answers[place] for place in self.shown]

    @property
    def tiles(self) -> list[tuple[str, str]]:
        """Large figures, each with a word on what it is."""
        before, after = self.before, self.after
        tiles = [
            (f"{before.kept} → {after.kept} of {after.prompts}", "answers as taught"),
            (f"{before.intents_right} → {after.intents_right}", "with the right intent"),
        ]
        for metric, name, _ in CURVES:
            if points := series(self.metrics, metric):
                tiles.append((f"{points[0][1]:.2f} → {points[-1][1]:.2f}", f"{name} loss"))
        return tiles

    @property
    def losses(self) -> Chart | None:
        return loss_chart(self.metrics)


def page(summary: Summary) -> str:
    """Return the whole page."""
    return render("demo.html", summary)


def series(metrics: Sequence[Metric], name: str) -> list[tuple[int, float]]:
    """Return a metric by step, where there is one."""
    values = [(metric.step, getattr(metric, name)) for metric in metrics]
    return [(step, value) for step, value in values if value is not None]


def loss_chart(metrics: Sequence[Metric]) -> Chart | None:
    """Return training and validation loss by step, or None when no loss was reported. The scale
    is logarithmic: losses fall fast, and later ones would lie on the axis."""
    curves = [Line(name, series(metrics, metric), color) for metric, name, color in CURVES]
    lines = [line for line in curves if line.points]
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    spans = (f"{line.name} {line.points[0][1]:.2f} to {line.points[-1][1]:.2f}" for line in lines)
    return Chart(
        x=Axis("step", 0, max(1, *(step for step, _ in points))),
        y=log_axis("loss, log scale", [loss for _, loss in points], least=LEAST),
        label=f"Loss by step: {'; '.join(spans)}",
        lines=lines,
        dots=_dots(metrics),
    )


def _dots(metrics: Sequence[Metric]) -> list[Dot]:
    """Return the validation losses as dots: they are few."""
    metric, _, color = CURVES[1]
    return [
        Dot(step, value, f"step {step}: {value:.3f}", color)
        for step, value in series(metrics, metric)
    ]
