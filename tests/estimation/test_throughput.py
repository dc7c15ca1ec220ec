"""Speeds of serving by the datasheet of a GPU, beside those that others have published."""

from __future__ import annotations

import json
import tomllib
from decimal import Decimal
from typing import Any

import pytest
from support.cli import Ftg
from support.paths import ROOT

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.serving import Traffic, serving_costs
from finetune_gateway.estimation.throughput import ServedModel, throughput, two_digits

FILE = ROOT / "bench" / "serving_speed.toml"
POINTS: list[dict[str, Any]] = tomllib.loads(FILE.read_text("utf-8"))["point"]
L4, H100 = GPUS["L4"], GPUS["H100"]
EIGHT = ServedModel(8)


@pytest.mark.parametrize("point", POINTS, ids=[f"{p['gpu']}-{p['engine']}" for p in POINTS])
def test_each_published_speed_is_inside_the_range(point: dict[str, Any]) -> None:
    """None is off by more than a factor of three, and each has its source and day."""
    model = ServedModel(point["billions"], point.get("bytes_per_weight", 2.0), point["cache_bytes"])
    lengths = point["tokens_in"], point["tokens_out"]
    found = throughput(GPUS[point["gpu"]], model, *lengths, point["users"])
    assert found is not None and found.low <= point["tokens_per_second"] <= found.high
    assert 1 / 3 <= found.expected / point["tokens_per_second"] <= 3
    assert point["source"] and point["as_of"]


def test_one_request_at_a_time_is_bound_by_bandwidth() -> None:
    """By hand: 16 GB of weights at 0.7 of 300 GB/s are 76 ms, 128 tokens of an answer 9.8 s, the
    prompt takes 0.1 s: 384 tokens in 9.9 s are 39 a second."""
    found = throughput(L4, EIGHT, 256, 128, users=1)
    assert found is not None and [found.low, found.expected] == [Decimal(13), Decimal(39)]


def test_what_makes_a_gpu_faster() -> None:
    """More at once, until memory is full; a smaller model, fewer bits, more bandwidth; prompts are
    cheaper than answers."""

    def speed(
        gpu: str = "L4", model: ServedModel = EIGHT, lengths: tuple[int, int] = (256, 128),
        users: int = 16,
    ) -> Decimal:  # fmt: skip
        found = throughput(GPUS[gpu], model, *lengths, users)
        assert found is not None
        return found.expected

    assert speed(users=1) < speed(users=8) < speed(users=64)
    assert speed(users=10_000) == speed(users=100_000)
    assert speed(model=ServedModel(3)) > speed() < speed(model=ServedModel(8, 1.0))
    assert speed("H100") > 5 * speed()
    assert speed(lengths=(1000, 50)) > speed() > speed(lengths=(50, 1000))


def test_what_does_not_fit_has_no_speed() -> None:
    """140 GB of weights, or the cache of one request of 10 million tokens."""
    assert throughput(H100, ServedModel(70), 10, 10) is None
    assert throughput(H100, EIGHT, 10_000_000, 10) is None
    assert throughput(L4, EIGHT, 0, 0) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0},
        {"users": 10**6},
        {"served": ServedModel(0.0)},
        {"served": ServedModel(float("nan"))},
    ],
)
def test_figures_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    """By their name on the command line, with what is accepted."""
    traffic = Traffic(requests=10, tokens_in=10, tokens_out=10)
    with pytest.raises(SpecError, match="--serve-.* is out of bounds") as caught:
        serving_costs(traffic, [], gpu="L4", **wrong)
    assert (caught.value.hint or "").startswith("Give ")


def test_two_digits() -> None:
    """No more than an estimate can tell."""
    wanted = {1689: "1700", 99.6: "100", 4.44: "4.4", 123_456: "120000"}
    assert {amount: f"{two_digits(amount):f}" for amount in wanted} == wanted


def test_the_command_takes_users_and_the_size_of_the_model(ftg: Ftg) -> None:
    """Both change the speed; beside a speed that is given they are refused: they do nothing."""
    data = str(ROOT / "finetune_gateway" / "resources" / "demo_train.jsonl")
    asked = ("estimate", data, "--model", "gpt-4.1-mini-2025-04-14", "--json")
    serve = ("--monthly-requests", "1000", "--serve-gpu", "L40S")

    def speed(*more: str) -> Decimal:
        ways = json.loads(ftg(*asked, *serve, *more).stdout)["serving"]["ways"]
        own = next(way for way in ways if way["where"] == "own")
        return Decimal(own["tokens_per_second"]["expected"])

    assert speed("--serve-users", "1") < speed() < speed("--serve-billions", "1")
    for more in ((*serve, "--serve-users", "5", "--serve-tokens-per-second", "100"),
                 ("--serve-users", "5")):  # fmt: skip
        assert ftg(*asked, *more).returncode == 2


def test_the_model_that_is_served_has_the_size_of_your_own_base(ftg: Ftg, train_file: Any) -> None:
    """The first base whose shape is known; one in another place is taken for 8 billion."""
    for model, size in (("builtin/tiny", "0.00"), ("gpt-4.1-mini-2025-04-14", "8 billion")):
        said = ftg(
            "estimate", str(train_file), "--model", model, "--monthly-requests", "9", "--json"
        )
        own = next(way for way in json.loads(said.stdout)["serving"]["ways"]
                   if way["where"] == "own")  # fmt: skip
        assert f"a model of {size}" in " ".join(own["assumptions"])
