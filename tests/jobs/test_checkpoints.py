"""JOB@STEP: a model that a job has saved during training. Of local ones: test_local.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Ftg
from support.provider import Provider
from support.records import record

from finetune_gateway import Gateway, Job, JobRemoved, NotFoundError, OpenAIBackend, SpecError
from finetune_gateway.events import Checkpoint, Event, JobStatus, Snapshot
from finetune_gateway.jobs import model_names, results
from finetune_gateway.reports.job_history_text import checkpoints_text

MODEL = "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as started:
        yield started


def trained(provider: Provider, file: Path) -> Job:
    """A job that has succeeded, with the checkpoints that its host shows."""
    place = OpenAIBackend(
        base_url=provider.url, api_key=provider.api_key, poll_seconds=0.02, settle_seconds=0.1
    )
    return Gateway().submit(file, model=MODEL, backend=place, n_epochs=3).wait(30)


def test_a_checkpoint_of_a_host_answers_under_its_own_id(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """By its step, as the last one, and by its id alone, which leads back to the job and its host;
    it was asked nothing before. What is not there is named beside what is."""
    job = trained(provider, train_file)
    points = job.checkpoints()
    steps = [point.step for point in points]
    assert len(steps) > 1
    before = provider.posts["/chat/completions"]
    handle = job.result(step=steps[0])
    assert provider.posts["/chat/completions"] == before and not handle.ready
    assert (handle.model, handle.step, handle.job_id) == (points[0].model, steps[0], job.id)
    assert handle.model != job.result().model and handle.chat("Hi").text
    assert job.result(step="last").step == steps[-1]
    store = Gateway().store
    for name in (f"{job.id}@{steps[0]}", f"latest@{steps[0]}", points[0].model):
        meant = model_names.meaning(name, store)
        assert isinstance(meant, model_names.OfJob)
        assert (meant.record.id, meant.step) == (job.id, steps[0])
    with pytest.raises(NotFoundError, match="no checkpoint at step 999[.]") as missing:
        job.result(step=999)
    assert f"There are: {', '.join(map(str, steps))}." in missing.value.hint
    with pytest.raises(SpecError, match="'newest' is no step"):
        job.result(step="newest")
    job.remove()
    with pytest.raises(JobRemoved):
        job.result(step=steps[0])


def test_the_best_is_the_one_with_the_lowest_loss_on_held_out_rows(home: Path) -> None:
    """As the host gives it with the checkpoint, on all rows before a few; else as it was logged at
    that step. Without any, the steps are named."""
    store = Gateway().store
    store.settings.create()
    given = {3: {"valid_loss": 0.1, "full_valid_loss": 0.9}, 6: {"full_valid_loss": 0.4}, 9: {}}
    points = [
        Checkpoint(id=f"c{step}", step=step, model=f"m:{step}", metrics=metrics)
        for step, metrics in given.items()
    ]
    logged = Event(id="e", type="metrics", message="", data={"step": 9, "valid_loss": 0.5})
    for events, losses, best in (([logged], True, 6), ([logged], False, 9), ([], False, None)):
        job = record(hosted=True, provider_id=None)
        store.add(job)
        kept = points if losses else [one.model_copy(update={"metrics": {}}) for one in points]
        store.apply(
            job.id, Snapshot(status=JobStatus.RUNNING, events=events, checkpoints=kept), None, 0
        )
        if best is not None:
            assert results.chosen(job, "best", store).step == best
            continue
        with pytest.raises(NotFoundError, match="none has a loss on held-out rows") as unknown:
            results.chosen(job, "best", store)
        assert "3, 6, 9" in unknown.value.hint


def test_checkpoints_are_shown_with_their_losses(home: Path) -> None:
    """Which is the best is seen, as a number and marked; without held-out rows there is no such
    column."""
    store = Gateway().store
    store.settings.create()
    points = [Checkpoint(id=f"c{step}", step=step, model=f"m:{step}") for step in (3, 6, 9)]
    logged = [
        Event(id=f"e{step}", type="metrics", data={"step": step, **losses})
        for step, losses in {
            3: {"train_loss": 0.7, "valid_loss": 0.61234},
            6: {"train_loss": 0.5, "valid_loss": 0.45678},
            9: {"train_loss": 0.4},
        }.items()
    ]
    for events in (logged, []):
        job = record(hosted=True, provider_id=None)
        store.add(job)
        seen = Snapshot(status=JobStatus.RUNNING, events=events, checkpoints=points)
        store.apply(job.id, seen, None, 0)
        kept = Gateway().job(job.id).checkpoints()
        head, *rows = [line.split() for line in checkpoints_text(kept).splitlines()]
        if events:
            assert head == ["STEP", "VALID_LOSS", "CHECKPOINT", "MODEL"]
            assert rows[0][1:] == ["0.612", "c3", "m:3"] and rows[2] == ["9", "c9", "m:9"]
            assert rows[1][1:3] == ["0.457", "(best)"]
            assert kept[1].metrics == {"train_loss": 0.5, "valid_loss": 0.45678}
        else:
            assert head == ["STEP", "CHECKPOINT", "MODEL"] and not any(one.metrics for one in kept)


def test_names_that_mean_nothing(home: Path, ftg: Ftg, tmp_path: Path) -> None:
    """Say what is near and what there is, and do not guess. A folder may have an @ in its name."""
    folder = tmp_path / "model@20"
    folder.mkdir()
    store = Gateway().store
    assert model_names.meaning(str(folder), store) == model_names.Base(str(folder))
    nothing = ftg("chat", "latest@20", "Hi")
    assert nothing.returncode == 102 and "There are no jobs yet." in nothing.stderr
    store.settings.create()
    job = record(id="ftg-22222aaaaa", status=JobStatus.SUCCEEDED)
    store.add(job)
    wrong = ftg("chat", "ftg-22222aaaab", "Hi")
    assert "Did you mean ftg-22222aaaaa?" in " ".join(wrong.stderr.split())
    none = ftg("chat", f"{job.id}@20", "Hi")
    assert f"{job.id} has no checkpoint at step 20." in " ".join(none.stderr.split())
