"""Answers and lists that may be about another job, file or account of ours: none is mistaken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.hosted import no_crash
from support.provider import CREATE, Fault, Provider
from support.rows import chat_rows

from finetune_gateway import BackendError, Gateway, GatewayError, JobStatus, OpenAIBackend
from finetune_gateway.jobs.job import Job
from finetune_gateway.settings import files

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"
READ = f"GET {JOBS}/*"
FIRST = "sk-test-0123456789abcdef"
ROTATED = "sk-test-rotated-89abcdef"  # another key of the same account
OTHER = "sk-test-other-6789abcdef"  # a key of another account


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(keys={ROTATED: "main", OTHER: "other"}, pace=60) as provider:
        yield provider


@pytest.fixture(autouse=True)
def key(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the key; the first one is set."""
    monkeypatch.setenv("OPENAI_API_KEY", FIRST)
    return lambda value: monkeypatch.setenv("OPENAI_API_KEY", value)


def submit(provider: Provider, rows: int = 12, url: str = "", **options: Any) -> Job:
    """Submit rows; equal numbers of them are equal submits. The backend settles quickly."""
    given: dict[str, Any] = {"request_timeout": 3.0, "settle_seconds": 0.0, "poll_seconds": 0.02}
    backend = OpenAIBackend(base_url=url or provider.url, profile="custom", **given)
    return Gateway().submit(chat_rows(rows), model=MODEL, backend=backend, **options)


def creates(provider: Provider) -> int:
    return provider.posts[JOBS]


# -- which job -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"n_epochs": 4},
        pytest.param({"suffix": "b"}, marks=pytest.mark.chaos),
        pytest.param({"seed": 5}, marks=pytest.mark.chaos),
    ],
    ids=str,
)
def test_a_file_does_not_tell_two_jobs_apart(provider: Provider, other: dict[str, Any]) -> None:
    """Two jobs in doubt on one file, at a host without tags; one of them is there. A cancel of the
    other one stops nothing, and neither is sent again until a person says which it is."""
    provider.world.keeps_metadata = False
    provider.fault(CREATE, "reset_before", "reset_after")
    lost, there = submit(provider, n_epochs=1), submit(provider, **other)
    for act in (lost.cancel, there.resume, lost.resume):
        with suppress(GatewayError):
            act()
    assert creates(provider) == 2 and "cancelled" not in provider.jobs[0]
    there.settle(created=provider.jobs[0]["id"])
    assert lost.cancel().status is JobStatus.CANCELLED and lost.provider_id is None
    assert creates(provider) == 2


def test_the_tag_of_a_create_is_not_that_of_a_list(
    provider: Provider, key: Callable[[str], None]
) -> None:
    """A host that answers a create with its tag, and lists all jobs without: seen to keep tags by
    the job of one account, in doubt in the other."""
    kept = provider.world.create

    def echoing(body: dict[str, Any]) -> dict[str, Any]:
        return {**kept(body), "metadata": body["metadata"]}

    provider.world.metadata = "null"
    provider.world.create = echoing  # type: ignore[method-assign]
    assert submit(provider, rows=13).provider_id is not None
    key(OTHER)
    provider.fault(CREATE, "reset_after")
    job = submit(provider)
    job.resume()
    assert creates(provider) == 2 and job.provider_id == provider.jobs[1]["id"]


def test_a_host_whose_clock_is_behind_gets_one_job(provider: Provider) -> None:
    """By ten minutes, or ours is ahead: a job on our file that seems to be older than our create
    may be the one. Only a person knows."""
    provider.world.keeps_metadata = False
    provider.fault(CREATE, "reset_after")
    job = submit(provider)
    provider.world.extra = {"created_at": int(time.time()) - 600}
    with suppress(BackendError):
        job.resume()
    assert creates(provider) == 1
    job.settle(created=provider.jobs[0]["id"])
    assert job.refresh().provider_id == provider.jobs[0]["id"]


def test_a_host_that_shows_the_name_of_a_file_gets_one_job(provider: Provider) -> None:
    """Where others show its id: the name that we have sent it under says that it is ours."""
    provider.world.keeps_metadata = False
    provider.fault(CREATE, "reset_after")
    job = submit(provider)
    [file] = provider.world.files.values()
    provider.world.extra = {"training_file": f"/data/{file['filename']}"}
    with suppress(BackendError):
        job.resume()
    assert creates(provider) == 1


def test_a_host_that_knows_no_filter_is_read_whole(provider: Provider) -> None:
    """It refuses the parameter: the whole list tells."""
    provider.fault(CREATE, "reset_after")
    job = submit(provider)
    provider.fault(f"GET {JOBS}", Fault("status", status=422))
    with no_crash():
        job.refresh()
    assert job.provider_id == provider.jobs[0]["id"]


# -- which answer --------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "cancelled", "succeeded"])
def test_an_answer_without_an_id_is_no_end(provider: Provider, status: str) -> None:
    """A server in between that says how the request went, with 200: the job goes on."""
    job = submit(provider)
    said = {"status": status, "message": "upstream timed out"}
    provider.fault(READ, Fault("body", body=said))
    with suppress(BackendError):
        job.refresh()
    assert not job.reload().status.final and job.error is None
    assert submit(provider).id == job.id and creates(provider) == 1


def test_an_answer_without_an_id_is_no_cancel(provider: Provider) -> None:
    """A refused cancel, and a page about something else: the job is not cancelling."""
    job = submit(provider)
    provider.fault(f"POST {JOBS}/*/cancel", Fault("status", status=400))
    provider.fault(READ, Fault("body", body={"status": "cancelled"}))
    with suppress(BackendError):
        job.cancel()
    assert job.reload().status is JobStatus.VALIDATING_FILES


@pytest.mark.parametrize("shown", ["its name", "its id alone"])
def test_an_upload_is_answered_with_its_file(provider: Provider, shown: str) -> None:
    """Or with an earlier one of ours: the job trains on its own rows."""
    submit(provider)
    [first] = provider.world.files.values()
    body = {"id": first["id"]} | ({"filename": first["filename"]} if shown == "its name" else {})
    provider.fault("POST /files", Fault("overlay", body=body))
    job = submit(provider, rows=13)
    with suppress(GatewayError):
        job.resume()
    asked = [one["request"]["training_file"] for one in provider.jobs]
    assert len(asked) == 2 and asked[0] == first["id"] != asked[1]
    assert job.provider_id == provider.jobs[1]["id"]


def test_a_create_is_answered_with_a_job_on_its_file(provider: Provider) -> None:
    """Another answer, at a host without tags, leaves a doubt, which the list ends."""
    provider.world.keeps_metadata = False
    body = {"id": "ftjob-theirs", "training_file": "file-theirs"}
    provider.fault(CREATE, Fault("overlay", body=body))
    job = submit(provider)
    assert job.provider_id is None
    assert job.refresh().provider_id == provider.jobs[0]["id"] and creates(provider) == 1


@pytest.mark.parametrize("status", [301, 302])
def test_a_redirect_to_a_new_job_is_a_doubt(provider: Provider, status: int) -> None:
    """As 303 is: the job was created. A redirect to elsewhere is a refusal."""
    headers = {"Location": f"{provider.url}{JOBS}/ftjob-1"}
    provider.fault(CREATE, Fault("refused_after", status=status, headers=headers))
    with suppress(BackendError):
        submit(provider)
    [job] = Gateway().jobs()
    assert not job.status.final
    assert submit(provider).provider_id == provider.jobs[0]["id"] and creates(provider) == 1
    elsewhere = {"Location": f"{provider.url}{JOBS}/"}
    provider.fault(CREATE, Fault("status", status=status, headers=elsewhere))
    with pytest.raises(BackendError):
        submit(provider, rows=13)
    assert Gateway().jobs(limit=1)[0].status is JobStatus.FAILED


# -- which account and host ----------------------------------------------------------------


@pytest.mark.parametrize("fault", ["error_after", "html"])
def test_a_finished_job_is_not_bought_with_a_new_key(
    provider: Provider, key: Callable[[str], None], fault: str
) -> None:
    """The key has rotated, and no job can be read just now: whose it is cannot be known."""
    provider.world.pace = 0
    job = submit(provider).wait(20)
    key(ROTATED)
    provider.fault(READ, *[fault] * 6)
    with suppress(BackendError):
        submit(provider)
    assert creates(provider) == 1
    provider.faults.clear()
    assert submit(provider).id == job.id and creates(provider) == 1


def test_equal_jobs_of_two_accounts_are_settled(
    provider: Provider, key: Callable[[str], None]
) -> None:
    """A person says of both that they are not there. With one key, one of them is sent."""
    provider.world.keeps_metadata = False
    jobs = []
    for value in (FIRST, OTHER):
        key(value)
        submit(provider, rows=13)
        provider.fault(CREATE, "reset_before")
        jobs.append(submit(provider))
    for job in jobs:
        with no_crash():
            job.settle(created=None)
    before = creates(provider)
    for job in jobs[::-1]:
        with suppress(GatewayError):
            job.resume()
    assert creates(provider) == before + 1
    assert jobs[0].cancel().status is JobStatus.CANCELLED and jobs[0].provider_id is None


def test_an_address_has_one_form(provider: Provider) -> None:
    """The same submit to the same host, however its address is written."""
    plain = provider.url.replace("127.0.0.1", "localhost")
    loud = plain.replace("http://localhost", "HTTP://LocalHost") + "/"
    assert submit(provider, url=plain).id == submit(provider, url=loud).id
    assert creates(provider) == 1
    written = ["https://API.OpenAI.com:443/v1/", "https://api.openai.com/v1"]
    assert len({OpenAIBackend(base_url=one).base_url for one in written}) == 1


# -- whose turn ----------------------------------------------------------------------------


def test_a_wait_that_was_stopped_holds_up_nobody(provider: Provider) -> None:
    """The process that waits for the first job does nothing any more (Ctrl-Z): the second one is
    sent, once the first should have been sent long ago."""
    provider.fault(CREATE, Fault("busy", seconds=60))  # the second waits behind the first
    first, second = submit(provider), submit(provider, rows=13)
    assert files.try_lock(first.store.settings.locks / f"{first.id}.wait") is not None
    with first.store.transaction() as db:
        db.execute("UPDATE jobs SET step_clock = NULL, step_at = 1, not_before = 2")
    second.resume()
    assert second.provider_id is not None and first.reload().provider_id is None
