"""A person settles whether a job in doubt was created, or is gone; nothing is sent here.

That a plug-in does not find a job that costs money lets it be sent once more. After that a person
is asked: a ``find`` that finds nothing ever would buy it with each try.
"""

from __future__ import annotations

from collections.abc import Callable

from finetune_gateway.backend import NOT_SETTLED, Backend, seam
from finetune_gateway.errors import BackendError, JobNotFinished, SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs import accounts
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store

_AGAIN = "created-again"  # a note of a job


def settle(
    store: Store, job_id: str, created: str | None, backend: Callable[[], Backend]
) -> JobRecord:
    """Commit what a person knows of a job in doubt and return it. Raises SpecError for a job that
    its host shows, and for a provider's id that another job has."""
    if created is not None:
        accounts.require_own(store.get(job_id), backend(), created)
    with store.lock(job_id) as mine:
        record = store.get(job_id)
        if not mine:
            raise not_yet(record, "another process is sending it", "settle")
        if not record.unsent:
            _require_lost(store, record, backend)
        if created is None:
            return store.settle_unsent(job_id) if record.unsent else _end(store, record)
        if created in accounts.other_provider_ids(store, record):
            raise SpecError(
                f"{created} is another of your jobs.", hint=f"See: ftg status {created}"
            )
        store.set_account(job_id, accounts.of(store, backend()))
        return store.set_sent(job_id, created)


def _require_lost(store: Store, record: JobRecord, backend: Callable[[], Backend]) -> None:
    """Raise SpecError unless the host says that it has no job with this id, or has it for another
    job."""
    if not record.status.final and _is_lost(store, record, backend()):
        return
    known = record.status if record.status.final else record.provider_id
    raise SpecError(
        f"Job {record.id} is not in doubt: it is {known}.", hint=f"See: ftg status {record.id}"
    )


def _is_lost(store: Store, record: JobRecord, backend: Backend) -> bool:
    try:
        with accounts.reading(store, record, backend):
            accounts.poll(record, backend)
    except BackendError as exc:
        if not exc.not_there and exc.code != accounts.OTHER_JOB:
            raise
        return True
    return False


def _end(store: Store, record: JobRecord) -> JobRecord:
    """End a job that its host has no more. It may have run: its share of the budget stays."""
    text = (
        f"{record.host} has no {record.provider_id} for it any more, so it was ended here. What it "
        "has cost is not known: its estimate counts as spent."
    )
    return store.end(record.id, JobStatus.FAILED, text)


def note_not_found(store: Store, record: JobRecord, backend: Backend) -> None:
    """Commit that the create of a job in doubt is made again because a plug-in has not found it."""
    if _is_unproven(record, backend):
        text = (
            f"There was no answer to its create, and {record.display_name} does not find it: it is "
            "created once more."
        )
        store.note(record.id, _AGAIN, text)


def require_found(store: Store, record: JobRecord, backend: Backend) -> None:
    """Raise BackendError for a job in doubt that a plug-in does not find, if it was created again
    for that reason before."""
    if not _is_unproven(record, backend) or not store.has_note(record.id, _AGAIN):
        return
    raise BackendError(
        f"It cannot be known whether {record.host} has job {record.id}: its create was repeated, "
        f"twice there was no answer, and find() of backend {record.backend!r} shows none. Neither, "
        "one or both may be there.",
        hint=f"Look there yourself, then run: ftg settle {record.id} --created ID, or: "
        f"ftg settle {record.id} --not-created",
        backend=record.backend,
        code=NOT_SETTLED,
        maybe_applied=True,
    )


def _is_unproven(record: JobRecord, backend: Backend) -> bool:
    """Return True if it is the word of a plug-in alone that a job in doubt is not there: our own
    backends read the lists of their hosts to the end."""
    finder = next(one for one in type(backend).__mro__ if "find" in vars(one))
    in_doubt = record.step == "creating" and not record.settled
    return in_doubt and record.hosted and seam.is_plugin(finder)


def not_yet(record: JobRecord, reason: str, command: str = "cancel") -> JobNotFinished:
    """Return an error for what has to wait until it is known whether a job was created."""
    return JobNotFinished(
        f"{record.id} is left as it is: {reason}.",
        hint=f"Run ftg {command} {record.id} again then.",
        job_id=record.id,
    )
