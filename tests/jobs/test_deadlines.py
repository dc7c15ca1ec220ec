"""A wait ends when its time is up or its caller says so, whatever the host does meanwhile."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.fleet import KEY, end, running
from support.hosted import MODEL, RETRIEVE
from support.hostile import polled_until
from support.provider import CREATE, Provider

from finetune_gateway import FakeBackend, Gateway, Job, JobNotFinished, OpenAIBackend, SpecError
from finetune_gateway.events import JobStatus, Snapshot
from finetune_gateway.settings.deadlines import LAST_SECONDS, THREAD, TICK_SECONDS, Deadline

SHORT = 0.05  # seconds of a wait
LONGER_WAIT = 0.2  # of one in which something is asked for certain
LONG = 60.0  # and of a host that hangs: no test gets there
CHAT = "POST /chat/completions"
LONGER: dict[str, Any] = {"request_timeout": LONG, "poll_seconds": 0.01, "settle_seconds": 0.03}


@pytest.fixture
def gateway(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A gateway whose waits have no second for their first look."""
    monkeypatch.setenv(KEY, "sk-test-0123456789abcdef")
    monkeypatch.setattr("finetune_gateway.settings.deadlines.FIRST_SECONDS", SHORT)
    monkeypatch.setattr("finetune_gateway.settings.deadlines.LAST_SECONDS", 0.01)
    monkeypatch.setattr("finetune_gateway.settings.deadlines.TICK_SECONDS", 0.01)
    gateway = Gateway()
    yield gateway
    gateway.store.close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=20) as provider:
        yield provider


def a_job(gateway: Gateway, provider: Provider, **options: Any) -> Job:
    """A running job at a host that may take a minute to answer."""
    given = {"base_url": provider.url, "api_key_env": KEY, "profile": "custom"} | LONGER | options
    running(provider, gateway.store, 1, backend_options=given)
    [job] = gateway.jobs()
    job.backend.connect()  # the SDK is imported now, and not while a wait's time runs
    return job


def call_when(condition: Callable[[], bool], function: Callable[..., object], *args: Any) -> None:
    """Call a function from another thread, as soon as a condition holds."""

    def call() -> None:
        until(condition)
        function(*args)

    threading.Thread(target=call, daemon=True).start()


def wait(job: Job, gateway: Gateway, **end: Any) -> None:
    job.wait(**end)


def watch(job: Job, gateway: Gateway, **end: Any) -> None:
    list(job.watch(**end))
    assert not job.status.final
    raise JobNotFinished("A watch ends without a word.")


def result(job: Job, gateway: Gateway, **end: Any) -> None:
    job.result(**end)


def wait_for_all(job: Job, gateway: Gateway, **end: Any) -> None:
    [failure] = gateway.wait([job], **end)
    assert failure.jobs == [job]
    raise failure.error


Wait = Callable[..., None]
ALL: list[Wait] = [wait, watch, result, wait_for_all]
WAITS = pytest.mark.parametrize("blocks", ALL)


# -- its time ----------------------------------------------------------------------------


@WAITS
def test_a_poll_that_hangs_ends_with_the_time(
    gateway: Gateway, provider: Provider, blocks: Wait
) -> None:
    """The wait is over while the host has still not answered; the job is as it was."""
    job = a_job(gateway, provider)
    provider.fault(RETRIEVE, *["slow"] * 9, seconds=LONG)
    before = gateway.job(job.id).record
    with pytest.raises(JobNotFinished):
        blocks(job, gateway, timeout=SHORT)
    until(lambda: provider.sleeping == len(provider.requests))
    assert gateway.job(job.id).record == before


@pytest.mark.parametrize("method", ["capabilities", "account", "place"])
def test_whatever_call_of_a_plug_in_hangs_the_wait_ends(
    gateway: Gateway, train_file: Path, method: str
) -> None:
    """Each kind of wait, before the plug-in has returned; a job of another backend is asked for."""
    backend, release = polled_until(method)
    job = gateway.submit(train_file, model="m", backend=backend)
    other = gateway.submit(train_file, model="m", backend=FakeBackend())
    release.clear()
    try:
        with suppress(JobNotFinished):  # where it needs no such call
            job.wait(SHORT)
        with suppress(JobNotFinished):
            gateway._job(job.reload().record, backend).result(SHORT)
        gateway.wait([gateway._job(job.reload().record, backend)], SHORT)
        stop = threading.Event()
        call_when(lambda: gateway.job(other.id).record.polled_at is not None, stop.set)
        failures = gateway.wait([gateway._job(job.reload().record, backend), other], stop=stop)
        assert not release.is_set()
    finally:
        release.set()
    assert failures and all(isinstance(one.error, JobNotFinished) for one in failures)
    assert gateway._job(job.record, backend).wait(LONG).status is JobStatus.SUCCEEDED
    assert backend.market.bought == [job.id]


def test_what_a_wait_has_asked_ends_with_it(gateway: Gateway, provider: Provider) -> None:
    """No thread reads on, and no request is sent again, once nobody waits for the answer."""
    job = a_job(gateway, provider)
    provider.fault(RETRIEVE, *["slow"] * 9, seconds=LONG)
    with pytest.raises(JobNotFinished):
        job.wait(SHORT)
    until(lambda: all(one.name != THREAD for one in threading.enumerate()))
    until(lambda: provider.sleeping == len(provider.requests))
    assert len(provider.requests) < 2


def test_the_first_answer_counts_too(gateway: Gateway, provider: Provider) -> None:
    """The job has succeeded, and its model hangs: so does no ``result``."""
    job = a_job(gateway, provider)
    end(provider, *provider.world.jobs)
    assert job.wait().status == "succeeded"
    provider.fault(CHAT, *["slow"] * 9, seconds=LONG)
    with pytest.raises(JobNotFinished, match=rf"model .* had not answered after {SHORT} s"):
        job.result(SHORT)
    until(lambda: provider.sleeping == provider.posts["/chat/completions"])
    provider.faults.clear()
    assert job.result(LONG).ready


def test_a_model_that_is_being_started_is_not_waited_for_longer(
    gateway: Gateway, provider: Provider
) -> None:
    """404 again and again: the pauses in between end with the time."""
    job = a_job(gateway, provider, poll_seconds=LONG)
    end(provider, *provider.world.jobs)
    job.wait()
    provider.fault(CHAT, *["status"] * 9, status=404, code="model_not_found")
    with pytest.raises(JobNotFinished, match="had not answered"):
        job.result(LONGER_WAIT)
    assert provider.posts["/chat/completions"] == 1


def test_a_create_that_hangs_is_made_once(
    gateway: Gateway, provider: Provider, train_file: Path
) -> None:
    """The wait ends, the create does not: what comes of it is stored, and bought once."""
    hosted = OpenAIBackend(base_url=provider.url, api_key_env=KEY, profile="custom", **LONGER)
    provider.fault(CREATE, "busy", seconds=0.01)
    job = gateway.submit(train_file, model=MODEL, backend=hosted)
    provider.fault(CREATE, "slow", seconds=LONG)
    stop = threading.Event()
    call_when(lambda: provider.sleeping == 1, stop.set)
    with pytest.raises(JobNotFinished):
        job.wait(LONG, stop=stop)
    assert gateway.job(job.id).provider_id is None
    provider.wake()
    until(lambda: gateway.job(job.id).provider_id is not None)
    assert len(provider.jobs) == 1 and provider.sleeping == 0
    end(provider, *provider.world.jobs)
    assert job.wait().status == "succeeded" and len(provider.jobs) == 1


class Hanging(FakeBackend):
    """A plug-in whose polls hang."""

    polls = 0

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        self.polls += 1
        self.released.wait(LONG)
        return super().poll(provider_id, cursor)


def test_a_plug_in_that_hangs_holds_one_thread(gateway: Gateway, train_file: Path) -> None:
    """However often the job is waited for; once it answers, the job goes on."""
    plug_in = Hanging()
    job = gateway.submit(train_file, model="m", backend=plug_in)
    for _ in range(3):
        with pytest.raises(JobNotFinished):
            job.wait(0.02)
    assert plug_in.polls == 1
    plug_in.released.set()
    assert job.wait(LONG).status == "succeeded"


@pytest.mark.parametrize("timeout", [float("nan"), -1, -float("inf"), True, "10", [1]])
def test_what_is_no_time_is_refused(gateway: Gateway, train_file: Path, timeout: object) -> None:
    """By its name, before anything is asked, and for a job that has ended too."""
    plug_in = Hanging()
    job = gateway.submit(train_file, model="m", backend=plug_in)
    for blocks in ALL:
        with pytest.raises(SpecError, match="^timeout cannot be "):
            blocks(job, gateway, timeout=timeout)
    assert plug_in.polls == 0
    plug_in.released.set()
    ended = job.cancel().wait()
    with pytest.raises(SpecError, match="^timeout cannot be "):
        ended.result(timeout)  # type: ignore[arg-type]


def test_infinity_is_a_wait_without_end(gateway: Gateway, train_file: Path) -> None:
    """As it is in arithmetic, and for other libraries."""
    job = gateway.submit(train_file, model="m", backend="fake")
    assert job.wait(float("inf")).status is JobStatus.SUCCEEDED


# -- its stop ----------------------------------------------------------------------------


@WAITS
@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "pauses"])
def test_a_stop_token_ends_a_wait(
    gateway: Gateway, provider: Provider, blocks: Wait, hangs: bool
) -> None:
    """Set from another thread while the host hangs, or between two polls a minute apart."""
    job, stop = a_job(gateway, provider, poll_seconds=LONG), threading.Event()
    before = gateway.job(job.id).record
    if hangs:
        provider.fault(RETRIEVE, "slow", seconds=LONG)
    asked = 1 if hangs else 3  # the job, its events and its checkpoints
    call_when(lambda: len(provider.requests) == asked, stop.set)
    with pytest.raises(JobNotFinished, match="stopped|without a word"):
        blocks(job, gateway, stop=stop)
    after = gateway.job(job.id).record
    assert provider.sleeping == hangs and after.status == before.status
    assert after == before or not hangs
    assert len(provider.requests) == asked


def test_a_token_that_is_set_asks_nothing(gateway: Gateway, provider: Provider) -> None:
    """Nor one of another make, as long as it has is_set and wait."""

    class Token:
        def is_set(self) -> bool:
            return True

        def wait(self, timeout: float | None = None) -> bool:
            return True

    job = a_job(gateway, provider)
    for blocks in ALL:
        with pytest.raises(JobNotFinished):
            blocks(job, gateway, stop=Token())
    assert not provider.requests


def test_what_is_no_token_is_refused(gateway: Gateway, provider: Provider) -> None:
    """An event of asyncio among them, whose wait has to be awaited."""
    job = a_job(gateway, provider)
    for blocks in ALL:
        for wrong in (True, 5, asyncio.Event()):
            with pytest.raises(SpecError, match="^stop cannot be "):
                blocks(job, gateway, stop=wrong)
    assert not provider.requests


@pytest.mark.parametrize("end", [{}, {"timeout": LONG}], ids=["no end", "an end"])
@WAITS
def test_control_c_ends_a_wait(
    gateway: Gateway, provider: Provider, blocks: Wait, end: dict[str, float]
) -> None:
    """While the host hangs; the job is as it was."""
    job = a_job(gateway, provider)
    before = gateway.job(job.id).record
    provider.fault(RETRIEVE, "slow", seconds=LONG)
    main = threading.main_thread().ident
    call_when(lambda: provider.sleeping == 1, signal.pthread_kill, main, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        blocks(job, gateway, **end)
    assert provider.sleeping == 1 and gateway.job(job.id).record == before


def test_the_first_look_of_a_short_wait_has_a_second() -> None:
    """A wait of no time asks once all the same, and hosts answer in less."""
    assert Deadline(0.0).end_of_call() - time.monotonic() > LAST_SECONDS


def test_a_token_that_wakes_nobody_is_looked_at() -> None:
    """Within a second, however long the pause is."""
    waits: list[float] = []

    class Token:
        def is_set(self) -> bool:
            return bool(waits)

        def wait(self, timeout: float | None = None) -> None:
            waits.append(timeout or 0.0)

    Deadline(stop=Token()).sleep(300.0)
    assert waits == [5 * TICK_SECONDS]
