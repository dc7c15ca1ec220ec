"""The actual cost of a job, its limit, and the budget of a month.

Uses stored jobs only. Each keeps its estimate and the price rows of that day, so the cost of an old
job does not change with the price table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Self

from pydantic import ConfigDict

from finetune_gateway.errors import BudgetError, StoreError
from finetune_gateway.estimation.estimate import MILLION, Estimate, Range
from finetune_gateway.estimation.hosted import price_ways
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs.records import JobRecord, StoredEstimate
from finetune_gateway.model import Model
from finetune_gateway.renderers import Shown

ZERO = Decimal(0)
BILLED = ("train_mtok", "train_hour", "gpu_hour")  # units a training bill is made of
CENT_PARTS = Decimal("0.000001")
TOO_MANY = 10  # times the high estimate of the tokens: no host has trained so many
# Azure has reported 21,581 and 8,265 trained tokens for an inline image: its base64, as text.
IMAGES = "which say nothing of its bill: rows with images are not charged by them"
NAMED = 5  # jobs that a refusal lists


class Quote(StoredEstimate):
    """The stored estimate of a job, and the price that its host has named, which takes the place of
    the estimated one."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore")

    quoted_usd: Decimal | None = None

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """Return the quote of a job; empty if it was stored without an estimate."""
        return cls.model_validate({**(record.estimate or {}), "quoted_usd": record.quote_usd})

    @property
    def row(self) -> Price | None:
        """The price row that the bill is based on."""
        return next((price for price in self.prices if price.unit in BILLED), None)

    @property
    def tokens(self) -> int | None:
        """The expected tokens: as a host bills them, or as a local trainer counts them. Either is
        compared with the job's own ``trained_tokens``."""
        tokens = self.billed_tokens or self.trained_tokens
        return tokens.expected if tokens else None

    @property
    def high(self) -> Decimal:
        """The price that was named, else the high estimate; 0 if no price is known."""
        return self.price.high if self.price else ZERO

    @property
    def price(self) -> Range[Decimal] | None:
        """The price that was named, else the estimated one."""
        if self.quoted_usd is None:
            return self.cost_usd
        usd = self.quoted_usd
        return Range[Decimal](low=usd, expected=usd, high=usd)


class Actual(Model):
    """What an ended job took; None means not known.

    ``seconds``: by the backend's own clock; a hosted backend counts its queue too. ``basis``: what
    the cost is based on, or why there is none.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    trained_tokens: int | None
    seconds: float | None
    cost_usd: Decimal | None
    price: Price | None
    basis: str


def actual(record: JobRecord) -> Actual | None:
    """Return what a job took; None while it is running. Offline."""
    if not record.status.final:
        return None
    quote = Quote.of(record)
    cost, price, basis = _bill(record, quote)
    return Actual(
        trained_tokens=reported_tokens(record, quote),
        seconds=record.seconds,
        cost_usd=cost,
        price=price,
        basis=basis,
    )


def _bill(record: JobRecord, quote: Quote) -> tuple[Decimal | None, Price | None, str]:
    """Return the cost, its price row, and what it is based on, in words. A job that has succeeded
    cost what its host quoted, where no figure of its own says more."""
    cost, row, basis = _computed(record, quote)
    if cost is None and quote.quoted_usd is not None and record.status is JobStatus.SUCCEEDED:
        return quote.quoted_usd, None, f"as {record.display_name} quoted it before it was created"
    return cost, row, basis


def _computed(record: JobRecord, quote: Quote) -> tuple[Decimal | None, Price | None, str]:
    if never_created(record):
        return ZERO, None, "nothing was created"
    if record.cost_usd is not None:
        return record.cost_usd, None, f"as {record.display_name} bills it"
    row = quote.row
    if row is None:
        if quote.cost_usd and quote.cost_usd.high == 0:
            return ZERO, None, "no charge: this machine has no price"
        if quote.prices:  # by a unit of its own, which only the host can count
            return None, quote.prices[0], f"{record.display_name} did not say what it cost"
        return None, None, "no price was known when it was submitted"
    of = f"of {row.as_of}, {row.source}"
    if row.unit == "train_mtok":
        tokens = reported_tokens(record, quote)
        if tokens is None:
            return None, row, f"{record.display_name} {_said_of_tokens(record)}"
        if quote.counted and quote.counted.images:
            return None, row, f"{record.display_name} reported {tokens:,} trained tokens, {IMAGES}"
        cost = row.usd * tokens / MILLION
        return cost, row, f"{tokens:,} tokens x ${row.usd} a million, {of}"
    if record.seconds is None:
        return None, row, f"{record.display_name} did not report how long it trained"
    hours = Decimal(str(record.seconds)) / 3600
    cost = (hours * row.usd).quantize(CENT_PARTS)
    return cost, row, f"{hours:.4f} hours x ${row.usd}, {of}"


def reported_tokens(record: JobRecord, quote: Quote) -> int | None:
    """Return the tokens that were trained; None if they were not reported, or if that cannot be
    true: more than ten times the high estimate, or of a success fewer than one for each row."""
    tokens, billed = record.trained_tokens, quote.billed_tokens
    if tokens is None or billed is None:
        return tokens
    too_few = record.status is JobStatus.SUCCEEDED and tokens < record.train.rows
    return None if too_few or tokens > TOO_MANY * billed.high else tokens


def _said_of_tokens(record: JobRecord) -> str:
    if record.trained_tokens is None:
        return "did not report the trained tokens"
    return f"reported {record.trained_tokens:,} trained tokens, which cannot be true"


def never_created(record: JobRecord) -> bool:
    """Return True if no backend can have this job; in the step ``creating`` one may have it."""
    return record.provider_id is None and record.step != "creating"


# -- the limit of one job ------------------------------------------------------------------


def require_within(estimate: Estimate, limit: Decimal | None) -> None:
    """Raise BudgetError when the high estimate is above the limit in USD, or when no price is
    known for a job that somebody else bills. No limit allows everything."""
    if limit is None:
        return
    if estimate.cost_usd is None:
        if not estimate.data_leaves_machine:
            return
        ways = price_ways(estimate.backend, estimate, estimate.billed_tokens)
        raise BudgetError(
            f"No price is known for {estimate.model!r}, so a limit of {dollars(limit)} USD "
            "cannot be checked.",
            hint=", or ".join(filter(None, ["Submit without a limit", ways])),
        )
    high = estimate.cost_usd.high
    if high > limit:
        cost, most = apart(high, limit)
        raise BudgetError(
            f"The job may cost {cost} USD, over the limit of {most}.",
            hint="Raise --max-cost, use fewer epochs or rows, or a cheaper model.",
        )


# -- the budget of a month ---------------------------------------------------------------


class Hold(Model):
    """What one job takes of a month's budget: its high estimate until its cost is known. So does a
    charge, by its name (``charges.py``). ``damage``: why nobody can read what it takes; all that is
    left of the month then, whatever ``usd`` says."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    job_id: str
    status: JobStatus
    usd: Decimal
    spent: bool  # True if the job has ended
    damage: str = ""

    @classmethod
    def damaged(cls, job_id: object, error: StoreError) -> Self:
        """Return the hold of a damaged row of the store."""
        why = error.message
        return cls(job_id=str(job_id), status=JobStatus.UNKNOWN, usd=ZERO, spent=False, damage=why)


class Budget(Shown, Model):
    """A calendar month, in UTC. ``holds`` has the largest first; jobs that take nothing are not
    in it. A cap of None is no limit."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    month: str  # 2026-11
    cap_usd: Decimal | None
    holds: tuple[Hold, ...]

    @property
    def spent_usd(self) -> Decimal:
        """Of jobs that have ended."""
        return sum((hold.usd for hold in self.holds if hold.spent), ZERO)

    @property
    def reserved_usd(self) -> Decimal:
        """The high estimates of jobs that go on."""
        return sum((hold.usd for hold in self.holds if not hold.spent), ZERO)

    @property
    def left_usd(self) -> Decimal | None:
        """What a job may still cost; nothing while a hold is damaged."""
        if self.cap_usd is None:
            return None
        if any(hold.damage for hold in self.holds):
            return ZERO
        return max(ZERO, self.cap_usd - self.spent_usd - self.reserved_usd)

    def summary(self) -> dict[str, str | None]:
        """Return the sums as JSON has them; amounts are texts, to the last digit."""
        sums = {
            "cap_usd": self.cap_usd,
            "spent_usd": self.spent_usd,
            "reserved_usd": self.reserved_usd,
            "left_usd": self.left_usd,
        }
        plain = {name: None if usd is None else f"{usd:f}" for name, usd in sums.items()}
        return {"month": self.month, **plain}


def month_of(moment: float) -> tuple[str, float, float]:
    """Return the month of a moment in UTC, like 2026-11, its first second and the next month's."""
    start = datetime.fromtimestamp(moment, UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    following = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return f"{start:%Y-%m}", start.timestamp(), following.timestamp()


def held(record: JobRecord, alive: Callable[[str], bool]) -> Decimal:
    """Return what a job takes of its month's budget, in USD.

    ``alive`` is True for a job that a process is sending now. A job that no process is sending,
    that was certainly not created and that has no phase takes nothing: its submitter is dead, and
    whoever continues it reserves its share again.
    """
    if record.status.final:
        ended = actual(record)
        known = ended.cost_usd if ended else None
        return Quote.of(record).high if known is None else known
    waiting = record.phase != ""  # rejected for now: it will be sent again
    if never_created(record) and not waiting and not alive(record.id):
        return ZERO
    return max(Quote.of(record).high, record.cost_usd or ZERO)


def hold_of(record: JobRecord, alive: Callable[[str], bool]) -> Hold:
    """Return what a job takes as a hold; ``alive``: see ``held``."""
    usd, ended = held(record, alive), record.status.final
    return Hold(job_id=record.id, status=record.status, usd=usd, spent=ended)


def budget(holds: Iterable[Hold], month: str, cap: Decimal | None) -> Budget:
    """Return the budget of a month; ``holds``: of all its jobs, and of what is spent there without
    a job."""
    taking = (hold for hold in holds if hold.usd > 0 or hold.damage)
    taken = sorted(taking, key=lambda hold: -hold.usd)
    return Budget(month=month, cap_usd=cap, holds=tuple(taken))


def admit(record: JobRecord, others: Budget) -> None:
    """Raise BudgetError if the job does not fit into what the other jobs leave of the month."""
    quote, spec = Quote.of(record), record.spec
    unpriced = spec.model if record.hosted else None
    ways = price_ways(record.backend, spec, quote.billed_tokens)
    require_room(quote.price, others, unpriced=unpriced, price_way=ways)


def require_room(
    cost: Range[Decimal] | None,
    others: Budget,
    unpriced: str | None,
    *,
    what: str = "The job",
    way: str = "",
    price_way: str = "",
) -> None:
    """Raise BudgetError if a job of this cost does not fit into what the other jobs leave of the
    month, StoreError if nobody can read what one of them takes. ``unpriced``: the model of a job
    that needs a price; ``price_way``: what gives it one. ``what``: it, if it is no job; ``way``:
    another way out."""
    left, high = others.left_usd, cost.high if cost else ZERO
    if left is None:
        return
    if cost is None and unpriced is not None:
        raise BudgetError(
            f"No price is known for {unpriced!r}, so the budget of {others.month} "
            "cannot be checked.",
            hint=price_way[:1].upper() + price_way[1:],
        )
    if high <= left:
        return
    for hold in others.holds:
        if hold.damage:
            raise StoreError(
                f"{hold.damage} What it takes of the budget of {others.month} (UTC) cannot be "
                "known, so nothing more is bought.",
                hint="Restore the store from a copy of yours, or take the cap away: ftg config "
                "unset budget.monthly_usd",
            )
    raise BudgetError(
        f"{what} may cost {dollars(high)} USD, and {dollars(left)} of the "
        f"{dollars(others.cap_usd or ZERO)} for {others.month} (UTC) are left: "
        f"{dollars(others.spent_usd)} spent, {dollars(others.reserved_usd)} reserved"
        f"{_list_holds(others.holds)}.",
        hint=f"{way}{' ' * bool(way)}Wait for a job to end, cancel one, or raise the cap: ftg "
        "config set budget.monthly_usd USD. All of them: ftg costs",
    )


def _list_holds(holds: tuple[Hold, ...]) -> str:
    if not holds:
        return ""
    jobs = [
        f"{hold.job_id} {dollars(hold.usd)}{'' if hold.spent else ' reserved'}"
        for hold in holds[:NAMED]
    ]
    more = f", {len(holds) - NAMED} more" if len(holds) > NAMED else ""
    return f" ({', '.join(jobs)}{more})"


def apart(cost: Decimal, limit: Decimal) -> tuple[str, str]:
    """Return two amounts that differ so that they are seen to."""
    texts = dollars(cost), dollars(limit)
    return texts if texts[0] != texts[1] else (f"{cost:f}", f"{limit:f}")


def dollars(amount: Decimal) -> str:
    """Return an amount in cents; below a dollar, at least three significant digits."""
    if amount >= 1 or amount == 0:
        return f"{amount:,.2f}"
    return f"{amount:.{max(2, 2 - amount.adjusted())}f}"
