"""Answers that never end, or come a byte at a time: cut off, said in words, and no job is lost."""

from __future__ import annotations

import dataclasses
import gzip
import json
import socket
import threading
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
    ROW,
    SPEC,
    begin,
    connect,
    data_file,
    handle_of,
    poll_until,
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


@pytest.mark.parametrize(
    "what", ["read the job", "chat", pytest.param("list the jobs", marks=pytest.mark.chaos)]
)
def test_a_body_without_end_is_cut_off(what: str) -> None:
    """After 8 MB, a chat after 64 MB, at the first try."""
    endpoint, read = READS[what]
    with Provider() as provider:
        provider.fault(endpoint, "endless", seconds=9)
        with pytest.raises(BackendError) as caught:
            read(connect(provider))
        assert provider.sent < LOTS and len(provider.requests) == 1
        limit = "64 MB" if what == "chat" else "8 MB"
        assert f"answer to {what}" in str(caught.value) and f"after {limit}" in str(caught.value)
        assert "127.0.0.1" in str(caught.value) and caught.value.retryable


def test_a_packed_body_is_measured_unpacked() -> None:
    """9 KB can be 9 MB."""
    body = gzip.compress(b" " * 9_000_000, compresslevel=1)
    with Provider() as provider:
        provider.fault(RETRIEVE, "body", body=body, headers={"Content-Encoding": "gzip"})
        with pytest.raises(BackendError, match="cut off after 8 MB"):
            connect(provider).poll("ftjob-1", None)
        provider.fault(
            RETRIEVE, "body", body=gzip.compress(b'{"id": "ftjob-1", "status": "running"}')
        )
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
        assert "answer to create the job: it was cut off after 8 MB" in job.phase
        provider.fault(EVENTS, "endless", seconds=9)
        assert job.refresh().status is JobStatus.VALIDATING_FILES
        assert provider.sent < 2 * LOTS and "after 8 MB" in job.events()[-1].message
        assert job.wait(20).status is JobStatus.SUCCEEDED and provider.posts[JOBS] == 1


@pytest.mark.chaos
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


def test_slow_pages_do_not_hide_an_end(tmp_path: Path) -> None:
    """A list of events without an end, each page of which comes in time: the status of the job
    comes all the same, and a note says why there are no events."""
    with Provider(steps=1) as provider:
        hosted = connect(provider, request_timeout=0.1)
        job = begin(connect(provider), data_file(tmp_path / "train.jsonl"))
        poll_until(connect(provider), job, JobStatus.SUCCEEDED)
        pages = 0

        def next_page(*_: object) -> dict[str, object]:
            nonlocal pages
            pages += 1
            time.sleep(0.05)
            event = {"id": f"ev-{pages}", "created_at": 1, "message": "x"}
            return {"object": "list", "data": [event], "has_more": pages < 40}

        provider.world.list_events = next_page  # type: ignore[assignment,method-assign]
        snapshot = hosted.poll(job, None)
        assert snapshot.status is JobStatus.SUCCEEDED and pages < 12
        [note] = snapshot.events
        assert "its status is up to date" in note.message and "cut off after" in note.message


@pytest.mark.chaos
def test_many_pages_have_an_end(tmp_path: Path) -> None:
    """Each is short enough; all of them are cut off after 32 MB."""
    with Provider() as provider:
        hosted = connect(provider)
        job = begin(hosted, data_file(tmp_path / "train.jsonl"))
        pages = 0

        def next_page(*_: object) -> dict[str, object]:
            nonlocal pages
            pages += 1
            event = {"id": f"ev-{pages}", "created_at": 1, "message": "x" * 7_900_000}
            return {"object": "list", "data": [event], "has_more": pages < 10}

        provider.world.list_events = next_page  # type: ignore[assignment,method-assign]
        [note] = hosted.poll(job, None).events
        assert "cut off after 32 MB in all" in note.message and pages == 5


def test_a_long_event_is_cut_and_read_at_once(tmp_path: Path) -> None:
    """30,000 letters without an equals sign were searched for figures for many seconds."""
    with Provider() as provider:
        hosted = connect(provider)
        job = begin(hosted, data_file(tmp_path / "train.jsonl"))
        letters = {"id": "ev-1", "created_at": 1, "message": "Step 1/2: " + "a" * 30_000}
        figures = {"id": "ev-2", "created_at": 1, "message": "a", "data": {"a": "b" * 20_000}}
        provider.fault(EVENTS, "body", body={"data": [figures, letters], "has_more": False})
        began = time.monotonic()
        first, second = hosted.poll(job, None).events
        assert time.monotonic() - began < 2
        assert len(first.message) < 10_200 and "the host sent 30,010 chara" in first.message
        assert not second.data and "its data were left out" in second.message


@pytest.mark.chaos
def test_an_upload_that_nobody_takes_ends(tmp_path: Path) -> None:
    """64 KB at a time: each write comes in time, the whole does not."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def read_slowly() -> None:
            taken, _ = listening.accept()
            with taken:
                end = time.monotonic() + 4
                while time.monotonic() < end and taken.recv(65_536):
                    time.sleep(0.04)

        threading.Thread(target=read_slowly, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        hosted = OpenAIBackend(base_url=url, api_key="sk-test-0123456789", request_timeout=0.1)
        file = data_file(tmp_path / "train.jsonl", rows=12_000_000 // len(json.dumps(ROW)))
        began = time.monotonic()
        with pytest.raises(BackendError) as caught:
            hosted.upload(dataclasses.replace(file, bytes=200_000))  # so the test is short
        assert time.monotonic() - began < 2, caught.value
        assert caught.value.maybe_applied and "did not answer in time to upload" in str(
            caught.value
        )
