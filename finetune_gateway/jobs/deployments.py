"""The deployment that a job's model answers through, where the gateway has made it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from finetune_gateway.backend import BY_FTG, Backend
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    GatewayError,
    JobError,
    NotFoundError,
    UnsupportedError,
)
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.charges import DEPLOYMENT, Charge
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job

STARTING = 300.0  # seconds that a new deployment may take until it answers
PAUSE = 5.0
PLACE = ("subscription", "resource_group", "account", "name")


def model_of(job: Job) -> str:
    """Return the model that a job has made, whatever it is deployed as. Raises JobError."""
    result = job.reload().record.result
    if result is None:
        raise JobError(
            f"Job {job.id} has no model: it is {job.status}.",
            hint=f"Run: ftg wait {job.id}",
            job_id=job.id,
        )
    return result.model


def details(job: Job) -> dict[str, Any]:
    """Return what is kept of the job's deployment; nothing if the gateway has made none."""
    handle = job.reload().record.handle or {}
    return dict(handle.get("deployment") or {})


def keep(job: Job, deployment: dict[str, Any]) -> None:
    """Keep what a deployment is known by, before it answers: it costs from then on."""
    handle = job.result()
    _store(job, handle.model_copy(update={"deployment": deployment}))


def is_kept(job: Job, deployment: dict[str, Any]) -> bool:
    """Return True if this is the deployment that is kept, by its name and place, which have no case
    at Azure; or if none is kept by name."""
    kept = details(job)
    same = (str(kept.get(key, "")).lower() == str(deployment[key]).lower() for key in PLACE)
    return "name" not in kept or all(same)


def forget(job: Job, deploy: str) -> None:
    """Keep that the job's model has no deployment any more, and where and how to make another."""
    place = {name: value for name, value in details(job).items() if name in PLACE}
    change = {"model": model_of(job), "deploy": deploy, "deployment": place}
    handle = ModelHandle.model_validate(job.record.handle or {})
    _store(job, handle.model_copy(update=change | {"ready_at": None, "first_answer": None}))


@contextmanager
def kept(job: Job, deployment: dict[str, Any]) -> Iterator[None]:
    """Keep what is being made before it is asked for: one whose answer is lost costs too. What was
    kept before is kept again if nothing was made."""
    before = details(job)
    keep(job, deployment)
    try:
        yield
    except GatewayError as exc:
        if not (isinstance(exc, BackendError) and exc.maybe_applied):
            keep(job, before)
        raise


def answers(job: Job, name: str, seconds: float = STARTING) -> bool:
    """Return True once the deployment has answered, which a new one may take minutes for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return job.result(model=name).ready
        except (NotFoundError, BackendError) as exc:
            if isinstance(exc, BackendError) and not exc.retryable:
                raise
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE)


# -- what it costs, by the hour, from the moment on that it is asked for ---------------------


@contextmanager
def charged(
    job: Job, hour: Price | None, cap: Decimal | None, name: str | None = None
) -> Iterator[Charge]:
    """Yield the charge of a deployment: that of an earlier call, if it goes on. It is settled at
    once if nothing was made. ``name``: where a job may have several. Raises BudgetError if the
    month has no room for its first hour."""
    there = {one.id for one in charges.unsettled(job.store, _charge_name(job, name))}
    charge = _charge(job, hour, cap, name)
    try:
        yield charge
    except GatewayError as exc:
        if not (isinstance(exc, BackendError) and exc.maybe_applied) and charge.id not in there:
            charges.settle(job.store, charge.id, Decimal(0), "nothing was made")
        raise


def settle(job: Job, name: str | None = None) -> None:
    """Commit what a deployment has cost until now: it has ended."""
    for charge in charges.unsettled(job.store, _charge_name(job, name)):
        now = time.time()
        hours = f"{(now - charge.created_at) / 3600:.2f} hours"
        rows = ", ".join(f"${price.usd} ({price.source})" for price in charge.prices)
        spent = charge.by_the_hour(now) if charge.prices else None
        basis = f"{hours} x {rows}" if rows else f"{hours}; no price is known"
        charges.settle(job.store, charge.id, spent, basis)


def _charge_name(job: Job, name: str | None = None) -> str:
    return f"{DEPLOYMENT}{job.id}" + (f"/{name}" if name not in (None, job.id) else "")


def _charge(job: Job, hour: Price | None, cap: Decimal | None, name: str | None = None) -> Charge:
    title, usd = _charge_name(job, name), hour.usd if hour else None
    charge = Charge(
        id=charges.new_id(),
        created_at=time.time(),
        name=title,
        backend=job.record.display_name,
        host=job.record.host,
        model=model_of(job),
        cost=None if usd is None else Range[Decimal](low=usd, expected=usd, high=usd),
        prices=(hour,) if hour else (),
        reserved_usd=usd or Decimal(0),
    )

    def missing(taken: Decimal) -> list[Charge]:
        return [] if charges.unsettled(job.store, title) else [charge]

    charges.reserve_all(job.store, title, cap, missing)
    return charges.unsettled(job.store, title)[0]


# -- by a plug-in: each job has one ----------------------------------------------------------


def by_backend(backend: Backend) -> bool:
    """Return True for a backend that makes deployments itself, when it is asked to."""
    return type(backend).deploy is not Backend.deploy


def price(job: Job) -> Price | None:
    """Return what an hour of a deployment of a job's model costs, where that is known."""
    return job.backend.deployment_price(_trained(job))


def _trained(job: Job) -> ModelHandle:
    """Return the handle of a job's model by the name that its training gave it."""
    return job.handle().model_copy(update={"model": model_of(job)})


def require_needed(job: Job) -> None:
    """Raise UnsupportedError for a job whose model answers without a deployment, or whose backend
    makes none."""
    if by_backend(job.backend) and job.record.deployed_by_us:
        return
    does = "needs none" if by_backend(job.backend) else "gets none from here"
    raise UnsupportedError(
        f"The model of {job.id} at {job.backend.display_name} {does}.",
        hint=f"Ask it as it is: ftg chat {job.id}",
        backend=job.backend.name,
        option="deploy",
    )


def make(
    job: Job, name: str | None = None, *, cap: Decimal | None = None, most: Decimal | None = None
) -> str:
    """Let the backend of a job make a deployment of its model, and return its name. The same call
    again, after a kill or a lost answer, makes none beside it.

    ``cap``: of the month, for its first hour; ``most``: USD an hour. Raises BudgetError,
    BackendError, and UnsupportedError for a backend that makes none.
    """
    handle, backend = _trained(job), job.backend
    require_needed(job)
    before, hour = details(job), backend.deployment_price(handle)
    named = name or before.get("name") or job.id
    if "made_at" in before and before["name"] != named:
        raise JobError(
            f"{job.id} has the deployment {before['name']} already, which costs.",
            hint=f"End it first: ftg deploy {job.id} --delete",
            job_id=job.id,
        )
    if most is not None and (hour is None or hour.usd > most):
        costs = "is not known" if hour is None else f"is {hour.usd} USD"
        raise BudgetError(f"What an hour of it costs {costs}; at most {most} was to be spent.")
    known = {"name": named, "usd_per_hour": None if hour is None else f"{hour.usd:f}"}
    with charged(job, hour, cap) as charge:
        known["made_at"] = charge.created_at
        with kept(job, known):
            asked = backend.deploy(handle, named)
    keep(job, {**known, "model": asked})
    return named


def end(job: Job) -> bool:
    """End the deployment that ``make`` has made; its model stays. Return False if the host had none
    any more. Raises NotFoundError if the gateway knows of none."""
    known, going_on = details(job), charges.unsettled(job.store, _charge_name(job))
    if "made_at" not in known and not going_on:  # the latter alone after a kill in between
        raise NotFoundError(
            f"{job.id} has no deployment that was made here.", hint=f"See: ftg status {job.id}"
        )
    there = job.backend.end_deployment(_trained(job), known.get("name") or job.id)
    settle(job)
    if job.record.handle is not None:
        forget(job, f"{BY_FTG} {job.id}")
    return there


def _store(job: Job, handle: ModelHandle) -> None:
    job.store.set_handle(job.id, handle.model_dump(mode="json"))
    job.reload()
