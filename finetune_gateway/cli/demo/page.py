"""The summary that ``ftg demo`` leaves: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from finetune_gateway.cli.demo.answers import Answer, Score
from finetune_gateway.events import Metric
from finetune_gateway.reports.layout import document, facts, table, ticks, tiles

CURVES = (("train_loss", "training"), ("valid_loss", "validation"))
LEAST = 1e-4  # losses below are drawn there: 0 has no logarithm
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 40  # pixels around the picture, for the axes

STYLE = """
:root { --train_loss: #2266cc; --valid_loss: #c2570c }
@media (prefers-color-scheme: dark) { :root { --train_loss: #76aaf2; --valid_loss: #f2a45c } }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round }
.train_loss { stroke: var(--train_loss) } .valid_loss { stroke: var(--valid_loss) }
circle.valid_loss { fill: var(--valid_loss) }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .3rem 0 .6rem;
  font-size: .9rem } .legend svg { display: inline-block; width: 28px; vertical-align: middle;
  margin-right: .4rem } .answers td { width: 33% } .kept { color: var(--good); font-weight: 600 }
"""


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
    shown: Sequence[int]  # places of the answers that stand on top
    metrics: Sequence[Metric]
    data: Sequence[tuple[str, str]]
    run: Sequence[tuple[str, str]]
    prices: Prices


def page(found: Summary) -> str:
    """The whole file."""
    before, after = found.before, found.after
    title = f"{found.model}: {before.kept} of {before.prompts} before, {after.kept} after"
    shown = [found.answers[place] for place in found.shown]
    parts = [
        f"<h1>{escape(title)}</h1>",
        '<p class="soft">Answers to prompts nobody was trained on that are one JSON object with '
        "the taught keys and allowed values, before and after a LoRA fine-tune on this "
        "machine.</p>",
        _tiles(found),
        "<h2>Loss</h2>",
        losses(found.metrics),
        "<h2>Before and after</h2>",
        _answers(shown),
        f"<details><summary>All {len(found.answers)} held-out prompts</summary>"
        f"{_answers(found.answers)}</details>",
        f"<h2>Data</h2>{facts(found.data)}",
        f"<h2>What each option costs</h2>{_prices(found.prices)}",
        f"<h2>The run</h2>{facts(found.run)}",
    ]
    return document(title, STYLE, "\n".join(parts))


def _tiles(found: Summary) -> str:
    before, after = found.before, found.after
    shown = [
        (f"{before.kept} → {after.kept} of {after.prompts}", "answers as taught"),
        (f"{before.intents_right} → {after.intents_right}", "with the right intent"),
    ]
    for name, label in CURVES:
        values = [value for _, value in series(found.metrics, name)]
        if values:
            shown.append((f"{values[0]:.2f} → {values[-1]:.2f}", f"{label} loss"))
    return tiles(shown)


def _answers(pairs: Sequence[tuple[Answer, Answer]]) -> str:
    head = ("prompt", "before", "after")
    rows = [
        [escape(before.question.prompt), _said(before), _said(after)] for before, after in pairs
    ]
    return table("answers stack", head, rows)


def _said(answer: Answer) -> str:
    mark = "" if answer.fault else '<span class="kept" title="as taught">✓</span> '
    return f"{mark}<code>{escape(answer.text)}</code>"


def _prices(prices: Prices) -> str:
    rows = [[escape(cell) for cell in row] for row in prices.rows]
    notes = [f'<p class="soft">{escape(note)}</p>' for note in prices.notes]
    return table("stack", prices.head, rows) + "".join(notes)


# ---------------------------------------------------------------------- the picture


def losses(metrics: Sequence[Metric]) -> str:
    """Both curves with a legend, drawn twice: wide, and narrow with letters just as large."""
    drawn = [chart(metrics, 720, 300, "wide"), chart(metrics, 340, 260, "narrow")]
    return "\n".join([_legend(metrics), *drawn])


def series(metrics: Sequence[Metric], name: str) -> list[tuple[int, float]]:
    """A figure by step, where there is one."""
    found = [(metric.step, getattr(metric, name)) for metric in metrics]
    return [(step, value) for step, value in found if value is not None]


def _legend(metrics: Sequence[Metric]) -> str:
    entries = []
    for name, label in CURVES:
        if series(metrics, name):
            dot = f'<circle class="{name}" cx="14" cy="6" r="3"/>' if name == "valid_loss" else ""
            line = f'<path class="curve {name}" d="M0 6H28"/>'
            entries.append(f'<span><svg viewBox="0 0 28 12">{line}{dot}</svg>{label}</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


@dataclass(frozen=True)
class Frame:
    """Where a step and a loss stand in a picture of ``width`` by ``height`` pixels. The loss is
    on a logarithmic scale: it falls fast, and the rest would lie on the floor."""

    width: int
    height: int
    steps: int  # the right end; the left is 0
    low: float  # the loss at the lower end, above 0
    high: float

    def x(self, step: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * step / self.steps

    def y(self, loss: float) -> float:
        share = math.log(max(loss, self.low) / self.low) / math.log(self.high / self.low)
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * share


def chart(metrics: Sequence[Metric], width: int, height: int, kind: str) -> str:
    """Training and validation loss by step as SVG, or a word when there is no figure."""
    points = {name: series(metrics, name) for name, _ in CURVES}
    every = [point for curve in points.values() for point in curve]
    if not every:
        return f'<p class="{kind}">No losses were reported.</p>'
    up = loss_ticks([loss for _, loss in every])
    frame = Frame(width, height, max(1, *(step for step, _ in every)), up[0], up[-1])
    drawn = [*_grid(frame, up), *(_curve(frame, name, points[name]) for name, _ in CURVES)]
    told = "; ".join(
        f"{label} {points[name][0][1]:.2f} to {points[name][-1][1]:.2f}"
        for name, label in CURVES
        if points[name]
    )
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Loss by step: {told}">{"".join(drawn)}</svg>'
    )


def _grid(frame: Frame, up: Sequence[float]) -> Iterator[str]:
    """Both axes: lines, figures, names."""
    foot = frame.height - BOTTOM
    for loss in up:
        y = frame.y(loss)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{frame.width - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>'
    for step in ticks(frame.steps, frame.width // 90):
        x = frame.x(step)
        yield f'<path class="grid" d="M{x:.1f} {foot}v4"/>'
        yield f'<text x="{x:.1f}" y="{foot + 17}" text-anchor="middle">{step}</text>'
    middle = (LEFT + frame.width - RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{frame.height - 6}" text-anchor="middle">step</text>'
    turned = f"translate(11 {foot / 2:.0f}) rotate(-90)"
    yield f'<text transform="{turned}" text-anchor="middle">loss, log scale</text>'


def _curve(frame: Frame, name: str, points: Sequence[tuple[int, float]]) -> str:
    """A line through the points; those of the validation, which are few, get dots too."""
    if not points:
        return ""
    places = [f"{frame.x(step):.1f} {frame.y(value):.1f}" for step, value in points]
    line = f'<path class="curve {name}" d="M{"L".join(places)}"/>'
    if name != "valid_loss":
        return line
    dots = [
        f'<circle class="{name}" cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="3">'
        f"<title>step {step}: {value:.3f}</title></circle>"
        for step, value in points
    ]
    return line + "".join(dots)


def loss_ticks(losses: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten, from below the lowest to above the highest."""
    low, high = max(min(losses), LEAST), max(*losses, 2 * LEAST)
    known = [
        round(factor * 10.0**power, 9)
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    first = max(i for i, tick in enumerate(known) if tick <= low)
    last = min(i for i, tick in enumerate(known) if tick >= high)
    return known[first : max(last, first + 1) + 1]
