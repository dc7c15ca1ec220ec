"""A copy of a home beside the original: no job is trained or bought by both in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.provider import Provider
from support.records import record

from finetune_gateway import Gateway, JobNotFinished, JobStatus, OpenAIBackend
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.settings.files import try_lock
from finetune_gateway.settings.home import Settings

MODEL = "gpt-4.1-mini-2025-04-14"


def copied(home: Path, name: str = "copy of 100% é") -> Path:
    return Path(shutil.copytree(home, home.with_name(name)))


def queued(home: Path) -> str:
    """A local job that waits, in a home whose dispatcher seems to live."""
    assert try_lock(Settings(home).create().locks / LOCK) is not None
    store = Gateway(home).store
    job = record(backend="local", status=JobStatus.QUEUED, step="sent")
    store.add(job.model_copy(update={"provider_id": job.id}))
    Queue(Settings(home)).add(job.id)
    return job.id


def test_a_local_job_is_paused_in_a_copy(home: Path) -> None:
    """Once: who resumes it there wants both. A home that was moved goes on by itself."""
    job = queued(home)
    copy = copied(home)
    assert try_lock(copy / "locks" / LOCK) is not None
    found = Gateway(copy).job(job).refresh()
    assert found.status is JobStatus.PAUSED
    assert f"this home is a copy of {home}, where it goes on" in found.phase
    assert Queue(Settings(home)).get(job).status is JobStatus.QUEUED
    Queue(Settings(copy)).resume(job, 1)
    assert Gateway(copy).job(job).refresh().status is JobStatus.QUEUED
    second = copied(copy, "second")
    assert try_lock(second / "locks" / LOCK) is not None
    assert Queue(Settings(second)).get(job).status is JobStatus.PAUSED
    moved = home.rename(home.with_name("moved"))
    assert Queue(Settings(moved)).get(job).status is JobStatus.QUEUED


def test_a_home_that_was_copied_and_deleted_was_moved(home: Path) -> None:
    """As ``cp`` and ``rm`` move one to another disk; a damaged note is none."""
    job = queued(home)
    copy = copied(home)
    shutil.rmtree(home)
    assert try_lock(copy / "locks" / LOCK) is not None
    assert Queue(Settings(copy)).get(job).status is JobStatus.QUEUED
    assert json.loads((copy / "place.json").read_text())["home"] == str(copy)
    (copy / "place.json").write_bytes(b"\0")
    assert Queue(Settings(copy)).get(job).status is JobStatus.QUEUED


def test_an_unsent_job_is_not_sent_by_a_copy(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original sends it, once, and the copy finds it then. New jobs of the copy are its own."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    with Provider(steps=1) as provider:

        def backend() -> OpenAIBackend:
            return OpenAIBackend(
                base_url=provider.url, profile="custom", settle_seconds=0.1, poll_seconds=0.005
            )

        provider.fault("POST /files", "reset_before")
        job = Gateway(home).submit(train_file, model=MODEL, backend=backend())
        copy = copied(home)
        with pytest.raises(JobNotFinished, match="this home is a copy of") as refused:
            Gateway(copy).job(job.id).wait(20)
        assert f"ftg --home {home} wait {job.id}" in refused.value.hint
        assert not provider.jobs
        other = Gateway(copy).submit(train_file, model=MODEL, backend=backend(), seed=5)
        assert other.wait(20).status is JobStatus.SUCCEEDED
        assert Gateway(home).job(job.id).wait(20).status is JobStatus.SUCCEEDED
        assert Gateway(copy).job(job.id).wait(20).status is JobStatus.SUCCEEDED
        assert len(provider.jobs) == 2
