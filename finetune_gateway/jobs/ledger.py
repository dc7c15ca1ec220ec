"""The ledger: estimated and actual cost of each job, and of what is spent without one.

Uses stored jobs only. Amounts are exact ``Decimal``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs.charges import AT_MOST, CHECK, COMPARE, DEPLOYMENT, Charge
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.model import Model
from finetune_gateway.renderers import Shown

Day = date
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula (OWASP)


class Line(Model):
    """One job, with the estimates it was submitted with. None means not known.

    ``counted_usd``: what the job takes of its month's budget. Of a charge, which is spent without a
    job, ``job_id`` is its name, like ``recorded:NAME``, and ``kind`` is ``charge``.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    date: Day  # UTC
    job_id: str
    data: str
    backend: str
    model: str
    status: JobStatus
    estimated_low_usd: Decimal | None
    estimated_usd: Decimal | None
    estimated_high_usd: Decimal | None
    actual_usd: Decimal | None
    counted_usd: Decimal
    estimated_tokens: int | None
    trained_tokens: int | None
    estimated_seconds: float | None
    seconds: float | None
    price_usd: Decimal | None
    price_unit: str | None
    price_as_of: Day | None
    price_source: str | None
    basis: str
    kind: Literal["job", "charge"] = "job"


class Totals(Model):
    """Sums over the lines that have a value, ``jobs`` and ``charges`` together; ``open`` of them
    have not ended. ``without_actual``: ended ones that have none. ``damaged``: those that are in no
    sum, for their rows of the store cannot be read."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    jobs: int
    charges: int = 0
    open: int
    without_estimate: int
    without_actual: int
    damaged: int = 0
    estimated_low_usd: Decimal
    estimated_usd: Decimal
    estimated_high_usd: Decimal
    actual_usd: Decimal
    at_most: bool = False  # requests without an answer are in it, at the most that they can cost
    counted_usd: Decimal


class Ledger(Shown, Model):
    """The jobs of a period, oldest first, what was spent without a job, and the totals of both."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    since: date | None
    until: date | None
    jobs: tuple[Line, ...]
    charges: tuple[Line, ...] = ()
    totals: Totals

    @property
    def lines(self) -> tuple[Line, ...]:
        """Jobs and charges, oldest first."""
        return tuple(sorted((*self.jobs, *self.charges), key=lambda line: line.date))

    def to_csv(self) -> str:
        """Return a line per job or charge under the names of its fields. Text that a spreadsheet
        would run as a formula begins with an apostrophe."""
        target = io.StringIO()
        writer = csv.DictWriter(target, list(Line.model_fields), lineterminator="\n")
        writer.writeheader()
        for line in self.lines:
            writer.writerow({name: csv_cell(value) for name, value in line.model_dump().items()})
        return target.getvalue()


def bounds(since: date | None, until: date | None) -> tuple[float, float | None]:
    """Return the first second of ``since`` and the first after ``until``. Raises SpecError if they
    are not dates, or in the wrong order."""
    for name, day in (("since", since), ("until", until)):
        if day is not None and not isinstance(day, date):
            raise SpecError(f"{name} cannot be {shown(day)}.", hint="Give a datetime.date.")
    if since and until and since > until:
        raise SpecError(f"{since} comes after {until}.", hint="Give the earlier day first.")
    start = _midnight(since).timestamp() if since else 0.0
    return start, (_midnight(until) + timedelta(days=1)).timestamp() if until else None


def of(
    records: Iterable[JobRecord],
    since: date | None,
    until: date | None,
    alive: Callable[[str], bool],
    charges: Iterable[Charge] = (),
    damaged: int = 0,
) -> Ledger:
    """Return the ledger of these jobs and charges. ``alive``: see ``budget.held``; ``damaged``: how
    many are not among them."""
    lines = tuple(_line(record, alive) for record in records)
    others = tuple(map(_charge_line, _by_run(charges)))
    totals = _totals(lines, others, damaged)
    return Ledger(since=since, until=until, jobs=lines, charges=others, totals=totals)


def _line(record: JobRecord, alive: Callable[[str], bool]) -> Line:
    quote = budgets.Quote.of(record)
    actual = budgets.actual(record)
    cost, price = quote.price, quote.row
    return Line(
        date=datetime.fromtimestamp(record.created_at, UTC).date(),
        job_id=record.id,
        data=record.name,
        backend=record.display_name,
        model=record.spec.model,
        status=record.status,
        estimated_low_usd=cost.low if cost else None,
        estimated_usd=cost.expected if cost else None,
        estimated_high_usd=cost.high if cost else None,
        actual_usd=actual.cost_usd if actual else None,
        counted_usd=budgets.held(record, alive),
        estimated_tokens=quote.tokens,
        trained_tokens=budgets.reported_tokens(record, quote),
        estimated_seconds=quote.seconds.expected if quote.seconds else None,
        seconds=record.seconds,
        price_usd=price.usd if price else None,
        price_unit=price.unit if price else None,
        price_as_of=price.as_of if price else None,
        price_source=price.source if price else None,
        basis=actual.basis if actual else "not ended",
    )


def _by_run(charges: Iterable[Charge]) -> list[Charge]:
    """Return the charges with those of one day, name and model as one: a comparison asks in rounds,
    and has one for each."""
    runs: dict[tuple[object, ...], list[Charge]] = {}
    for charge in charges:
        day = datetime.fromtimestamp(charge.created_at, UTC).date()
        run = (charge.name or charge.id, charge.host, charge.model, charge.ended, day)
        one_line = charge.name.startswith((COMPARE, CHECK))
        runs.setdefault(run if one_line else (charge.id,), []).append(charge)
    return [_sum(found) if len(found) > 1 else found[0] for found in runs.values()]


def _sum(rounds: list[Charge]) -> Charge:
    """Return the charges of some rounds as one."""
    costs = [one.cost for one in rounds if one.cost is not None]
    spent = [one.spent_usd for one in rounds if one.spent_usd is not None]
    low, expected, high = (
        sum((getattr(cost, name) for cost in costs), budgets.ZERO)
        for name in ("low", "expected", "high")
    )
    whole = len(costs) == len(rounds)
    most = f", with requests without an answer, {AT_MOST}" * any(
        AT_MOST in one.basis for one in rounds[:-1]
    )
    return rounds[-1].model_copy(
        update={
            "created_at": rounds[0].created_at,
            "cost": Range[Decimal](low=low, expected=expected, high=high) if whole else None,
            "reserved_usd": sum((one.reserved_usd for one in rounds), budgets.ZERO),
            "spent_usd": sum(spent, budgets.ZERO) if len(spent) == len(rounds) else None,
            "basis": f"{len(rounds)} rounds of questions{most}, the last: {rounds[-1].basis}",
        }
    )


def _charge_line(charge: Charge) -> Line:
    cost, price = charge.cost, next(iter(charge.prices), None)
    reserved = "not ended: reserved until it is settled from the requests that were written down"
    if charge.name.startswith(DEPLOYMENT):
        job, _, name = charge.name.removeprefix(DEPLOYMENT).partition("/")
        end = f"ftg deploy {job} --delete{f' --name {name}' if name else ''}"
        reserved = f"it goes on, and costs by the hour, until: {end}"
    return Line(
        date=datetime.fromtimestamp(charge.created_at, UTC).date(),
        job_id=charge.name or charge.id,
        data="",
        backend=charge.backend,
        model=charge.model,
        status=charge.hold.status,
        estimated_low_usd=cost.low if cost else None,
        estimated_usd=cost.expected if cost else None,
        estimated_high_usd=cost.high if cost else None,
        actual_usd=charge.spent_usd,
        counted_usd=charge.held_usd,
        estimated_tokens=None,
        trained_tokens=None,
        estimated_seconds=None,
        seconds=None,
        price_usd=price.usd if price else None,
        price_unit=price.unit if price else None,
        price_as_of=price.as_of if price else None,
        price_source=price.source if price else None,
        basis=charge.basis if charge.ended else reserved,
        kind="charge",
    )


def _totals(jobs: tuple[Line, ...], charges: tuple[Line, ...], damaged: int) -> Totals:
    lines = (*jobs, *charges)

    def total(name: str) -> Decimal:
        return sum((getattr(line, name) or Decimal(0) for line in lines), Decimal(0))

    return Totals(
        jobs=len(jobs),
        charges=len(charges),
        open=sum(not line.status.final for line in lines),
        without_estimate=sum(line.estimated_usd is None for line in lines),
        damaged=damaged,
        without_actual=sum(line.status.final and line.actual_usd is None for line in lines),
        estimated_low_usd=total("estimated_low_usd"),
        estimated_usd=total("estimated_usd"),
        estimated_high_usd=total("estimated_high_usd"),
        actual_usd=total("actual_usd"),
        at_most=any(AT_MOST in line.basis for line in charges),
        counted_usd=total("counted_usd"),
    )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def csv_cell(value: Any) -> Any:
    """Return a value as a cell that no spreadsheet runs as a formula."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
