"""The results of a demo, as JSON and for its page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import builtin
from finetune_gateway.cli.demo.answers import Answer, Score
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation import profiles
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.findings import Report
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.overfitting import best
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import cost_text, new_jobs_until_text, time_text
from finetune_gateway.reports.layout import raise_if_foreign
from finetune_gateway.reports.loss_chart import series
from finetune_gateway.settings import clock

MODEL = builtin.NAME
SETTINGS: dict[str, Any] = {
    "n_epochs": 6,
    "batch_size": 8,
    "learning_rate": 2e-3,  # ten times the default: 2 million parameters, not billions
    "lora_r": 16,
    "lora_alpha": 32,
    "seed": 42,
}
REPORT = "report.html"
GOAL = 0.9  # share of the held-out answers that must be as taught
SHOWN = 3  # questions whose answers are printed


@dataclass(frozen=True)
class Prices:
    """The table of options, as text, and what it rests on."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Folders:
    """Where the demo writes: its own files, and the home of its job."""

    out: Path
    home: Path
    own_home: bool  # False if the user has set FTG_HOME

    @classmethod
    def create(cls, out: Path) -> Folders:
        """Create the folder. Raises SpecError if that fails, or if a file that is not ours has the
        name of the report."""
        out, home = out.expanduser().absolute(), os.environ.get("FTG_HOME")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SpecError(
                f"The folder {out} cannot be created: {exc.strerror or exc}.",
                hint="Choose another: ftg demo --out DIR",
            ) from None
        raise_if_foreign(out / REPORT)
        return cls(out, Path(home).expanduser().absolute() if home else out / "home", not home)

    @property
    def report(self) -> Path:
        return self.out / REPORT

    def run(self, job: Job) -> Path:
        """Return the run folder of a job."""
        return self.home / "runs" / job.id


@dataclass(frozen=True)
class Trained:
    """A job that succeeded, and how fast it was."""

    job: Job
    handle: ModelHandle
    seconds: float  # from submit until the model has answered
    seconds_per_step: float


@dataclass(frozen=True)
class DemoResult:
    """All results of the demo."""

    report: Report
    broken_report: Report  # of the copy with errors
    options: Sequence[Option]
    build_seconds: float | None  # of the base model; None: it was built before
    answers: Sequence[tuple[Answer, Answer]]  # to the same question: before, after
    before: Score
    after: Score
    trained: Trained
    comparison: Comparison
    seconds: float

    @property
    def ok(self) -> bool:
        """Return True if the fine-tuned model answers as taught, and the base model did not."""
        return self.after.share >= GOAL and self.before.share < 1 - GOAL


def price_table(options: Sequence[Option]) -> Prices:
    """Return a row of at most 80 columns per option, and what the figures rest on."""
    rows = [
        (f"{o.backend} / {o.model}", cost_text(o.estimate), new_jobs_until_text(o.estimate))
        if o.estimate
        else (f"{o.backend} / {o.model}", "not possible", "-")
        for o in options
    ]
    return Prices(("option", "cost (low to high)", "new jobs until"), rows, [*_notes(options)])


def _notes(options: Sequence[Option]) -> Iterator[str]:
    estimates = [option.estimate for option in options if option.estimate]
    epochs = SETTINGS["n_epochs"]
    sources = {(price.dated, price.source) for one in estimates for price in one.prices}
    for option in options:
        if option.error:
            yield f"{option.backend} / {option.model}: {option.error.message}"
    for dated, source in sorted(sources):
        yield f"{epochs} epochs, at prices {dated}: {source}"
    for one in estimates:
        if not one.data_leaves_machine:
            yield f"{one.model} is trained on this machine: {time_text(one)}; nothing is sent."
    closed = profiles.load_profile("openai").no_new_jobs_from
    if closed and clock.today() >= closed:
        yield f"OpenAI takes no new jobs since {closed}."
    others = [name for name in profiles.profile_names() if name not in ("openai", "custom")]
    yield f"No prices are built in for {', '.join(others)}; add your own: ftg prices set"


def document(result: DemoResult, folders: Folders) -> dict[str, Any]:
    """Return the figures of the demo as JSON."""
    job, metrics = result.trained.job, result.trained.job.metrics()
    losses = {}
    for name in ("train_loss", "valid_loss"):
        points = series(metrics, name)
        step, lowest = best(points)
        first, last = points[0][1], points[-1][1]
        losses[name] = {"first": first, "last": last, "best": lowest, "best_step": step}
    findings = result.broken_report.model_dump(mode="json")["findings"]
    return {
        "ok": result.ok,
        "data": result.report.model_dump(mode="json"),
        "faults": [finding for finding in findings if finding["severity"] == "error"],
        "options": [option.document() for option in result.options],
        "before": result.before.document(),
        "after": result.after.document(),
        "training": {
            "job": job.id,
            "settings": SETTINGS,
            "steps": metrics[-1].step,
            "seconds": result.trained.seconds,
            "seconds_per_step": result.trained.seconds_per_step,
            **losses,
        },
        "base": {"model": MODEL, "made_in_seconds": result.build_seconds},
        "answers": [
            {
                "prompt": before.question.prompt,
                "intent": before.question.intent,
                "before": before.text,
                "after": after.text,
            }
            for before, after in result.answers
        ],
        "paths": {
            "home": str(folders.home),
            "run": str(folders.run(job)),
            "model": result.trained.handle.model,
            "report": str(folders.report),
        },
        "comparison": result.comparison.data.model_dump(mode="json"),
        "seconds": result.seconds,
    }
