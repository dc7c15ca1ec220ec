"""Cancel a job of which no provider's id is known: adopt it if it is there, else end it here."""

from __future__ import annotations

import time
from collections.abc import Callable

from finetune_gateway.backend import Backend
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs import turns
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.settling import not_yet
from finetune_gateway.jobs.submission import Submitter
from finetune_gateway.text.quoting import duration

LOOK_SECONDS = 2.0  # between two looks for a job that the host may list late

OnWait = Callable[[str], object]


def withdraw(
    submitter: Submitter, job_id: str, backend: Callable[[], Backend], on_wait: OnWait
) -> JobRecord:
    """Adopt an unsent job if the provider shows it, else end it: nothing is sent. Raises
    JobNotFinished while the provider may still get it, BackendError if it cannot be known whether
    it has.

    ``on_wait`` is called with the reason before this looks again, for ten seconds at most.
    """
    store = submitter.store
    with store.lock(job_id) as mine:
        record = store.get(job_id)
        if not record.unsent:
            return record
        if not mine:
            raise not_yet(record, "another process is sending it")
        record = _adopt_if_known(submitter, record, backend, on_wait)
        if not record.unsent:
            return record
        store.set_step(job_id, "intent", sending=False)
        return store.end(job_id, JobStatus.CANCELLED)


def _adopt_if_known(
    submitter: Submitter, record: JobRecord, backend: Callable[[], Backend], on_wait: OnWait
) -> JobRecord:
    """Adopt the job. Raises only if it may have been created, and no person said that it was not:
    else a backend that cannot be asked keeps nobody from ending it."""
    try:
        runner = backend()
        # Before the look: what it does not find at the last moment is still in doubt.
        left = submitter.seconds_left(record, runner)
        found = submitter.adopt(record, runner)
        if found.unsent and found.refused and not found.settled:
            found = _look_again(submitter, found, runner, on_wait)
    except GatewayError:
        if not record.settled and (record.refused or not budgets.never_created(record)):
            raise
        return record
    if found.unsent and found.step == "creating" and left > 0:
        raise not_yet(found, f"{found.display_name} may still get it, for {left:.0f} s")
    return found


def _look_again(
    submitter: Submitter, record: JobRecord, backend: Backend, on_wait: OnWait
) -> JobRecord:
    """Look for a job that its host has just refused until it cannot be listed late any more."""
    left = turns.seconds_until_listed(record, backend.capabilities())
    end = time.monotonic() + left
    if left > 0:
        host, until = record.display_name, duration(left)
        on_wait(f"{host} has refused {record.id}, but may have created it: looking for {until}.")
    while record.unsent and left > 0:
        time.sleep(min(left, LOOK_SECONDS))
        left = end - time.monotonic()
        record = submitter.adopt(record, backend)
    return record
