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
from finetune_gateway.estimation.price_table import Price, Unit, add_command, find_price
from finetune_gateway.estimation.profiles import Profile, profile_names
from finetune_gateway.methods import LORA
from finetune_gateway.settings import clock
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

REFUSED = "This job cannot be created: "
WAIT = "How long a hosted job waits and trains."
NO_PRICE = "no price known; give --train-price or add a row (ftg prices set)"

# UTF-8 bytes / 4 is off by -54 % (chemical formulas) to +30 % (95th percentile of mixed rows), so
# the true count lies between these factors times the approximation.
APPROXIMATE_LOW, APPROXIMATE_HIGH = Decimal("0.75"), Decimal("2.2")


def estimate_hosted(
    spec: TrainingSpec,
    tokens: TokenStats,
    profile: Profile,
    *,
    extra: Path | None = None,
    host: str | None = None,
    today: date | None = None,
    training: str | None = None,
) -> Estimate:
    """Return the estimate of a hosted job; expected cost = billed tokens x epochs x price.

    ``extra``: the user's price file; ``host``: where the data goes, by default the profile's
    address; ``training``: one of the profile's ways of training, by default the usual one. Raises
    SpecError if ``extra`` is not a price table.
    """
    day = today or clock.today()
    epochs = epochs_of(spec, tokens.rows)
    billed = _billed_range(tokens, epochs[:3])
    way = training or profile.usual_training
    prices = _training_prices(spec, profile, extra, way)
    rate = next((price.usd for price in prices if price.unit == "train_mtok"), None)
    hourly = spec.method == "reinforcement"
    refusal = profile.refusal(spec.model, spec.method, day)
    refusal = refusal or profile.training_refusal(spec.model, way)
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
        azure_training=way,
        residency=profile.trainings[way].data if way else None,
        life_cycle=profile.life_cycle(spec.model),
        assumptions=_assumptions(spec, tokens, profile, prices, hourly=hourly),
        warnings=[
            *([f"{REFUSED}{refusal}"] if refusal else []),
            *profile.warnings(spec.model, day),
            *profile.training_warnings(spec.model, way),
            *_unasked(spec, profile),
            *stale_prices(prices, day),
            *_truncation(tokens),
        ],
        unknown=_unknown(spec, profile, prices, way),
    )


def _billed_range(tokens: TokenStats, epochs: tuple[int, int, int]) -> Range[int]:
    low, high = Decimal(tokens.billed_low), Decimal(tokens.billed_high)
    if tokens.approximate:
        low, high = low * APPROXIMATE_LOW, high * APPROXIMATE_HIGH
    return Range[int](
        low=int(low * epochs[0]), expected=tokens.billed * epochs[1], high=int(high * epochs[2])
    )


def _cost(billed: Range[int], usd_per_mtok: Decimal) -> Range[Decimal]:
    low, expected, high = (
        Decimal(count) * usd_per_mtok / MILLION
        for count in (billed.low, billed.expected, billed.high)
    )
    return Range[Decimal](low=low, expected=expected, high=high)


def _training_prices(
    spec: TrainingSpec, profile: Profile, extra: Path | None, way: str | None
) -> list[Price]:
    hosting = find_price(profile.name, "standard deployment", "hosting_hour", extra=extra)
    training = _way_price(spec, profile, extra, way)
    return [price for price in (training, hosting) if price]


def _way_price(
    spec: TrainingSpec, profile: Profile, extra: Path | None, way: str | None
) -> Price | None:
    """Return the price of training in this way; where it has no row and its host says that it costs
    a share of another way, that share."""
    unit: Unit = "train_hour" if spec.method == "reinforcement" else "train_mtok"
    row = profile.model(spec.model)
    names = dict.fromkeys([spec.model, *([row.model, *row.aliases] if row else [])])
    matches = (find_price(profile.name, name, unit, extra=extra, tier=way) for name in names)
    price = next((price for price in matches if price), None)
    training = profile.trainings.get(way or "")
    if price is not None or training is None or not training.price_of:
        return price
    other = _way_price(spec, profile, extra, training.price_of)
    if other is None or other.tier is None:
        return other
    note = f"{training.price_factor} of the price of {training.price_of} training, {other.usd} USD"
    update = {
        "usd": other.usd * training.price_factor,
        "tier": way,
        "note": f"{note}: {training.source} (as of {training.as_of}). {other.note}".strip(),
    }
    return other.model_copy(update=update)


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


def price_ways(backend: str, spec: TrainingSpec | Estimate, billed: Range[int] | None) -> str:
    """Return what gives a training a price that has none, the command last; empty if nothing does.
    ``billed``: the tokens that its host bills, if they are known."""
    by_tokens = billed is not None and spec.method != "reinforcement"
    ways = ["give --train-price USD"] if by_tokens else []
    if by_tokens and backend in profile_names():
        ways.append(f"add a row: {add_command(backend, spec.model, 'train_mtok')}")
    return ", or ".join(ways)


def with_validation(estimate: Estimate, tokens: TokenStats, profile: Profile) -> Estimate:
    """Return the estimate of a hosted job that also has a validation file. Its tokens are never in
    the cost: the host does not bill them, by its profile's source, or nobody knows whether it
    does."""
    update: dict[str, object] = {"validation_tokens": tokens.billed}
    if profile.validation_free:
        free = f"{tokens.billed:,} validation tokens are not billed: {profile.validation_free}"
        update["assumptions"] = [*estimate.assumptions, free]
    else:
        title = "this host" if profile.name == "custom" else profile.title
        doubt = (
            f"Whether {title} bills the {tokens.billed:,} validation tokens, and how often: no "
            "source was found, and the cost leaves them out."
        )
        update["unknown"] = [*estimate.unknown, doubt]
    return estimate.model_copy(update=update)


def _assumptions(
    spec: TrainingSpec, tokens: TokenStats, profile: Profile, prices: list[Price], *, hourly: bool
) -> list[str]:
    rule = "Billed: content + 4 tokens per message + 1 per row, times epochs; it reproduces seven "
    notes = [
        *([] if hourly else [f"{rule}published OpenAI bills to the token."]),
        "Queueing and failed jobs are assumed free.",
    ]
    if tokens.approximate:
        notes.append(f"Tokens are an {tokens.encoding}: the model's encoding is not known.")
    elif not tokens.exact and not hourly:
        notes.append("A range: how tools, images and answer pairs are billed is not published.")
    if tokens.images and not hourly:
        from finetune_gateway.tokens.images import rule_for  # here: few files have images

        notes.append(rule_for(spec.model).words())
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


def _unasked(spec: TrainingSpec, profile: Profile) -> list[str]:
    """Return what the host does because nobody asked for another type of training."""
    asked = spec.training_type or spec.chosen & LORA
    if asked or not profile.usual_training_type:
        return []
    others = " or ".join(profile.training_types.keys() - {profile.usual_training_type})
    return [
        f"{profile.title} trains as {profile.usual_training_type!r} unless it is asked for {others}"
        f" (--training-type {others})."
    ]


def _truncation(tokens: TokenStats) -> list[str]:
    if not tokens.truncated_rows:
        return []
    count = tokens.truncated_rows
    rows = "1 row is" if count == 1 else f"{count} rows are"
    return [f"{rows} longer than the context: {tokens.truncated_tokens} tokens are cut off."]


def _ask(way: str | None) -> str:
    return ", or ask for the list prices: ftg prices update --azure REGION" if way else ""


def _unknown(
    spec: TrainingSpec, profile: Profile, prices: list[Price], way: str | None
) -> list[str]:
    notes = [WAIT]
    rate = next((price for price in prices if price.unit.startswith("train_")), None)
    if spec.method == "reinforcement":
        hour = f"{rate.usd} USD each." if rate else "at an unknown price; add a row: "
        hour += "" if rate else add_command(profile.name, spec.model, "train_hour")
        notes.append(f"The cost: reinforcement is billed by the hour of training, {hour}")
    elif rate is None:
        how = f" as {way!r} training" if way else ""
        notes.append(f"The cost of {spec.model!r} on {profile.name}{how}: {NO_PRICE}{_ask(way)}.")
    return notes
