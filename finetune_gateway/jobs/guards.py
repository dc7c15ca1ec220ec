"""What stops a submit before anything is sent: money, and data that should stay here."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from finetune_gateway.errors import BudgetError, DataError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.findings import Report
from finetune_gateway.jobs.budget import dollars


def private(reports: Iterable[Report], estimate: Estimate, allowed: bool) -> None:
    """Raise DataError when personal data or secrets would leave this machine unasked."""
    if allowed or not estimate.data_leaves_machine:
        return
    for report in reports:
        found = [finding for finding in report.findings if finding.code in ("pii", "secret")]
        if found:
            raise DataError(
                f"Data that should stay here would be sent to {estimate.host or estimate.backend}, "
                f"line {found[0].line}: {found[0].message}",
                hint="Remove it, train with --backend local, or pass --allow-pii.",
                report=report,
            )


def within(estimate: Estimate, limit: Decimal | None) -> None:
    """Raise BudgetError when the high estimate is above the limit, or not known for a job that
    somebody else bills."""
    if limit is None:
        return
    if estimate.cost_usd is None:
        if not estimate.data_leaves_machine:
            return
        raise BudgetError(
            f"No price is known for {estimate.model!r}, so {dollars(limit)} USD cannot be kept to.",
            hint="Give --train-price USD, add a row (ftg prices set), or submit without a limit.",
        )
    high = estimate.cost_usd.high
    if high > limit:
        may, most = dollars(high), dollars(limit)
        if may == most:  # a hair over: to the last digit
            may, most = f"{high:f}", f"{limit:f}"
        raise BudgetError(
            f"The job may cost {may} USD, over the limit of {most}.",
            hint="Raise --max-cost, use fewer epochs or rows, or a cheaper model.",
        )
