"""Money without a job: reserved with the jobs of a month, settled once, a line of its own."""

from __future__ import annotations

import csv
import io
import json
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from support.cli import Ftg
from support.recordings import NAME, charge
from support.records import record

from finetune_gateway import BudgetError, Gateway
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings


def job(high: str) -> dict[str, object]:
    cost = {"low": "0", "expected": high, "high": high}
    return {"hosted": True, "provider_id": "j", "estimate": {"cost_usd": cost, "prices": []}}


def store(home: Path) -> Store:
    return Store(Settings.load(home))


def test_jobs_and_charges_share_a_month(home: Path) -> None:
    """A charge is refused what a job has taken, and a job what a charge has; a refusal names it."""
    gateway = Gateway(monthly_usd=10)
    gateway.store.add(record(**job("6")))
    with pytest.raises(BudgetError, match="It may cost 5.00 USD, and 4.00 of the 10.00") as caught:
        charges.reserve(gateway.store, charge("5"), Decimal(10))
    assert "--max-cost" in caught.value.hint and charges.unsettled(gateway.store) == []
    charges.reserve(gateway.store, charge("3"), Decimal(10))
    found = gateway.budget()
    assert found.reserved_usd == 9 and found.left_usd == 1
    assert {hold.job_id for hold in found.holds} >= {NAME}
    more = record(id="ftg-2", submit_key="other", **job("2"))
    with pytest.raises(BudgetError, match=f"{NAME} 3.00 reserved"):
        gateway.store.add(more, lambda: gateway._submitter.reserve(more))


def test_a_charge_without_a_price_needs_a_month_without_a_cap(home: Path) -> None:
    """No limit could be kept for it."""
    unpriced = charge("0", cost=None, reserved_usd=Decimal(0))
    with pytest.raises(BudgetError, match="No price is known for 'ft:m'"):
        charges.reserve(store(home), unpriced, Decimal(10))
    charges.reserve(store(home), unpriced, None)
    assert Gateway().costs().totals.without_estimate == 1


def test_what_was_spent_takes_the_place_of_what_was_reserved(home: Path) -> None:
    """Once: a second word about the same charge changes nothing."""
    at_home, one = store(home), charge("3")
    charges.reserve(at_home, one, None)
    charges.settle(at_home, one.id, Decimal("0.125"), "9 answers")
    charges.settle(at_home, one.id, Decimal(99), "again")
    budget = Gateway(monthly_usd=10).budget()
    assert budget.spent_usd == Decimal("0.125") and budget.reserved_usd == 0
    assert charges.unsettled(at_home) == []


def test_of_many_that_reserve_at_once_as_many_fit_as_there_is_room(home: Path) -> None:
    """Twenty threads, jobs and charges, a cap for seven: the sum is never above it."""
    gateway = Gateway(monthly_usd=7)
    gateway.store.query("SELECT 1")
    admitted: list[str] = []

    def reserve(number: int) -> None:
        own = Store(gateway.settings)
        one = record(id=f"ftg-{number}", submit_key=str(number), **job("1"))
        submitter = Gateway(monthly_usd=7)._submitter
        try:
            if number % 2:
                charges.reserve(own, charge("1"), Decimal(7))
            else:
                own.add(one, lambda: submitter.reserve(one))
            admitted.append(str(number))
        except GatewayError:
            pass
        own.close()

    threads = [threading.Thread(target=reserve, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 7 and gateway.budget().reserved_usd == 7


def test_a_charge_is_a_line_of_its_own(home: Path, ftg: Ftg) -> None:
    """In the table, the CSV and the JSON, with its price row; the totals have both."""
    gateway = Gateway()
    price = Price(backend="openai", model="ft:m", unit="in_mtok", usd=Decimal("0.80"),
                  as_of="2026-10-05", source="https://example.com")  # type: ignore[arg-type]  # fmt: skip
    ended, going = charge("3", prices=[price]), charge("2", "recorded:other")
    for one in (ended, going):
        charges.reserve(gateway.store, one, None)
    charges.settle(gateway.store, ended.id, Decimal("1.5"), "498 answers by the host's usage")
    gateway.store.add(record(**job("4")))
    table = ftg("costs").stdout
    assert (
        f"{NAME}  succeeded" in table and "actual $1.50, estimated $1.50 ($0.00 to $3.00)" in table
    )
    assert "498 answers" in table and "not yet known, $2.00 reserved" in table
    assert "1 job, 2 charges, 2 not finished" in table and "ftg settle recorded:other" in (
        ftg("costs").stderr
    )
    rows = [*csv.DictReader(io.StringIO(ftg("costs", "--format", "csv").stdout))]
    assert [row["kind"] for row in rows] == ["job", "charge", "charge"]
    found = json.loads(ftg("costs", "--json").stdout)
    assert [line["job_id"] for line in found["charges"]] == [NAME, "recorded:other"]
    assert found["charges"][0]["price_usd"] == "0.80" and found["totals"]["jobs"] == 1
    assert Decimal(found["totals"]["counted_usd"]) == Decimal("7.5")
    assert Decimal(found["totals"]["actual_usd"]) == Decimal("1.5")


def test_the_rounds_of_a_comparison_are_one_line(home: Path) -> None:
    """For each model and day; one that has not ended is another."""
    gateway, name = Gateway(), "compare:cmp-00000001"
    rounds = [charge("3", name), charge("2", name), charge("1", name, model="ft:other")]
    for number, one in enumerate(rounds, 1):
        charges.reserve(gateway.store, one, None)
        charges.settle(gateway.store, one.id, Decimal(number), f"{number} answers")
    charges.reserve(gateway.store, charge("7", name), None)
    ledger = gateway.costs()
    found = [(line.model, line.estimated_high_usd, line.actual_usd) for line in ledger.charges]
    five, three, one_usd, seven = map(Decimal, (5, 3, 1, 7))
    assert found == [("ft:m", five, three), ("ft:other", one_usd, three), ("ft:m", seven, None)]
    assert ledger.charges[0].basis == "2 rounds of questions, the last: 2 answers"
    assert ledger.totals.actual_usd == 6 and ledger.totals.counted_usd == 13


def test_what_is_removed_leaves_its_cost_without_its_name(home: Path) -> None:
    """The name may have a suffix in it."""
    one = charge("3")
    charges.reserve(store(home), one, None)
    charges.forget_name(store(home), NAME)
    (line,) = Gateway().costs().charges
    assert line.job_id == one.id and line.counted_usd == 3
