"""Validate a dataset: every row by the rules, then the dataset as a whole.

Separate from ``gateway``, so that ``ftg validate`` imports nothing of jobs and prices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune_gateway.data.dataset import BOM, Dataset
from finetune_gateway.errors import SpecError, UnsupportedError, shown
from finetune_gateway.findings import Defect, Report
from finetune_gateway.methods import METHODS, require
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.pii import Regions
from finetune_gateway.text.quoting import quoted
from finetune_gateway.tokens.counter import HostedCounter, RowCounter
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.collector import Findings, rules_for
from finetune_gateway.validation.dataset import analysis, row_text
from finetune_gateway.validation.dataset.analysis import AnalysisOptions
from finetune_gateway.validation.file_bytes import OnProgress
from finetune_gateway.validation.rules import RuleSet, known_backends
from finetune_gateway.validation.run import method_of as method_of

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend


def validate(
    dataset: Dataset,
    *,
    model: str | None = None,
    runner: Backend | None = None,
    method: str | None = None,
    training: Mapping[str, Any] | None = None,
    options: AnalysisOptions | None = None,
    ignored: frozenset[str] = frozenset(),
    on_progress: Callable[[int, int], None] | None = None,
    regions: Regions | None = None,
) -> Report:
    """Return the report on a dataset for one backend, or for all known ones.

    ``method``: what the rows are for; by default the usual method of the first row's format.
    ``training``: fields of TrainingSpec that say what is trained (train_on, chat_template, ...).
    ``options``: what to analyze of the dataset as a whole. ``ignored``: codes of rules that do
    not count. ``on_progress`` is called with the bytes read and the size of the file.
    ``regions``: whose national telephone numbers count (default: those of the user's settings).
    Raises SpecError for an unknown method or what is no model, UnsupportedError for a method that
    the hosted backend lacks.
    """
    if not isinstance(model, str | None):
        raise SpecError(f"model must be text, not {shown(model)}.")
    backends = limit = None
    as_texts = method == "pretrain"
    if method is None:
        method = _method_of_rows(dataset, runner)
    else:
        method = _canonical_method(method)
        if runner:
            _require_method(runner, method)
    if runner:
        limits = runner.capabilities(model)
        backends, limit = rules_for(runner.display_name, limits.rules), limits.max_context
    elif model:
        backends, limit = _rules_of_model(model)
    given: dict[str, Any] = {"model": model or "unnamed", "method": method, **(training or {})}
    spec = TrainingSpec.build(**given)
    require(spec)
    counter = _counter(dataset, runner, model, spec, limit)
    options = options or AnalysisOptions()
    first, second = _halves(on_progress) if options.quality else (on_progress, None)
    report = validation_run.validate(
        dataset,
        method=method,
        model=model,
        backends=backends,
        counter=counter,
        max_context=limit,
        on_progress=first,
        regions=regions,
        as_texts=as_texts,
    )
    report = analysis.with_quality(
        report,
        dataset,
        options,
        backends=backends,
        method=method,
        render=counter.render if isinstance(counter, LocalCounter) else None,
        on_progress=second,
    )
    if options.against:
        report = _with_unread_lines(report, options.against, backends)
    return report.without(ignored)


def _rules_of_model(model: str) -> tuple[dict[str, RuleSet], int | None]:
    """Return the rules of the known backends for this model, and the tokens that an example may
    have for it at those that have it, the fewest where they differ; None if none of them has it.

    Each backend tunes other models on images. One that lacks the model has no limit for it.
    """
    # Imported here: rows are often judged without a model.
    from finetune_gateway.estimation import profiles

    found, limits = dict(known_backends()), dict[str, int]()
    for name in set(found) & set(profiles.profile_names()):
        profile = profiles.load_profile(name)
        found |= rules_for(name, profile.rules_of(model))
        limit = profile.context(model)
        if limit is not None and profile.model(model) is not None:
            limits[name] = limit
    least = min(limits.values(), default=None)
    for name, rules in found.items():
        if limits.get(name) != least:
            found[name] = replace(rules, own={**rules.own, "example_too_long": None})
    return found, least


def _halves(on_progress: OnProgress | None) -> tuple[OnProgress | None, OnProgress | None]:
    """Return the progress of the rows by themselves, and of the dataset as a whole: of one bar."""
    if on_progress is None:
        return None, None
    size = 0

    def rows(done: int, total: int) -> None:
        nonlocal size
        size = total
        on_progress(done, 2 * total)

    def whole(done: int, total: int) -> None:
        on_progress(size + size * done // total, 2 * size)

    return rows, whole


def _canonical_method(method: str) -> str:
    """Return the method's name in METHODS. Raises SpecError for an unknown one."""
    if isinstance(method, str) and method in METHODS:
        return method
    given: dict[str, Any] = {"model": "unnamed", "method": method}
    return TrainingSpec.build(**given).method


def _method_of_rows(dataset: Dataset, runner: Backend | None) -> str:
    """Return the usual method of the first row's format; ``sft`` if the backend has none for it,
    which the report says then."""
    method = method_of(dataset)
    methods = _methods(runner) if runner else frozenset[str]()
    return method if not methods or method in methods else "sft"


def place_of(
    model: str | None, backend: str | Backend | None, load: Callable[[str | Backend], Backend]
) -> Backend | None:
    """Return the backend that was named; else that of a model that is trained on this machine. None
    for other models, and without a model: all known backends are judged."""
    if backend is not None:
        return load(backend)
    if model is None:
        return None
    # Imported here: rows are often judged without a model.
    from finetune_gateway import registry

    backend = load(registry.default_backend(model))
    return None if backend.capabilities(model).hosted else backend


def _counter(
    dataset: Dataset,
    runner: Backend | None,
    model: str | None,
    spec: TrainingSpec,
    limit: int | None,
) -> RowCounter:
    if runner is None or model is None:  # a template needs a model
        return HostedCounter(model, limit)
    return runner.counter(runner.resolve(spec, dataset))


def _require_method(runner: Backend, method: str) -> None:
    """Raise UnsupportedError if a host has the method for no model.

    A local backend is not asked: rows may be validated before they are converted.
    """
    methods = _methods(runner)
    if not methods or method in methods:
        return
    raise UnsupportedError(
        f"{runner.display_name} has no method {method!r}; it has {', '.join(sorted(methods))}.",
        hint="Validate the rows for local training (--backend local), or convert them.",
        backend=runner.display_name,
        option="method",
    )


def _methods(runner: Backend) -> frozenset[str]:
    """Return the methods of a host; none for a backend of this machine."""
    limits = runner.capabilities()
    return frozenset(limits.methods | limits.priced) if limits.hosted else frozenset()


def _with_unread_lines(
    report: Report, other: Dataset, backends: Mapping[str, RuleSet] | None
) -> Report:
    """Return the report with the lines of ``other`` that could not be compared, if any."""
    leaks = (report.quality or {}).get("leaks")
    if not leaks:
        return report
    unread, rows = _unread_lines(other)
    if rows and not unread:
        return report
    findings = Findings(backends)
    findings.add(Defect("against_unread", detail=_unread_detail(other.name, unread, rows)))
    quality = dict(report.quality or {})
    if not rows:
        del quality["leaks"]  # rather no figure than a misleading zero
    return report.with_quality(findings.listed(), quality)


def _unread_lines(other: Dataset) -> tuple[list[int], int]:
    """Return the lines that could not be read as rows, and the number of rows that could."""
    unread, rows = [], 0
    for line in other.lines():
        row = None if line.cut else row_text.parse_leniently(line.raw)
        if row and row_text.extract_row_text(row):
            rows += 1
        elif line.raw.removeprefix(BOM).strip():
            unread.append(line.number)
    return unread, rows


def _unread_detail(name: str, unread: list[int], rows: int) -> str:
    if not unread:
        return f"{quoted(name)} holds no rows, so nothing was compared"
    lines = ", ".join(str(line) for line in unread[:10]) + (", ..." if len(unread) > 10 else "")
    where = f"{quoted(name)}, line{'s' if len(unread) > 1 else ''} {lines}: not readable as a row"
    if not rows:
        return f"{where}; nothing was compared"
    return f"{where}; {rows:,} of {rows + len(unread):,} rows were compared"
