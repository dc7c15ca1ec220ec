"""Jobs that go on as the same job, and the same submit after its job has ended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.chaos import (
    dispatchers,
    end_workers,
    ended,
    kill,
    queue,
    ready,
    row,
    slots_taken,
    start,
    until,
    workers,
)
from support.cli import Ftg
from support.provider import CREATE, Provider

from finetune_gateway import (
    BudgetError,
    FakeBackend,
    Gateway,
    GatewayError,
    Job,
    JobStatus,
    OpenAIBackend,
    SpecError,
)
from finetune_gateway.backends.local.line import MAX_STARTS
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.events import Snapshot
from finetune_gateway.spec import TrainingSpec

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"
Rows = Callable[[int], list[dict[str, Any]]]


def wire(provider: Provider) -> OpenAIBackend:
    """A hosted backend that settles and polls quickly."""
    return OpenAIBackend(
        base_url=provider.url,
        profile="custom",
        api_key=provider.api_key,
        request_timeout=1.0,
        settle_seconds=0.03,
        poll_seconds=0.005,
    )


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def cancelled(file: Any, backend: FakeBackend | None = None, **options: Any) -> Job:
    """A fake job that was cancelled; without options it would succeed."""
    job = Gateway().submit(file, model="m", backend=backend or FakeBackend(), **options)
    assert job.cancel().wait(20).status is JobStatus.CANCELLED
    return job


# -- at a host ---------------------------------------------------------------------------


def test_a_job_that_was_not_sent_is_sent(home: Path, train_file: Path) -> None:
    """After a look: it is adopted if it is there."""
    with Provider(steps=1) as provider:
        for number, kind in enumerate(("reset_after", "reset_before"), 1):
            provider.fault(CREATE, kind)
            job = Gateway().submit(train_file, model=MODEL, backend=wire(provider), seed=number)
            time.sleep(0.05)
            assert job.resume().provider_id == provider.jobs[-1]["id"]
            assert len(provider.jobs) == number
        assert provider.posts[JOBS] == 3


def test_a_paused_job_is_resumed_at_its_host(
    home: Path, train_file: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, after a yes, because it costs; the lost answer of a resume is no harm."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    with Provider(pace=600) as provider:
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        path = f"{JOBS}/{job.provider_id}/resume"
        provider.world.jobs[str(job.provider_id)]["stage"] = 2
        provider.world.pause(str(job.provider_id))
        assert job.refresh().status is JobStatus.PAUSED
        refused = ftg("resume", job.id)
        assert refused.returncode == 4 and "--yes" in refused.stderr and not provider.posts[path]
        provider.fault(f"POST {JOBS}/*/resume", "reset_after")
        done = ftg("resume", job.id, "--yes", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["status"] == "running", done
        assert provider.posts[path] == 2  # the answer to the first was lost
        with pytest.raises(SpecError, match=r"is running.*ftg watch"):
            job.resume()
        provider.world.pace = 0.01
        assert job.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 1


def test_what_has_ended_at_a_host_is_refused_in_words(home: Path, train_file: Path) -> None:
    """Each with what to do instead; nothing is sent."""
    failure = {"code": "bad", "message": "No."}
    with Provider(steps=1) as provider:
        done = Gateway().submit(train_file, model=MODEL, backend=wire(provider)).wait(20)
        provider.world.fail_with = failure
        failed = Gateway().submit(train_file, model=MODEL, backend=wire(provider), seed=1).wait(20)
        requests = len(provider.requests)
        with pytest.raises(SpecError, match=r"has succeeded.*ftg chat"):
            done.resume()
        with pytest.raises(SpecError, match=r"failed.*Submit it again"):
            failed.resume()
        assert len(provider.requests) == requests and not failed.resumable


def test_a_backend_without_resume_says_so(home: Path, train_file: Path) -> None:
    """What plug-ins inherit: refused in words, the job stays as it is."""

    class Plain(FakeBackend):
        def resume(self, provider_id: str, attempt: int) -> None:
            super(FakeBackend, self).resume(provider_id, attempt)

    job = cancelled(train_file, Plain())
    with pytest.raises(UnsupportedError, match="cannot let a job go on"):
        job.resume()
    assert Gateway().job(job.id).status is JobStatus.CANCELLED


# -- out of cancelled --------------------------------------------------------------------


def test_only_one_equal_job_lives(home: Path, train_file: Path) -> None:
    """A resume is refused while an equal job is live; afterwards the job goes on as itself."""
    backend = FakeBackend()
    job = cancelled(train_file, backend)
    other = Gateway().submit(train_file, model="m", backend=backend)
    assert other.id != job.id
    with pytest.raises(SpecError, match=f"{other.id} trains the same"):
        job.resume()
    other.cancel().wait(20)
    assert job.resume().wait(20).status is JobStatus.SUCCEEDED
    assert job.record.resumes == 1 and job.record.error is None


@pytest.mark.parametrize("count", [16, pytest.param(50, marks=pytest.mark.chaos)])
def test_resumes_at_once_are_one_attempt(home: Path, train_file: Path, count: int) -> None:
    """The others get an error that says so."""
    script = [{"status": "running"}]
    job, gateway = cancelled(train_file, FakeBackend(script=script)), Gateway()
    refusals: list[Exception] = []

    def resume() -> None:
        try:
            gateway._job(gateway.store.get(job.id), job.backend).resume()
        except Exception as exc:
            refusals.append(exc)
        gateway.store.close()

    threads = [threading.Thread(target=resume) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refusals) == count - 1 and gateway.job(job.id).record.resumes == 1
    assert {type(exc).__name__ for exc in refusals} <= {"SpecError", "JobNotFinished"}


class Priced(FakeBackend):
    """A fake job that would cost 6 USD."""

    def estimate(self, spec: TrainingSpec, *counts: Any) -> Estimate:
        cost = Range(low=Decimal(6), expected=Decimal(6), high=Decimal(6))
        return super().estimate(spec, *counts).model_copy(update={"cost_usd": cost})


def test_a_resume_needs_room_in_the_budget(home: Path, train_file: Path) -> None:
    """Without it the job stays cancelled; with it, its share is reserved again."""
    backend = Priced(script=[{"status": "running"}])
    job = cancelled(train_file, backend)
    poor = Gateway(monthly_usd=5)
    with pytest.raises(BudgetError, match=r"6\.00"):
        poor._job(job.record, backend).resume()
    assert Gateway().job(job.id).status is JobStatus.CANCELLED
    rich = Gateway(monthly_usd=10)
    rich._job(job.record, backend).resume()
    assert rich.budget().reserved_usd == 6


def test_a_late_answer_about_the_attempt_before_changes_nothing(
    home: Path, train_file: Path
) -> None:
    """A poll that was under way when the job was resumed says that it is cancelled."""
    job, store = cancelled(train_file), Gateway().store
    before, cursor = job.record.resumes, job.record.cursor
    assert job.resume().status is not JobStatus.CANCELLED
    late = Snapshot(status=JobStatus.CANCELLED, cursor=cursor)
    assert store.apply(job.id, late, job.record.cursor, before).status is not JobStatus.CANCELLED
    assert job.wait(20).status is JobStatus.SUCCEEDED


# -- on this machine ---------------------------------------------------------------------


def queued(data: Any) -> Job:
    """A job that waits for a slot (hold them all while you ask)."""
    job = Gateway().submit(data, model="builtin/tiny", backend="local")
    until(lambda: job.refresh().phase.startswith("waiting"), 30)
    return job


@pytest.mark.usefixtures("tiny_at_home")
def test_a_failed_run_gets_workers_again(home: Path, rows: Rows) -> None:
    """One whose workers died too often: its count begins anew, with new fences."""
    with slots_taken(home):
        job = queued(rows(12))
        with queue(home).store.transaction() as db:
            db.execute("UPDATE runs SET fence = ?, attempts = 5", (MAX_STARTS,))
        assert ended(job) is JobStatus.FAILED
        assert job.resume().status is JobStatus.QUEUED and job.error is None
        run = row(home, job.id)
        assert (run.fence, run.first_fence, run.attempts) == (MAX_STARTS + 1, MAX_STARTS + 1, 0)
        assert until(lambda: dispatchers(home), 30)
        assert ended(job.cancel()) is JobStatus.CANCELLED
        (home / "runs" / job.id / "run.json").unlink()
        with pytest.raises(UnsupportedError, match=r"run\.json is gone"):
            job.resume()
        assert Gateway().job(job.id).status is JobStatus.CANCELLED


# arguments: job, the file that says when
RESUME = """
import os, sys, time
from finetune_gateway.gateway import Gateway
job = Gateway().job(sys.argv[1])
print("ready", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
job.resume()
"""


@pytest.mark.usefixtures("tiny_at_home")
@pytest.mark.chaos
@pytest.mark.parametrize("kills", [[0.03], [0.01, 0.1, 0.2]])
def test_resumes_killed_at_any_moment(
    home: Path, tmp_path: Path, rows: Rows, kills: list[float]
) -> None:
    """Of two processes at a time, killed or not: nothing is lost, one attempt has one worker."""
    with slots_taken(home):
        job = queued(rows(12))
        for moment in (*kills, None):
            assert ended(job.cancel()) is JobStatus.CANCELLED
            before, now = job.record.resumes, tmp_path / f"now-{moment}"
            # The last time this process is one of the two.
            processes = [start(RESUME, job.id, now) for _ in range(1 if moment is None else 2)]
            for process in processes:
                ready(process)
            now.touch()
            codes: set[int | None] = set()
            if moment is not None:
                time.sleep(moment)
                [kill(process) for process in processes]
            else:
                with suppress(GatewayError):
                    Gateway().job(job.id).resume()
                    codes.add(0)
                [process.communicate(timeout=60) for process in processes]
            codes |= {process.returncode for process in processes}
            Gateway().job(job.id).refresh()
            record, run = Gateway().job(job.id).record, row(home, job.id)
            assert record.resumes <= before + 1 and record.step == "sent"
            assert run.resumes in (record.resumes, before), (run, record)
            if moment is None:
                assert record.resumes == before + 1 and 0 in codes
            if record.resumes > before:
                [_] = until(lambda: dispatchers(home), 30)
                assert not workers(home) and record.status is JobStatus.QUEUED  # no slot is free
            job.refresh()


# -- the same submit after the end -------------------------------------------------------


def test_the_same_submit_after_success_is_the_finished_job(
    home: Path, train_file: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back and is said to be there; no request is sent. --again makes another one."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    with Provider(steps=1) as provider:
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider)).wait(20)
        requests = len(provider.requests)
        same = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert same.id == job.id and same.status is JobStatus.SUCCEEDED
        words = ["submit", str(train_file), "--model", MODEL, "--base-url", provider.url, "--yes"]
        done = ftg(*words, "--json")
        shown = json.loads(done.stdout)
        assert (shown["id"], shown["existing"], shown["status"]) == (job.id, True, "succeeded")
        assert "has succeeded already" in done.stderr and "--again" in done.stderr
        unasked = ftg(*words[:-1])  # no --yes: nothing is bought, so nothing is asked
        assert unasked.returncode == 0 and job.id in unasked.stdout
        assert len(provider.requests) == requests
        assert ftg(*words[:-1], "--again").returncode == 4
        assert ftg(*words, "--again").returncode == 0
        assert len(provider.jobs) == 2 and Gateway().job("latest").id != job.id


def test_after_a_failure_the_same_submit_is_a_new_job(home: Path, train_file: Path) -> None:
    """As it was; one that can go on says how."""
    job = cancelled(train_file)
    assert Gateway().submit(train_file, model="m", backend=FakeBackend()).id != job.id


@pytest.mark.parametrize("count", [16, pytest.param(50, marks=pytest.mark.chaos)])
def test_submits_at_once_after_a_success(home: Path, train_file: Path, count: int) -> None:
    """Those that ask for another job get one each, the others the finished one."""
    backend, gateway = FakeBackend(), Gateway()
    gateway.submit(train_file, model="m", backend=backend).wait()

    def submit(again: bool) -> None:
        gateway.submit(train_file, model="m", backend=backend, again=again)
        gateway.store.close()

    threads = [threading.Thread(target=submit, args=(place % 2 == 0,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backend.started) == len(gateway.jobs()) == count // 2 + 1
