"""The live screen of a job: how much time is left."""

from __future__ import annotations

import time
from typing import Any, cast

from rich.console import Console
from support.records import record

from finetune_gateway.events import Event, JobStatus, Metric
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.job_history_text import metrics_text
from finetune_gateway.reports.job_text import preference_text
from finetune_gateway.reports.live import View


def screen(*steps: int, total: int, seconds: float, **beside: float) -> str:
    """What the screen shows after metrics of these steps, each step of so many seconds."""
    job = Job(record(status=JobStatus.RUNNING), *cast(Any, (None, None, None)))
    view, now = View(job), time.time()
    for step in steps:
        moment = now - (steps[-1] - step) * seconds
        data = {"step": step, "total_steps": total, "train_loss": 1.0, **beside}
        view.add(Event(id=str(step), created_at=moment, type="metrics", data=data))
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_the_time_left_counts_steps_not_reports() -> None:
    """Metrics come every 20 steps of 30 s; after step 60 of 100 there are 20 minutes left."""
    text = screen(20, 40, 60, total=100, seconds=30)
    assert "step 60/100" in text and "left 20:00" in text


def test_nothing_is_predicted_from_one_report() -> None:
    """One report says nothing about the speed."""
    assert "left" not in screen(20, total=100, seconds=30)


def test_how_often_the_better_answer_is_preferred_is_on_the_screen() -> None:
    """Of held-out rows where there are some; and in the table of ``ftg metrics`` before what a
    narrow terminal cuts off."""
    figures = {"train_rewards/margins": 0.5, "train_rewards/accuracies": 1.0, "epoch": 1.0}
    text = screen(20, total=100, seconds=1, **figures)
    assert "rewards/accuracies 1, rewards/margins 0.5 on the rows it trains" in text
    figures |= {"valid_rewards/margins": 0.25, "valid_rewards/accuracies": 0.75}
    text = screen(20, total=100, seconds=1, **figures)
    assert "rewards/accuracies 0.75, rewards/margins 0.25 on held-out rows" in text
    assert preference_text({"valid_loss": 1.0}) == ""
    kto = {"train_rewards/chosen": 0.1, "train_rewards/rejected": -0.2}
    assert preference_text(kto) == "rewards/chosen 0.1, rewards/rejected -0.2 on the rows it trains"
    metric = Metric.model_validate({"step": 1, "train_loss": 1.0, "valid_loss": 1.0, **figures})
    head = metrics_text([metric]).splitlines()[0]
    names = [
        "step",
        "train_loss",
        "valid_loss",
        "valid_rewards/accuracies",
        "valid_rewards/margins",
    ]
    assert head.split() == names and len(head) <= 80
