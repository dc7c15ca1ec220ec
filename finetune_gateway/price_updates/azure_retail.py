"""Request the list prices of tuning and of tuned models at Azure: its public Retail Prices API.

Names of meters have no documented form. A meter is read only if every word of its name is known
here; the others are counted and left out, and nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune_gateway.errors import BackendError, SpecError
from finetune_gateway.estimation.price_table import Price, Tier, Unit
from finetune_gateway.estimation.profiles import ModelRow, load_profile
from finetune_gateway.settings.money import MOST_USD
from finetune_gateway.settings.network import proxy_for, whole_answer
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import visible

ADDRESS = "https://prices.azure.com/api/retail/prices"
SERVICE = "Foundry Models"
HOSTING = "standard deployment"  # the model of its row: one fee for all of them
MOST_PAGES = 200
TIMEOUT = 30.0  # seconds
HINT = "The rows that are there stay in use: ftg prices --backend azure"

# The words that names of meters are made of, as they were seen.
TIERS: dict[str, Tier] = {
    **dict.fromkeys(("global", "glbl"), "global"),
    **dict.fromkeys(("regional", "regnl"), "standard"),
    **dict.fromkeys(("datazone", "dzone", "dz"), "datazone"),
    **dict.fromkeys(("developer", "dev"), "developer"),
}
KINDS = {
    **dict.fromkeys(("training", "trng"), "training"),
    "hosting": "hosting",
    **dict.fromkeys(("input", "inp"), "input"),
    **dict.fromkeys(("output", "outp"), "output"),
}
CACHED = frozenset({"cached", "cchd"})
SILENT = frozenset({"ft", "tokens", "token", "unit", "units"})
UNITS: dict[str, Unit] = {
    "training": "train_mtok",
    "hosting": "hosting_hour",
    "input": "in_mtok",
    "output": "out_mtok",
}
# What one of our units is, in the API's.
MEASURES = {"1k": Decimal(1000), "1m": Decimal(1), "1hour": Decimal(1)}


class RetailPrice(BaseModel):
    """What one of our units costs in a region, in the currency that was asked for."""

    model_config = ConfigDict(frozen=True)

    model: str
    unit: Unit
    tier: Tier | None
    amount: Decimal
    currency: str
    region: str
    meter: str
    note: str = ""


@dataclass(frozen=True)
class ListPrices:
    """The prices that could be read, and how many meters could not."""

    prices: list[RetailPrice]
    unread: int

    def rows(self, today: date) -> list[Price]:
        """Return them as rows of the price table; only for USD."""
        return [
            Price(
                backend="azure",
                model=price.model,
                unit=price.unit,
                usd=price.amount,
                as_of=today,
                source=ADDRESS,
                note=f"List price in {price.region}, meter {price.meter!r}. {price.note}".strip(),
                tier=price.tier,
            )
            for price in self.prices
        ]


class _Meter(BaseModel):
    """One entry of the API."""

    sku: str = Field(alias="skuName", min_length=1, max_length=200)
    price: Decimal = Field(alias="retailPrice", gt=0, le=MOST_USD)
    measure: str = Field(alias="unitOfMeasure")
    service: Literal["Foundry Models"] = Field(alias="serviceName")
    region: str = Field(alias="armRegionName")
    currency: str = Field(alias="currencyCode")
    type: Literal["Consumption"]


def list_prices(region: str, currency: str = "USD") -> ListPrices:
    """Return Azure's list prices in a region, like ``eastus2``. Sends no key.

    Raises SpecError for a region or currency that there cannot be, BackendError if none of its
    meters is known here, if it cannot be reached, or sends something else.
    """
    if not re.fullmatch("[a-z0-9]{2,40}", region) or not re.fullmatch("[A-Z]{3}", currency):
        raise SpecError(
            "A region is a name like eastus2, and a currency three letters like EUR.",
            hint="Regions: az account list-locations --output table",
        )
    found: dict[tuple[str, Unit, str | None], RetailPrice] = {}
    unread = 0
    for entry in _entries(region, currency):
        price = _price(entry, region, currency)
        if price is None:
            unread += 1
            continue
        key = (price.model, price.unit, price.tier)
        found[key] = _dearer(found[key], price) if key in found else price
    if not found:
        raise BackendError(
            f"Azure has no price of a tuned model in {region}, by the words that are known here "
            f"({unread} meters were left out).",
            hint="Is that its name? az account list-locations --output table",
            backend="azure",
        )
    return ListPrices(sorted(found.values(), key=lambda one: (one.model, one.unit)), unread)


def _dearer(one: RetailPrice, other: RetailPrice) -> RetailPrice:
    """Return the higher of two prices of the same thing, and say that they differ."""
    low, high = sorted((one, other), key=lambda price: price.amount)
    if low.amount == high.amount:
        return one
    note = f"The higher of two: {low.meter!r} is {low.amount}."
    return high.model_copy(update={"note": note})


# -- one meter ---------------------------------------------------------------------------


def _price(entry: Any, region: str, currency: str) -> RetailPrice | None:
    """Return the price in an entry; None for one that is not read."""
    try:
        meter = _Meter.model_validate(entry)
    except ValidationError:
        return None
    words = [word for word in re.split(r"[\s_-]+", meter.sku.lower()) if word]
    match = _model(words)
    factor = MEASURES.get(meter.measure.lower().replace(" ", ""))
    if match is None or factor is None or (meter.region, meter.currency) != (region, currency):
        return None
    row, rest = match
    kind = _kind(rest)
    if kind is None or (kind == "hosting") != (meter.measure.lower().endswith("hour")):
        return None
    unit = UNITS[kind]
    if CACHED & {*rest}:
        unit = "cached_in_mtok"
    tuned = f"ft:{row.model}" if "ft" in rest and kind != "training" else row.model
    return RetailPrice(
        model=HOSTING if kind == "hosting" else tuned,
        unit=unit,
        tier=None if kind == "hosting" else _tier(rest),
        amount=Decimal(f"{(meter.price * factor).normalize():f}"),
        currency=currency,
        region=region,
        meter=visible(meter.sku),
    )


def _kind(words: list[str]) -> str | None:
    """Return what is priced; None if that is not said by these words and no others."""
    known = TIERS.keys() | KINDS.keys() | CACHED | SILENT
    kinds = {KINDS[word] for word in words if word in KINDS}
    cached = bool(CACHED & {*words})
    if not known.issuperset(words) or len(kinds) != 1 or (cached and kinds != {"input"}):
        return None
    return kinds.pop()


def _tier(words: list[str]) -> Tier | None:
    """Return the tier; a developer's meter names where it runs too."""
    tiers: list[Tier] = [TIERS[word] for word in words if word in TIERS]
    return "developer" if "developer" in tiers else tiers[0] if tiers else None


def _model(words: list[str]) -> tuple[ModelRow, list[str]] | None:
    """Return the model that a name begins with, and the words after it; None for another."""
    matches = [(len(name), row) for name, row in _names() if tuple(words[: len(name)]) == name]
    if not matches:
        return None
    length, row = max(matches, key=lambda match: match[0])
    return row, words[length:]


@cache
def _names() -> list[tuple[tuple[str, ...], ModelRow]]:
    """Return the names that meters have for the models of Azure: ``gpt 4.1 nano``, and with the day
    of the version, ``gpt 4o 0806``."""
    names = []
    for row in load_profile("azure").models:
        texts = {row.model.lower(), *(alias.lower() for alias in row.aliases)}
        if dated := re.fullmatch(r"(.+)-\d{4}-(\d\d)-(\d\d)", row.model.lower()):
            family, month, day = dated.groups()
            texts.add(f"{family}-{month}{day}")
        names += [(tuple(text.split("-")), row) for text in texts]
    return names


# -- pages -------------------------------------------------------------------------------


def _entries(region: str, currency: str) -> Iterator[Any]:
    """Yield the entries of all pages. Raises BackendError."""
    chosen = f"serviceName eq '{SERVICE}' and armRegionName eq '{region}'"
    url = httpx.URL(ADDRESS, params={"currencyCode": f"'{currency}'", "$filter": chosen})
    seen: set[httpx.URL] = set()
    for _ in range(MOST_PAGES):
        page = _page(url)
        entries = page.get("Items")
        if not isinstance(entries, list):
            raise _unknown_form()
        yield from entries
        following = page.get("NextPageLink")
        if not following:
            return
        seen.add(url)
        url = _next(following)
        if url in seen:
            break
    raise BackendError("Azure's list of prices has no end.", hint=HINT, backend="azure")


def _next(link: object) -> httpx.URL:
    """Return the address of the next page. Raises BackendError for one that is elsewhere."""
    try:
        url = httpx.URL(link) if isinstance(link, str) else httpx.URL("")
    except httpx.InvalidURL:
        url = httpx.URL("")
    ours = httpx.URL(ADDRESS)
    if (url.scheme, url.netloc, url.userinfo, url.path) != (
        ours.scheme, ours.netloc, ours.userinfo, ours.path
    ):  # fmt: skip
        raise BackendError(
            "Azure's list of prices goes on at another address, which is not asked.",
            hint=HINT,
            backend="azure",
        )
    return url


def _page(url: httpx.URL) -> dict[str, Any]:
    proxy = proxy_for(str(url))
    try:
        way = httpx.HTTPTransport(proxy=proxy.usable_url if proxy else None)
        with (
            logs.request("GET", str(url)) as exchange,
            httpx.Client(transport=way, timeout=TIMEOUT) as client,
            client.stream("GET", url) as answer,
        ):
            exchange.answered(answer.status_code, answer.headers)
            raw = whole_answer(answer.raise_for_status().iter_bytes())
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as exc:
        why = str(exc).partition(" for url ")[0]
        raise BackendError(
            f"{ADDRESS} did not answer{f' through the proxy {proxy.shown}' if proxy else ''}: "
            f"{proxy.hide(why) if proxy else why}.",
            hint=HINT,
            backend="azure",
            retryable=True,
        ) from None
    try:
        page = json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict):
        raise _unknown_form()
    return page


def _unknown_form() -> BackendError:
    return BackendError(f"{ADDRESS} sent prices in an unknown form.", hint=HINT, backend="azure")
