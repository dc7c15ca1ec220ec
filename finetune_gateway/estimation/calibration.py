"""How fast this machine trains, measured once and kept in the home folder.

``backends/local/calibrate.py`` measures; this module keeps the figures and turns a run's work
into seconds with them. Knows no torch.
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
from finetune_gateway.settings.files import write_atomic

FILE = "calibration.json"
# QLoRA: turning its matrices back costs 5 % of a step on one row of 512 tokens, 8 % on 128, 11 %
# on 32 (LoRA beside QLoRA on a model of 96 million parameters, CPU seconds, medians of 7).
TURNING_BACK = 1.08
# Turning a weight into 4 bits, where nobody measured it: 2.69 s for 64 million, reading and all.
# A job does it twice: to train, and to answer.
QUANTISE_CPU, READINGS = 4e-8, 2
# The logits of a batch live at once, in tiles. Up to so many bytes of one the caches help; a logit
# of larger ones costs up to three times as much (20 shapes, tiles of 1 to 133 MB: 14 to 45 ns).
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
    """What a run makes the machine do; ``units`` are in the order of ``WORK``."""

    units: tuple[float, ...]
    parameters: int
    checkpoint_bytes: int  # of the trained weights and their two moments
    quantised: int = 0  # weights turned into 4 bits, each time the model is read

    def plus(self, other: Load, times: float) -> Load:
        """With other work on the same model, so many times."""
        both = zip(self.units, other.units, strict=True)
        return replace(self, units=tuple(own + times * more for own, more in both))


def load_of(
    shape: ModelShape,
    setup: Setup,
    *,
    slots: float,
    squares: float,
    batches: float,
    steps: float,
    masked: bool,
) -> Load:
    """The work of a run: ``slots`` tokens with padding in ``batches``, ``squares`` the sum of
    slots times batch length. ``masked``: a batch has several rows, or is a pack."""
    full, again = setup.kind == "full", setup.checkpointing
    adapters = 0 if full else lora_parameters(shape, setup.r, setup.targets)
    # Forward 2, backward 2 for the inputs, 2 more for weights that are trained; checkpointing
    # goes forward twice. The head goes forward twice always (TRL computes the logits again).
    blocks = (6 if full else 4) + (2 if again else 0)
    head = (8 if full else 6) * shape.vocab_size * shape.hidden_size
    flops = blocks * shape.active_block_parameters + (blocks + 2) * adapters + head
    matrices = flops * (TURNING_BACK if setup.kind == "qlora" else 1)
    # Without a mask torch's kernel leaves out the half of the keys that come later.
    meetings = squares * shape.layers * shape.heads * shape.head_dim * (1.0 if masked else 0.5)
    trained = shape.parameters if full else adapters
    kept = 6 * shape.hidden_size + 4 * shape.intermediate_size * shape.active_experts
    twice = 1.3 if again else 1.0
    tile = 4 * slots / max(1, batches) * min(shape.vocab_size, TILE_VOCABULARY)
    logits = slots * shape.vocab_size
    return Load(
        units=(
            batches * shape.layers * twice,
            slots * matrices,
            logits,
            logits * max(0.0, 1 - CACHED / tile) if tile else 0.0,
            slots * shape.layers * kept * twice,
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
    slots: float,
    squares: float,
    batches: float,
    masked: bool,
) -> Load:
    """The work of running rows through a model to know its loss: as ``load_of``, forward alone,
    which is a third of everything but the matrices (they are told apart) and the optimiser."""
    whole = load_of(
        shape, setup, slots=slots, squares=squares, batches=batches, steps=0, masked=masked
    )
    adapters = 0 if setup.kind == "full" else lora_parameters(shape, setup.r, setup.targets)
    head = shape.vocab_size * shape.hidden_size
    flops = 2 * (shape.active_block_parameters + adapters + head)
    matrices = slots * flops * (TURNING_BACK if setup.kind == "qlora" else 1)
    third = [unit / 3 for unit in whole.units]
    third[WORK.index(MATRICES)] = matrices
    return replace(whole, units=tuple(third))


class Calibration(BaseModel):
    """Seconds for one of each kind of ``WORK`` on this machine, and what stands around a run."""

    model_config = ConfigDict(frozen=True)

    machine: str
    torch: str
    measured_on: date
    threads: int  # of models above 20 million parameters; smaller ones train with one
    rates: tuple[float, ...]  # CPU seconds per unit of WORK, with one thread
    stretch: float  # wall seconds per CPU second, as busy as the machine was
    speedup: float  # of ``threads`` over one thread, in wall seconds
    start_cpu: float  # importing, loading, and asking the first question
    save_cpu: float  # one checkpoint of an adapter
    save_byte_cpu: float  # each byte of a larger one
    imported_bytes: int  # resident memory once everything is imported
    errors: tuple[float, ...]  # of the fit, one for each shape that was measured
    largest: int  # parameters of the largest model that was measured
    load_average: float
    quantise_cpu: float | None = None  # turning a weight into 4 bits; None without bitsandbytes

    @field_validator("rates")
    @classmethod
    def _whole(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(rates) != len(WORK):
            raise ValueError("the kinds of work were others when this was measured")
        return rates

    def cpu_seconds(self, load: Load, saves: int) -> float:
        """CPU seconds of a whole run with one thread: the wall seconds of an idle core."""
        work = sum(rate * units for rate, units in zip(self.rates, load.units, strict=True))
        return self._around(load, saves) + work

    def _around(self, load: Load, saves: int) -> float:
        """Starting, and saving: checkpoints and the result."""
        each = self.save_cpu + self.save_byte_cpu * load.checkpoint_bytes
        reading = READINGS * load.quantised * (self.quantise_cpu or QUANTISE_CPU)
        return self.start_cpu + reading + (saves + 1) * each

    def seconds(self, load: Load, saves: int) -> float:
        """Wall seconds of a whole run while the machine is as busy as it was."""
        around = self._around(load, saves)
        work = self.cpu_seconds(load, saves) - around
        faster = self.speedup if load.parameters >= SMALL_MODEL else 1.0
        return self.stretch * (around + work / faster)

    def stale_reason(self, today: date) -> str | None:
        """Why the figures may not hold any more, or None."""
        if self.machine != machine():
            return f"it was measured on another machine ({self.machine})"
        if self.torch != torch_version():
            return f"it was measured with torch {self.torch}, not {torch_version()}"
        age = (today - self.measured_on).days
        return f"it is {age} days old" if age > STALE_DAYS else None


SMALL_MODEL = 20_000_000  # parameters; below it the local backend trains with one thread


def machine() -> str:
    """What tells this machine from another: processor, cores, memory in GiB."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return f"{platform.system()} {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def read(home: Path) -> Calibration | None:
    """The figures in a home folder; None when nobody measured or the file is of another time."""
    try:
        return Calibration.model_validate_json((home / FILE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def write(home: Path, found: Calibration) -> Path:
    """Keep the figures: a whole file or the old one."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / FILE
    write_atomic(path, json.dumps(found.model_dump(mode="json"), indent=2) + "\n")
    return path


def fitted(loads: Sequence[Load], seconds: Sequence[float]) -> tuple[float, ...]:
    """The rates, none below zero, whose sums are nearest to what was measured, each shape
    counted alike: least squares of relative errors by coordinate descent."""
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
