"""The deployment that a job's model answers through, where the gateway has made it.

What may cost is known before it is asked for, and until it is certainly gone. One thread of one
process at a time makes or ends those of a job. A request to make one whose answer was lost may take
effect later: what it is known by and costs is kept for as long as that can be, as for a job.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any

from finetune_gateway.backend import BY_FTG, Backend, seam
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    GatewayError,
    JobError,
    NotFoundError,
    SpecError,
    UnsupportedError,
    shown,
)
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.jobs import charges, removal
from finetune_gateway.jobs.charges import DEPLOYMENT, Charge
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.records import seconds_since, stopwatch
from finetune_gateway.settings import files
from finetune_gateway.text import logs

STARTING = 300.0  # seconds that a new deployment may take until it answers
PAUSE = 5.0
PATIENCE = 10.0  # seconds that a call waits for another one that makes or ends a deployment
PLACE = ("subscription", "resource_group", "account", "name")
UNSETTLED = "unsettled"  # of what is kept: requests without an answer, by the deployment's name
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


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


def check_name(name: str) -> None:
    """Raise SpecError for what no deployment can be called: names become part of an address."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"{shown(name)} cannot be the name of a deployment.",
            hint="Use up to 64 letters, digits, dots, - and _, with a letter or a digit at both "
            "ends.",
        )


def is_kept(job: Job, deployment: dict[str, Any]) -> bool:
    """Return True if this is the deployment that is kept, by its name and place, which have no case
    at Azure; or if none is kept by name."""
    kept = details(job)
    same = (str(kept.get(key, "")).lower() == str(deployment[key]).lower() for key in PLACE)
    return "name" not in kept or all(same)


def forget(job: Job, deploy: str) -> None:
    """Keep that the job's model has no deployment any more, and where and how to make another."""
    place = {name: value for name, value in details(job).items() if name in (*PLACE, UNSETTLED)}
    change = {"model": model_of(job), "deploy": deploy, "deployment": place}
    handle = ModelHandle.model_validate(job.record.handle or {})
    _store(job, handle.model_copy(update=change | {"ready_at": None, "first_answer": None}))


def answers(job: Job, name: str, seconds: float = STARTING) -> bool:
    """Return True once the deployment has answered, which a new one may take minutes for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return job.result(model=name).ready
        except (NotFoundError, BackendError) as exc:
            if isinstance(exc, BackendError) and not exc.retryable:
                raise
            if not _goes_on(details(job)):
                raise _ended_meanwhile(job) from None
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE)


def _goes_on(kept: dict[str, Any]) -> bool:
    """Return True if a deployment is kept that may be there; without these only its place is."""
    return "made_at" in kept or "sku" in kept


def _ended_meanwhile(job: Job) -> JobError:
    return JobError(
        f"The deployment of {job.id} was ended before it answered.",
        hint=f"Make it again: ftg deploy {job.id}",
        job_id=job.id,
    )


# -- one at a time, and what is in doubt ------------------------------------------------------


@contextmanager
def alone(job: Job) -> Iterator[None]:
    """Hold the lock of a job's deployments, also while a call of ``deploy`` that was cut off goes
    on. Raises BackendError if another process, or such a call, still holds it after a while."""
    job.store.settings.require_writable()
    deadline = time.monotonic() + PATIENCE
    path = job.store.settings.locks / f"{job.id}.deploy"
    while (lock := files.try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise BackendError(
                f"Another call is still making or ending the deployment of {job.id}.",
                hint="Run the same command again once it has returned: it goes on from there.",
                backend=job.record.backend,
                retryable=True,
                retry_after=PATIENCE,
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        if call := seam.running_call("deploy", job.id):
            call.add_done_callback(partial(_end_late, job, lock))
        else:
            files.unlock(lock)


def _end_late(job: Job, lock: int, call: Future[Any]) -> None:
    """Let go of a deployment whose call has returned though nobody waited for it. What it has sent
    in its last moment may take effect for as long as any request."""
    try:
        kept = details(job)
        if name := kept.get("name"):
            lost = {
                **(kept.get(UNSETTLED) or {}),
                name: [time.time(), stopwatch(), _requests(kept, name)],
            }
            _keep(job, {**kept, UNSETTLED: lost})
    except GatewayError as exc:
        logs.jobs.warning("%s: the end of its deploy() was not stored: %s", job.id, exc.message)
    finally:
        files.unlock(lock)


def _in_doubt(kept: dict[str, Any], name: str) -> dict[str, list[Any]]:
    """Return the requests in doubt with one more, that is sent now, to make a deployment of this
    name: when the last one was sent, by two clocks, and how many may have made it."""
    lost = kept.get(UNSETTLED) or {}
    return {**lost, name: [time.time(), stopwatch(), _requests(kept, name) + 1]}


def _answered(kept: dict[str, Any], name: str) -> dict[str, list[Any]]:
    """Return the requests in doubt after one more that was answered: earlier ones stay so."""
    lost = kept.get(UNSETTLED) or {}
    return {**lost, name: [*lost[name][:2], lost[name][2] + 1]} if name in lost else lost


def _requests(kept: dict[str, Any], name: str) -> int:
    """Return how many requests may have made a deployment, since there was none of this name."""
    if lost := (kept.get(UNSETTLED) or {}).get(name):
        return int(lost[2])
    return int(_goes_on(kept) and kept.get("name") == name)


def _seconds_left(job: Job, name: str, settle_seconds: float) -> float:
    """Return for how long a request without an answer may still make a deployment."""
    kept = details(job)
    moment, clock, _ = kept[UNSETTLED][name]
    passed = seconds_since(moment, clock)
    if passed < 0:  # the clock was set back: as if it was sent now
        lost = {**kept[UNSETTLED], name: [time.time(), stopwatch(), _requests(kept, name)]}
        _keep(job, {**kept, UNSETTLED: lost})
    return settle_seconds - max(0.0, passed)


@contextmanager
def making(
    job: Job,
    known: dict[str, Any],
    hour: Price | None,
    cap: Decimal | None,
    *,
    title: str | None = None,
    by_the_hour: bool = True,
) -> Iterator[dict[str, Any]]:
    """Reserve what a deployment costs, and keep what it is ``known`` by, while the block asks for
    it; the block adds what the answer says. Inside ``alone``.

    What was kept before is kept again if nothing was made, and its charge is settled. ``title``: of
    the charge, where a job may have several deployments. Raises BudgetError if the month has no
    room for the first hour.
    """
    before, name, answer = details(job), known["name"], dict(known)
    earlier = charges.unsettled(job.store, _charge_name(job, title)) if by_the_hour else []
    if job.record.handle is None:
        job.result()  # stores it; raises, before anything costs, if it has no model or no key
    charge = _charge(job, hour, cap, title) if by_the_hour else None
    _keep(job, {**known, UNSETTLED: _in_doubt(before, name)})
    try:
        yield answer
    except BaseException as exc:
        doubtful = not isinstance(exc, GatewayError) or (
            isinstance(exc, BackendError) and exc.maybe_applied
        )
        if doubtful:  # from now on: it may have been sent just before
            _keep(job, {**known, UNSETTLED: _in_doubt(before, name)})
            raise
        if charge is not None and not earlier:
            charges.settle(job.store, charge.id, Decimal(0), "nothing was made")
        # An earlier one may be there, whose charge goes on at the new price.
        price = {key: known[key] for key in ("usd_per_hour",) if key in known and key in before}
        _keep(job, {**before, **price})
        raise
    lost = _answered(before, name)
    _keep(job, {**answer, UNSETTLED: lost} if lost else answer)


def close(
    job: Job,
    name: str,
    there: bool,
    *,
    title: str | None = None,
    settle_seconds: float | None = None,
) -> None:
    """Commit what a deployment has cost, which its host has ended: it was ``there`` or not. Inside
    ``alone``. Raises BackendError, and commits nothing, while a request to make it that was never
    answered may still do so; the only one that was sent has done so if the deployment was there.

    ``settle_seconds``: for how long that may be; by default as the backend says of jobs.
    """
    kept = details(job)
    if lost := dict(kept.get(UNSETTLED) or {}).get(name):
        settling = job.backend.capabilities().settle_seconds
        settling = settling if settle_seconds is None else settle_seconds
        left = 0.0 if there and lost[2] <= 1 else _seconds_left(job, name, settling)
        if left > 0:
            is_there = "It is deleted" if there else "It is not there"
            raise BackendError(
                f"{is_there}, but a request to make {name} was never answered, and may still take "
                f"effect for {math.ceil(left)} s: until then it counts as there.",
                hint=f"Run the same command again in {math.ceil(left)} s.",
                backend=job.record.backend,
                retryable=True,
                retry_after=left,
            )
        others = {one: each for one, each in kept[UNSETTLED].items() if one != name}
        del kept[UNSETTLED]
        _keep(job, {**kept, UNSETTLED: others} if others else kept)
    settle(job, title)


# -- what it costs, by the hour, from the moment on that it is asked for ---------------------


def settle(job: Job, name: str | None = None) -> None:
    """Commit what a deployment has cost until now: it has ended."""
    for charge in charges.unsettled(job.store, _charge_name(job, name)):
        charges.settle(job.store, charge.id, *_spent(charge))


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
        removal.require_kept(job.reload().record)  # whose charge nobody could end
        for one in charges.unsettled(job.store, title):
            if usd is None or [price.usd for price in one.prices] == [usd]:
                return []
            charges.settle_within(job.store, one.id, *_spent(one))  # until now, at its price
        return [charge]

    charges.reserve_all(job.store, title, cap, missing)
    return charges.unsettled(job.store, title)[0]


def _spent(charge: Charge) -> tuple[Decimal | None, str]:
    now = time.time()
    hours = f"{(now - charge.created_at) / 3600:.2f} hours"
    rows = ", ".join(f"${price.usd} ({price.source})" for price in charge.prices)
    if not rows:
        return None, f"{hours}; no price is known"
    return charge.by_the_hour(now), f"{hours} x {rows}"


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
    """Let the backend of a job make a deployment of its model, and return what a chat names as its
    model. The same call again, after a kill or a lost answer, makes none beside it.

    ``cap``: of the month, for its first hour; ``most``: USD an hour. Raises BudgetError,
    BackendError, SpecError for a name that none can have, and UnsupportedError for a backend that
    makes none.
    """
    if name is not None:
        check_name(name)
    require_needed(job)
    with alone(job):
        return _make(job, name, cap, most)


def _make(job: Job, name: str | None, cap: Decimal | None, most: Decimal | None) -> str:
    handle, backend = _trained(job), job.backend
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
    known = {
        "name": named,
        "usd_per_hour": None if hour is None else f"{hour.usd:f}",
        "made_at": before.get("made_at", time.time()),
        "trained": handle.model,  # its files are found by this name
    }
    with making(job, known, hour, cap) as answer:
        answer["model"] = asked = backend.deploy(handle, named)
    return asked


def end(job: Job) -> bool:
    """End the deployment that ``make`` has made; its model stays. Return False if the host had none
    any more. Raises NotFoundError if the gateway knows of none, BackendError while a request to
    make it whose answer was lost may still take effect: the same call ends it afterwards."""
    with alone(job):
        known, going_on = details(job), charges.unsettled(job.store, _charge_name(job))
        if "made_at" not in known and not going_on:  # the latter alone after a kill in between
            raise NotFoundError(
                f"{job.id} has no deployment that was made here.", hint=f"See: ftg status {job.id}"
            )
        name = known.get("name") or job.id
        there = job.backend.end_deployment(_trained(job), name)
        close(job, name, there)
        if job.record.handle is not None:
            forget(job, f"{BY_FTG} {job.id}")
    return there


def _keep(job: Job, deployment: dict[str, Any]) -> None:
    handle = ModelHandle.model_validate(job.reload().record.handle or {})
    _store(job, handle.model_copy(update={"deployment": deployment}))


def _store(job: Job, handle: ModelHandle) -> None:
    job.store.set_handle(job.id, handle.model_dump(mode="json"))
    job.reload()
