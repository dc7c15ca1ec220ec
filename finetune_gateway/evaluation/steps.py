"""The steps of a recording, top to bottom: what is under way is collected, the rest is planned,
confirmed, written down and asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune_gateway.data.dataset import Source
from finetune_gateway.errors import BudgetError, SpecError
from finetune_gateway.evaluation import batches, recorder
from finetune_gateway.evaluation.asking import OnWait
from finetune_gateway.evaluation.bounds import require_whole
from finetune_gateway.evaluation.planning import RecordPlan, Request, plan
from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.evaluation.work import Work, writing
from finetune_gateway.evaluation.writer import OnProgress
from finetune_gateway.jobs import accounts
from finetune_gateway.jobs.store import Store

MOST_AT_ONCE = 256


@dataclass(frozen=True)
class How:
    """How a recording is asked for; the arguments of ``evaluation.record``."""

    wait: bool
    at_once: int
    confirm: Callable[[RecordPlan], bool] | None
    on_progress: OnProgress | None
    on_wait: OnWait | None
    dry_run: bool = False

    def check(self) -> None:
        """Raise SpecError for a number of requests that no host takes."""
        require_whole(self, {"at_once": (1, MOST_AT_ONCE)})


def record(
    store: Store, subject: Subject, data: Source | None, request: Request, how: How
) -> Recording:
    """Record what a model answers; see ``evaluation.record``."""
    how.check()
    planned = plan(subject, data, request, store)
    if how.wait and not (request.batch or planned.state.under_way):
        raise SpecError("wait is for batches.", hint="Leave it out, or give --batch (batch=True).")
    if how.dry_run and planned.state.under_way and not planned.left:
        return planned.work.recording.with_batch_under_way()
    if not planned.state.under_way or how.dry_run:
        return _ask(store, planned, how)
    collected = batches.follow(store, planned.work, how.wait, how.on_progress)
    planned = plan(subject, data, request, store)  # what is left now
    if planned.state.under_way or not planned.left:
        return collected
    if stop := planned.beyond_limit():  # what was collected is there all the same
        return collected.with_stop(stop)
    return _ask(store, planned, how)


def _ask(store: Store, planned: RecordPlan, how: How) -> Recording:
    """Ask what is left, once that is confirmed. Raises BudgetError."""
    work = planned.work
    if planned.left:
        work.require_within(planned.cost)
        if how.confirm is not None and not how.confirm(planned):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")
    if how.dry_run:
        return work.recording
    work.subject.backend.remember()
    work.subject.backend.connect()
    accounts.require_key_for(store, work.subject.job_id, work.subject.backend)
    if not planned.existing:
        _create(store, work)
    if work.batch:
        return _batch(store, planned, how)
    return recorder.run(store, work, how.at_once, how.on_progress, how.on_wait)


def _create(store: Store, work: Work) -> None:
    """Write down what is going to be asked. Raises SpecError if somebody else has taken the name
    since it was planned: its rows are not replaced."""
    with writing(store, work.recording, new=True):
        Recording.create(store.settings, work.recording.about, work.prompts)


def _batch(store: Store, planned: RecordPlan, how: How) -> Recording:
    begun = batches.begin(store, planned.work)
    if not how.wait:
        return begun
    done = batches.follow(store, planned.work, True, how.on_progress)
    beyond = begun.run and begun.run.beyond
    return done.with_stop("the rest could pass the limit") if beyond else done
