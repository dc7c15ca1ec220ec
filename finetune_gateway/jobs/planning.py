"""What a job would take, before anything is sent: its files checked, counted and priced, for one
option or for several side by side.

Options that count alike share one pass over a file: OpenAI and Azure on four models are one, a
local model with its own template is another. Knows backends by their calls; sends nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backend import Backend, Capabilities
from finetune_gateway.data import formats
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.sharegpt import ConversionError
from finetune_gateway.errors import BackendError, DataError, GatewayError, NotFoundError, SpecError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.hosted import at_train_price
from finetune_gateway.findings import Report
from finetune_gateway.jobs import records
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.preparation import split as splitting
from finetune_gateway.renderers import Shown
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.stats import TokenStats
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.dataset import analysis
from finetune_gateway.validation.dataset.statistics import CountedDefect

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

    def require_no_private_data(self) -> None:
        """Raise DataError when personal data or secrets would leave this machine."""
        if not self.estimate.data_leaves_machine:
            return
        host = self.estimate.host or self.estimate.backend
        for report in self.reports:
            private = [found for found in report.findings if found.code in ("pii", "secret")]
            if private:
                raise DataError(
                    f"Data that should stay here would be sent to {host}, "
                    f"line {private[0].line}: {private[0].message}",
                    hint="Remove it, train with --backend local, or pass --allow-pii.",
                    report=report,
                )


@dataclass(frozen=True, repr=False)
class Option(Shown):
    """One model on one backend, side by side with others: what a run would take, or why there
    can be none. Exactly one of ``estimate`` and ``error`` is there."""

    backend: str
    model: str
    estimate: Estimate | None = None
    error: GatewayError | None = None

    def document(self) -> dict[str, Any]:
        """As JSON: the estimate's own fields, or ``backend``, ``model`` and ``error``."""
        if self.estimate is not None:
            return self.estimate.model_dump(mode="json")
        assert self.error is not None  # for the type checker: one of the two
        told = {
            "type": type(self.error).__name__,
            "message": self.error.message,
            "hint": self.error.hint,
        }
        return {"backend": self.backend, "model": self.model, "error": told}


OnProgress = Callable[[int, int], None]  # told how many bytes were read, and of how many


@dataclass(frozen=True)
class Files:
    """What a job is given."""

    train: Dataset
    held_out: Dataset | None = None

    def split(self, ratio: float | None, seed: int | None, folder: Path) -> Files:
        """With so large a share of the rows held out, written into ``folder``."""
        if ratio is None:
            return self
        if self.held_out is not None:
            raise SpecError("validation and validation_split exclude each other.", hint="Drop one.")
        return Files(*splitting.split(self.train, ratio, seed=seed or 0, folder=folder))


@dataclass(frozen=True)
class Candidate:
    """One option before a file is looked at."""

    spec: TrainingSpec
    backend: Backend
    limits: Capabilities

    @classmethod
    def of(cls, spec: TrainingSpec, backend: Backend, *, priced: bool = False) -> Candidate:
        """Raise what needs no file: UnsupportedError for what the backend cannot do,
        NotFoundError for a model it certainly does not have, unless it was ``priced`` by the
        user."""
        limits = backend.capabilities(spec.model)
        limits.require(backend.display_name, spec)
        if limits.unknown_model_reason and not (priced and limits.hosted):
            raise NotFoundError(limits.unknown_model_reason, hint="See: ftg models --all")
        return cls(spec, backend, limits)


@dataclass(frozen=True)
class FileCheck:
    """What one pass found, and the limit it was made under."""

    report: Report
    tokens: TokenStats
    limit: int | None
    untouched: bool  # no row came near the limit: a higher one would have changed nothing

    def serves(self, limit: int | None) -> bool:
        """Whether a pass under this limit would have found the same."""
        if limit == self.limit:
            return True
        higher = self.limit is not None and (limit is None or limit > self.limit)
        return higher and self.untouched


@dataclass
class FileChecks:
    """Checks of files that were made, so that none is made twice. ``several``: options follow
    that share them, so nothing in a report may be about one model."""

    several: bool = False
    on_progress: OnProgress | None = None
    _seen: dict[tuple[Path, str, str, str], list[FileCheck]] = field(default_factory=dict)
    _shared: dict[tuple[Path, Path], list[CountedDefect]] = field(default_factory=dict)

    def look(self, candidate: Candidate, dataset: Dataset, min_rows: int | None) -> FileCheck:
        """Check and count a file as this option would."""
        counter = candidate.backend.counter(candidate.spec)
        if type(counter) is not HostedCounter:
            return self._read(candidate, dataset, min_rows, counter)
        key = (dataset.path, candidate.backend.name, candidate.spec.method, counter.text.family)
        seen = self._seen.setdefault(key, [])
        found = next((one for one in seen if one.serves(candidate.limits.max_context)), None)
        if found is None:
            found = self._read(candidate, dataset, min_rows, counter)
            seen.append(found)
        tokens = found.tokens.model_copy(update={"encoding": counter.encoding})
        report = _named(found.report, candidate.backend.display_name)
        report = report.model_copy(update={"tokens": tokens.summary()})
        return FileCheck(report, tokens, found.limit, found.untouched)

    def with_leaks(self, candidate: Candidate, report: Report, files: Files) -> Report:
        """The report on the training data with the rows that are held out too."""
        if files.held_out is None:
            return report
        both = (files.train.path, files.held_out.path)
        if both not in self._shared:
            self._shared[both] = analysis.find_leaks(files.train, files.held_out)
        return analysis.with_leaks(report, self._shared[both], (candidate.backend.display_name,))

    def _read(
        self, candidate: Candidate, dataset: Dataset, min_rows: int | None, counter: TokenCounter
    ) -> FileCheck:
        limit = candidate.limits.max_context
        report = validation_run.validate(
            dataset,
            method=candidate.spec.method,
            model=None if self.several else candidate.spec.model,
            backends=(candidate.backend.name,),
            counter=counter,
            max_context=limit,
            min_rows=min_rows,
            on_progress=self.on_progress,
        )
        tokens = counter.stats()
        too_long = any(found.code == "example_too_long" for found in report.findings)
        touched = too_long or counter.totals().truncated or tokens.truncated_rows > 0
        return FileCheck(report, tokens, limit, not touched)


def _named(report: Report, name: str) -> Report:
    """The report of a pass under one backend's rules, in the name of another that has the same."""
    found = [
        one.model_copy(update={"backends": [name] if one.backends else []})
        for one in report.findings
    ]
    return report.model_copy(update={"findings": found})


def plan(
    candidate: Candidate, files: Files, checks: FileChecks, train_price: Decimal | None = None
) -> Plan:
    """Check, count and price one option. Raises DataError with a report of lines and fixes, and
    SpecError."""
    spec, runner = candidate.spec, candidate.backend
    looks = [checks.look(candidate, files.train, None)]
    looks[0].report.raise_for_errors()
    reports = [looks[0].report]
    if files.held_out:
        looks.append(checks.look(candidate, files.held_out, 1))
        looks[1].report.raise_for_errors()
        reports = [checks.with_leaks(candidate, reports[0], files), looks[1].report]
    held_out = looks[1].tokens if files.held_out else None
    estimate = runner.estimate(spec, looks[0].tokens, held_out)
    if train_price is not None:
        estimate = at_train_price(estimate, train_price)
    tokens = looks[0].tokens
    return Plan(spec, runner, files.train, files.held_out, tuple(reports), tokens, estimate)


def side_by_side(
    pairs: Sequence[tuple[str | Backend, TrainingSpec]],
    load: Callable[[str | Backend], Backend],
    files: Files,
    *,
    train_price: Decimal | None = None,
    on_progress: OnProgress | None = None,
) -> list[Option]:
    """Every pair of backend and spec, in their order. What is wrong with one is told in its
    place and hides no other."""
    checks = FileChecks(several=len(pairs) > 1, on_progress=on_progress)
    done: dict[int, Option] = {}
    chosen: dict[int, Candidate] = {}
    for place, (backend, spec) in enumerate(pairs):
        try:
            chosen[place] = Candidate.of(spec, load(backend), priced=train_price is not None)
        except Exception as exc:  # kept, whatever it is: the other options still have figures
            done[place] = Option(_name(backend), spec.model, error=_failure(backend, exc))
    for place in _smallest_first(chosen):
        name, spec = pairs[place]
        by_tokens = not checks.several or chosen[place].limits.hosted
        try:
            found = plan(chosen[place], files, checks, train_price if by_tokens else None)
            done[place] = Option(_name(name), spec.model, estimate=found.estimate)
        except Exception as exc:  # as above
            done[place] = Option(_name(name), spec.model, error=_failure(name, exc))
    return [done[place] for place in range(len(pairs))]


def _smallest_first(chosen: dict[int, Candidate]) -> Iterable[int]:
    """By their limits of tokens: a pass under the smallest often serves the others too."""
    limits = {place: candidate.limits.max_context for place, candidate in chosen.items()}
    return sorted(chosen, key=lambda place: (limits[place] is None, limits[place] or 0))


def _failure(backend: str | Backend, exc: Exception) -> GatewayError:
    """The error as one of ours; a plugin may have raised anything."""
    if isinstance(exc, GatewayError):
        return exc
    said = f"Backend {_name(backend)!r} broke: {type(exc).__name__}: {exc}."
    error = BackendError(said, hint="Report it to its author.", backend=_name(backend))
    error.__cause__ = exc
    return error


def _name(backend: str | Backend) -> str:
    if isinstance(backend, str):
        return backend
    return records.display_name(backend.name, backend.options())


# -- from the plan to the job ------------------------------------------------------------


def intent(plan: Plan, folder: Path, *, again: bool = False) -> JobRecord:
    """Copy the files of a plan into ``folder`` and return the row of its job, not yet stored.

    Equal plans have the same ``submit_key``, unless ``again``. Raises DataError for a row that
    cannot be sent.
    """
    train = _stored_copy(plan.train, plan.reports[0], folder)
    validation = _stored_copy(plan.validation, plan.reports[1], folder) if plan.validation else None
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
        id=records.new_job_id(),
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


def _stored_copy(dataset: Dataset, report: Report, folder: Path) -> StoredFile:
    """Copy a file into ``folder`` and return the copy: the file may change before the job is sent,
    or sent again. Rows of another format are written as OpenAI's chat or preference rows, which
    every backend takes."""
    rewrite = None if report.format.startswith("openai-") else formats.canonical
    try:
        path, digest = dataset.copy_into(folder, rewrite)
    except ConversionError as exc:
        raise DataError(
            f"{dataset.name}: a row of the format {report.format} cannot be sent: {exc}.",
            hint=f"See: ftg convert {dataset.name} --to openai -o OUT",
        ) from None
    return StoredFile(path=str(path), sha256=digest, rows=report.rows, bytes=path.stat().st_size)
