"""What plans of asking models share on the screen: the cost, the limit, the budget, what is asked
again."""

from __future__ import annotations

from decimal import Decimal

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.settings.money import format_usd


def cost_text(cost: Range[Decimal] | None) -> str:
    """Return ``$0.12 (low $0.10, high $0.31)``."""
    if cost is None:
        return "not known (ftg prices set)"
    low, high = format_usd(cost.low), format_usd(cost.high)
    return f"{format_usd(cost.expected)} (low {low}, high {high})"


def limit_text(limit: Decimal | None, spent: Decimal = Decimal(0)) -> str:
    """Return ``; stops before $2.00``, with what of it is spent; empty without a limit."""
    if limit is None:
        return ""
    already = f", of which {format_usd(spent)} are spent" if spent else ""
    return f"; stops before {format_usd(limit)}{already}"


def budget_text(budget: Budget) -> str:
    """Return ``Budget of 2026-12: $3.10 left``."""
    return f"Budget of {budget.month}: {format_usd(budget.left_usd or Decimal(0))} left"


def again_text(count: int) -> str:
    """Return the sentence on requests that were in flight when an earlier process died."""
    were = "1 request was" if count == 1 else f"{count:,} requests were"
    return f"{were} in flight when an earlier process died: asked again, perhaps paid twice."
