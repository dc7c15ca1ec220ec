"""The scripted backend: what docs, tests and authors of backends may rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import registry
from finetune_gateway.backend import DataFile, Intent
from finetune_gateway.backends.fake import FakeBackend
from finetune_gateway.errors import BackendError, SpecError
from finetune_gateway.events import JobStatus, Snapshot
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

SPEC = TrainingSpec(model="any-model", lora_r=8, training_type="lora")
FILE = DataFile(Path("train.jsonl"), "0" * 64, 10, 100)


def play(backend: FakeBackend, provider_id: str) -> list[Snapshot]:
    shots: list[Snapshot] = []
    cursor = None
    while not shots or not shots[-1].status.final:
        shots.append(backend.poll(provider_id, cursor))
        cursor = shots[-1].cursor
        assert len(shots) < 50
    return shots


def test_the_default_script_runs_to_a_model() -> None:
    """Every state of a good run, falling losses, a checkpoint, and a model that answers."""
    backend = FakeBackend()
    provider_id = backend.start("job-1", SPEC, FILE, None)
    shots = play(backend, provider_id)
    order = list(dict.fromkeys(shot.status.value for shot in shots))
    assert order == ["validating_files", "queued", "running", "succeeded"]
    losses = [e.data["train_loss"] for shot in shots for e in shot.events if e.type == "metrics"]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
    assert any(shot.checkpoints for shot in shots)
    result = shots[-1].result
    assert result is not None and result.model == "fake:job-1"


def test_another_process_goes_on() -> None:
    """poll needs nothing but the id and the cursor, and repeats itself exactly."""
    first = FakeBackend().poll("fake-job-1", None)
    assert FakeBackend().poll("fake-job-1", None) == first
    second = FakeBackend().poll("fake-job-1", first.cursor)
    assert second.status is JobStatus.QUEUED
    last = play(FakeBackend(), "fake-job-1")[-1]
    assert FakeBackend().poll("fake-job-1", "99") == last


def test_a_script_of_ones_own_survives_options() -> None:
    """options() is plain JSON and builds the same backend again."""
    script: list[Snapshot | dict[str, Any]] = [
        Snapshot(status=JobStatus.RUNNING, raw_status="busy"),
        {"status": "failed", "error": "out of luck"},
    ]
    backend = FakeBackend(script, answer="Always this.")
    again = registry.load("fake", json.loads(json.dumps(backend.options())))
    shots = play(again, "fake-1") if isinstance(again, FakeBackend) else []
    assert [(shot.status.value, shot.error) for shot in shots] == [
        ("running", None),
        ("failed", "out of luck"),
    ]
    assert FakeBackend().options() == {}
    with pytest.raises(SpecError, match="empty"):
        FakeBackend([])


def test_what_was_sent_can_be_seen() -> None:
    """started and uploaded show what a gateway sent; find knows only what was started."""
    backend = FakeBackend()
    assert backend.find(Intent("job-1", SPEC, FILE)) is None and backend.find_upload(FILE) is None
    assert backend.upload(FILE) == backend.find_upload(FILE)
    assert (
        backend.start("job-1", SPEC, FILE, None)
        == backend.find(Intent("job-1", SPEC, FILE))
        == "fake-job-1"
    )
    assert backend.started == [("job-1", SPEC, FILE, None)] and backend.uploaded == [FILE]


@pytest.mark.parametrize("applied", [True, False])
def test_a_fault_leaves_what_it_says(applied: bool) -> None:
    """An error with maybe_applied leaves the job behind; one without leaves nothing."""
    fault = BackendError("The line broke.", maybe_applied=applied)
    backend = FakeBackend(faults={"start": [fault]})
    with pytest.raises(BackendError, match="The line broke"):
        backend.start("job-1", SPEC, FILE, None)
    assert (backend.find(Intent("job-1", SPEC, FILE)) is not None) == applied
    assert backend.start("job-1", SPEC, FILE, None) == "fake-job-1"


def test_cancel() -> None:
    """A cancelled job stays cancelled."""
    backend = FakeBackend()
    provider_id = backend.start("job-1", SPEC, FILE, None)
    shot = backend.poll(provider_id, None)
    backend.cancel(provider_id)
    assert backend.poll(provider_id, shot.cursor).status is JobStatus.CANCELLED


def test_cancel_leaves_an_ended_job_alone() -> None:
    """Polls from every cursor answer as before."""
    backend = FakeBackend(script=[{"status": "running"}, {"status": "succeeded"}])
    provider_id = backend.start("job-1", SPEC, FILE, None)
    before = [backend.poll(provider_id, cursor) for cursor in (None, "1")]
    backend.cancel(provider_id)
    assert [backend.poll(provider_id, cursor) for cursor in (None, "1")] == before


def test_its_model_says_that_it_is_fake() -> None:
    """The answer is the same for the same question, names itself, and streams alike."""
    handle = ModelHandle(kind="hosted", model="fake:1", base_model="m", backend="fake")
    model = FakeBackend().open(handle)
    asked = [{"role": "user", "content": "Where is it?"}]
    reply = model.chat(asked)
    assert reply == model.chat(asked) and "fake" in reply.text and "Where is it?" in reply.text
    assert "".join(model.stream(asked)) == reply.text
    assert FakeBackend(answer="No.").open(handle).chat(asked).text == "No."


def test_it_is_free_and_refuses_nothing() -> None:
    """Every setting is taken, nothing leaves the machine, the price is nought."""
    backend = FakeBackend()
    backend.capabilities().require("fake", SPEC)
    tokens = TokenStats(encoding="o200k_base", exact=True, rows=10)
    estimate = backend.estimate(SPEC, tokens)
    assert estimate.cost_usd is not None and estimate.cost_usd.high == 0
    assert not estimate.data_leaves_machine and "trains nothing" in str(estimate.assumptions)
