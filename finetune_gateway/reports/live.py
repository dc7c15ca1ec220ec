"""The live screen of ``ftg watch``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_gateway.events import Event, JobStatus
from finetune_gateway.jobs import history
from finetune_gateway.jobs.history import Curves
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.overfitting import best, find_overfitting
from finetune_gateway.reports.job_text import (
    job_share,
    last_step,
    pace_text,
    phase_share,
    place_text,
    preference_text,
)
from finetune_gateway.reports.output import terminal_width
from finetune_gateway.text.cleaning import visible

BARS = "▁▂▃▄▅▆▇█"
CURVE = 24  # columns of a sparkline
NARROW = 72  # columns below which progress takes two lines, and a curve is shorter
COLOURS = {
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "yellow",
}


def follow_on_screen(job: Job) -> None:
    """Draw the job until it ends. KeyboardInterrupt passes through."""
    curves = history.curves(job.store, job.id)
    view = View(job, curves)
    console = Console(highlight=False)
    with Live(view, console=console, refresh_per_second=4, transient=False):
        for event in job.watch(after=curves.number):
            view.add(event)


class View:
    """The state of a job, drawn again at each refresh.

    rich draws in a thread of its own, so nothing here may use the store.
    """

    def __init__(self, job: Job, curves: Curves | None = None) -> None:
        """``curves``: what is stored of the job; ``add`` adds what comes later."""
        curves = curves or Curves()
        self.job = job
        self.losses = {"train_loss": dict(curves.train), "valid_loss": dict(curves.valid)}
        self.latest: dict[str, Any] = dict(curves.values)
        self.began, self.at = curves.began, curves.at
        self.message = _one_line(curves.message)
        self._drawn: tuple[int, list[Text]] = (-1, [])  # curves, and after how many events
        self._added = 0

    def add(self, event: Event) -> None:
        """Add an event of the job."""
        step = event.data.get("step")
        if event.type != "metrics" or not isinstance(step, int):
            self.message = _one_line(event.message)
            return
        numbers = {k: v for k, v in event.data.items() if isinstance(v, int | float)}
        if self.at is None or step >= self.at[0]:  # told late, it is not what holds now
            self.latest |= numbers
            self.at = (step, event.created_at)
        if self.began is None or step <= self.began[0]:
            self.began = (step, event.created_at)
        for name, points in self.losses.items():
            if name in numbers:
                points[step] = numbers[name]
        self._added += 1

    def __rich__(self) -> RenderableType:
        parts = [
            self._head(),
            self._progress(),
            *self._pace(),
            *self._curves(),
            *self._preferences(),
        ]
        if self.job.trouble is not None:
            parts.append(Text(f"as last seen, for {visible(self.job.trouble.message)}", "yellow"))
        if self.message:
            parts.append(Text(self.message, "dim", no_wrap=True, overflow="ellipsis"))
        if not self.job.status.final:
            parts.append(Text("Ctrl-C leaves the job running.", "dim"))
        return Group(*parts)

    def values(self, name: str) -> list[float]:
        """Return a loss by step."""
        return [value for _, value in self.series(name)]

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return a loss with its steps."""
        return sorted(self.losses[name].items())

    def _head(self) -> Text:
        record = self.job.record
        counted = phase_share(record.phase)  # then the bar says how far
        doing = counted[0] if counted else visible(record.phase)
        doing = ", ".join(filter(None, (doing, place_text(record))))
        phase = f" ({doing})" if doing and not record.status.final else ""
        return Text.assemble(
            (record.id, "bold"),
            f"  {record.display_name}  {visible(record.spec.model)}  ",
            (record.status.value, COLOURS.get(record.status, "cyan")),
            phase,
        )

    def _progress(self) -> RenderableType:
        step, total = self._step()
        parts = [f"elapsed {_format_clock(self._elapsed())}"]
        if total:
            parts.insert(0, f"step {step:,}/{total:,}")
        if "epoch" in self.latest:
            parts.insert(0, f"epoch {self.latest['epoch']:.2f}")
        left = self._left(step, total)
        if left is not None:
            parts.append(f"left {_format_clock(left)}")
        row = Table.grid(padding=(0, 2))
        counted = None if total else job_share(self.job.record)
        share = counted[1] if counted else step / total if total else None
        if share is not None:
            facts, bar = Text("  ".join(parts)), ProgressBar(1.0, share, width=16)
            if terminal_width() < NARROW:
                row.add_row(bar, f"{100 * share:3.0f}%")
                return Group(row, facts)
            row.add_row(bar, f"{100 * share:3.0f}%", facts)
        else:
            row.add_row(Text("  ".join(parts)))
        return row

    def _step(self) -> tuple[int, int]:
        step, total = (self.at[0] if self.at else 0), int(self.latest.get("total_steps", 0))
        if self.job.status is JobStatus.SUCCEEDED and total:
            total = last_step(self.job.record) or total  # it may have ended early
            step = total
        return step, total

    def _elapsed(self) -> float:
        record = self.job.record
        return (record.finished_at or time.time()) - record.created_at

    def _left(self, step: int, total: int) -> float | None:
        """Return the seconds left, from the time that steps have taken so far."""
        if self.job.status.final or not total or not self.began or not self.at:
            return None
        if self.at[0] == self.began[0]:
            return None
        each = (self.at[1] - self.began[1]) / (self.at[0] - self.began[0])
        since = max(0.0, time.time() - self.at[1])
        return max(0.0, each * (total - step) - since)

    def _pace(self) -> list[Text]:
        """Return speed, memory, norm of the gradient and learning rate, of a job that runs."""
        if self.job.status.final or self.at is None:
            return []
        names = ("trained_tokens_per_second", "memory_bytes", "grad_norm", "learning_rate")
        text = pace_text({name: self.latest.get(name) for name in names})
        return [Text(text, "dim", no_wrap=True, overflow="ellipsis")] if text else []

    def _preferences(self) -> list[Text]:
        """Return how often, and by how much, the better answer is preferred."""
        text = preference_text(self.latest)
        return [Text(text, no_wrap=True, overflow="ellipsis")] if text else []

    def _curves(self) -> list[Text]:
        """Return the losses and whether they show overfitting, drawn again after an event: there
        may be very many."""
        now = self._added
        if self._drawn[0] != now:
            train, valid = self.series("train_loss"), self.series("valid_loss")
            curves = [loss_curve("train_loss", train), loss_curve("valid_loss", valid)]
            note = find_overfitting(train, valid)
            notes = [Text(f"note: {note}", "yellow")] if note else []
            self._drawn = (now, [text for text in curves if text is not None] + notes)
        return self._drawn[1]


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _format_clock(seconds: float) -> str:
    """Return ``8:41`` or ``1:08:41``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def loss_curve(name: str, points: Sequence[tuple[int, float]]) -> Text | None:
    """Return ``train_loss  █▆▄▂▁  1.92 → 0.61  best 0.60 at step 180``, or None without points."""
    if not points:
        return None
    values = [value for _, value in points]
    figures, columns = f"{values[0]:.3g} → {values[-1]:.3g}", CURVE
    if terminal_width() >= NARROW:
        step, lowest = best(points)
        figures += f"  best {lowest:.3g} at step {step:,}"
    else:
        columns = min(CURVE, max(1, terminal_width() - len(figures) - 14))
    return Text.assemble(f"{name:<11} ", (sparkline(values, columns), "cyan"), f"  {figures}")


def sparkline(values: Sequence[float], columns: int) -> str:
    """Return the values as bars; more values than ``columns`` are averaged."""
    if len(values) > columns:
        edges = [round(i * len(values) / columns) for i in range(columns + 1)]
        values = [
            sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False) if b > a
        ]
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)
