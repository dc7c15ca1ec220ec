"""The part of a Gateway that weighs things up: what to do with data, which model is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.backend import Backend
from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.findings import Report
from finetune_gateway.jobs.file_checks import OnProgress
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Option
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.keywords import Money, listed, require_bool, verb
from finetune_gateway.model import exact_methods
from finetune_gateway.settings.arguments import list_of, mapping_of, several
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import parse_usd

if TYPE_CHECKING:
    # The type checker alone: only a call needs them.
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.evaluation.advice.advice import Advice
    from finetune_gateway.evaluation.checks import Guide
    from finetune_gateway.evaluation.comparing import ComparePlan
    from finetune_gateway.evaluation.comparison import Comparison
    from finetune_gateway.migration.outcome import Migration
    from finetune_gateway.migration.running import MigrationPlan

OnAsked = Callable[[int, int, str], object]  # called with requests done, all of them, the model
OnWait = Callable[[float, str], object]


@exact_methods
class HomeEvaluations(ABC):
    """What a Gateway does with data and models beside jobs."""

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """The home folder."""

    @property
    @abstractmethod
    def store(self) -> Store:
        """Where the jobs are kept."""

    @property
    @abstractmethod
    def monthly_usd(self) -> Decimal | None:
        """What may be spent in a month."""

    @abstractmethod
    def open(
        self, data: Source, columns: Mapping[str, str] | None = None, *, required: bool = True
    ) -> Dataset:
        """Return a dataset from a path or from rows in memory, its columns read as these keys."""

    @abstractmethod
    def submit(self, *args: Any, **options: Any) -> Job:
        """Copy, check and price the data, and start a job."""

    @abstractmethod
    def validate(self, *args: Any, **options: Any) -> Report:
        """Check a dataset and return the report."""

    @abstractmethod
    def _own_hosts(self) -> tuple[OpenAIBackend, ...]:
        """Return the hosts that this Gateway was given by name."""

    @abstractmethod
    def _backend_of(self, record: JobRecord) -> Backend:
        """Return the backend of a stored job, with a key of its account."""

    @abstractmethod
    def options(self, *args: Any, **options: Any) -> list[Option]:
        """Return an Option for each pair of a model and a backend."""

    @verb()
    def advise(
        self,
        data: Source,
        *,
        preferences: Source | None = None,
        columns: Mapping[str, str] | None = None,
        comparison: str | None = None,
        model: str | Sequence[str] | None = None,
        backend: str | Sequence[str] | None = None,
        private: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Advice:
        """Return what to do with a data set: prompt first, retrieval, or fine-tuning; by which
        method; whether the rows are enough; hosted or local. It says when it can't tell. Offline.

        Arguments:
            data: Path or URL of a file, open file, bytes, rows in memory, or a Dataset.
            preferences: Preference pairs that you have beside the data.
            columns: Columns of the data, by the key that each is read as:
                ``{"question": "prompt"}``.
            comparison: Id of a comparison. By default the newest of these rows, if there is one.
            model: Bases to estimate, one or several. By default one that hosts have and one for
                this machine.
            backend: Places to estimate, one or several.
            private: The data must not leave this machine.
            on_progress: Called now and then with the bytes read and the bytes there are.

        Raises NotFoundError for a file or a comparison, SpecError for a wrong keyword.
        """
        # Imported here: only advice needs it.
        from finetune_gateway.evaluation.advice import advising

        require_bool("private", private)
        return advising.advise(
            self.open(data, columns),
            None if preferences is None else self.open(preferences, columns, required=False),
            self.settings,
            comparison=comparison,
            models=[] if model is None else listed(model, str, "model"),
            backends=[] if backend is None else listed(backend, str, "backend"),
            private=private,
            validate=lambda rows, method: self.validate(
                rows,
                method=method,
                quality=advising.whole_data(rows),
                on_progress=on_progress,
            ),
            estimate=lambda rows, pairs, method: self.options(rows, pairs, method=method),
        )

    @verb()
    def compare(
        self,
        models: Sequence[Any],
        data: Source | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        checks: str | Path | Guide | None = None,
        code: Sequence[str | Path] = (),
        judge: Any = None,
        by: str | None = None,
        rows: int | None = None,
        seed: int = 0,
        samples: int = 1,
        temperature: float | str | None = None,
        max_tokens: int | None = None,
        at_once: int = 16,
        max_cost_usd: Money | None = None,
        monthly_requests: int | None = None,
        examples: Source | None = None,
        backends: Sequence[OpenAIBackend] = (),
        key_envs: Mapping[str, str] | None = None,
        allow_http: bool = False,
        allow_pii: bool = False,
        allow_secrets: bool = False,
        confirm: Callable[[ComparePlan], bool] | None = None,
        on_progress: OnAsked | None = None,
        on_wait: OnWait | None = None,
        command: str = "",
    ) -> Comparison:
        """Ask models the same rows, measure what they answer, and say which is better as far as
        one can tell. The same call again asks nothing that was answered.

        Arguments:
            models: Names (``JOB[@STEP]``, a handle's file, ``ft:...``, ``base:NAME``,
                ``prompt:NAME``, ``few-shot:N:NAME``, ``http(s)://HOST/v1#MODEL``,
                ``recorded:NAME``), or handles, jobs, recordings and objects with ``chat``.
            data: Held-out rows. By default those that the training of a job has held out.
            columns: Columns of the data, by the key that each is read as:
                {'question': 'prompt', 'answer': 'completion'}.
            checks: A behaviour guide: its file, or a Guide.
            code: Files of Python whose functions the guide may run.
            judge: A model that says which of two answers is better; any of the above.
            by: The measure that decides; by default the checks, else the judge, else what the
                references allow.
            rows: At most so many rows, drawn by content and seed.
            seed: Draws rows, examples and the order of the judge.
            samples: Answers to each row; above 1 at the host's own temperature.
            temperature: 0 by default; 'host' for the host's own.
            max_tokens: Of an answer, 1024 by default.
            at_once: Requests on their way to one host at the same time.
            max_cost_usd: For all hosts together; asking stops when the next request could pass it.
            monthly_requests: The volume that serving is priced for, 10,000 by default.
            examples: Training rows for ``few-shot``; by default those of the first job.
            backends: Hosts that you have built, for the models that are there. By default those
                that this Gateway was given.
            key_envs: Names of the variables with keys, by host.
            allow_http: Ask hosts by http:// too.
            allow_pii: Send personal data that was found to hosts.
            allow_secrets: Send keys and passwords that were found to hosts.
            confirm: Called with a ComparePlan before anything is sent; False refuses.
            on_progress: Called with the requests done, all of them, and the model.
            on_wait: Called with seconds before a wait that a host asks for, and why.
            command: That repeats it, for the report.

        Raises SpecError, NotFoundError, DataError (PrivateDataError), BudgetError before anything
        is sent; BackendError if a host ends it early: what was answered is kept.
        """
        # Imported here: it brings the SDK of hosts.
        from finetune_gateway.backends.openai.backend import OpenAIBackend
        from finetune_gateway.evaluation import comparing

        request = comparing.Request(
            models=several(models, "models"),
            data=data if columns is None or data is None else self.open(data, columns),
            checks=checks,
            code=several(code, "code"),
            judge=judge,
            by=by,
            rows=rows,
            seed=seed,
            samples=samples,
            temperature=temperature,
            max_tokens=max_tokens,
            max_cost_usd=max_cost_usd,
            monthly_usd=self.monthly_usd,
            monthly_requests=monthly_requests,
            examples=examples,
            backends=tuple(list_of(backends, OpenAIBackend, "backends")) or self._own_hosts(),
            own=self._backend_of,
            key_envs=mapping_of(key_envs, "key_envs"),
            allow_http=allow_http,
            allow_pii=allow_pii,
            allow_secrets=allow_secrets,
            command=command,
        )
        how = comparing.How(at_once, confirm, on_progress, on_wait)
        return comparing.compare(self.store, request, how)

    @verb()
    def migrate(
        self,
        model: str,
        to: str,
        *,
        at_least: Mapping[str, float] | None = None,
        at_most: Mapping[str, float] | None = None,
        max_drop: Mapping[str, float] | None = None,
        against: str | None = None,
        data: Source | None = None,
        checks: str | Path | Guide | None = None,
        code: Sequence[str | Path] = (),
        max_tokens: int | None = None,
        max_cost_usd: Money | None = None,
        to_options: Mapping[str, Any] | None = None,
        backends: Sequence[OpenAIBackend] = (),
        allow_pii: bool = False,
        allow_secrets: bool = False,
        allow_loss: bool = False,
        allow_longer: bool = False,
        allow_oversize: bool = False,
        confirm: Callable[[MigrationPlan], bool] | None = None,
        dry_run: bool = False,
        wait: Callable[[Job], object] | None = None,
        on_progress: OnAsked | None = None,
        on_wait: OnWait | None = None,
        command: str = "",
    ) -> Migration:
        """Train a fetched fine-tune again at another place, compare the new model with the old one,
        and decide: go or no-go. The same call again trains and asks nothing twice.

        Arguments:
            model: Id of a fine-tune that was fetched, or of its job.
            to: A local model, ``azure``, or ``HOST:BASE``.
            at_least: What the new model must reach, by measure; the whole interval counts.
            at_most: The same, of measures of which less is better.
            max_drop: How much worse than the old model it may be, by measure.
            against: ``recorded:NAME``, or ``live``. By default the newest recording of the model.
            data: Rows to compare on, where there is no recording.
            checks: A behaviour guide: its file, or a Guide.
            code: Files of Python whose functions the guide may run.
            max_tokens: Of an answer, 1024 by default.
            max_cost_usd: For training and asking together.
            to_options: Of a host there: ``base_url``, ``api_key_env``, ...
            backends: The host of the fine-tune, with a key each; by default those that fetched it.
            allow_pii: Send personal data that was found to hosts.
            allow_secrets: Send keys and passwords that were found to hosts.
            allow_loss: Train rows of which a template drops a part.
            allow_longer: Train rows that are longer than the context.
            allow_oversize: Start what needs more memory than there is, by the estimate.
            confirm: Called with a MigrationPlan before anything is sent; False refuses.
            dry_run: Call ``confirm`` even if the job is there; it is to raise.
            wait: Returns when the job that it is called with has ended.
            on_progress: Called with the requests done, all of them, and the model.
            on_wait: Called with seconds before a wait that a host asks for, and why.
            command: That repeats it, for the report.

        Raises what ``submit`` and ``compare`` raise; SpecError without a threshold.
        """
        # Imported here: it brings the SDK of hosts.
        from finetune_gateway.backends.openai.backend import OpenAIBackend
        from finetune_gateway.evaluation.thresholds import thresholds_of
        from finetune_gateway.migration import running

        limit = None if max_cost_usd is None else parse_usd(max_cost_usd, "max_cost_usd")
        allowed = {
            "allow_pii": allow_pii,
            "allow_secrets": allow_secrets,
            "allow_loss": allow_loss,
            "allow_longer": allow_longer,
            "allow_oversize": allow_oversize,
        }
        wanted = running.Wanted(
            model=model,
            to=to,
            thresholds=thresholds_of(at_least, at_most, max_drop),
            against=against,
            data=data,
            to_options=mapping_of(to_options, "to_options"),
            backends=tuple(list_of(backends, OpenAIBackend, "backends")),
            checks=checks,
            code=several(code, "code"),
            max_tokens=max_tokens,
            max_cost_usd=limit,
            monthly_usd=self.monthly_usd,
            allowed=allowed,
            dry_run=dry_run,
            command=command,
        )
        followed = running.Followed(confirm, wait or Job.wait, on_progress, on_wait)
        return running.run(wanted, self.store, self.submit, followed)

    def comparison(self, name: str = "latest") -> Comparison:
        """Return a comparison that was kept, by its id or the beginning of it. Raises
        NotFoundError."""
        from finetune_gateway.evaluation.comparison import Comparison

        return Comparison.at(self.settings, name)

    def comparisons(self) -> list[Comparison]:
        """Return all comparisons of this home, newest first."""
        from finetune_gateway.evaluation.comparison import Comparison, ids

        return [Comparison.at(self.settings, name) for name in reversed(ids(self.settings))]
