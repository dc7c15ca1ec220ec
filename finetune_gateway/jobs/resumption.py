"""Let a job that has stopped go on as the same job: this alone leads out of failed or cancelled.

The new attempt is committed first, with its number and its share of the budget, in the step
``resuming``; then the backend hears of it. Whoever looks at a job in that step asks it again.
It acts on each number once, so a process that dies in between loses nothing and doubles nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from finetune_gateway.backend import Backend
from finetune_gateway.errors import JobNotFinished, SpecError, UnsupportedError
from finetune_gateway.events import PAUSING, JobStatus
from finetune_gateway.jobs import results
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.removal import require_kept
from finetune_gateway.jobs.results import StepName
from finetune_gateway.jobs.store import LIVE, Store


def resume(
    record: JobRecord,
    store: Store,
    backend: Backend,
    reserve: Callable[[JobRecord], None],
    step: StepName | None = None,
    *,
    allow_changed_versions: bool = False,
) -> JobRecord:
    """Let a paused or ended job go on and return it. Raises SpecError for a job that cannot, with
    what to do instead, and BudgetError if its month has no room for it.

    ``reserve``: raises if the budget has no room; called inside the transaction. ``step``: of the
    checkpoint to go on from, in place of the last; later ones are deleted. Raises NotFoundError for
    one that is not there. ``allow_changed_versions``: go on although the rest is not equal.
    """
    if not can_resume(record, backend) and not is_pausing(record, backend):
        raise _refusal(record)
    point = None if step is None else results.chosen(record, step, store)
    if record.provider_id is not None and not record.status.final:
        if point is not None:
            raise SpecError(
                f"{record.id} is {record.status}: it goes on from where it is.",
                hint="Leave the step out.",
            )
        if allow_changed_versions:
            backend.allow_changed_versions(record.provider_id, record.resumes)
        backend.resume(record.provider_id, record.resumes)
        return _queued(record, store, backend)
    with store.lock(record.id) as mine:
        if not mine:
            raise JobNotFinished(
                f"Another process is resuming {record.id}.",
                hint=f"See: ftg status {record.id}",
                job_id=record.id,
            )
        reopened = _reopen(store, record, reserve)
        try:
            if allow_changed_versions:
                backend.allow_changed_versions(record.provider_id or "", reopened.resumes)
            if point is not None:
                backend.rewind(record.provider_id or "", point)
            return go_on(reopened, store, backend)
        except UnsupportedError:
            _close(store, record)
            raise


def require_default(
    record: JobRecord, store: Store, step: StepName | None, allow_changed_versions: bool
) -> None:
    """Raise NotFoundError, or SpecError, for a choice of what a job goes on from that was not sent,
    and has nothing to go on from."""
    if step is not None:
        results.chosen(record, step, store)
    if allow_changed_versions:
        raise SpecError(
            f"{record.id} was not sent yet: there are no versions that have changed since.",
            hint="Leave allow_changed_versions out.",
        )


def pause(record: JobRecord, backend: Backend) -> JobRecord:
    """Ask the backend to pause a job, and return it. Raises SpecError for one that cannot be
    paused now, UnsupportedError where the backend pauses none."""
    require_kept(record)
    why = "has ended" if record.status.final else "was not sent" if record.unsent else ""
    if why:
        raise SpecError(
            f"There is nothing to pause: {record.id} {why}.", hint=f"See: ftg status {record.id}"
        )
    if record.status is not JobStatus.PAUSED:
        backend.pause(record.provider_id or "")
    return record


def _queued(record: JobRecord, store: Store, backend: Backend) -> JobRecord:
    """Commit that a paused job waits again, where the line is the backend's own."""
    if backend.capabilities().pauses:
        with store.transaction() as db:
            db.execute(
                "UPDATE jobs SET status = 'queued', phase = '' WHERE id = ? AND status = 'paused'",
                (record.id,),
            )
    return store.get(record.id)


def is_pausing(record: JobRecord, backend: Backend) -> bool:
    """Return True for a job that was asked to pause, and has not yet: that can be taken back."""
    return record.phase == PAUSING and not record.status.final and backend.capabilities().pauses


def can_resume(record: JobRecord, backend: Backend) -> bool:
    """Return True if the backend lets a job in this state go on."""
    sent = record.provider_id is not None and not record.removed
    return sent and record.status in backend.capabilities().resumes


def go_on(record: JobRecord, store: Store, backend: Backend) -> JobRecord:
    """Tell the backend of an attempt that is committed, and commit that it knows."""
    assert record.provider_id is not None  # for the type checker: see can_resume
    backend.resume(record.provider_id, record.resumes)
    with store.transaction() as db:
        db.execute(
            "UPDATE jobs SET step = 'sent', step_at = ?, phase = ''"
            " WHERE id = ? AND step = 'resuming' AND resumes = ?",
            (time.time(), record.id, record.resumes),
        )
    return store.get(record.id)


def _reopen(store: Store, record: JobRecord, reserve: Callable[[JobRecord], None]) -> JobRecord:
    """Commit a new attempt of an ended job. Raises SpecError if it is no longer ended or if an
    equal job is live, and what ``reserve`` raises."""
    with store.transaction() as db:
        current = store.get(record.id)
        require_kept(current)
        if current.status is not record.status:
            raise _refusal(current)
        equal = db.execute(
            "SELECT id FROM jobs WHERE submit_key = ?1 AND (account IS ?2 OR account IS NULL"
            f" OR ?2 IS NULL) AND {LIVE}",
            (record.submit_key, record.account),
        ).fetchone()
        if equal:
            raise SpecError(
                f"{equal['id']} trains the same as {record.id}, and goes on.",
                hint=f"Follow it: ftg watch {equal['id']}, or cancel it first.",
            )
        reserve(current)
        db.execute(
            "UPDATE jobs SET status = 'queued', raw_status = '', phase = 'resuming', error = NULL,"
            " finished_at = NULL, step = 'resuming', step_at = ?, resumes = resumes + 1"
            " WHERE id = ?",
            (time.time(), record.id),
        )
    return store.get(record.id)


def _close(store: Store, record: JobRecord) -> None:
    """Take back an attempt that the backend has refused: the job is again as it had ended."""
    with store.transaction() as db:
        db.execute(
            "UPDATE jobs SET status = ?, raw_status = ?, phase = '', error = ?, finished_at = ?,"
            " step = 'sent' WHERE id = ? AND step = 'resuming'",
            (record.status, record.raw_status, record.error, record.finished_at, record.id),
        )


def _refusal(record: JobRecord) -> SpecError:
    """Return why a job in this state cannot be resumed, and what to do instead."""
    name, host = record.id, record.display_name
    again = "Submit it again: that makes a new job."
    if record.status is JobStatus.SUCCEEDED:
        why, hint = (
            "has succeeded",
            f"Use it: ftg chat {name}. To train on: submit --continue-from {name}.",
        )
    elif record.status.final and record.provider_id is None:
        why, hint = f"{_ended(record)} before it was sent", again
    elif record.status.final:
        why, hint = f"{_ended(record)}, and {host} lets no such job go on", again
    elif record.status is JobStatus.PAUSED:
        why, hint = f"is paused, and {host} cannot be asked to let it go on", "Look there."
    elif record.status is JobStatus.CANCELLING:
        why, hint = "is being cancelled", f"When it has stopped (ftg wait {name}), resume it."
    else:
        why, hint = f"is {record.status}", f"Follow it: ftg watch {name}"
    return SpecError(f"There is nothing to resume: {name} {why}.", hint=hint)


def _ended(record: JobRecord) -> str:
    return "was cancelled" if record.status is JobStatus.CANCELLED else "failed"
