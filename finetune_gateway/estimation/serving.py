"""The monthly cost of serving the result: by the token, by the hour or on your own GPU, and the
volumes at which the GPU is cheaper.

Measures nothing: the throughput of a GPU comes from its datasheet (``throughput``), or from the
user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import ConfigDict, Field, computed_field

from finetune_gateway.estimation.break_even import BreakEven, Curve, find_break_even
from finetune_gateway.estimation.estimate import MILLION, Range
from finetune_gateway.estimation.gpu_hours import Hour, hourly_prices, price_note, usual_gpu
from finetune_gateway.estimation.gpus import GPUS, gpus_named, which_gpu
from finetune_gateway.estimation.price_table import Price, Unit, add_command, find_price
from finetune_gateway.estimation.profiles import load_profile, profile_names
from finetune_gateway.estimation.serving_bounds import check_counts, check_gpu
from finetune_gateway.estimation.throughput import (
    USERS,
    ServedModel,
    ServingSpeed,
    speed_of,
)
from finetune_gateway.estimation.traffic import MeasuredUse, Traffic
from finetune_gateway.model import Computing, Model
from finetune_gateway.settings import clock
from finetune_gateway.tokens.encodings import base_model

HOURS = Decimal(730)  # of a month: 8,760 / 12
# The share of the paid time in which a GPU works: best, expected, worst. Requests do not arrive
# evenly over day and night; assumed, not measured.
BUSY = (Decimal(1), Decimal("0.5"), Decimal("0.25"))

# A GPU on demand starts once a day for the collected requests, since its throughput needs many at
# once, and takes 10 minutes until the first answer. Assumed, not measured.
START_HOURS = 30 * Decimal(10) / 60


_NOTHING: Mapping[tuple[str, str], MeasuredUse] = MappingProxyType({})
_MICRO = Decimal("0.000001")
TOKEN_UNITS: dict[str, Unit] = {"in": "in_mtok", "out": "out_mtok"}
BATCH_UNITS: dict[str, Unit] = {"in": "batch_in_mtok", "out": "batch_out_mtok"}

Kind = Literal["tokens", "batch", "base", "deployment", "always_on", "on_demand"]
KINDS: dict[Kind, str] = {
    "tokens": "by the token",
    "batch": "batch, within 24 hours",
    "base": "base model, by the token",
    "deployment": "deployment by the hour",
    "always_on": "always on",
    "on_demand": "on demand, once a day",
}

# A GPU that answers within a day also competes with a host's batch price.
_RIVALS: dict[Kind, tuple[Kind, ...]] = {
    "always_on": ("tokens", "deployment"),
    "on_demand": ("tokens", "deployment", "batch"),
}


class ServingOption(Computing):
    """One way to serve the result. ``curves``: low, expected and high; None if a price or a speed
    is not known, and ``unknown`` says which."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    kind: Kind
    where: str  # a host, or "own"
    model: str  # or the GPU
    monthly_usd: Range[Decimal] | None = None
    curves: tuple[Curve, Curve, Curve] | None = None
    machines: int | None = None
    tokens_per_second: Range[Decimal] | None = None  # of one GPU of your own, in and out together
    serves: str = ""  # of your own: the model and the users that this speed is of
    data_leaves_machine: bool
    prices: list[Price] = Field(default_factory=list)
    assumptions: list[str] = Field(default_factory=list)
    unknown: list[str] = Field(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way, mypy#1362
    @property
    def title(self) -> str:
        return f"{self.where} {self.model} ({KINDS[self.kind]})"


class ServingCosts(Model):
    """Every way to serve the result at one volume, and their break-even volumes."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    traffic: Traffic
    ways: list[ServingOption]
    break_even: list[BreakEven]
    warnings: list[str] = Field(default_factory=list)

    def with_warnings(self, warnings: Iterable[str]) -> ServingCosts:
        """Return the same with more warnings."""
        return self.model_copy(update={"warnings": [*self.warnings, *warnings]})


def serving_costs(
    traffic: Traffic,
    hosted: Sequence[tuple[str, str]],
    *,
    untuned: Sequence[tuple[str, str]] = (),
    gpu: str | None = None,
    usd_per_hour: Decimal | None = None,
    tokens_per_second: Decimal | None = None,
    users: int = USERS,
    served: ServedModel | None = None,
    measured: Mapping[tuple[str, str], MeasuredUse] = _NOTHING,
    extra: Path | None = None,
    today: date | None = None,
) -> ServingCosts:
    """Return the monthly cost of each way to serve. Offline.

    ``hosted``: names of host and base model, which serves fine-tuned. ``untuned``: of those that
    serve as they are: your own GPU competes with the price of the base then. ``gpu``,
    ``usd_per_hour``, ``tokens_per_second`` (in and out together): of your own GPU; by default the
    rows of the price table and what its datasheet makes of so many ``users`` at once and the model
    that is ``served`` (one of 8 billion parameters if None). Without ``gpu`` it is an A10G, or if
    the model does not fit one, the cheapest that holds it. ``measured``: of models of a host, by
    its name and their base, ``ft:BASE`` if fine-tuned: instead of the lengths of ``traffic``.
    ``extra``: the user's price table.
    Raises SpecError for figures out of bounds, and if ``extra`` is not a price table.
    """
    check_gpu(usd_per_hour, tokens_per_second)
    check_counts(traffic.requests, traffic.tokens_in, traffic.tokens_out)
    day = today or clock.today()
    bases = [_as_it_is(*place, traffic, measured.get(place), extra) for place in untuned]
    tuned = [
        way
        for host, model in hosted
        for way in _hosted(host, model, traffic, measured.get((host, f"ft:{model}")), extra)
    ]
    named = {way.title for way in bases}
    theirs = [*(way for way in tuned if way.title not in named), *bases]
    served = served or ServedModel(assumed=True)
    machine = gpu or usual_gpu(served, traffic.tokens_in, traffic.tokens_out, extra)
    speed = speed_of(
        machine,
        tokens_per_second,
        served,
        traffic.tokens_in,
        traffic.tokens_out,
        users,
    )
    own = _own(machine, usd_per_hour, speed, traffic, extra, day)
    break_even = [
        comparison
        for way in theirs
        for mine in own
        if (way.kind in _RIVALS[mine.kind] or way in bases) and (comparison := _compare(mine, way))
    ]
    return ServingCosts(
        traffic=traffic,
        ways=[*theirs, *own],
        break_even=break_even,
        warnings=[
            *_warnings([*theirs, *own], [*hosted, *untuned], day),
            *filter(None, [which_gpu(machine)]),
        ],
    )


# -- hosted ------------------------------------------------------------------------------


def _hosted(
    host: str, model: str, traffic: Traffic, measured: MeasuredUse | None, extra: Path | None
) -> list[ServingOption]:
    """Return the ways a host offers: by the token, or by the hour if deployments have a price."""
    base, tier = _priced_as(host, model)
    tuned = f"ft:{base}"
    traffic = _as_measured(traffic, measured)
    tokens = _by_token(host, "tokens", tuned, "", traffic, extra, tier)
    ways = {
        "tokens": _with_measured(tokens, measured, traffic),
        "batch": _by_token(host, "batch", tuned, "batch_", traffic, extra, tier),
        "base": _by_token(host, "base", base, "", traffic, extra, tier),
    }
    hosting = find_price(host, "standard deployment", "hosting_hour", extra=extra)
    if hosting is not None:
        tokens = ways["tokens"] if ways["tokens"].curves else ways["base"]
        return [_deployment(hosting, base, tokens, traffic), *_known(ways["base"])]
    if ways["tokens"].curves is None:
        return [ways["tokens"], *_known(ways["base"])]
    return [ways["tokens"], *_known(ways["batch"]), *_known(ways["base"])]


def _as_it_is(
    host: str, model: str, traffic: Traffic, measured: MeasuredUse | None, extra: Path | None
) -> ServingOption:
    """Return a base model by the token, without fine-tuning."""
    base, tier = _priced_as(host, model)
    traffic = _as_measured(traffic, measured)
    way = _by_token(host, "base", base, "", traffic, extra, tier)
    return _with_measured(way, measured, traffic)


def _as_measured(traffic: Traffic, measured: MeasuredUse | None) -> Traffic:
    """Return as many requests of the length that was measured."""
    if measured is None:
        return traffic
    lengths = {"tokens_in": measured.tokens_in, "tokens_out": measured.tokens_out}
    return traffic.model_copy(update=lengths)


def _with_measured(
    way: ServingOption, measured: MeasuredUse | None, traffic: Traffic
) -> ServingOption:
    """Return a way by the token at what its requests have cost, and say how long they were."""
    if measured is None or way.curves is None:
        return way
    length = f"{measured.tokens_in:,} tokens in and {measured.tokens_out:,} out each"
    if measured.models > 1:
        length += f", the mean of {measured.models:,} models"
    if measured.usd is None:
        note = f"{way.where} {way.model}: {length}, as measured."
        return way.model_copy(update={"assumptions": [note, *way.assumptions]})
    note = f"{way.where} {way.model}: a request at what it has cost, {length}."
    found = way.model_copy(update={"assumptions": [note]})
    return _with_curves(found, (Curve(per_request=measured.usd),) * 3, traffic)


def _priced_as(host: str, model: str) -> tuple[str, str | None]:
    """Return under which name and tier a base model has its price."""
    base = base_model(model)
    profile = load_profile(host) if host in profile_names() else None
    row = profile.model(base) if profile else None
    return row.model if row else base, profile.usual_training if profile else None


def _known(way: ServingOption) -> list[ServingOption]:
    return [way] if way.curves else []


def _by_token(
    host: str, kind: Kind, model: str, prefix: Literal["", "batch_"], traffic: Traffic,
    extra: Path | None, tier: str | None,
) -> ServingOption:  # fmt: skip
    units = BATCH_UNITS if prefix else TOKEN_UNITS
    rows = {
        side: find_price(host, model, unit, extra=extra, tier=tier) for side, unit in units.items()
    }
    input_price, output_price = rows["in"], rows["out"]
    if input_price is None or output_price is None:
        missing = [unit for side, unit in units.items() if rows[side] is None]
        add = add_command(host, model, *missing)
        note = f"The price of using {model} on {host}: not known; add a row: {add}"
        return ServingOption(
            kind=kind, where=host, model=model, data_leaves_machine=True, unknown=[note]
        )
    each = (traffic.tokens_in * input_price.usd + traffic.tokens_out * output_price.usd) / MILLION
    return _with_curves(
        ServingOption(
            kind=kind,
            where=host,
            model=model,
            data_leaves_machine=True,
            prices=[input_price, output_price],
            assumptions=["No input is assumed cached; a host charges less for cached input."],
        ),
        (Curve(per_request=each),) * 3,
        traffic,
    )


def _deployment(
    hosting: Price, base: str, tokens: ServingOption, traffic: Traffic
) -> ServingOption:
    """Return the way with an hourly fee and the base's price per token."""
    fee = f"The fee is due for {HOURS} hours a month; tokens cost as much as the base's."
    way = ServingOption(
        kind="deployment",
        where=hosting.backend,
        model=base,
        data_leaves_machine=True,
        prices=[hosting, *tokens.prices],
        assumptions=[fee],
        unknown=tokens.unknown,
    )
    if tokens.curves is None:
        return way
    curve = Curve(fixed=HOURS * hosting.usd, per_request=tokens.curves[1].per_request)
    return _with_curves(way, (curve,) * 3, traffic)


# -- your own GPU -------------------------------------------------------------------------


def _own(
    gpu: str,
    usd: Decimal | None,
    speed: ServingSpeed,
    traffic: Traffic,
    extra: Path | None,
    today: date,
) -> list[ServingOption]:
    gpu = (gpus_named(gpu) or [gpu])[0]  # any other machine keeps its name
    rows = hourly_prices(gpu, usd, extra, today)
    unknown = _own_unknown(gpu, rows, speed, traffic)
    ways = []
    for kind in _RIVALS:
        way = ServingOption(
            kind=kind,
            where="own",
            model=gpu,
            data_leaves_machine=False,
            tokens_per_second=speed.tokens,
            serves=speed.of,
            prices=list(dict.fromkeys(rows)) if rows else [],
            assumptions=[*_own_assumptions(gpu, rows, speed)] if speed.tokens else [],
            unknown=unknown,
        )
        if rows and speed.tokens and not unknown:
            way = _with_curves(way, _own_curves(kind, rows, speed.tokens, traffic), traffic)
        ways.append(way)
    return ways


def _own_unknown(gpu: str, rows: Hour | None, speed: ServingSpeed, traffic: Traffic) -> list[str]:
    notes = []
    if not rows:
        notes.append(f"The price of an hour of {gpu}: give --serve-usd-per-hour or add a row.")
    if speed.tokens is None:
        notes.append(speed.source)
    elif traffic.tokens / speed.tokens.low / BUSY[2] > HOURS * 3600:  # when it works the least
        notes.append(
            f"At {speed.tokens.low:,f} tokens per second a request takes longer than a month."
        )
    return notes


def _own_assumptions(gpu: str, rows: Hour | None, speed: ServingSpeed) -> list[str]:
    assert speed.tokens is not None  # for the type checker
    rate = speed.tokens.expected
    note = GPUS[gpu].note if gpu in GPUS else ""
    return [
        *price_note(gpu, rows),
        *([note] if note else []),
        f"{rate:,f} tokens per second on one {gpu}, in and out together: {speed.source}.",
        f"The GPU works {BUSY[1]:.0%} of the paid time ({BUSY[0]:.0%} to {BUSY[2]:.0%}).",
        "On demand it starts once a day for the collected requests, 10 minutes each time.",
        "Not checked: whether its answers are as good.",
    ]


Curves = tuple[Curve, Curve, Curve]


def _own_curves(kind: Kind, rows: Hour, rates: Range[Decimal], traffic: Traffic) -> Curves:
    """Return the cost at the cheapest hour and highest speed, at the usual ones, at the worst."""
    speeds = (rates.high, rates.expected, rates.low)
    first, second, third = (
        _own_curve(kind, row.usd, traffic.tokens / rate / busy)
        for row, rate, busy in zip(rows, speeds, BUSY, strict=True)
    )
    return first, second, third


def _own_curve(kind: Kind, usd: Decimal, seconds: Decimal) -> Curve:
    """Return the monthly cost; ``seconds``: paid GPU time per request."""
    if kind == "on_demand":
        return Curve(fixed=START_HOURS * usd, per_request=seconds * usd / 3600)
    room = HOURS * 3600 / seconds if seconds else Decimal(MILLION) ** 2
    capacity = max(1, int(room.to_integral_value(ROUND_FLOOR)))
    return Curve(fixed=HOURS * usd, capacity=capacity)


def _with_curves(way: ServingOption, curves: Curves, traffic: Traffic) -> ServingOption:
    low, expected, high = (curve.at(traffic.requests).quantize(_MICRO) for curve in curves)
    return way.model_copy(
        update={
            "curves": curves,
            "monthly_usd": Range[Decimal](low=low, expected=expected, high=high),
            "machines": curves[1].machines(traffic.requests) if curves[1].capacity else None,
        }
    )


# -- break-even --------------------------------------------------------------------------


def _compare(own: ServingOption, hosted: ServingOption) -> BreakEven | None:
    if own.curves is None or hosted.curves is None:
        return None
    low, expected, high = (find_break_even(curve, hosted.curves[1]) for curve in own.curves)
    return BreakEven(own=own.title, hosted=hosted.title, low=low, expected=expected, high=high)


def _warnings(
    ways: list[ServingOption], hosted: Sequence[tuple[str, str]], today: date
) -> list[str]:
    warnings = []
    for host, model in dict.fromkeys(hosted):
        if host in profile_names():
            dates = load_profile(host).warnings(model, today)
            warnings += [f"{host}: {text}" for text in dates if "stops answering" in text]
    for row in dict.fromkeys(row for way in ways for row in way.prices):
        if days := row.stale(today):
            warnings.append(
                f"The price {row.usd} USD ({row.backend} {row.unit}) is from {row.as_of}, "
                f"{days} days ago; check {row.source}"
            )
    return warnings
