"""What serving costs a month, and where one way is cheaper than another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from support.rederive.checked import Checked

Json = dict[str, Any]


def check_serving(data: Json, found: Checked) -> None:
    """What serving costs a month by the prices that are shown, and where one way is cheaper."""
    serving = data["serving"]
    if serving is None:
        return
    traffic = serving["traffic"]
    answers = {
        key: one
        for key, one in data["answers"].items()
        if one["prompt_tokens"] and one["completion_tokens"]
    }
    tuned = [one["key"] for one in data["models"] if one["variant"] == "tuned"]
    here = [one["key"] for one in data["models"] if one["kind"] == "local" and one["key"] in tuned]
    known = next(
        having
        for keys in (here, tuned, [*answers])
        if (having := [answers[key] for key in keys if key in answers])
    )
    for side, name in (("tokens_in", "prompt_tokens"), ("tokens_out", "completion_tokens")):
        mean = math.fsum(one[name] for one in known) / len(known)
        found.same("traffic", side, traffic[side], max(side == "tokens_out", round(mean)))
    ways = {way["title"]: way for way in serving["ways"] if way["curves"]}
    for title, way in ways.items():
        shown = [float(way["monthly_usd"][one]) for one in ("low", "expected", "high")]
        curves = [*derived_curves(way, traffic, _of_models(way, data))]
        ours = [float(cost(curve, traffic["requests"])) for curve in curves]
        # Shown to a millionth; to round that once more would tell 7.98725 from 7.9872499.
        close = [
            one if abs(one - mine) < 1e-6 else mine for one, mine in zip(shown, ours, strict=True)
        ]
        found.same("monthly cost", title, shown, close)
    for one in serving["break_even"]:
        own, host = ways[one["own"]], ways[one["hosted"]]
        for place, level in enumerate(("low", "expected", "high")):
            mine, theirs = (
                [*derived_curves(way, traffic, _of_models(way, data))][place] for way in (own, host)
            )
            check_break_even(one, level, mine, theirs, found)


Curve = tuple[Fraction, Fraction, int | None]  # a month, a request, requests that one GPU serves


def _of_models(way: Json, data: Json) -> list[Json]:
    """The figures of the answers that are of this way of a host: of its fine-tunes, or its base."""
    if way["where"] == "own" or way["kind"] == "deployment":
        return []
    asked = [one for one in data["models"] if one["kind"] == "hosted"]
    models = [one for one in asked if one["key"] in data["answers"]]
    fine_tuned = {
        one["key"]: one["variant"] == "tuned" or one["model"] != one["base_model"] for one in models
    }
    base = way["model"].removeprefix("ft:")
    wanted = way["kind"] != "base"
    if not wanted and not any(not fine_tuned[m["key"]] for m in models if m["base_model"] == base):
        wanted = True  # the price of the base, at the lengths of its fine-tunes
    return [
        data["answers"][one["key"]]
        for one in models
        if one["base_model"] == base and fine_tuned[one["key"]] == wanted
    ]


def derived_curves(way: Json, traffic: Json, models: list[Json]) -> Iterator[Curve]:
    """The low, expected and high monthly cost of a way, from its prices; of ``models`` of a host
    at what their answers have cost."""
    amounts = {
        one["unit"].removeprefix("batch_"): Fraction(str(one["usd"])) for one in way["prices"]
    }
    sides = {"in_mtok": traffic["tokens_in"], "out_mtok": traffic["tokens_out"]}
    if models:
        for side, name in (("in_mtok", "prompt_tokens"), ("out_mtok", "completion_tokens")):
            sides[side] = round(math.fsum(one[name] for one in models) / len(models))
        as_bought = way["kind"] == "tokens" or any("has cost" in one for one in way["assumptions"])
        if as_bought and all(one["usd_per_answer"] for one in models):
            each = sum((Fraction(one["usd_per_answer"]) for one in models), Fraction(0))
            yield from [(Fraction(0), each / len(models), None)] * 3
            return
    tokens = sum(
        (amounts.get(unit, Fraction(0)) * count for unit, count in sides.items()), Fraction(0)
    )
    if way["where"] != "own":
        fee = 730 * amounts.get("hosting_hour", Fraction(0))
        yield from [(fee, tokens / 10**6, None)] * 3
        return
    rates = [Fraction(way["tokens_per_second"][one]) for one in ("high", "expected", "low")]
    tokens = Fraction(traffic["tokens_in"] + traffic["tokens_out"])
    busy_shares = (Fraction(1), Fraction(1, 2), Fraction(1, 4))
    for usd, rate, busy in zip(gpu_hours(way), rates, busy_shares, strict=True):
        paid = tokens / rate / busy
        if way["kind"] == "on_demand":
            yield 30 * Fraction(10, 60) * usd, paid * usd / 3600, None
        else:
            yield 730 * usd, Fraction(0), max(1, int(730 * 3600 / paid))


def gpu_hours(way: Json) -> list[Fraction]:
    """The cheapest, the usual and the dearest hour, of the rows that are shown."""
    rows = [Fraction(str(one["usd"])) for one in way["prices"]]
    if len(rows) == 3:
        return rows
    curves = [Fraction(str(one["fixed"])) for one in way["curves"]]
    factor = 30 * Fraction(10, 60) if way["kind"] == "on_demand" else Fraction(730)
    shown = [curve / factor for curve in curves]
    assert {*shown} == {*rows}, way["title"]
    return shown


def cost(curve: Curve, requests: int) -> Fraction:
    fixed, each, room = curve
    machines = max(1, -(-requests // room)) if room else 1
    return machines * fixed + requests * each


def check_break_even(shown: Json, level: str, own: Curve, host: Curve, found: Checked) -> None:
    """Inside each range that is shown the own machine is cheaper, and just outside it is not."""
    where = f"{shown['own']} and {shown['hosted']}, {level}"

    def cheaper(requests: int) -> bool:
        return cost(own, requests) < cost(host, requests)

    if shown[level] is None:
        tried = [10**power * digit for power in range(9) for digit in (1, 2, 5)]
        found.same("break-even", where, any(map(cheaper, tried)), False)
        return
    for span in shown[level]["spans"]:
        first, last = span["first"], span["last"]
        found.same("break-even", f"{where} from {first}", cheaper(first), True)
        if first > 1:
            found.same("break-even", f"{where} below {first}", cheaper(first - 1), False)
        if last is not None:
            found.same("break-even", f"{where} to {last}", cheaper(last), True)
            found.same("break-even", f"{where} above {last}", cheaper(last + 1), False)
