"""The handle of what a job has made: its result, or a model that it saved during training."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

from finetune_gateway.backend import BY_FTG, Backend, HandleData
from finetune_gateway.errors import NotFoundError, SpecError, shown
from finetune_gateway.events import Checkpoint, Metric, Result
from finetune_gateway.jobs import accounts, history, removal
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store

StepName = int | str  # a step, "last" or "best"

LAST, BEST = "last", "best"
WITH_STEP = re.compile(rf"(?P<job>.+)@(?P<step>[0-9]{{1,12}}|{LAST}|{BEST})")
# By which the best is chosen: of all held-out rows before that of a few.
LOSSES = ("full_valid_loss", "valid_loss")
NAMED = 10  # steps in a message


def split(name: str) -> tuple[str, StepName | None]:
    """Return the job and the step of ``JOB@STEP``; the name itself and None for any other."""
    match = WITH_STEP.fullmatch(name)
    if match is None:
        return name, None
    step = match["step"]
    return match["job"], int(step) if step.isdecimal() else step


def handle_of(record: JobRecord, result: Result, backend: Backend) -> ModelHandle:
    """Return the handle of what a job has made."""
    dates = backend.capabilities(record.spec.model).life_cycle
    return ModelHandle(
        **result.model_dump(include={*HandleData.model_fields} - {"deploy"}),
        deploy=f"{BY_FTG} {record.id}" if result.deploy == BY_FTG else result.deploy,
        base_model=record.spec.model,
        backend=record.backend,
        backend_options=record.backend_options,
        base_url=record.backend_options.get("base_url"),
        api_key_env=record.backend_options.get("api_key_env"),
        system_prompt=record.system_prompt,
        job_id=record.id,
        dataset_sha256=record.train.sha256,
        created_at=record.finished_at or time.time(),
        ready_at=record.finished_at if result.first_answer is not None else None,
        retires_on=str(dates.retires_on) if dates and dates.retires_on else None,
    )


def attach(handle: ModelHandle, record: JobRecord, store: Store, backend: Backend) -> None:
    """Let the handle of a job ask by this backend, with a key of the job's account alone. Raises
    AuthenticationError for a key of another one, BackendError where that cannot be known."""
    require = accounts.required(store, record, backend)
    require()
    handle.attach(backend, store.settings, require)


def late_result(record: JobRecord, store: Store, backend: Backend, model: str | None) -> Result:
    """Return the result of a job that has succeeded, as its host, or the user, names it by now.
    Raises NotFoundError."""
    if model is not None and record.hosted:
        return Result(kind="hosted", model=model)
    if record.provider_id is not None:
        with accounts.reading(store, record, backend):
            result = accounts.poll(record, backend).result
        if result is not None:
            return result
    host = record.display_name
    raise NotFoundError(
        f"Job {record.id} succeeded, but {host} gives no name of a model for it.",
        hint=f"Look for the model of {record.provider_id} there, then run: "
        f"ftg chat {record.id} --model NAME",
    )


def at_step(
    record: JobRecord, step: StepName, store: Store, backend: Backend
) -> tuple[Checkpoint, ModelHandle]:
    """Return a checkpoint of a job and its handle, which has not answered yet.

    Raises NotFoundError, with the steps that are there, for one that is not; JobRemoved; SpecError
    for what is no step.
    """
    removal.require_kept(record)
    point = chosen(record, step, store)
    handle = handle_of(record, backend.checkpoint(record.provider_id or record.id, point), backend)
    handle.metrics = {**handle.metrics, **point.metrics}
    handle.step = point.step
    return point, handle


def checkpoints(record: JobRecord, store: Store) -> list[Checkpoint]:
    """Return the models saved during training that are still there, by step. Those of a host are
    not asked for."""
    known = store.checkpoints(record.id)
    return [one for one in known if record.hosted or _is_there(one.model)]


def with_losses(points: Sequence[Checkpoint], metrics: Sequence[Metric]) -> list[Checkpoint]:
    """Return the checkpoints with the losses that the job has logged at their steps, beside what
    their host says of them."""
    logged = {
        one.step: one.model_dump(include={"train_loss", "valid_loss"}, exclude_none=True)
        for one in metrics
    }
    return [
        one.model_copy(update={"metrics": {**logged.get(one.step, {}), **one.metrics}})
        for one in points
    ]


def held_out_loss(point: Checkpoint) -> float | None:
    """Return the loss of a checkpoint on held-out rows, of all of them before that of a few."""
    said = [point.metrics.get(name) for name in LOSSES]
    return next((float(value) for value in said if isinstance(value, int | float)), None)


def _is_there(model: str) -> bool:
    return not Path(model).is_absolute() or Path(model).is_dir()


def that_saved(model: str, store: Store) -> tuple[JobRecord, int] | None:
    """Return the newest job that has saved this model of a host as a checkpoint, and the step."""
    row = store.query(
        "SELECT job_id, point.step FROM checkpoints AS point JOIN jobs ON jobs.id = job_id"
        " WHERE point.model = ? ORDER BY jobs.rowid DESC LIMIT 1",
        (model,),
    ).fetchone()
    return (store.get(row["job_id"]), row["step"]) if row else None


def chosen(record: JobRecord, step: StepName, store: Store) -> Checkpoint:
    """Return the checkpoint at a step, the last or the best one. Raises as ``at_step``."""
    if step not in (LAST, BEST) if isinstance(step, str) else not isinstance(step, Integral):
        raise SpecError(
            f"{shown(step)} is no step of a job.", hint="Give its number, like 200, or: last, best."
        )
    there = checkpoints(record, store)
    if step == LAST and there:
        return there[-1]
    if step == BEST and there:
        return _best(record, there, history.read_metrics(store, record.id))
    found = next((one for one in there if one.step == step), None)
    if found is None:
        raise _no_checkpoint(record, step, there, store)
    return found


def _best(record: JobRecord, there: Sequence[Checkpoint], metrics: Sequence[Metric]) -> Checkpoint:
    """Return the checkpoint with the lowest loss on the held-out rows."""
    losses = [(held_out_loss(one), one.step, one) for one in with_losses(there, metrics)]
    known = [(loss, at, one) for loss, at, one in losses if loss is not None]
    if not known:
        raise NotFoundError(
            f"Which checkpoint of {record.id} is the best is not known: none has a loss on "
            "held-out rows.",
            hint=f"Name a step: {_listed(there)}. Train with held-out rows to know the best.",
        )
    return min(known, key=lambda one: one[:2])[2]


def _no_checkpoint(
    record: JobRecord, step: StepName, there: Sequence[Checkpoint], store: Store
) -> NotFoundError:
    """Return the error for a step at which nothing is kept: it may have been, and be gone."""
    at = f"at step {step}" if isinstance(step, int) else "at all"
    gone = any(one.step == step for one in store.checkpoints(record.id))
    why = ": it was deleted since" if gone else ""
    if there:
        hint = f"There are: {_listed(there)}."
    elif record.status.final:
        hint = "Its result is there" if record.result else "Train again"
        hint = f"{hint}: ftg chat {record.id}" if record.result else f"{hint}."
    else:
        hint = f"It is {record.status}; to see what there is: ftg checkpoints {record.id}"
    return NotFoundError(f"{record.id} has no checkpoint {at}{why}.", hint=hint)


def _listed(points: Sequence[Checkpoint]) -> str:
    names = [str(one.step) for one in points]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
