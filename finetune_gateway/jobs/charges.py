"""Money that is spent without a job, such as on a recording: reserved before the first request.

Why it has a table, unlike a job, is in docs/decisions/0005-budget.md. Jobs and charges of a month
see each other: both are admitted in one transaction. A process that dies leaves its reservation:
what was spent is then counted from the requests that it has written down, and committed with
``settle``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from finetune_gateway.errors import StoreError
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.price_table import Price, add_command
from finetune_gateway.estimation.profiles import profile_names
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs.budget import ZERO, Budget, Hold
from finetune_gateway.jobs.records import MOST_ESTIMATED
from finetune_gateway.jobs.reported import damaged_row
from finetune_gateway.jobs.store import Store
from finetune_gateway.model import Model
from finetune_gateway.settings.connections import with_json
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import LATEST

Sum = Annotated[Decimal, Field(ge=0, le=MOST_ESTIMATED)]
Moment = Annotated[float, Field(ge=0, lt=LATEST)]  # since the epoch, that a calendar has
_SUM: TypeAdapter[Decimal] = TypeAdapter(Sum)
_MOMENT: TypeAdapter[float] = TypeAdapter(Moment)
AT_MOST = "counted at their most"  # in a basis: of requests without an answer
COMPARE = "compare:"  # begins the name of what a comparison has cost, in one round or several
CHECK = "check:"  # and of what a check of a model has
DEPLOYMENT = "deployment:"  # and of what a deployment of a job's model costs, until it is ended


class Charge(Model):
    """What was reserved and spent without a job.

    ``name``: what it is for, like ``recorded:support-2026-12-01``; empty once that was removed.
    ``cost``: the estimate, None if no price is known. ``reserved_usd``: what it takes of its month
    until it has ended; ``spent_usd`` afterwards. ``basis``: what that is based on, in words.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    created_at: Moment
    name: str
    backend: str
    host: str
    model: str
    cost: Range[Decimal] | None = None
    prices: tuple[Price, ...] = ()
    reserved_usd: Sum = ZERO
    spent_usd: Sum | None = None
    basis: str = ""
    ended_at: Moment | None = None

    @property
    def ended(self) -> bool:
        """True once it is known what was spent."""
        return self.ended_at is not None

    @property
    def held_usd(self) -> Decimal:
        """What it takes of its month; a deployment that goes on, what it has cost until now."""
        spent = self.spent_usd if self.ended else None
        if not self.ended and self.name.startswith(DEPLOYMENT):
            return max(self.reserved_usd, self.by_the_hour(time.time()))
        return self.reserved_usd if spent is None else spent

    def by_the_hour(self, until: float, since: float = 0.0) -> Decimal:
        """Return what the hours until then cost by its price; those from ``since`` on."""
        seconds = max(0.0, until - max(since, self.created_at))
        hours = Decimal(str(round(seconds))) / 3600
        return sum((price.usd * hours for price in self.prices), ZERO).quantize(budgets.CENT_PARTS)

    @property
    def hold(self) -> Hold:
        """Its part of a month's budget, among those of jobs."""
        status = JobStatus.SUCCEEDED if self.ended else JobStatus.RUNNING
        return Hold(job_id=self.name or self.id, status=status, usd=self.held_usd, spent=self.ended)


def new_id() -> str:
    """Return a new id of a charge."""
    return f"chg-{os.urandom(6).hex()}"


def reserve(store: Store, charge: Charge, cap: Decimal | None) -> None:
    """Commit a charge if its month has room for what it reserves, in the transaction that also
    admits jobs. Raises BudgetError, and for a charge without a price where there is a ``cap``."""
    reserve_all(store, charge.name, cap, lambda taken: [charge])


def reserve_all(
    store: Store, name: str, cap: Decimal | None, made: Callable[[Decimal], Sequence[Charge]]
) -> Sequence[Charge]:
    """Commit the charges of this name that ``made`` returns, and return them; or raise as
    ``reserve`` does and commit none. ``made``: called with what all runs of this name have spent
    and reserved; until the end no other process can reserve more."""
    with store.transaction() as db:
        every = made(sum((one.held_usd for one in of_name(store, name)), ZERO))
        for charge in every:
            if cap is not None:
                high = charge.reserved_usd
                cost = Range[Decimal](low=ZERO, expected=high, high=high) if charge.cost else None
                room = month(store, charge.created_at, cap)
                budgets.require_room(
                    cost, room, unpriced=charge.model, what="It", way=_WAY, price_way=_add(charge)
                )
            _insert(db, charge)
    return every


_WAY = "Give --max-cost USD to take less: it stops there."


def _add(charge: Charge) -> str:
    """Return the way to give a charge a price."""
    if charge.name.startswith(DEPLOYMENT):
        add = add_command(charge.backend, "standard deployment", "hosting_hour")
    else:
        add = add_command(charge.backend, charge.model, "in_mtok", "out_mtok")
    return f"Add a row: {add}" if charge.backend in profile_names() else ""


def _insert(db: sqlite3.Connection, charge: Charge) -> None:
    row = {
        **charge.model_dump(mode="json", exclude={"cost", "prices", "reserved_usd", "spent_usd"}),
        "cost": None if charge.cost is None else charge.cost.model_dump_json(),
        "prices": json.dumps([price.model_dump(mode="json") for price in charge.prices]),
        "reserved_usd": f"{charge.reserved_usd:f}",
        "spent_usd": None if charge.spent_usd is None else f"{charge.spent_usd:f}",
    }
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO charges ({', '.join(row)}) VALUES ({marks})", [*row.values()])


def settle(
    store: Store,
    charge_id: str,
    spent: Decimal | None,
    basis: str,
    cost: Range[Decimal] | None = None,
) -> None:
    """Commit what was spent, once; None: no price is known. The rest of the reservation is free.
    ``cost``: the estimate of what was done, if that is not all that was estimated."""
    with store.transaction():
        settle_within(store, charge_id, spent, basis, cost)


def settle_within(
    store: Store,
    charge_id: str,
    spent: Decimal | None,
    basis: str,
    cost: Range[Decimal] | None = None,
) -> None:
    """Settle a charge as a part of the transaction that this thread is in."""
    store.query(
        "UPDATE charges SET spent_usd = ?, basis = ?, ended_at = ?, cost = COALESCE(?, cost)"
        " WHERE id = ? AND ended_at IS NULL",
        (
            None if spent is None else f"{spent:f}",
            basis,
            time.time(),
            None if cost is None else cost.model_dump_json(),
            charge_id,
        ),
    )


def forget_name(store: Store, name: str) -> None:
    """Take the name out of the charges of something that is removed: what they cost stays."""
    with store.transaction() as db:
        db.execute("UPDATE charges SET name = '' WHERE name = ?", (name,))


def of_period(store: Store, start: float, end: float | None) -> tuple[list[Charge], int]:
    """Return the charges from ``start`` to before ``end`` (seconds since the epoch), oldest first,
    and how many are left out because they are damaged: ``store.damaged`` says why. Of a deployment
    that goes over an end of the period only its hours within, whenever it began: the budget of a
    month and the ledger of its days count the same."""
    rows = _rows_of_period(store, start, end)
    readable = [*_readable(store, rows)]
    found = (_within(charge, start, end) for charge in readable)
    return [charge for charge in found if charge is not None], len(rows) - len(readable)


def _rows_of_period(store: Store, start: float, end: float | None) -> list[sqlite3.Row]:
    """Return the rows of a period; those that have no moment of a calendar, or go on, for whose
    name may be damaged may be a deployment. In SQLite texts and blobs are above any number."""
    return store.query(
        "SELECT * FROM charges WHERE ((?2 IS NULL OR created_at < ?2) AND (created_at >= ?1"
        " OR ended_at IS NULL OR ended_at > ?1))"
        " OR created_at >= ?3 OR created_at < 0 OR created_at IS NULL ORDER BY rowid",
        (start, end, LATEST),
    )


def unsettled(store: Store, name: str | None = None) -> list[Charge]:
    """Return the charges that have not ended, oldest first: all, or those of this name. Damaged
    ones are left out: nobody can tell what to settle."""
    rows = store.query(
        "SELECT * FROM charges WHERE ended_at IS NULL AND (?1 IS NULL OR name = ?1) ORDER BY rowid",
        (name,),
    )
    return [*_readable(store, rows)]


def unsettled_names(store: Store) -> set[str]:
    """Return the names of the charges that have not ended, damaged ones too."""
    rows = store.query("SELECT DISTINCT name FROM charges WHERE ended_at IS NULL")
    return {str(row["name"]) for row in rows}


def of_deployments(store: Store, job_id: str) -> list[Charge]:
    """Return the charges of deployments of a job that go on."""
    name = f"{DEPLOYMENT}{job_id}"
    going_on = unsettled(store)
    return [one for one in going_on if one.name == name or one.name.startswith(f"{name}/")]


def of_name(store: Store, name: str, ids: Collection[str] = ()) -> list[Charge]:
    """Return all charges of this name, and those with these ids, oldest first. Raises StoreError
    for a damaged one: their sum decides what may still be spent."""
    rows = store.query(
        "SELECT * FROM charges WHERE name = ?1 OR id IN (SELECT value FROM json_each(?2))"
        " ORDER BY rowid",
        (name, json.dumps([*ids])),
    )
    return [_charge(row) for row in rows]


def _readable(store: Store, rows: Iterable[sqlite3.Row]) -> Iterator[Charge]:
    """Yield the charges in rows that are not damaged; ``store.damaged`` says why of the others."""
    for row in rows:
        try:
            yield _charge(row)
        except StoreError as exc:
            if row["id"] not in store.damaged:
                logs.jobs.warning("%s", exc.message)
            store.damaged[row["id"]] = exc


def _charge(row: sqlite3.Row) -> Charge:
    try:
        return Charge.model_validate(with_json(row, ("prices", "cost")))
    except ValueError as exc:
        hint = "Restore the file from a copy of yours: what was spent cannot be known without."
        raise damaged_row(f"the charge {row['id']}", exc, hint) from None


def month(store: Store, moment: float, cap: Decimal | None, without: str = "") -> Budget:
    """Return the budget of the month of ``moment`` after all jobs and charges, ``without`` one job.
    Inside a transaction no other process can take the same room."""
    name, start, end = budgets.month_of(moment)
    # A job from a time when the clock was ahead counts too: it was bought before now.
    last = end if end <= time.time() else None
    holds = [*_of_jobs(store, start, last, without), *_of_charges(store, start, last)]
    return budgets.budget(holds, name, cap)


def _of_jobs(store: Store, start: float, end: float | None, without: str) -> Iterator[Hold]:
    """Yield what each job takes. A submit asks while nobody else may write: what an ended job took
    is computed once, and again only if its row has changed."""
    rows = store.query(
        "SELECT * FROM jobs WHERE created_at >= ?1 AND (?2 IS NULL OR created_at < ?2)"
        " AND id != ?3 ORDER BY rowid",
        (start, end, without),
    )
    for row in rows:
        key, known = hash(tuple(row)), store.holds.get(row["id"])
        if known is not None and known[0] == key:
            yield known[1]
            continue
        try:
            hold = budgets.hold_of(store.record_of(row), store.is_being_sent)
        except StoreError as exc:
            hold = Hold.damaged(row["id"], exc)
        if hold.spent:
            store.holds[row["id"]] = (key, hold)
        yield hold


def _of_charges(store: Store, start: float, end: float | None) -> Iterator[Hold]:
    for row in _rows_of_period(store, start, end):
        try:
            charge = _within(_charge(row), start, end)
        except StoreError as exc:
            yield _hold_of_damaged(row, exc)
        else:
            if charge is not None:
                yield charge.hold


def _hold_of_damaged(row: sqlite3.Row, error: StoreError) -> Hold:
    """Return what a damaged charge takes: what it cost, whole, if that and its end can be read;
    else all that is left."""
    hold = Hold.damaged(row["id"], error)
    try:
        _MOMENT.validate_python(row["ended_at"])
        usd = _SUM.validate_python(row["spent_usd"])
    except ValidationError:
        return hold
    return hold.model_copy(update={"usd": usd, "spent": True, "damage": ""})


def _within(charge: Charge, start: float, end: float | None) -> Charge | None:
    """Return a charge with no more than its hours of a period. Of one without a price no hour is
    known: it belongs to the period that it began in, whole, as what goes on for minutes does."""
    last = charge.ended_at or time.time()
    stop = last if end is None else min(last, end)
    if not (charge.name.startswith(DEPLOYMENT) and charge.prices):
        return charge if charge.created_at >= start else None
    if charge.created_at >= start and stop == last:
        return charge
    spent = charge.by_the_hour(stop, since=start)
    if charge.spent_usd is not None:  # nothing, where nothing was made
        spent = min(spent, charge.spent_usd)
    changes: dict[str, Any] = {"created_at": max(charge.created_at, start)}
    if charge.created_at < start:  # what was expected and reserved was its first hour
        changes |= {"cost": Range[Decimal](low=ZERO, expected=ZERO, high=ZERO)}
        changes |= {"reserved_usd": ZERO}
    if charge.ended or stop < last:
        hours = f"{(stop - changes['created_at']) / 3600:.2f} hours of this period"
        rows = ", ".join(f"${price.usd} ({price.source})" for price in charge.prices)
        changes |= {"spent_usd": spent, "ended_at": stop, "basis": f"{hours} x {rows}"}
    return charge.model_copy(update=changes)
