"""Which answers of a host are believed: none that may be about something else, or not whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.provider import CREATE, Fault, Provider
from support.rows import chat_rows
from typer.testing import CliRunner

from finetune_gateway import BackendError, Gateway, JobStatus, OpenAIBackend, SpecError
from finetune_gateway.jobs.job import Job

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"
LIST = f"GET {JOBS}"
READ = f"GET {JOBS}/*"
FIRST = "sk-test-0123456789abcdef"
ROTATED = "sk-test-rotated-89abcdef"  # another key of the same account
PAGE = b"<html><head><title>404 Not Found</title></head></html>"
THEIRS = {"ftg_job_id": "ftg-somebodyelse"}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(keys={ROTATED: "main"}, pace=60) as provider:
        yield provider


@pytest.fixture(autouse=True)
def key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", FIRST)


def submit(provider: Provider, rows: int = 12, key: str = FIRST, **options: Any) -> Job:
    """Submit rows; equal numbers of them are equal submits. The backend settles quickly."""
    given: dict[str, Any] = {"request_timeout": 3.0, "settle_seconds": 0.0, "poll_seconds": 0.02}
    profile = options.pop("profile", "custom")
    backend = OpenAIBackend(base_url=provider.url, profile=profile, api_key=key, **given)
    return Gateway().submit(chat_rows(rows), model=MODEL, backend=backend, **options)


def lose(provider: Provider, job: Job) -> None:
    """Let the host have this job no more."""
    del provider.world.jobs[str(job.provider_id)]


# -- accounts ------------------------------------------------------------------------------


def test_a_lost_job_proves_no_other_account(provider: Provider) -> None:
    """The host has lost the newest job: a new key reads an older one, and is of the account."""
    first, newest = submit(provider), submit(provider, rows=13)
    lose(provider, newest)
    assert submit(provider, key=ROTATED).id == first.id
    assert provider.posts[JOBS] == 2


def test_a_page_with_404_proves_no_other_account(provider: Provider) -> None:
    """A server in between has no such page: the submit ends, and nothing is taken for known."""
    job = submit(provider)
    provider.fault(READ, *[Fault("raw", status=404, body=PAGE)] * 2)
    with suppress(BackendError):
        assert submit(provider, key=ROTATED).id == job.id
    assert submit(provider, key=ROTATED).id == job.id
    assert provider.posts[JOBS] == 1


# -- lists ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        {"data": [None], "has_more": False},
        {"data": [], "has_more": None},
        {"data": [], "error": {"message": "The index is being rebuilt."}},
        {"data": [], "has_more": False, "next": "https://host/page2"},
    ],
    ids=str,
)
def test_a_list_that_may_lack_jobs_proves_nothing(provider: Provider, page: dict[str, Any]) -> None:
    """The job is there; the list does not show it, and does not say that it is whole."""
    provider.fault(CREATE, "reset_after")
    job = submit(provider)
    provider.fault(LIST, *[Fault("body", body=page)] * 2)
    with suppress(BackendError):
        job.resume()
    assert provider.posts[JOBS] == 1 and job.reload().provider_id is None
    assert job.refresh().provider_id == provider.jobs[0]["id"]


def test_a_filter_alone_proves_nothing(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that documents tags, and whose filter by them finds nothing: the whole list tells."""
    provider.fault(CREATE, "reset_after")
    monkeypatch.setattr("finetune_gateway.backends.openai.endpoint.OPENAI_HOST", "127.0.0.1")
    job = submit(provider, profile="openai")
    provider.fault(LIST, Fault("body", body={"object": "list", "data": [], "has_more": False}))
    job.resume()
    assert provider.posts[JOBS] == 1 and job.provider_id == provider.jobs[0]["id"]


# -- the job itself ------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["a file", "another tag", "an id of ours", "an id and our tag"])
def test_a_create_is_answered_with_its_job(provider: Provider, answer: str) -> None:
    """Anything else leaves a doubt, which the list ends."""
    first = submit(provider)
    body = {
        "a file": {"id": "file-abc", "object": "file"},
        "another tag": {"id": "ftjob-1", "metadata": THEIRS},
        "an id of ours": {"id": first.provider_id, "metadata": None},
        "an id and our tag": {"id": first.provider_id},
    }[answer]
    provider.fault(CREATE, Fault("overlay", body=body))
    job = submit(provider, rows=13)
    assert job.provider_id is None
    job.resume()
    assert job.provider_id == provider.jobs[1]["id"] and provider.posts[JOBS] == 2


def test_two_looks_at_once_adopt_a_job_for_one() -> None:
    """Two equal jobs in doubt, one of them at a host without tags: it is one of the two."""
    with Provider(keeps_metadata=False) as provider:
        provider.fault(CREATE, "reset_before", "reset_after")
        pair = [submit(provider), submit(provider, again=True)]
        real, both = provider.world.list_jobs, threading.Barrier(2)

        def slow(query: dict[str, str]) -> dict[str, Any]:
            page = real(query)
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=2)
            return page

        provider.world.list_jobs = slow  # type: ignore[method-assign]  # both read, then both store

        def look(job: Job) -> None:
            with suppress(BackendError):
                Gateway().job(job.id).refresh()

        looks = [threading.Thread(target=look, args=(job,)) for job in pair]
        for one in looks:
            one.start()
        for one in looks:
            one.join()
        provider.world.list_jobs = real  # type: ignore[method-assign]
        held = [job.reload().provider_id for job in pair]
        assert sorted(held, key=str) == [None, provider.jobs[0]["id"]]


@pytest.mark.parametrize("answer", [{"id": "ftjob-other"}, {"metadata": THEIRS}], ids=str)
def test_an_answer_about_another_job_is_not_stored(
    provider: Provider, answer: dict[str, Any]
) -> None:
    """A poll that is answered with the end of somebody else's job."""
    job = submit(provider)
    ended = {"status": "succeeded", "fine_tuned_model": "ft:theirs"}
    provider.fault(READ, Fault("overlay", body=ended | answer))
    with suppress(BackendError):
        job.refresh()
    assert job.reload().record.result is None and not job.status.final
    assert not job.refresh().status.final


def test_a_list_about_another_job_is_not_stored(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many jobs have moved that the list is taken at its word: not for one with another tag."""
    monkeypatch.setattr("finetune_gateway.jobs.many.MOVES", 1)
    jobs = [submit(provider), submit(provider, rows=13)]
    rows = [{"id": job.provider_id, "status": "paused", "metadata": THEIRS} for job in jobs]
    provider.fault(LIST, Fault("body", body={"data": rows, "has_more": False}))
    Gateway().refresh(jobs)
    assert [job.reload().status for job in jobs] == [JobStatus.VALIDATING_FILES] * 2


# -- lost jobs -----------------------------------------------------------------------------


def settle(job: Job, *options: str) -> Any:
    from finetune_gateway.cli.run import build_app

    return CliRunner().invoke(build_app("settle"), [job.id, *options])


def test_a_job_that_its_host_has_lost_can_be_ended(provider: Provider) -> None:
    """The host says so, and a person: it has failed, its estimate counts as spent, it can be
    removed, and the same submit is a new job."""
    job = submit(provider, train_price=100)
    assert isinstance(settle(job, "--not-created").exception, SpecError)  # the host has it
    lose(provider, job)
    provider.fault(READ, Fault("raw", status=404, body=PAGE))
    refused = settle(job, "--not-created").exception  # that is not the host's word
    assert isinstance(refused, BackendError)
    reserved = Gateway().budget().reserved_usd
    done = settle(job, "--not-created")
    assert done.exit_code == 0 and f"{job.id} failed" in done.output
    assert job.reload().status is JobStatus.FAILED and "counts as spent" in str(job.error)
    assert Gateway().budget().spent_usd == reserved > 0
    assert job.remove().job_id == job.id
    assert submit(provider, train_price=100).id != job.id and provider.posts[JOBS] == 2


@pytest.mark.parametrize("wrong", ["ftjob-unknown", "another"])
def test_a_wrong_id_can_be_corrected(provider: Provider, wrong: str) -> None:
    """A job that got another's id when its create was answered, in an earlier version."""
    other, job = submit(provider), submit(provider, rows=13)
    right = str(job.provider_id)
    held = other.provider_id if wrong == "another" else wrong
    with job.store.transaction() as db:
        db.execute("UPDATE jobs SET provider_id = ? WHERE id = ?", (held, job.id))
    with pytest.raises(BackendError) as caught:
        job.refresh()
    assert f"ftg settle {job.id}" in caught.value.hint
    with pytest.raises(SpecError):
        job.settle(created=other.provider_id)
    assert settle(job, "--created", right).exit_code == 0
    assert job.refresh().provider_id == right
    with pytest.raises(SpecError):
        job.settle(created=right)
