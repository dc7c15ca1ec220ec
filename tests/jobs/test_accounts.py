"""A key is not its variable: nothing is looked for, sent or judged with another account's key."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from support.provider import CREATE, Provider
from support.rows import chat_rows

from finetune_gateway import (
    AuthenticationError,
    BackendError,
    BudgetError,
    Gateway,
    GatewayError,
    JobStatus,
    OpenAIBackend,
)
from finetune_gateway.backend import Capabilities, Settings
from finetune_gateway.jobs.budget import never_created
from finetune_gateway.jobs.job import Job

MODEL = "gpt-4.1-mini-2025-04-14"
JOBS = "/fine_tuning/jobs"
JOB = "GET /fine_tuning/jobs/*"
FIRST = "sk-test-0123456789abcdef"
ROTATED = "sk-test-rotated-89abcdef"  # another key of the same account
OTHER = "sk-test-other-6789abcdef"  # a key of another account
VARIABLE = "ACCOUNTS_KEY"
ROLES = ("user", "assistant")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1, keys={ROTATED: "main", OTHER: "other"}) as provider:
        yield provider


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the key; the first one is set."""
    monkeypatch.setenv(VARIABLE, FIRST)
    return lambda value: monkeypatch.setenv(VARIABLE, value)


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    """A hosted backend that settles quickly, with the key of the variable."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    named = {"api_key_env": VARIABLE}
    place = {"base_url": provider.url, "profile": "custom"}
    return OpenAIBackend(**place | given | named | options)


def submit(
    provider: Provider, file: Path, place: dict[str, Any] | None = None, **options: Any
) -> Job:
    return Gateway().submit(file, model=MODEL, backend=wire(provider, **place or {}), **options)


def lost(provider: Provider, file: Path, kind: str, endpoint: str = CREATE, **options: Any) -> Job:
    """Submit a job; a request of it has this fault and can no longer take effect."""
    provider.fault(endpoint, kind)
    job = submit(provider, file, **options)
    assert job.provider_id is None
    time.sleep(0.05)
    return Gateway().job(job.id)


ACTIONS: dict[str, Callable[[Job], object]] = {
    "refresh": lambda job: job.refresh(),
    "wait": lambda job: job.wait(5),
    "result": lambda job: job.result(5),
    "cancel": lambda job: job.cancel(),
}


@pytest.mark.parametrize(
    ("endpoint", "alone"), [(CREATE, True), (CREATE, False), ("POST /files", False)]
)
def test_a_lost_answer_is_not_judged_with_another_key(
    home: Path,
    train_file: Path,
    provider: Provider,
    key: Callable[[str], None],
    endpoint: str,
    alone: bool,
) -> None:
    """The job stays as it is, whatever is done with it, and its own key finds it again."""
    if not alone:
        submit(provider, train_file, seed=1).wait(20)
    file = train_file if endpoint == CREATE else new_file(train_file)
    job = lost(provider, file, "reset_after", endpoint)
    before, created = provider.posts.copy(), len(provider.jobs)
    key(OTHER)
    for name, action in ACTIONS.items():
        if name == "cancel" and endpoint != CREATE:
            continue  # ends it: nothing was created
        with pytest.raises(BackendError, match=f"{VARIABLE}.*{job.id}") as caught:
            action(Gateway().job(job.id))
        assert caught.value.code == ("not_settled" if alone else "other_account"), caught.value
    assert provider.posts == before and len(provider.jobs) == created
    assert not Gateway().job(job.id).status.final
    key(FIRST)
    assert Gateway().job(job.id).wait(20).status is JobStatus.SUCCEEDED
    assert provider.posts["/files"] == before["/files"]
    assert len([job for job in provider.jobs if job["account"] == "other"]) == 0


def new_file(beside: Path) -> Path:
    """A data file whose content was never sent."""
    path = beside.with_name("new.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(14)), "utf-8")
    return path


def test_a_sent_job_is_left_alone_with_another_key(
    home: Path, train_file: Path, key: Callable[[str], None]
) -> None:
    """Polls and cancels say in words which key to set; nothing is stopped, nothing is forgotten."""
    with Provider(steps=1, pace=60, keys={OTHER: "other"}) as provider:
        job = submit(provider, train_file)
        key(OTHER)
        for action in ACTIONS.values():
            with pytest.raises(BackendError) as caught:
                action(Gateway().job(job.id))
            assert isinstance(caught.value, AuthenticationError) and not caught.value.retryable
            assert f"The key in {VARIABLE} belongs to another account" in caught.value.message
            assert f"{job.id}. Set a key" in caught.value.message
        key(FIRST)
        assert Gateway().job(job.id).refresh().status is JobStatus.VALIDATING_FILES
        assert Gateway().job(job.id).cancel().status is JobStatus.CANCELLED


def test_a_model_is_first_asked_with_a_key_of_its_account(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None]
) -> None:
    """A job that has succeeded, and another account's key: no chat is sent, and the error says
    which key to set."""
    job = submit(provider, train_file).wait(20)
    provider.fault("POST /chat/completions", "status", status=400)  # else it would be asked again
    key(OTHER)
    with pytest.raises(AuthenticationError, match=f"another account.*{job.id}"):
        Gateway().job(job.id).result()
    assert provider.posts["/chat/completions"] == 0
    provider.faults.clear()
    key(ROTATED)
    assert Gateway().job(job.id).result().ready


def test_a_finished_model_is_asked_with_a_key_of_its_account(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None]
) -> None:
    """A model that has answered before, and another account's key: no question leaves the machine,
    whether its handle is new or was opened with the right key. A new key of the account may ask."""
    job = submit(provider, train_file).wait(20)
    opened, asked = job.result(), provider.posts["/chat/completions"]
    step = job.checkpoints()[-1].step
    key(OTHER)
    again = Gateway().job(job.id)
    for ask in (
        again.result,
        again.handle,
        partial(again.result, step=step),
        partial(opened.chat, "A secret."),
        partial(opened.chat_many, [{"messages": [{"role": "user", "content": "A secret."}]}]),
        opened.connect,
        opened.download,
        lambda: list(opened.stream("A secret.")),
    ):
        with pytest.raises(AuthenticationError, match=f"another account.*{job.id}. Set a key"):
            ask()
    words = ("Name a river of Spain.", "The Ebro.")
    says = [{"role": role, "content": text} for role, text in zip(ROLES, words, strict=True)]
    with pytest.raises(AuthenticationError, match=f"another account.*{job.id}"):
        Gateway().compare([job.id], [{"messages": says}], max_tokens=8)
    assert provider.posts["/chat/completions"] == asked
    key(ROTATED)
    assert opened.chat("Hello.").text and Gateway().job(job.id).result().chat("Hello.").text


def test_accounts_have_their_own_jobs_and_files(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None]
) -> None:
    """The same submit with another account's key is another job, with a file of its own."""
    first = submit(provider, train_file)
    key(OTHER)
    second = submit(provider, train_file)
    assert second.id != first.id and provider.posts["/files"] == 2
    assert submit(provider, train_file).id == second.id
    assert [job["account"] for job in provider.jobs] == ["main", "other"]
    assert second.wait(20).status is JobStatus.SUCCEEDED
    key(FIRST)
    assert submit(provider, train_file).id == first.id
    assert submit(provider, train_file, seed=3).wait(20).status is JobStatus.SUCCEEDED
    assert provider.posts == {"/files": 2, JOBS: 3}


def test_keys_rotate(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None]
) -> None:
    """A new key that reads a job of the account belongs to it: the same job, the same file; also
    after the first key was revoked."""
    job = submit(provider, train_file)
    key(ROTATED)
    del provider.keys[FIRST]
    assert submit(provider, train_file).id == job.id
    assert submit(provider, train_file, seed=1).wait(20).status is JobStatus.SUCCEEDED
    assert Gateway().job(job.id).wait(20).status is JobStatus.SUCCEEDED
    assert provider.posts == {"/files": 1, JOBS: 2}
    assert len({job.record.account for job in Gateway().jobs()}) == 1


def test_the_variable_does_not_matter(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key by value, and by the name of another variable: the same account, the same job."""
    first = submit(provider, train_file)
    monkeypatch.setenv("ANOTHER_KEY", FIRST)
    for options in ({"api_key": FIRST}, {"api_key_env": "ANOTHER_KEY"}):
        backend = wire(provider, **options)
        assert Gateway().submit(train_file, model=MODEL, backend=backend).id == first.id
    assert provider.posts == {"/files": 1, JOBS: 1}


@pytest.mark.parametrize("known", [True, False])
def test_a_project_has_its_own_jobs(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The same key with another OPENAI_PROJECT_ID is another account: what it does not see there
    may be in the first project."""
    with Provider(steps=1) as provider:
        monkeypatch.setenv("HTTP_PROXY", provider.url.removesuffix("/v1"))
        url = "http://api.openai.com/v1"
        place: dict[str, Any] = {"base_url": url, "profile": None}
        if "allow_http" in signature(OpenAIBackend).parameters:  # not before (tests/trust.py)
            place["allow_http"] = True
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_first")
        if known:
            submit(provider, new_file(train_file), place=place).wait(20)
        job = lost(provider, train_file, "reset_after", place=place)
        before = provider.posts.copy()
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_other")
        for name in ("wait", "cancel"):
            with pytest.raises(BackendError, match=f"{job.id}.*OPENAI_PROJECT_ID"):
                ACTIONS[name](Gateway().job(job.id))
        assert provider.posts == before and not Gateway().job(job.id).status.final
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_first")
        assert Gateway().job(job.id).wait(20).status is JobStatus.SUCCEEDED
        assert {job["account"] for job in provider.jobs} == {"main proj_first"}
        assert len(provider.jobs) == 1 + known


@pytest.mark.parametrize("kind", ["reset_after", "reset_before"])
def test_a_new_key_and_an_unsent_job_alone(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None], kind: str
) -> None:
    """Our tag proves that the key is of its account; that there is none proves nothing: the person
    is asked, and nothing is bought until then, by the same submit either."""
    job = lost(provider, train_file, kind)
    key(ROTATED)
    if kind == "reset_after":
        assert submit(provider, train_file).id == job.id
    else:
        for again in (True, False):
            with pytest.raises(BackendError, match=f"ftg settle {job.id} --not-created") as caught:
                submit(provider, train_file) if again else Gateway().job(job.id).wait(5)
            assert caught.value.code == "not_settled" and provider.posts[JOBS] == 1
        Gateway().job(job.id).settle(created=None)
    assert Gateway().job(job.id).wait(20).status is JobStatus.SUCCEEDED
    assert len(provider.jobs) == 1 and len(Gateway().jobs()) == 1
    assert submit(provider, train_file, seed=2).wait(20).status is JobStatus.SUCCEEDED
    assert provider.posts["/files"] == 1 + (kind == "reset_before")


@pytest.mark.parametrize(
    "status", [403, *[pytest.param(other, marks=pytest.mark.chaos) for other in (401, 500)]]
)
def test_an_error_of_a_read_says_nothing(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None], status: int
) -> None:
    """It stays what it is: only 404 tells that the account is another one."""
    submit(provider, train_file, seed=1).wait(20)
    job = lost(provider, train_file, "reset_before")
    key(ROTATED)
    provider.fault(JOB, *["status"] * 9, status=status, headers={"x-should-retry": "false"})
    with pytest.raises(BackendError) as caught:
        Gateway().job(job.id).refresh()
    assert caught.value.status_code == status and provider.posts[JOBS] == 2
    with pytest.raises(BackendError):
        submit(provider, train_file)
    provider.faults.clear()
    assert submit(provider, train_file).wait(20).status is JobStatus.SUCCEEDED
    assert len(provider.jobs) == 2 and provider.posts[JOBS] == 3


def test_a_person_names_the_job_of_another_key(
    home: Path, train_file: Path, key: Callable[[str], None]
) -> None:
    """At a host that keeps no tags and shows no files; the key can read the job that is named."""
    with Provider(
        steps=1, metadata="null", hides=("training_file",), keys={ROTATED: "main"}
    ) as provider:
        job = lost(provider, train_file, "reset_after")
        key(ROTATED)
        with pytest.raises(BackendError, match="settle"):
            Gateway().job(job.id).wait(5)
        Gateway().job(job.id).settle(created=provider.jobs[0]["id"])
        assert Gateway().job(job.id).wait(20).status is JobStatus.SUCCEEDED


def test_a_budget_is_not_freed_with_another_key(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None]
) -> None:
    """A dead submitter's job keeps its share: that another account lacks it says nothing."""
    job = lost(provider, train_file, "reset_after", train_price=100)
    high = Gateway().budget().reserved_usd
    key(OTHER)
    with pytest.raises(GatewayError) as caught:
        Gateway(monthly_usd=high * 3 / 2).submit(
            train_file, model=MODEL, backend=wire(provider), train_price=100, seed=1
        )
    assert isinstance(caught.value, BudgetError)
    assert Gateway().budget().reserved_usd == high and not Gateway().job(job.id).status.final
    assert provider.posts[JOBS] == 1


def test_without_a_key_no_job_is_lost(
    home: Path, train_file: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to set; the job goes on with it."""
    job = lost(provider, train_file, "reset_after")
    monkeypatch.delenv(VARIABLE)
    for action in ACTIONS.values():
        with pytest.raises(AuthenticationError, match=f"{VARIABLE} is not set"):
            action(Gateway().job(job.id))
    monkeypatch.setenv(VARIABLE, FIRST)
    assert Gateway().job(job.id).wait(20).status is JobStatus.SUCCEEDED


def test_the_home_holds_no_key(home: Path, train_file: Path, provider: Provider) -> None:
    """A fingerprint with a salt of the home, in a file that only its owner can read."""
    submit(provider, train_file).wait(20)
    [salt] = home.glob("*.salt")
    assert salt.stat().st_mode & 0o777 == 0o600 and len(salt.read_bytes()) == 32
    held = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert FIRST.encode() not in held and hashlib.sha256(FIRST.encode()).digest() not in held
    mark = Gateway().jobs()[0].record.account
    assert mark == Settings.load().fingerprint(provider.url, FIRST)
    assert mark not in (
        Settings.load().fingerprint("https://elsewhere/v1", FIRST),
        Settings(home / "another").create().fingerprint(provider.url, FIRST),
    )


# -- stores from before ------------------------------------------------------------------


def as_before(home: Path, job: Job) -> None:
    """Make the store one that knows no accounts: no keys, and the equal submit by its variable."""
    record, options = job.record, job.record.backend_options
    place = {"base_url": options["base_url"], "api_key_env": options["api_key_env"]}
    identity = [record.train.sha256, None, record.spec.canonical(), "openai", place, None]
    known = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    with sqlite3.connect(home / "gateway.sqlite3") as db:
        db.execute("UPDATE jobs SET account = NULL, submit_key = ?", (known,))
        db.execute("DELETE FROM keys")
    os.unlink(home / "key.salt")


@pytest.mark.parametrize("sent", [True, False])
def test_a_job_of_an_old_store_gets_its_account(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None], sent: bool
) -> None:
    """At the first answer about it; until then and afterwards, the same submit is the same job."""
    job = submit(provider, train_file) if sent else lost(provider, train_file, "reset_after")
    as_before(home, job)
    assert submit(provider, train_file).id == job.id
    Gateway().job(job.id).refresh()
    account = Gateway().job(job.id).record.account
    assert account == Settings.load().fingerprint(provider.url, FIRST)
    assert submit(provider, train_file).id == job.id and provider.posts[JOBS] == 1
    key(OTHER)
    with pytest.raises(AuthenticationError, match=job.id):
        Gateway().job(job.id).refresh()
    assert submit(provider, train_file).id != job.id


def test_a_job_of_an_old_store_gets_the_account_of_a_rotated_key(
    home: Path, train_file: Path, provider: Provider, key: Callable[[str], None]
) -> None:
    """The name of an account is its first key, whichever of its keys reads the job."""
    old, new = submit(provider, train_file), submit(provider, train_file, seed=1)
    key(ROTATED)
    Gateway().job(new.id).refresh()
    Gateway().store.query("UPDATE jobs SET account = NULL WHERE id = ?", (old.id,))
    Gateway().job(old.id).refresh()
    assert Gateway().job(old.id).record.account == new.record.account


class RunningOut(OpenAIBackend):
    """Its jobs are in doubt for a minute, which is over after so many looks at the clock."""

    looks = 0

    def capabilities(self, model: str | None = None) -> Capabilities:
        self.looks -= 1
        seconds = 60.0 if self.looks >= 0 else 0.0
        return replace(super().capabilities(model), settle_seconds=seconds)


@pytest.mark.parametrize("action", ["resume", "cancel"])
def test_time_that_runs_out_during_a_look_shows_nothing(
    home: Path, train_file: Path, provider: Provider, action: str
) -> None:
    """The key of another account sees no job, at whatever moment the time is over in which a
    create may take effect: nothing is sent with it, nothing ends as never created."""
    provider.fault(CREATE, "reset_after")
    gateway = Gateway()
    job = gateway.submit(train_file, model=MODEL, backend=wire(provider, settle_seconds=60))
    assert job.provider_id is None and len(provider.jobs) == 1
    before = provider.posts.copy()
    for looks in range(5):
        other = RunningOut(base_url=provider.url, profile="custom", api_key=OTHER)
        other.looks = looks
        load = partial(gateway.backend, other)
        seen = Job(job.reload().record, gateway.store, load, gateway._submitter)
        with suppress(GatewayError):
            getattr(seen, action)()
        assert provider.posts == before
        assert not never_created(job.reload().record), job.record
