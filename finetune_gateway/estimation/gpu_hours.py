"""What an hour of a GPU of one's own costs, and which GPU that is where none was named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.price_table import Price, gpu_prices
from finetune_gateway.estimation.throughput import ServedModel, requests_that_fit

USUAL_GPU = "A10G"

Hour = tuple[Price, Price, Price]


def usual_gpu(model: ServedModel, tokens_in: int, tokens_out: int, extra: Path | None) -> str:
    """Return the usual GPU, or the cheapest one with a price that holds the model and a request."""
    lengths = tokens_in, tokens_out
    fitting = [name for name, gpu in GPUS.items() if requests_that_fit(gpu, model, *lengths)]
    if USUAL_GPU in fitting:
        return USUAL_GPU
    rows = {name: found for name in fitting if (found := gpu_prices(name, extra=extra))}
    return min(rows, key=lambda name: expected_price(rows[name]).usd, default=USUAL_GPU)


def hourly_prices(gpu: str, usd: Decimal | None, extra: Path | None, today: date) -> Hour | None:
    """Return the cheapest row of any market, the cheapest on demand and the most expensive, as in
    training estimates."""
    if usd is not None:
        given = Price(
            backend="own",
            model=gpu,
            unit="gpu_hour",
            usd=usd,
            as_of=today,
            source="given on the command line or in the call (--serve-usd-per-hour)",
            market="on-demand",
        )
        return given, given, given
    rows = gpu_prices(gpu, extra=extra)
    if not rows:
        return None
    return rows[0], expected_price(rows), rows[-1]


def expected_price(prices: Sequence[Price]) -> Price:
    """Return the cheapest price that is not spot; ``prices`` are sorted, cheapest first."""
    return next((row for row in prices if row.market in (None, "on-demand")), prices[-1])


def price_note(gpu: str, rows: Hour | None) -> list[str]:
    """Return which hour is taken of rows at several prices, in a sentence; none if all are one."""
    if rows is None or rows[0].usd == rows[2].usd:
        return []
    low, usual, high = rows
    plain = usual.market in (None, "on-demand")
    which = "the cheapest on demand" if plain else "the most expensive, since none is on demand"
    span = f"rows range from ${low.usd:f} to ${high.usd:f}"
    return [f"An hour of {gpu} costs ${usual.usd:f}, {which}; {span}."]
