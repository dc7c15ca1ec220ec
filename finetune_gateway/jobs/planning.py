"""Plan a job before anything is sent: check, count and price its files, for one option or for
several side by side.

Options that count alike share one pass over a file: OpenAI and Azure with four models need one, a
local model with its own template another. Sends nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backend import Backend, Capabilities
from finetune_gateway.data import formats
from finetune_gateway.data.canonical import as_sent
from finetune_gateway.data.dataset import Dataset, SharedSystemPrompt, Source
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    GatewayError,
    NotFoundError,
    SpecError,
)
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.hosted import at_train_price
from finetune_gateway.findings import Report
from finetune_gateway.jobs import records
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.preparation import split as splitting
from finetune_gateway.renderers import Shown
from finetune_gateway.settings import files as disk
from finetune_gateway.settings.files import private_folder, remove_old_temporaries, storing, sync
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.spool import new_folder
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.text.pii import Regions
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.stats import TokenStats
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.collector import rules_for
from finetune_gateway.validation.dataset import analysis
from finetune_gateway.validation.dataset.statistics import CountedDefect
from finetune_gateway.validation.file_bytes import HEAD, file_defect
from finetune_gateway.validation.rules import Family

_DAY = 24 * 3600.0

ModelNames = list[str] | tuple[str, ...]
Backends = ModelNames | list[Backend] | tuple[Backend, ...] | list[str | Backend]


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Everything known about a job before anything is sent."""

    spec: TrainingSpec
    backend: Backend
    train: Dataset
    validation: Dataset | None
    reports: tuple[Report, ...]  # of the training file, then of the validation file
    tokens: TokenStats
    estimate: Estimate
    system_prompt: str | None = None  # shared by all training rows
    # Of a submit: the files as they will be sent, in a folder that is removed afterwards.
    sent: tuple[StoredFile, ...] = ()

    def require_confirmed(self, confirm: Callable[[Plan], bool] | None) -> None:
        """Raise BudgetError if a person is to be asked and does not agree."""
        if confirm is not None and not confirm(self):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")


@dataclass(frozen=True, repr=False)
class Option(Shown):
    """One model on one backend, beside others. It has either an ``estimate``, or the ``error`` that
    says why there is none."""

    backend: str
    model: str
    estimate: Estimate | None = None
    error: GatewayError | None = None

    def document(self) -> dict[str, Any]:
        """Return plain JSON: the estimate's own fields, or ``backend``, ``model`` and ``error``."""
        if self.estimate is not None:
            return self.estimate.model_dump(mode="json")
        assert self.error is not None  # for the type checker: one of the two
        error = {
            "type": type(self.error).__name__,
            "message": self.error.message,
            "hint": self.error.hint,
        }
        return {"backend": self.backend, "model": self.model, "error": error}


OnProgress = Callable[[int, int], None]  # called with the bytes read so far, and the total


@dataclass(frozen=True)
class Files:
    """The files of a job."""

    train: Dataset
    held_out: Dataset | None = None

    @classmethod
    def open(
        cls, data: Source, validation: Source | None, folder: Path, *, copy: bool = False
    ) -> Files:
        """Return the files of these data. Rows that are not JSON lines are written for a while
        below ``folder``, the spool; with ``copy`` all files are written to ``folder``, to stay."""
        given = [data] if validation is None else [data, validation]
        if not copy:
            return cls(*(Dataset.open(one, spool=folder) for one in given))
        datasets = [Dataset.open(one, folder=folder) for one in given]
        return cls(*(_copied(one, folder) for one in datasets))

    def split(
        self, ratio: float | None, seed: int | None, folder: Path, *, copy: bool = False
    ) -> Files:
        """Return files with this share of the rows held out, written as ``open`` does."""
        if ratio is None:
            return self
        if self.held_out is not None:
            raise SpecError("validation and validation_split exclude each other.", hint="Drop one.")
        made = disk.folder(folder) if copy else new_folder(folder)
        parts = splitting.split(self.train, ratio, seed=seed or 0, folder=made, private=True)
        return Files(*(part if copy else part.for_a_while() for part in parts))


def _copied(dataset: Dataset, folder: Path) -> Dataset:
    """Return a copy in ``folder``: the dataset itself if it was written there just now."""
    return dataset if dataset.path.parent == folder else dataset.copied(folder, _is_no_text)


def _is_no_text(head: bytes) -> bool:
    """Return True if the check refuses a file for its first bytes, so that the rest is not read."""
    return file_defect(head[:HEAD]) is not None


@dataclass(frozen=True)
class Candidate:
    """A spec on a backend, before any file is read."""

    spec: TrainingSpec
    backend: Backend
    limits: Capabilities

    @classmethod
    def of(cls, spec: TrainingSpec, backend: Backend, *, priced: bool = False) -> Candidate:
        """Return the candidate. Raises UnsupportedError for what the backend cannot do, and
        NotFoundError for a model that it certainly lacks, unless the user has ``priced`` it."""
        limits = backend.capabilities(spec.model)
        limits.require(backend.display_name, spec)
        if limits.unknown_model_reason and not (priced and limits.hosted):
            raise NotFoundError(limits.unknown_model_reason, hint="See: ftg models --all")
        return cls(spec, backend, limits)

    @property
    def rules(self) -> Mapping[str, Family]:
        """The backend, with the family of rules that counts for it."""
        return rules_for(self.backend.display_name, hosted=self.limits.hosted)


@dataclass(frozen=True)
class FileCheck:
    """The result of one pass over a file, and the limit of tokens it was made with."""

    report: Report
    tokens: TokenStats
    limit: int | None
    all_fit: bool  # no row reached the limit, so a higher one would have changed nothing
    system_prompt: str | None = None  # shared by all rows

    def holds_for(self, limit: int | None) -> bool:
        """Return True if a pass with this limit would give the same result."""
        if limit == self.limit:
            return True
        higher = self.limit is not None and (limit is None or limit > self.limit)
        return higher and self.all_fit


@dataclass
class FileChecks:
    """Checks of files, each made once. ``shared``: several options use them, so nothing in a
    report may be about one model. ``regions``: see ``validation.run``."""

    shared: bool = False
    on_progress: OnProgress | None = None
    regions: Regions | None = None
    _checks: dict[tuple[Path, str, str, str], list[FileCheck]] = field(default_factory=dict)
    _leaks: dict[tuple[Path, Path], list[CountedDefect]] = field(default_factory=dict)

    def check(self, candidate: Candidate, dataset: Dataset, min_rows: int | None) -> FileCheck:
        """Check and count a file as this option would."""
        counter = candidate.backend.counter(candidate.spec)
        if type(counter) is not HostedCounter:
            return self._run(candidate, dataset, min_rows, counter)
        key = (dataset.path, candidate.backend.name, candidate.spec.method, counter.text.family)
        checks = self._checks.setdefault(key, [])
        check = next((one for one in checks if one.holds_for(candidate.limits.max_context)), None)
        if check is None:
            check = self._run(candidate, dataset, min_rows, counter)
            checks.append(check)
        tokens = check.tokens.model_copy(update={"encoding": counter.encoding})
        report = _for_backend(check.report, candidate.backend.display_name)
        report = report.model_copy(update={"tokens": tokens.summary()})
        return FileCheck(report, tokens, check.limit, check.all_fit, check.system_prompt)

    def with_leaks(self, candidate: Candidate, report: Report, files: Files) -> Report:
        """Return the report with the training rows that are also in the held-out data."""
        if files.held_out is None:
            return report
        key = (files.train.path, files.held_out.path)
        if key not in self._leaks:
            self._leaks[key] = analysis.find_leaks(files.train, files.held_out)
        return analysis.with_leaks(report, self._leaks[key], candidate.rules)

    def _run(
        self, candidate: Candidate, dataset: Dataset, min_rows: int | None, counter: TokenCounter
    ) -> FileCheck:
        limit, prompt = candidate.limits.max_context, SharedSystemPrompt()
        report = validation_run.validate(
            dataset,
            method=candidate.spec.method,
            model=None if self.shared else candidate.spec.model,
            backends=candidate.rules,
            counter=counter,
            max_context=limit,
            min_rows=min_rows,
            on_progress=self.on_progress,
            system_prompt=prompt,
            regions=self.regions,
        )
        tokens = counter.stats()
        too_long = any(finding.code == "example_too_long" for finding in report.findings)
        cut = too_long or counter.totals().truncated or tokens.truncated_rows > 0
        return FileCheck(report, tokens, limit, not cut, prompt.text)


def _for_backend(report: Report, name: str) -> Report:
    """Return a report as that of another backend, whose rules are the same."""
    findings = [
        finding.model_copy(update={"backends": [name] if finding.backends else []})
        for finding in report.findings
    ]
    return report.model_copy(update={"findings": findings})


def plan(
    candidate: Candidate, files: Files, checks: FileChecks, train_price: Decimal | None = None
) -> Plan:
    """Check, count and price one option. Raises SpecError, and DataError with a report of lines and
    fixes."""
    backend = candidate.backend
    backend.check_model(candidate.spec)
    spec = backend.resolve(candidate.spec, files.train)
    candidate = replace(candidate, spec=spec)
    train = checks.check(candidate, files.train, None)
    train.report.raise_for_errors()
    reports, held_out = [train.report], None
    if files.held_out:
        held_out = checks.check(candidate, files.held_out, 1)
        held_out.report.raise_for_errors()
        reports = [checks.with_leaks(candidate, train.report, files), held_out.report]
    estimate = backend.estimate(spec, train.tokens, held_out.tokens if held_out else None)
    if train_price is not None:
        estimate = at_train_price(estimate, train_price)
    return Plan(
        spec, backend, files.train, files.held_out, tuple(reports), train.tokens, estimate,
        train.system_prompt,
    )  # fmt: skip


def side_by_side(
    pairs: Sequence[tuple[str | Backend, TrainingSpec]],
    load: Callable[[str | Backend], Backend],
    files: Files,
    *,
    train_price: Decimal | None = None,
    on_progress: OnProgress | None = None,
) -> list[Option]:
    """Return an option for each pair of backend and spec, in their order. An error takes the place
    of its option and leaves the others."""
    checks = FileChecks(shared=len(pairs) > 1, on_progress=on_progress)
    options: dict[int, Option] = {}
    candidates: dict[int, Candidate] = {}
    for index, (backend, spec) in enumerate(pairs):
        try:
            candidates[index] = Candidate.of(spec, load(backend), priced=train_price is not None)
        except Exception as exc:  # whatever a plug-in raises: the other options still have figures
            options[index] = Option(_name(backend), spec.model, error=_as_ours(backend, exc))
    for index in _smallest_first(candidates):
        backend, spec = pairs[index]
        by_tokens = not checks.shared or candidates[index].limits.hosted
        try:
            planned = plan(candidates[index], files, checks, train_price if by_tokens else None)
            options[index] = Option(_name(backend), spec.model, estimate=planned.estimate)
        except Exception as exc:  # as above
            options[index] = Option(_name(backend), spec.model, error=_as_ours(backend, exc))
    return [options[index] for index in range(len(pairs))]


def _smallest_first(candidates: dict[int, Candidate]) -> list[int]:
    """Return the indices by limit of tokens: a pass with the smallest often holds for others."""
    limits = {index: candidate.limits.max_context for index, candidate in candidates.items()}
    return sorted(candidates, key=lambda index: (limits[index] is None, limits[index] or 0))


def _as_ours(backend: str | Backend, exc: Exception) -> GatewayError:
    """Return the error as one of ours; a plug-in may have raised anything."""
    if isinstance(exc, GatewayError):
        return exc
    message = f"Backend {_name(backend)!r} broke: {type(exc).__name__}: {exc}."
    error = BackendError(message, hint="Report it to its author.", backend=_name(backend))
    error.__cause__ = exc
    return error


def _name(backend: str | Backend) -> str:
    if isinstance(backend, str):
        return backend
    return records.display_name(backend.name, backend.options())


# -- from the plan to the job ------------------------------------------------------------


@contextmanager
def copies_folder(settings: Settings) -> Iterator[Path]:
    """Yield a private folder for the copies of one submit: what is checked, and what is sent. It is
    removed at the end, and those of killed processes first. Raises StoreError."""
    settings.create()
    remove_old_temporaries(settings.files, _DAY)  # of earlier versions
    with ExitStack() as stack:
        with storing("No copy can be made", settings.files):
            made = private_folder(settings.files, settings.locks, "submit")
            folder = stack.enter_context(made)
        yield folder


def with_sent_files(plan: Plan, folder: Path) -> Plan:
    """Return the plan of checked copies with the files as they will be sent, in ``folder``: the
    copies themselves, or one canonical row for each of their rows."""
    checked = [plan.train, *([plan.validation] if plan.validation else [])]
    sent = [
        _sent_file(dataset, report, folder)
        for dataset, report in zip(checked, plan.reports, strict=True)
    ]
    return replace(plan, sent=tuple(sent))


def _sent_file(dataset: Dataset, report: Report, folder: Path) -> StoredFile:
    unchanged = report.format in {one.name for one in formats.SENT_UNCHANGED}
    sent = dataset if unchanged else dataset.rewritten(folder, as_sent)
    assert sent.sha256 is not None  # for the type checker: it is a copy
    return StoredFile(path=str(sent.path), sha256=sent.sha256, rows=report.rows, bytes=sent.size)


def intent(
    plan: Plan,
    folder: Path,
    *,
    again: bool = False,
    metadata: dict[str, str] | None = None,
    allowed: dict[str, int] | None = None,
) -> JobRecord:
    """Return the row of a job, not yet stored, whose files ``keep`` will put in ``folder``.

    Equal plans have the same ``submit_key``, unless ``again``, and whatever their ``metadata``.
    ``allowed``: the private data that it may send.
    Raises StoreError if the files cannot be put on the disk.
    """
    with storing("The data cannot be kept", folder):
        for file in plan.sent:
            sync(Path(file.path))
    train, *others = [
        file.model_copy(update={"path": str(folder / f"{file.sha256}.jsonl")}) for file in plan.sent
    ]
    validation = others[0] if others else None
    options, place = plan.backend.options(), plan.backend.identity()
    variable = {name: options[name] for name in ("api_key_env",) if name in options}
    work = [train.sha256, validation.sha256 if validation else None, plan.spec.canonical()]
    if plan.spec.chat_template:  # an edited file makes another job
        work.append(_content_hash(plan.spec.chat_template))
    nonce = records.new_job_id() if again else None
    now = time.time()
    return JobRecord(
        id=records.new_job_id(),
        created_at=now,
        name=encodable(plan.train.name),
        backend=plan.backend.name,
        backend_options=options,
        hosted=plan.backend.capabilities().hosted,
        spec=plan.spec,
        train=train,
        validation=validation,
        system_prompt=plan.system_prompt,
        estimate=plan.estimate.model_dump(mode="json"),
        metadata=metadata or {},
        allowed=allowed or {},
        submit_key=_hash([*work, plan.backend.name, place, nonce]),
        old_submit_key=_hash([*work, plan.backend.name, place | variable, nonce]),
        step_at=now,
    )


def _hash(identity: list[Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _content_hash(path: str) -> str:
    """Return the sha256 of a file that the spec names. Raises NotFoundError."""
    try:
        return disk.sha256_of(path)
    except OSError as exc:
        raise NotFoundError(
            f"{path} cannot be read: {exc.strerror or exc}.", hint="Was it moved just now?"
        ) from None


def keep(plan: Plan, folder: Path) -> None:
    """Move the files of a plan into ``folder``: before the job is stored that names them, and only
    then. Raises StoreError."""
    with storing("The data cannot be kept", folder):
        for path, sha256 in {(file.path, file.sha256) for file in plan.sent}:
            os.replace(path, folder / f"{sha256}.jsonl")
        sync(folder)
