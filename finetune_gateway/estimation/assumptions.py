"""What an estimate of a local run takes for granted, in words, and the place it would run at.

Reckons nothing: ``hardware`` has the figures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from finetune_gateway.estimation.batch_plan import Feed, usual_batch
from finetune_gateway.estimation.calibration import Calibration
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.gpus import GIB, GPUS, NO_BFLOAT16
from finetune_gateway.estimation.memory import Device, Setup
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

# Importing torch and TRL, loading and saving: 10 s measured, more on a busy machine.
START_SECONDS = (5.0, 15.0, 60.0)


@dataclass(frozen=True)
class Place:
    """Where a run would be: this machine, or a GPU by name."""

    device: Device = "cpu"
    gpu: str | None = None
    usd_per_gpu_hour: Decimal | None = None
    memory_bytes: int | None = None  # of this machine, where it is known
    calibration: Calibration | None = None
    row_limit: int | None = None  # tokens of a row, longer ones are cut
    price_file: Path | None = None

    @property
    def usable_bytes(self) -> int | None:
        return GPUS[self.gpu].usable_bytes if self.gpu else self.memory_bytes


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usual_price(prices: Sequence[Price]) -> Price:
    """The cheapest that is not taken away: rows come from cheap to dear."""
    return next((row for row in prices if row.market in (None, "on-demand")), prices[-1])


def assumptions(
    spec: TrainingSpec,
    setup: Setup,
    fed: Feed,
    place: Place,
    prices: Sequence[Price],
    measured: float | None,
) -> list[str]:
    """What memory, time, energy and cost rest on. ``measured``: the FLOP/s of the device."""
    said = [_memory_words(spec, setup, fed)]
    if not prices and place.gpu is None:
        said.append("Cost 0 means no hosted charge; the machine and its power are not counted.")
    if spec.max_steps is not None and fed.trained.low != fed.trained.high:
        said.append("max_steps ends within an epoch: which rows come before it is left to chance.")
    if place.device == "gpu":
        said.append("Memory on a GPU is by formula, not measured; it has to fit in 92 % of it.")
    if place.device == "gpu" and measured is None:
        what = f"the datasheet of {place.gpu}" if place.gpu else "an unnamed GPU, T4 to H200"
        said.append(
            f"The speed is that of {what}; that 5 to 40 % of it are reached is not measured."
        )
    if place.gpu is not None:
        watts = GPUS[place.gpu].watts
        said.append(
            f"Energy: 50 to 100 %, expected 80 %, of the {watts} W of the board, by NVIDIA's "
            f"datasheet of {place.gpu}; not the machine around it."
        )
    if place.gpu in NO_BFLOAT16:
        said.append(
            f"{place.gpu} has no bfloat16 of its own: the speed is that of its float16, and it "
            "may be far slower."
        )
    if len(prices) > 1:
        said.append(_market_words(prices))
    if place.device == "cpu" and measured is None:
        said.append(_speed_words(place.calibration))
    if place.device == "gpu" or place.calibration is None:
        low, usual, high = START_SECONDS
        said.append(
            f"Starting, loading and saving: {usual:.0f} s ({low:.0f} to {high:.0f} s) of the time "
            "are assumed."
        )
    return said


def _market_words(prices: Sequence[Price]) -> str:
    usual, dearest = usual_price(prices).usd, max(row.usd for row in prices)
    return (
        "Cost: low at the cheapest market, high at the dearest; expected at the cheapest on "
        f"demand, {usual} USD an hour (others ask up to {dearest})."
    )


def evaluation_words(looks: int, tokens: TokenStats, validation: TokenStats | None) -> list[str]:
    """How many times the validation rows are looked at."""
    if validation is None:
        return []
    times = "once" if looks == 1 else f"{looks} times (eval_steps)"
    said = f"Time: the {validation.total:,} validation tokens are gone through {times}."
    if validation.max > tokens.max:
        said += " Their longest row is longer than any trained on, which memory leaves out."
    return [said]


def _memory_words(spec: TrainingSpec, setup: Setup, fed: Feed) -> str:
    precision = _precision(setup)
    again = ", activation checkpointing" if setup.checkpointing else ""
    what = (
        f"packs laid end to end, {fed.longest} tokens each"
        if spec.packing
        else (f"rows, padded to the longest ({fed.longest} tokens)")
    )
    return f"Memory: a step on {usual_batch(spec)} {what}; {precision}{again}; AdamW; sdpa."


def _precision(setup: Setup) -> str:
    if setup.device == "cpu":
        return "base in 4 bits, else float32" if setup.kind == "qlora" else "float32"
    if setup.kind == "full":
        return "bfloat16"
    base = "base in 4 bits, computed in bfloat16" if setup.kind == "qlora" else "base in bfloat16"
    return f"{base}, adapters in float32"


def _speed_words(found: Calibration | None) -> str:
    if found is None:
        return (
            f"The speed of {cores()} CPU cores is assumed, not measured: a wide range. "
            "Measure it: ftg doctor --calibrate"
        )
    busy = f"1-minute load {found.load_average:.1f}, a CPU second took {found.stretch:.1f} s"
    return f"Speed: measured on this machine on {found.measured_on} ({busy})."


def warnings(
    place: Place,
    memory: Range[int] | None,
    tokens: TokenStats,
    calibrated: Calibration | None,
    today: date,
) -> list[str]:
    """What may go otherwise: too little memory, cut rows, an old calibration."""
    said = []
    if place.gpu and memory and memory.expected > GPUS[place.gpu].usable_bytes:
        need, have = memory.expected / GIB, GPUS[place.gpu].memory_bytes / GIB
        said.append(f"About {need:.1f} GiB are needed; {place.gpu} has {have:.0f} GiB.")
    if tokens.truncated_rows:
        said.append(f"{tokens.truncated_rows} rows are longer than the limit and are cut.")
    if calibrated and (doubt := calibrated.stale_reason(today)):
        said.append(f"The speed may not hold: {doubt}. Run: ftg doctor --calibrate")
    return said


def unknown(shape: ModelShape | None, place: Place, prices: Sequence[Price]) -> list[str]:
    """What has no figure, and why."""
    said = []
    if shape is None:
        said.append("Memory and time: the model's config.json is not on this machine.")
    if place.device == "gpu" and not prices:
        said.append("What an hour of the GPU costs: give --usd-per-gpu-hour.")
    if place.gpu is None:
        said.append("Energy: no power figure is known for this machine; those of GPUs are (--gpu).")
    return said
