"""Inference prices of base models from genai-prices, where it is installed (``[prices]``).

Knows that library; it works offline on the data in its wheel and is never asked to update it.
Release 0.2.3 carries no day on which a price was read, of a model or of its own (its sources have
one, which is not packed); days on which a price changed are no such days. So none is told.
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
    """What the catalogue holds of one model."""

    usd: dict[str, Decimal]
    source: str
    note: str = ""


def find(backend: str, model: str) -> Entry | None:
    """The entry of exactly this model at this host, or at the one whose prices the catalogue
    takes for it (OpenAI's for Azure), as in force today; None without the library."""
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
    # One step further and no more, as the library itself goes.
    names = [backend, *(first.fallback_model_providers or [])]
    for provider in (providers[name] for name in names if name in providers):
        info = next((one for one in provider.models if model in _names(one)), None)
        if info is not None:
            return _entry(info, provider, first, today)
    return None


def _entry(info: ModelInfo, provider: Provider, asked: Provider, today: date) -> Entry:
    from genai_prices import __version__
    from genai_prices.types import TieredPrices

    found = info.get_prices(datetime.combine(today, time(12), UTC))
    said = ["The release does not say on which day it was read."]
    if provider is not asked:
        said.append(f"{provider.name}'s price, taken for {asked.name}.")
    usd: dict[str, Decimal] = {}
    for unit, field in FIELDS.items():
        amount = getattr(found, field)
        if isinstance(amount, TieredPrices):
            said.append(f"More from {amount.tiers[0].start:,} input tokens in one request.")
            amount = amount.base
        if amount is not None:
            usd[unit] = amount
    page = (provider.pricing_urls or ["https://github.com/pydantic/genai-prices"])[0]
    source = f"genai-prices {__version__} ({page})"
    return Entry(usd, source, " ".join(dict.fromkeys(said)))


def _names(info: ModelInfo) -> set[str]:
    """Its id and the names it equals; the library also matches beginnings and parts."""
    return {info.id, *_equals(info.match)}


def _equals(clause: Any) -> Iterator[str]:
    if hasattr(clause, "equals"):
        yield clause.equals
    for inner in getattr(clause, "or_", ()):
        yield from _equals(inner)
