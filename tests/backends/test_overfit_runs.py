"""Whole trainings of builtin/tiny: one that learns 30 rows by heart is named, five healthy ones are
not. Minutes each: ``make chaos``."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Literal

import pytest

from finetune_gateway import Gateway
from finetune_gateway.backends.local import builtin, models
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.overfitting import best
from finetune_gateway.reports.job_text import job_text
from finetune_gateway.reports.loss_chart import overfitting_note, series
from finetune_gateway.settings.home import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

WORDS = ["red", "blue", "parcel", "order", "shop", "refund", "water", "letter", "table", "green"]
HEALTHY: dict[str, dict[str, Any]] = {
    "as the demo": {"n_epochs": 6, "learning_rate": 2e-3, "seed": 42},
    "by default": {"rows": 270},
    "half of the rows": {"rows": 135, "n_epochs": 6, "learning_rate": 2e-3},
    "a small adapter": {"n_epochs": 4, "learning_rate": 1e-3, "lora_r": 4},
    "all weights": {"n_epochs": 3, "learning_rate": 3e-4, "training_type": "full"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with builtin/tiny."""
    folder = tmp_path_factory.mktemp("made")
    models.with_weights(builtin.NAME, Settings(folder).create(), lambda text: None)
    return folder


def demo(name: Literal["train", "validation"], count: int) -> list[dict[str, Any]]:
    lines = builtin.demo_path(name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines[:count]]


def by_heart(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows whose answers do not follow from their questions."""
    rng = random.Random(seed)
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(rng.choices(WORDS, k=6))},
                {"role": "assistant", "content": " ".join(rng.choices(WORDS, k=12))},
            ]
        }
        for _ in range(count)
    ]


def trained(home: Path, rows: Any, held_out: Any, **options: Any) -> Job:
    job = Gateway(home).submit(
        rows, model=builtin.NAME, backend="local", validation=held_out, again=True, **options
    )
    assert job.wait(timeout=1200).error is None
    return job


def test_thirty_rows_learned_by_heart_are_named(made: Path) -> None:
    """30 rows, 30 epochs: within one evaluation of the minimum, whose model is the result; in the
    warnings, the status and the handle."""
    job = trained(
        made, by_heart(30, 1), by_heart(8, 2), n_epochs=30, training_type="full", learning_rate=1e-3
    )
    valid = series(job.metrics(), "valid_loss")
    step, loss = best(valid)
    handle = job.result()
    assert handle.metrics["step"] == step and handle.metrics["valid_loss"] == pytest.approx(loss)
    [named] = [text for text in handle.warnings if "overfits" in text]
    assert f"overfits from step {step:,} on" in named
    assert overfitting_note(job.metrics()).startswith(f"overfitting from step {step:,} on")
    shown = " ".join(job_text(job).split())
    assert f"best at step {step:,}" in shown and f"overfits from step {step:,} on" in shown
    assert step in [one.step for one in job.checkpoints()]
    assert valid[-1][0] < 120, "it has ended early"


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_never_named(made: Path, name: str) -> None:
    """Whatever their rows, epochs, rates and weights, with all steps taken."""
    options = {"rows": 270, "early_stopping_patience": 0, **HEALTHY[name]}
    job = trained(made, demo("train", options.pop("rows")), demo("validation", 36), **options)
    assert job.record.result is not None
    assert not [text for text in job.record.result.warnings if "overfits" in text]
    assert overfitting_note(job.metrics()) == ""
