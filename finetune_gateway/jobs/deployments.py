"""The deployment that a job's model answers through, where the gateway has made it."""

from __future__ import annotations

from typing import Any

from finetune_gateway.errors import JobError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job

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


def _store(job: Job, handle: ModelHandle) -> None:
    job.store.set_handle(job.id, handle.model_dump(mode="json"))
    job.reload()
