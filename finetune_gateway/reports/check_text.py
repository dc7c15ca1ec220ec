"""What ``ftg check`` shows: what it would ask, and then the checks, those that failed first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_gateway.evaluation.checks.outcome import CheckExample, CheckReport, CheckResult
from finetune_gateway.evaluation.costs import price_text
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.reports.asking_text import at_most_text, sending_lines, spent_text
from finetune_gateway.reports.output import (
    elide,
    format_count,
    format_duration,
    terminal_width,
    wrap_text,
)
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    # The type checker alone: it brings the SDK of hosts.
    from finetune_gateway.evaluation.checks.running import CheckPlan

EXAMPLES = 2  # of a check
LINES = 4  # of an answer


def plan_text(plan: CheckPlan, budget: Budget | None) -> str:
    """Return what is about to happen: who is asked, how often, what that costs."""
    return "\n".join(wrap_text(line, "  ", "") for line in _plan_lines(plan, budget))


def _plan_lines(plan: CheckPlan, budget: Budget | None) -> Iterator[str]:
    host, title = plan.model.host, visible(plan.model.title)
    yield title if not host or host in title else f"{title} at {host}"
    checks, rows = len(plan.guide.checks), format_count(plan.rows, "row")
    guide = visible(str(plan.guide.path))
    yield f"{format_count(checks, 'check')} of {guide}, {rows} of {plan.words}"
    if plan.judge is not None:
        yield f"Judge: {visible(plan.judge.title)}"
    kept = f", {plan.kept:,} answered before" if plan.kept else ""
    yield f"About {format_count(plan.left, 'request')} to send{kept}."
    yield from sending_lines(plan, budget, _prices(plan))


def _prices(plan: CheckPlan) -> Iterator[str]:
    rows = [price for _, one in plan.rounds for prices in one.prices.values() for price in prices]
    for price in {price.key: price for price in rows}.values():
        yield price_text(price)


def plan_document(plan: CheckPlan) -> dict[str, Any]:
    """Return a dry run as JSON."""
    cost = plan.cost
    return {
        "dry_run": True,
        "model": plan.model.title,
        "host": plan.model.host,
        "guide": str(plan.guide.path),
        "checks": [check.name for check in plan.guide.checks],
        "data": plan.words,
        "rows": plan.rows,
        "left": plan.left,
        "judge": plan.judge.title if plan.judge else None,
        "kept": plan.kept,
        "cost_usd": cost.model_dump(mode="json") if cost else None,
    }


# -- afterwards --------------------------------------------------------------------------------


def check_text(report: CheckReport) -> str:
    """Return all checks with their counts; those that failed first, with examples."""
    listed = report.worst_first
    width = min(max(len(visible(one.name)) for one in listed), 24)
    lines = [line for one in listed for line in _result_lines(one, width)]
    return "\n".join([*lines, "", *_end_lines(report)])


def _result_lines(result: CheckResult, width: int) -> Iterator[str]:
    status = {"failed": "FAILED", "not judged": "NOT JUDGED"}.get(result.status, result.status)
    head = f"{status:<10}  {elide(visible(result.name), width):<{width}}  "
    yield wrap_text(f"{_counts(result)}{_titled(result)}", " " * len(head), head)
    if result.note:
        yield wrap_text(visible(result.note), " " * 12, " " * 12)
    for example in result.examples[:EXAMPLES]:
        yield from _example_lines(example, result.note)


def _titled(result: CheckResult) -> str:
    title = visible(result.title)
    return f"; {title}" if title and result.status != "skipped" else title


def _counts(result: CheckResult) -> str:
    if result.status == "skipped":
        return ""
    needed = f" (needs {result.min_pass:.0%})" if result.min_pass < 1 else ""
    text = f"{result.passed:,} of {result.counted:,}{needed}"
    if result.missing:
        text += f", {result.missing:,} without a score"
    return f"{text}, {result.undecided:,} undecided" if result.undecided else text


def _example_lines(example: CheckExample, note: str) -> Iterator[str]:
    where = f"line {example.line}: " if example.line else ""
    yield _row("asked", f"{where}{example.asked}")
    for turn in example.turns:
        if turn.get("role") == "user":
            yield _row("then", str(turn.get("content")), 2)
    yield _row("answer", example.answer or "(no text)", LINES)
    if example.reason and example.reason != note:  # that of all stands above
        yield _row("why", example.reason, LINES)


def _row(label: str, text: str, lines: int = 1) -> str:
    """Return a labelled text in at most so many lines."""
    indent = " " * 22
    room = (terminal_width() - len(indent)) * lines - 1
    shown = elide(" ".join(visible(text).split()), max(room, 20))
    return wrap_text(shown, indent, f"{' ' * 12}{label + ':':<10}")


def _end_lines(report: CheckReport) -> Iterator[str]:
    counts = {one: 0 for one in ("passed", "failed", "not judged", "skipped")}
    for result in report.results:
        counts[result.status] += 1
    said = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    yield wrap_text(f"{visible(report.model)}: {said}.")
    spent = spent_text(report.spent_usd, report.unanswered)
    cost = f", {spent}{' in all of its runs' * bool(report.kept)}" if spent else ""
    cost = cost or (", at a price that is not known" if report.host and report.asked else "")
    kept = f", {report.kept:,} answers of earlier runs" if report.kept else ""
    took = format_duration(report.seconds)
    yield wrap_text(f"{format_count(report.asked, 'request')} in {took}{kept}{cost}.")
    if spent and report.unanswered:
        yield wrap_text(at_most_text(report.unanswered, report.at_most_usd))
    if report.stopped:
        yield wrap_text(f"Not all was asked: {visible(report.stopped)}.")
    elif not counts["passed"] and not counts["failed"] and not counts["not judged"]:
        yield wrap_text("Nothing was checked: that is no pass.")


def check_document(report: CheckReport) -> dict[str, Any]:
    """Return a report as JSON, with what it comes to."""
    return {"ok": report.ok, **report.model_dump(mode="json")}
