"""A charge of the ledger whose row is damaged: the others are counted as ever, it is named with its
column, and no cap lets more be spent than if it were whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.recordings import charge
from support.records import record

from finetune_gateway import Gateway, StoreError
from finetune_gateway.cli import main
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.store import Store

CAP = Decimal(10)
NONSENSE = (
    *("NULL", "'nonsense'", "''", "'[1]'", "'{\"low\": []}'", "x'ff00'", "CAST(x'ff00' AS TEXT)"),
    *("-1", "1e300", "9e999", "'NaN'", "'-3.5e300'"),
)


@pytest.fixture
def store(home: Path) -> Store:
    """With one charge that was settled, one that is damaged below, and columns that take NULL."""
    found = Gateway(home).store
    with found.transaction() as db:
        db.execute("ALTER TABLE charges RENAME TO strict")
        columns = [row["name"] for row in db.execute("PRAGMA table_info(strict)")]
        db.execute(f"CREATE TABLE charges ({', '.join(columns)})")
        db.execute("DROP TABLE strict")
    charges.reserve(found, charge("4", name="recorded:good", id="chg-good"), None)
    charges.settle(found, "chg-good", Decimal(2), "usage")
    return found


def damages(store: Store, ended: bool) -> Iterator[tuple[str, str]]:
    """Each column of a charge of 3 USD in turn with nonsense that makes it unreadable."""
    for column in [*charges.Charge.model_fields]:
        for value in NONSENSE:
            with store.transaction() as db:
                db.execute("DELETE FROM charges WHERE id IS NOT 'chg-good'")
            charges.reserve(store, charge("3", name="recorded:bad", id="chg-bad"), None)
            if ended:
                charges.settle(store, "chg-bad", Decimal(1), "usage")
            with store.transaction() as db:
                db.execute(f"UPDATE charges SET {column} = {value} WHERE id = 'chg-bad'")
            store.damaged.clear()
            if _is_damaged(store):
                yield column, value


def _is_damaged(store: Store) -> bool:
    with sqlite3.connect(store.settings.database) as db:
        db.text_factory = bytes
        assert db.execute("SELECT count(*) FROM charges").fetchone() == (2,)
    readable, damaged = charges.of_period(store, 0.0, None)
    assert len(readable) + damaged == 2
    return damaged == 1


@pytest.mark.parametrize("ended", [False, True])
def test_a_damaged_charge_is_left_out_and_named(
    store: Store, ended: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands in a column: the ledger has the others, and a cap counts it at what it has
    cost, or allows nothing more."""
    seen = set()
    for column, value in damages(store, ended):
        seen.add(column)
        where = f"{column} = {value}, ended: {ended}"
        assert main(["costs", "--json"]) == 0, where
        said = capsys.readouterr()
        totals = json.loads(said.out)["totals"]
        assert (totals["charges"], totals["damaged"], totals["actual_usd"]) == (1, 1, "2"), where
        assert "is damaged" in said.err and "a copy of yours" in said.err, where
        if column != "id":
            named = " ".join(said.err.split())
            assert f"the charge chg-bad is damaged: {column}" in named, f"{where}: {named}"
        budget = Gateway(monthly_usd=CAP).budget()
        known = ended and column not in ("spent_usd", "ended_at")
        assert budget.left_usd == (CAP - 2 - 1 if known else 0), where
    assert seen >= {*charges.Charge.model_fields}


def test_what_a_damaged_charge_may_have_cost_is_not_spent_again(store: Store, home: Path) -> None:
    """A job and a charge are refused under a cap until it is restored; without one, and what costs
    nothing, is not."""
    charges.reserve(store, charge("3", name="recorded:bad", id="chg-bad"), None)
    with store.transaction() as db:
        db.execute("UPDATE charges SET reserved_usd = 'x' WHERE id = 'chg-bad'")
    gateway = Gateway(home, monthly_usd=CAP)
    cost = dict.fromkeys(("low", "expected", "high"), "1")
    dear = record(hosted=True, estimate={"cost_usd": cost})
    free = record(id="ftg-2", submit_key="free", estimate={"cost_usd": None})
    with pytest.raises(StoreError, match="chg-bad is damaged: reserved_usd") as caught:
        gateway.store.add(dear, lambda: gateway._submitter.reserve(dear))
    assert "nothing more is bought" in str(caught.value)
    assert "budget.monthly_usd" in caught.value.hint
    with pytest.raises(StoreError, match="chg-bad is damaged: reserved_usd"):
        charges.reserve(store, charge("1", name="recorded:new"), CAP)
    assert gateway.store.add(free, lambda: gateway._submitter.reserve(free))[1]
    uncapped = Gateway(home)
    assert uncapped.store.add(dear, lambda: uncapped._submitter.reserve(dear))[1]


def test_a_deployment_whose_name_is_damaged_counts_in_each_month(store: Store) -> None:
    """It began in an earlier one, goes on, and costs by the hour."""
    charges.reserve(store, charge("1", name="deployment:ftg-1", id="chg-d", created_at=1.0), None)
    with store.transaction() as db:
        db.execute("UPDATE charges SET name = x'ff' WHERE id = 'chg-d'")
    assert Gateway(monthly_usd=CAP).budget().left_usd == 0


def test_others_are_settled_beside_a_damaged_charge(store: Store) -> None:
    """What names one that is damaged raises; what is about others goes on."""
    charges.reserve(store, charge("3", name="recorded:bad", id="chg-bad"), None)
    charges.reserve(store, charge("3", name="recorded:open", id="chg-open"), None)
    with store.transaction() as db:
        db.execute("UPDATE charges SET prices = '[{}]' WHERE id = 'chg-bad'")
    assert [one.id for one in charges.unsettled(store)] == ["chg-open"]
    assert charges.unsettled_names(store) == {"recorded:bad", "recorded:open"}
    assert main(["doctor"]) in (0, 1)
    with pytest.raises(StoreError, match="chg-bad is damaged: prices"):
        charges.of_name(store, "recorded:bad")


def test_a_damaged_job_does_not_hide_the_budget(home: Path) -> None:
    """Nothing is left of it, and what it has is shown."""
    gateway = Gateway(home, monthly_usd=CAP)
    gateway.store.add(record(id="ftg-bad"))
    charges.reserve(gateway.store, charge("3", name="recorded:open"), None)
    with gateway.store.transaction() as db:
        db.execute("UPDATE jobs SET spec = CAST(x'ff' AS TEXT) WHERE id = 'ftg-bad'")
    budget: Any = gateway.budget()
    assert (budget.left_usd, budget.reserved_usd) == (0, 3)
    assert [hold.job_id for hold in budget.holds if hold.damage] == ["ftg-bad"]
