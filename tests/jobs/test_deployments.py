"""Deployments that a plug-in makes: whatever it does, what may cost is known and can be ended."""

from __future__ import annotations

import time
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from support.records import record

from finetune_gateway import FakeBackend, Gateway
from finetune_gateway.backend import BY_FTG, HandleData, Price, Snapshot
from finetune_gateway.errors import BackendError, JobError, NotFoundError, SpecError
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs import charges, deployments
from finetune_gateway.jobs.budget import month_of
from finetune_gateway.jobs.job import Job

HOUR = Price(
    backend="acme", model="a100", unit="hosting_hour", usd=Decimal(2), as_of=date(2026, 11, 1),
    source="our contract",
)  # fmt: skip


class Renting(FakeBackend):
    """Makes deployments in memory. ``answers``: what a call gives instead, or raises."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.there: set[str] = set()
        self.answers: dict[str, Any] = {}

    def _answer(self, call: str, usual: Any) -> Any:
        answer = self.answers.get(call, usual)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def deployment_price(self, handle: HandleData) -> Price | None:
        return self._answer("deployment_price", HOUR)  # type: ignore[no-any-return]

    def deploy(self, handle: HandleData, name: str) -> str:
        self.there.add(name)
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
    assert deployments.make(job) == job.id and backend.there == {job.id}
    assert deployments.end(job) is True and backend.there == set()
    assert Gateway().budget().reserved_usd == 0 and len(Gateway().costs().charges) == 1


@pytest.mark.parametrize("answer", [2.0, "2", HOUR.model_copy(update={"usd": Decimal(-1)})])
def test_a_price_that_is_none_makes_nothing(job: Job, backend: Renting, answer: Any) -> None:
    backend.answers = {"deployment_price": answer}
    with pytest.raises(BackendError, match="deployment_price"):
        deployments.make(job)
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
    """Its charge is there, and no name."""
    deployments._charge(job, HOUR, None)
    assert Gateway().budget().reserved_usd == 2
    assert deployments.end(job) is False and Gateway().budget().reserved_usd == 0
    with pytest.raises(NotFoundError):
        deployments.end(job)


def test_one_job_has_one_deployment(job: Job, backend: Renting) -> None:
    """A second name is refused while the first goes on."""
    deployments.make(job, "first")
    with pytest.raises(JobError, match="has the deployment first already"):
        deployments.make(job, "second")
    assert backend.there == {"first"}


def test_each_month_has_its_own_hours(job: Job) -> None:
    """One that goes on for two days before and one after the end of a month, at 2 USD an hour."""
    deployments.make(job)
    store = job.store
    _, start, _ = month_of(time.time())
    before, now = start - 2 * 86_400, start + 86_400
    with store.transaction() as db:
        db.execute("UPDATE charges SET created_at = ?, ended_at = ?", (before, now))
    last, this = charges.month(store, start - 1, None), charges.month(store, start, None)
    assert [hold.usd for hold in last.holds] == [96]
    assert [hold.usd for hold in this.holds] == [48]


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
