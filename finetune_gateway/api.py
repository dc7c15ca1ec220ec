"""The verbs on a default Gateway, as ``httpx.get`` is to ``httpx.Client``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, Unpack, overload

from finetune_gateway.backend import Backend
from finetune_gateway.data.dataset import Source
from finetune_gateway.data.memory import is_row
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.findings import Report
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.jobs.groups import Failure
from finetune_gateway.jobs.job import Job, OnEvent
from finetune_gateway.jobs.ledger import Ledger
from finetune_gateway.jobs.planning import Backends, ModelNames, Option
from finetune_gateway.jobs.pruning import Item, Pruned
from finetune_gateway.jobs.removal import Removed
from finetune_gateway.keywords import (
    AdviseOptions,
    CompareOptions,
    MigrateOptions,
    PlanOptions,
    PreviewOptions,
    SubmitOptions,
    ValidateOptions,
    like,
)
from finetune_gateway.settings.deadlines import Stop
from finetune_gateway.settings.home import Settings

if TYPE_CHECKING:
    from finetune_gateway.evaluation.advice.advice import Advice
    from finetune_gateway.evaluation.comparison import Comparison
    from finetune_gateway.migration.outcome import Migration
    from finetune_gateway.tokens.masks.preview import Preview


@like(Gateway.validate)
def validate(data: Source, **options: Unpack[ValidateOptions]) -> Report:
    """Check a dataset and return the report. Offline; no key is needed."""
    return default().validate(data, **options)


@overload
def preview(data: dict[str, Any], *, model: str, **options: Unpack[PreviewOptions]) -> Preview: ...


@overload
def preview(data: Source, *, model: str, **options: Unpack[PreviewOptions]) -> list[Preview]: ...


@like(Gateway.preview)
def preview(
    data: Source | dict[str, Any], *, model: str, **options: Unpack[PreviewOptions]
) -> Preview | list[Preview]:
    """Return rows as the model will see them: token by token, with what is trained. Offline."""
    if is_row(data):
        return default().preview([data], model=model, **options)[0]
    return default().preview(data, model=model, **options)


@overload
def estimate(
    data: Source,
    *,
    model: str,
    backend: str | Backend | None = None,
    **options: Unpack[PlanOptions],
) -> Estimate: ...


@overload
def estimate(
    data: Source,
    *,
    model: ModelNames,
    backend: str | Backend | Backends | None = None,
    **options: Unpack[PlanOptions],
) -> list[Option]: ...


@overload
def estimate(
    data: Source, *, model: str | None = None, backend: Backends, **options: Unpack[PlanOptions]
) -> list[Option]: ...


@like(Gateway.estimate)
def estimate(
    data: Source,
    *,
    model: str | ModelNames | None = None,
    backend: str | Backend | Backends | None = None,
    **options: Unpack[PlanOptions],
) -> Estimate | list[Option]:
    """Return what a run would cost, how long it would take and whether it fits. Offline."""
    return default().estimate(data, model=model, backend=backend, **options)


@like(Gateway.advise)
def advise(data: Source, **options: Unpack[AdviseOptions]) -> Advice:
    """Return what to do with a data set: prompt first, retrieval, or fine-tuning; by which
    method; whether the rows are enough; hosted or local. It says when it can't tell. Offline."""
    return default().advise(data, **options)


@like(Gateway.submit)
def submit(data: Source, *, model: str | None = None, **options: Unpack[SubmitOptions]) -> Job:
    """Copy the data, validate and price the copy, write the job down, start it and return it."""
    return default().submit(data, model=model, **options)


@like(Gateway.compare)
def compare(
    models: Sequence[Any], data: Source | None = None, **options: Unpack[CompareOptions]
) -> Comparison:
    """Ask models the same rows, measure what they answer, and say which is better as far as one
    can tell."""
    return default().compare(models, data, **options)


@like(Gateway.migrate)
def migrate(model: str, to: str, **options: Unpack[MigrateOptions]) -> Migration:
    """Train a fetched fine-tune again at another place, compare the new model with the old one, and
    decide: go or no-go."""
    return default().migrate(model, to, **options)


@like(Gateway.job)
def get_job(name: str, *, backend: str | Backend | None = None) -> Job:
    """Return a job by its id, a unique beginning of it, the provider's id, or ``latest``."""
    return default().job(name, backend=backend)


@like(Gateway.jobs)
def list_jobs(
    *,
    status: str | None = None,
    backend: str | None = None,
    metadata: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Job]:
    """Return jobs, newest first, as they were last stored. Asks no backend."""
    return default().jobs(status=status, backend=backend, metadata=metadata, limit=limit)


@like(Gateway.refresh)
def refresh_jobs(jobs: Iterable[Job] | None = None) -> list[Failure]:
    """Ask the backends of these jobs, by default of all jobs, and store what is new."""
    return default().refresh(jobs)


@like(Gateway.resume_all)
def resume_all() -> list[Failure]:
    """Let every job of this machine go on that waits or has ended with it, in their order."""
    return default().resume_all()


@like(Gateway.wait)
def wait_for_jobs(
    jobs: Iterable[Job],
    timeout: float | None = None,
    *,
    on_change: Callable[[Job], object] | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> list[Failure]:
    """Block until these jobs have ended, ``timeout`` seconds have passed, or ``stop`` is set."""
    return default().wait(jobs, timeout, on_change=on_change, on_event=on_event, stop=stop)


@like(Gateway.remove)
def remove_jobs(jobs: Iterable[Job]) -> list[Removed]:
    """Remove every text of these jobs from this machine, and return what went."""
    return default().remove(jobs)


@like(Gateway.prune)
def prune(
    older_than_days: float | None = None,
    *,
    remote: bool = False,
    confirm: Callable[[list[Item]], bool] | None = None,
) -> Pruned:
    """Remove data that no job needs any more, and return what went."""
    return default().prune(older_than_days, remote=remote, confirm=confirm)


@like(Gateway.budget)
def budget() -> Budget:
    """Return this calendar month (UTC): its cap, what was spent, what running jobs reserve."""
    return default().budget()


@like(Gateway.costs)
def costs(since: date | None = None, until: date | None = None) -> Ledger:
    """Return what each job was expected to cost and did cost, and what was spent without a job."""
    return default().costs(since, until)


def default() -> Gateway:
    """Return the gateway of the home folder; ``FTG_HOME`` is read at each call."""
    return _gateway(str(Settings.load().home))


@cache
def _gateway(home: str) -> Gateway:
    return Gateway(home)
