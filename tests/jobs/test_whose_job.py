"""Whose job, answer or attempt is it? What is of another host, account or attempt does not count.

Each of these guards stands behind another one, which tests of whole submits meet first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.provider import Provider
from support.records import record

from finetune_gateway import BackendError, FakeBackend, Gateway, OpenAIBackend
from finetune_gateway.backend import NOT_SETTLED, DataFile, Intent
from finetune_gateway.backends.openai import finding, request
from finetune_gateway.jobs import accounts, resumption
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.spec import TrainingSpec

HERE, THERE = {"base_url": "https://here.example"}, {"base_url": "https://there.example"}
KEY, ROTATED = "sk-test-0123456789abcdef", "sk-test-rotated-89abcdef"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    store = Gateway().store
    yield store
    store.close()


def add(store: Store, **changes: Any) -> JobRecord:
    return store.add(record(hosted=True, backend="openai", **changes))[0]


def test_an_id_of_another_host_is_no_other_job(store: Store) -> None:
    """Hosts count from one: of a job in doubt, the job with the same number elsewhere says
    nothing."""
    add(store, backend_options=THERE, provider_id="ftjob-1")
    add(store, backend_options=HERE, provider_id="ftjob-2")
    job = add(store, backend_options=HERE)
    assert accounts.other_provider_ids(store, job) == {"ftjob-2"}


def test_a_job_that_was_certainly_not_created_is_no_rival(store: Store) -> None:
    """A second job on the same file makes it unclear which of the two the host shows, until a
    person has said that it is not there."""
    rival = add(store, backend_options=HERE, sent_at=1.0, spec=TrainingSpec(model="m", seed=1))
    job = add(store, backend_options=HERE, sent_at=1.0)
    assert accounts.is_contested(store, job)
    store.settle_unsent(rival.id)
    assert not accounts.is_contested(store, job)
    add(store, backend_options={**HERE, "azure_training": "global"}, sent_at=1.0)
    assert accounts.is_contested(store, job)  # the same work, sent to be trained elsewhere


def test_a_file_shows_nothing_to_a_key_of_which_nobody_knows_whose_it_is() -> None:
    """Another account may have a job on an equal file."""
    file = DataFile(Path("x"), "0" * 64, 1, 1)
    jobs = [{"id": "ftjob-1", "training_file": "file-1", "model": "m", "created_at": time.time()}]
    files = [{"id": "file-1", "filename": request.file_name(file)}]
    tags = finding.TagMemory("", None)
    host = finding.Host(
        "here", lambda tag: ([] if tag else jobs, True), lambda: (files, True), tags, False
    )
    intent = Intent("ftg-1", TrainingSpec(model="m"), file)
    assert finding.find(intent, host) == "ftjob-1"
    with pytest.raises(BackendError) as caught:
        finding.find(replace(intent, same_account=False), host)
    assert caught.value.code == NOT_SETTLED


def test_a_key_that_could_not_be_tried_is_tried_again(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for that of a new account for good."""
    with Provider(steps=1, keys={ROTATED: "main"}) as provider:
        monkeypatch.setenv("ACCOUNTS_KEY", KEY)
        backend = OpenAIBackend(
            base_url=provider.url, api_key_env="ACCOUNTS_KEY", profile="custom", poll_seconds=0.005
        )
        gateway = Gateway()
        job = gateway.submit(train_file, model="gpt-4.1-mini-2025-04-14", backend=backend)
        monkeypatch.setenv("ACCOUNTS_KEY", ROTATED)
        provider.fault("GET /fine_tuning/jobs/*", "status", status=403)
        assert accounts.of(gateway.store, backend) == backend.account()
        assert accounts.of(gateway.store, backend) == job.record.account != backend.account()


def test_who_resumed_before_does_not_end_a_later_attempt(store: Store) -> None:
    """The backend has heard of the first attempt, not of the second, which is asked for again."""
    job = add(store, step="resuming", resumes=2, provider_id="ftjob-1")
    late = job.model_copy(update={"resumes": 1})
    assert resumption.go_on(late, store, FakeBackend()).step == "resuming"
    assert resumption.go_on(job, store, FakeBackend()).step == "sent"
