"""The product in one class: validate, preview, estimate, submit, and the jobs that come of it.

Read it from top to bottom: this is what happens to a file. Knows no provider: a backend is reached
through its short calls (``backend.Backend``). ``api`` has the same verbs as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from finetune_gateway import methods, registry
from finetune_gateway.backend import Backend, Schedule
from finetune_gateway.backend.plugin_objects import renderer_of
from finetune_gateway.data.columns import mapped
from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.evaluations import HomeEvaluations
from finetune_gateway.events import JobStatus
from finetune_gateway.findings import Report
from finetune_gateway.jobs import permits, planning, scheduling
from finetune_gateway.jobs.budget import require_within
from finetune_gateway.jobs.file_checks import Candidate, FileChecks, OnProgress
from finetune_gateway.jobs.home import HomeJobs
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.job_files import Files
from finetune_gateway.jobs.planning import Backends, ModelNames, Option, Plan
from finetune_gateway.keywords import (
    Money,
    PlanOptions,
    RowOptions,
    StartOptions,
    check_metadata,
    listed,
    require_backend,
    require_bool,
    verb,
)
from finetune_gateway.model import exact_methods
from finetune_gateway.settings import config
from finetune_gateway.settings.arguments import whole_number
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import AnyMethod, TrainingSpec
from finetune_gateway.validation import pipeline
from finetune_gateway.validation.collector import ignorable, rules_for
from finetune_gateway.validation.dataset import analysis

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.tokens.masks.preview import Preview


@exact_methods
class Gateway(HomeJobs, HomeEvaluations):
    """One home folder and the jobs in it.

    >>> gateway = Gateway()
    >>> gateway.validate("train.jsonl", model="gpt-4.1-mini-2025-04-14").ok
    >>> gateway.estimate("train.jsonl", model="gpt-4.1-mini-2025-04-14").cost_usd.expected
    >>> job = gateway.submit("train.jsonl", model="gpt-4.1-mini-2025-04-14", max_cost_usd=20)
    >>> job.result().chat("Where is my parcel?").text
    """

    # -- before anything is sent ---------------------------------------------------------

    @verb(RowOptions)
    def validate(
        self,
        data: Source,
        *,
        model: str | None = None,
        backend: str | Backend | None = None,
        method: AnyMethod | None = None,
        quality: bool | None = None,
        against: Source | None = None,
        like: Source | None = None,
        ignore: str | Iterable[str] = (),
        on_progress: OnProgress | None = None,
        **options: Unpack[RowOptions],
    ) -> Report:
        """Check a dataset and return the report. Offline; no key is needed.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            model: Count tokens as this model does, and hold rows to its limit; one of this
                machine is judged for this machine.
            backend: Judge for this backend alone. By default every known backend is judged, and
                each finding names those that would refuse.
            method: What the rows are for: 'sft', 'dpo', ... (default: as their format says).
            quality: Look at the dataset as a whole too. By default for files up to 4 MB.
            against: Validation or test data that must share no row with the data.
            like: Prompts from production that the data should resemble.
            ignore: Codes of rules to leave out. submit always judges by all rules.
            on_progress: Called now and then with the bytes read and the bytes there are.

        Raises NotFoundError when there is no such file, SpecError for a code that no rule has,
        UnsupportedError for a method that the hosted backend does not have.
        """
        ignored, columns = ignorable(ignore), options.pop("columns", None)
        return pipeline.validate(
            self.open(data, columns),
            model=model,
            runner=pipeline.place_of(model, backend, self.backend),
            method=method,
            training=options,
            options=analysis.AnalysisOptions(
                quality=quality,
                against=None if against is None else self.open(against, columns, required=False),
                like=None if like is None else self.open(like, columns, required=False),
            ),
            ignored=ignored,
            on_progress=on_progress,
            regions=config.pii_regions(self.settings),
        )

    @verb(RowOptions)
    def preview(
        self,
        data: Source,
        *,
        model: str,
        backend: str | Backend | None = None,
        rows: Collection[int] | None = None,
        method: AnyMethod | None = None,
        **options: Unpack[RowOptions],
    ) -> list[Preview]:
        """Return rows as the model will see them: token by token, with what is trained. Offline.

        A row with an error comes back with its findings and without tokens.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            model: Whose tokens and template.
            backend: Where the model would be trained. By default as in submit.
            rows: Line numbers, from 1. By default the first three rows.
            method: What the rows are for. By default the usual one of the first row's format.

        Raises NotFoundError for a line that is not there, SpecError for a wrong keyword.
        """
        # Imported here: only previews need templates, and jinja2 with them.
        from finetune_gateway.validation import select

        runner = self._place(model, backend)
        dataset = self.open(data, options.pop("columns", None))
        given = method or pipeline.method_of(dataset)
        training: dict[str, Any] = {"method": given, **options}
        spec = TrainingSpec.build(model=model, **training)
        methods.require(spec)
        spec, limits = runner.resolve(spec, dataset), runner.capabilities(model)
        renderer = renderer_of(runner, spec) or select.hosted_renderer(spec, limits)
        rules = rules_for(runner.name, limits.rules)
        return select.previews(dataset, renderer, rules, rows, spec.method if method else None)

    @overload
    def estimate(
        self, data: Source, *, model: str | None = None, backend: str | Backend | None = None,
        **options: Unpack[PlanOptions],
    ) -> Estimate: ...  # fmt: skip

    @overload
    def estimate(
        self, data: Source, *, model: ModelNames, backend: str | Backend | Backends | None = None,
        **options: Unpack[PlanOptions],
    ) -> list[Option]: ...  # fmt: skip

    @overload
    def estimate(
        self, data: Source, *, model: str | None = None, backend: Backends,
        **options: Unpack[PlanOptions],
    ) -> list[Option]: ...  # fmt: skip

    @verb(PlanOptions)
    def estimate(
        self,
        data: Source,
        *,
        model: str | ModelNames | None = None,
        backend: str | Backend | Backends | None = None,
        **options: Unpack[PlanOptions],
    ) -> Estimate | list[Option]:
        """Return what a run would cost, how long it would take and whether it fits. Offline.

        A list of models, of backends, or both, returns a list of Option: every model on every
        backend, each with its ``estimate`` or the ``error`` that says why there is none.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            model: Base model to train, or a list of them; with continue_from, that of the job.
            backend: Where to train it, or a list of places. By default as in submit.

        Raises SpecError, UnsupportedError, NotFoundError; for one model on one backend also
        DataError, with the report, for data that the backend would refuse.
        """
        if model is None or isinstance(model, str):
            model = self.model_to_train(model, options)
            if backend is None or isinstance(backend, str | Backend):
                return self.plan(data, model=model, backend=backend, **options).estimate
        models = listed(model, str, "model")
        places = listed(backend, str | Backend | None, "backend")
        if not models or not places:
            raise SpecError("There is nothing to estimate.", hint="Name a model and a backend.")
        return self.options(data, [(one, place) for one in models for place in places], **options)

    @verb(PlanOptions)
    def options(
        self,
        data: Source,
        pairs: Sequence[tuple[str, str | Backend | None]],
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[PlanOptions],
    ) -> list[Option]:
        """Return an Option for each pair of a model and a backend, in as few passes over the data
        as there are ways to count it. Offline.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            pairs: Models, each with its backend; None is the place where submit trains it.
            on_progress: Called now and then with the bytes read and the bytes there are.

        What is wrong with one pair is the ``error`` of its Option. What is wrong with the call is
        raised: NotFoundError for a file, SpecError for a keyword.
        """
        _check_pairs(pairs)
        columns, validation = options.pop("columns", None), options.pop("validation", None)
        price, share = options.pop("train_price", None), options.pop("validation_split", None)
        bases = [(self.model_to_train(model, options), backend) for model, backend in pairs]
        training: dict[str, Any] = {**options}
        specs = [
            (_backend_for(backend, model), TrainingSpec.build(model=model, **training))
            for model, backend in bases
        ]
        seed, spool, usd = specs[0][1].seed if specs else None, self.settings.spool, _usd(price)
        files = Files.open(data, validation, spool, columns=columns).split(share, seed, spool)
        return planning.side_by_side(specs, self.backend, files, usd, on_progress)

    @verb(PlanOptions)
    def plan(
        self,
        data: Source,
        *,
        model: str | None = None,
        backend: str | Backend | None = None,
        **options: Unpack[PlanOptions],
    ) -> Plan:
        """Return everything that submit knows before it writes a job down: reports on the data,
        tokens, the estimate. Offline.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            model: Base model to train; with continue_from, that of the job.
            backend: Where to train it. By default as in submit.

        Raises SpecError, UnsupportedError, NotFoundError, DataError with a report of lines.
        """
        return self._plan(data, self.model_to_train(model, options), backend, None, options)

    # -- submit --------------------------------------------------------------------------

    @verb(StartOptions)
    def submit(
        self,
        data: Source,
        *,
        model: str | None = None,
        backend: str | Backend | None = None,
        max_cost_usd: Money | None = None,
        confirm: Callable[[Plan], bool] | None = None,
        allow_pii: bool = False,
        allow_secrets: bool = False,
        allow_loss: bool = False,
        allow_longer: bool = False,
        allow_oversize: bool = False,
        again: bool = False,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[StartOptions],
    ) -> Job:
        """Copy the data, validate and price the copy, write the job down, start it and return it.

        The same submit twice returns the same job, also after it has succeeded. All jobs of a month
        together stay below its budget, whatever submits at the same time.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            model: Base model to train; with continue_from, that of the job.
            backend: Where to train it: a name (ftg backends) or an object, such as
                OpenAIBackend(base_url=...). By default a folder, owner/name and builtin/tiny are
                trained here, other names at OpenAI.
            max_cost_usd: Refuse when the high estimate is above this, or no price is known.
            confirm: Called with the Plan before anything is sent; False refuses.
            allow_pii: Send personal data that was found to a hosted backend.
            allow_secrets: Send keys and passwords that were found to a hosted backend.
            allow_loss: Train rows of which the model's chat template drops a part.
            allow_longer: Train rows that are longer than the model's context (max_length).
            allow_oversize: Start what needs more memory than there is, by the estimate.
            metadata: Your own pairs of key and text, at most 15; no part of what makes two submits
                the same. Sent to hosts that take them, shown and kept: never a secret.
            again: Start a new job even if the same one is running or has succeeded.

        Raises DataError (PrivateDataError: for private data that is not allowed), SpecError,
        UnsupportedError, NotFoundError, BudgetError before anything is sent, and BackendError when
        the backend refuses. When it is not known whether the backend received the job, it is
        returned unconfirmed; ``wait`` settles that.
        """
        chances = {"loss": allow_loss, "longer": allow_longer, "oversize": allow_oversize}
        private = {"pii": allow_pii, "secrets": allow_secrets}
        for name, value in (chances | private).items():
            require_bool(f"allow_{name}", value)
        require_bool("again", again)
        tags = check_metadata(metadata)
        waits = options.pop("priority", None), options.pop("after", None), options.pop("at", None)
        named = any(one is not None for one in waits)
        schedule = scheduling.schedule_of(self.store, *waits) if named else Schedule()
        data = self.settle_latest(data, model, backend, options, again=again)
        if not model or options.get("continue_from"):
            model = self.model_to_train(model, options)
        if backend is None and "openai" not in self._backends.configured:
            registry.refuse_unknown(model)
        with planning.copies_folder(self.settings) as folder:
            plan = self._plan(data, model, backend, folder, options)
            limits = plan.backend.capabilities(plan.spec.model)
            limits.require_metadata(plan.backend.display_name, tags)
            limits.require_schedule(plan.backend.display_name, schedule)
            plan.backend.check(plan.spec)
            permits.require_chances_allowed(plan, **chances)
            allowed = permits.require_private_data_allowed(plan, **private)
            limit = config.current_value(self.settings, "budget.job_usd", max_cost_usd).usd
            if plan.estimate.cost_usd is not None or not plan.backend.gives_quotes:
                require_within(plan.estimate, limit)
            intent = planning.intent(
                plan, self.settings.files, again=again, metadata=tags, allowed=allowed,
                max_cost_usd=limit, schedule=schedule,
            )  # fmt: skip
            record = self._submitter.equal(intent, plan.backend)
            keep = partial(planning.keep, plan, self.settings.files, record)
            if record is None:
                plan.require_confirmed(confirm)
                registry.remember(plan.backend, self.settings, intent.backend_options)
                record = self._submitter.submit(intent, plan.backend, keep)
            else:  # nothing to pay, so nothing to ask
                registry.remember(plan.backend, self.settings, intent.backend_options)
                record = self._submitter.rejoin(record, intent, plan.backend, keep)
        self._backends.keep(plan.backend)
        return self._job(record, plan.backend)

    def _plan(
        self, data: Source, model: str, backend: str | Backend | None, copies: Path | None,
        options: PlanOptions,
    ) -> Plan:  # fmt: skip
        """Return the plan of a job: of copies of its files in the folder ``copies``, if given."""
        validation, price = options.pop("validation", None), options.pop("train_price", None)
        share, columns = options.pop("validation_split", None), options.pop("columns", None)
        training: dict[str, Any] = {**options}
        spec = TrainingSpec.build(model=model, **training)
        place, priced = self._place(spec.model, backend), price is not None
        candidate = Candidate.of(spec, place, priced=priced)
        folder = copies or self.settings.spool
        files = Files.open(data, validation, folder, copy=bool(copies), columns=columns)
        files = files.split(share, spec.seed, folder, copy=bool(copies))
        checks = FileChecks(regions=config.pii_regions(self.settings))
        plan = planning.plan(candidate, files, checks, _usd(price))
        if copies is None:
            return plan
        return planning.with_earlier(planning.with_sent_files(plan, copies), copies, self.store)

    # -- jobs: see also HomeJobs ---------------------------------------------------------

    def jobs(
        self,
        *,
        status: str | None = None,
        backend: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Return jobs, newest first, as they were last stored. Asks no backend.

        Arguments:
            status: Only jobs with this status, like 'running'.
            backend: Only jobs of this backend, by its name. Hosts of OpenAI's contract that have
                no name of their own count as 'openai'.
            metadata: Only jobs that have all of these pairs among theirs.
            limit: At most so many.

        Raises SpecError for a status that does not exist.
        """
        if status is not None and (not isinstance(status, str) or status not in list(JobStatus)):
            known = ", ".join(JobStatus)
            raise SpecError(f"There is no status {shown(status)}.", hint=f"Use one of: {known}.")
        if backend is not None and not isinstance(backend, str):
            raise SpecError(f"backend is a name here, not {shown(backend)}.", hint="Like 'openai'.")
        limit = None if limit is None else whole_number(limit, "limit")
        tags = check_metadata(metadata)
        records = self.store.jobs(status=status, backend=backend, metadata=tags, limit=limit)
        return [self._job(record) for record in records]

    def open(
        self, data: Source, columns: Mapping[str, str] | None = None, *, required: bool = True
    ) -> Dataset:
        """Return a dataset from a path or from rows in memory, its ``columns`` read as these keys;
        unless ``required``, a file that has none of them is read as it is."""
        dataset = Dataset.open(data, spool=self.settings.spool)
        if columns is None:
            return dataset
        return mapped(dataset, columns, spool=self.settings.spool, required=required)

    def backend(self, backend: str | Backend) -> Backend:
        """Return a backend by name, or the one you built, bound to this Gateway: a copy of one that
        another Gateway uses."""
        require_backend(backend)
        return self._backends.get(backend)

    def _own_hosts(self) -> tuple[OpenAIBackend, ...]:
        if not self._backends.configured:
            return ()
        # Imported here: it brings the SDK of hosts.
        from finetune_gateway.backends.openai.backend import OpenAIBackend

        return tuple(one for one in self._backends.named() if isinstance(one, OpenAIBackend))

    def _place(self, model: str, backend: str | Backend | None) -> Backend:
        """Return the backend that was named, or the one where this model is trained by default."""
        return self.backend(_backend_for(backend, model))


def _backend_for(backend: str | Backend | None, model: str) -> str | Backend:
    """Return the backend that was named, or where this model is trained by default."""
    if backend is None:
        return registry.default_backend(model)
    require_backend(backend)
    return backend


def _check_pairs(pairs: object) -> None:
    """Raise SpecError for what is no list of models, each with its backend."""
    listed = pairs if isinstance(pairs, Sequence) else [pairs]
    for one in listed:
        if not isinstance(one, tuple | list) or len(one) != 2:
            raise SpecError(
                f"pairs is a list of models with their backends: {shown(one)} is none.",
                hint="Like [('Qwen/Qwen3-4B', 'local'), ('gpt-4.1-mini-2025-04-14', None)].",
            )


def _usd(train_price: Money | None) -> Decimal | None:
    return None if train_price is None else parse_usd(train_price, "train_price")
