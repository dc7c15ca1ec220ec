"""One thread that looks at all jobs which tasks wait for, and wakes these tasks.

It asks as ``Gateway.wait`` does: each host once for all its jobs, side by side. A task that waits
no longer takes nothing with it: its job goes on where it runs.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field

from finetune_gateway.aio.threads import in_words
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs import groups, many
from finetune_gateway.jobs.groups import Failure, Group
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.many import Answer
from finetune_gateway.jobs.passes import Passes
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.waiting import Hook
from finetune_gateway.settings.client_options import closed
from finetune_gateway.settings.deadlines import THREAD, TICK_SECONDS, Deadline


class Waiter:
    """One task that waits for a job. ``send``: a job that has not been sent is sent. ``every``:
    woken by each pass, not by news alone. Made in the loop of the task."""

    def __init__(self, job: Job, *, send: bool, every: bool = False) -> None:
        self.job = job
        self.send = send
        self.every = every
        self.left = False  # the task waits no longer
        self.asked = False  # a pass has asked for the job
        self.error: BaseException | None = None  # no waiting will end it
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    async def news(self, deadline: Deadline, first_end: float) -> bool:
        """Wait for news of the job; return False at the end of the wait. Raises why there can be
        none. ``first_end``: until when a first answer is waited for, by ``time.monotonic``."""
        while not self._news.is_set():
            left = (deadline.end if self.asked else first_end) - time.monotonic()
            if left <= 0 or deadline.stopped:
                return False
            longest = left if deadline.stop is None else min(left, TICK_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if longest == math.inf else longest):
                    await self._news.wait()
        self._news.clear()
        if self.error is not None:
            raise self.error
        return True

    def wake(self, seen: Job | None, error: BaseException | None = None) -> None:
        """Give the task what was seen, or why there is nothing to see; from any thread."""
        given = None if seen is None else (seen.record, seen.trouble)
        with suppress(RuntimeError):  # its loop has ended, and the task with it
            self._loop.call_soon_threadsafe(self._receive, given, error)

    def _receive(
        self, seen: tuple[JobRecord, GatewayError | None] | None, error: BaseException | None
    ) -> None:
        if seen is not None:
            self.job.record, self.job.trouble = seen
            self.asked = True
        self.error = self.error or error
        self._news.set()


@dataclass(eq=False)
class Host:
    """The jobs of one host and account that tasks wait for, and who waits."""

    group: Group
    send: bool
    waiters: dict[str, list[Waiter]] = field(default_factory=dict)  # by job
    changed: set[str] = field(default_factory=set)  # jobs, in the last pass
    lost: list[Failure] = field(default_factory=list)  # in the last pass
    answered: float = -math.inf  # when the last pass had ended

    def __post_init__(self) -> None:
        self.wait = many.Wait([], self.lost, lambda job: self.changed.add(job.id), Hook(None))

    @property
    def hosted(self) -> bool:
        return self.group.hosted

    def ask(self, deadline: Deadline) -> tuple[set[str], Answer]:
        """Return the ids of the jobs that were asked for, and what came of it. In a thread of its
        own."""
        jobs = [*self.group.jobs]
        try:
            answer = many.ask(self.group, deadline, send=self.send)
        except GatewayError as exc:
            answer = Answer([Failure(jobs, exc)])
        except (KeyboardInterrupt, SystemExit) as exc:
            answer = Answer([Failure(jobs, in_words(exc))])
        return {job.id for job in jobs}, answer

    def after(self, asked: set[str], answer: Answer) -> float | None:
        """Wake who waits for news that a pass has brought; return the next pause, None if nobody
        waits any more."""
        self.changed.clear()
        self.lost.clear()
        before = [
            *self.group.jobs
        ]  # those that came during the pass too: it may have asked for them
        pause = self.wait.after(self.group, answer)
        self.answered = time.monotonic()
        errors = {job.id: failure.error for failure in self.lost for job in failure.jobs}
        news = self.changed | errors.keys()
        for job in before:
            for waiter in self.waiters.get(job.id, []):
                first = job.id in asked and not waiter.asked
                if job.id in news or waiter.every or first:
                    waiter.wake(job, errors.get(job.id))
        live = {job.id for job in self.group.jobs}
        self.waiters = {job: waiting for job, waiting in self.waiters.items() if job in live}
        return pause

    def drop_left(self) -> None:
        """Look no longer at jobs that nobody waits for."""
        here = {job: [one for one in some if not one.left] for job, some in self.waiters.items()}
        self.waiters = {job: some for job, some in here.items() if some}
        self.group.jobs = [job for job in self.group.jobs if job.id in self.waiters]

    def end(self, error: BaseException) -> None:
        """Give an error to whoever still waits."""
        for waiter in [one for some in self.waiters.values() for one in some]:
            waiter.wake(None, error)
        self.waiters, self.group.jobs = {}, []
        self.group.end()


class Watcher:
    """Looks at jobs for a Gateway, in a thread that is there while anybody waits."""

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._process = os.getpid()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # of the start and the end of the thread
        self._thread: threading.Thread | None = None
        # What follows belongs to that thread.
        self._hosts: dict[Hashable, Host] = {}
        deadline = Deadline(stop=self._closing)
        self._passes = Passes[Host, tuple[set[str], Answer]]([], Host.ask, self._after, deadline)

    def join(self, waiter: Waiter) -> None:
        """Let a task wait for its job, which is asked for at once, or with the next pass of its
        host if that has just answered. Raises what keeps its backend from being loaded."""
        waiter.job.backend  # noqa: B018 - loaded once
        job = copy(waiter.job)  # the passes change it
        job.store.settings.require_writable()
        place, limits = (waiter.send, groups.place_of(job.backend)), job.backend.capabilities()
        host = Host(Group(job.backend, limits), waiter.send)
        self._post(lambda: self._add(waiter, job, place, host))

    def leave(self, waiter: Waiter) -> None:
        """Let a task wait no longer; returns at once."""
        waiter.left = True
        with self._lock:
            if self._thread is not None:
                self._passes.call(self._drop_left)

    def close(self) -> None:
        """End all waits: each raises SpecError."""
        with self._lock:
            self._closing.set()
            if self._thread is not None:
                self._passes.call(lambda: None)  # wakes it

    def _post(self, function: Callable[[], object]) -> None:
        if self._process != os.getpid():  # a fork has no such thread
            self._begin_anew()
        with self._lock:
            if self._closing.is_set():
                raise closed()
            self._passes.call(function)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                self._thread.start()

    # -- in its thread -------------------------------------------------------------------

    def _run(self) -> None:
        while self._thread is not None:
            error: BaseException | None = None
            try:
                self._passes.run()
            except BaseException as exc:  # raised in the tasks that wait
                error = exc
            with self._lock:
                error = closed() if self._closing.is_set() else error
                if error is not None:
                    self._end(error)
                if self._closing.is_set() or self._passes.ended:
                    self._thread = None

    def _end(self, error: BaseException) -> None:
        for host in self._hosts.values():
            host.end(error)
        self._hosts = {}

    def _add(self, waiter: Waiter, job: Job, place: Hashable, host: Host) -> None:
        if waiter.left:
            return
        host = self._hosts.setdefault(place, host)
        if job.id not in host.waiters:
            host.wait.add(job, host.group)
        host.waiters.setdefault(job.id, []).append(waiter)
        since = time.monotonic() - host.answered
        self._passes.add(host, max(0.0, host.group.limits.poll_seconds[0] - since))

    def _drop_left(self) -> None:
        for host in [*self._hosts.values()]:
            host.drop_left()
            if not host.group.jobs and host not in self._passes.running:
                self._passes.drop(host)
                self._forget(host)

    def _after(self, host: Host, answered: tuple[set[str], Answer]) -> float | None:
        pause = host.after(*answered)
        if pause is None:
            self._forget(host)
        return pause

    def _forget(self, host: Host) -> None:
        host.group.end()
        self._hosts = {place: one for place, one in self._hosts.items() if one is not host}
