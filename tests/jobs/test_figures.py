"""What a host says of a job beside its status: its cost so far, its progress, its place in line."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, cast

import pytest
from rich.console import Console
from support.cli import Ftg
from support.records import record

from finetune_gateway import FakeBackend, Gateway
from finetune_gateway.backend.snapshots import FIGURES
from finetune_gateway.events import JobStatus, Snapshot
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.live import View

WAITS = {"status": "queued", "place_in_line": 3}
RUNS = {"status": "running", "phase": "training", "progress": 0.42, "cost_usd": "1.25"}
ENDS = {"status": "failed", "error": "Out of disk.", "progress": 0.9, "cost_usd": "2.50"}


def job_after(script: list[dict[str, Any]]) -> Job:
    """A job that was polled once for each of these."""
    gateway = Gateway()
    backend = FakeBackend(script=script)
    stored = gateway.store.add(record(backend_options=backend.options(), estimate=ESTIMATE))[0]
    gateway.store.set_sent(stored.id, f"fake-{stored.id}")
    job = gateway.job(stored.id)
    for _ in script:
        job.refresh()
    return job


ESTIMATE = {"cost_usd": {"low": "1", "expected": "1.5", "high": "2"}, "prices": []}


def test_a_job_that_waits_shows_its_place(ftg: Ftg, home: object) -> None:
    """In status, list and JSON; while another process reads it from the store."""
    job = job_after([WAITS])
    assert "place 3 in line" in ftg("status", job.id).stdout
    assert "queued place 3 in line" in " ".join(ftg("list").stdout.split())
    assert job.to_dict()["place_in_line"] == 3


def test_a_job_that_runs_shows_how_far_it_is_and_what_it_costs(ftg: Ftg, home: object) -> None:
    """The place is gone; a cost above the estimate counts in the budget at once."""
    job = job_after([WAITS, RUNS, {**RUNS, "cost_usd": "2.25"}])
    status = " ".join(ftg("status", job.id).stdout.split())
    assert "progress 42%" in status and "cost $2.25 so far, as fake bills it" in status
    assert "running 42%" in " ".join(ftg("list").stdout.split())
    kept = job.to_dict()
    assert (kept["progress"], kept["cost_usd"], kept["place_in_line"]) == (0.42, "2.25", None)
    assert Gateway().budget().reserved_usd == Decimal("2.25")


def test_the_last_cost_is_the_actual_one(ftg: Ftg, home: object) -> None:
    """Of a job that has failed too, and where the last poll says nothing of it."""
    silent = {name: value for name, value in ENDS.items() if name != "cost_usd"}
    for end, usd in ((ENDS, "2.50"), (silent, "1.25")):
        job = job_after([RUNS, end])
        assert job.actual is not None and job.actual.cost_usd == Decimal(usd)
        assert "as fake bills it" in ftg("status", job.id).stdout
    assert Gateway().budget().spent_usd == Decimal("3.75")
    assert Gateway().costs().totals.actual_usd == Decimal("3.75")
    assert "%" not in ftg("list").stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("cost_usd", value) for value in (Decimal("NaN"), Decimal(-1), Decimal(10**12), True)),
        *(("progress", value) for value in (float("nan"), -0.1, 1.5, "half")),
        *(("place_in_line", value) for value in (0, -3, 2.5, 10**20, True)),
        ("trained_tokens", 2.5),
        *((name, value) for name in FIGURES for value in (10**400, Decimal("sNaN"))),
    ],
)
def test_what_is_no_figure_is_left_out(home: object, name: str, value: object) -> None:
    """The rest of the answer counts."""
    given = Snapshot(status=JobStatus.RUNNING, raw_status="busy").model_copy(update={name: value})

    class Lying(FakeBackend):
        def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
            return given

    seen = Lying().poll("fake-1", None)
    assert getattr(seen, name) is None and seen.raw_status == "busy"


def test_the_screen_has_a_bar_of_the_whole_job() -> None:
    """Where no steps are reported; a place in line stands beside the status."""
    job = Job(record(status=JobStatus.RUNNING, progress=0.42), *cast(Any, (None, None, None)))
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(View(job))
    assert "42%" in captured.get()
    job.record = record(status=JobStatus.QUEUED, place_in_line=7)
    with console.capture() as captured:
        console.print(View(job))
    assert "queued (place 7 in line)" in captured.get()
