"""Jobs in doubt: "not there" only where it can be known, and nothing is bought by looking."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.hosted import no_crash
from support.interrupts import press_ctrl_c
from support.provider import CREATE, Provider
from support.records import write_down
from typer.testing import CliRunner

from finetune_gateway import (
    BackendError,
    FakeBackend,
    Gateway,
    JobNotFinished,
    JobStatus,
    NotFoundError,
    OpenAIBackend,
    SpecError,
    StoreError,
)
from finetune_gateway.backend import Capabilities
from finetune_gateway.jobs.job import Job
from finetune_gateway.settings.home import Settings

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    """A hosted backend that settles quickly."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    place = {"base_url": provider.url, "profile": "custom", "api_key": provider.api_key}
    return OpenAIBackend(**place | given | options)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the provider, for the command line."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")


def lost(provider: Provider, file: Path, kind: str, **options: Any) -> Job:
    """Submit a job whose create has this fault, and wait until it can no longer take effect."""
    provider.fault(CREATE, kind)
    job = Gateway().submit(file, model=MODEL, backend=wire(provider), **options)
    assert job.provider_id is None
    time.sleep(0.05)
    return job


def others(provider: Provider, count: int) -> None:
    """Let the host have jobs that nobody here has created."""
    file = provider.world.add_file("fine-tune", "theirs.jsonl", b"")
    for _ in range(count):
        provider.world.create({"model": MODEL, "training_file": file["id"]})


# -- "not there" -------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", ["null", "empty"])
@pytest.mark.parametrize("honours_filter", [True, False])
def test_a_host_that_drops_metadata_gets_one_job(
    home: Path, train_file: Path, metadata: str, honours_filter: bool
) -> None:
    """Its jobs are told apart by their files: the one with ours is adopted."""
    with Provider(metadata=metadata, honours_filter=honours_filter) as provider:
        others(provider, 2)
        provider.fault(CREATE, *["reset_after"] * 4)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert job.wait(timeout=20).status is JobStatus.SUCCEEDED
        assert provider.posts[JOBS] == 1 and job.provider_id == provider.jobs[2]["id"]


def test_without_tags_the_files_prove_that_nothing_is_there(home: Path, train_file: Path) -> None:
    """No listed job has our file: it is sent again. A second job on the same file, in doubt too,
    is not taken for the first."""
    with Provider(metadata="null") as provider:
        others(provider, 2)
        first = lost(provider, train_file, "reset_before")
        assert first.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 3
        second = lost(provider, train_file, "reset_before", seed=7)
        assert second.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 4
        assert second.provider_id != first.provider_id and provider.posts[JOBS] == 4


BLIND: list[dict[str, Any]] = [
    {"metadata": "null", "hides": ("training_file",)},
    {"metadata": "null", "hides": ("created_at",)},
    {"jobs_newest_first": False, "honours_after": False, "honours_filter": False, "page_size": 2},
    {"jobs_newest_first": False, "honours_filter": False, "page_size": 1},  # 50 pages are read
]


@pytest.mark.parametrize("world", BLIND)
def test_where_nothing_can_be_known_a_person_is_asked(
    home: Path, train_file: Path, world: dict[str, Any]
) -> None:
    """Neither tags nor files, no times, ``after`` ignored, a list longer than we read: the job is
    sent once, the error names the command, and the person's word ends it."""
    with Provider(**world) as provider:
        others(provider, 60)
        job = lost(provider, train_file, "reset_after")
        with pytest.raises(BackendError, match=f"ftg settle {job.id}") as caught:
            job.wait(timeout=20)
        assert caught.value.maybe_applied and caught.value.code == "not_settled"
        assert provider.posts[JOBS] == 1
        with pytest.raises(BackendError, match="No such object"):
            job.settle(created="ftjob-none")
        job.settle(created=provider.jobs[-1]["id"])
        provider.world.hides = ()
        assert job.wait(20).status is JobStatus.SUCCEEDED and provider.posts[JOBS] == 1
        with pytest.raises(SpecError, match="not in doubt"):
            job.settle(created=None)


def test_a_person_says_that_it_is_not_there(home: Path, train_file: Path) -> None:
    """``settle`` sends nothing; ``wait`` does then, once. Another job's id is refused."""
    with Provider(metadata="null", hides=("training_file",)) as provider:
        others(provider, 1)  # without it the list would show that the job is not there
        first = Gateway().submit(train_file, model=MODEL, backend=wire(provider)).wait(20)
        job = lost(provider, train_file, "reset_before", again=True)
        with pytest.raises(SpecError, match="another of your jobs"):
            job.settle(created=first.provider_id)
        done = CliRunner().invoke(_app("settle"), [job.id, "--not-created"])
        assert done.exit_code == 0 and "has not been created" in done.output, done.output
        assert provider.posts[JOBS] == 2
        assert job.wait(20).status is JobStatus.SUCCEEDED and provider.posts[JOBS] == 3


@pytest.mark.parametrize(
    "named", ["", " ", "..", "a/../b", "ftjob-\n", "\ud800", "of another store"]
)
def test_a_wrong_id_settles_nothing(home: Path, train_file: Path, named: str) -> None:
    """Said in words: what can be no id, and the job of somebody else by its tag."""
    with Provider() as provider:
        other = provider.world.create(
            {
                "model": MODEL,
                "training_file": provider.world.add_file("fine-tune", "theirs", b"")["id"],
                "metadata": {"ftg_job_id": "ftg-theirs"},
            }
        )["id"]
        job = lost(provider, train_file, "reset_before")
        foreign = named == "of another store"
        wrong = SpecError if foreign else NotFoundError
        with no_crash(), pytest.raises(wrong, match="job ftg-theirs|no id"):
            job.settle(created=other if foreign else named)
        assert Gateway().job(job.id).provider_id is None


@pytest.mark.parametrize("metadata", ["kept", "null"])
def test_what_a_person_said_ends_with_what_the_host_shows(
    metadata: str, home: Path, train_file: Path
) -> None:
    """A home that is restored from a copy still has the word of a person from before the job was
    sent: it is looked for all the same, and not bought twice."""
    with Provider(metadata=metadata) as provider:
        job = lost(provider, train_file, "reset_before")
        assert job.settle(created=None).record.settled
        copy = home.with_name("copy")
        job.store.close()
        shutil.copytree(home, copy)
        sent = Gateway().job(job.id).wait(20).provider_id
        shutil.rmtree(home)
        shutil.copytree(copy, home)
        again = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert (again.id, again.provider_id) == (job.id, sent)
        assert len(provider.jobs) == 1


def _app(name: str) -> Any:
    from finetune_gateway.cli.run import build_app

    return build_app(name)


def test_a_host_seen_to_keep_tags_is_remembered(home: Path, train_file: Path) -> None:
    """By its folder in the home, in another process too; an empty list there is no proof while it
    should show a job of ours."""
    with Provider() as provider:
        Gateway().submit(train_file, model=MODEL, backend=wire(provider)).wait(20)
        job = lost(provider, train_file, "reset_before", again=True)
        provider.fault("GET /fine_tuning/jobs", *["body"] * 4, body={"data": [], "has_more": False})
        with pytest.raises(BackendError, match="settle"):
            job.wait(20)
        provider.faults.clear()
        assert job.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 2
        assert len(list((home / "hosts").iterdir())) == 1


# -- the store of yesterday --------------------------------------------------------------


def test_a_restored_store_buys_nothing_again(home: Path, train_file: Path, tmp_path: Path) -> None:
    """The copy is from before the create: the job is looked for, and adopted."""
    with Provider() as provider:
        g = Gateway()
        write_down(g, train_file, model=MODEL, backend=wire(provider))
        g.store.close()
        shutil.copytree(home, tmp_path / "backup")
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert job.provider_id == provider.jobs[0]["id"]
        restored = Gateway(tmp_path / "backup")
        again = restored.submit(train_file, model=MODEL, backend=wire(provider))
        assert again.wait(20).status is JobStatus.SUCCEEDED
        assert again.provider_id == job.provider_id and provider.posts[JOBS] == 1


# -- looks and asks ----------------------------------------------------------------------

LOOKS: dict[str, Callable[[Job], object]] = {
    "refresh": lambda job: job.refresh(),
    "watch": lambda job: pytest.raises(JobNotFinished, list, job.watch(5)),
    "status": lambda job: CliRunner().invoke(_app("status"), [job.id]),
    "list": lambda job: CliRunner().invoke(_app("list"), ["--refresh"]),
    "events": lambda job: CliRunner().invoke(_app("events"), [job.id]),
    "cancel": lambda job: job.cancel(),
}


@pytest.mark.parametrize(
    ("look", "kind"),
    [(look, "reset_before") for look in LOOKS]
    + [(look, "reset_after") for look in ("refresh", "watch", "status")]
    + [("refresh", "status"), ("cancel", "status")],
)
def test_a_look_buys_nothing(home: Path, train_file: Path, look: str, kind: str) -> None:
    """It adopts a job that is there, and sends none that is not, nor one that was turned away."""
    with Provider() as provider:
        provider.fault(CREATE, kind, status=429)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        time.sleep(0.05)
        if kind == "reset_after" and look == "watch":
            assert list(job.watch(20))
        else:
            LOOKS[look](job)
        assert provider.posts[JOBS] == 1
        record = Gateway().job(job.id).record
        assert (record.provider_id is not None) == (kind == "reset_after")
        if kind != "reset_after" and look != "cancel":
            assert f"ftg wait {job.id}" in record.outlook
            assert job.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 1


# -- before the first byte ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks://127.0.0.1:9"), ("SSL_CERT_FILE", "/no/such/file.pem")],
)
def test_nothing_is_sent_where_no_connection_can_be_made(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """The job ends there, in words, and no later look sends it."""
    with Provider() as provider:
        monkeypatch.setenv(variable, value)
        away = {"base_url": "https://gpu.example/v1"}
        place = away if variable == "ALL_PROXY" else {}  # no proxy is used to this machine
        with pytest.raises((BackendError, ValueError, OSError)) as caught:
            Gateway().submit(train_file, model=MODEL, backend=wire(provider, **place))
        monkeypatch.delenv(variable)
        [job] = Gateway().jobs()
        assert job.status is JobStatus.FAILED and "Nothing was sent" in str(job.error)
        assert isinstance(caught.value, BackendError) and variable in caught.value.hint
        assert provider.requests == [] and job.actual is not None and job.actual.cost_usd == 0


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_whatever_happens_before_the_first_byte_ends_the_job(
    home: Path, train_file: Path, reason: type[BaseException]
) -> None:
    """Ctrl-C or a bug between the intent and the first request."""

    class Stopped(FakeBackend):
        def capabilities(self, model: str | None = None) -> Capabilities:
            if Gateway(home).jobs():
                if reason is RuntimeError:
                    raise reason
                press_ctrl_c()
            return super().capabilities(model)

    raised = BackendError if reason is RuntimeError else reason  # a bug of a backend is typed
    with pytest.raises(raised) as caught:
        Gateway(home).submit(train_file, model="m", backend=Stopped())
    [job] = Gateway(home).jobs()
    words = "capabilities() of backend" if reason is RuntimeError else "Nothing was sent"
    assert job.status is JobStatus.FAILED and words in str(job.error)
    if reason is KeyboardInterrupt:
        assert f"{job.id} has ended: nothing was sent." in caught.value.__notes__


@pytest.mark.parametrize(("kind", "jobs"), [("reset_after", 1), ("reset_before", 0)])
def test_the_last_try_is_a_doubt_like_the_others(
    home: Path, train_file: Path, kind: str, jobs: int
) -> None:
    """The tenth create has no answer: it is looked for, and only then it has failed."""
    with Provider() as provider:
        job = lost(provider, train_file, "reset_before")
        with Gateway().store.transaction() as db:
            db.execute("UPDATE jobs SET tries = 9 WHERE id = ?", (job.id,))
        provider.fault(CREATE, kind)
        assert job.wait(20).status is (JobStatus.SUCCEEDED if jobs else JobStatus.FAILED)
        assert len(provider.jobs) == jobs


@pytest.mark.parametrize("step", ["added", "sent"])
def test_an_abort_says_which_job_it_was(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Ctrl-C right after the job is committed, or after its create: its id, and what becomes of
    it."""
    gateway = Gateway(home)
    method = {"added": "add", "sent": "set_sent"}[step]
    real = getattr(gateway.store, method)

    def stop(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(gateway.store, method, stop)
    with Provider() as provider, pytest.raises(KeyboardInterrupt) as caught:
        gateway.submit(train_file, model=MODEL, backend=wire(provider))
    [job] = Gateway(home).jobs()
    note = "".join(getattr(caught.value, "__notes__", []))
    assert job.id in note and ("follows it" if step == "sent" else "has not been sent") in note


# -- cancel ------------------------------------------------------------------------------


def test_cancel_asks_for_nothing_before_it_stops(home: Path, train_file: Path) -> None:
    """The job, its events and its checkpoints answer 500: the cancel is posted all the same."""
    with Provider(pace=60) as provider:
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        for path in ("", "/events", "/checkpoints"):
            provider.fault(f"GET /fine_tuning/jobs/*{path}", *["status"] * 9, status=500)
        with suppress(BackendError):
            job.cancel()
        assert job.status is JobStatus.CANCELLING
        assert provider.posts[f"{JOBS}/{job.provider_id}/cancel"] == 1
        provider.faults.clear()
        assert job.wait(20).status is JobStatus.CANCELLED


def test_cancel_of_a_job_that_may_still_arrive_says_so(home: Path, train_file: Path) -> None:
    """Nothing is sent, nothing is called cancelled; later it ends."""
    with Provider() as provider:
        provider.fault(CREATE, "reset_before")
        hosted = wire(provider, settle_seconds=0.5)
        job = Gateway().submit(train_file, model=MODEL, backend=hosted)
        with pytest.raises(JobNotFinished, match="may still get it"):
            job.cancel()
        time.sleep(0.55)
        assert job.cancel().status is JobStatus.CANCELLED and provider.posts[JOBS] == 1
        assert job.actual is not None and job.actual.cost_usd == 0


def test_a_job_whose_lock_is_removed_is_bought_once(home: Path, train_file: Path) -> None:
    """Of two processes that send it one says so, and has sent nothing."""

    class Removing(OpenAIBackend):
        def connect(self) -> None:
            super().connect()
            shutil.rmtree(Settings(home).locks)
            [job] = Gateway(home).jobs()
            assert job.wait().status == "succeeded"

    with Provider(steps=1, begins=1) as provider:
        place: Any = {"base_url": provider.url, "profile": "custom", "poll_seconds": 0.01}
        with pytest.raises(StoreError, match="our lock was removed"):
            Gateway(home).submit(train_file, model=MODEL, backend=Removing(**place))
        assert len(provider.world.jobs) == 1
        assert [job.status for job in Gateway(home).jobs()] == ["succeeded"]
