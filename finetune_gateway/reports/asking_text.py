"""What plans of asking models share on the screen: the cost, the limit, the budget, what is asked
again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.jobs.permits import kinds_text
from finetune_gateway.reports.output import format_count
from finetune_gateway.settings.money import format_usd

if TYPE_CHECKING:
    # The type checker alone: it brings the SDK of hosts.
    from finetune_gateway.evaluation.questions import QuestionPlan


def cost_text(cost: Range[Decimal] | None, add: str = "") -> str:
    """Return ``$0.12 (low $0.10, high $0.31)``; ``add``: the command that adds the price of what
    is not known."""
    if cost is None:
        return f"not known; add its price: {add}" if add else "not known"
    low, high = format_usd(cost.low), format_usd(cost.high)
    return f"{format_usd(cost.expected)} (low {low}, high {high})"


def estimate_line(
    cost: Range[Decimal] | None, limit: Decimal | None, spent: Decimal = Decimal(0)
) -> str:
    """Return ``Estimated cost: $0.12 (low $0.10, high $0.31) if no request is repeated; stops
    before $2.00``: one that breaks off is asked again, and nobody knows how many will."""
    once = " if no request is repeated" if cost and cost.high else ""
    return f"Estimated cost: {cost_text(cost)}{once}{limit_text(limit, spent)}"


def limit_text(limit: Decimal | None, spent: Decimal = Decimal(0)) -> str:
    """Return ``; stops before $2.00``, with what of it is spent; empty without a limit."""
    if limit is None:
        return ""
    already = f", of which {format_usd(spent)} are spent" if spent else ""
    return f"; stops before {format_usd(limit)}{already}"


def budget_text(budget: Budget) -> str:
    """Return ``Budget of 2026-12: $3.10 left``."""
    return f"Budget of {budget.month}: {format_usd(budget.left_usd or Decimal(0))} left"


def spent_text(spent: Decimal | None, unanswered: int) -> str:
    """Return ``$1.20``; ``at most $1.20`` if requests without an answer are in it."""
    if spent is None:
        return ""
    return f"{'at most ' * bool(spent and unanswered)}{format_usd(spent)}"


def at_most_text(unanswered: int, at_most: Decimal) -> str:
    """Return the sentence on requests without an answer that are paid perhaps; empty without
    any."""
    if not unanswered:
        return ""
    ended = format_count(unanswered, "request")
    return (
        f"{ended} ended without an answer: a host may charge for that all the same, and "
        f"{format_usd(at_most)} of what was spent is the most that it can be."
    )


def again_text(count: int) -> str:
    """Return the sentence on requests that were in flight when an earlier run ended."""
    were = "1 request was" if count == 1 else f"{count:,} requests were"
    return f"{were} in flight when an earlier run ended: asked again, perhaps paid twice."


def sending_lines(
    plan: QuestionPlan, budget: Budget | None, prices: Iterable[str]
) -> Iterator[str]:
    """Yield what is asked again, what all of it costs, at which ``prices``, and what may go to
    hosts."""
    if plan.again:
        yield again_text(plan.again)
    if plan.sends:
        yield estimate_line(plan.cost, plan.limit)
        yield from (f"  {line}" for line in prices)
        if budget is not None:
            yield f"{budget_text(budget)}."
    if plan.allowed:
        yield f"Sent as allowed: {kinds_text(plan.allowed)}."
