"""The product in one class: validate, estimate, submit, and the jobs that came of it.

Read top to bottom: this is what happens to a file. Knows no provider; a backend is asked
through its eight short calls (``backends.base``).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.data import formats
from finetune_gateway.data.dataset import Dataset, Rows
from finetune_gateway.data.sharegpt import Unfit
from finetune_gateway.errors import BudgetError, DataError, SpecError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.events import JobStatus
from finetune_gateway.findings import Report
from finetune_gateway.jobs import ledger, planning
from finetune_gateway.jobs.budget import Budget, require_within
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.ledger import Ledger
from finetune_gateway.jobs.planning import Backends, Files, ModelNames, Option, Plan
from finetune_gateway.jobs.records import JobRecord, StoredFile, new_job_id
from finetune_gateway.jobs.store import Store
from finetune_gateway.jobs.submission import Submitter
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.validation import pipeline
from finetune_gateway.validation.collector import ignorable
from finetune_gateway.validation.dataset import analysis

if TYPE_CHECKING:
    from finetune_gateway.tokens.masks.preview import Preview

Source = str | os.PathLike[str] | Rows | Dataset


class Gateway:
    """One home folder and the jobs in it.

    >>> gateway = Gateway()
    >>> gateway.validate("train.jsonl", model="gpt-4.1-mini-2025-04-14").ok
    >>> gateway.estimate("train.jsonl", model="gpt-4.1-mini-2025-04-14").cost_usd.expected
    >>> job = gateway.submit("train.jsonl", model="gpt-4.1-mini-2025-04-14", max_cost_usd=20)
    >>> job.result().chat("Where is my parcel?").text
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        monthly_usd: Decimal | float | None = None,
    ) -> None:
        """``monthly_usd``: what all jobs of a month may cost; by default ``budget.monthly_usd``
        of the settings (``config.py``)."""
        self.settings = Settings.load(home)
        self._monthly_usd = monthly_usd
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """Opened on first use: ``validate`` and ``estimate`` write nothing."""
        if self._store is None:
            self._store = Store(self.settings)
        return self._store

    # -- before anything is sent ---------------------------------------------------------

    def validate(
        self,
        data: Source,
        *,
        model: str | None = None,
        backend: str | Backend | None = None,
        method: str = "sft",
        quality: bool | None = None,
        against: Source | None = None,
        like: Source | None = None,
        ignore: str | Iterable[str] = (),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Check a dataset; nothing leaves the machine and no key is needed.

        Without ``backend`` every known backend is judged, and each finding names those that
        would refuse. ``quality``: look at the dataset as a whole too (default: when it is small,
        ``survey.AUTO_BYTES``), ``against`` validation or test data for leaks, and for how far it
        is from ``like``, a sample of production prompts. ``ignore``: codes of rules that do not
        count here; ``submit`` judges by all of them. ``on_progress`` is told now and then how
        many bytes were read, and of how many. Raises NotFoundError when there is no such
        file, SpecError for a code that no rule has, UnsupportedError for a method that the hosted
        ``backend`` does not have.
        """
        ignored = ignorable(ignore)
        return pipeline.validate(
            self.open(data),
            model=model,
            runner=None if backend is None else self.backend(backend),
            method=method,
            options=analysis.AnalysisOptions(
                quality=quality,
                against=None if against is None else self.open(against),
                like=None if like is None else self.open(like),
            ),
            ignored=ignored,
            on_progress=on_progress,
        )

    def preview(
        self,
        data: Source,
        *,
        model: str,
        backend: str | Backend | None = None,
        rows: Collection[int] | None = None,
        **options: Any,
    ) -> list[Preview]:
        """Rows as the model will see them, token by token, with what is trained. Offline.

        ``rows``: their lines, from 1 (default: the first three). ``backend``: by default local
        for a model on this machine, else openai. ``options``: ``train_on``, ``max_length`` and
        ``chat_template``, as ``TrainingSpec`` has them. A bad row is no error: its preview has
        findings and no tokens. Raises SpecError for another option, NotFoundError for a line
        that is not there.
        """
        if other := options.keys() - {"train_on", "max_length", "chat_template"}:
            raise SpecError(
                f"{sorted(other)[0]!r} does not change what a model sees.",
                hint="A preview takes train_on, max_length and chat_template.",
            )
        # Imported here: only previews need templates, and jinja2 with them.
        from finetune_gateway.validation import select

        runner = self.backend(backend or registry.usual(model))
        spec = TrainingSpec.build(model=model, **options)
        renderer = runner.preview_renderer(spec) or select.hosted_renderer(
            spec, runner.capabilities(model)
        )
        return select.previews(self.open(data), renderer, runner.name, rows)

    @overload
    def estimate(
        self, data: Source, *, model: str, backend: str | Backend = "openai", **options: Any
    ) -> Estimate: ...

    @overload
    def estimate(
        self, data: Source, *, model: ModelNames, backend: str | Backend | Backends = "openai",
        **options: Any,
    ) -> list[Option]: ...  # fmt: skip

    @overload
    def estimate(
        self, data: Source, *, model: str, backend: Backends, **options: Any
    ) -> list[Option]: ...

    def estimate(
        self,
        data: Source,
        *,
        model: str | ModelNames,
        backend: str | Backend | Backends = "openai",
        **options: Any,
    ) -> Estimate | list[Option]:
        """What a run would cost, how long it would take and whether it fits. Offline.

        A list of models, of backends, or both, gives a list of ``Option``: every model on every
        backend, each with its ``estimate`` or the ``error`` that says why there is none.
        ``options`` are those of ``plan``. One model on one backend raises DataError for data
        the backend would refuse.
        """
        if isinstance(model, str) and isinstance(backend, str | Backend):
            return self.plan(data, model=model, backend=backend, **options).estimate
        models = [model] if isinstance(model, str) else model
        places = [backend] if isinstance(backend, str | Backend) else backend
        if not models or not places:
            raise SpecError("There is nothing to estimate.", hint="Name a model and a backend.")
        return self.options(data, [(one, place) for one in models for place in places], **options)

    def options(
        self,
        data: Source,
        pairs: Sequence[tuple[str, str | Backend]],
        *,
        validation: Source | None = None,
        validation_split: float | None = None,
        train_price: Decimal | float | str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> list[Option]:
        """Models and their backends side by side, in as few passes over the data as there are
        ways to count it. What is wrong with one stands in its place; what is wrong with the call
        is raised: NotFoundError for a file, SpecError for a field that is not there.
        """
        specs = [(name, TrainingSpec.build(model=model, **options)) for model, name in pairs]
        seed = specs[0][1].seed if specs else None
        files = self._files(data, validation, validation_split, seed)
        return planning.side_by_side(
            specs, self.backend, files, train_price=_usd(train_price), on_progress=on_progress
        )

    def plan(
        self,
        data: Source,
        *,
        model: str,
        backend: str | Backend = "openai",
        validation: Source | None = None,
        validation_split: float | None = None,
        train_price: Decimal | float | str | None = None,
        **options: Any,
    ) -> Plan:
        """Everything ``submit`` does before it writes a job down. ``train_price``: your own, in
        USD per million training tokens. ``options`` are the fields of ``TrainingSpec``.

        Raises SpecError, UnsupportedError, DataError with a report of lines and fixes.
        """
        spec = TrainingSpec.build(model=model, **options)
        candidate = planning.Candidate.of(
            spec, self.backend(backend), priced=train_price is not None
        )
        files = self._files(data, validation, validation_split, spec.seed)
        return planning.plan(candidate, files, planning.FileChecks(), _usd(train_price))

    # -- submit --------------------------------------------------------------------------

    def submit(
        self,
        data: Source,
        *,
        model: str,
        backend: str | Backend = "openai",
        validation: Source | None = None,
        validation_split: float | None = None,
        train_price: Decimal | float | str | None = None,
        max_cost_usd: Decimal | float | None = None,
        confirm: Callable[[Plan], bool] | None = None,
        allow_pii: bool = False,
        again: bool = False,
        **options: Any,
    ) -> Job:
        """Validate the data, price the run, write the job down, start it, hand it back.

        ``confirm`` is asked with the whole plan before anything is sent; ``max_cost_usd``
        refuses when the high estimate is above it or no price is known. All jobs of a month
        together stay below its cap, whatever submits at the same time. Personal data and
        secrets go to a hosted backend only with ``allow_pii``. The same submit twice gives the
        same live job, unless ``again``. ``options`` are the fields of ``TrainingSpec``.

        Raises DataError, SpecError, UnsupportedError, BudgetError before anything is sent;
        BackendError when the backend refuses. When it is not known whether the backend received
        the job, the job comes back unconfirmed and is settled by ``refresh``, ``wait`` or any
        other look at it.
        """
        plan = self.plan(
            data,
            model=model,
            backend=backend,
            validation=validation,
            validation_split=validation_split,
            train_price=train_price,
            **options,
        )
        plan.backend.check(plan.spec)
        if not allow_pii:
            plan.require_no_private_data()
        limit = config.value(self.settings, "budget.job_usd", max_cost_usd).usd
        require_within(plan.estimate, limit)
        if confirm is not None and not confirm(plan):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")
        record = self._submitter.submit(self._intent(plan, again), plan.backend)
        return self._job(record, plan.backend)

    def _intent(self, plan: Plan, again: bool) -> JobRecord:
        train = self._kept(plan.train, plan.reports[0])
        validation = self._kept(plan.validation, plan.reports[1]) if plan.validation else None
        identity = [
            train.sha256,
            validation.sha256 if validation else None,
            plan.spec.canonical(),
            plan.backend.name,
            plan.backend.identity(),
            time.time_ns() if again else None,
        ]
        now = time.time()
        return JobRecord(
            id=new_job_id(),
            created_at=now,
            name=plan.train.name,
            backend=plan.backend.name,
            backend_options=plan.backend.options(),
            hosted=plan.backend.capabilities().hosted,
            spec=plan.spec,
            train=train,
            validation=validation,
            system_prompt=Dataset(Path(train.path)).system_prompt(),
            estimate=plan.estimate.model_dump(mode="json"),
            submit_key=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
            step_at=now,
        )

    # -- jobs ----------------------------------------------------------------------------

    def job(self, name: str) -> Job:
        """A job by its id, a unique beginning of it, the provider's id, or ``latest``.

        Raises NotFoundError.
        """
        return self._job(self.store.find(name))

    def jobs(
        self, *, status: str | None = None, backend: str | None = None, limit: int | None = None
    ) -> list[Job]:
        """Jobs, newest first, as they were last seen. No backend is asked. ``backend``: a name
        as at submit, ``azure`` too; other hosts of OpenAI's contract count as ``openai``."""
        if status is not None and status not in list(JobStatus):
            known = ", ".join(JobStatus)
            raise SpecError(f"There is no status {status!r}.", hint=f"Use one of: {known}.")
        records = self.store.jobs(status=status, backend=backend, limit=limit)
        return [self._job(record) for record in records]

    # -- money ---------------------------------------------------------------------------

    def budget(self) -> Budget:
        """This calendar month (UTC): its cap, what was spent, what running jobs have reserved."""
        return self._submitter.budget(time.time())

    def costs(self, since: date | None = None, until: date | None = None) -> Ledger:
        """What each job was said to cost and what it did, from the first day to the last, both
        included (UTC; default: all). From the store alone."""
        records = self.store.created(*ledger.bounds(since, until))
        return ledger.of(records, since, until, self.store.is_being_sent)

    @property
    def monthly_usd(self) -> Decimal | None:
        """What all jobs of a month may cost; None is no limit. Raises SpecError for a setting
        that is no amount."""
        return config.value(self.settings, "budget.monthly_usd", self._monthly_usd).usd

    @property
    def _submitter(self) -> Submitter:
        def load(record: JobRecord) -> Backend:
            return self.backend(registry.load(record.backend, record.backend_options))

        return Submitter(self.store, lambda: self.monthly_usd, load)

    def _job(self, record: JobRecord, backend: Backend | None = None) -> Job:
        def load() -> Backend:
            if backend is not None:
                return backend
            return self.backend(registry.load(record.backend, record.backend_options))

        return Job(record, self.store, load, self._submitter.resume)

    # -- data and backends ---------------------------------------------------------------

    def open(self, data: Source) -> Dataset:
        """A dataset from a path or from rows in memory."""
        return Dataset.open(data, spool=self.settings.home / "spool")

    def backend(self, backend: str | Backend) -> Backend:
        """A backend by name, or the one you built. A local one works in this home folder."""
        if isinstance(backend, str):
            backend = registry.load(backend)
        backend.bind(self.settings)
        return backend

    def _files(
        self, data: Source, validation: Source | None, ratio: float | None, seed: int | None
    ) -> Files:
        held_out = None if validation is None else self.open(validation)
        return Files(self.open(data), held_out).split(ratio, seed, self.settings.home / "spool")

    def _kept(self, dataset: Dataset, report: Report) -> StoredFile:
        """A copy of the data in the home folder, so that the job does not depend on a file
        that may change or go before it is sent, or sent again. Rows of another format are
        written as OpenAI's chat or preference rows, which every backend takes."""
        rewrite = None if report.format.startswith("openai-") else formats.canonical
        try:
            path, digest = dataset.copy_into(self.store.settings.files, rewrite)
        except Unfit as exc:
            raise DataError(
                f"{dataset.name}: a row of the format {report.format} cannot be sent: {exc}.",
                hint=f"See: ftg convert {dataset.name} --to openai -o OUT",
            ) from None
        return StoredFile(
            path=str(path), sha256=digest, rows=report.rows, bytes=path.stat().st_size
        )


def _usd(train_price: Decimal | float | str | None) -> Decimal | None:
    return None if train_price is None else parse_usd(train_price, "train_price")
