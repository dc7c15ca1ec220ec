"""What an estimate of a local run assumes, warns of and does not know, in words.

``local`` computes the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from finetune_gateway.estimation.batch_plan import BatchPlan
from finetune_gateway.estimation.calibration import Calibration, stretch_now
from finetune_gateway.estimation.engine import Device, cores
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.gpu_hours import expected_price
from finetune_gateway.estimation.gpu_speed import HIGH, LOW
from finetune_gateway.estimation.gpus import GIB, GPUS, NO_BFLOAT16
from finetune_gateway.estimation.memory import LOGIT_BYTES, Setup, head_memory
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.throughput import two_digits
from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats, cut_words

# Importing torch and TRL, loading and saving: 10 s measured, more on a busy machine.
START_SECONDS = (5.0, 15.0, 60.0)
ENERGY = "Energy: the power of this machine is not known; that of a GPU is (--gpu)."


@dataclass(frozen=True)
class TargetDevice:
    """Where a run would train: this machine, or a GPU by name."""

    device: Device = "cpu"
    gpu: str | None = None
    usd_per_gpu_hour: Decimal | None = None
    memory_bytes: int | None = None  # of this machine, if known
    calibration: Calibration | None = None
    row_limit: int | None = None  # tokens per row; longer rows are truncated
    price_file: Path | None = None
    context: int | None = None  # tokens that the model reads
    no_calibration: str = ""  # why one that is there is not used

    @property
    def usable_bytes(self) -> int | None:
        return GPUS[self.gpu].usable_bytes if self.gpu else self.memory_bytes


def assumptions(
    spec: TrainingSpec,
    setup: Setup,
    plan: BatchPlan,
    target: TargetDevice,
    prices: Sequence[Price],
    shape: ModelShape | None = None,
    share: float | None = None,
) -> list[str]:
    """Return what memory, time, energy and cost assume. ``share``: of the GPU's peak."""
    notes = [_memory_words(spec, setup, plan, shape)]
    if shape is not None:
        notes += [*_experts_words(shape, setup), *_logits_words(shape, setup, plan)]
    if not prices and target.gpu is None:
        notes.append(
            "Cost 0 means that no host charges; your machine and its power are not included."
        )
    if spec.max_steps is not None and plan.trained.low != plan.trained.high:
        notes.append("max_steps ends within an epoch; which rows come before is random.")
    if target.device == "gpu":
        notes.append(
            "Memory on a GPU is computed, not measured by us: figures that others published lie "
            "between 0.8 and 1.5 times it. It has to fit in 92 % of the GPU; largest batch and "
            "smallest GPU are those that the high figure fits, the GPU with one row at once unless "
            "micro_batch_size is set."
        )
        what = (
            f"the datasheet of {target.gpu}" if target.gpu else "that of an unnamed GPU, T4 to H200"
        )
        percent = "below 1 %" if share and share < 0.01 else f"{share or 0:.0%}"
        reached = f"{percent} of the peak of {what}" if share else f"a part of {what}"
        notes.append(
            f"Speed: {reached}, with all that is recomputed, by runs that others published; a step "
            f"takes {LOW:g} to {HIGH:g} times as long. Several rows at once are padded to the "
            "longest; with flash-attn installed our engine leaves that out and is faster."
        )
    if target.gpu is not None:
        gpu = GPUS[target.gpu]
        notes.append(
            f"Energy: 50 to 100 %, expected 80 %, of the {gpu.watts} W of {target.gpu} by "
            f"{gpu.maker}'s datasheet; without the rest of the machine."
        )
    if target.gpu in NO_BFLOAT16:
        notes.append(
            f"{target.gpu} does not support bfloat16: training is in float32, and may be far "
            "slower than this, which is the speed of float16."
        )
    if len(prices) > 1:
        notes.append(_market_words(prices))
    if target.device == "cpu":
        notes.append(_speed_words(target.calibration))
    if target.device == "gpu" or target.calibration is None:
        low, usual, high = START_SECONDS
        notes.append(
            f"The time includes {usual:.0f} s ({low:.0f} to {high:.0f} s) to start, load and save."
        )
    return notes


def _market_words(prices: Sequence[Price]) -> str:
    expected, dearest = expected_price(prices).usd, max(row.usd for row in prices)
    return (
        "Cost: low at the cheapest market, high at the most expensive, expected at the cheapest "
        f"on demand: {expected} USD an hour (others charge up to {dearest})."
    )


def evaluation_words(runs: int, tokens: TokenStats, validation: TokenStats | None) -> list[str]:
    """Return how often the validation rows are evaluated; empty without any."""
    if validation is None:
        return []
    times = "once" if runs == 1 else f"{runs} times (eval_steps)"
    text = f"Time: the {validation.total:,} validation tokens are evaluated {times}."
    if validation.max > tokens.max:
        text += " Their longest row is longer than any training row; memory does not include it."
    return [text]


def _memory_words(
    spec: TrainingSpec, setup: Setup, plan: BatchPlan, shape: ModelShape | None
) -> str:
    precision = _precision(setup)
    if shape is not None and shape.experts > 1:
        precision = precision.replace("base in 4 bits", "base without its experts in 4 bits")
    recomputed = ", activation checkpointing" if setup.checkpointing else ""
    return (
        f"Memory: {_rows_words(spec, setup, plan)}; {precision}{recomputed}; {spec.optim}; sdpa; "
        f"engine {setup.engine}."
    )


def _experts_words(shape: ModelShape, setup: Setup) -> list[str]:
    if setup.kind != "qlora" or shape.experts == 1:
        return []
    others = shape.parameters - shape.linear_parameters
    return [
        f"The experts stay in {8 * setup.width} bits, so {others / shape.parameters:.0%} of the "
        "weights are not in 4: bitsandbytes quantises linear modules alone, and experts are none."
    ]


def _logits_words(shape: ModelShape, setup: Setup, plan: BatchPlan) -> list[str]:
    """Return what a trainer that keeps all logits would need beside, where that is much."""
    tokens = plan.rows * plan.longest * setup.sequences
    kept = LOGIT_BYTES * tokens * shape.vocab_size - head_memory(shape, setup, tokens)
    if setup.device == "cpu" or not setup.has_head or kept < 4 * GIB:
        return []
    return [
        f"The loss takes the logits in parts: a trainer that keeps all of them ({tokens:,} tokens "
        f"x {shape.vocab_size:,}) would need about {kept / GIB:.2g} GiB more."
    ]


def _rows_words(spec: TrainingSpec, setup: Setup, plan: BatchPlan) -> str:
    """Return what passes through the model at once."""
    name = "pack" if spec.packing else "piece" if spec.method == "pretrain" else "row"
    name = "pair" if METHODS[spec.method].sequences > 1 else name
    padded = f"padded to the longest ({plan.longest} tokens)"
    if spec.packing or setup.together(plan.rows) == 1:
        padded = f"the longest has {plan.longest} tokens"
    at_once = f"one {name} at a time" if plan.rows == 1 else f"{plan.rows} {name}s at once"
    return f"{at_once}, {padded}"


def _precision(setup: Setup) -> str:
    if not setup.bf16:
        return "base in 4 bits, else float32" if setup.kind == "qlora" else "float32"
    if setup.kind == "full":
        lack = "bfloat16 (no memory for float32: small updates round away)"
        return "float32 weights, computed in bfloat16" if setup.float32 else lack
    base = "base in 4 bits, computed in bfloat16" if setup.kind == "qlora" else "base in bfloat16"
    return f"{base}, adapters in float32"


def _speed_words(calibration: Calibration | None) -> str:
    if calibration is None:
        return (
            f"The speed of {cores()} CPU cores is assumed, not measured, hence a wide range. "
            "Measure it: ftg doctor --calibrate"
        )
    load = f"1-minute load {calibration.load_average:.1f}"
    slowdown = f"a CPU second took {calibration.stretch:.1f} s"
    text = f"Speed: measured on this machine on {calibration.measured_on} ({load}, {slowdown})."
    if (now := stretch_now()) > calibration.stretch:
        text += f" It is busier now: one takes {now:.1f} s, which the longest time allows for."
    return text


def warnings(
    target: TargetDevice,
    memory: Range[int] | None,
    tokens: TokenStats,
    calibrated: Calibration | None,
    today: date,
) -> list[str]:
    """Return warnings: too little memory, truncated rows, an old calibration."""
    notes = []
    if target.gpu and memory and memory.expected > GPUS[target.gpu].usable_bytes:
        need, usable = memory.expected / GIB, GPUS[target.gpu].usable_bytes / GIB
        notes.append(
            f"The run needs about {two_digits(need):f} GiB; "
            f"of {target.gpu} {usable:.1f} GiB can be used."
        )
    if tokens.truncated_rows:
        limit = target.row_limit or 0
        whole = target.context is not None and limit >= target.context
        raised = (
            "the model reads no more"
            if whole
            else "max_length raises the limit, at most to the model's context"
        )
        notes.append(f"{cut_words(tokens, limit)}; {raised}.")
    if target.no_calibration and target.device == "cpu":
        notes.append(target.no_calibration)
    if calibrated and (reason := calibrated.stale_reason(today)):
        notes.append(f"The measured speed may not hold: {reason}. Run: ftg doctor --calibrate")
    return notes


def unknown(shape: ModelShape | None, target: TargetDevice, prices: Sequence[Price]) -> list[str]:
    """Return what has no figure, and why."""
    notes = []
    if shape is None:
        notes.append("Memory and time: the model's config.json is not on this machine.")
    if target.device == "gpu" and not prices:
        notes.append("The price of a GPU hour: give --usd-per-gpu-hour.")
    if target.gpu is None:
        notes.append(ENERGY)
    return notes
