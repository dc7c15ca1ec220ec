"""A stand-in of the Azure Retail Prices API, with the meters of ``data/azure_retail_prices.json``.

    with RetailPrices() as azure:
        httpx.get(azure.url, params={"$filter": "serviceName eq 'Foundry Models'"})

Public, without a key; in pages that name the next one; filters compare as their case is; prices in
another currency than dollars by ``currencyCode``. As the page "Azure Retail Prices overview" says.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from support.paths import DATA
from support.provider_faults import NOT_APPLIED, Answering
from support.provider_memory import JSON
from support.provider_server import Host

PATH = "/api/retail/prices"
FILE = DATA / "azure_retail_prices.json"
CLAUSE = re.compile(r"(?:contains\((\w+),\s*'([^']*)'\)|(\w+) eq '([^']*)')")
LOCATIONS = {
    "eastus2": "US East 2",
    "northeurope": "EU North",
    "swedencentral": "SE Central",
    "westus": "US West",
}


class PricesHandler(Answering):
    provider: RetailPrices

    def do_GET(self) -> None:
        self.more = {}
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.provider.requests.append(query)
        fault = self.provider.next_fault(f"GET {split.path}")
        if fault and fault.kind in NOT_APPLIED:
            return self.fail_before(fault)
        status, answer = self.provider.answer(split.path, query)
        if fault:
            return self.fail_after(fault, status, answer)
        self.send(status, answer)


class RetailPrices(Host):
    """The meters, in pages of ``page_size``. ``requests`` has the query of each request."""

    def __init__(self, *, page_size: int = 1000, **host: Any) -> None:
        super().__init__(PricesHandler, **host)
        self.requests: list[dict[str, str]] = []
        self.page_size = page_size
        meters = json.loads(FILE.read_text("utf-8"))["meters"]
        self.items = [item(meter) for meter in meters]

    @property
    def url(self) -> str:
        return f"{self.root}{PATH}"

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, JSON]:
        if path != PATH:
            return 404, {"Message": "No HTTP resource was found that matches the request URI."}
        currency = query.get("currencyCode", "USD").strip("'")
        text = query.get("$filter", "")
        try:
            wanted = alternatives(text)
        except ValueError as wrong:
            return 400, {"Message": f"Invalid filter: {wrong}"}
        found = [
            one for one in self.items if one["currencyCode"] == currency and matches(one, wanted)
        ]
        start = int(query.get("$skip", 0))
        end = start + self.page_size
        more = f"{self.url}?currencyCode={quote(repr(currency))}&$filter={quote(text)}&$skip={end}"
        page = found[start:end]
        return 200, {
            "BillingCurrency": currency,
            "CustomerEntityId": "Default",
            "CustomerEntityType": "Retail",
            "Items": page,
            "NextPageLink": more if end < len(found) else None,
            "Count": len(page),
        }


def alternatives(text: str) -> list[list[tuple[str, str, bool]]]:
    """``a eq 'x' and contains(b, 'y') or ...`` as clauses: field, value, whether it is a part."""
    return [
        [clause(one) for one in re.split(r"\s+and\s+", side.strip(" ()"))]
        for side in re.split(r"\s+or\s+", text)
        if side.strip()
    ]


def clause(text: str) -> tuple[str, str, bool]:
    whole = text.strip()
    found = CLAUSE.fullmatch(whole) or CLAUSE.fullmatch(f"{whole})")
    if found is None:
        raise ValueError(text)
    part, value, field, equal = found.groups()
    return (part, value, True) if part else (field, equal, False)


def matches(one: JSON, wanted: list[list[tuple[str, str, bool]]]) -> bool:
    """Does a meter hold to all clauses of one alternative? Without a filter all do."""

    def holds(field: str, value: str, in_part: bool) -> bool:
        there = str(one.get(field))
        return value in there if in_part else value == there

    return not wanted or any(all(holds(*each) for each in clauses) for clauses in wanted)


def item(meter: JSON) -> JSON:
    """A meter with every field of the API: what the file does not say is made from its name."""
    region, sku = meter["region"], meter["sku"]
    name = meter.get("meter", f"{sku} Tokens")
    made = uuid.uuid5(uuid.NAMESPACE_URL, f"{region} {sku}")
    return {
        "currencyCode": meter.get("currency", "USD"),
        "tierMinimumUnits": 0.0,
        "retailPrice": meter["price"],
        "unitPrice": meter["price"],
        "armRegionName": region,
        "location": LOCATIONS[region],
        "effectiveStartDate": "2026-06-01T00:00:00Z",
        "meterId": str(made),
        "meterName": name,
        "productId": "DZH318Z0P8FL",
        "skuId": f"DZH318Z0P8FL/{made.hex[:4].upper()}",
        "productName": meter.get("product", "Azure OpenAI"),
        "skuName": sku,
        "serviceName": meter.get("service", "Foundry Models"),
        "serviceId": "DZH319DP9VB5",
        "serviceFamily": "AI + Machine Learning",
        "unitOfMeasure": meter.get("unit", "1K"),
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": sku,
    }
