"""Estimate what a hosted job would cost: tokens x epochs x price. Offline.

A model without a price row has no price: there is no default and no guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.estimate import MILLION, Estimate, Range, epochs_of
from finetune_gateway.estimation.price_table import Price, Unit, find_price
from finetune_gateway.estimation.profiles import Profile
from finetune_gateway.settings import clock
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

HOURLY_ROW = "add a row: ftg prices set --unit train_hour"
REFUSED = "This job cannot be created: "
WAIT = "How long a hosted job waits and trains."
NO_PRICE = "no price known; give --train-price or add a row (ftg prices set)"

# UTF-8 bytes / 4 is off by -54 % (chemical formulas) to +30 % (95th percentile of mixed rows), so
# the true count lies between these factors times the approximation.
_APPROXIMATE_LOW, _APPROXIMATE_HIGH = Decimal("0.75"), Decimal("2.2")


def estimate_hosted(
    spec: TrainingSpec,
    tokens: TokenStats,
    profile: Profile,
    *,
    extra: Path | None = None,
    host: str | None = None,
    today: date | None = None,
) -> Estimate:
    """Return the estimate of a hosted job; expected cost = billed tokens x epochs x price.

    ``extra``: the user's price file; ``host``: where the data goes, by default the profile's
    address. Raises SpecError if ``extra`` is not a price table.
    """
    day = today or clock.today()
    epochs = epochs_of(spec, tokens.rows)
    billed = _billed_range(tokens, epochs[:3])
    prices = _training_prices(spec, profile, extra)
    rate = next((price.usd for price in prices if price.unit == "train_mtok"), None)
    hourly = spec.method == "reinforcement"
    refusal = profile.refusal(spec.model, spec.method, day)
    return Estimate(
        backend=profile.name,
        model=spec.model,
        method=spec.method,
        n_epochs=epochs[1],
        n_epochs_rule=epochs[3],
        tokens=tokens,
        billed_tokens=None if hourly else billed,
        cost_usd=_cost(billed, rate) if rate is not None else None,
        prices=prices,
        data_leaves_machine=True,
        host=host or (urlsplit(profile.base_url).netloc if profile.base_url else None),
        life_cycle=profile.life_cycle(spec.model),
        assumptions=_assumptions(tokens, profile, prices, hourly=hourly),
        warnings=[
            *([f"{REFUSED}{refusal}"] if refusal else []),
            *profile.warnings(spec.model, day),
            *stale_prices(prices, day),
            *_truncation(tokens),
        ],
        unknown=_unknown(spec, profile, prices),
    )


def _billed_range(tokens: TokenStats, epochs: tuple[int, int, int]) -> Range[int]:
    low, high = Decimal(tokens.billed_low), Decimal(tokens.billed_high)
    if tokens.approximate:
        low, high = low * _APPROXIMATE_LOW, high * _APPROXIMATE_HIGH
    return Range[int](
        low=int(low * epochs[0]), expected=tokens.billed * epochs[1], high=int(high * epochs[2])
    )


def _cost(billed: Range[int], usd_per_mtok: Decimal) -> Range[Decimal]:
    low, expected, high = (
        Decimal(count) * usd_per_mtok / MILLION
        for count in (billed.low, billed.expected, billed.high)
    )
    return Range[Decimal](low=low, expected=expected, high=high)


def _training_prices(spec: TrainingSpec, profile: Profile, extra: Path | None) -> list[Price]:
    hosting = find_price(profile.name, "standard deployment", "hosting_hour", extra=extra)
    unit: Unit = "train_hour" if spec.method == "reinforcement" else "train_mtok"
    row = profile.model(spec.model)
    names = dict.fromkeys([spec.model, *([row.model, *row.aliases] if row else [])])
    matches = (find_price(profile.name, name, unit, extra=extra) for name in names)
    training = next((price for price in matches if price), None)
    return [price for price in (training, hosting) if price]


def at_train_price(estimate: Estimate, usd: Decimal, today: date | None = None) -> Estimate:
    """Return the estimate at the user's own price, in USD per million training tokens.

    Raises SpecError for an impossible amount, or if the run is not billed by tokens.
    """
    usd = parse_usd(usd, "train_price")
    if estimate.billed_tokens is None or estimate.method == "reinforcement":
        raise SpecError(
            f"{estimate.method} on {estimate.backend} is not billed by tokens.",
            hint="Leave out the training price.",
        )
    day = today or clock.today()
    price = Price(
        backend=estimate.backend,
        model=estimate.model,
        unit="train_mtok",
        usd=usd,
        as_of=day,
        source="given on the command line or in the call (--train-price)",
    )
    replaced = [row for row in estimate.prices if row.unit == "train_mtok"]
    return estimate.model_copy(
        update={
            "cost_usd": _cost(estimate.billed_tokens, usd),
            "prices": [price, *(row for row in estimate.prices if row not in replaced)],
            "warnings": [x for x in estimate.warnings if x not in stale_prices(replaced, day)],
            "unknown": [x for x in estimate.unknown if NO_PRICE not in x],
        }
    )


def with_validation(estimate: Estimate, tokens: TokenStats) -> Estimate:
    """Return the estimate of a hosted job that also has a validation file."""
    free = (
        f"{tokens.billed:,} validation tokens are assumed free: Microsoft's cost page does not "
        "charge them; no OpenAI bill with a validation file is known."
    )
    assumptions = [*estimate.assumptions, free]
    update = {"validation_tokens": tokens.billed, "assumptions": assumptions}
    return estimate.model_copy(update=update)


def _assumptions(
    tokens: TokenStats, profile: Profile, prices: list[Price], *, hourly: bool
) -> list[str]:
    rule = "Billed: content + 4 tokens per message + 1 per row, times epochs; this reproduces two "
    notes = [
        *([] if hourly else [f"{rule}published OpenAI bills to the token."]),
        "Queueing and failed jobs are assumed free.",
    ]
    if tokens.approximate:
        notes.append(f"Tokens are an {tokens.encoding}: the model's encoding is not known.")
    elif not tokens.exact and not hourly:
        notes.append("A range: how tools, images and answer pairs are billed is not published.")
    for price in prices:
        if price.unit == "hosting_hour":
            notes.append(f"Not included: hosting the result, {price.usd} USD an hour. {price.note}")
    if profile.name == "custom":
        notes.append("This host is assumed to bill by OpenAI's rule.")
    return notes


def stale_prices(prices: Sequence[Price], today: date) -> list[str]:
    """Return a warning for each row that was read more than 90 days ago."""
    return [
        f"The price {price.usd} USD ({price.unit}) is from {price.as_of}, {days} days "
        f"ago; check {price.source}"
        for price in prices
        if (days := price.stale(today))
    ]


def _truncation(tokens: TokenStats) -> list[str]:
    if not tokens.truncated_rows:
        return []
    count = tokens.truncated_rows
    rows = "1 row is" if count == 1 else f"{count} rows are"
    return [f"{rows} longer than the context: {tokens.truncated_tokens} tokens are cut off."]


def _unknown(spec: TrainingSpec, profile: Profile, prices: list[Price]) -> list[str]:
    notes = [WAIT]
    rate = next((price for price in prices if price.unit.startswith("train_")), None)
    if spec.method == "reinforcement":
        hour = f"{rate.usd} USD each" if rate else f"at an unknown price ({HOURLY_ROW})"
        notes.append(f"The cost: reinforcement is billed by the hour of training, {hour}.")
    elif rate is None:
        notes.append(f"The cost of {spec.model!r} on {profile.name}: {NO_PRICE}.")
    return notes
