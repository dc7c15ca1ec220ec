"""What ``ftg migrate run`` shows before it asks, and how it ended: go or no-go, and why."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.reports.estimate_figures import answer
from finetune_gateway.reports.output import apply_style, format_count, wrap_text
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    # The type checker alone: they bring the SDK of hosts.
    from finetune_gateway.jobs.planning import Plan
    from finetune_gateway.migration.outcome import Migration
    from finetune_gateway.migration.running import MigrationPlan

LABEL = 10  # columns of the names


def plan_text(plan: MigrationPlan) -> str:
    """Return what is about to happen, and what both parts cost."""
    return "\n".join(_plan_lines(plan))


def _plan_lines(plan: MigrationPlan) -> Iterator[str]:
    two = plan.sides
    yield apply_style(f"{visible(plan.model)} to {visible(plan.destination.title)}", "bold")
    yield _line("train", _rows_text(two.all_rows, two.left_out, visible(two.words)))
    if plan.training is None:
        yield _line("", "that job is here already: nothing is trained again")
    else:
        yield from _training_lines(plan.training)
    for one in plan.destination.settings:
        if not one.becomes:
            yield _line("", visible(f"not taken over: {one.name} {one.value} ({one.note})"))
    rows = format_count(len(two.asked), "row")
    yield _line("compare", f"{rows} with {visible(plan.against)}, {_cost(plan.asking_usd)}")
    limit = f"; limit {format_usd(plan.limit)}" if plan.limit is not None else ""
    yield _line("together", f"{_cost(plan.cost_usd)}{limit}")
    yield _line("go if", ", ".join(str(one) for one in plan.thresholds))


def _rows_text(rows: int, left_out: int, words: str) -> str:
    if not left_out:
        return f"{format_count(rows, 'row')}; none of them is among {words}"
    return f"{rows - left_out:,} of {format_count(rows, 'row')}; the others repeat {words}"


def _training_lines(plan: Plan) -> Iterator[str]:
    estimate = plan.estimate
    for name, text in answer(estimate):
        if name.strip() in ("cost", "time", "memory", "data"):
            yield _line("", f"{name.strip()}: {text}")


def _cost(cost: Range[Decimal] | None) -> str:
    if cost is None:
        return "price not known"
    if not cost.high:
        return "no cost"
    return f"{format_usd(cost.expected)} (at most {format_usd(cost.high)})"


def plan_document(plan: MigrationPlan) -> dict[str, Any]:
    """Return a dry run as JSON."""
    training, cost = plan.training, plan.cost_usd
    return {
        "dry_run": True,
        "model": plan.model,
        "to": plan.destination.title,
        "against": plan.against,
        "rows": len(plan.sides.asked),
        "trained_rows": plan.sides.all_rows - plan.sides.left_out,
        "left_out": plan.sides.left_out,
        "settings": [one.model_dump(mode="json") for one in plan.destination.settings],
        "training": training.estimate.model_dump(mode="json") if training else None,
        "asking_usd": plan.asking_usd.model_dump(mode="json") if plan.asking_usd else None,
        "cost_usd": cost.model_dump(mode="json") if cost else None,
        "thresholds": [str(one) for one in plan.thresholds],
    }


def migration_text(done: Migration) -> str:
    """Return the decision, each threshold with its figure, and what was compared."""
    decision = done.decision
    lines = [apply_style(decision.text, "ok" if done.go else "error")]
    for one in decision.findings:
        lines.append(wrap_text(f"{one.threshold}: {one.text}", "    ", "  "))
    lines += [wrap_text(visible(note), "    ", "  ") for note in decision.notes]
    new = f"{visible(done.destination)}, {done.job_id}, {done.trained_rows:,} rows"
    lines += [_line("new", new), _line("old", visible(done.against))]
    data = done.comparison.data
    rows = format_count(data.data.rows, "row")
    lines.append(_line("compared", f"{rows}; all of it: ftg report {data.id}"))
    lines += [_line("", visible(text)) for text in data.data.warnings]
    return "\n".join(lines)


def _line(label: str, text: str) -> str:
    return wrap_text(text, " " * LABEL, f"{label:<{LABEL}}")
