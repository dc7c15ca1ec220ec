"""The measured speed of this machine, kept in the home folder, and run times computed with it.

``backends/local/calibrate.py`` measures it; nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from finetune_gateway.estimation.memory import TILE_VOCABULARY, Setup
from finetune_gateway.estimation.model_shape import ModelShape, lora_parameters
from finetune_gateway.settings import files

FILE = "calibration.json"
# QLoRA: dequantising costs 5 % of a step on one row of 512 tokens, 8 % on 128, 11 % on 32 (QLoRA
# against LoRA on a model of 96 million parameters, CPU seconds, medians of 7).
DEQUANTISING = 1.08
# Quantising a weight to 4 bits, when not measured: 2.69 s for 64 million, reading included. A job
# does it twice: to train, and to answer.
QUANTISE_CPU, READINGS = 4e-8, 2
# Logits are computed in tiles. A tile of up to this many bytes fits the caches; a logit of a larger
# one costs up to three times as much (20 shapes, tiles of 1 to 133 MB: 14 to 45 ns).
CACHED = 12 << 20
STALE_DAYS = 90
MATRICES = "a floating-point operation in the matrices"
WORK = (
    "a batch passing one layer",
    MATRICES,
    "a logit",
    "a logit beyond the caches",
    "a number kept for the backward pass",
    "a query meeting a key, per number",
    "a trained weight of the optimiser's step",
    "a step",
)


@dataclass(frozen=True)
class Load:
    """The work of a run; ``units`` are in the order of ``WORK``."""

    units: tuple[float, ...]
    parameters: int
    checkpoint_bytes: int  # of the trained weights and their two moments
    quantised: int = 0  # weights quantised each time the model is read

    def plus(self, other: Load, times: float) -> Load:
        """Return this work plus ``times`` the other, on the same model."""
        pairs = zip(self.units, other.units, strict=True)
        return replace(self, units=tuple(own + times * more for own, more in pairs))


def load_of(
    shape: ModelShape,
    setup: Setup,
    *,
    padded_tokens: float,
    attention_cost: float,
    batches: float,
    steps: float,
    masked: bool,
) -> Load:
    """Return the work of a run with these batches (see BatchPlan).

    ``masked``: a batch has several rows, or is a pack.
    """
    full, again = setup.kind == "full", setup.checkpointing
    adapters = 0 if full else lora_parameters(shape, setup.r, setup.targets)
    # Forward 2, backward 2 for the inputs, 2 more for trained weights; checkpointing runs forward
    # twice. The head always runs forward twice (TRL computes the logits again).
    blocks = (6 if full else 4) + (2 if again else 0)
    head = (8 if full else 6) * shape.vocab_size * shape.hidden_size
    flops = blocks * shape.active_block_parameters + (blocks + 2) * adapters + head
    matrices = flops * (DEQUANTISING if setup.kind == "qlora" else 1)
    # Without a mask torch's kernel skips the later half of the keys.
    meetings = (
        attention_cost * shape.layers * shape.heads * shape.head_dim * (1.0 if masked else 0.5)
    )
    trained = shape.parameters if full else adapters
    kept = 6 * shape.hidden_size + 4 * shape.intermediate_size * shape.active_experts
    twice = 1.3 if again else 1.0
    tile = 4 * padded_tokens / max(1, batches) * min(shape.vocab_size, TILE_VOCABULARY)
    logits = padded_tokens * shape.vocab_size
    return Load(
        units=(
            batches * shape.layers * twice,
            padded_tokens * matrices,
            logits,
            logits * max(0.0, 1 - CACHED / tile) if tile else 0.0,
            padded_tokens * shape.layers * kept * twice,
            meetings * twice,
            steps * trained,
            steps,
        ),
        parameters=shape.parameters,
        checkpoint_bytes=12 * trained,
        quantised=shape.linear_parameters if setup.kind == "qlora" else 0,
    )


def evaluation_of(
    shape: ModelShape,
    setup: Setup,
    *,
    padded_tokens: float,
    attention_cost: float,
    batches: float,
    masked: bool,
) -> Load:
    """Return the work of computing the loss of rows: the forward pass alone, which is a third of
    everything but the matrices (computed exactly) and the optimiser."""
    whole = load_of(
        shape,
        setup,
        padded_tokens=padded_tokens,
        attention_cost=attention_cost,
        batches=batches,
        steps=0,
        masked=masked,
    )
    adapters = 0 if setup.kind == "full" else lora_parameters(shape, setup.r, setup.targets)
    head = shape.vocab_size * shape.hidden_size
    flops = 2 * (shape.active_block_parameters + adapters + head)
    matrices = padded_tokens * flops * (DEQUANTISING if setup.kind == "qlora" else 1)
    third = [unit / 3 for unit in whole.units]
    third[WORK.index(MATRICES)] = matrices
    return replace(whole, units=tuple(third))


class Calibration(BaseModel):
    """Seconds per unit of each kind of ``WORK`` on this machine, and of starting and saving."""

    model_config = ConfigDict(frozen=True)

    machine: str
    torch: str
    measured_on: date
    threads: int  # for models above 20 million parameters; smaller ones use one
    rates: tuple[float, ...]  # CPU seconds per unit of WORK, with one thread
    stretch: float  # wall seconds per CPU second, under the load at that time
    speedup: float  # of ``threads`` over one thread, in wall seconds
    start_cpu: float  # importing, loading and the first answer
    save_cpu: float  # one checkpoint of an adapter
    save_byte_cpu: float  # each byte of a larger one
    imported_bytes: int  # resident memory after all imports
    errors: tuple[float, ...]  # of the fit, one for each measured shape
    largest: int  # parameters of the largest measured model
    load_average: float
    quantise_cpu: float | None = None  # quantising a weight; None without bitsandbytes

    @field_validator("rates")
    @classmethod
    def _whole(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(rates) != len(WORK):
            raise ValueError("this was measured with other kinds of work")
        return rates

    def cpu_seconds(self, load: Load, saves: int) -> float:
        """Return the CPU seconds of a run with one thread: its wall time on an idle core."""
        work = sum(rate * units for rate, units in zip(self.rates, load.units, strict=True))
        return self._overhead(load, saves) + work

    def _overhead(self, load: Load, saves: int) -> float:
        """Return the CPU seconds of starting and of saving checkpoints and the result."""
        each = self.save_cpu + self.save_byte_cpu * load.checkpoint_bytes
        reading = READINGS * load.quantised * (self.quantise_cpu or QUANTISE_CPU)
        return self.start_cpu + reading + (saves + 1) * each

    def seconds(self, load: Load, saves: int) -> float:
        """Return the wall seconds of a run under the load of the measurement."""
        overhead = self._overhead(load, saves)
        work = self.cpu_seconds(load, saves) - overhead
        speedup = self.speedup if load.parameters >= SMALL_MODEL else 1.0
        return self.stretch * (overhead + work / speedup)

    def stale_reason(self, today: date) -> str | None:
        """Return why the figures may no longer hold, or None."""
        if self.machine != machine():
            return f"it was measured on another machine ({self.machine})"
        if self.torch != torch_version():
            return f"it was measured with torch {self.torch}, not {torch_version()}"
        age = (today - self.measured_on).days
        return f"it is {age} days old" if age > STALE_DAYS else None


SMALL_MODEL = 20_000_000  # parameters; below it the local backend trains with one thread


def machine() -> str:
    """Return the processor, cores and memory of this machine in one line."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return f"{platform.system()} {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def read(home: Path) -> Calibration | None:
    """Return the figures in a home folder; None if there are none or an old version wrote them."""
    try:
        return Calibration.model_validate_json((home / FILE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def write(home: Path, calibration: Calibration) -> Path:
    """Write the figures to a home folder and return the path of the file."""
    path = files.folder(home) / FILE
    text = json.dumps(calibration.model_dump(mode="json"), indent=2) + "\n"
    files.write_atomic(path, text, private=True)
    return path


def fit_rates(loads: Sequence[Load], seconds: Sequence[float]) -> tuple[float, ...]:
    """Return the non-negative rates that fit the measured seconds best: least squares of relative
    errors, by coordinate descent."""
    rows = [
        [unit / taken for unit in load.units] for load, taken in zip(loads, seconds, strict=True)
    ]
    count = len(WORK)
    scale = [max(row[i] for row in rows) or 1.0 for i in range(count)]
    scaled = [[value / scale[i] for i, value in enumerate(row)] for row in rows]
    rates = [0.0] * count
    for _ in range(20_000):
        for i in range(count):
            rest = [1.0 - sum(rates[j] * row[j] for j in range(count) if j != i) for row in scaled]
            along = sum(row[i] * left for row, left in zip(scaled, rest, strict=True))
            rates[i] = max(0.0, along / (sum(row[i] ** 2 for row in scaled) + 1e-9))
    return tuple(rate / scale[i] for i, rate in enumerate(rates))
