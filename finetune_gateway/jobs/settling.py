"""A person settles whether a job in doubt was created; nothing is sent here."""

from __future__ import annotations

from collections.abc import Callable

from finetune_gateway.backend import Backend
from finetune_gateway.errors import JobNotFinished, SpecError
from finetune_gateway.jobs import accounts
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store


def settle(
    store: Store, job_id: str, created: str | None, backend: Callable[[], Backend]
) -> JobRecord:
    """Commit what a person knows of an unsent job and return it. Raises SpecError for a job that
    was sent, and for a provider's id that another job has."""
    with store.lock(job_id) as mine:
        record = store.get(job_id)
        if not mine:
            raise not_yet(record, "another process is sending it", "settle")
        if not record.unsent:
            known = record.provider_id or record.status
            raise SpecError(
                f"Job {job_id} is not in doubt: it is {known}.", hint=f"See: ftg status {job_id}"
            )
        if created is None:
            return store.settle_unsent(job_id)
        if created in accounts.other_provider_ids(store, record):
            raise SpecError(
                f"{created} is another of your jobs.", hint=f"See: ftg status {created}"
            )
        store.set_account(job_id, accounts.of(store, backend()))
        return store.set_sent(job_id, created)


def not_yet(record: JobRecord, reason: str, command: str = "cancel") -> JobNotFinished:
    """Return an error for what has to wait until it is known whether a job was created."""
    return JobNotFinished(
        f"{record.id} is left as it is: {reason}.",
        hint=f"Run ftg {command} {record.id} again then.",
        job_id=record.id,
    )
