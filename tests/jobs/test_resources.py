"""What many jobs and threads share in a process, and what a forked one has of its own."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.chaos import ProviderProcess, start
from support.forks import fork
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import (
    BackendError,
    FakeBackend,
    Gateway,
    JobNotFinished,
    OpenAIBackend,
    StoreError,
)
from finetune_gateway.events import Snapshot
from finetune_gateway.jobs.planning import copies_folder
from finetune_gateway.settings import connections

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks, threads

MODEL = "gpt-4.1-mini-2025-04-14"
FILE = "POST /files"
THREADS = 8


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1, begins=1) as provider:
        yield provider


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    """A host that settles quickly, with a key by value."""
    given = {"request_timeout": 5.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    place = {"base_url": provider.url, "profile": "custom", "api_key": provider.api_key}
    return OpenAIBackend(**{**given, **place, **options})


def submit_at_once(gateways: list[Gateway], provider: Provider) -> list[str]:
    """Submit a job of the same data in each thread; return the ids of the training files."""
    rows = chat_rows(20)

    def submit(number: int) -> str:
        gateway = gateways[number % len(gateways)]
        backend = wire(provider)
        return gateway.submit(rows, model=MODEL, backend=backend, seed=number).id

    with ThreadPoolExecutor(THREADS) as pool:
        jobs = list(pool.map(submit, range(THREADS)))
    assert len(provider.jobs) == len({*jobs}) == THREADS
    return [provider.world.shown(job)["training_file"] for job in provider.jobs]


@pytest.mark.parametrize("count", [1, 3], ids=["one gateway", "several"])
def test_threads_upload_a_content_once(home: Path, provider: Provider, count: int) -> None:
    """While its upload is on its way, the jobs of all other threads wait for it."""
    provider.fault(FILE, "slow", seconds=0.1)
    used = submit_at_once([Gateway() for _ in range(count)], provider)
    assert len({*used}) == provider.posts["/files"] == 1
    assert not [*home.glob("locks/*.upload")]


def test_an_upload_that_fails_is_made_by_the_next(home: Path, provider: Provider) -> None:
    """A refusal is that of one job: it keeps back no other, and the content is sent once more."""
    provider.fault(FILE, "status", status=400)
    with ThreadPoolExecutor(4) as pool:
        given: Any = {"model": MODEL, "backend": wire(provider)}
        submits = [pool.submit(Gateway().submit, chat_rows(20), seed=n, **given) for n in range(4)]
    assert sum(one.exception() is not None for one in submits) == 1
    assert len(provider.jobs) == 3 and provider.posts["/files"] == 2


# -- the store -----------------------------------------------------------------------------


def descriptors_of(path: Path) -> int:
    """Return how often this process has a file open."""
    found, count = path.stat(), 0
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # that of the listing
            continue
        count += (status.st_dev, status.st_ino) == (found.st_dev, found.st_ino)
    return count


def test_threads_share_a_few_connections(home: Path, train_file: Path) -> None:
    """A thread that has asked holds none: with 32 of them that live there are at most four."""
    gateway, count = Gateway(), 32
    gateway.submit(train_file, model="m", backend="fake")
    asked, end = threading.Barrier(count + 1), threading.Event()

    def ask() -> int:
        jobs = len(gateway.jobs())
        asked.wait()
        end.wait(60)
        return jobs

    with ThreadPoolExecutor(count) as pool:
        counts = [pool.submit(ask) for _ in range(count)]
        asked.wait()
        opened = descriptors_of(gateway.settings.database)
        end.set()
        assert [one.result() for one in counts] == [1] * count
    assert opened <= 4
    gateway.store.close()
    assert descriptors_of(gateway.settings.database) == 0


# -- forks ---------------------------------------------------------------------------------


def test_a_fork_opens_the_store_anew(home: Path, train_file: Path) -> None:
    """What it commits stays, though its parent closes the store meanwhile: the locks that SQLite
    remembers are those of the parent."""
    gateway = Gateway()
    gateway.submit(train_file, model="m", backend="fake")
    ours, theirs = socket.socketpair()

    def submit() -> None:
        assert len(gateway.jobs()) == 1
        theirs.send(b"opened")
        theirs.recv(9)
        gateway.submit(train_file, model="m", backend="fake", seed=1)

    with ours, theirs:
        end = fork(submit)
        ours.recv(9)
        gateway.store.close()
        ours.send(b"closed")
        end()
    assert len(Gateway().jobs()) == 2
    assert Gateway().store.query("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_fork_in_a_transaction_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that does not give its connection back in time: the fork uses this store no more,
    and says why; its parent goes on."""
    monkeypatch.setattr(connections, "FORK_SECONDS", 0.05)
    gateway, begun, finish = Gateway(), threading.Event(), threading.Event()
    assert gateway.jobs() == []

    def write() -> None:
        with gateway.store.transaction():
            begun.set()
            finish.wait(60)

    def refused() -> None:
        for one in (gateway, Gateway()):
            with pytest.raises(StoreError, match="when this process was forked"):
                one.jobs()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        begun.wait()
        end = fork(refused)
        finish.set()
        writer.result()
        end()
    assert gateway.jobs() == []


def test_a_fork_holds_no_lock_of_its_parent(home: Path) -> None:
    """A job that is being sent is free when its sender has ended, and not when all processes have
    that were forked meanwhile."""
    store = Gateway().store
    ours, theirs = socket.socketpair()

    def live() -> None:
        theirs.send(b"forked")
        theirs.recv(9)

    with ours, theirs:
        with store.lock("ftg-1") as mine:
            end = fork(live)
            assert ours.recv(9) and mine and store.is_being_sent("ftg-1")
        free = not store.is_being_sent("ftg-1")
        ours.send(b"end")
        end()
    assert free


def test_a_fork_sends_nothing_by_a_client_of_its_parent(
    home: Path, train_file: Path, provider: Provider
) -> None:
    """The connections of an http_client belong to the process that it was given in."""
    with httpx2.Client() as client, Gateway(http_client=client) as gateway:
        job = gateway.submit(train_file, model=MODEL, backend=wire(provider))
        before = len(provider.requests)

        def ask() -> None:
            with pytest.raises(BackendError, match="that of another process, before a fork"):
                job.refresh()

        fork(ask)()
        assert len(provider.requests) == before
        assert job.wait(30).status == "succeeded"


class Hanging(FakeBackend):
    """A plug-in whose first poll hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.polls = 0
        self.released = threading.Event()

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        self.polls += 1
        if self.polls == 1:
            self.released.wait(60)
        return super().poll(provider_id, cursor)


def test_a_fork_waits_for_no_thread_of_its_parent(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that hangs there goes on there: the fork polls anew."""
    for name in ("FIRST_SECONDS", "LAST_SECONDS"):
        monkeypatch.setattr(f"finetune_gateway.settings.deadlines.{name}", 0.05)
    backend = Hanging()
    job = Gateway().submit(train_file, model="m", backend=backend)
    with pytest.raises(JobNotFinished):
        job.wait(0.02)
    fork(lambda: job.wait(30))()
    backend.released.set()
    assert job.wait(30).status == "succeeded"


def test_submits_of_a_process_share_the_lock_of_their_folders(home: Path, train_file: Path) -> None:
    """Each has a folder of its own; while one of them is there, no process takes it for that of a
    dead one."""
    settings = Gateway().settings
    settings.create()
    with copies_folder(settings) as first:
        before = len(os.listdir("/dev/fd"))
        with copies_folder(settings) as second, copies_folder(settings) as third:
            assert len(os.listdir("/dev/fd")) == before
            assert len({first, second, third}) == 3
        fork(lambda: Gateway().submit(train_file, model="m", backend="fake"))()
        assert first.is_dir() and not second.exists()
    assert not [*settings.files.glob(".submit-*")]


# -- a thousand jobs -----------------------------------------------------------------------

# arguments: url, how many jobs, how many threads; prints descriptors and memory by phase
MANY = """
import json, os, resource, sys, threading
from concurrent.futures import ThreadPoolExecutor
from finetune_gateway import Gateway, OpenAIBackend

url, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
unit = 1 if sys.platform == "darwin" else 1024
descriptors, megabytes, phase, ended = {}, {}, "one", threading.Event()

def look():
    while not ended.wait(0.005):
        opened = len(os.listdir("/dev/fd")) - 1  # without that of the listing
        descriptors[phase] = max(descriptors.get(phase, 0), opened)

def begin(following):
    global phase
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes[phase], phase = round(peak * unit / 1e6), following

def row(number, content):
    user = {"role": "user", "content": f"Where is parcel {number} of {content}?"}
    return {"messages": [user, {"role": "assistant", "content": f"On day {number}."}]}

def submit(number):
    options = {"model": "gpt-4.1-mini-2025-04-14", "backend": backend, "seed": number}
    return gateway.submit(data[number % len(data)], **options)

backend = OpenAIBackend(base_url=url, api_key_env="CHAOS_KEY", profile="custom", poll_seconds=0.1)
gateway, data = Gateway(), [[row(number, content) for number in range(12)] for content in range(10)]
threading.Thread(target=look, daemon=True).start()
submit(0).wait().result()
begin("submit")
with ThreadPoolExecutor(threads) as pool:
    jobs = list(pool.map(submit, range(count)))
begin("wait")
assert not gateway.wait(jobs) and {job.status for job in jobs} == {"succeeded"}
begin("results")
handles = [job.result() for job in jobs]
begin("end")
ended.set()
print(json.dumps({"descriptors": descriptors, "MB": megabytes}))
"""


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_thousand_jobs_cost_few_descriptors_and_little_memory(home: Path, tmp_path: Path) -> None:
    """Submitted by 16 threads, waited for together, each with its model: all of the process, at
    its peak, with the SDK and the tables of tokens. Each content was uploaded once."""
    with ProviderProcess(tmp_path, "--pace", "0.3") as provider:
        process = start(MANY, provider.url, 1000, 16)
        out, err = process.communicate()
        assert process.returncode == 0, err
        report = provider.report()
    figures = json.loads(out)
    print(f"\n{figures}")
    assert report["posts"]["/files"] == 10 and len(report["jobs"]) == 1000
    descriptors = figures["descriptors"]
    assert max(descriptors.values()) - descriptors["one"] <= 30
    assert max(figures["MB"].values()) - figures["MB"]["one"] <= 150
