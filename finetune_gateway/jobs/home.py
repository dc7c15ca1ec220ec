"""The jobs of a home folder: open, list, refresh and wait for them, and what they cost."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backend import Backend
from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import GatewayError, SpecError, shown
from finetune_gateway.jobs import (
    charges,
    continuing,
    deployments,
    groups,
    home_backends,
    ledger,
    many,
    permits,
    planning,
    pruning,
)
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.jobs.conditions import CREATED_WITHIN
from finetune_gateway.jobs.groups import Failure
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job, OnEvent
from finetune_gateway.jobs.ledger import Ledger
from finetune_gateway.jobs.open_home import OpenHome
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.jobs.pruning import Item, Pruned
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.removal import Removed, Remover
from finetune_gateway.jobs.store import LIVE, NEWEST
from finetune_gateway.jobs.submission import Submitter
from finetune_gateway.model import exact_methods
from finetune_gateway.settings import config
from finetune_gateway.settings.arguments import list_of, require_function
from finetune_gateway.settings.deadlines import Stop
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingOptions, TrainingSpec


@exact_methods
class HomeJobs(OpenHome, ABC):
    """The half of a Gateway that is about jobs which have been submitted."""

    @abstractmethod
    def backend(self, backend: str | Backend) -> Backend:
        """Return a backend by name, or the one given, bound to this Gateway."""

    @abstractmethod
    def _plan(
        self, data: Source, model: str, backend: str | Backend | None, copies: Path | None,
        options: Any,
    ) -> Plan: ...  # fmt: skip

    def _job(self, record: JobRecord, backend: Backend | None = None) -> Job:
        def load() -> Backend:
            return backend or self._backend_of(record)

        return Job(record, self.store, load, self._submitter)

    @property
    def _submitter(self) -> Submitter:
        return Submitter(self.store, lambda: self.monthly_usd, self._backend_of)

    @property
    def monthly_usd(self) -> Decimal | None:
        """What all jobs of a month may cost, in USD; None is no limit. Raises SpecError for a
        setting that is not an amount."""
        return config.current_value(self.settings, "budget.monthly_usd", self._monthly_usd).usd

    def model_to_train(self, model: str | None, options: TrainingOptions) -> str:
        """Return the base of a job: as it was named, else that of the job it goes on from; the name
        of that in ``options`` becomes one that stays, as ``latest`` does not.

        Raises SpecError without either, for two that differ, and for a job without a model;
        NotFoundError for one that is not there, or a checkpoint that was pruned.
        """
        name = options.get("continue_from")
        name = name.id if isinstance(name, Job) else name
        if name is None and model is None:
            raise SpecError(
                "There is no model to train.",
                hint="Name a base (model), or a job to go on from (continue_from).",
            )
        spec = TrainingSpec.build(model="any" if model is None else model, continue_from=name)
        if spec.continue_from is None:
            return spec.model
        of = continuing.job_of(spec.continue_from, self.store)
        found = continuing.continued(self._job(of.record), of.step, model)
        options["continue_from"] = found.name
        return found.model

    def settle_latest(
        self, data: Source, model: str | None, place: Any, options: Any, *, again: bool
    ) -> Source:
        """If the newest job is what an equal submit has made of ``latest``, name in ``options`` the
        job that was the newest then: else a submit that is repeated would train on from its own
        job. ``again``: that is wanted. Return the data, as a Dataset where they had to be read."""
        named = options.get("continue_from")
        if again or not isinstance(named, str) or named not in NEWEST:
            return data  # and leave no home behind, should the rest be refused
        newest = continuing.may_have_made(options, self.store)
        if newest is None:
            return data
        data = Dataset.open(data, spool=self.settings.spool)  # it may be one that is read once
        before: Any = {**options, "continue_from": newest.spec.continue_from}
        # What keeps this from being planned is said of the submit itself, if it is in its way too.
        with suppress(GatewayError), planning.copies_folder(self.settings) as folder:
            base = self.model_to_train(model, before)
            job = self.equal_job(self._plan(data, base, place, folder, {**before}))
            if job is not None and job.id == newest.id:
                options["continue_from"] = newest.spec.continue_from
        return data

    def equal_job(self, plan: Plan) -> Job | None:
        """Return the job that is running or has succeeded with the same data, spec and backend: a
        submit returns it, and sends nothing. ``plan``: as ``submit`` gives it to ``confirm``."""
        if not isinstance(plan, planning.Plan):
            raise SpecError(f"{shown(plan)} is no Plan.", hint="Give that of confirm.")
        if not plan.sent:
            raise SpecError(
                "A plan of plan() does not say which files a submit would send, so it is not known "
                "which job is equal.",
                hint="Ask with the plan that submit gives to confirm=, while it runs.",
            )
        intent = planning.intent(plan, self.settings.files)
        record = self._submitter.equal(intent, plan.backend)
        return self._job(record, plan.backend) if record else None

    def _backend_of(self, record: JobRecord) -> Backend:
        return self._backends.of(record, self.store)

    # -- data and backends ---------------------------------------------------------------

    def job(self, name: str, *, backend: str | Backend | None = None) -> Job:
        """Return a job by its id, a unique beginning of it, the provider's id, or ``latest``.

        Arguments:
            name: Which job.
            backend: Ask by this one, with its key: of the same host. By default one that is built
                from what was stored.

        Raises NotFoundError, SpecError for a backend that cannot have this job.
        """
        if not isinstance(name, str):
            raise SpecError(f"{shown(name)} is no id of a job.", hint="Give its id, as a text.")
        record = self.store.find(name)
        if backend is None:
            return self._job(record)
        given = self.backend(backend)
        home_backends.require_same(given, self._backends.restored(record, given), record)
        return self._job(record, given)

    def _job_of(self, job: Job | str) -> Job:
        return job if isinstance(job, Job) else self.job(job)

    def refresh(self, jobs: Iterable[Job] | None = None) -> list[Failure]:
        """Ask the backends of these jobs, by default of all jobs, and store what is new; return
        what could not be asked, and why.

        A host is asked once for all its jobs; those that have moved are polled, so the events of
        others may be older. Sends nothing.
        """
        if jobs is None:
            return many.refresh(map(self._job, self.store.readable(LIVE, ())))
        return many.refresh(list_of(jobs, Job, "jobs"))

    def resume_all(self) -> list[Failure]:
        """Let every job of this machine go on that waits, or that has ended with the machine, in
        their order; return those that cannot, and why.

        Paused jobs stay paused, failed ones failed; hosted ones are not asked. Any look does it
        too, such as ``refresh``; this also sends what was not sent.
        """
        live = [self._job(one) for one in self.store.readable(LIVE, ())[::-1] if not one.hosted]
        failed: list[tuple[Job, GatewayError]] = []
        for job in live:
            try:
                if job.record.unsent:
                    job.resume()
            except GatewayError as exc:
                failed.append((job, exc))
        sent = [job for job in live if not job.record.unsent]
        return [*groups.failures_of(failed), *many.refresh(sent)]

    def wait(
        self,
        jobs: Iterable[Job],
        timeout: float | None = None,
        *,
        on_change: Callable[[Job], object] | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> list[Failure]:
        """Block until these jobs have ended, whatever their status, ``timeout`` seconds have
        passed, also where a host does not answer, or ``stop``, a ``threading.Event()``, is set;
        return those that have not ended, and why. A job that is certainly not at its backend is
        sent. ``on_change`` is called with each job that has moved, ``on_event`` with the job and
        each of its events, as by ``Job.wait``.
        """
        require_function(on_change, "on_change", "the job")
        return many.wait(list_of(jobs, Job, "jobs"), timeout, on_change, stop, on_event)

    def remove(self, jobs: Iterable[Job]) -> list[Removed]:
        """Remove every text of these jobs from this machine, and return what went: data, prompts,
        answers, events, errors, metadata, local models. What they cost stays.

        Raises SpecError, and removes nothing, if one has not ended or if another job was trained
        from its model; StoreError for what cannot be deleted: the same call again goes on.
        """
        every = list_of(jobs, Job, "jobs")
        return self._remover.remove([job.reload().record for job in every])

    def removable(self, jobs: Iterable[Job]) -> list[Removed]:
        """Return what ``remove`` would remove, and change nothing. Raises as it does."""
        every = list_of(jobs, Job, "jobs")
        return self._remover.plan([job.reload().record for job in every])

    def prune(
        self,
        older_than_days: float | None = None,
        *,
        remote: bool = False,
        confirm: Callable[[list[Item]], bool] | None = None,
    ) -> Pruned:
        """Remove data that no job needs any more, and return what went: copies, the rows and
        checkpoints of local jobs, what killed processes have left. Models and histories stay.
        What was fetched from hosts goes by an age that you have named, here or in the settings.

        Arguments:
            older_than_days: Keep what belongs to a job that has ended since. By default
                ``retention.days`` of the settings, else 30.
            remote: Delete at hosts too: uploads of these jobs, and the models of jobs that were
                removed, of whatever age. Only what this home has sent or made.
            confirm: Called with all that would go on this machine, then with each thing at a host;
                False keeps it.

        Raises StoreError for what cannot be removed here; what a host refuses is in the result.
        """
        require_function(confirm, "confirm", "what would go")
        days = self.retention_days(older_than_days)
        named = self._retention(older_than_days).amount is not None
        pruner = pruning.Pruner(self.store, self._submitter.load, days, with_fetched=named)
        agreed = permits.refusing_coroutines(confirm or (lambda items: True))
        return pruning.prune(pruner, agreed, remote=remote)

    def retention_days(self, older_than_days: float | None = None) -> float:
        """Return for how many days ``prune`` keeps the data of a job that has ended."""
        setting = self._retention(older_than_days)
        return pruning.DEFAULT_DAYS if setting.amount is None else float(setting.amount)

    def _retention(self, older_than_days: float | None) -> config.Value:
        return config.current_value(self.store.settings, "retention.days", older_than_days)

    @property
    def _remover(self) -> Remover:
        return Remover(self.store, self._submitter.load)

    def deploy(
        self,
        job: Job | str,
        name: str | None = None,
        *,
        max_usd_per_hour: Decimal | float | str | None = None,
    ) -> ModelHandle:
        """Let the backend of a job make a deployment of its model, where it needs one to answer,
        wait until it answers, and return its handle. It costs by the hour until ``end_deployment``;
        the same call again makes no second one. What it costs is in ``costs`` and ``budget``.

        Arguments:
            job: It, or its id.
            name: Of the deployment at its host; by default the id of the job.
            max_usd_per_hour: Refuse one that costs more, or whose price is not known.

        Raises BudgetError, SpecError for a name that none can have, UnsupportedError where none is
        needed, and for Azure (``ftg deploy``).
        """
        found = self._job_of(job)
        most = max_usd_per_hour
        limit = None if most is None else parse_usd(most, "max_usd_per_hour")
        made = deployments.make(found, name, cap=self.monthly_usd, most=limit)
        deployments.answers(found, made)
        return found.handle()

    def end_deployment(self, job: Job | str) -> bool:
        """End the deployment of a job's model: it costs no more, and the model stays. Return False
        if its host had none any more.

        Raises NotFoundError if none was made here; BackendError while a request to make it, whose
        answer was lost, may still do so, for ``retry_after`` seconds: until then it counts as
        there, and the same call ends it afterwards.
        """
        return deployments.end(self._job_of(job))

    def budget(self) -> Budget:
        """Return this calendar month (UTC): its cap, what was spent, what running jobs reserve."""
        return self._submitter.budget(time.time())

    def costs(self, since: date | None = None, until: date | None = None) -> Ledger:
        """Return what each job was expected to cost and did cost, and what was spent without a job.
        From the store alone.

        Arguments:
            since: The first day, in UTC; None is the first day of all.
            until: The last day, included; None is today.

        Raises SpecError for what is no date, or when since comes after until.
        """
        period = ledger.bounds(since, until)
        records = self.store.readable(CREATED_WITHIN, period)[::-1]
        others, damaged = charges.of_period(self.store, *period)
        damaged += self.store.count(CREATED_WITHIN, period) - len(records)
        return ledger.of(records, since, until, self.store.is_being_sent, others, damaged)
