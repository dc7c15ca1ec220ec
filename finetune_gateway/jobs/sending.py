"""The lock of a job while it is sent: one thread of one process at a time takes it to its host.

A call of ``start`` that was cut off may still buy the job. Until it returns the lock is held, so
that nobody sends the job again, and what it returns late is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial

from finetune_gateway.backend import seam
from finetune_gateway.errors import BackendError, GatewayError
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.text import logs


@contextmanager
def locked(store: Store, job_id: str) -> Iterator[bool]:
    """Hold the lock of a job while it is sent; True if it is ours. What aborts that (Ctrl-C, a
    bug) says which job it was and what becomes of it."""
    with ExitStack() as held:
        mine = held.enter_context(store.lock(job_id))
        try:
            yield mine
        except GatewayError:  # says it in its own words
            raise
        except BaseException as exc:
            exc.add_note(_what_becomes_of(store, job_id))
            raise
        finally:
            if mine and (call := seam.running_call("start", job_id)):
                call.add_done_callback(partial(_end_late, store, job_id, held.pop_all()))


def _end_late(store: Store, job_id: str, held: ExitStack, call: Future[str]) -> None:
    """Store what came of a create that nobody waited for, and let go of its job. What it has sent
    in its last moment may take effect for as long as any create."""
    with held:
        try:
            if call.exception() is None:
                store.set_sent(job_id, call.result())
            else:
                store.begin_step_again(job_id)
        except GatewayError as exc:
            logs.jobs.warning("%s: its late answer was not stored: %s", job_id, exc.message)


def require_returned(record: JobRecord) -> None:
    """Raise BackendError if a call of ``start`` in this process may still create the job."""
    if seam.running_call("start", record.id):
        raise BackendError(
            f"start() of backend {record.backend!r} has not returned yet: it may still create "
            f"{record.id}, which is not sent again.",
            hint="Wait for it, or end this process: then the job can be looked for, and cancelled.",
            backend=record.backend,
            maybe_applied=True,
            retryable=True,
        )


def _what_becomes_of(store: Store, job_id: str) -> str:
    """Return what an abort leaves of a job, in words."""
    try:
        record = store.get(job_id)
    except GatewayError:
        return "Nothing was sent."
    if record.status.final:
        return f"{job_id} has ended: nothing was sent."
    created = f"{record.display_name} has {job_id} as {record.provider_id}. ftg watch {job_id}"
    return record.outlook or f"{created} follows it, ftg cancel {job_id} ends it."
