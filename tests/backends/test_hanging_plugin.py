"""A plug-in that hangs in any call is cut off and named; nothing is bought twice, and no share of
the budget stays reserved."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import broken_plugins
from support.chaos import until
from support.hostile import USD, Honest, breaking

from finetune_gateway import BackendError, BudgetError, Gateway, GatewayError, JobStatus
from finetune_gateway.backend import ChatReply, HostedCounter, RowTokens, TokenCounter, seam
from finetune_gateway.jobs import first_answer

SECONDS = 0.05  # that a call which hangs may take
ANSWER_SECONDS = 0.25  # that an answer, a piece of it or a row may take
Hanging = Callable[..., tuple[Any, threading.Event]]


def cut_off_when(monkeypatch: pytest.MonkeyPatch, hangs: Callable[[str], bool]) -> None:
    """Give all other calls a hundred times as long, however busy the machine is."""
    limit = seam.limit_of

    def longer(backend: Any, name: str, args: tuple[Any, ...]) -> float | None:
        seconds = limit(backend, name, args)
        return seconds if seconds is None or hangs(name) else 100 * seconds

    monkeypatch.setattr(seam, "limit_of", longer)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    """Makes a backend whose first call of a method hangs until the event that comes with it is set;
    then it does its work, or what is given."""
    return lambda method, then=None: made_hanging(monkeypatch, method, then)


def made_hanging(
    monkeypatch: pytest.MonkeyPatch, method: str, then: Callable[[], Any] | None
) -> tuple[Any, threading.Event]:
    release, calls = threading.Event(), list[str]()
    cut_off_when(monkeypatch, lambda name: name == method and not calls)

    def hang(backend: Any, honest: Any) -> Any:
        calls.append(method)
        if len(calls) > 1:
            return honest()
        release.wait(60)
        return then() if then else honest()

    backend: Any = breaking({method: hang})
    type(backend).call_seconds = SECONDS
    return backend, release


def used(gateway: Gateway, backend: Any, data: Path, seconds: float) -> list[str]:
    """Submit a job, wait for it and take its result; return what the user gets to read of it."""
    said: list[str] = []
    try:
        job = gateway.submit(data, model="m", backend=backend)
        said.append(job.phase)
        job.wait(timeout=seconds)
        said.append(job.phase)
        job.result(timeout=seconds)
    except GatewayError as exc:
        said.append(str(exc))
    return said + [str(one.error) for one in gateway.jobs()] + [one.phase for one in gateway.jobs()]


CALLS = ("resolve", "upload", "open")
OTHERS = ("capabilities", "options", "account", "check", "connect", "counter", "estimate", "poll")


@pytest.mark.parametrize(
    "method", [*CALLS, *(pytest.param(one, marks=pytest.mark.chaos) for one in OTHERS)]
)
def test_a_call_that_hangs_is_cut_off_and_named(
    home: Path, train_file: Path, hanging: Hanging, method: str
) -> None:
    """Then the plug-in is as it should be: the job ends, it was bought once, or it has left its
    share of the budget to the next."""
    gateway = Gateway(home, monthly_usd=USD)
    backend, release = hanging(method)
    waited = method == "poll"  # a wait that has an end goes on asking until then
    said = used(gateway, backend, train_file, 4 * SECONDS if waited else 30)
    name = f"{method}() of backend 'hostile' gave no answer within 0.0"
    assert waited or any(name in one for one in said), said
    release.set()
    job = gateway.submit(train_file, model="m", backend=backend)
    assert job.wait(30).status is JobStatus.SUCCEEDED and job.result(30).ready
    assert backend.market.bought == [job.id] and backend.market.starts == 1


def test_a_poll_that_hangs_is_the_trouble_of_a_wait(
    home: Path, train_file: Path, hanging: Hanging
) -> None:
    """One without an end asks again, and the job goes on."""
    backend, release = hanging("poll")
    job = Gateway(home).submit(train_file, model="m", backend=backend)
    with pytest.raises(BackendError, match=r"poll\(\) of backend 'hostile' gave no answer"):
        job.refresh()
    assert job.wait().status is JobStatus.SUCCEEDED
    release.set()


def test_a_start_that_hangs_buys_once(home: Path, train_file: Path, hanging: Hanging) -> None:
    """Nobody sends the job again while it may still be bought, by whatever call; what it returns
    late is stored."""
    gateway = Gateway(home, monthly_usd=USD)
    backend, release = hanging("start")
    job = gateway.submit(train_file, model="m", backend=backend)
    assert "start() of backend 'hostile' gave no answer within 0.05 s" in job.phase
    assert gateway.store.is_being_sent(job.id) and gateway.budget().left_usd == 0
    again: list[Callable[[], object]] = [
        lambda: gateway.submit(train_file, model="m", backend=backend),
        lambda: job.refresh(send=True),
        job.resume,
    ]
    for ask in again:
        with pytest.raises(BackendError, match="has not returned yet: it may still create"):
            ask()
    with pytest.raises(GatewayError, match="sending it"):
        job.cancel()
    assert backend.market.starts == 0
    release.set()
    until(lambda: gateway.job(job.id).provider_id == f"job-{job.id}")
    assert job.wait(30).status is JobStatus.SUCCEEDED and backend.market.starts == 1
    until(lambda: not gateway.store.is_being_sent(job.id))


def fail() -> None:
    raise ConnectionResetError("by the host")


def test_a_start_that_hangs_and_buys_nothing_is_made_again(
    home: Path, train_file: Path, hanging: Hanging
) -> None:
    """Once it has returned, and what it has sent cannot take effect any more."""
    backend, release = hanging("start", fail)
    job = Gateway(home).submit(train_file, model="m", backend=backend)
    release.set()
    assert job.wait(30).status is JobStatus.SUCCEEDED
    assert backend.market.bought == [job.id]


def test_a_job_whose_start_has_hung_can_be_cancelled(
    home: Path, train_file: Path, hanging: Hanging
) -> None:
    """When it has returned without a job: its share of the month is free."""
    gateway = Gateway(home, monthly_usd=USD)
    backend, release = hanging("start", fail)
    job = gateway.submit(train_file, model="m", backend=backend)
    with pytest.raises(BudgetError):
        gateway.submit(train_file, model="m", backend=backend, seed=1)
    release.set()
    until(lambda: not gateway.store.is_being_sent(job.id))

    def cancelled() -> bool:
        try:
            return job.cancel().status is JobStatus.CANCELLED
        except GatewayError:  # what was sent may take effect for a moment
            return False

    until(cancelled)
    assert gateway.budget().left_usd == USD and not backend.market.bought


def test_a_model_that_hangs_is_cut_off(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer, without which there is no result."""
    release = threading.Event()

    class Silent:
        def chat(self, messages: Any, **sampling: Any) -> ChatReply:
            release.wait(60)
            return ChatReply(text="Yes.")

        def stream(self, messages: Any, **sampling: Any) -> Iterator[str]:
            yield "Yes."

    monkeypatch.setattr(first_answer, "READY_SECONDS", SECONDS)
    backend: Any = breaking({"open": lambda backend, honest: Silent()})
    job = Gateway(home).submit(train_file, model="m", backend=backend)
    with pytest.raises(BackendError, match=r"chat\(\) of backend 'hostile' gave no answer"):
        job.result()
    release.set()


class Stuck:
    """A model whose later answers hang."""

    def __init__(self, release: threading.Event) -> None:
        self.release = release
        self.closed: list[bool] = []
        self.asked = 0

    def chat(self, messages: Any, **sampling: Any) -> ChatReply:
        self.asked += 1
        if self.asked > 1:
            self.release.wait(60)
        return ChatReply(text="Yes.")

    def stream(self, messages: Any, **sampling: Any) -> Iterator[str]:
        try:
            yield from "Ye"
            self.release.wait(60)
            yield "s."
        finally:
            self.closed.append(True)


def test_later_answers_that_hang_are_cut_off(home: Path, train_file: Path) -> None:
    """A stream between two pieces; one that nobody reads to its end is closed."""
    release = threading.Event()
    stuck = Stuck(release)
    backend: Any = breaking({"open": lambda backend, honest: stuck})
    type(backend).call_seconds = ANSWER_SECONDS
    model = Gateway(home).submit(train_file, model="m", backend=backend).result()
    stream = model.stream("Where?")
    assert [next(stream), next(stream)] == ["Y", "e"]
    asks: list[tuple[str, Callable[[], object]]] = [
        ("stream() of backend 'hostile' gave no piece", lambda: next(stream)),
        ("chat() of backend 'hostile' gave no answer", lambda: model.chat("Where?")),
    ]
    for said, ask in asks:
        with pytest.raises(BackendError, match=re.escape(f"{said} within 0.25 s")):
            ask()
    begun = model.stream("Where?")
    assert next(begun) == "Y"
    assert stuck.closed == []
    begun.close()
    assert stuck.closed == [True]
    release.set()


class SlowCounter(TokenCounter):
    """Hangs at its third row; all others are slow."""

    rows = 0
    release = threading.Event()

    def measure(self, row: Any) -> RowTokens:
        SlowCounter.rows += 1
        self.release.wait(60 if SlowCounter.rows == 3 else ANSWER_SECONDS / 10)
        return HostedCounter("m").measure(row)

    def fresh(self) -> SlowCounter:
        return SlowCounter("m")


def test_a_counter_that_hangs_is_cut_off(home: Path, train_file: Path) -> None:
    """In the middle of a file; one that takes long for all of it is not."""
    backend: Any = breaking({"counter": lambda backend, honest: SlowCounter("m")})
    type(backend).call_seconds = ANSWER_SECONDS
    gateway = Gateway(home)
    with pytest.raises(BackendError, match=r"counter\(\) of backend 'hostile' gave no answer with"):
        gateway.submit(train_file, model="m", backend=backend)
    assert not gateway.jobs()
    SlowCounter.release.set()
    assert gateway.submit(train_file, model="m", backend=backend).wait(30).status == "succeeded"


def test_a_backend_that_hangs_for_good_holds_a_few_threads(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked."""
    monkeypatch.setattr(seam, "MOST_HUNG", 2)
    release = threading.Event()
    backend: Any = breaking({"poll": lambda backend, honest: (release.wait(60), honest())[1]})
    type(backend).call_seconds = SECONDS
    cut_off_when(monkeypatch, lambda name: name == "poll")
    job = Gateway(home).submit(train_file, model="m", backend=backend)
    before = threading.active_count()
    for _ in range(4):
        with pytest.raises(BackendError, match=r"poll\(\) of backend 'hostile' gave no answer"):
            job.refresh()
    assert threading.active_count() <= before + 2
    release.set()


def test_a_constructor_that_hangs_is_cut_off(
    home: Path, tmp_path: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plug-in that is named, and of a stored job that is opened."""
    broken_plugins.installed(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    gateway, backend = Gateway(home), Honest()
    job = gateway.submit(train_file, model="m", backend=backend)
    monkeypatch.setattr(seam, "CALL_SECONDS", SECONDS)
    gateway.store.query("UPDATE jobs SET backend = 'sleeps' WHERE id = ?", (job.id,))
    asks: list[Callable[[], object]] = [
        lambda: gateway.submit(train_file, model="m", backend="sleeps"),
        lambda: gateway.job(job.id).wait(),
        lambda: gateway.job(job.id).result(),
    ]
    for ask in asks:
        with pytest.raises(BackendError, match=r"Backend 'sleeps' gave no answer within 0\.05 s"):
            ask()
    assert [one.id for one in gateway.jobs()] == [job.id]
    sys.modules.pop("ftg_broken").never.set()
