"""A job, awaited: one thread of its Gateway looks at it, whoever waits."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from inspect import isawaitable

from finetune_gateway.aio.calls import Calls, Face, awaited
from finetune_gateway.aio.handle import ModelHandle
from finetune_gateway.aio.watcher import Waiter, Watcher
from finetune_gateway.events import Event, JobStatus
from finetune_gateway.jobs import results, waiting
from finetune_gateway.jobs.budget import Actual
from finetune_gateway.jobs.history import PAGE
from finetune_gateway.jobs.job import Job as BlockingJob
from finetune_gateway.model import exact_methods
from finetune_gateway.settings.arguments import require_function
from finetune_gateway.settings.deadlines import TICK_SECONDS, Deadline, Stop, checked_stop

OnEvent = Callable[["Job", Event], object]


@exact_methods
class Job(Face[BlockingJob]):
    """One training run: ``finetune_gateway.Job``, awaited. What is stored of it can be read as
    there.

    >>> job = await gateway.submit("train.jsonl", model="gpt-4.1-mini-2025-04-14")
    >>> async for event in job.watch():
    ...     print(event.message)
    >>> model = await job.result()

    A task that is cancelled while it waits ends that wait, and nothing else: the job goes on.
    """

    def __init__(self, blocking: BlockingJob, calls: Calls, watcher: Watcher) -> None:
        super().__init__(blocking, calls)
        self._watcher = watcher

    @property
    def id(self) -> str:
        return self.blocking.id

    @property
    def provider_id(self) -> str | None:
        """The provider's id; None until the provider has confirmed the job."""
        return self.blocking.provider_id

    @property
    def status(self) -> JobStatus:
        """The stored status; ``refresh`` asks the backend for the current one."""
        return self.blocking.status

    @property
    def phase(self) -> str:
        return self.blocking.phase

    @property
    def error(self) -> str | None:
        """Why the job failed."""
        return self.blocking.error

    @property
    def metadata(self) -> dict[str, str]:
        """Your own pairs of key and value, as they were submitted."""
        return self.blocking.metadata

    @property
    def actual(self) -> Actual | None:
        """Tokens, time and cost of an ended job; None while it is running."""
        return self.blocking.actual

    def _itself(self, _: BlockingJob) -> Job:
        return self

    refresh = awaited(BlockingJob.refresh, _itself)
    reload = awaited(BlockingJob.reload, _itself, by=Calls.read)
    cancel = awaited(BlockingJob.cancel, _itself)
    pause = awaited(BlockingJob.pause, _itself)
    resume = awaited(BlockingJob.resume, _itself)
    settle = awaited(BlockingJob.settle, _itself)
    events = awaited(BlockingJob.events, by=Calls.read)
    metrics = awaited(BlockingJob.metrics, by=Calls.read)
    checkpoints = awaited(BlockingJob.checkpoints, by=Calls.read)
    log_path = awaited(BlockingJob.log_path, by=Calls.read)
    remove = awaited(BlockingJob.remove)
    to_dict = awaited(BlockingJob.to_dict, by=Calls.read)
    report = awaited(BlockingJob.report, by=Calls.read)
    to_html = awaited(BlockingJob.to_html, by=Calls.read)

    async def watch(
        self,
        timeout: float | None = None,
        *,
        send: bool = False,
        after: int = 0,
        stop: Stop | None = None,
        on_poll: Callable[[Job], object] | None = None,
    ) -> AsyncGenerator[Event]:
        """Yield events, those that are stored first, until the job has ended or ``timeout`` seconds
        have passed; arguments as of ``finetune_gateway.Job.watch``."""
        deadline = Deadline(timeout, stop)
        news = self._news(deadline, send=send, every=on_poll is not None)
        async with aclosing(news):
            async for _ in news:
                if on_poll is not None:
                    await _finished(on_poll(self))
                while page := await self.events(after, PAGE):
                    for event in page:
                        after = event.number or after
                        yield event

    async def wait(
        self,
        timeout: float | None = None,
        *,
        stop: Stop | None = None,
        on_event: OnEvent | None = None,
    ) -> Job:
        """Return once the job has ended, whatever its status. A job that is certainly not at its
        backend is sent.

        Raises as ``finetune_gateway.Job.wait`` does. ``on_event`` is called in the loop, with the
        job and each of its events; what it returns is awaited if it is awaitable.
        """
        await self.wait_until(Deadline(timeout, stop), Hook(on_event))
        return self

    async def wait_until(self, deadline: Deadline, hook: Hook) -> None:
        """Wait as ``wait`` does. Raises JobNotFinished at the end of the deadline."""
        job = self.blocking
        async with aclosing(self._news(deadline, send=True)) as news:
            await hook.call(self)
            async for _ in news:
                await hook.call_with_news(self)
        if job.record.ended_otherwise:
            raise waiting.ended_otherwise(job)
        if not job.status.final:
            raise waiting.not_finished(job, deadline)

    async def result(
        self,
        timeout: float | None = None,
        *,
        stop: Stop | None = None,
        on_event: OnEvent | None = None,
        model: str | None = None,
        step: results.StepName | None = None,
    ) -> ModelHandle:
        """Wait for the model and return it once it has answered a chat; arguments and errors as of
        ``finetune_gateway.Job.result``."""
        left = threading.Event()  # set once nobody waits for the answer
        deadline, hook = Deadline(timeout, _Either(left, stop)), Hook(on_event)
        try:
            if step is None:
                await self.wait_until(deadline, hook)
            found = await self._calls.ask(self.blocking.result_by, deadline, model, step)
        finally:
            left.set()
        return ModelHandle(found, self._calls)

    async def handle(self, step: results.StepName | None = None) -> ModelHandle:
        """Return the handle of its model, or of a checkpoint, without waiting for it or asking it;
        errors as of ``finetune_gateway.Job.handle``."""
        return ModelHandle(await self._calls.run(self.blocking.handle, step), self._calls)

    async def _news(
        self, deadline: Deadline, *, send: bool, every: bool = False
    ) -> AsyncGenerator[None]:
        """Yield for each news of the job, until it has ended or the wait is over; ``every``: for
        each look at it."""
        job, first_end = self.blocking, deadline.end_of_call()
        await self.reload()
        if job.status.final:
            yield
            return
        waiter = Waiter(job, send=send, every=every)
        try:
            if not await self._joined(waiter, deadline, first_end):
                return
            while await waiter.news(deadline, first_end):
                yield
                if job.status.final or job.record.ended_otherwise:
                    return
                if not send and job.trouble is None and job.record.unsent:
                    await self._calls.run(job.require_on_its_way)
        finally:
            self._watcher.leave(waiter)

    async def _joined(self, waiter: Waiter, deadline: Deadline, end: float) -> bool:
        """Let the watcher look at the job. Return False if the wait ends first: its plug-in, which
        is asked for the group of the job, may hang."""
        joining = asyncio.create_task(self._calls.run(self._watcher.join, waiter))
        try:
            while not joining.done():
                left = end - time.monotonic()
                if left <= 0 or deadline.stopped:
                    return False
                left = left if deadline.stop is None else min(left, TICK_SECONDS)
                await asyncio.wait([joining], timeout=None if left == math.inf else left)
        finally:
            joining.cancel()
        await joining
        return True


class Hook:
    """Calls functions of the caller in the loop: with each event of jobs, once and in order, and
    with each job that has news."""

    def __init__(
        self, function: OnEvent | None, on_change: Callable[[Job], object] | None = None
    ) -> None:
        require_function(function, "on_event", "the job", "the event")
        self.function = function
        self.on_change = on_change
        self.last: dict[str, int] = {}  # the number of the last event, by job

    async def call_with_news(self, job: Job) -> None:
        """Call both, of which only ``on_event`` may fail."""
        if self.on_change is not None:
            await _finished(self.on_change(job))
        await self.call(job)

    async def call(self, job: Job) -> None:
        """Call it with what is new of a job. Its errors are its own: they are logged."""
        if self.function is None:
            return
        while page := await job.events(self.last.get(job.id, 0), PAGE):
            for event in page:
                self.last[job.id] = event.number or 0
                try:
                    await _finished(self.function(job, event))
                except Exception as exc:  # whatever it is, the job goes on
                    waiting.log_error(job.id, event, exc)


class _Either:
    """A stop token that is set once one of two is."""

    def __init__(self, first: threading.Event, second: Stop | None) -> None:
        self.first = first
        self.second = checked_stop(second)

    def is_set(self) -> bool:
        return self.first.is_set() or (self.second is not None and self.second.is_set())

    def wait(self, timeout: float | None = None, /) -> object:
        return self.first.wait(TICK_SECONDS if timeout is None else min(timeout, TICK_SECONDS))


async def _finished(value: object) -> None:
    """Await what a function of the caller returns, if it can be awaited."""
    if isawaitable(value):
        await value
