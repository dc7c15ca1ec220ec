"""The product in one class: validate, estimate, submit, and the jobs that came of it.

Read top to bottom: this is what happens to a file. Knows no provider; a backend is asked
through its eight short calls (``backends.base``).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway import backends, formats, guards, pricing
from finetune_gateway.backends.base import Backend, DataFile
from finetune_gateway.checks import gate as checks
from finetune_gateway.checks.findings import Report, ignorable
from finetune_gateway.dataset import Dataset, Rows
from finetune_gateway.errors import BackendError, BudgetError, DataError, SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.job import Job
from finetune_gateway.pricing import Estimate
from finetune_gateway.quality import survey
from finetune_gateway.records import JobRecord, StoredFile, new_job_id
from finetune_gateway.settings import Settings
from finetune_gateway.sharegpt import Unfit
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.store import Store
from finetune_gateway.tokens import HostedCounter, LocalCounter, TokenStats

if TYPE_CHECKING:
    from finetune_gateway.masks import Preview

Source = str | os.PathLike[str] | Rows | Dataset
MAX_TRIES = 10  # requests that may change something, per job, before we give up


@dataclass(frozen=True)
class Plan:
    """Everything known about a job before anything is sent."""

    spec: TrainingSpec
    backend: Backend
    train: Dataset
    validation: Dataset | None
    reports: tuple[Report, ...]  # of the training file, then of the validation file
    tokens: TokenStats
    estimate: Estimate


class Gateway:
    """One home folder and the jobs in it.

    >>> gateway = Gateway()
    >>> gateway.validate("train.jsonl", model="gpt-4.1-mini-2025-04-14").ok
    >>> gateway.estimate("train.jsonl", model="gpt-4.1-mini-2025-04-14").cost_usd.expected
    >>> job = gateway.submit("train.jsonl", model="gpt-4.1-mini-2025-04-14", max_cost_usd=20)
    >>> job.result().chat("Where is my parcel?").text
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.settings = Settings.load(home)
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
        file, SpecError for a code that no rule has.
        """
        ignored = ignorable(ignore)
        dataset = self.open(data)
        spec = TrainingSpec.build(model=model or "unnamed", method=method)
        runner = None if backend is None else self.backend(backend)
        judged = (runner.name,) if runner else None
        counter = runner.counter(spec) if runner else HostedCounter(model)
        report = checks.validate(
            dataset,
            method=spec.method,
            model=model,
            backends=judged,
            counter=counter,
            max_context=runner.capabilities(spec.model).max_context if runner else None,
            on_progress=on_progress,
        )
        asked = survey.Asked(
            quality=quality,
            against=None if against is None else self.open(against),
            like=None if like is None else self.open(like),
        )
        render = counter.render if isinstance(counter, LocalCounter) else None
        whole = survey.joined(
            report, dataset, asked, backends=judged, method=spec.method, render=render
        )
        return whole.without(ignored)

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
        from finetune_gateway.masks import picking

        runner = self.backend(backend or backends.usual(model))
        spec = TrainingSpec.build(model=model, **options)
        return picking.previews(self.open(data), runner.masker(spec), runner.name, rows)

    def estimate(
        self, data: Source, *, model: str, backend: str | Backend = "openai", **options: Any
    ) -> Estimate:
        """What a run would cost, how long it would take and whether it fits. Offline.

        ``options`` are those of ``plan``. Raises DataError for data the backend would refuse.
        """
        return self.plan(data, model=model, backend=backend, **options).estimate

    def plan(
        self,
        data: Source,
        *,
        model: str,
        backend: str | Backend = "openai",
        validation: Source | None = None,
        validation_split: float | None = None,
        train_price: Decimal | None = None,
        **options: Any,
    ) -> Plan:
        """Everything ``submit`` does before it writes a job down. ``train_price``: your own, in
        USD per million training tokens. ``options`` are the fields of ``TrainingSpec``.

        Raises SpecError, UnsupportedError, DataError with a report of lines and fixes.
        """
        spec = TrainingSpec.build(model=model, **options)
        runner = self.backend(backend)
        limits = runner.capabilities(spec.model)
        limits.require(runner.name, spec)
        train, held_out = self._split(data, validation, validation_split, spec)
        reports, counters = [], []
        for dataset in (train, held_out) if held_out else (train,):
            counters.append(runner.counter(spec))
            report = checks.validate(
                dataset,
                method=spec.method,
                model=spec.model,
                backends=(runner.name,),
                counter=counters[-1],
                max_context=limits.max_context,
                min_rows=None if dataset is train else 1,
            )
            report.raise_for_errors()
            reports.append(report)
        if held_out:
            reports[0] = survey.apart(reports[0], train, held_out, (runner.name,))
        tokens = counters[0].stats()
        estimate = runner.estimate(spec, tokens)
        if train_price is not None:
            estimate = pricing.at_train_price(estimate, train_price)
        if held_out:
            estimate = pricing.with_validation(estimate, counters[1].stats())
        return Plan(spec, runner, train, held_out, tuple(reports), tokens, estimate)

    # -- submit --------------------------------------------------------------------------

    def submit(
        self,
        data: Source,
        *,
        model: str,
        backend: str | Backend = "openai",
        validation: Source | None = None,
        validation_split: float | None = None,
        train_price: Decimal | None = None,
        max_cost_usd: float | None = None,
        confirm: Callable[[Plan], bool] | None = None,
        allow_pii: bool = False,
        again: bool = False,
        **options: Any,
    ) -> Job:
        """Validate the data, price the run, write the job down, start it, hand it back.

        ``confirm`` is asked with the whole plan before anything is sent; ``max_cost_usd``
        refuses when the high estimate is above it or no price is known. Personal data and
        secrets go to a hosted backend only with ``allow_pii``. The same submit twice gives the
        same live job, unless ``again``. ``options`` are the fields of
        ``TrainingSpec``.

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
        guards.private(plan.reports, plan.estimate, allow_pii)
        guards.within(plan.estimate, max_cost_usd)
        if confirm is not None and not confirm(plan):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")
        record, added = self.store.add(self._intent(plan, again))
        job = self._job(record, plan.backend)
        if added or record.step == "intent":  # its submitter may have died before it sent anything
            job.record = self._advance(record, plan.backend, first=added)
        return job

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

    def _advance(self, record: JobRecord, backend: Backend, *, first: bool = False) -> JobRecord:
        """Take a job from its intent to a provider's id, sending nothing twice.

        Each request that changes something is announced in the store before it is sent. A job
        found in such a step was interrupted: wait until a sent request can no longer take
        effect, look whether it did, and only then send it again
        (docs/decisions/0002-exactly-once.md).
        """
        with self.store.lock(record.id) as mine:
            record = self.store.get(record.id)
            if not mine or record.provider_id or record.status.final:
                return record
            left = record.step_at + backend.capabilities().settle_seconds - time.time()
            if record.step in ("uploading", "creating") and left > 0:
                phase = f"interrupted while {record.step}; asking {backend.name} in {left:.0f} s"
                return self.store.set_phase(record.id, phase)
            with self._doubts(record, backend, first):
                # Before a file may be sent again: that would overwrite the doubt about the job.
                found = backend.find(record.id) if record.step == "creating" else None
                self.store.set_sent(record.id, found or self._created(record, backend))
            return self.store.get(record.id)

    def _sent_file(self, record: JobRecord, backend: Backend, file: StoredFile) -> DataFile:
        """The file with the provider's id for it, uploaded unless it already was."""
        data = DataFile(Path(file.path), file.sha256, file.rows, file.bytes)
        if not backend.capabilities().hosted:
            return data
        scope = _scope(backend)
        remote = self.store.remote_file(scope, file.sha256)
        if remote is None and record.step == "uploading":
            remote = backend.find_upload(data)
        if remote is None:
            self.store.set_step(record.id, "uploading")
            remote = backend.upload(data)
        if remote is not None:
            self.store.remember_file(scope, file.sha256, remote)
        return DataFile(data.path, data.sha256, data.rows, data.bytes, remote)

    def _created(self, record: JobRecord, backend: Backend) -> str:
        train = self._sent_file(record, backend, record.train)
        validation = None
        if record.validation is not None:
            validation = self._sent_file(record, backend, record.validation)
        self.store.set_step(record.id, "creating")
        return backend.start(record.id, record.spec, train, validation)

    @contextmanager
    def _doubts(self, record: JobRecord, backend: Backend, first: bool) -> Iterator[None]:
        """Sort out a failed request: it may have been applied (stay in that step), it was
        turned away for now (go back to the intent), or it was refused (the job has failed)."""
        try:
            yield
        except BackendError as exc:
            now = self.store.get(record.id)
            unreachable = exc.status_code is None and not exc.maybe_applied
            refused = not (exc.maybe_applied or exc.retryable)
            worn_out = now.tries >= MAX_TRIES and not unreachable
            if now.tries == record.tries:
                # Nothing was sent this time: a look that failed says nothing about the job.
                self.store.set_phase(record.id, f"not confirmed: {exc.message}")
                raise
            if refused or worn_out or (first and unreachable):
                self.store.fail(record.id, str(exc))
                # The host may have deleted a file we remember: the next submit sends it again.
                self.store.forget_files(_scope(backend), record.train, record.validation)
                raise
            self.store.set_step(
                record.id, now.step if exc.maybe_applied else "intent", sending=False
            )
            self.store.set_phase(record.id, f"not confirmed: {exc.message}")

    # -- jobs ----------------------------------------------------------------------------

    def job(self, name: str) -> Job:
        """A job by its id, a unique beginning of it, the provider's id, or ``latest``.

        Raises NotFoundError.
        """
        return self._job(self.store.find(name))

    def jobs(
        self, *, status: str | None = None, backend: str | None = None, limit: int | None = None
    ) -> list[Job]:
        """Jobs, newest first, as they were last seen. No backend is asked."""
        if status is not None and status not in list(JobStatus):
            known = ", ".join(JobStatus)
            raise SpecError(f"There is no status {status!r}.", hint=f"Use one of: {known}.")
        records = self.store.jobs(status=status, backend=backend, limit=limit)
        return [self._job(record) for record in records]

    def _job(self, record: JobRecord, backend: Backend | None = None) -> Job:
        def load() -> Backend:
            if backend is not None:
                return backend
            return self.backend(backends.load(record.backend, record.backend_options))

        return Job(record, self.store, load, self._resume)

    def _resume(self, record: JobRecord, backend: Backend) -> JobRecord:
        try:
            return self._advance(record, backend)
        except BackendError:
            if not self.store.get(record.id).status.final:
                raise
            return self.store.get(record.id)  # refused: the reason is stored with the job

    # -- data and backends ---------------------------------------------------------------

    def open(self, data: Source) -> Dataset:
        """A dataset from a path or from rows in memory."""
        return Dataset.open(data, spool=self.settings.home / "spool")

    def backend(self, backend: str | Backend) -> Backend:
        """A backend by name, or the one you built. A local one works in this home folder."""
        if isinstance(backend, str):
            backend = backends.load(backend)
        backend.use(self.settings)
        return backend

    def _split(
        self, data: Source, validation: Source | None, ratio: float | None, spec: TrainingSpec
    ) -> tuple[Dataset, Dataset | None]:
        train = self.open(data)
        if validation is not None and ratio is not None:
            raise SpecError("validation and validation_split exclude each other.", hint="Drop one.")
        if ratio is not None:
            return train.split(ratio, seed=spec.seed or 0, folder=self.settings.home / "spool")
        return train, None if validation is None else self.open(validation)

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


def _scope(backend: Backend) -> str:
    """Where an uploaded file is known: one host, through one key."""
    return json.dumps([backend.name, backend.identity()], sort_keys=True)
