"""Results in a Python session: each as one line, and as a small table in notebooks.

The texts are those of the screens; the template ``notebook.html`` escapes every value. Personal
data is masked as in findings, and no row of the data is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from finetune_gateway.renderers import in_notebook
from finetune_gateway.reports import estimate_figures as figures
from finetune_gateway.reports.charts import Chart, Key, Picture
from finetune_gateway.reports.loss_chart import loss_chart
from finetune_gateway.reports.output import (
    format_count,
    format_duration,
    format_timestamp,
)
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    from finetune_gateway.estimation.estimate import Estimate
    from finetune_gateway.evaluation.advice.advice import Advice
    from finetune_gateway.evaluation.comparison import Comparison
    from finetune_gateway.findings import Finding, Report
    from finetune_gateway.jobs.budget import Budget
    from finetune_gateway.jobs.handle import ModelHandle
    from finetune_gateway.jobs.job import Job
    from finetune_gateway.jobs.ledger import Ledger
    from finetune_gateway.jobs.planning import Option, Plan
    from finetune_gateway.migration.archived import Archive
    from finetune_gateway.migration.inventory import Inventory
    from finetune_gateway.tokens.masks.preview import Preview
    from finetune_gateway.tokens.masks.preview import Sequence as TokenSequence

Facts = tuple[tuple[str, str], ...]

MOST_ROWS = 20  # of a table; more are counted below it


@dataclass(frozen=True)
class View:
    """A result: ``line`` is its answer, ``facts`` its figures, the table its parts; ``why`` is
    folded away."""

    line: str
    facts: Facts = ()
    head: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    name: str = ""
    more: str = ""
    why: Facts = ()
    draw: Callable[[], Chart | None] = lambda: None  # only a notebook needs it
    page: Callable[[], str] = str  # its page without rows; only a notebook has it
    frame: str = ""
    picture: Picture | None = None
    keys: Sequence[Key] = ()

    def text(self) -> str:
        """Return the line as a terminal may show it."""
        return visible(self.line)

    def html(self, name: str) -> str:
        """Return the result as HTML, every value escaped."""
        # Imported here: one line needs no template.
        from finetune_gateway.reports.layout import fragment

        left_out = len(self.rows) - MOST_ROWS
        more = f"... and {left_out:,} more" if left_out > 0 else ""
        chart = self.draw()
        view = replace(
            self,
            line=self.text(),
            facts=_visible(self.facts),
            why=_visible(self.why),
            rows=_visible(self.rows[:MOST_ROWS]),
            name=name,
            more=more,
            frame=self.page() if in_notebook() else "",
        )
        if chart:
            view = replace(view, picture=chart.pictures()[0], keys=chart.keys)
        return str(fragment("notebook.html", "result", view))


def _visible(rows: Sequence[tuple[str, ...]]) -> Any:
    return tuple(tuple(map(visible, row)) for row in rows)


# -- data ----------------------------------------------------------------------------------


def report(report: Report) -> View:
    """Return ``rejected: 3 errors, 1 warning in 240 rows``."""
    tokens = report.tokens or {}
    facts = [("format", report.format), ("kind", report.kind)]
    if tokens.get("total"):
        how = f"exact, {tokens['encoding']}" if tokens["exact"] else tokens["encoding"]
        facts.append(("tokens", f"{tokens['total']:,} ({how})"))
    return View(
        f"{report.outcome}: {_counts(report.findings)} in {format_count(report.rows, 'row')}",
        tuple(facts),
        ("severity", "code", "line", "count", "message", "fix"),
        [_finding(found) for found in report.findings],
        page=lambda: _report_page(report),
    )


def _report_page(report: Report) -> str:
    # Imported here, as below: most sessions show no page.
    from finetune_gateway.reports.validation_page import page

    return page(report, None, no_rows=True)


def _counts(findings: Sequence[Finding]) -> str:
    """Return ``3 errors, 1 warning``, or ``no findings``."""
    totals: dict[str, int] = {}
    for found in findings:
        totals[found.severity] = totals.get(found.severity, 0) + found.count
    return ", ".join(format_count(n, word) for word, n in totals.items()) or "no findings"


def _finding(found: Finding) -> tuple[str, ...]:
    line = "" if found.line is None else f"{found.line:,}"
    return found.severity, found.code, line, f"{found.count:,}", found.message, found.fix


def preview(preview: Preview) -> View:
    """Return ``line 3: 240 tokens, 31 trained, o200k_base``."""
    rows = [
        (one.name or "row", f"{one.total:,}", f"{one.trained:,}", f"{one.truncated:,}")
        for one in preview.sequences
    ]
    counts = _tokens(preview) if preview.ok else _counts(preview.findings)
    encoding = f", {preview.encoding}" if preview.ok and preview.encoding else ""
    return View(
        f"line {preview.line}: {counts}{encoding}",
        (("format", preview.format), ("model", preview.model)),
        ("sequence", "tokens", "trained", "cut off"),
        rows,
    )


def sequence(sequence: TokenSequence) -> View:
    """Return ``chosen: 240 tokens, 31 trained``."""
    name = f"{sequence.name}: " if sequence.name else ""
    return View(f"{name}{_tokens(sequence)}")


def _tokens(one: Preview | TokenSequence) -> str:
    cut = f", {one.truncated:,} cut off" if one.truncated else ""
    return f"{format_count(one.total, 'token')}, {one.trained:,} trained{cut}"


# -- before a job --------------------------------------------------------------------------


def estimate(estimate: Estimate) -> View:
    """Return ``openai gpt-4.1: $0.31 ($0.20 to $0.45), 12,300 tokens x 3 epochs``."""
    line = f"{estimate.backend} {estimate.model}: {_figures(estimate)}"
    facts, why = _answer_and_grounds(estimate)
    return View(line, facts, why=why)


def _figures(estimate: Estimate) -> str:
    """Return the cost of a hosted run, the time and memory of a local one, and its tokens."""
    answer = [figures.cost_text(estimate) if estimate.cost_usd else "price not known"]
    if not estimate.data_leaves_machine and estimate.seconds is not None:
        fit = figures.fit_text(estimate)
        answer = [figures.time_text(estimate), *([fit] if fit else [])]
    if estimate.tokens is not None:
        epochs = format_count(estimate.n_epochs, "epoch")
        answer.append(f"{format_count(estimate.tokens.total, 'token')} x {epochs}")
    return ", ".join(answer)


def _answer_and_grounds(estimate: Estimate) -> tuple[Facts, Facts]:
    """Return what is asked first with what may stand in the way, and what the figures rest on."""
    warnings = (("warning", text) for text in figures.answer_warnings(estimate))
    unknown = (("not known", text) for text in figures.answer_unknowns(estimate))
    facts = (*figures.answer(estimate), *unknown, *warnings)
    said = {text for _, text in facts}
    known = (*figures.local_figures(estimate), *figures.grounds(estimate))
    return facts, tuple((name.strip(), text) for name, text in known if text not in said)


def option(option: Option) -> View:
    """Return the line of its estimate, or the error."""
    if option.estimate is not None:
        line = f"{option.backend} {option.model}: {_figures(option.estimate)}"
        facts, why = _answer_and_grounds(option.estimate)
        return View(line, facts, why=why)
    error = option.error
    text = f"{type(error).__name__}: {error.message}" if error else "no estimate"
    hint: Facts = (("what to do", error.hint),) if error and error.hint else ()
    return View(f"{option.backend} {option.model}: {text}", hint)


def advice(advice: Advice) -> View:
    """Return ``train.jsonl: fine-tune (sft), rows: enough, place: either``."""
    points = advice.points
    answers = {name: point.answer for name, point in points.items()}
    line = (
        f"{advice.data}: {answers['approach']} ({answers['method']}), rows: {answers['rows']}, "
        f"place: {answers['place']}"
    )
    facts = tuple((name, point.text) for name, point in points.items())
    rows = [(name, text) for name, point in points.items() for text in point.evidence]
    return View(line, facts, ("of", "evidence"), rows)


def plan(plan: Plan) -> View:
    """Return ``sft of 240 rows: `` and the line of its estimate."""
    rows = format_count(plan.reports[0].rows, "row")
    shown = estimate(plan.estimate)
    return View(f"{plan.spec.method} of {rows}: {shown.line}", shown.facts, why=shown.why)


# -- jobs ----------------------------------------------------------------------------------


def job(job: Job) -> View:
    """Return ``ftg-abc openai running: gpt-4.1-mini-2025-04-14``."""
    record = job.record
    facts = [
        ("method", record.spec.method),
        ("data", record.name),
        ("created", format_timestamp(record.created_at)),
    ]
    if job.phase:
        facts.append(("phase", job.phase))
    if job.error:
        facts.append(("error", job.error))
    if (actual := job.actual) is not None and actual.cost_usd is not None:
        facts.append(("cost", format_usd(actual.cost_usd)))
    if record.seconds is not None:
        facts.append(("time", format_duration(record.seconds)))
    line = f"{job.id} {record.display_name} {job.status}: {record.spec.model}"
    return View(line, tuple(facts), draw=lambda: loss_chart(job.metrics()))


def model_handle(handle: ModelHandle) -> View:
    """Return ``openai ft:gpt-4.1:acme::abc from gpt-4.1, ready``."""
    facts: list[tuple[str, str]] = [("kind", handle.kind)]
    facts += [("job", handle.job_id)] if handle.job_id else []
    facts += [("retires on", handle.retires_on)] if handle.retires_on else []
    facts += [("warning", text) for text in handle.warnings]
    lacks_box = in_notebook() and find_spec("ipywidgets") is None
    if lacks_box and handle.kind != "reward" and handle.deploy is None:
        facts.append(("to chat here", "pip install ipywidgets; or handle.chat(...) in a cell"))
    state = "ready" if handle.ready else "not deployed" if handle.deploy else "not yet ready"
    return View(f"{handle.backend} {handle.model} from {handle.base_model}, {state}", tuple(facts))


def inventory(inventory: Inventory) -> View:
    """Return ``12 fine-tunes, as OPENAI_API_KEY sees them``."""
    rows = [
        (one.name, one.base_model or "not known", str(one.shutdown_date or "not known"))
        for one in inventory.fine_tunes
    ]
    keys = " and ".join(key.variable for key in inventory.keys)
    return View(
        f"{format_count(len(rows), 'fine-tune')}, as {keys} sees them",
        head=("model", "base", "stops on"),
        rows=rows,
    )


def archive(archive: Archive) -> View:
    """Return ``8 fine-tunes: 52 pieces saved, 1 gone, 2 refused``."""
    rows = [
        (job.name, ", ".join(f"{count} {state}" for state, count in job.counts.items()))
        for job in archive.jobs
    ]
    counts = ", ".join(
        f"{count:,} {state.replace('_', ' ')}" for state, count in sorted(archive.counts.items())
    )
    tunes = format_count(len(rows), "fine-tune")
    return View(f"{tunes}: {counts or 'nothing'}", head=("model", "pieces"), rows=rows)


# -- comparisons ---------------------------------------------------------------------------


def comparison(comparison: Comparison) -> View:
    """Return ``cmp-3f9a2c1d: Model A answers best ...``, with a row per model."""
    # Imported here: other results need none of it.
    from finetune_gateway.reports import comparison_view as words

    data = comparison.data
    measures = words.deciding_first(data)
    rows = [
        (
            f"{letter} {model.title}",
            *(words.figure_text(one, data.figures.get(one.name, {}).get(model.key))
              for one in measures),
        )
        for model, letter in zip(data.models, words.letters(data).values(), strict=True)
    ]  # fmt: skip
    facts = [("verdict", data.verdict.text), ("rows", words.rows_text(data))]
    facts += [("warning", text) for text in words.warnings(data)]
    if told := words.undecided_text(data, data.verdict.measure):
        facts.append(("can't tell", told))
    return View(
        f"{data.id}: {shorten(data.verdict.text, 110, placeholder=' ...')}",
        tuple(facts),
        ("model", *(one.title for one in measures)),
        rows,
        page=lambda: _comparison_page(comparison),
    )


def _comparison_page(comparison: Comparison) -> str:
    from finetune_gateway.reports.comparison_page import page

    return page(comparison, no_rows=True)


# -- money ---------------------------------------------------------------------------------


def ledger(ledger: Ledger) -> View:
    """Return ``3 jobs, 1 not finished: $0.98 actual, $1.20 estimated``."""
    totals = ledger.totals
    going = f", {totals.open} not finished" if totals.open else ""
    actual, estimated = format_usd(totals.actual_usd), format_usd(totals.estimated_usd)
    rows = [
        (
            str(line.date),
            line.job_id,
            line.backend,
            line.model,
            str(line.status),
            "not known" if line.estimated_usd is None else format_usd(line.estimated_usd),
            "not known" if line.actual_usd is None else format_usd(line.actual_usd),
        )
        for line in ledger.lines
    ]
    count = format_count(totals.jobs, "job")
    count += f", {format_count(totals.charges, 'charge')}" if totals.charges else ""
    return View(
        f"{count}{going}: {actual} actual, {estimated} estimated",
        head=("date", "job", "backend", "model", "status", "estimated", "actual"),
        rows=rows,
    )


def budget(budget: Budget) -> View:
    """Return ``2026-11: $3.10 spent, $1.00 reserved, $45.90 of $50.00 left``."""
    spent, reserved = format_usd(budget.spent_usd), format_usd(budget.reserved_usd)
    left = "no cap"
    if budget.left_usd is not None:
        left = f"{format_usd(budget.left_usd)} of {format_usd(budget.cap_usd)} left"
    rows = [(hold.job_id, str(hold.status), format_usd(hold.usd)) for hold in budget.holds]
    line = f"{budget.month}: {spent} spent, {reserved} reserved, {left}"
    return View(line, head=("job", "status", "takes"), rows=rows)
