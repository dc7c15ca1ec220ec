"""Check and count the files of a job, each as few times as the options for it differ."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from finetune_gateway import registry
from finetune_gateway.backend import Backend, Capabilities
from finetune_gateway.backend.params import with_params
from finetune_gateway.backend.plugin_objects import watched
from finetune_gateway.backend.seam import is_plugin
from finetune_gateway.data.column_names import as_argument, as_option
from finetune_gateway.data.dataset import Dataset, SharedSystemPrompt
from finetune_gateway.errors import DataError, NotFoundError
from finetune_gateway.findings import Report
from finetune_gateway.jobs.job_files import Files
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.pii import Regions
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.stats import TokenStats
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.collector import rules_for
from finetune_gateway.validation.dataset import analysis
from finetune_gateway.validation.dataset.statistics import CountedDefect
from finetune_gateway.validation.rules import RuleSet

OnProgress = Callable[[int, int], None]  # called with the bytes read so far, and the total


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
        if backend.params is not None or spec.backend_params:
            spec = with_params(spec, backend)
        if limits.unknown_model_reason and not (priced and limits.hosted):
            raise NotFoundError(limits.unknown_model_reason, hint="See: ftg models --all")
        return cls(spec, backend, limits)

    @property
    def rules(self) -> Mapping[str, RuleSet]:
        """The backend, with the family of rules that counts for it."""
        return rules_for(self.backend.display_name, self.limits.rules)


@dataclass(frozen=True)
class FileCheck:
    """The result of one pass over a file, and the limit of tokens and the rules it was made with.

    ``codes``: the rules that were broken, also those that did not count.
    """

    report: Report
    tokens: TokenStats
    limit: int | None
    all_fit: bool  # no row reached the limit, so a higher one would have changed nothing
    system_prompt: str | None = None  # shared by all rows
    rules: RuleSet = RuleSet()
    codes: frozenset[str] = frozenset()

    def holds_for(self, limit: int | None, rules: RuleSet) -> bool:
        """Return True if a pass with this limit and these rules would give the same result."""
        if any(rules.severity(code) != self.rules.severity(code) for code in self.codes):
            return False
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
    _checks: dict[tuple[Path, str, str], list[FileCheck]] = field(default_factory=dict)
    _leaks: dict[tuple[Path, Path], list[CountedDefect]] = field(default_factory=dict)

    def check(self, candidate: Candidate, dataset: Dataset, min_rows: int | None) -> FileCheck:
        """Check and count a file as this option would."""
        counter = candidate.backend.counter(candidate.spec)
        if type(counter) is not HostedCounter:
            if not is_plugin(type(counter)):
                return self._run(candidate, dataset, min_rows, counter)
            run = partial(self._run_watched, candidate, dataset, min_rows)
            return watched(candidate.backend, counter, run)
        rules = candidate.rules[candidate.backend.display_name]
        key = (dataset.path, candidate.spec.method, counter.text.family)
        checks, limit = self._checks.setdefault(key, []), candidate.limits.max_context
        check = next((one for one in checks if one.holds_for(limit, rules)), None)
        if check is None:
            check = self._run(candidate, dataset, min_rows, counter)
            checks.append(check)
        tokens = check.tokens.model_copy(update={"encoding": counter.encoding})
        report = _for_backend(check.report, candidate.backend.display_name)
        report = report.model_copy(update={"tokens": tokens.summary()})
        return replace(check, report=report, tokens=tokens)

    def check_all(self, candidate: Candidate, files: Files) -> tuple[FileCheck, FileCheck | None]:
        """Check the training file and the held-out rows. Raises DataError, of parts of one file
        with the report on that file."""
        train = self.check(candidate, files.train, None)
        held_out = None if files.held_out is None else self.check(candidate, files.held_out, 1)
        checks = [train] if held_out is None else [train, held_out]
        if files.whole is not None and not all(one.report.ok for one in checks):
            report = self.check(candidate, files.whole, None).report
            _raise_for_errors(report, candidate, files.whole)
        _raise_for_errors(train.report, candidate, files.train)
        if held_out is not None and files.held_out is not None:
            _raise_for_errors(held_out.report, candidate, files.held_out)
        train = replace(train, report=files.report_of(train.report))
        if held_out is None:
            return train, None
        return train, replace(held_out, report=files.report_of(held_out.report))

    def with_leaks(self, candidate: Candidate, report: Report, files: Files) -> Report:
        """Return the report with the training rows that are also in the held-out data. Rows that we
        hold out are chosen so that there are none."""
        if files.held_out is None or files.whole is not None:
            return report
        key = (files.train.path, files.held_out.path)
        if key not in self._leaks:
            self._leaks[key] = analysis.find_leaks(files.train, files.held_out)
        return analysis.with_leaks(report, self._leaks[key], candidate.rules)

    def _run_watched(
        self,
        candidate: Candidate,
        dataset: Dataset,
        min_rows: int | None,
        counter: TokenCounter,
        beat: Callable[[], None],
    ) -> FileCheck:
        """Check a file with the counter of a plug-in; its rows may be read by other processes."""

        def progress(done: int, total: int) -> None:
            beat()
            if self.on_progress is not None:
                self.on_progress(done, total)

        return replace(self, on_progress=progress)._run(candidate, dataset, min_rows, counter)

    def _run(
        self, candidate: Candidate, dataset: Dataset, min_rows: int | None, counter: TokenCounter
    ) -> FileCheck:
        limit, prompt, codes = candidate.limits.max_context, SharedSystemPrompt(), set[str]()
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
            codes=codes,
        )
        tokens = counter.stats()
        too_long = any(finding.code == "example_too_long" for finding in report.findings)
        cut = too_long or counter.totals().truncated or tokens.truncated_rows > 0
        rules = candidate.rules[candidate.backend.display_name]
        return FileCheck(report, tokens, limit, not cut, prompt.text, rules, frozenset(codes))


def _for_backend(report: Report, name: str) -> Report:
    """Return a report as that of another backend, whose rules say the same of it."""
    findings = [
        finding.model_copy(update={"backends": [name] if finding.backends else []})
        for finding in report.findings
    ]
    return report.model_copy(update={"findings": findings})


def _raise_for_errors(report: Report, candidate: Candidate, dataset: Dataset) -> None:
    """Raise DataError if there is an error, with the command that shows all findings."""
    try:
        report.raise_for_errors()
    except DataError as exc:
        if dataset.source is not None:
            spec, columns, place = candidate.spec, dataset.reading.columns, candidate.backend
            named = place.display_name in registry.names()
            backend = place.display_name if named else place.name
            words = ["--backend", backend]
            words += ["--model", spec.model, "--method", spec.method]
            mapped = f" {as_option(columns)}" if columns else ""
            exc.command = f"ftg validate {as_argument(dataset.source)} {shlex.join(words)}{mapped}"
        raise
