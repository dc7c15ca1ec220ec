"""Many jobs at once: a pass asks each host for all its jobs, and polls those that have changed.

Hosts are asked side by side, so that one that does not answer holds up no other. A list is a hint:
what it says of a job is checked by a poll, and what it does not say means nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from finetune_gateway.backend import Backend, Snapshot
from finetune_gateway.backend.seam import time_limit
from finetune_gateway.errors import (
    BackendError,
    GatewayError,
    JobNotFinished,
    asked_wait,
)
from finetune_gateway.events import JobStatus, later
from finetune_gateway.jobs import accounts, turns, waiting
from finetune_gateway.jobs.groups import (
    Failure,
    Group,
    Unsorted,
    failures_of,
    grouped,
    is_of_host,
    is_ours,
    of_plugins,
)
from finetune_gateway.jobs.job import Job, OnEvent
from finetune_gateway.jobs.passes import Passes
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.waiting import JITTER, PATIENCE_SECONDS, Hook
from finetune_gateway.settings.deadlines import Deadline, Stop

SINGLES = 100  # jobs of a host that one pass polls because the host's list does not tell of them
STALE_SECONDS = 600.0  # after so long without a poll of its own, a job may get one: lists can lie
MOVES = 20  # if more jobs of a host go on in another status, only that is stored, without events


Sorted = tuple[list[Group], list[Failure]]


@dataclass
class Answer:
    """What came of a pass. ``left``: jobs that it did not ask for, because there are too many."""

    failures: list[Failure]
    left: list[Job] = field(default_factory=list)


def refresh(jobs: Iterable[Job]) -> list[Failure]:
    """Ask each backend once for all these jobs and store what is new; return what could not be
    asked. Sends nothing. A call of a plug-in that hangs is cut off: the other jobs are shown."""
    with time_limit():
        groups, failures = grouped(jobs)

    def after(group: Group, answer: Answer) -> None:
        failures.extend(answer.failures)
        if answer.left:
            failures.append(Failure(answer.left, _too_many(answer.left)))

    Passes(groups, _look, after, Deadline()).run()
    return failures


def wait(
    jobs: Iterable[Job],
    timeout: float | None = None,
    on_change: Callable[[Job], object] | None = None,
    stop: Stop | None = None,
    on_event: OnEvent | None = None,
) -> list[Failure]:
    """Block until these jobs have ended, ``timeout`` seconds have passed or ``stop`` is set; return
    those that have not ended, and why. A job that is certainly not at its backend is sent.

    ``on_change`` is called with each job whose status or phase has changed, or that has news;
    ``on_event`` as by ``Job.wait``.
    """
    deadline, hook = Deadline(timeout, stop), Hook(on_event)
    jobs = [*jobs]
    for job in jobs:
        hook.call(job)
    groups, failures = grouped(job for job in jobs if is_ours(job))
    unsorted = of_plugins(jobs)
    waiting = Wait(groups, failures, on_change or (lambda job: None), hook)

    def after(one: Group | Unsorted, answer: Answer | Sorted) -> float | None:
        if isinstance(one, Group) and isinstance(answer, Answer):
            return waiting.after(one, answer)
        if not isinstance(answer, Answer):
            one.jobs = []
            failures.extend(answer[1])
            for group in answer[0]:
                waiting.follow(group)
                groups.append(group)
                passes.first(group)
        return None

    begun: list[Group | Unsorted] = [*groups, *unsorted]
    passes = Passes(begun, _sort_or_ask, after, deadline)
    try:
        passes.run()
    finally:
        for group in groups:
            group.end()
    there = [job for group in groups for job in group.jobs]
    there += [job for one in unsorted for job in one.jobs if not job.record.removed]
    if late := [job for job in there if not job.status.final]:
        failures.append(Failure(late, not_finished(late, deadline)))
    return failures


def _sort_or_ask(one: Group | Unsorted, deadline: Deadline) -> Answer | Sorted:
    return grouped(one.jobs) if isinstance(one, Unsorted) else ask(one, deadline, send=True)


# -- one pass ----------------------------------------------------------------------------


def _look(group: Group, deadline: Deadline) -> Answer:
    """Ask without sending, and give each call of a plug-in a few seconds."""
    with time_limit():
        return ask(group, deadline, send=False)


def ask(group: Group, deadline: Deadline, *, send: bool) -> Answer:
    """Ask the backend of a group for all its jobs, and poll those that have changed."""
    live, failed = _reloaded(group.jobs)
    unsent = [job for job in live if job.provider_id is None]
    order = unsent[0].store.in_order(job.id for job in unsent) if unsent else []
    places = {job_id: place for place, job_id in enumerate(order)}
    unsent.sort(key=lambda job: places[job.id])  # in this order hosts get them
    group.show_waiting(unsent if send else [])
    sent = [job for job in live if job.provider_id is not None]
    try:
        changed, unlisted = _ask_for_list(group, sent)
    except GatewayError as exc:
        return Answer([Failure(live, exc), *failures_of(failed)])
    turn, left = _take_turns(group, unlisted)
    # Apart: a host may refuse one kind of request and not the other.
    due = [job for job in unsent if _is_due(job, send=send)]
    failed += _poll_each(due, deadline, send=send)
    failed += _poll_each(changed + turn, deadline, send=False)
    return Answer(failures_of(failed), left)


def _reloaded(jobs: list[Job]) -> tuple[list[Job], list[tuple[Job, GatewayError]]]:
    """Return those of these jobs that go on, read again, and those that cannot be read."""
    live: list[Job] = []
    failed: list[tuple[Job, GatewayError]] = []
    for job in jobs:
        try:
            live += [job] if not job.reload().status.final else []
        except GatewayError as exc:
            failed.append((job, exc))
    return live, failed


def _is_due(job: Job, *, send: bool) -> bool:
    """Return False for an unsent job that waits here because its host takes none now: it is not
    there, and cannot be sent yet."""
    return not job.record.waits_here or (send and job.record.seconds_to_wait == 0)


def _ask_for_list(group: Group, sent: list[Job]) -> tuple[list[Job], list[Job]]:
    """Return the jobs to poll, and those that the list of the backend does not tell of."""
    if len(sent) < 2 or type(group.backend).statuses is Backend.statuses:
        return sent, []  # no list is cheaper; a poll brings events too
    listed = group.backend.statuses([job.record.provider_id or "" for job in sent])
    told = ((job, listed.get(job.record.provider_id or "")) for job in sent)
    shown = {job: one for job, one in told if one and accounts.is_about(one, job.record)}
    news = {job: _has_changed(job.record, snapshot) for job, snapshot in shown.items()}
    changed = {job: shown[job] for job in shown if news[job]}
    still = [job for job in shown if news[job] is False]
    if not group.hosted:  # all of a line changes with each job that leaves it
        for job in still:
            job.record = _with_place(job.record, shown[job])
    unlisted = [job for job in sent if news.get(job) is None]
    further = [job for job in still if _is_further(job.record, shown[job])][:MOVES]
    overdue = _overdue([job for job in still if job not in further])
    return _worth_a_poll(changed, hosted=group.hosted) + further + overdue, unlisted


def _with_place(record: JobRecord, listed: Snapshot) -> JobRecord:
    """Return the record with its place in line and its expected start, which the next poll will
    store."""
    told = {name: getattr(listed, name) for name in ("place_in_line", "expected_start_at")}
    return record.model_copy(update=told)


def _worth_a_poll(changed: dict[Job, Snapshot], *, hosted: bool) -> list[Job]:
    """Return those to poll of the jobs that have changed, in no order: one whose poll always fails
    must not keep the others from their turn."""
    polls = [job for job in changed if changed[job].status.final]
    going_on = [job for job in changed if not changed[job].status.final]
    if hosted and len(going_on) > MOVES:
        for job in going_on:
            _take_its_word(job, changed[job])
    else:
        polls += going_on
    random.shuffle(polls)
    return polls


def _take_its_word(job: Job, listed: Snapshot) -> None:
    """Store the status of a list. What else a poll brings comes with the next poll of the job."""
    cursor, resumes = job.record.cursor, job.record.resumes
    progress = job.record.progress if listed.progress is None else listed.progress
    listed = listed.model_copy(update={"cursor": cursor, "progress": progress})
    job.record = job.store.apply(job.id, listed, cursor, resumes)


def _has_changed(record: JobRecord, listed: Snapshot) -> bool | None:
    """Return True if a job has changed by what its backend tells, False if it has not; None if only
    a poll can show it: its status is a word that we do not know."""
    if listed.status is JobStatus.UNKNOWN:
        same = (listed.raw_status, listed.finished_at) == (record.raw_status, record.finished_at)
        return False if same else None
    if listed.status.final:
        return True
    if later(record.status, listed.status, requeued=listed.requeued) is not listed.status:
        return False  # an older answer than the stored one
    return (listed.status, listed.phase) != (record.status, record.phase)


def _is_further(record: JobRecord, listed: Snapshot) -> bool:
    """Return True for a job that has gone on in its state by a figure that the list tells."""
    told = {name: getattr(listed, name) for name in ("progress", "place_in_line", "cost_usd")}
    known = {name: value for name, value in told.items() if value is not None}
    same_state = (listed.status, listed.phase) == (record.status, record.phase)
    return same_state and any(getattr(record, name) != value for name, value in known.items())


def _overdue(still: list[Job]) -> list[Job]:
    """Return one of the jobs that have not been polled for long: a list that never changes would
    hide their end."""
    before = time.time() - STALE_SECONDS
    stale = [job for job in still if (job.record.polled_at or job.record.step_at) < before]
    return random.sample(stale, min(1, len(stale)))


def _take_turns(group: Group, unlisted: list[Job]) -> tuple[list[Job], list[Job]]:
    """Return the jobs to poll in this pass and those to leave for the next ones."""
    if not group.hosted:
        return unlisted, []
    if all(job.id in group.asked for job in unlisted):
        group.asked.clear()
    order = random.sample(unlisted, len(unlisted))
    order.sort(key=lambda job: job.id in group.asked)
    turn, left = order[:SINGLES], order[SINGLES:]
    group.asked.update(job.id for job in turn)
    return turn, left


def _poll_each(
    jobs: list[Job], deadline: Deadline, *, send: bool
) -> list[tuple[Job, GatewayError]]:
    """Refresh each job, up to the deadline or an error that the others would meet too; return the
    errors."""
    failed: list[tuple[Job, GatewayError]] = []
    for place, job in enumerate(jobs):
        if deadline.stopped or (deadline.over and place):
            return failed
        try:
            job.refresh(send=send)
        except GatewayError as exc:
            if is_of_host(exc):
                return failed + [(one, exc) for one in jobs[place:]]
            failed.append((job, exc))
    return failed


# -- many passes -------------------------------------------------------------------------


class Wait:
    """What happens after each pass of a wait."""

    def __init__(
        self,
        groups: list[Group],
        failures: list[Failure],
        on_change: Callable[[Job], object],
        hook: Hook[Job],
    ) -> None:
        self.hook = hook
        self.failures = failures
        self.on_change = on_change
        self.last: dict[str, Hashable] = {}
        for group in groups:
            self.follow(group)

    def follow(self, group: Group) -> None:
        """Wait for the jobs of a group too."""
        self.last |= {job.id: _state(job) for job in group.jobs}

    def add(self, job: Job, group: Group) -> None:
        """Wait for one more job, in a group whose passes go on."""
        self.last[job.id] = _state(job)
        group.jobs.append(job)
        group.pause = 0.0

    def after(self, group: Group, answer: Answer) -> float | None:
        """Drop the jobs that have ended, or that cannot be waited for; return the next pause."""
        if not group.jobs:
            return None  # nobody waits for them any more
        trouble = {job.id: one.error for one in answer.failures for job in one.jobs}
        for job in group.jobs:
            job.trouble = trouble.get(job.id)
        changed = [job for job in group.jobs if self._has_changed(job)]
        for job in changed:
            self.on_change(job)
            self.hook.call(job)
        lost = {job.id for failure in self._lost(group, answer) for job in failure.jobs}
        group.jobs = [job for job in group.jobs if not job.status.final and job.id not in lost]
        if not group.jobs:
            return None
        first, longest = group.limits.poll_seconds
        group.pause = first if changed else min(max(group.pause, first) * 1.5, longest)
        asked = [asked_wait(failure.error) for failure in answer.failures]
        return max([group.pause * random.uniform(1 - JITTER, 1), *asked])

    def _has_changed(self, job: Job) -> bool:
        before, self.last[job.id] = self.last[job.id], _state(job)
        return before != self.last[job.id]

    def _lost(self, group: Group, answer: Answer) -> list[Failure]:
        """Return, and keep, the failures that no waiting will end."""
        allowed = turns.longest_wait(group.jobs[0].store, group.limits)
        now = time.monotonic()
        failing = {
            job.id
            for failure in answer.failures
            for job in failure.jobs
            if not asked_wait(failure.error)
        }
        group.failing = {one: group.failing.get(one, now) for one in failing}
        lost = []
        for failure in answer.failures:
            lasting = waiting.is_lasting(failure.error) or asked_wait(failure.error) > allowed
            over = [
                job
                for job in failure.jobs
                if lasting or now - group.failing.get(job.id, now) > PATIENCE_SECONDS
            ]
            lost += [Failure(over, failure.error)] if over else []
        for job in group.jobs:
            if error := _why_not(job, allowed):
                lost.append(Failure([job], error))
        self.failures += lost
        return lost


def _why_not(job: Job, allowed: float) -> JobNotFinished | None:
    """Return why waiting does not help a job: it has ended with a word that we do not know, or its
    host asks for a longer wait than is allowed."""
    if job.record.ended_otherwise:
        return waiting.ended_otherwise(job)
    try:
        turns.require_short(job.record, allowed)
    except JobNotFinished as exc:
        return exc
    return None


def _state(job: Job) -> Hashable:
    return job.status, job.phase, job.record.cursor, job.trouble is None


def not_finished(jobs: list[Job], deadline: Deadline) -> JobNotFinished:
    count = f"{len(jobs)} jobs were" if len(jobs) > 1 else f"Job {jobs[0].id} was"
    return JobNotFinished(
        f"{count} not finished {deadline.how}.",
        hint="They continue. See: ftg list" if len(jobs) > 1 else "It continues.",
        job_id=jobs[0].id,
    )


def _too_many(jobs: list[Job]) -> BackendError:
    host = jobs[0].record.display_name
    return BackendError(
        f"The list of jobs at {host} does not show them, and at most {SINGLES} are asked for one "
        "by one.",
        hint="Refresh again for the next ones.",
        backend=jobs[0].record.backend,
        retryable=True,
    )
