"""Jobs that are turned away for now: they wait here, in order, and none is called failed."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.cli import Ftg
from support.hosted import LIST, RETRIEVE, connect, handle_of
from support.provider import CREATE, Provider
from support.records import record
from typer.testing import CliRunner

from finetune_gateway import (
    BackendError,
    FakeBackend,
    Gateway,
    JobNotFinished,
    JobStatus,
    OpenAIBackend,
    SpecError,
)
from finetune_gateway.backends.openai import retries
from finetune_gateway.cli.run import build_app
from finetune_gateway.jobs import records, withdrawal
from finetune_gateway.jobs.job import Job
from finetune_gateway.settings import files

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    """A hosted backend that settles and polls quickly."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    return OpenAIBackend(
        base_url=provider.url, profile="custom", api_key=provider.api_key, **given | options
    )


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the provider, for backends that are loaded by a job's id."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")


def asked(provider: Provider, **headers: str) -> float | None:
    """What a 429 with these headers asks us to wait."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    provider.fault(RETRIEVE, "status", status=429, headers=names)
    with pytest.raises(BackendError) as caught:
        connect(provider).poll("ftjob-1", None)
    return caught.value.retry_after


# -- what the host asks for --------------------------------------------------------------


def test_the_wait_is_given_back_whatever_its_form() -> None:
    """Seconds, hours, milliseconds, a date by the host's own clock: a short call sleeps through
    none of them."""
    with Provider(steps=1) as provider:
        assert asked(provider, retry_after="90") == 90
        assert asked(provider, retry_after="10800") == 10800
        assert asked(provider, retry_after_ms="7500", retry_after="90") == 7.5
        now = time.time()
        in_an_hour = asked(provider, retry_after=formatdate(now + 3600, usegmt=True))
        assert in_an_hour is not None and 3590 < in_an_hour <= 3601
        assert len(provider.requests) == 4


def test_nonsense_is_no_answer() -> None:
    """Nor is a date that is past or of the year 9999."""
    dates = ("Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 06 Nov 1994 08:49:37 GMT")
    with Provider(steps=1) as provider:
        for wait in ("\u00b2", "-1", "nan", "inf", "soon", "1e3", "9" * 5000, "700000", *dates):
            assert asked(provider, retry_after=wait) is None, wait


# -- a create that was turned away -------------------------------------------------------


def test_a_job_that_was_only_turned_away_is_never_failed(home: Path, train_file: Path) -> None:
    """More often than a job has tries, and without using one up."""
    with Provider(steps=1) as provider:
        provider.fault(CREATE, *["busy"] * 12, seconds=0.005)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert job.wait(60).status is JobStatus.SUCCEEDED
        assert provider.posts[JOBS] == 13 and len(provider.jobs) == 1
        assert job.record.tries == 2  # the upload, and the create that took effect


def test_the_host_is_asked_again_when_it_said(home: Path, train_file: Path) -> None:
    """Not before, whoever asks. 409 and 503 with a time, in the contract's words, are no doubt."""
    with Provider(steps=1) as first, Provider(steps=1) as second, Provider(steps=1) as third:
        jobs = []
        for provider, status in ((first, 429), (second, 409), (third, 503)):
            provider.fault(CREATE, "status", status=status, headers={"retry-after-ms": "500"})
            backend, began = wire(provider), time.time()
            job = Gateway().submit(train_file, model=MODEL, backend=backend)
            assert job.status is JobStatus.QUEUED and job.record.step == "intent"
            assert Gateway().submit(train_file, model=MODEL, backend=backend).id == job.id
            assert provider.posts[JOBS] == 1
            jobs.append((provider, job, began))
        for provider, job, began in jobs:
            assert job.wait(20).status is JobStatus.SUCCEEDED
            assert provider.posts[JOBS] == 2 and provider.jobs[0]["born"] >= began + 0.45


@pytest.mark.parametrize(
    "status", [429, *[pytest.param(other, marks=pytest.mark.chaos) for other in (409, 503)]]
)
def test_a_host_that_creates_and_refuses_has_one_job(
    home: Path, train_file: Path, status: int
) -> None:
    """The next create waits until the lists would show that job, also if the host asks for less."""
    with Provider(list_lag=0.15) as provider:
        headers = {"retry-after-ms": "50"}
        provider.fault(CREATE, *["refused_after"] * 2, status=status, headers=headers)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider, settle_seconds=0.25))
        assert job.status is JobStatus.QUEUED
        assert job.wait(20).status is JobStatus.SUCCEEDED
        assert provider.posts[JOBS] == len(provider.jobs) == 1


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(("kind", "jobs"), [("refused_after", 1), ("status", 0)])
def test_cancel_soon_after_a_refusal_waits_for_the_lists(
    home: Path, train_file: Path, kind: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429, but the host may have the job, and lists it late: it is stopped there, and called
    cancelled here only then, or once it cannot be listed late any more. Nothing is sent."""
    monkeypatch.setattr(withdrawal, "LOOK_SECONDS", 0.02)
    with Provider(list_lag=60, pace=60) as provider:
        list_jobs, queries = provider.world.list_jobs, list[dict[str, str]]()

        def list_in_the_second_look(query: dict[str, str]) -> dict[str, Any]:
            if query in queries:
                provider.world.list_lag = 0.0
            queries.append(query)
            return list_jobs(query)

        provider.fault(CREATE, kind, status=429)
        # Of a job that is there the second look tells, long before its time is over.
        backend = wire(provider, settle_seconds=8.0 if jobs else 0.3)
        job = Gateway().submit(train_file, model=MODEL, backend=backend)
        assert job.record.waits_here and len(provider.jobs) == jobs
        provider.world.list_jobs = list_in_the_second_look  # type: ignore[method-assign]
        done = CliRunner().invoke(build_app("cancel"), [job.id, "--yes"])
        assert job.reload().status is JobStatus.CANCELLED
        assert ["cancelled" in there for there in provider.jobs] == [True] * jobs
        assert provider.posts[JOBS] == 1 and done.exit_code == 0
        # A machine that is slow has nothing to wait for where no job is there, and looks once.
        looked_again = any(queries.count(query) > 1 for query in queries)
        told = f"{job.id}, but may have created it: looking for" in done.output
        assert queries and told == looked_again and looked_again >= bool(jobs)


def test_a_refused_job_is_not_ended_unseen(home: Path, train_file: Path) -> None:
    """Where the host cannot be asked, nobody knows whether it has created the job all the same. A
    person may say so; then it is ended whether the host can be asked or not."""
    with Provider(steps=1) as provider:
        provider.fault(CREATE, "status", status=429)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        for _ in range(2):
            provider.fault(LIST, "status", status=500, headers={"x-should-retry": "false"})
        with pytest.raises(BackendError, match="500"):
            job.cancel()
        assert job.reload().record.waits_here
        assert job.settle(created=None).cancel().status is JobStatus.CANCELLED
        assert not any(provider.faults.values()) and provider.posts[JOBS] == 1


def test_a_page_of_a_server_in_between_is_a_doubt(home: Path, train_file: Path) -> None:
    """503 and a time, but not in the contract's form: the request may have been passed on."""
    page: dict[str, Any] = {"status": 503, "body": b"<html>", "headers": {"retry-after-ms": "90"}}
    with Provider(steps=1) as provider:
        provider.fault(CREATE, "raw", **page)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert job.record.step == "creating" and job.record.tries == 2
        assert job.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 1


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_not_active"])
def test_an_empty_account_is_no_wait(home: Path, train_file: Path, code: str) -> None:
    """Waiting would not help: refused in words."""
    with Provider(steps=1) as provider:
        provider.fault(CREATE, "status", status=429, code=code, headers={"Retry-After": "1"})
        with pytest.raises(BackendError, match="Add credit"):
            Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert Gateway().job("latest").status is JobStatus.FAILED


def test_the_wait_outlives_the_process(home: Path, train_file: Path, ftg: Ftg) -> None:
    """A second process sees why, sends nothing before its time, and can end it; until then its
    share of the budget stays reserved."""
    with Provider(steps=1) as provider:
        provider.fault(CREATE, "busy", headers={"Retry-After": "1800"})
        backend = wire(provider)
        priced: dict[str, Any] = {"train_price": "5", "backend": backend}
        job = Gateway(monthly_usd=10).submit(train_file, model=MODEL, **priced)
        requests = len(provider.requests)
        other = Gateway().job(job.id)
        with pytest.raises(JobNotFinished, match="takes no more jobs now"):
            other.wait(0.05)
        assert Gateway().submit(train_file, model=MODEL, **priced).id == job.id
        more = Gateway().submit(train_file, model=MODEL, seed=7, **priced)
        assert more.record.waits_here and more.record.turned_away == 0
        assert len(provider.requests) == requests and provider.posts[JOBS] == 1
        assert "queued here" in ftg("list").stdout
        assert "waiting: custom takes no more jobs now; asking" in ftg("status", job.id).stdout
        assert Gateway(monthly_usd=10).budget().reserved_usd > 0
        assert job.cancel().status is more.cancel().status is JobStatus.CANCELLED
        assert Gateway(monthly_usd=10).budget().reserved_usd == 0
        assert provider.posts[JOBS] == 1 and not provider.jobs


def test_a_longer_wait_than_is_allowed_is_said(
    home: Path, train_file: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job stays queued here; the error names the time, the setting and the command."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    with Provider(steps=1) as provider:
        provider.fault(CREATE, "busy", headers={"Retry-After": "7200"})
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        with pytest.raises(JobNotFinished, match="asks to wait 2 h, longer than the 60 min") as why:
            job.wait()
        assert "ftg config set hosts.longest_wait_seconds 7200" in str(why.value)
        assert ftg("wait", job.id).returncode == 101
        assert ftg("config", "set", "hosts.longest_wait_seconds", "8000").returncode == 0
        with pytest.raises(JobNotFinished, match="still queued"):
            job.wait(0.1)
        for wrong in ("-1", "nan", "never", "1e9"):
            assert ftg("config", "set", "hosts.longest_wait_seconds", wrong).returncode == 2
        with pytest.raises(SpecError, match="longest_wait"):
            OpenAIBackend(longest_wait=float("inf"))
        assert job.status is JobStatus.QUEUED and provider.posts[JOBS] == 1


def test_a_date_counts_from_the_time_of_the_host() -> None:
    """Whose clock may be a day ahead of ours."""
    ahead = time.time() + 86400
    headers = {"date": formatdate(ahead, usegmt=True)}
    headers["retry-after"] = formatdate(ahead + 90, usegmt=True)
    assert retries.asked_wait(headers) == 90


def test_a_clock_that_is_set_back_prolongs_no_wait() -> None:
    """A wait is at most what was asked for, and by a clock that nobody sets if it began on this
    machine since it was started. Else the host is asked again."""
    now = time.time()
    away = {"not_before": now + 86400 + 60, "step_at": now + 86400}
    assert 30 < record(**away, step_clock=records.stopwatch()).seconds_to_wait <= 60
    assert record(**away).seconds_to_wait == 0


# -- more jobs than the host runs --------------------------------------------------------


@pytest.mark.usefixtures("key")
def test_jobs_are_sent_in_order_when_there_is_room(home: Path, train_file: Path) -> None:
    """Two run at a time; five that are waited for at once are created in the order of their
    submits, each once."""
    with Provider(running_limit=2, pace=600, steps=1) as provider:
        backend = wire(provider)
        jobs = [
            Gateway().submit(train_file, model=MODEL, backend=backend, seed=seed)
            for seed in range(5)
        ]
        assert [job.record.waits_here for job in jobs] == [False] * 2 + [True] * 3
        errors: list[BaseException] = []

        def wait(place: int) -> None:
            try:
                assert Gateway().job(jobs[place].id).wait(60).status is JobStatus.SUCCEEDED
            except BaseException as exc:
                errors.append(exc)

        threads = [threading.Thread(target=wait, args=(place,)) for place in range(5)]
        for job, thread in zip(jobs, threads, strict=True):
            thread.start()
            lock = home / "locks" / f"{job.id}.wait"
            until(lambda: not job.record.waits_here or files.is_locked(lock))  # noqa: B023
        provider.world.pace = 0.05
        for thread in threads:
            thread.join()
        assert errors == []
        tags = [job["request"]["metadata"]["ftg_job_id"] for job in provider.jobs]
        assert tags == [job.id for job in jobs]


def test_a_job_that_nobody_waits_for_holds_up_nobody(home: Path, train_file: Path) -> None:
    """Nor is it sent for another one."""
    with Provider(running_limit=1, pace=600, steps=1) as provider:
        backend = wire(provider)
        first, forgotten, wanted = (
            Gateway().submit(train_file, model=MODEL, backend=backend, seed=seed)
            for seed in range(3)
        )
        provider.world.pace = 0.02
        assert first.wait(20).status is JobStatus.SUCCEEDED
        assert wanted.wait(20).status is JobStatus.SUCCEEDED
        assert forgotten.refresh().record.waits_here and len(provider.jobs) == 2
        assert forgotten.wait(20).status is JobStatus.SUCCEEDED


# -- reads and chat ----------------------------------------------------------------------


def test_a_wait_polls_when_the_host_said(home: Path, train_file: Path) -> None:
    """And gives up, in words, where that is longer than is allowed."""
    busy: dict[str, Any] = {"status_code": 429, "retryable": True}
    faults = {"poll": [BackendError("busy", retry_after=0.1, **busy)]}
    job = Gateway().submit(train_file, model="m", backend=FakeBackend(faults=faults))
    began = time.monotonic()
    assert job.wait().status is JobStatus.SUCCEEDED and time.monotonic() - began > 0.1
    faults = {"poll": [BackendError("asks to wait", retry_after=4000.0, **busy)]}
    job = Gateway().submit(train_file, model="m", seed=1, backend=FakeBackend(faults=faults))
    with pytest.raises(BackendError, match="asks to wait"):
        job.wait()
    assert job.wait().status is JobStatus.SUCCEEDED


def test_a_chat_waits_as_long_as_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 s are less than the time-out, and are waited; 90 s are given back."""
    question = [{"role": "user", "content": "Hi"}]
    with Provider(steps=1) as provider:
        sleeps: list[float] = []
        model = connect(provider, request_timeout=60.0).open(handle_of(MODEL))
        chat = "POST /chat/completions"
        provider.fault(chat, "status", "ok", status=429, headers={"Retry-After": "20"})
        provider.fault(chat, "status", status=429, headers={"Retry-After": "90"})
        monkeypatch.setattr(time, "sleep", sleeps.append)
        assert model.chat(question).text and sleeps == [20.0]
        with pytest.raises(BackendError, match="asks to wait 90 s") as caught:
            model.chat(question)
        assert caught.value.retry_after == 90 and sleeps == [20.0]


@pytest.mark.parametrize(
    ("why", "word", "several"),
    [
        ("429", "Busy", True),
        ("500", "Busy", False),
        ("paused", "ftg resume {}", True),
        pytest.param("429", "Busy", False, marks=pytest.mark.chaos),
        pytest.param("500", "Busy", True, marks=pytest.mark.chaos),
        pytest.param("paused", "ftg resume {}", False, marks=pytest.mark.chaos),
    ],
)
def test_a_job_that_does_not_move_says_why(
    home: Path, train_file: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch,
    why: str, word: str, several: bool,
) -> None:  # fmt: skip
    """A wait could be silent for ever: the host answers 429 and a time, it is down, or the job is
    paused there."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("FTG_HOME", str(home))
    headers = {"Retry-After": "6"} if why == "429" else {"x-should-retry": "false"}
    with Provider(steps=1) as provider:
        jobs = [submit(provider, train_file, seed) for seed in range(1 + several)]
        for job in jobs:
            job.refresh().refresh().refresh()
        if why == "paused":
            for held in provider.jobs:
                provider.world.pause(held["id"])
        else:
            for endpoint in (RETRIEVE, LIST):
                faults = ["status"] * 99
                provider.fault(endpoint, *faults, status=int(why), headers=headers, message="Busy.")
        done = ftg("--home", str(home), "wait", *[job.id for job in jobs], "--timeout", "0.1s")
    assert word.format(jobs[0].id) in done.stderr


def submit(provider: Provider, file: Path, seed: int) -> Job:
    """Submit a job to this provider."""
    return Gateway().submit(file, model=MODEL, backend=wire(provider), seed=seed)
