"""What an estimate for a GPU counts: what passes through it, how it is trained, and what fits."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import LocalBackend
from finetune_gateway.cli.serving_options import ServingOptions
from finetune_gateway.estimation.assumptions import START_SECONDS, TargetDevice
from finetune_gateway.estimation.batch_plan import plan_batches
from finetune_gateway.estimation.gpus import GPUS, which_gpu
from finetune_gateway.estimation.local import estimate_local
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.reports.estimate_figures import (
    local_figures,
    memory_range_text,
    tokens_text,
)
from finetune_gateway.reports.serving_text import serving_answer
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

LLAMA_8B = ModelShape(
    model_type="llama", hidden_size=4096, layers=32, heads=32, kv_heads=8, head_dim=128,
    intermediate_size=14336, vocab_size=128256, tied=False, stored_bytes=2,
)  # fmt: skip
QWEN3_30B_A3B = ModelShape(
    model_type="qwen3_moe", hidden_size=2048, layers=48, heads=32, kv_heads=4, head_dim=128,
    intermediate_size=768, vocab_size=151936, tied=False, experts=128, active_experts=8,
    stored_bytes=2,
)  # fmt: skip


BIGGER = {"hidden_size": 8192, "layers": 80, "heads": 64, "intermediate_size": 28672}


def on(gpu: str) -> TargetDevice:
    return TargetDevice("gpu", gpu)


def lengths(counts: dict[int, int]) -> TokenStats:
    """Rows of these lengths, half of whose tokens are trained."""
    flat = sorted(Counter(counts).elements())
    return TokenStats(
        encoding="x", exact=True, rows=len(flat), total=sum(flat), trained=sum(flat) // 2,
        min=flat[0], median=flat[len(flat) // 2], p95=flat[-1], max=flat[-1], lengths=counts,
    )  # fmt: skip


def seconds_on(
    gpu: str | None, tokens: TokenStats, limit: int | None = 2048, **options: Any
) -> float:
    """The expected seconds of an 8B model, without the start."""
    target = TargetDevice("gpu" if gpu else "cpu", gpu, row_limit=limit)
    spec = TrainingSpec.build(model="m", n_epochs=1, **options)
    found = estimate_local(spec, tokens, LLAMA_8B, target=target).seconds
    assert found is not None
    return found.expected - START_SECONDS[1]


@pytest.mark.parametrize(
    "gpu", ["A100-80GB", None], ids=["on a GPU", "on a CPU that nobody measured"]
)
def test_tokens_that_are_cut_off_take_no_time(gpu: str | None) -> None:
    """20 rows of 39,120 tokens cost what the same rows written 2,048 tokens long do; and their
    trained tokens are those that are left."""
    long = lengths({39_120: 20}).model_copy(
        update={"trained": 20_480, "truncated_rows": 20, "truncated_tokens": 20 * (39_120 - 2_048)}
    )
    short = lengths({2_048: 20})
    assert seconds_on(gpu, long) == pytest.approx(seconds_on(gpu, short))
    assert seconds_on(gpu, long, limit=None) > 15 * seconds_on(gpu, short)
    target = TargetDevice("gpu", "A100-80GB", row_limit=2048)
    found = estimate_local(TrainingSpec(model="m", n_epochs=2), long, None, target=target)
    assert tokens_text(found) == "81,920 (2 epochs), 40,960 of them trained"


def test_padding_takes_time_on_a_gpu() -> None:
    """Mixed rows in batches of 1, 8 and 32 are padded to more and more slots (one by one on a fast
    GPU they wait for the host); packed they take as many tokens as they have; on a CPU our engine
    sends them one by one in any case."""
    mixed = lengths({60: 96, 400: 48, 2000: 16})
    plans = [
        plan_batches(
            TrainingSpec(model="m", n_epochs=1, batch_size=size), mixed, 2048
        ).padded_tokens
        for size in (1, 8, 32)
    ]
    taken = [
        seconds_on("A10", mixed, batch_size=size, micro_batch_size=size) for size in (1, 8, 32)
    ]
    assert plans[0] < plans[1] / 2 < plans[2] / 2
    assert taken[0] < taken[1] / 2 and taken[1] < taken[2]
    assert seconds_on("A10", mixed, packing=True) < taken[1] / 2
    assert seconds_on(None, mixed, batch_size=32) == seconds_on(None, mixed, batch_size=8)


def test_time_on_a_gpu_knows_the_training() -> None:
    """4-bit weights are dequantised in each pass, which counts most for few tokens; recomputing
    takes a third of LoRA more and full training has two thirds more to do; few tokens wait for the
    host; DPO's reference scores once."""
    few, many = lengths({128: 64}), lengths({2048: 64})
    one: dict[str, Any] = {"batch_size": 1, "gradient_checkpointing": True}

    def ratio(tokens: TokenStats, **options: Any) -> float:
        return seconds_on("H200", tokens, **{**one, **options}) / seconds_on("H200", tokens, **one)

    assert ratio(few, training_type="qlora") > ratio(many, training_type="qlora") > 1.0
    assert 0.6 < ratio(many, gradient_checkpointing=False) < 0.75
    assert 1.2 < ratio(many, training_type="full") < 1.5
    assert seconds_on("H200", few, **one) > seconds_on("H200", many, **one) / 16 * 1.2
    epochs = [
        seconds_on("H200", many, **one, method="dpo", engine=name) for name in ("fast", "trl")
    ]
    assert epochs[0] > seconds_on("H200", many, **one)
    assert seconds_on("A10", many, **one) > 5 * seconds_on("H200", many, **one)


def test_what_fits_for_certain_is_one_rule() -> None:
    """A run that fits has a batch that does and a GPU that is named; one that may fit has neither
    for certain, and says so; the rows at once are chosen so that it fits for certain."""
    shape, tokens = LLAMA_8B, lengths({1024: 64})
    seen = set()
    for name in ("RTX 3060", "RTX 4090", "RTX 5090", "A100-40GB", "H100"):
        found = estimate_local(TrainingSpec(model="m"), tokens, shape, target=on(name))
        assert found.memory_bytes and found.smallest_gpu
        assert found.memory_bytes.low == found.memory_bytes.expected * 4 // 5
        assert found.memory_bytes.high == found.memory_bytes.expected * 3 // 2
        seen.add(found.fits)
        assert (found.fits == "yes") == bool(found.largest_batch)
        assert (found.fits == "yes") == (
            GPUS[name].usable_bytes >= GPUS[found.smallest_gpu].usable_bytes
        )
        if found.fits == "maybe":
            assert dict(local_figures(found))["  largest batch"].startswith("none for certain")
    assert seen == {"yes", "maybe", "no"}


def test_memory_of_a_gpu_is_told_with_two_digits() -> None:
    """As its range is: half as much again; experts and logits that others keep are named."""
    found = estimate_local(TrainingSpec(model="m"), lengths({2048: 8}), LLAMA_8B, target=on("H200"))
    assert re.fullmatch(
        r"about \d\d GiB \(\d\d to \d\d\): fits in 129.7 GiB of H200", memory_range_text(found)
    )
    assert any("a trainer that keeps all of them (16,384 tokens x 128,256)" in text
               for text in found.assumptions)  # fmt: skip
    small = LLAMA_8B.model_copy(update={"hidden_size": 256, "layers": 2, "vocab_size": 512})
    here = estimate_local(TrainingSpec(model="m"), lengths({512: 8}), small)
    assert re.fullmatch(r"about 1\.\d GiB \(1\.\d to 1\.\d\)", memory_range_text(here))
    sparse = estimate_local(
        TrainingSpec(model="m", training_type="qlora"), lengths({512: 8}), QWEN3_30B_A3B,
        target=on("H200"),
    )  # fmt: skip
    assert any(
        "The experts stay in 16 bits, so 97% of the weights are not in 4" in text
        for text in sparse.assumptions
    )
    assert "base without its experts in 4 bits" in sparse.assumptions[0]
    assert not any("experts" in text for text in found.assumptions)


def test_tokens_of_a_run_that_a_number_of_steps_ends_are_those_of_its_steps() -> None:
    """3 of 8 steps, 3,072 of 8,192 tokens; which rows come first, and so what is trained, nobody
    knows: the first line has the mean of both, the other one the range."""
    spec = TrainingSpec(model="m", max_steps=3, batch_size=1)
    found = estimate_local(spec, lengths({1024: 8}), LLAMA_8B, target=on("H200"))
    said = tokens_text(found)
    assert said == "about 3,072 (3 steps), about 1,536 of them trained"
    assert dict(local_figures(found))["trained tokens"] == "1,152 to 2,048 in 3 steps"
    whole = estimate_local(spec.model_copy(update={"max_steps": 8}), lengths({1024: 8}), LLAMA_8B)
    assert tokens_text(whole) == "8,192 (8 steps), 4,096 of them trained"


def test_a_share_of_the_peak_that_rounds_to_nothing_is_below_one_percent() -> None:
    tiny = LLAMA_8B.model_copy(update={"hidden_size": 64, "layers": 2, "vocab_size": 512})
    found = estimate_local(TrainingSpec(model="m"), lengths({32: 8}), tiny, target=on("H200"))
    assert any("Speed: below 1 % of the peak" in text for text in found.assumptions)


@pytest.mark.parametrize(("size", "said"), [(8, "m, 8.03 billion"), (70, "do not fit it")])
def test_what_is_served_is_the_base_of_the_estimate(size: int, said: str, tmp_path: Path) -> None:
    """Its weights and its cache, not those of a model of 8 billion parameters; what does not fit
    is said on the short screen."""
    shape = LLAMA_8B if size == 8 else LLAMA_8B.model_copy(update=BIGGER)
    found = estimate_local(TrainingSpec(model="m"), lengths({512: 8}), shape, target=on("H200"))
    assert found.parameters == shape.parameters and found.cache_bytes == shape.cache_bytes
    options = ServingOptions(100_000, None, None, "H200", None, None)
    costs = options.costs([found], tmp_path / "prices.toml")
    assert costs and said in " ".join(" ".join(serving_answer(costs, 24).lines).split())
    given = replace(options, billions=3).costs([found], tmp_path / "prices.toml")
    assert given and ": 3 billion" in " ".join(serving_answer(given, 24).lines)


def test_a_name_of_several_gpus_is_warned_of(home: Path) -> None:
    """Not in a note alone: it decides what fits."""
    name = which_gpu("A100")
    assert name == "A100: A100-40GB is taken, the one with 40 GB; there is also A100-80GB."
    tokens = lengths({512: 8})
    found = LocalBackend(gpu="A100").estimate(TrainingSpec(model="builtin/tiny"), tokens)
    assert name in found.warnings and name not in found.assumptions


def test_what_cuda_itself_takes_is_counted() -> None:
    """1.4 GB of context and kernels, whatever the model: a tiny one does not fit in 1 GB."""
    tiny = LLAMA_8B.model_copy(update={"hidden_size": 64, "layers": 2, "vocab_size": 512})
    found = estimate_local(TrainingSpec(model="m"), lengths({32: 8}), tiny, target=on("H200"))
    assert found.memory_parts and 1.4e9 <= found.memory_parts.overhead < 1.5e9
