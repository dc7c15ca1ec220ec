"""Inference prices of base models from genai-prices, if it is installed (``[prices]``).

Works offline on the data in its wheel. Release 0.2.3 does not say on which day a price was read
(its sources do, but the wheel leaves it out), so these prices have no date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from finetune_gateway.settings import clock

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

# Our unit -> its field; both are USD per million tokens.
FIELDS = {
    "in_mtok": "input_mtok",
    "cached_in_mtok": "cache_read_mtok",
    "out_mtok": "output_mtok",
}


@dataclass(frozen=True)
class Entry:
    """The prices of one model in the catalogue."""

    usd: dict[str, Decimal]
    source: str
    note: str = ""


def find(backend: str, model: str) -> Entry | None:
    """Return today's prices of exactly this model at this host, or at the host the catalogue falls
    back to (OpenAI for Azure); None if there are none or the library is not installed."""
    return _find(backend, model, clock.today())


@cache
def _find(backend: str, model: str, today: date) -> Entry | None:
    if find_spec("genai_prices") is None:
        return None
    from genai_prices.data_snapshot import get_snapshot

    providers = {provider.id: provider for provider in get_snapshot().providers}
    if backend not in providers:
        return None
    first = providers[backend]
    # One fallback and no further, as in the library.
    names = [backend, *(first.fallback_model_providers or [])]
    for provider in (providers[name] for name in names if name in providers):
        info = next((one for one in provider.models if model in _names(one)), None)
        if info is not None:
            return _entry(info, provider, first, today)
    return None


def _entry(info: ModelInfo, provider: Provider, host: Provider, today: date) -> Entry:
    from genai_prices import __version__
    from genai_prices.types import TieredPrices

    prices = info.get_prices(datetime.combine(today, time(12), UTC))
    notes = ["The release does not say on which day the price was read."]
    if provider is not host:
        notes.append(f"{provider.name}'s price, assumed for {host.name}.")
    usd: dict[str, Decimal] = {}
    for unit, field in FIELDS.items():
        amount = getattr(prices, field)
        if isinstance(amount, TieredPrices):
            start = amount.tiers[0].start
            notes.append(f"More from {start:,} input tokens in one request.")
            amount = amount.base
        if amount is not None:
            usd[unit] = amount
    page = (provider.pricing_urls or ["https://github.com/pydantic/genai-prices"])[0]
    source = f"genai-prices {__version__} ({page})"
    return Entry(usd, source, " ".join(dict.fromkeys(notes)))


def _names(info: ModelInfo) -> set[str]:
    """Return its id and its exact aliases; the library also matches prefixes and parts."""
    return {info.id, *_equals(info.match)}


def _equals(clause: Any) -> Iterator[str]:
    if hasattr(clause, "equals"):
        yield clause.equals
    for inner in getattr(clause, "or_", ()):
        yield from _equals(inner)
