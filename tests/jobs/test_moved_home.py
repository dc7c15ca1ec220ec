"""What changes under a store: the clock, the folder it is in, and the file itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.provider import CREATE, Provider
from support.records import record

from finetune_gateway import (
    FakeBackend,
    Gateway,
    GatewayError,
    JobNotFinished,
    JobStatus,
    OpenAIBackend,
    StoreError,
    TrainingSpec,
)
from finetune_gateway.events import Checkpoint, Result, Snapshot
from finetune_gateway.jobs.job import Job

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"
DAY = 86_400.0
SETTLE = 0.2  # seconds in which a lost request may still take effect


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")


def wire(provider: Provider, settle_seconds: float = SETTLE) -> OpenAIBackend:
    return OpenAIBackend(
        base_url=provider.url,
        profile="custom",
        request_timeout=1.0,
        settle_seconds=settle_seconds,
        poll_seconds=0.005,
    )


def lost(provider: Provider, file: Path, **options: Any) -> Job:
    """Submit a job whose create did not arrive."""
    provider.fault(CREATE, "reset_before")
    return Gateway().submit(file, model=MODEL, backend=wire(provider), **options)


def succeeds(job: Job) -> bool:
    """Does it end well soon?"""
    with suppress(GatewayError, OSError):
        job.wait(20)
    return job.status is JobStatus.SUCCEEDED


# -- clocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_jumps_neither_sends_early_nor_blocks(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """After a lost answer the job waits for as long as its create may take effect, and no longer,
    in this process and in another."""
    with Provider(steps=1) as provider:
        job = lost(provider, train_file)
        began, real = time.monotonic(), time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for opened in (job, Gateway().job(job.id)):
            with suppress(JobNotFinished):
                opened.wait(0)
            waited = time.monotonic() - began
            assert provider.posts[JOBS] == 1 or waited > SETTLE
        assert succeeds(Gateway().job(job.id))
        assert provider.posts[JOBS] == 2 and len(provider.jobs) == 1


def test_a_step_in_the_future_is_waited_for_once(home: Path, train_file: Path) -> None:
    """A store from before, or from another machine, whose clock was a day ahead."""
    with Provider(steps=1) as provider:
        job = lost(provider, train_file)
        with sqlite3.connect(home / "gateway.sqlite3") as db:
            db.execute("UPDATE jobs SET step_at = ?", (time.time() + DAY,))
            columns = [row[1] for row in db.execute("PRAGMA table_info(jobs)")]
            if "step_clock" in columns:
                db.execute("UPDATE jobs SET step_clock = 'another-machine 12.5'")
        began = time.monotonic()
        assert succeeds(Gateway().job(job.id))
        assert time.monotonic() - began > SETTLE - 0.1 and len(provider.jobs) == 1


@pytest.mark.parametrize("ahead", [("sent_at", "step_at"), ("sent_at",)])
def test_a_job_that_was_sent_by_a_wrong_clock_is_found(
    home: Path, train_file: Path, ahead: tuple[str, ...]
) -> None:
    """At a host without tags, whose jobs are told apart by their file and time."""
    with Provider(metadata="null") as provider:
        provider.fault(CREATE, "reset_after")
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        with sqlite3.connect(home / "gateway.sqlite3") as db:
            for column in ahead:
                db.execute(f"UPDATE jobs SET {column} = {column} + ?", (DAY,))
        assert succeeds(Gateway().job(job.id))
        assert provider.posts[JOBS] == 1


def test_a_job_of_tomorrow_counts_in_this_month(home: Path, train_file: Path) -> None:
    """It was bought before now, when the clock was ahead."""
    gateway = Gateway(monthly_usd=10)
    quote = {"cost_usd": {"low": "4", "expected": "4", "high": "4"}}
    made = {"hosted": True, "estimate": quote, "step": "creating"}
    gateway.store.add(record(created_at=time.time() + 40 * DAY, **made))
    assert gateway.budget().reserved_usd == 4


def test_a_host_whose_clock_is_ahead_delays_no_end(home: Path, train_file: Path) -> None:
    """A job without a model's name ends within five minutes by our clock."""
    from finetune_gateway.backends.openai import reports

    with Provider(steps=1) as provider:
        backend = wire(provider)
        job = Gateway().submit(train_file, model=MODEL, backend=backend)
        provider.world.extra = {
            "status": "succeeded", "fine_tuned_model": None, "finished_at": int(time.time() + DAY),
        }  # fmt: skip
        cursor = reports.joined_cursor(None, time.time() - 400)
        assert backend.poll(job.provider_id or "", cursor).status is JobStatus.SUCCEEDED


# -- a home that moved -------------------------------------------------------------------


def move(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    moved = home.with_name(f"{home.name}-moved")
    shutil.copytree(home, moved)
    shutil.rmtree(home)
    monkeypatch.setenv("FTG_HOME", str(moved))
    return moved


def as_before(home: Path) -> None:
    """Make the rows those of a store that kept whole paths."""
    with sqlite3.connect(home / "gateway.sqlite3") as db:
        for table, column in (("jobs", "train"), ("jobs", "result"), ("jobs", "handle"),
                              ("checkpoints", "model")):  # fmt: skip
            db.execute(
                f"UPDATE {table} SET {column} = replace({column}, '$FTG_HOME/', ?)", (f"{home}/",)
            )


@pytest.mark.parametrize("old", [False, True])
def test_an_unsent_job_is_sent_from_a_home_that_moved(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """Its files are found below the home, wherever that is; jobs that were sent are polled."""
    with Provider(steps=1) as provider:
        sent = Gateway().submit(train_file, model=MODEL, backend=wire(provider), seed=1)
        provider.fault("POST /files", "reset_before")
        late = train_file.with_name("late.jsonl")
        late.write_bytes(train_file.read_bytes() * 2)
        unsent = Gateway().submit(late, model=MODEL, backend=wire(provider))
        if old:
            as_before(home)
        moved = move(home, monkeypatch)
        assert str(home) not in dump(moved) or old
        assert {job.id for job in Gateway().jobs()} == {sent.id, unsent.id}
        assert succeeds(Gateway().job(sent.id))
        assert succeeds(Gateway().job(unsent.id))
        assert len(provider.jobs) == 2 and not home.exists()


def test_resume_of_all_jobs_buys_nothing(home: Path, train_file: Path) -> None:
    """A hosted job that is stored and not sent stays so: a unit of the system has no one to say
    yes. Who waits for it sends it."""
    with Provider(steps=1) as provider:
        provider.fault("POST /files", "reset_before")
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        before = provider.posts.copy()
        assert Gateway().resume_all() == [] and provider.posts == before
        assert Gateway().job(job.id).record.unsent and succeeds(Gateway().job(job.id))
        assert len(provider.jobs) == 1


def dump(home: Path) -> str:
    """All rows of the store."""
    with sqlite3.connect(home / "gateway.sqlite3") as db:
        return "\n".join(db.iterdump())


def test_a_local_model_opens_in_a_home_that_moved(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle and the checkpoints are where the home is now, in a store of whole paths too."""
    store = Gateway().store
    job, _ = store.add(record(backend="local", spec=TrainingSpec(model="builtin/tiny")))
    run = home / "runs" / job.id
    (run / "model").mkdir(parents=True)
    point = Checkpoint(id="1", step=1, model=str(run / "checkpoints" / "checkpoint-1"))
    result = Result(kind="merged", model=str(run / "model"), first_answer="Hello.")
    Path(point.model).mkdir(parents=True)
    done = Snapshot(status=JobStatus.SUCCEEDED, result=result, checkpoints=[point])
    store.apply(store.set_sent(job.id, job.id).id, done, None)
    Gateway().job(job.id).result()
    assert str(home) not in dump(home)
    for _ in range(2):
        home = move(home, monkeypatch)
        run, opened = home / "runs" / job.id, Gateway().job(job.id)
        assert opened.result().model == str(run / "model") and run.joinpath("model").is_dir()
        assert opened.checkpoints()[0].model == str(run / "checkpoints" / "checkpoint-1")
        as_before(home)


# -- a store that went away --------------------------------------------------------------

GONE: dict[str, Callable[[Path], object]] = {
    "deleted": lambda store: store.unlink(),
    "replaced": lambda store: os.replace(shutil.copy(store, f"{store}.copy"), store),
}


@pytest.mark.parametrize("how", GONE)
def test_nothing_is_bought_without_a_store(home: Path, train_file: Path, how: str) -> None:
    """The process that had it open says what happened, in every call; a new one goes on."""
    with Provider(steps=1) as provider:
        gateway = Gateway()
        gateway.submit(train_file, model=MODEL, backend=wire(provider), seed=1)
        job = gateway.jobs()[0]
        GONE[how](home / "gateway.sqlite3")
        before = provider.posts.copy()
        for call in (
            lambda: gateway.submit(train_file, model=MODEL, backend=wire(provider)),
            lambda: gateway.jobs(),
            lambda: job.wait(5),
        ):
            with pytest.raises(StoreError, match="was deleted or replaced while it was in use"):
                call()
        assert provider.posts == before
        assert len(Gateway().jobs()) == (how == "replaced")


def test_a_store_that_goes_away_between_two_requests(home: Path, train_file: Path) -> None:
    """After the upload, before the create: nothing is bought."""
    gateway = Gateway()

    class Deletes(FakeBackend):
        def connect(self) -> None:
            (home / "gateway.sqlite3").unlink()

    backend = Deletes()
    with pytest.raises(StoreError, match="nothing is sent"):
        gateway.submit(train_file, model="m", backend=backend)
    assert backend.started == [] and not (home / "gateway.sqlite3").exists()
