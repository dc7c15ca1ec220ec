"""Which checkpoints a local job keeps once it has succeeded, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.chaos import slots_taken
from support.points import saved_checkpoints

from finetune_gateway import Gateway, SpecError
from finetune_gateway.backends.local import checkpoints, finishing
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.run import Run
from finetune_gateway.events import Result
from finetune_gateway.jobs.pruning import Pruner
from finetune_gateway.jobs.removal import trained_from
from finetune_gateway.reports.job_text import job_facts
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.sizes import bytes_of

BEST = Result(kind="adapter", model="model", metrics={"step": 10})


@pytest.fixture
def run(home: Path, tiny_folder: Path, rows: Callable[[int], Any]) -> Run:
    """A job that waits, with checkpoints as at the end of its training: the best one, the last two,
    and one that was set aside."""
    with slots_taken(home):
        job = Gateway().submit(rows(12), model=str(tiny_folder), backend="local", max_steps=4)
        assert isinstance(job.backend, LocalBackend)
        job.backend.queue.pause(job.id)
        made = Run(Settings(home), job.id, job.backend.queue.get(job.id).fence)
        saved_checkpoints(made.checkpoints, 10, 15, 20, 25)
        checkpoints.set_aside(made.checkpoints / "checkpoint-15", "a bit")
        return made


def steps(run: Run) -> list[int]:
    return [one.step for one in checkpoints.whole(run.checkpoints)]


def said(run: Run) -> list[str]:
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    return [line for line in lines if '"removed":' in line]


def test_the_best_and_the_last_stay(run: Run) -> None:
    """The others go, in bytes; a second time there is nothing to say."""
    size = bytes_of([run.checkpoints / "checkpoint-20"])
    finishing.remove_surplus(run, BEST)
    assert steps(run) == [10, 25]
    [line] = said(run)
    assert f"Removed checkpoint-20, {size:,} bytes: a job that has succeeded keeps its best" in line
    assert f'"bytes":{size}' in line.replace(" ", "")
    assert (run.checkpoints / "damaged-checkpoint-15").exists(), "it goes with the run, by prune"
    finishing.remove_surplus(run, BEST)
    assert len(said(run)) == 1
    job = Gateway().job(run.id)
    with job.store.transaction() as db:
        for step in (10, 20, 25):
            path = f"{run.id}/checkpoints/checkpoint-{step}"
            stored = job.store.settings.stored_path(str(run.settings.runs / path))
            row = (run.id, str(step), step, stored)
            db.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, '{}', '{}')", row)
    assert job_facts(job)["checkpoints"].startswith("2, at step 10 and 25, ")


@pytest.mark.parametrize(
    ("number", "kept"), [("0", [10]), ("1", [10, 25]), ("2", [10, 20, 25]), ("9", [10, 20, 25])]
)
def test_how_many_is_a_setting(run: Run, number: str, kept: list[int]) -> None:
    config.write(run.settings, "retention.checkpoints", number)
    finishing.remove_surplus(run, BEST)
    assert steps(run) == kept


def test_a_setting_that_cannot_be_read_deletes_nothing(run: Run) -> None:
    with pytest.raises(SpecError, match="checkpoints as a number from 0 to 10,000"):
        config.write(run.settings, "retention.checkpoints", "-1")
    run.settings.config.write_text("[")
    finishing.remove_surplus(run, BEST)
    assert steps(run) == [10, 20, 25]


def test_what_another_job_needs_stays(run: Run) -> None:
    """One rule for the end of a job and for prune: its base, and an adapter that a job which was
    not started yet has no copy of."""
    checkpoints.keep(run.checkpoints / "checkpoint-20")
    finishing.remove_surplus(run, BEST)
    assert steps(run) == [10, 20, 25]
    (run.checkpoints / "checkpoint-20" / checkpoints.BASE_OF_OTHERS).unlink()
    gateway = Gateway()
    record = gateway.job(run.id).record
    with gateway.store.transaction() as db:
        columns = [row["name"] for row in db.execute("PRAGMA table_info(jobs)")]
        same = ", ".join(name for name in columns if name not in ("id", "submit_key"))
        db.execute(
            f"INSERT INTO jobs (id, submit_key, {same})"
            f" SELECT 'ftg-other', 'other', {same} FROM jobs WHERE id = ?",
            (run.id,),
        )
        db.execute(
            "UPDATE jobs SET provider_id = NULL, step = 'intent',"
            " spec = json_set(spec, '$.continue_from', ?) WHERE id = 'ftg-other'",
            (f"{run.id}@20",),
        )
        db.execute("UPDATE jobs SET status = 'failed', finished_at = 1 WHERE id = ?", (run.id,))
        db.execute("UPDATE runs SET status = 'failed' WHERE id = ?", (run.id,))
    assert trained_from(gateway.store, record, needing_it=True) == ["ftg-other"]
    finishing.remove_surplus(run, BEST)
    assert steps(run) == [10, 20, 25]

    def runs() -> list[str]:
        pruner = Pruner(gateway.store, lambda record: gateway.job(record.id).backend, 0)
        return [item.name for item in pruner.here() if item.kind == "run"]

    assert runs() == []
    with gateway.store.transaction() as db:  # it has its copy
        db.execute("UPDATE jobs SET provider_id = 'other' WHERE id = 'ftg-other'")
    assert runs() == [run.id]
    finishing.remove_surplus(run, BEST)
    assert steps(run) == [10, 25]
