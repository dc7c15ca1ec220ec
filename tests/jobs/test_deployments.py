"""Deployments that a plug-in makes: whatever it does, what may cost is known and can be ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.chaos import killed_after
from support.records import record

from finetune_gateway import FakeBackend, Gateway
from finetune_gateway.backend import BY_FTG, Capabilities, HandleData, Price, Snapshot
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    JobError,
    NotFoundError,
    SpecError,
)
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs import charges, deployments
from finetune_gateway.jobs.budget import month_of
from finetune_gateway.jobs.job import Job

HOUR = Price(
    backend="acme", model="a100", unit="hosting_hour", usd=Decimal(2), as_of=date(2026, 11, 1),
    source="our contract",
)  # fmt: skip


class Renting(FakeBackend):
    """Makes deployments in memory. ``answers``: what a call gives instead, or raises; ``during``:
    is called by ``deploy`` once it has begun, in place of what it does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.there: set[str] = set()
        self.answers: dict[str, Any] = {}
        self.during: Callable[[str], object] = self.there.add
        self.settles = 0.0

    def capabilities(self, model: str | None = None) -> Capabilities:
        return replace(super().capabilities(model), settle_seconds=self.settles)

    def _answer(self, call: str, usual: Any) -> Any:
        answer = self.answers.get(call, usual)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def deployment_price(self, handle: HandleData) -> Price | None:
        return self._answer("deployment_price", HOUR)  # type: ignore[no-any-return]

    def deploy(self, handle: HandleData, name: str) -> str:
        self.during(name)
        return self._answer("deploy", f"at-{name}")  # type: ignore[no-any-return]

    def end_deployment(self, handle: HandleData, name: str) -> bool:
        was = name in self.there
        gone: bool = self._answer("end_deployment", was)
        self.there.discard(name)
        return gone


@pytest.fixture
def backend() -> Renting:
    return Renting()


@pytest.fixture
def job(home: object, backend: Renting) -> Job:
    """A job whose model needs a deployment."""
    made = Result(kind="hosted", model="model-1", deploy=BY_FTG)
    gateway = Gateway()
    stored = gateway.store.add(record(status="succeeded", result=made, provider_id="fake-1"))[0]
    return gateway.job(stored.id, backend=backend)


@pytest.mark.parametrize(
    "answer", [None, "", 7, ValueError("no"), TimeoutError(), SystemExit(3), KeyError("name")]
)
def test_a_deploy_that_breaks_may_cost_and_can_be_ended(
    job: Job, backend: Renting, answer: Any
) -> None:
    """It counts until it is ended; nothing is made beside it."""
    backend.answers = {"deploy": answer}
    with pytest.raises((BackendError, SystemExit)) as broken:
        deployments.make(job)
    assert not isinstance(broken.value, BackendError) or broken.value.maybe_applied
    assert Gateway().budget().reserved_usd == 2
    backend.answers = {}
    assert deployments.make(job) == f"at-{job.id}" and backend.there == {job.id}
    assert deployments.end(job) is True and backend.there == set()
    assert Gateway().budget().reserved_usd == 0 and len(Gateway().costs().charges) == 1


@pytest.mark.parametrize("answer", [2.0, "2", HOUR.model_copy(update={"usd": Decimal(-1)})])
def test_a_price_that_is_none_makes_nothing(job: Job, backend: Renting, answer: Any) -> None:
    backend.answers = {"deployment_price": answer}
    with pytest.raises(BackendError, match="deployment_price"):
        deployments.make(job)
    assert backend.there == set() and not Gateway().costs().charges


@pytest.mark.parametrize("answer", [None, HOUR])
def test_what_may_cost_more_than_was_to_be_spent_is_not_made(
    job: Job, backend: Renting, answer: Any
) -> None:
    """A price that is not known may be any."""
    backend.answers = {"deployment_price": answer}
    with pytest.raises(BudgetError, match="at most 1 was to be spent"):
        deployments.make(job, most=Decimal(1))
    assert backend.there == set() and not Gateway().costs().charges


@pytest.mark.parametrize("answer", [None, ValueError("no"), BackendError("Down.", backend="x")])
def test_an_end_that_breaks_is_no_end(job: Job, backend: Renting, answer: Any) -> None:
    """It goes on to count, and can be asked for again."""
    deployments.make(job)
    backend.answers = {"end_deployment": answer}
    with pytest.raises(BackendError):
        deployments.end(job)
    assert Gateway().budget().reserved_usd == 2 and deployments.details(job)["name"] == job.id
    with pytest.raises(SpecError, match="its deployment goes on"):
        job.remove()
    backend.answers = {}
    deployments.end(job)
    job.remove()


def test_a_kill_before_anything_was_sent_is_ended_too(job: Job, backend: Renting) -> None:
    """Its charge is there, and no name; until then its job stays."""
    deployments._charge(job, HOUR, None)
    assert Gateway().budget().reserved_usd == 2
    with pytest.raises(SpecError, match="its deployment goes on"):
        job.remove()
    assert deployments.end(job) is False and Gateway().budget().reserved_usd == 0
    with pytest.raises(NotFoundError):
        deployments.end(job)


def test_one_job_has_one_deployment(job: Job, backend: Renting) -> None:
    """A second name is refused while the first goes on."""
    deployments.make(job, "first")
    with pytest.raises(JobError, match="has the deployment first already"):
        deployments.make(job, "second")
    assert backend.there == {"first"}


def beside(work: Callable[[], object]) -> Callable[[], list[Any]]:
    """Do this in a thread that has begun; the rest waits for what came of it."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(work())
        except JobError as exc:
            came.append(exc)

    thread = threading.Thread(target=run)
    thread.start()

    def joined() -> list[Any]:
        thread.join(30)
        return came

    return joined


def test_two_at_once_make_one(job: Job, backend: Renting) -> None:
    """Each with a name of its own: the second one is refused once the first was made. Both were
    made, and one of them was known."""
    begun = threading.Event()

    def slow(name: str) -> None:
        begun.set()
        time.sleep(0.03)
        backend.there.add(name)

    backend.during = slow
    first = beside(lambda: deployments.make(job, "one"))
    assert begun.wait(30)
    with pytest.raises(JobError, match="has the deployment one already"):
        deployments.make(Gateway().job(job.id, backend=backend), "two")
    assert first() == ["at-one"] and backend.there == {"one"}
    assert len(Gateway().costs().charges) == 1


def test_an_end_waits_for_what_is_being_made(job: Job, backend: Renting) -> None:
    """It was "gone already", its costs were closed, and then it was there."""
    begun = threading.Event()

    def slow(name: str) -> None:
        begun.set()
        time.sleep(0.03)
        backend.there.add(name)

    backend.during = slow
    made = beside(lambda: deployments.make(job))
    assert begun.wait(30)
    assert deployments.end(Gateway().job(job.id, backend=backend)) is True
    assert made() == [f"at-{job.id}"] and backend.there == set()
    assert "made_at" not in deployments.details(job) and Gateway().budget().reserved_usd == 0


def test_a_call_that_was_cut_off_may_still_make_it(
    job: Job, backend: Renting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it returns nothing else is made or ended; afterwards it can be."""
    go_on = threading.Event()

    def slow(name: str) -> None:
        go_on.wait(30)
        backend.there.add(name)

    backend.during = slow
    monkeypatch.setattr(Renting, "call_seconds", 0.05, raising=False)
    with pytest.raises(BackendError, match="no answer within") as cut:
        deployments.make(job)
    assert cut.value.maybe_applied
    monkeypatch.undo()
    monkeypatch.setattr(deployments, "PATIENCE", 0.02)
    calls: list[Callable[[Job], object]] = [deployments.make, deployments.end]
    for call in calls:
        with pytest.raises(BackendError, match="still making or ending"):
            call(job)
    go_on.set()
    monkeypatch.undo()
    assert deployments.end(job) is True and backend.there == set()
    assert Gateway().budget().reserved_usd == 0


def test_a_lost_request_may_take_effect_later(job: Job, backend: Renting) -> None:
    """Until it no longer can it counts as there, and its job stays. It was taken for gone."""
    backend.settles, backend.during = 0.3, lambda name: None
    backend.answers = {"deploy": TimeoutError()}
    with pytest.raises(BackendError):
        deployments.make(job)
    with pytest.raises(BackendError, match="It is not there, but a request") as early:
        deployments.end(job)
    backend.there.add(job.id)  # now it takes effect
    assert early.value.retryable and 0 < (early.value.retry_after or 0) <= 0.3
    assert Gateway().budget().reserved_usd == 2
    with pytest.raises(SpecError, match="its deployment goes on"):
        job.remove()
    time.sleep(early.value.retry_after or 0)
    assert deployments.end(job) is True and backend.there == set()
    assert Gateway().budget().reserved_usd == 0
    assert deployments.details(job) == {"name": job.id}


def test_a_deployment_that_was_there_is_the_one_that_was_asked_for(
    job: Job, backend: Renting
) -> None:
    """The only request has taken effect, so its end is one; of two the other may still."""
    backend.settles = 3600.0
    for tries in (1, 2):
        for _ in range(tries):
            backend.answers = {"deploy": TimeoutError()}
            with pytest.raises(BackendError):
                deployments.make(job)
        if tries == 1:
            assert deployments.end(job) is True and Gateway().budget().reserved_usd == 0
    with pytest.raises(BackendError, match="It is deleted, but a request"):
        deployments.end(job)
    assert backend.there == set() and Gateway().budget().reserved_usd == 2
    backend.answers = {}
    deployments.make(job)  # an answer to one says nothing of the others
    with pytest.raises(BackendError, match="It is deleted, but a request"):
        deployments.end(job)


def test_a_name_that_none_can_have_is_not_sent(job: Job, backend: Renting) -> None:
    names: list[Any] = [
        "../runs/run-0001",
        "/etc",
        "a?x=1#y",
        "a b",
        "x\n",
        "",
        " ",
        "..",
        "\ud800",
        7,
    ]
    for name in (*names, "a" * 65):
        with pytest.raises(SpecError, match="cannot be the name of a deployment"):
            Gateway().deploy(job, name)
    assert backend.there == set() and not Gateway().costs().charges


def test_a_price_that_has_changed_counts_from_then_on(job: Job, backend: Renting) -> None:
    """Five hours at 2 USD whose answer was lost, then 50 an hour. 2 were charged for ever."""
    backend.answers = {"deploy": TimeoutError()}
    with pytest.raises(BackendError):
        deployments.make(job)
    with job.store.transaction() as db:
        db.execute("UPDATE charges SET created_at = created_at - 18000")
    dearer = HOUR.model_copy(update={"usd": Decimal(50)})
    backend.answers = {"deployment_price": dearer, "deploy": BackendError("No.", backend="fake")}
    with pytest.raises(BackendError, match="No"):
        deployments.make(job)  # the first may be there: it goes on at the new price
    assert deployments.details(job)["usd_per_hour"] == "50"
    budget = Gateway().budget()
    assert budget.spent_usd == 10 and budget.reserved_usd == 50
    deployments.end(job)
    assert [line.actual_usd for line in Gateway().costs().charges][0] == 10


def test_a_price_of_something_else_than_an_hour_makes_nothing(job: Job, backend: Renting) -> None:
    backend.answers = {"deployment_price": HOUR.model_copy(update={"unit": "train_mtok"})}
    with pytest.raises(BackendError, match="the Price of an hour"):
        deployments.make(job)
    assert backend.there == set() and not Gateway().costs().charges


class Disk(Renting):
    """Its host is a folder; the process is killed in a call: before it does something, or after."""

    def __init__(self, folder: Path, moment: str) -> None:
        super().__init__()
        self.folder, self.moment, self.settles = folder, moment, 3600.0

    def _at(self, moment: str) -> None:
        if moment == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def deploy(self, handle: HandleData, name: str) -> str:
        self._at("before the create")
        (self.folder / name).touch()
        self._at("after the create")
        return f"at-{name}"

    def end_deployment(self, handle: HandleData, name: str) -> bool:
        self._at("before the end")
        was = (self.folder / name).exists()
        (self.folder / name).unlink(missing_ok=True)
        self._at("after the end")
        return was


@pytest.mark.parametrize(
    "moment",
    [
        "after the create",
        *(
            pytest.param(moment, marks=pytest.mark.chaos)
            for moment in ("before the create", "before the end", "after the end")
        ),
    ],
)
def test_a_kill_loses_no_deployment(job: Job, tmp_path: Path, moment: str) -> None:
    """kill -9 at each step: what may be there counts, is made once and can be ended."""
    folder = tmp_path / "host"
    folder.mkdir()

    def of(backend: Disk) -> Job:
        return Gateway().job(job.id, backend=backend)

    def killed() -> None:
        one = of(Disk(folder, moment))
        deployments.make(one, "mine")
        deployments.end(one)

    killed_after(killed)
    budget = Gateway().budget()
    assert budget.reserved_usd == 2 and deployments.details(job)["name"] == "mine"
    with pytest.raises(SpecError, match="its deployment goes on"):
        job.remove()
    if moment == "before the create":  # what was sent may still arrive
        with pytest.raises(BackendError, match="It is not there, but a request"):
            deployments.end(of(Disk(folder, "")))
    elif moment == "after the create":
        assert deployments.end(of(Disk(folder, ""))) is True
    else:
        assert deployments.make(of(Disk(folder, ""))) == "at-mine"
        assert [one.name for one in folder.iterdir()] == ["mine"]
        assert deployments.end(of(Disk(folder, ""))) is True
    assert [*folder.iterdir()] == []
    open_ = len(charges.unsettled(job.store))
    assert open_ == (moment == "before the create")


def test_each_month_has_its_own_hours(job: Job) -> None:
    """One that goes on for two days before and one after the end of a month, at 2 USD an hour."""
    deployments.make(job)
    deployments.end(job)
    store = job.store
    _, start, _ = month_of(time.time())
    before, now = start - 2 * 86_400, start + 86_400
    with store.transaction() as db:
        db.execute(
            "UPDATE charges SET created_at = ?, ended_at = ?, spent_usd = '144'", (before, now)
        )
    last, this = charges.month(store, start - 1, None), charges.month(store, start, None)
    assert [hold.usd for hold in last.holds] == [96]
    assert [hold.usd for hold in this.holds] == [48]
    first = datetime.fromtimestamp(start, UTC).date()
    for since, until, usd in (
        (None, first - timedelta(days=1), 96),
        (first, None, 48),
        (None, None, 144),
    ):
        totals = Gateway().costs(since, until).totals
        assert totals.counted_usd == totals.actual_usd == usd, (since, until)
    assert Gateway().costs(None, first - timedelta(days=3)).charges == ()
    with store.transaction() as db:  # it goes on: what the last month has cost is known
        db.execute("UPDATE charges SET ended_at = NULL, spent_usd = NULL")
    (line,) = Gateway().costs(None, first - timedelta(days=1)).charges
    assert line.actual_usd == 96 and "48.00 hours of this period x $2" in line.basis
    (line,) = Gateway().costs(first).charges
    assert line.actual_usd is None and line.date == first and line.estimated_usd == 0
    assert line.counted_usd == Gateway().budget().reserved_usd


def test_what_a_deployment_has_cost_is_counted_while_it_goes_on(job: Job) -> None:
    """Five hours at 2 USD; the ledger says how it ends."""
    deployments.make(job)
    with job.store.transaction() as db:
        db.execute("UPDATE charges SET created_at = created_at - 18000")
    (charge,) = charges.unsettled(job.store)
    assert charge.held_usd == 10
    (line,) = Gateway().costs().charges
    assert line.counted_usd == 10 and f"ftg deploy {job.id} --delete" in line.basis
    deployments.end(job)
    (line,) = Gateway().costs().charges
    assert line.actual_usd == 10 and "5.00 hours x $2 (our contract)" in line.basis


def test_a_list_that_tells_figures_is_followed(home: object) -> None:
    """A job that has gone on in its state by a figure is polled; one that has not is left alone."""
    polled: list[str] = []

    class Listing(FakeBackend):
        def statuses(self, provider_ids: Any) -> dict[str, Snapshot]:
            return {
                name: Snapshot(status=JobStatus.RUNNING, progress=0.5 if name == "fake-1" else None)
                for name in provider_ids
            }

        def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
            polled.append(provider_id)
            return Snapshot(status=JobStatus.RUNNING, progress=0.5)

    gateway, backend = Gateway(), Listing()
    jobs = []
    for number in (1, 2):
        stored = gateway.store.add(
            record(status="running", provider_id=f"fake-{number}", polled_at=time.time())
        )[0]
        jobs.append(gateway.job(stored.id, backend=backend))
    for _ in range(3):
        assert gateway.refresh(jobs) == []
    assert polled == ["fake-1"] and jobs[0].to_dict()["progress"] == 0.5
