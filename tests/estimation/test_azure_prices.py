"""``ftg prices update --azure``: list prices from a stand-in of Azure's Retail Prices API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest
from support.azure_prices import RetailPrices, item
from support.cli import Ftg
from support.paths import DEMO_TRAIN

from finetune_gateway.errors import BackendError, SpecError
from finetune_gateway.price_updates import azure_retail
from finetune_gateway.price_updates.azure_retail import list_prices
from finetune_gateway.settings import network

D = Decimal
NANO, MINI = "gpt-4.1-nano-2025-04-14", "gpt-4.1-mini-2025-04-14"


@pytest.fixture
def retail(monkeypatch: pytest.MonkeyPatch) -> Iterator[RetailPrices]:
    with RetailPrices() as running:
        monkeypatch.setattr(azure_retail, "ADDRESS", running.url)
        yield running


def amounts(region: str, currency: str = "USD") -> dict[tuple[str, str, str | None], Decimal]:
    found = list_prices(region, currency).prices
    return {(one.model, one.unit, one.tier): one.amount for one in found}


def test_the_reading_of_eastus2_is_given_exactly(retail: RetailPrices) -> None:
    """Training by type, use of the base and of the fine-tune, and one fee by the hour."""
    tuned = f"ft:{NANO}"
    assert amounts("eastus2") == {
        (NANO, "train_mtok", "global"): D("1.5"),
        (NANO, "train_mtok", "standard"): D("1.65"),
        (NANO, "train_mtok", "developer"): D("0.75"),
        (NANO, "in_mtok", "global"): D("0.1"),
        (NANO, "out_mtok", "global"): D("0.4"),
        (NANO, "cached_in_mtok", "global"): D("0.025"),
        (NANO, "in_mtok", "standard"): D("0.11"),
        (NANO, "out_mtok", "standard"): D("0.44"),
        (NANO, "cached_in_mtok", "standard"): D("0.028"),
        (tuned, "in_mtok", "global"): D("0.1"),
        (tuned, "out_mtok", "global"): D("0.4"),
        (tuned, "cached_in_mtok", "global"): D("0.025"),
        (tuned, "in_mtok", "standard"): D("0.11"),
        (tuned, "out_mtok", "standard"): D("0.44"),
        (tuned, "cached_in_mtok", "standard"): D("0.028"),
        ("standard deployment", "hosting_hour", None): D("1.7"),
    }
    assert retail.requests[0]["currencyCode"] == "'USD'"
    assert retail.requests[0]["$filter"] == (
        "serviceName eq 'Foundry Models' and armRegionName eq 'eastus2'"
    )


def test_the_reading_in_euros_is_given_exactly(retail: RetailPrices) -> None:
    found = amounts("northeurope", "EUR")
    assert found[MINI, "train_mtok", "global"] == D("4.4")
    assert found[MINI, "train_mtok", "standard"] == D("5.8")
    assert found["standard deployment", "hosting_hour", None] == D("1.4937")
    assert found[f"ft:{MINI}", "out_mtok", "global"] == D("1.4")
    assert amounts("swedencentral", "EUR")[MINI, "train_mtok", "standard"] == D("5.3")


def test_pages_are_followed_at_that_address_alone(
    retail: RetailPrices, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = amounts("eastus2")
    retail.page_size = 3
    assert amounts("eastus2") == whole and len(retail.requests) > 5
    monkeypatch.setattr(azure_retail, "MOST_PAGES", 3)
    with pytest.raises(BackendError, match="has no end"):
        amounts("eastus2")
    monkeypatch.setattr(
        retail, "answer", lambda *_: (200, {"Items": [], "NextPageLink": "https://evil.example/"})
    )
    with pytest.raises(BackendError, match="goes on at another address"):
        amounts("eastus2")


def test_an_answer_without_an_end_is_cut_off(
    retail: RetailPrices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bytes, or by its time."""
    monkeypatch.setattr(network, "MOST_BYTES", 3_000_000)
    retail.fault("GET /api/retail/prices", "endless")
    with pytest.raises(BackendError, match="did not answer: the answer has no end"):
        amounts("eastus2")
    assert retail.sent < 100_000_000
    monkeypatch.setattr(network, "LONGEST_ANSWER", 0.1)
    retail.fault("GET /api/retail/prices", "trickle", seconds=9)
    with pytest.raises(BackendError, match="did not answer: the answer has no end"):
        amounts("eastus2")


def test_what_is_not_understood_is_left_out(retail: RetailPrices) -> None:
    """Other models, words, units and zeros; of two prices of one thing the higher counts."""
    odd = [
        ("gpt 4o 0513 Input global", 0.005, "1K"),
        ("gpt 4.1 nano batch Inp glbl", 0.00005, "1K"),
        ("gpt 4.1 nano Inp Outp glbl", 0.005, "1K"),
        ("gpt-4.1-nano-ft hosting regional", 1.7, "1K"),
        ("gpt-4.1-mini-ft hosting glbl", 0.0, "1 Hour"),
        ("gpt 4.1 nano Inp glbl", 0.001, "1/Month"),
    ]
    known = list_prices("eastus2")
    retail.items += [
        item({"region": "eastus2", "sku": sku, "price": price, "unit": unit})
        for sku, price, unit in odd
    ]
    again = list_prices("eastus2")
    assert again.prices == known.prices and again.unread == known.unread + len(odd)
    retail.items += [
        item({"region": "eastus2", "sku": sku, "price": price, "unit": unit})
        for sku, price, unit in (
            ("gpt-4.1-nano-ft hosting dz", 2, "1 Hour"),
            ("gpt 4o 0806 FT Training dzone", 0.0275, "1K"),
        )
    ]
    found = {(one.model, one.tier): one for one in list_prices("eastus2").prices}
    assert found["standard deployment", None].amount == D(2)
    assert "is 1.7" in found["standard deployment", None].note
    assert found["gpt-4o-2024-08-06", "datazone"].amount == D("27.5")


def test_regions_and_currencies_are_checked(retail: RetailPrices) -> None:
    for region, currency in (("East US", "USD"), ("a' or x", "USD"), ("eastus2", "euro")):
        with pytest.raises(SpecError, match="eastus2"):
            list_prices(region, currency)
    with pytest.raises(BackendError, match="no price of a tuned model in nowhere"):
        list_prices("nowhere")
    assert [asked["$filter"] for asked in retail.requests] == [
        "serviceName eq 'Foundry Models' and armRegionName eq 'nowhere'"
    ]


def test_they_become_rows_of_yours_that_estimates_use(ftg: Ftg, retail: RetailPrices) -> None:
    done = ftg("prices", "update", "--azure", "eastus2")
    assert done.returncode == 0 and "16 prices saved" in done.stderr
    assert f"{NANO} train_mtok (developer) $0.75" in done.stdout
    asked = ("estimate", str(DEMO_TRAIN), "--model", NANO, "--backend", "azure", "--json")
    price = json.loads(ftg(*asked).stdout)[0]["prices"][0]
    assert (price["usd"], price["tier"], price["source"]) == ("1.65", "standard", retail.url)
    assert "List price in eastus2" in price["note"]
    assert ftg("prices", "check").returncode == 0
    assert "16 prices saved" in ftg("prices", "update", "--azure", "eastus2").stderr  # replaced
    shown = json.loads(ftg("prices", "--backend", "azure", "--tier", "developer", "--json").stdout)
    assert [(row["model"], row["usd"]) for row in shown] == [(NANO, "0.75")]
    own = json.loads(
        ftg("prices", "set", "--backend", "azure", "--model", NANO, "--unit", "train_mtok",
            "--tier", "standard", "--usd", "1.2", "--source", "contract", "--json").stdout
    )  # fmt: skip
    assert own["replaced"] and own["row"]["tier"] == "standard"


def test_other_currencies_are_shown_and_not_kept(ftg: Ftg, retail: RetailPrices) -> None:
    asked = ("prices", "update", "--azure", "northeurope", "--currency", "eur")
    done = ftg(*asked)
    assert done.returncode == 0 and f"{MINI} train_mtok (global) 4.4 EUR" in done.stdout
    assert "Not kept" in done.stderr
    document = json.loads(ftg(*asked, "--json").stdout)
    assert (document["currency"], document["kept"]) == ("EUR", False)
    assert "does not exist yet" in ftg("prices", "path").stdout
    for wrong in (("update", "--currency", "EUR"), ("show", "--azure", "eastus2")):
        assert ftg("prices", *wrong).returncode == 2
