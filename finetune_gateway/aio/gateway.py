"""A Gateway, awaited: the same verbs, which never block the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from finetune_gateway.aio.calls import Calls, Face, awaited
from finetune_gateway.aio.handle import ModelHandle
from finetune_gateway.aio.job import Hook, Job, OnEvent
from finetune_gateway.aio.watcher import Watcher
from finetune_gateway.errors import GatewayError, JobNotFinished
from finetune_gateway.gateway import Gateway as BlockingGateway
from finetune_gateway.jobs import groups, many
from finetune_gateway.jobs.home_backends import Configured
from finetune_gateway.jobs.job import Job as BlockingJob
from finetune_gateway.jobs.removal import Removed
from finetune_gateway.model import exact_methods
from finetune_gateway.settings.client_options import HttpClient, Keys
from finetune_gateway.settings.deadlines import Deadline, Stop

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Failure:
    """Jobs that are as they were last seen, and why."""

    jobs: list[Job]
    error: GatewayError


@exact_methods
class Gateway(Face[BlockingGateway]):
    """One home folder and the jobs in it: ``finetune_gateway.Gateway``, awaited.

    >>> async with aio.Gateway() as gateway:
    ...     job = await gateway.submit("train.jsonl", model="gpt-4.1-mini-2025-04-14")
    ...     model = await job.result()
    ...     print((await model.chat("Where is my parcel?")).text)

    It belongs to no loop: it may be made before one runs.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        monthly_usd: Decimal | float | None = None,
        backends: Configured | None = None,
        keys: Keys | None = None,
        http_client: HttpClient | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Open a home folder; arguments and errors as of ``finetune_gateway.Gateway``."""
        self._open(
            BlockingGateway(
                home,
                monthly_usd=monthly_usd,
                backends=backends,
                keys=keys,
                http_client=http_client,
                proxy=proxy,
                timeout=timeout,
            )
        )

    def _open(self, blocking: BlockingGateway) -> None:
        super().__init__(blocking, Calls())
        self._watcher = Watcher()

    async def call(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Call a function in a thread of this Gateway, and return what it returns: for what is not
        awaited here, such as what ``blocking`` has."""
        return await self._calls.run(function, *args, **given)

    def _job(self, job: BlockingJob) -> Job:
        return Job(job, self._calls, self._watcher)

    def _jobs(self, jobs: list[BlockingJob]) -> list[Job]:
        return [self._job(job) for job in jobs]

    def _equal_job(self, job: BlockingJob | None) -> Job | None:
        return None if job is None else self._job(job)

    # -- before anything is sent ---------------------------------------------------------

    validate = awaited(BlockingGateway.validate)
    preview = awaited(BlockingGateway.preview)
    estimate = awaited(BlockingGateway.estimate)
    options = awaited(BlockingGateway.options)
    plan = awaited(BlockingGateway.plan)
    advise = awaited(BlockingGateway.advise)

    # -- jobs ----------------------------------------------------------------------------

    submit = awaited(BlockingGateway.submit, _job)
    equal_job = awaited(BlockingGateway.equal_job, _equal_job)
    job = awaited(BlockingGateway.job, _job, by=Calls.read)
    jobs = awaited(BlockingGateway.jobs, _jobs, by=Calls.read)
    prune = awaited(BlockingGateway.prune)
    retention_days = awaited(BlockingGateway.retention_days, by=Calls.read)
    budget = awaited(BlockingGateway.budget, by=Calls.read)
    costs = awaited(BlockingGateway.costs, by=Calls.read)
    backend = awaited(BlockingGateway.backend)
    open = awaited(BlockingGateway.open)

    # -- models --------------------------------------------------------------------------

    # These ask models: they may take long, and hold up no job.
    compare = awaited(BlockingGateway.compare, by=Calls.ask)
    migrate = awaited(BlockingGateway.migrate, by=Calls.ask)
    comparison = awaited(BlockingGateway.comparison, by=Calls.read)
    comparisons = awaited(BlockingGateway.comparisons, by=Calls.read)

    async def deploy(
        self,
        job: Job | str,
        name: str | None = None,
        *,
        max_usd_per_hour: Decimal | float | str | None = None,
    ) -> ModelHandle:
        """Let the backend of a job make a deployment of its model, and return its handle once it
        answers; arguments and errors as of ``finetune_gateway.Gateway.deploy``."""
        of, most = job if isinstance(job, str) else job.blocking, max_usd_per_hour
        made = await self._calls.ask(self.blocking.deploy, of, name, max_usd_per_hour=most)
        return ModelHandle(made, self._calls)

    async def end_deployment(self, job: Job | str) -> bool:
        """End the deployment of a job's model; as ``finetune_gateway.Gateway.end_deployment``."""
        of = job if isinstance(job, str) else job.blocking
        return await self._calls.run(self.blocking.end_deployment, of)

    async def remove(self, jobs: Iterable[Job]) -> list[Removed]:
        """Remove every text of these jobs from this machine, and return what went; errors as of
        ``finetune_gateway.Gateway.remove``."""
        return await self._calls.run(self.blocking.remove, [job.blocking for job in jobs])

    async def removable(self, jobs: Iterable[Job]) -> list[Removed]:
        """Return what ``remove`` would remove, and change nothing. Raises as it does."""
        return await self._calls.run(self.blocking.removable, [job.blocking for job in jobs])

    async def refresh(self, jobs: Iterable[Job] | None = None) -> list[Failure]:
        """Ask the backends of these jobs, by default of all jobs, and store what is new; return
        what could not be asked, and why. Sends nothing."""
        given = None if jobs is None else [*jobs]
        asked = None if given is None else [job.blocking for job in given]
        failures = await self._calls.run(self.blocking.refresh, asked)
        return self._failures(failures, given or [])

    async def resume_all(self) -> list[Failure]:
        """Let every job of this machine go on that waits or has ended with it, in their order;
        return those that cannot, and why."""
        return self._failures(await self._calls.run(self.blocking.resume_all), [])

    async def wait(
        self,
        jobs: Iterable[Job],
        timeout: float | None = None,
        *,
        on_change: Callable[[Job], object] | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> list[Failure]:
        """Return once these jobs have ended, whatever their status, or ``timeout`` seconds have
        passed: those that have not ended, and why. A job that is certainly not at its backend is
        sent. ``on_change`` is called in the loop with each job that has news, ``on_event`` as by
        ``Job.wait``."""
        deadline, hook = Deadline(timeout, stop), Hook(on_event, on_change)
        waits = [
            (job, asyncio.create_task(job.wait_until(deadline, hook)))
            for job in dict.fromkeys(jobs)
        ]
        try:
            for _, wait in waits:
                await asyncio.wait([wait])
        finally:
            for _, wait in waits:
                wait.cancel()
        late, failed = [], []
        for job, wait in waits:
            error = wait.exception()
            if deadline.over and isinstance(error, JobNotFinished):
                late.append(job.blocking)
            elif isinstance(error, GatewayError):
                failed.append((job.blocking, error))
            elif error is not None:
                raise error
        failures = groups.failures_of(failed)
        if late:
            failures.append(groups.Failure(late, many.not_finished(late, deadline)))
        return self._failures(failures, [job for job, _ in waits])

    def _failures(self, failures: Iterable[groups.Failure], jobs: Iterable[Job]) -> list[Failure]:
        """Return failures with awaited jobs: these, as far as they are among them."""
        known = {job.id: job for job in jobs}
        return [
            Failure([known.get(job.id) or self._job(job) for job in failure.jobs], failure.error)
            for failure in failures
        ]

    # -- open and closed -----------------------------------------------------------------

    def use(
        self,
        *,
        monthly_usd: Decimal | float | None = None,
        backends: Configured | None = None,
        keys: Keys | None = None,
        http_client: HttpClient | None = None,
        proxy: str | None = None,
        timeout: float | None = None,
    ) -> Gateway:
        """Return another Gateway of the same home, with other keys or time-outs; what is left out
        is as it is here. Each is closed by itself."""
        other = self.blocking.use(
            monthly_usd=monthly_usd,
            backends=backends,
            keys=keys,
            http_client=http_client,
            proxy=proxy,
            timeout=timeout,
        )
        return Gateway.over(other)

    @classmethod
    def over(cls, blocking: BlockingGateway) -> Gateway:
        """Return the awaited face of a Gateway that is open. To close it closes both."""
        face = cls.__new__(cls)
        face._open(blocking)
        return face

    async def close(self) -> None:
        """End all waits, each with a SpecError; let calls that have begun end, such as a submit;
        then close the connections to hosts and the store. Jobs go on where they run."""
        self._watcher.close()
        await self._calls.close()
        await asyncio.to_thread(self.blocking.close)

    async def __aenter__(self) -> Self:
        self.blocking.settings  # noqa: B018 - raises if it is closed
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
