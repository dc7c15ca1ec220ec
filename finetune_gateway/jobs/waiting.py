"""Waiting for one job: polls and pauses until it has ended, the time is up, or it is stopped.

Written once, with the short calls of any backend. A poll that hangs holds up no wait that has an
end: it goes on in a thread, and the next wait for the job begins with it.
"""

from __future__ import annotations

import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Generic, Protocol, TypeVar

from finetune_gateway.backend import NOT_SETTLED, Backend
from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    GatewayError,
    JobCancelled,
    JobFailed,
    JobNotFinished,
)
from finetune_gateway.events import Event, JobStatus
from finetune_gateway.jobs import history, turns
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.renderers import in_notebook, renderer
from finetune_gateway.settings.arguments import require_function
from finetune_gateway.settings.deadlines import Call, Deadline, DeadlinePassed
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import visible

PATIENCE_SECONDS = 600.0  # a wait continues so long while the provider cannot be reached
JITTER = 0.2  # share by which a pause between two polls may be shorter


class Job(Protocol):
    """The part of a job that is used here."""

    record: JobRecord
    trouble: GatewayError | None
    running: Call[Any] | None

    @property
    def id(self) -> str: ...

    @property
    def status(self) -> JobStatus: ...

    @property
    def phase(self) -> str: ...

    @property
    def resumable(self) -> bool: ...

    @property
    def store(self) -> Store: ...

    @property
    def backend(self) -> Backend: ...

    def refresh(self, *, send: bool = False) -> Any: ...

    def reload(self) -> Any: ...

    def longest_wait(self) -> float: ...

    def require_on_its_way(self) -> None: ...


J = TypeVar("J", bound=Job)
T = TypeVar("T")


def polls(job: Job, deadline: Deadline, *, send: bool) -> Iterator[None]:
    """Refresh until the job has ended; wait longer while nothing changes. Who may send shows that
    the job is waited for: these are sent in order."""
    with turns.awaiting(job.store, job.id) as show:
        try:
            yield from _refreshes(job, deadline, show if send else None)
        except DeadlinePassed:
            job.reload()


def _refreshes(job: Job, deadline: Deadline, show: Callable[[], None] | None) -> Iterator[None]:
    send = show is not None
    first, longest = in_time(job, deadline, lambda one: one.backend.capabilities().poll_seconds)
    pause, before, failing_since = first, None, None
    while not deadline.stopped:
        asked = 0.0
        if show and job.record.unsent:
            show()
        try:
            in_time(job, deadline, lambda one: one.refresh(send=send))
            job.trouble = failing_since = None
        except BackendError as exc:
            job.trouble, failing_since = exc, failing_since or time.monotonic()
            asked = _wait_after(job, exc, time.monotonic() - failing_since, deadline)
            failing_since = None if asked else failing_since
        yield
        if not send and failing_since is None and job.record.unsent:
            in_time(job, deadline, lambda one: one.require_on_its_way())
        if job.status.final or job.record.ended_otherwise or deadline.over:
            return
        now = (job.record.cursor, job.status, job.phase)
        pause = first if now != before else min(pause * 1.5, longest)
        before = now
        # Jitter: processes that follow the same job do not all poll at once.
        wait = max(pause * random.uniform(1 - JITTER, 1), asked)
        if send and job.record.seconds_to_wait:
            turns.require_short(job.record, _longest_wait(job, deadline))
            wait = max(asked, job.record.seconds_to_wait)
        deadline.sleep(wait)


def in_time(job: J, deadline: Deadline, function: Callable[[J], T]) -> T:
    """Call a function with the job, or raise DeadlinePassed at the end of a wait.

    Where the wait has an end, the call is made in a thread, with a twin: one that goes on changes
    no job that its caller has. Of a job one such call runs at a time, so a backend that hangs
    holds one thread, however often it is waited for.
    """
    if not deadline.bounded:
        return function(job)
    earlier = job.running
    if earlier is not None and earlier.process == os.getpid():
        deadline.join(earlier)
    twin = copy(job)
    running = job.running = deadline.begin(lambda: function(twin))
    deadline.join(running)
    job.running, job.record = None, twin.record
    if "backend" in vars(twin):  # loaded once, by whoever needs it first
        vars(job)["backend"] = vars(twin)["backend"]
    value: T = running.result()
    return value


class Hook(Generic[J]):
    """Calls a function of the caller with each event of jobs, once and in order."""

    def __init__(self, function: Callable[[J, Event], object] | None) -> None:
        require_function(function, "on_event", "the job", "the event")
        self.function = function
        self.last: dict[str, int] = {}  # the number of the last event, by job

    def call(self, job: J) -> None:
        """Call it with what is new of a job. Its errors are its own: they are logged."""
        if self.function is None:
            return
        for event in history.each_event(job.store, job.id, self.last.get(job.id, 0)):
            self.last[job.id] = event.number or 0
            try:
                self.function(job, event)
            except Exception as exc:  # whatever it is, the job goes on
                log_error(job.id, event, exc)


def hook_of(function: Callable[[J, Event], object] | None) -> Hook[J]:
    """Return what a wait calls after each poll: where the caller has no function, a notebook draws
    the curve."""
    if function is None and in_notebook():
        live: Hook[J] = renderer("Job.live")()
        return live
    return Hook(function)


def log_error(job_id: str, event: Event, exc: Exception) -> None:
    """Write where a function of the caller has failed; not its words, which may hold the event."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f"{frames[-1].filename}, line {frames[-1].lineno}"
    text = "on_event raised %s (%s) at event %s of %s; the job goes on"
    logs.jobs.warning(text, type(exc).__name__, where, event.number, job_id)


def _longest_wait(job: Job, deadline: Deadline) -> float:
    return in_time(job, deadline, lambda one: one.longest_wait())


def _wait_after(job: Job, exc: BackendError, failing: float, deadline: Deadline) -> float:
    """Return the seconds that the host asks to wait, 0 if it does not. Raises what lasts, has
    lasted for too long, or asks for a longer wait than is allowed."""
    asked = exc.retry_after or 0.0
    too_long = asked > _longest_wait(job, deadline) if asked else failing > PATIENCE_SECONDS
    if is_lasting(exc) or too_long:
        raise exc
    return asked


def is_lasting(error: GatewayError) -> bool:
    """Return True for an error that does not go away by waiting."""
    if not isinstance(error, BackendError) or isinstance(error, AuthenticationError):
        return True
    return error.code == NOT_SETTLED or not (error.retryable or error.maybe_applied)


def not_finished(job: Job, deadline: Deadline) -> JobNotFinished:
    """Return the error for a wait that has ended before its job."""
    why = f": {job.trouble.message}" if job.trouble else "."
    return JobNotFinished(
        f"Job {job.id} was still {job.status} {deadline.how}{why}",
        hint=job.record.outlook or f"It continues. Run: ftg watch {job.id}",
        job_id=job.id,
    )


def not_ended(job: Job) -> JobNotFinished:
    """Return the error for a job whose model is wanted before it has ended."""
    return JobNotFinished(
        f"Job {job.id} has no model yet: it is {job.status}.",
        hint=job.record.outlook or f"Run: ftg wait {job.id}",
        job_id=job.id,
    )


def no_model(job: Job) -> JobFailed | JobCancelled:
    """Return the error for a job that has failed or was cancelled, whose model is wanted."""
    if job.status is JobStatus.FAILED:
        return JobFailed(
            f"Job {job.id} failed: {job.record.error or 'no reason was given'}",
            hint=f"See: ftg logs {job.id}",
            job_id=job.id,
        )
    return JobCancelled(
        f"Job {job.id} was cancelled.",
        hint=f"Run: ftg resume {job.id}" if job.resumable else "Submit it again.",
        job_id=job.id,
    )


def ended_otherwise(job: Job) -> JobNotFinished:
    """Return the error for a job that has ended with a status that is not known here."""
    return JobNotFinished(
        f"{job.record.display_name} has ended job {job.id} as "
        f"{visible(job.record.raw_status)!r}, a status that is not known here.",
        hint=f"Look at {job.record.provider_id} there; ftg status {job.id} asks again.",
        job_id=job.id,
    )


def no_answer(job: Job, deadline: Deadline) -> JobNotFinished:
    """Return the error for a wait that has ended before the model of its job had answered."""
    return JobNotFinished(
        f"The model of job {job.id} had not answered {deadline.how}.",
        hint=f"Its host may still be starting it. Ask again, or run: ftg chat {job.id}",
        job_id=job.id,
    )
