"""The summary that ``ftg demo`` leaves: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_gateway.cli.demo.answers import Answer, Score
from finetune_gateway.events import Metric
from finetune_gateway.reports.charts import Chart
from finetune_gateway.reports.layout import render
from finetune_gateway.reports.loss_chart import CURVES, loss_chart, series


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
