"""Memory and time of a local run, from the numbers in a model's ``config.json``.

Knows formulas, each with the measurement it comes from; imports no torch and looks at no
device. The constants were measured on a CPU with 40M-parameter models; figures for GPUs are
datasheet values with wide ranges, and are labelled so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple

from finetune_gateway.errors import SpecError
from finetune_gateway.pricing import Estimate, Price, Range, auto_epochs
from finetune_gateway.shape import QK_NORM, ModelShape, lora_parameters, shape_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens import TokenStats

__all__ = [
    "GPUS",
    "Gpu",
    "MemoryParts",
    "ModelShape",
    "estimate_local",
    "estimate_memory",
    "estimate_seconds",
    "lora_parameters",
    "memory_range",
    "shape_of",
    "training_flops",
]

GIB = 1 << 30
Device = Literal["cpu", "gpu"]
Speeds = tuple[float, float, float]  # FLOP/s: slow, usual, fast

# Python with torch, transformers, peft and trl imported, before any model (measured RSS).
_HOST_OVERHEAD = 532_000_000
# CUDA context and libraries (a figure of unsloth's estimator; not measured here).
_CUDA_OVERHEAD = 1_400_000_000

# Saved for backward in float32, bytes per token and layer: llama 4 * (7.3 H + 4 M), models with
# q/k norms 1.5 H more; bfloat16 28.0 of 40.5 kB, all weights trained 47.8 of 40.5 kB; with
# checkpointing 4.5 H. The step's peak holds 1.1 of what is saved (all measured, H = 512).
_SAVED_H, _SAVED_M, _SAVED_NORM, _SAVED_CHECKPOINT = 7.3, 4.0, 1.5, 4.5
_SAVED_BF16, _SAVED_FULL, _PEAK = 28.0 / 40.5, 47.8 / 40.5, 1.1
# TRL computes the logits in tiles of 4,096 tokens x 32,768 entries (kernels/chunked_logprob.py).
# On a CPU 9.5 of them live at once (slope of its peak from 1,024 to 4,096 tokens, measured);
# on a GPU its kernel reuses one, and two are reckoned with.
_TILE_TOKENS, _TILE_VOCABULARY = 4_096, 32_768
_TILES = {"cpu": 9.5, "gpu": 2.0}
# NF4 with double quantisation: 16 bits / 3.6 per weight of the blocks (unsloth's estimator).
_NF4_BYTES = 2 / 3.6

# Share of the measured bfloat16 GEMM peak that training reaches: 0.38 predicts within 10 % the
# best configuration found (one row at a time, fused loss); TRL's SFTTrainer on padded batches
# of 8 in float32 reaches 0.08 (both measured on a CPU).
_BEST_SHARE = 0.38
_SHARES = {"cpu": (0.05, 0.08, 0.38), "gpu": (0.05, 0.15, 0.40)}  # gpu: not measured
# FLOP/s one CPU core reaches in training when nobody measured it: 15 G with SFTTrainer on an
# AVX-512 core, 35 G with single rows; a core without AVX-512 is taken to do a fifth.
_CORE_SPEEDS = (3e9, 15e9, 40e9)


# Importing torch and TRL, loading and saving: 10 s measured, more on a busy machine.
_START_SECONDS = (5.0, 15.0, 60.0)


class Gpu(NamedTuple):
    """Dense 16-bit tensor FLOP/s and memory of one GPU, by NVIDIA's datasheets."""

    flops: float
    memory_bytes: int


GPUS = {
    "T4": Gpu(65e12, 16 * GIB),
    "V100": Gpu(125e12, 16 * GIB),
    "A10": Gpu(125e12, 24 * GIB),
    "L4": Gpu(121e12, 24 * GIB),
    "RTX 4090": Gpu(165e12, 24 * GIB),
    "A6000": Gpu(155e12, 48 * GIB),
    "L40S": Gpu(362e12, 48 * GIB),
    "A100-40GB": Gpu(312e12, 40 * GIB),
    "A100-80GB": Gpu(312e12, 80 * GIB),
    "H100": Gpu(989e12, 80 * GIB),
    "H200": Gpu(989e12, 141 * GIB),
}


@dataclass(frozen=True)
class MemoryParts:
    """Peak memory of a training step by part, in bytes."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.adapters
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.overhead
        )


def estimate_memory(
    shape: ModelShape,
    spec: TrainingSpec,
    tokens: TokenStats,
    *,
    device: Device = "cpu",
    rows: int = 8,
    row_tokens: int | None = None,
) -> MemoryParts:
    """Peak memory of one step on ``rows`` rows padded to ``row_tokens`` (default: the longest).

    As the local backend trains: float32 without activation checkpointing on a CPU, bfloat16
    with it on a GPU; adapters, their gradients and Adam's moments in float32; sdpa attention.
    """
    full, kind = spec.training_type == "full", spec.training_type or "lora"
    width = _WEIGHT_BYTES[device]
    trainable = shape.parameters if full else _adapters(shape, spec)
    grown = width if full else 4  # bytes of a trained weight
    length = row_tokens or min(tokens.max, spec.max_length or tokens.max)
    step = min(rows, tokens.rows) * length * (2 if spec.method in _PAIRED else 1)
    tile = min(step, _TILE_TOKENS) * min(shape.vocab_size, _TILE_VOCABULARY) * width
    return MemoryParts(
        weights=_quantised(shape) if kind == "qlora" else width * shape.parameters,
        adapters=0 if full else grown * trainable,
        gradients=grown * trainable,
        optimizer=2 * grown * trainable,
        activations=int(_PEAK * step * _saved(shape, device, full=full)),
        logits=int(_TILES[device] * tile),
        overhead=_HOST_OVERHEAD if device == "cpu" else _CUDA_OVERHEAD,
    )


_WEIGHT_BYTES: dict[Device, int] = {"cpu": 4, "gpu": 2}
_PAIRED = frozenset({"dpo", "orpo"})  # two answers, each with its prompt, go through at once


def _adapters(shape: ModelShape, spec: TrainingSpec) -> int:
    return lora_parameters(shape, spec.lora_r, spec.target_modules)


def _quantised(shape: ModelShape) -> int:
    return int(_NF4_BYTES * shape.block_parameters) + 2 * shape.embedding_parameters


def _saved(shape: ModelShape, device: Device, *, full: bool) -> float:
    """Bytes saved for the backward pass per token, over all layers."""
    norm = _SAVED_NORM if shape.model_type in QK_NORM else 0.0
    inner = shape.intermediate_size * shape.active_experts
    layer = 4 * ((_SAVED_H + norm) * shape.hidden_size + _SAVED_M * inner)
    layer *= _SAVED_FULL if full else 1.0
    if device == "cpu":
        return layer * shape.layers
    return layer * _SAVED_BF16 + _SAVED_CHECKPOINT * shape.hidden_size * shape.layers


def memory_range(
    shape: ModelShape,
    spec: TrainingSpec,
    tokens: TokenStats,
    *,
    device: Device = "cpu",
    rows: int = 8,
) -> Range[int]:
    """Low: rows of median length; expected: of the longest; high: a quarter more."""
    short = estimate_memory(
        shape, spec, tokens, device=device, rows=rows, row_tokens=max(1, tokens.median)
    ).total
    longest = estimate_memory(shape, spec, tokens, device=device, rows=rows).total
    return Range[int](low=min(short, longest), expected=longest, high=longest + longest // 4)


def training_flops(shape: ModelShape, tokens: TokenStats, epochs: float, *, full: bool) -> float:
    """Floating-point operations of a run: 4 N T for the blocks (6 N T when all weights are
    trained) and 4 V H T_loss for the head, N parameters and T tokens."""
    per_weight = 6 if full else 4
    blocks = per_weight * shape.active_block_parameters * tokens.total
    head = per_weight * shape.vocab_size * shape.hidden_size * tokens.trained
    return float(epochs * (blocks + head))


def estimate_seconds(
    shape: ModelShape,
    tokens: TokenStats,
    epochs: float,
    flops_per_second: float,
    *,
    full: bool = False,
    efficiency: float = _BEST_SHARE,
) -> float:
    """Wall seconds of training; ``flops_per_second`` is the machine's bfloat16 GEMM peak.

    Within 10 % of measured runs of 40M to 66M-parameter models; a 0.3M one is slower by far.
    """
    work = training_flops(shape, tokens, epochs, full=full)
    return work / (efficiency * flops_per_second)


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def estimate_local(
    spec: TrainingSpec,
    tokens: TokenStats,
    shape: ModelShape | None,
    *,
    device: Device = "cpu",
    gpu: str | None = None,
    usd_per_gpu_hour: Decimal | None = None,
    flops_per_second: float | None = None,
    default_batch: int = 8,
    today: date | None = None,
) -> Estimate:
    """What a run on this machine, or on a GPU named in ``GPUS``, would take.

    ``flops_per_second``: the measured bfloat16 GEMM peak of the device, when it is known.
    Without ``shape`` neither memory nor time is told. Raises SpecError for an unknown GPU.
    """
    named = _gpu(gpu)
    where: Device = "gpu" if gpu else device
    batch = default_batch if spec.batch_size == "auto" else spec.batch_size
    epochs = auto_epochs(tokens.rows) if spec.n_epochs == "auto" else spec.n_epochs
    seconds = memory = None
    if shape is not None:
        flops = _run_flops(shape, spec, tokens, epochs, batch)
        seconds = _seconds(flops, _speeds(where, named, flops_per_second))
        memory = memory_range(shape, spec, tokens, device=where, rows=batch)
    price = _gpu_price(gpu, usd_per_gpu_hour, today or date.today())
    return Estimate(
        backend="local",
        model=spec.model,
        method=spec.method,
        training_type=spec.training_type or "lora",
        n_epochs=epochs,
        n_epochs_rule="given"
        if spec.n_epochs != "auto"
        else "auto: by the number of rows, as the OpenAI cookbook does",
        tokens=tokens,
        cost_usd=_cost(seconds, price),
        seconds=seconds,
        memory_bytes=memory,
        memory_available_bytes=named.memory_bytes if named else None,
        prices=[price] if price else [],
        data_leaves_machine=False,
        assumptions=_assumptions(where, batch, gpu, price, flops_per_second),
        warnings=_warnings(gpu, named, memory, tokens),
        unknown=_unknown(shape, where, price),
    )


def _gpu(name: str | None) -> Gpu | None:
    if name is None:
        return None
    if name not in GPUS:
        raise SpecError(
            f"No figures are known for GPU {name!r}.", hint=f"Known: {', '.join(GPUS)}."
        )
    return GPUS[name]


def _run_flops(
    shape: ModelShape, spec: TrainingSpec, tokens: TokenStats, epochs: int, batch: int
) -> float:
    passes = float(epochs)
    if spec.max_steps is not None and tokens.rows:
        passes = spec.max_steps * batch * spec.gradient_accumulation_steps / tokens.rows
    return training_flops(shape, tokens, passes, full=spec.training_type == "full")


def _seconds(flops: float, speeds: Speeds) -> Range[float]:
    slow, usual, fast = speeds
    first, second, third = _START_SECONDS
    return Range[float](
        low=first + flops / fast, expected=second + flops / usual, high=third + flops / slow
    )


def _speeds(device: Device, gpu: Gpu | None, measured: float | None) -> Speeds:
    """FLOP/s that training reaches: slow, usual, fast."""
    slow, usual, fast = _SHARES[device]
    if measured is not None:
        return slow * measured, usual * measured, fast * measured
    if gpu is not None:
        return slow * gpu.flops, usual * gpu.flops, fast * gpu.flops
    if device == "gpu":  # some GPU: from the slowest known to the fastest
        return slow * GPUS["T4"].flops, usual * GPUS["A10"].flops, fast * GPUS["H200"].flops
    first, second, third = _CORE_SPEEDS
    return cores() * first, cores() * second, cores() * third


def _gpu_price(gpu: str | None, usd: Decimal | None, today: date) -> Price | None:
    if usd is None:
        return None
    if not usd.is_finite() or usd < 0:
        raise SpecError(f"A GPU hour cannot cost {usd}.", hint="Give USD per hour.")
    return Price(
        backend="local",
        model=gpu or "this machine",
        unit="gpu_hour",
        usd=usd,
        as_of=today,
        source="given by the user",
    )


def _cost(seconds: Range[float] | None, price: Price | None) -> Range[Decimal] | None:
    if price is None:
        return Range[Decimal](low=Decimal(0), expected=Decimal(0), high=Decimal(0))
    if seconds is None:
        return None
    low, expected, high = (
        (Decimal(str(value)) * price.usd / 3600).quantize(Decimal("0.000001"))
        for value in (seconds.low, seconds.expected, seconds.high)
    )
    return Range[Decimal](low=low, expected=expected, high=high)


def _assumptions(
    device: Device, batch: int, gpu: str | None, price: Price | None, measured: float | None
) -> list[str]:
    how = "float32" if device == "cpu" else "bfloat16, activation checkpointing"
    said = [f"Memory: {batch} rows per step, padded to the longest; {how}."]
    if price is None:
        said.append("Cost 0 means no hosted charge; the machine and its power are not counted.")
    if measured is None and device == "cpu":
        said.append(f"The speed of {cores()} CPU cores is assumed, not measured: a wide range.")
    if measured is None and device == "gpu":
        what = f"the datasheet of {gpu}" if gpu else "an unnamed GPU, between T4 and H200"
        said.append(f"The speed is that of {what}; how much of it is reached is not measured.")
    return said


def _warnings(
    gpu: str | None, device: Gpu | None, memory: Range[int] | None, tokens: TokenStats
) -> list[str]:
    said = []
    if device and memory and memory.expected > device.memory_bytes:
        need, have = memory.expected / GIB, device.memory_bytes / GIB
        said.append(f"About {need:.1f} GiB are needed; {gpu} has {have:.0f} GiB.")
    if tokens.truncated_rows:
        said.append(f"{tokens.truncated_rows} rows are longer than the limit and are cut.")
    return said


def _unknown(shape: ModelShape | None, device: Device, price: Price | None) -> list[str]:
    said = []
    if shape is None:
        said.append("Memory and time: the model's config.json is not on this machine.")
    if device == "gpu" and price is None:
        said.append("What an hour of the GPU costs.")
    return said
