"""Speeds of serving by the datasheet of a GPU, beside those that others have published."""

from __future__ import annotations

import json
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.paths import ROOT

from finetune_gateway.backends.local.builtin import CONFIG, ensure_tokenizer
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.serving import serving_costs
from finetune_gateway.estimation.throughput import (
    ServedModel,
    requests_that_fit,
    speed_of,
    throughput,
    two_digits,
)
from finetune_gateway.estimation.traffic import Traffic

FILE = ROOT / "bench" / "serving_speed.toml"
POINTS: list[dict[str, Any]] = tomllib.loads(FILE.read_text("utf-8"))["point"]
L4, H100, H200 = GPUS["L4"], GPUS["H100"], GPUS["H200"]
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
    for model, size in (
        ("builtin/tiny", "tiny, 1.99 million parameters in 16 bits"),
        ("gpt-4.1-mini-2025-04-14", "8 billion parameters (assumed) in 16 bits"),
    ):
        said = ftg(
            "estimate", str(train_file), "--model", model, "--monthly-requests", "9", "--json"
        )
        own = next(way for way in json.loads(said.stdout)["serving"]["ways"]
                   if way["where"] == "own")  # fmt: skip
        assert size in " ".join(own["assumptions"])


def test_requests_that_do_not_fit_are_not_counted_in_silence() -> None:
    """The figures are of those that the memory holds, and say so."""
    model = ServedModel(8)
    fitting = requests_that_fit(GPUS["A10G"], model, 2000, 200)
    assert 0 < fitting < 64
    named = speed_of("A10G", None, model, 2000, 200, 1000)
    assert f"{fitting} requests at once, all that fit of 1,000" in named.of
    assert named.tokens == speed_of("A10G", None, model, 2000, 200, fitting).tokens
    assert "all that fit" not in speed_of("A10G", None, model, 2000, 200, fitting).of
    assert ", 1 request at once" in speed_of("A10G", None, model, 2000, 200, 1).of


def test_experts_that_a_token_does_not_use_take_room_and_no_time() -> None:
    """Mixtral (47 billion, 45 of them in 8 experts of which a token uses 2) takes the room of its
    size; one token reads 13 billion, and many at once read nearly all."""
    mixtral = ServedModel(46.7, cache_bytes=131_072, expert_billions=45.1, used=0.25)
    dense = ServedModel(46.7, cache_bytes=131_072)
    assert mixtral.active == pytest.approx(12.9e9, rel=0.01)
    assert mixtral.read_bytes(1) == pytest.approx(2 * mixtral.active)
    assert mixtral.read_bytes(64) == pytest.approx(mixtral.bytes, rel=1e-6)
    lengths = (1000, 200)
    assert requests_that_fit(H200, mixtral, *lengths) == requests_that_fit(H200, dense, *lengths)
    for users, least, most in ((1, 3.0, 3.7), (64, 1.2, 3.7)):
        few, all_of_it = (throughput(H200, one, *lengths, users) for one in (mixtral, dense))
        assert few and all_of_it
        assert least < float(few.expected / all_of_it.expected) < most
    assert "of which" not in str(mixtral) and "12.9 billion of them for a token" in str(mixtral)


def test_without_a_gpu_one_that_holds_the_model_is_taken() -> None:
    """An A10G, else the cheapest: a price that nobody asked for and that is none helps nobody."""
    traffic = Traffic(requests=1000, tokens_in=100, tokens_out=100)
    small, large, huge = (
        serving_costs(traffic, [], served=ServedModel(size)) for size in (8, 70, 2000)
    )
    assert {way.model for way in small.ways} == {way.model for way in huge.ways} == {"A10G"}
    (taken,) = {way.model for way in large.ways}
    assert requests_that_fit(GPUS[taken], ServedModel(70), 100, 100)
    assert all(way.monthly_usd for way in large.ways) and huge.ways[0].unknown


def test_a_base_that_is_not_served_is_named(ftg: Ftg, train_file: Any, tmp_path: Path) -> None:
    """Of two bases on your own machine the first is priced; of one size they are served alike."""
    from transformers import LlamaConfig, LlamaForCausalLM  # slow to import

    other = ensure_tokenizer(tmp_path / "larger")
    config = {**CONFIG, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(other)
    asked = ("estimate", str(train_file), "--model", "builtin/tiny", "--model", str(other))
    said = json.loads(ftg(*asked, "--monthly-requests", "9", "--json").stdout)["serving"]
    assert "priced for tiny, not for larger" in " ".join(said["warnings"])
    own = next(way for way in said["ways"] if way["where"] == "own")
    assert own["serves"].startswith("tiny, 1.99 million parameters")
