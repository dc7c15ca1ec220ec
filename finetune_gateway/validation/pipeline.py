"""The whole judgement of a dataset: every row by the rules, then all of them together.

Apart from ``gateway``, so that ``ftg validate`` loads nothing of jobs and prices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.findings import Defect, Report
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.quoting import quoted
from finetune_gateway.tokens.counter import HostedCounter, RowCounter
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.dataset import analysis, row_text
from finetune_gateway.validation.json.file_type import BOM

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend


def validate(
    dataset: Dataset,
    *,
    model: str | None = None,
    runner: Backend | None = None,
    method: str = "sft",
    asked: analysis.Asked | None = None,
    ignored: frozenset[str] = frozenset(),
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """A report on a dataset for one backend, or for all that are known.

    ``asked``: what of a survey is wanted; ``ignored``: codes of rules that do not count;
    ``on_progress`` is told the bytes read and all there are. Raises SpecError for a method that
    there is not, UnsupportedError for one that the hosted backend does not have.
    """
    spec = TrainingSpec.build(model=model or "unnamed", method=method)
    judged = (runner.display_name,) if runner else None
    if runner:
        _require(runner, spec)
    limit = runner.capabilities(model).max_context if runner else None
    counter = _counter(runner, spec, model, limit)
    report = validation_run.validate(
        dataset,
        method=spec.method,
        model=model,
        backends=judged,
        counter=counter,
        max_context=limit,
        on_progress=on_progress,
    )
    asked = asked or analysis.Asked()
    whole = analysis.with_quality(
        report,
        dataset,
        asked,
        backends=judged,
        method=spec.method,
        render=counter.render if isinstance(counter, LocalCounter) else None,
    )
    if asked.against:
        whole = _compared(whole, asked.against, judged)
    return whole.without(ignored)


def _counter(
    runner: Backend | None, spec: TrainingSpec, model: str | None, limit: int | None
) -> RowCounter:
    if runner is None or model is None:  # without a model there is no template to look for
        return HostedCounter(model, limit)
    return runner.counter(spec)


def _require(runner: Backend, spec: TrainingSpec) -> None:
    """Refuse a method that a host has for no model. What it does not train it does not take; here,
    data can be looked at before they are converted."""
    able = runner.capabilities()
    methods = sorted(able.methods | able.priced)
    if not able.hosted or not methods or spec.method in methods:
        return
    raise UnsupportedError(
        f"{runner.display_name} has no method {spec.method!r}; it has {', '.join(methods)}.",
        hint="Judge the rows for your own machine (--backend local), or convert them.",
        backend=runner.display_name,
        option="method",
    )


def _compared(report: Report, other: Dataset, judged: Sequence[str] | None) -> Report:
    """With what of ``other`` could not be compared, where a comparison was made."""
    leaks = (report.quality or {}).get("leaks")
    if not leaks:
        return report
    unread, rows = _unread(other)
    if rows and not unread:
        return report
    findings = Findings(judged)
    findings.add(Defect("against_unread", detail=_told(other.name, unread, rows)))
    quality = dict(report.quality or {})
    if not rows:
        del quality["leaks"]  # no figure rather than one of nothing
    return report.with_quality(findings.listed(), quality)


def _unread(other: Dataset) -> tuple[list[int], int]:
    """The lines of a file that no comparison could read, and how many it could."""
    unread, rows = [], 0
    for line in other.lines():
        row = None if line.cut else row_text.parsed(line.raw)
        if row and row_text.gist_of(row):
            rows += 1
        elif line.raw.removeprefix(BOM).strip():
            unread.append(line.number)
    return unread, rows


def _told(name: str, unread: list[int], rows: int) -> str:
    if not unread:
        return f"{quoted(name)} holds no rows, so nothing was compared"
    lines = ", ".join(str(line) for line in unread[:10]) + (", ..." if len(unread) > 10 else "")
    where = f"{quoted(name)}, line{'s' if len(unread) > 1 else ''} {lines}: not readable as a row"
    if not rows:
        return f"{where}; nothing was compared"
    return f"{where}; {rows:,} of {rows + len(unread):,} rows were compared"
