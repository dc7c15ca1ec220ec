"""The price that a host names for a job once its files are there, before the job is created.

``Backend.quote`` gives it. It takes the place of the estimate in the limit of the submit and in the
budget of the month; a job that is too dear then ends, and nothing was bought.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from finetune_gateway.backend import Backend, DataFile
from finetune_gateway.errors import BudgetError
from finetune_gateway.estimation.hosted import price_ways
from finetune_gateway.jobs import budget
from finetune_gateway.jobs.budget import Quote, dollars
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store


def is_unpriced(record: JobRecord) -> bool:
    """Return True for a job with neither an estimate of its cost nor a quote."""
    quote = Quote.of(record)
    return quote.quoted_usd is None and quote.cost_usd is None


def take(
    store: Store,
    record: JobRecord,
    backend: Backend,
    files: tuple[DataFile, DataFile | None],
    reserve: Callable[[JobRecord], None],
) -> None:
    """Ask what a job costs whose files are at the host, and store it. ``reserve`` raises
    BudgetError if the month has no room for it.

    Raises BudgetError too for a price above the limit of the submit, and without a price where
    there is a limit or a budget: the job has failed then, and gives its share back.
    """
    usd = backend.quote(record.spec, *files)
    quoted = record.model_copy(update={"quote_usd": usd})
    try:
        _require_within(quoted)
        with store.transaction() as db:
            reserve(quoted)
            stored = None if usd is None else f"{usd:f}"
            db.execute("UPDATE jobs SET quote_usd = ? WHERE id = ?", (stored, record.id))
    except BudgetError as exc:
        store.fail(record.id, f"Not created: {exc.message}")
        raise
    _note(store, quoted)


def _require_within(record: JobRecord) -> None:
    limit, quote = record.max_cost_usd, Quote.of(record)
    name = record.display_name
    if limit is None:
        return
    if is_unpriced(record):
        ways = price_ways(record.backend, record.spec, quote.billed_tokens)
        raise BudgetError(
            f"{name} names no price for this job, so a limit of {dollars(limit)} USD cannot be "
            "checked: nothing was created.",
            hint=", or ".join(filter(None, ["Submit without a limit", ways])),
        )
    if quote.quoted_usd is not None and quote.quoted_usd > limit:
        cost, most = budget.apart(quote.quoted_usd, limit)
        raise BudgetError(
            f"{name} quotes {cost} USD for this job, over the limit of {most}: nothing was "
            "created.",
            hint="Its files are there for the next submit. Raise --max-cost, use fewer epochs or "
            "rows, or a cheaper model.",
        )


def _note(store: Store, record: JobRecord) -> None:
    """Say so among the events of a job if its host asks for more than was estimated."""
    quote = Quote.of(record)
    if quote.quoted_usd is not None and quote.cost_usd and quote.quoted_usd > quote.cost_usd.high:
        cost, most = budget.apart(quote.quoted_usd, quote.cost_usd.high)
        text = f"{record.display_name} quotes {cost} USD; the estimate was at most {most}."
        store.note(record.id, "quote", text)


def set_limit(store: Store, record: JobRecord, limit: Decimal | None) -> None:
    """Commit the limit of the last submit of a job that has not been created."""
    if limit != record.max_cost_usd:
        stored = None if limit is None else f"{limit:f}"
        with store.transaction() as db:
            change = "UPDATE jobs SET max_cost_usd = ? WHERE id = ? AND provider_id IS NULL"
            db.execute(change, (stored, record.id))
