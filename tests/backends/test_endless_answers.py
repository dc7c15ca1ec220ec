"""Answers that never end, or come a byte at a time: cut off, said in words, and no job is lost."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.hosted import (
    EVENTS,
    LIST,
    MODEL,
    RETRIEVE,
    SPEC,
    connect,
    data_file,
    handle_of,
    sent,
)
from support.provider import CREATE, Provider

from finetune_gateway import BackendError, Gateway, JobStatus, OpenAIBackend

CHAT = "POST /chat/completions"
JOBS = "/fine_tuning/jobs"
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
LOTS = 100_000_000  # bytes, with all that lies in buffers

READS: dict[str, tuple[str, Callable[[OpenAIBackend], object]]] = {
    "read the job": (RETRIEVE, lambda host: host.poll("ftjob-1", None)),
    "list the jobs": (LIST, lambda host: host.statuses(["ftjob-1"])),
    "chat": (CHAT, lambda host: list(host.open(handle_of(MODEL)).stream(QUESTION))),
}


@pytest.mark.parametrize("what", READS)
def test_a_body_without_end_is_cut_off(what: str) -> None:
    """After 64 MB, at the first try."""
    endpoint, read = READS[what]
    with Provider() as provider:
        provider.fault(endpoint, "endless", seconds=9)
        with pytest.raises(BackendError) as caught:
            read(connect(provider))
        assert provider.sent < LOTS and len(provider.requests) == 1
        assert f"answer to {what}" in str(caught.value) and "after 64 MB" in str(caught.value)
        assert "127.0.0.1" in str(caught.value) and caught.value.retryable


def test_a_packed_body_is_measured_unpacked() -> None:
    """70 KB can be 70 MB."""
    body = gzip.compress(b" " * 70_000_000, compresslevel=1)
    with Provider() as provider:
        provider.fault(RETRIEVE, "body", body=body, headers={"Content-Encoding": "gzip"})
        with pytest.raises(BackendError, match="cut off after 64 MB"):
            connect(provider).poll("ftjob-1", None)
        provider.fault(RETRIEVE, "body", body=gzip.compress(b'{"status": "running"}'))
        provider.faults[RETRIEVE][0].headers = {"Content-Encoding": "gzip"}
        assert connect(provider).poll("ftjob-1", None).status is JobStatus.RUNNING


def test_a_job_outlives_answers_without_end(home: Path, train_file: Path) -> None:
    """A create is a doubt, was sent once, and is found. Events leave the status as it is, and a
    note says why they are not there."""
    with Provider() as provider:
        provider.fault(CREATE, "endless", seconds=9)
        hosted = connect(provider, settle_seconds=0.1, poll_seconds=0.02)
        job = Gateway().submit(train_file, model=MODEL, backend=hosted)
        assert provider.sent < LOTS and job.record.step == "creating"
        assert "answer to create the job: it was cut off after 64 MB" in job.phase
        provider.fault(EVENTS, "endless", seconds=9)
        assert job.refresh().status is JobStatus.VALIDATING_FILES
        assert provider.sent < 2 * LOTS and "after 64 MB" in job.events()[-1].message
        assert job.wait(20).status is JobStatus.SUCCEEDED and provider.posts[JOBS] == 1


def test_an_answer_that_trickles_is_cut_off(tmp_path: Path) -> None:
    """A read, its head, and a create: each byte comes in time, the whole does not."""
    with Provider() as reading, Provider() as hinting, Provider() as creating:
        hosts = [connect(host, request_timeout=0.2) for host in (reading, hinting, creating)]
        file = sent(hosts[2], data_file(tmp_path / "train.jsonl"))
        reading.fault(RETRIEVE, "trickle", seconds=6)
        hinting.fault(RETRIEVE, "hints", seconds=6)
        creating.fault(CREATE, "trickle", seconds=6)
        asks: list[Callable[[], object]] = [
            lambda: hosts[0].poll("ftjob-1", None),
            lambda: hosts[1].poll("ftjob-1", None),
            lambda: hosts[2].start("job-1", SPEC, file, None),
        ]
        began = time.monotonic()
        with ThreadPoolExecutor(len(asks)) as pool:
            errors = [done.exception() for done in [pool.submit(ask) for ask in asks]]
        assert time.monotonic() - began < 4
        for error in errors:
            assert isinstance(error, BackendError) and error.retryable, error
            assert "cut off after 1 s" in error.message
        assert [error.maybe_applied for error in errors] == [False, False, True]  # type: ignore
        assert len(reading.requests) == len(hinting.requests) == 1
        assert creating.posts[JOBS] == len(creating.jobs) == 1
