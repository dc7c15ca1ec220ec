"""The live screen of a job: how much time is left."""

from __future__ import annotations

import time
from typing import Any, cast

from rich.console import Console
from support.records import record

from finetune_gateway.events import Event, JobStatus
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.live import View


def screen(*steps: int, total: int, seconds: float) -> str:
    """What the screen shows after metrics of these steps, each step of so many seconds."""
    job = Job(record(status=JobStatus.RUNNING), *cast(Any, (None, None, None)))
    view, now = View(job), time.time()
    for step in steps:
        moment = now - (steps[-1] - step) * seconds
        data = {"step": step, "total_steps": total, "train_loss": 1.0}
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
