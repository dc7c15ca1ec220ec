"""Train on from the model of a job: which model a name means, for good, and the line of trainings.

A name is resolved before the job exists: ``latest`` becomes the id of a job, ``@best`` a step, so
that it names one model forever.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_gateway.errors import NotFoundError, SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs import model_names, results
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.model_names import OfHost, OfJob
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.removal import require_kept
from finetune_gateway.jobs.store import Store
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.cleaning import visible

MOST = 32  # trainings in a line, should the store hold a circle


@dataclass(frozen=True)
class Continued:
    """The model that is trained on: ``name`` is ``JOB`` or ``JOB@STEP``, ``model`` its base, or
    its folder if it was trained whole."""

    name: str
    model: str


def job_of(name: str, store: Store) -> OfJob:
    """Return the job that is meant, and the step. Raises SpecError for what no job here has made,
    NotFoundError for what there is not."""
    meant = model_names.meaning(name, store)
    if isinstance(meant, ModelHandle) and meant.job_id is not None:
        meant = OfJob(store.find(meant.job_id), meant.step)
    if isinstance(meant, OfJob) and not meant.record.hosted:
        return meant
    hosted = meant.model if isinstance(meant, OfHost) else ""
    if isinstance(meant, OfJob):
        hosted = meant.record.result.model if meant.record.result else "ft:..."
    if hosted:
        raise SpecError(
            f"{visible(name)} is no job of this machine, so continue_from cannot go on from it.",
            hint=f"A host trains on from a model that is named as model: --model {visible(hosted)}",
        )
    raise SpecError(
        f"{visible(name)} is no job, so there is nothing to go on from.",
        hint=f"To train a base, name it as model: --model {visible(name)}",
    )


def continued(job: Job, step: results.StepName | None, model: str | None) -> Continued:
    """Return the model of a job that is trained on; ``model``: the base that the caller names.

    Raises SpecError for a job without one (yet) and for another base, NotFoundError for a
    checkpoint that is not there, JobRemoved.
    """
    require_kept(job.record)
    if step is None:
        if not job.status.final:
            job.refresh()
        _require_model(job)
        name, result = job.id, job.record.result
        assert result is not None  # for the type checker: it has succeeded
        kind, folder = result.kind, result.model
    else:
        handle = job.result(step=step)
        name, kind, folder = f"{job.id}@{handle.step}", handle.kind, handle.model
    base = job.record.spec.model
    known = folder if kind == "merged" else base
    if model is not None and not {model, _path(model)} & {base, known}:
        raise SpecError(
            f"{name} was trained from {base}, so the job that goes on from it cannot have the "
            f"model {visible(model)}.",
            hint="Leave model out.",
        )
    return Continued(name, known)


def may_have_made(options: Mapping[str, Any], store: Store) -> JobRecord | None:
    """Return the newest job, if a submit with these options, which continues ``latest``, may have
    made it: it goes on from another, with the same settings. Its data are not compared here."""
    newest = store.jobs(limit=1)
    if not newest or newest[0].spec.continue_from is None:
        return None
    known = options.keys() & (TrainingSpec.model_fields.keys() - {"continue_from"})
    spec = TrainingSpec.build(model="any", **{name: options[name] for name in known})
    # A template is a copy there, and compared by its content.
    given = spec.chosen - {"model", "chat_template"}
    same = all(getattr(spec, one) == getattr(newest[0].spec, one) for one in given)
    return newest[0] if same else None


def _path(model: str) -> str:
    return os.path.realpath(os.path.expanduser(model))


def _require_model(job: Job) -> None:
    if job.status is JobStatus.SUCCEEDED and job.record.result is not None:
        return
    steps = [str(point.step) for point in job.checkpoints()]
    hint = f"Wait for it: ftg wait {job.id}" if not job.status.final else f"See: ftg logs {job.id}"
    if steps:
        hint = f"It has saved checkpoints: {', '.join(steps)}. Name one: {job.id}@{steps[-1]}"
    raise SpecError(f"{job.id} is {job.status}: it has no model to go on from.", hint=hint)


# -- the line of trainings ---------------------------------------------------------------------


def line(record: JobRecord, store: Store) -> str:
    """Return ``builtin/tiny -> sft ftg-7kq3@200 -> dpo ftg-9xm2``; empty for a job that goes on
    from no other."""
    parts = [f"{record.spec.method} {record.id}"]
    name, model = record.spec.continue_from, record.spec.model
    if name is None:
        return ""
    while name is not None and len(parts) < MOST:
        try:
            earlier = store.get(results.split(name)[0]).spec
        except NotFoundError:  # of another home
            return " -> ".join([name, *parts])
        parts.insert(0, f"{earlier.method} {name}")
        name, model = earlier.continue_from, earlier.model
    return " -> ".join([model, *parts])
