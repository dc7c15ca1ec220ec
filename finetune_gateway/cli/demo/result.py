"""What came of a demo, as the page shows it and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import builtin
from finetune_gateway.cli.demo.answers import Answer, Score, samples
from finetune_gateway.cli.demo.page import Prices, Summary, series
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation import profiles
from finetune_gateway.findings import Report
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import cost_text, new_jobs_until_text, time_text
from finetune_gateway.reports.output import format_duration
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
GOAL = 0.9  # of the held-out answers must be as taught
SHOWN = 3  # questions whose answers are printed


@dataclass(frozen=True)
class Place:
    """Where the demo writes: its own files, and the home of its job."""

    out: Path
    home: Path
    own_home: bool  # not one the user has named: other commands must be told of it

    @classmethod
    def under(cls, out: Path) -> Place:
        """Raises SpecError when the folder cannot be made."""
        out, named = out.expanduser().absolute(), os.environ.get("FTG_HOME")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SpecError(
                f"The folder {out} cannot be made: {exc.strerror or exc}.",
                hint="Name another one: ftg demo --out DIR",
            ) from None
        return cls(out, Path(named).expanduser().absolute() if named else out / "home", not named)

    @property
    def summary(self) -> Path:
        return self.out / "summary.html"


@dataclass(frozen=True)
class Trained:
    """A job that ended well, and how fast it was."""

    job: Job
    handle: ModelHandle
    seconds: float  # from the submit to a model that has answered
    seconds_per_step: float


@dataclass(frozen=True)
class Outcome:
    """All that came of the demo."""

    report: Report
    faults: Report
    options: Sequence[Option]
    built: float | None  # seconds the base took; None: it was there
    answers: Sequence[tuple[Answer, Answer]]  # to the same question: before, after
    before: Score
    after: Score
    trained: Trained
    seconds: float

    @property
    def ok(self) -> bool:
        """The fine-tune does as taught, and the base did not."""
        return self.after.share >= GOAL and self.before.share < 1 - GOAL


def price_table(options: Sequence[Option]) -> Prices:
    """Every option in a line of 80 columns, and what the figures rest on."""
    rows = [
        (f"{o.backend} / {o.model}", cost_text(o.estimate), new_jobs_until_text(o.estimate))
        if o.estimate
        else (f"{o.backend} / {o.model}", "cannot", "-")
        for o in options
    ]
    return Prices(("option", "cost (low to high)", "takes jobs until"), rows, [*_notes(options)])


def _notes(options: Sequence[Option]) -> Iterator[str]:
    found = [option.estimate for option in options if option.estimate]
    epochs = SETTINGS["n_epochs"]
    listed = {(price.dated, price.source) for one in found for price in one.prices}
    for option in options:
        if option.error:
            yield f"{option.backend} / {option.model}: {option.error.message}"
    for dated, source in sorted(listed):
        yield f"{epochs} epochs, at prices {dated}: {source}"
    for one in found:
        if not one.data_leaves_machine:
            yield f"{one.model} is trained here: {time_text(one)}, and nothing is sent anywhere."
    closed = profiles.load_profile("openai").no_new_jobs_from
    if closed and clock.today() >= closed:
        yield f"OpenAI takes no new jobs since {closed}."
    others = [name for name in profiles.profile_names() if name not in ("openai", "custom")]
    yield f"No price is built in for {', '.join(others)}; prices.toml in the home adds your own."


def document(found: Outcome, place: Place) -> dict[str, Any]:
    """The figures of the demo as JSON."""
    job, metrics = found.trained.job, found.trained.job.metrics()
    losses = {}
    for name in ("train_loss", "valid_loss"):
        values = [value for _, value in series(metrics, name)]
        losses[name] = {"first": values[0], "last": values[-1], "best": min(values)}
    faults = found.faults.model_dump(mode="json")["findings"]
    return {
        "ok": found.ok,
        "data": found.report.model_dump(mode="json"),
        "faults": [fault for fault in faults if fault["severity"] == "error"],
        "options": [option.document() for option in found.options],
        "before": found.before.document(),
        "after": found.after.document(),
        "training": {
            "job": job.id,
            "settings": SETTINGS,
            "steps": metrics[-1].step,
            "seconds": found.trained.seconds,
            "seconds_per_step": found.trained.seconds_per_step,
            **losses,
        },
        "base": {"model": MODEL, "made_in_seconds": found.built},
        "answers": [
            {
                "prompt": b.question.prompt,
                "intent": b.question.intent,
                "before": b.text,
                "after": a.text,
            }
            for b, a in found.answers
        ],
        "paths": {
            "home": str(place.home),
            "run": str(place.home / "runs" / job.id),
            "model": found.trained.handle.model,
            "summary": str(place.summary),
        },
        "seconds": found.seconds,
    }


def summary(found: Outcome) -> Summary:
    report, trained = found.report, found.trained
    tokens = report.tokens or {}
    settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    made = "was there already" if found.built is None else f"made in {format_duration(found.built)}"
    faults = [f"Line {one.line}: {one.message}" for one in found.faults.errors]
    return Summary(
        model=MODEL,
        before=found.before,
        after=found.after,
        answers=found.answers,
        shown=samples([before.question for before, _ in found.answers], SHOWN),
        metrics=trained.job.metrics(),
        data=[
            ("file", f"{builtin.demo_path('train').name}, {report.rows} rows, {report.format}"),
            ("checked", f"{report.outcome}, {len(report.findings)} findings"),
            ("tokens", f"{tokens.get('total', 0):,}, {tokens.get('trained', 0):,} of them trained"),
            ("two planted faults", " ".join(faults)),
        ],
        run=[
            ("job", trained.job.id),
            ("base model", f"{MODEL}, {made}"),
            ("settings", settings),
            (
                "time",
                f"{format_duration(trained.seconds)}, {trained.seconds_per_step:.2g} s a step",
            ),
            ("demo", f"{format_duration(found.seconds)} in all"),
        ],
        prices=price_table(found.options),
    )
