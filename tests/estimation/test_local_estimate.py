"""Claims of estimation.local: published parameter counts and measured peaks and times."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import pytest

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.assumptions import TargetDevice
from finetune_gateway.estimation.batch_plan import plan_batches
from finetune_gateway.estimation.calibration import MEETINGS, WORK, Load
from finetune_gateway.estimation.engine import Device
from finetune_gateway.estimation.estimate import MemoryParts, Range, auto_epochs
from finetune_gateway.estimation.gpus import GIB, GPUS, gpu_name
from finetune_gateway.estimation.local import estimate_local, largest_batch, training_load
from finetune_gateway.estimation.memory import (
    IMPORTED,
    STARTED,
    Setup,
    float32_or_bfloat16,
    micro_batch_rows,
    saved_bytes,
    step_memory,
)
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.estimation.model_shape import ModelShape, lora_parameters
from finetune_gateway.estimation.price_table import gpu_prices
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

TODAY = date(2026, 11, 21)

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
SMOLLM_135M: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_4B: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 9728, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_30B_A3B: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
    "num_experts_per_tok": 8, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
QWEN25_05B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
    "vocab_size": 50257,
}  # fmt: skip
# The model and the rows of the measurements that the constants come from.
MEASURED: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 1408, "vocab_size": 32_000,
    "tie_word_embeddings": True,
}  # fmt: skip
ROWS = TokenStats(
    encoding="chat template", exact=True, rows=24, total=7_381, trained=4_788, min=90,
    median=258, p95=733, max=800,
)  # fmt: skip


def on(gpu: str, usd_per_hour: Decimal | None = None) -> TargetDevice:
    return TargetDevice("gpu", gpu, usd_per_hour)


def memory_of(config: dict[str, Any], **options: Any) -> Range[int]:
    """The memory of a run on ROWS on a CPU."""
    found = estimate_local(TrainingSpec(model="m", **options), ROWS, shape_of(config)).memory_bytes
    assert found is not None
    return found


def parts_of(
    shape: ModelShape, device: Device = "cpu", *, rows: int = 8, length: int = 800, **options: Any
) -> MemoryParts:
    """The memory of a step on equally long rows, by part."""
    setup = Setup.of(TrainingSpec(model="m", **options), device)
    return step_memory(shape, setup, rows, length)


@pytest.mark.parametrize(
    ("config", "published", "tolerance"),
    [
        (LLAMA_8B, 8_030_261_248, 0),
        (SMOLLM_135M, 134_515_008, 0),
        (QWEN3_4B, 4_022_468_096, 0),
        (QWEN3_30B_A3B, 30_532_122_624, 0),
        (QWEN25_05B, 494_032_768, 1e-4),  # has biases
        (GPT2, 124_439_808, 8e-3),  # has biases and learnt positions
    ],
)
def test_parameters_are_the_published_ones(
    config: dict[str, Any], published: int, tolerance: float
) -> None:
    """The count from config.json alone is the model's published number of parameters."""
    assert abs(shape_of(config).parameters - published) <= tolerance * published


def test_experts_count_once_in_time() -> None:
    """Of a model with experts, memory holds all, a token passes the active ones."""
    shape = shape_of(QWEN3_30B_A3B)
    active = shape.active_block_parameters + shape.embedding_parameters
    assert 3.2e9 < active < 3.5e9  # "A3B", 3.3 billion by its model card


def test_a_text_model_inside_a_multimodal_one_is_found() -> None:
    """The language part of a nested config counts."""
    nested = {"model_type": "some_vl", "text_config": QWEN3_4B, "vision_config": {}}
    assert shape_of(nested) == shape_of(QWEN3_4B)


@pytest.mark.parametrize(
    "config",
    [{}, {**LLAMA_8B, "hidden_size": "big"}, {**LLAMA_8B, "num_hidden_layers": 0},
     {**LLAMA_8B, "vocab_size": True}],
)  # fmt: skip
def test_a_config_without_its_numbers_is_an_error(config: dict[str, Any]) -> None:
    """What is missing is named; nothing is guessed."""
    with pytest.raises(SpecError, match="config.json has no usable"):
        shape_of(config)


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_beyond_all_models_is_an_error(name: str) -> None:
    """Decimal has 28 digits, and a price of 10^30 is none."""
    for size in (10**9, 10**30, 10**400):
        with pytest.raises(SpecError, match=f"{name} above 100,000,000"):
            shape_of({**LLAMA_8B, name: size})
    assert shape_of({**QWEN3_30B_A3B, "num_experts_per_tok": 10**6}).active_experts == 128


def test_lora_parameters_are_rank_times_both_sides() -> None:
    """Published for Llama-3.1-8B, rank 16, all linear maps: 41,943,040."""
    shape = shape_of(LLAMA_8B)
    assert lora_parameters(shape, 16) == 41_943_040
    assert lora_parameters(shape, 8, ("q_proj", "v_proj")) == 3_407_872
    assert lora_parameters(shape, 8, ("model.layers.q_proj", "v_proj")) == 3_407_872
    assert lora_parameters(shape, 32) == 2 * lora_parameters(shape, 16)


def test_memory_of_the_measured_run_is_in_the_range() -> None:
    """TRL's defaults in float32 on 24 chats with the 40M model peaked at 8.0 GB of RSS."""
    found = memory_of(MEASURED, batch_size=8, engine="trl")
    assert found.low < 8.0e9 < found.high
    assert abs(found.expected / 8.0e9 - 1) < 0.25


def test_memory_of_single_rows_is_near_the_measured_one() -> None:
    """The same with one row per step and no checkpointing peaked at 1.8 GB."""
    found = memory_of(MEASURED, batch_size=1, engine="trl")
    assert found.low < 1.8e9 < found.high


@pytest.mark.parametrize(
    ("shape", "rows", "length", "options", "saved"),
    [  # kB per token and layer that autograd saved for models with random weights
        ((192, 512, 4, 6, 6, 1_152, "llama"), 1, 1_024, {}, 15.1),
        ((192, 512, 4, 6, 6, 1_152, "llama"), 8, 111, {}, 15.5),
        ((192, 512, 4, 6, 6, 1_152, "llama"), 8, 411, {}, 16.7),
        ((320, 896, 6, 8, 4, 16_000, "llama"), 4, 512, {}, 27.3),
        ((512, 1_408, 8, 8, 4, 32_000, "qwen3"), 1, 1_000, {}, 40.5),
        ((512, 1_408, 8, 8, 4, 32_000, "qwen3"), 4, 213, {}, 43.6),
        ((512, 1_408, 8, 8, 4, 32_000, "qwen3"), 1, 1_024, {"packing": True}, 46.9),
        ((512, 1_408, 8, 8, 4, 32_000, "qwen3"), 4, 213, {"training_type": "full"}, 50.9),
        ((640, 1_728, 14, 10, 5, 50_000, "llama"), 2, 128, {}, 49.3),
        ((256, 1_024, 4, 4, 4, 1_000, "gpt_neox"), 1, 512, {}, 16.7),  # whose MLP has no gate
        ((256, 1_024, 4, 4, 4, 1_000, "starcoder2"), 1, 512, {}, 16.8),
    ],
)
def test_what_a_layer_saves_is_counted_tensor_by_tensor(
    shape: tuple[Any, ...], rows: int, length: int, options: dict[str, Any], saved: float
) -> None:
    """Within 3 % of the bytes that saved_tensors_hooks counted in one step."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "vocab_size", "model_type")  # fmt: skip
    found = shape_of(dict(zip(names, shape, strict=True)))
    spec = TrainingSpec(model="m", engine="trl", bf16=False, **options)
    setup = Setup.of(spec, "cpu")
    per_token = saved_bytes(found, setup, rows, length) / (rows * length)
    assert per_token == pytest.approx(saved * 1000, rel=0.03)


def test_full_training_needs_sixteen_bytes_per_parameter() -> None:
    """Weights, gradients and Adam's two moments in float32, as accelerate counts them, once the
    gradients are there; a step of few tokens peaks at that moment."""
    shape = shape_of(SMOLLM_135M)
    parts = parts_of(shape, rows=1, length=8, training_type="full", bf16=False)
    assert parts.weights + parts.gradients + parts.optimizer == 16 * shape.parameters
    assert parts.adapters == 0
    gpu = parts_of(shape, "gpu", rows=1, length=8, training_type="full")
    # Hugging Face, model_memory_anatomy: 6 for the weights and their copies, 4 and 8.
    assert gpu.weights + gpu.gradients + gpu.optimizer == 18 * shape.parameters


def test_gradients_are_kept_while_they_are_accumulated() -> None:
    """With accumulation all gradients are there when the next batch has all its activations."""
    shape = shape_of(SMOLLM_135M)
    one, several = (
        parts_of(shape, training_type="full", gradient_accumulation_steps=steps) for steps in (1, 2)
    )
    assert several.gradients == 4 * shape.parameters > one.gradients
    assert several.activations == one.activations


LLAMA_7B = {**LLAMA_8B, "num_key_value_heads": 32, "intermediate_size": 11008, "vocab_size": 32000}


@pytest.mark.parametrize(("kind", "gigabytes"), [("full", 120), ("lora", 16), ("qlora", 6)])
def test_a_7b_model_needs_what_is_published(
    kind: Literal["full", "lora", "qlora"], gigabytes: int
) -> None:
    """LLaMA-Factory's table of hardware for 7B: 120, 16 and 6 GB."""
    parts = parts_of(shape_of(LLAMA_7B), "gpu", rows=1, length=512, training_type=kind, lora_r=8)
    assert parts.total / 1e9 == pytest.approx(gigabytes, rel=0.2)


def test_full_training_is_in_bfloat16_where_float32_does_not_fit() -> None:
    """60 GB for a 7B model by the same table (pure_bf16), on a GPU of 80; float32 where it fits for
    certain or nobody knows the memory. The estimate says which, and the smallest GPU goes by it."""
    shape, wanted = (
        shape_of(LLAMA_7B),
        Setup.of(TrainingSpec(model="m", training_type="full"), "gpu"),
    )

    def chosen(usable: int | None) -> Setup:
        return float32_or_bfloat16(shape, wanted, 1, 512, usable)

    assert chosen(None) == chosen(GPUS["B300"].usable_bytes) == wanted
    small = chosen(GPUS["H100"].usable_bytes)
    assert not small.float32
    assert step_memory(shape, small, 1, 512).total / 1e9 == pytest.approx(60, rel=0.2)
    lora = Setup.of(TrainingSpec(model="m"), "gpu")
    assert float32_or_bfloat16(shape, lora, 1, 512, 1) == lora
    spec = TrainingSpec(model="m", training_type="full", batch_size=1, max_length=512)
    said = {}
    for gpu in ("H100", "H200", "B200", "B300"):
        found = estimate_local(spec, ROWS, shape, target=on(gpu))
        said[gpu] = " ".join(found.assumptions)
        assert found.smallest_gpu == "H100 NVL"
        assert (found.fits == "yes") is (gpu != "H100")  # no larger one fits less
        assert bool(found.largest_batch) is (gpu != "H100")
    assert "bfloat16 (no memory for float32" in said["H100"]
    assert "bfloat16 (no memory for float32" in said["B200"]
    assert "float32 weights, computed in bfloat16" in said["B300"]


def test_rows_at_once_are_those_of_the_weights_that_are_held() -> None:
    """Full training of 9 billion parameters on an H200 is in bfloat16: as many rows as fit so, not
    the one that would not fit in float32."""
    shape = shape_of({**LLAMA_7B, "num_hidden_layers": 44})
    spec = TrainingSpec(model="m", training_type="full", batch_size=16, max_length=512)
    found = estimate_local(spec, ROWS, shape, target=on("H200"))
    setup = Setup.of(spec, "gpu", shape)
    assert found.largest_batch and found.largest_batch > 1 and found.fits == "yes"
    assert micro_batch_rows(spec, shape, setup, 512, GPUS["H200"].usable_bytes) > 1


def test_the_largest_batch_is_the_last_that_fits() -> None:
    """One row more might need more than the memory: half as much again as expected."""
    shape, setup = shape_of(QWEN3_4B), Setup.of(TrainingSpec(model="m"), "gpu")
    usable = GPUS["RTX 4090"].usable_bytes
    rows = largest_batch(shape, setup, 2048, usable)
    assert step_memory(shape, setup, rows, 2048).total * 3 // 2 <= usable
    assert step_memory(shape, setup, rows + 1, 2048).total * 3 // 2 > usable
    assert largest_batch(shape_of(LLAMA_8B), setup, 2048, 1 << 30) == 0


def test_a_gpu_is_named_as_people_write_it() -> None:
    """Case, spaces and dashes do not count; of a wrong name those near it are named."""
    assert gpu_name("rtx4090") == "RTX 4090" and gpu_name("h200") == "H200"
    for wrong, near in (("RTX 4070", "RTX 4080"), ("H1000", "H100")):
        with pytest.raises(SpecError) as caught:
            gpu_name(wrong)
        assert near in (caught.value.hint or "")


def test_the_smallest_gpu_is_told_and_it_is_the_smallest() -> None:
    """The run fits it for certain, and no GPU with less memory."""
    spec, shape = TrainingSpec(model="m"), shape_of(LLAMA_8B)
    name = estimate_local(spec, ROWS, shape, target=on("H200")).smallest_gpu
    assert name is not None
    assert estimate_local(spec, ROWS, shape, target=on(name)).fits == "yes"
    smaller = [one for one in GPUS if GPUS[one].memory_bytes < GPUS[name].memory_bytes]
    for one in ("T4", "RTX 4090", "L4"):
        assert one in smaller
        assert estimate_local(spec, ROWS, shape, target=on(one)).fits != "yes"


def test_the_smallest_gpu_holds_the_packs_that_there_are() -> None:
    """Of 400 short rows there are few, however many are to pass through the model at once."""
    rows = TokenStats(encoding="x", exact=True, rows=400, total=25_600, trained=12_800, max=64,
                      median=64, lengths={64: 400})  # fmt: skip
    shape = shape_of(LLAMA_8B)
    spec = TrainingSpec(model="m", packing=True, batch_size=8, micro_batch_size=8)
    found = estimate_local(spec, rows, shape, target=replace(on("H200"), row_limit=50_000))
    assert found.fits == "yes" and found.smallest_gpu is not None
    smallest = replace(on(found.smallest_gpu), row_limit=50_000)
    assert estimate_local(spec, rows, shape, target=smallest).fits == "yes"
    assert smallest.usable_bytes is not None and smallest.usable_bytes < 80e9


def test_a_priced_gpu_costs_hours_times_its_rows() -> None:
    """Low at the cheapest market, expected on demand, high at the dearest; each row is listed, and
    energy follows from the board's power."""
    found = estimate_local(TrainingSpec(model="m"), ROWS, shape_of(LLAMA_8B), target=on("H100"))
    rows = gpu_prices("H100")
    assert found.prices == rows and found.cost_usd and found.seconds and found.energy_kwh
    hours = found.seconds.expected / 3600
    usual = next(row.usd for row in rows if row.market == "on-demand")
    assert float(found.cost_usd.expected) == pytest.approx(hours * float(usual), abs=1e-5)
    dearest = float(max(row.usd for row in rows))
    assert float(found.cost_usd.high) == pytest.approx(
        found.seconds.high / 3600 * dearest, abs=1e-5
    )
    assert found.energy_kwh.high == pytest.approx(0.7 * found.seconds.high / 3600)


def test_qlora_holds_less_than_lora_than_full() -> None:
    """The three training types are ordered in what they hold."""
    shape = shape_of(QWEN3_4B)
    totals = [
        parts_of(shape, "gpu", training_type=kind).total for kind in ("qlora", "lora", "full")
    ]
    assert totals == sorted(totals)
    assert totals[1] < 24 * GIB  # a LoRA of a 4B model fits a 24 GB card


def test_preference_pairs_double_a_step() -> None:
    """DPO sends both answers through at once."""
    shape = shape_of(MEASURED)
    single, double = (parts_of(shape, rows=1, method=method) for method in ("sft", "dpo"))
    assert double.activations == pytest.approx(2 * single.activations, abs=2)


def test_memory_follows_the_engine_and_the_method() -> None:
    """Blocks of logits, not tiles; our layers keep less; of one pair the mask is gone, and both
    sequences leave holes; a reward model has no head; the optimizer, DoRA and modules beside the
    adapter count."""
    shape = shape_of(MEASURED)
    fast, trl = (parts_of(shape, rows=1, engine=engine, bf16=False) for engine in ("fast", "trl"))
    assert fast.logits == 128 * 32_000 * 16 < trl.logits
    assert fast.activations < trl.activations * 0.8
    assert parts_of(shape, rows=1, method="reward").logits == 0
    single, pair = (parts_of(shape, rows=1, method=method) for method in ("sft", "dpo"))
    holes = [one.overhead - IMPORTED - STARTED for one in (single, pair)]
    assert holes[1] == pytest.approx(2 * holes[0], abs=4)
    states = {
        optim: parts_of(shape, rows=1, length=8, training_type="full", optim=optim).optimizer
        for optim in ("adamw_torch_fused", "adamw_8bit", "adagrad", "lion_8bit", "sgd")
    }
    each = [round(held / shape.parameters) for held in states.values()]
    assert each == [8, 2, 4, 1, 0]
    magnitudes = sum(outputs for _, outputs in shape.linears.values()) * shape.layers
    dora = parts_of(shape, rows=1, use_dora=True)
    assert dora.adapters - single.adapters == 4 * magnitudes
    beside = parts_of(shape, rows=1, modules_to_save=("lm_head", "embed_tokens"))
    assert beside.adapters - single.adapters == 4 * 32_000 * 512  # they share a weight
    two = parts_of(shape, rows=1, method="dpo", training_type="full", engine="trl", bf16=False)
    one = parts_of(shape, rows=1, method="dpo", training_type="full", bf16=False)
    assert two.weights == 2 * one.weights  # TRL's reference is a copy


def test_trl_takes_logits_in_tiles_for_every_method_but_orpo() -> None:
    """So pairs of 8,192 tokens over a large vocabulary need two tiles on a GPU, not all logits; and
    what imports bitsandbytes holds it, an 8-bit optimizer too."""
    shape = shape_of(LLAMA_8B)

    def parts(device: Device = "gpu", **options: Any) -> MemoryParts:
        setup = Setup.of(TrainingSpec.build(model="m", batch_size=4, **options), device, shape)
        return step_memory(shape, setup, 4, 2048)

    dpo, kto, sft, orpo = (
        parts(method=name, engine="trl").logits for name in ("dpo", "kto", "sft", "orpo")
    )
    assert dpo == kto == sft == 2 * 4096 * 32_768 * 2
    assert orpo > 16_384 * 128_256 * 4
    narrow, plain = parts("cpu", optim="adamw_8bit"), parts("cpu", optim="sgd")
    assert narrow.overhead - plain.overhead == 49_000_000
    assert parts("cpu", training_type="qlora").overhead > plain.overhead + 49_000_000


def work_of(shape: ModelShape, device: Device = "cpu", **options: Any) -> Load:
    """The work of one epoch of ROWS, one by one."""
    options = {"n_epochs": 1, "micro_batch_size": 1, "bf16": False, **options}
    spec = TrainingSpec.build(model="m", **options)
    plan = plan_batches(spec, ROWS, at_once=1)
    return training_load(shape, spec, Setup.of(spec, device, shape), plan)


def test_time_of_the_measured_run() -> None:
    """The best configuration took 11.8 s on a core of 205 to 220 GFLOP/s in bfloat16."""
    share = 0.38  # of that peak
    flops = work_of(shape_of(MEASURED)).flops
    assert flops / (share * 215e9) == pytest.approx(11.8, rel=0.2)
    assert work_of(shape_of(MEASURED), n_epochs=3).flops == pytest.approx(3 * flops)


def test_work_is_counted_in_multiplications() -> None:
    """LoRA: 4 N a token in the blocks, 4 V H a trained token in the head, and 12 for each number of
    a query that meets a key; 6 N where all weights are trained, 2 N more with checkpointing."""
    shape = shape_of(MEASURED)
    blocks, head = shape.active_block_parameters, shape.vocab_size * shape.hidden_size
    lora, again, full = (
        work_of(shape, lora_r=1, gradient_checkpointing=checkpointing, training_type=kind)
        for kind, checkpointing in (("lora", False), ("lora", True), ("full", False))
    )
    meetings = 12 * lora.units[WORK.index(MEETINGS)]
    expected = 4 * blocks * ROWS.total + 4 * head * ROWS.trained + meetings
    assert lora.flops == pytest.approx(expected, rel=0.02)
    assert again.flops - lora.flops == pytest.approx(
        2 * blocks * ROWS.total + 0.3 * meetings, rel=0.02
    )
    assert full.flops == pytest.approx(
        6 * blocks * ROWS.total + 6 * head * ROWS.trained + meetings, rel=0.02
    )
    assert 0 < meetings < 0.1 * lora.flops


def test_a_local_run_costs_no_hosted_charge() -> None:
    """On this machine: zero USD, said to be hosted charges only; nothing leaves it."""
    spec = TrainingSpec(model="Qwen/Qwen3-4B")
    estimate = estimate_local(spec, ROWS, shape_of(QWEN3_4B), today=TODAY)
    assert estimate.cost_usd is not None
    assert estimate.cost_usd.low == estimate.cost_usd.high == 0
    assert not estimate.data_leaves_machine
    assert estimate.host is None
    assert any("no host charges" in said for said in estimate.assumptions)
    assert any("assumed, not measured" in said for said in estimate.assumptions)
    assert estimate.n_epochs == auto_epochs(ROWS.rows) and "auto" in estimate.n_epochs_rule


def test_an_assumed_speed_gives_a_wide_range() -> None:
    """Unmeasured, high is at least ten times low, and what was measured lies between."""
    spec, shape = TrainingSpec(model="m", n_epochs=1), shape_of(MEASURED)
    guessed = estimate_local(spec, ROWS, shape, today=TODAY).seconds
    assert guessed is not None and guessed.high / guessed.low >= 10
    assert guessed.low < 67 < guessed.high  # measured: 7,381 tokens at 105 to 116 tokens a second


def test_an_hour_of_a_gpu_is_priced_when_its_price_is_given() -> None:
    """Cost = hours x price, for low, expected and high; the row says who gave it."""
    spec = TrainingSpec(model="m", n_epochs=2)
    estimate = estimate_local(
        spec, ROWS, shape_of(QWEN3_4B), target=on("H100", Decimal("3.99")), today=TODAY
    )
    assert estimate.seconds is not None and estimate.cost_usd is not None
    for level in ("low", "expected", "high"):
        hours = getattr(estimate.seconds, level) / 3600
        assert float(getattr(estimate.cost_usd, level)) == pytest.approx(hours * 3.99, abs=1e-5)
    assert estimate.prices[0].unit == "gpu_hour"
    assert estimate.unknown == []
    json.dumps(estimate.model_dump(mode="json"))
    with pytest.raises(SpecError, match="cannot be -1"):
        estimate_local(
            spec, ROWS, None, target=TargetDevice(usd_per_gpu_hour=Decimal(-1)), today=TODAY
        )


def test_a_gpu_that_is_too_small_is_warned_of() -> None:
    """An 8B model in 16 bits does not fit a T4; it fits an H100."""
    spec, shape = TrainingSpec(model="m"), shape_of(LLAMA_8B)
    small = estimate_local(spec, ROWS, shape, target=on("T4"), today=TODAY)
    assert any("of T4 14.7 GiB can be used" in warning for warning in small.warnings)
    assert estimate_local(spec, ROWS, shape, target=on("H100"), today=TODAY).warnings == []
    with pytest.raises(SpecError, match="No figures are known for GPU 'H1000'") as caught:
        estimate_local(spec, ROWS, shape, target=on("H1000"), today=TODAY)
    assert "H100" in caught.value.hint


def test_an_unnamed_gpu_spans_the_known_ones() -> None:
    """ "gpu" without a name: a wide range, and what it costs is unknown."""
    estimate = estimate_local(
        TrainingSpec(model="m"), ROWS, shape_of(QWEN3_4B), target=TargetDevice("gpu"), today=TODAY
    )
    assert estimate.seconds is not None
    assert estimate.seconds.high / estimate.seconds.low > 20
    assert any("an unnamed GPU, T4 to H200" in note for note in estimate.assumptions)
    assert any("a GPU hour" in note for note in estimate.unknown)


def test_max_steps_ends_a_run_early() -> None:
    """Three steps of eight rows are one pass over 24 rows."""
    shape = shape_of(MEASURED)
    stopped = estimate_local(TrainingSpec(model="m", max_steps=3), ROWS, shape, today=TODAY)
    one = estimate_local(TrainingSpec(model="m", n_epochs=1), ROWS, shape, today=TODAY)
    assert stopped.seconds == one.seconds


def test_without_a_config_nothing_is_guessed() -> None:
    """No shape: neither memory nor time, and why."""
    estimate = estimate_local(TrainingSpec(model="m"), ROWS, None, today=TODAY)
    assert estimate.memory_bytes is None and estimate.seconds is None
    assert estimate.unknown == [
        "Memory and time: the model's config.json is not on this machine.",
        "Energy: the power of this machine is not known; that of a GPU is (--gpu).",
    ]


def test_no_rows_give_an_estimate() -> None:
    """An empty file is estimated without an error: only starting takes time."""
    empty = TokenStats(encoding="x", exact=True)
    estimate = estimate_local(TrainingSpec(model="m"), empty, shape_of(MEASURED), today=TODAY)
    assert estimate.seconds is not None and estimate.seconds.high == 60


def test_importing_local_estimates_loads_no_torch() -> None:
    """Estimating needs none of the heavy packages."""
    code = (
        "import sys, finetune_gateway.estimation.local\n"
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
