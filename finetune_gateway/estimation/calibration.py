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
from statistics import median
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from finetune_gateway.estimation.batch_plan import BatchPlan
from finetune_gateway.estimation.engine import BITSANDBYTES, SMALL_MODEL, TRL, cores, cpu_has_bf16
from finetune_gateway.estimation.memory import (
    AUTOCAST,
    BLOCK,
    TILE_TOKENS,
    TILE_VOCABULARY,
    Setup,
    trained_parameters,
    trains_head,
)
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.methods import loss_of
from finetune_gateway.settings import files
from finetune_gateway.spec import TrainingSpec

FILE = "calibration.json"
# QLoRA: dequantising costs 5 % of a step on one row of 512 tokens, 8 % on 128, 11 % on 32 (QLoRA
# against LoRA on a model of 96 million parameters, CPU seconds, medians of 7).
DEQUANTISING = 1.08
# Quantising a weight to 4 bits, when not measured: 2.69 s for 64 million, reading included. A job
# does it twice: to train, and to answer.
QUANTISE_CPU, READINGS = 4e-8, 2
# Logits are computed in blocks, or tiles. One of up to this many bytes fits the caches; a logit of
# a larger one costs more: three times as much in TRL's tiles of 1 to 133 MB (14 to 45 ns, 20
# shapes), where each of some twenty passes over a tile gets new memory.
CACHED = 12 << 20
# More threads than one are taken where they were this many times as fast in each measurement: two
# gained 1.76 and lost half within 13 minutes, on cores that others used too.
FASTER = 1.3
# Importing what only some jobs need, where it is not measured.
IMPORT_CPU = {TRL: 0.2, BITSANDBYTES: 1.2}
STALE_DAYS = 90
MOST_THREADS = 65536  # of any machine
ENGINE = "fast 2"  # the training step that rates are of; another number when it changes
MATRICES = "a floating-point operation in the matrices"
MATRICES_BF16 = f"{MATRICES}, in bf16"
MEETINGS = "a query meeting a key, per number"
WORK = (
    "a forward pass through one layer, and back",
    MATRICES,
    MATRICES_BF16,
    "a logit",
    "a logit beyond the caches",
    "a logit in TRL's tiles",
    "a logit in TRL's tiles beyond the caches",
    "a number kept for the backward pass",
    MEETINGS,
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
    packages: tuple[str, ...] = ()  # that are imported beside those of every job

    @property
    def flops(self) -> float:
        """Return the floating-point operations: those of the matrices, and 4 of the forward and 8
        of the backward pass for each number of a query that meets a key."""
        matrices = self.units[WORK.index(MATRICES)] + self.units[WORK.index(MATRICES_BF16)]
        return matrices + 12 * self.units[WORK.index(MEETINGS)]

    @property
    def layer_passes(self) -> float:
        """Return how often something passes through one layer and back."""
        return self.units[0]

    def plus(self, other: Load, times: float) -> Load:
        """Return this work plus ``times`` the other, on the same model."""
        pairs = zip(self.units, other.units, strict=True)
        return replace(self, units=tuple(own + times * more for own, more in pairs))


@dataclass(frozen=True)
class Passes:
    """What passes through the model: sums over forward passes."""

    padded_tokens: float
    scored_tokens: float  # that meet the head: those trained in our engine, all in TRL's
    attention_cost: float  # padded tokens times the length of their batch
    batches: float  # forward passes
    masked: bool  # several sequences at once, or packs

    def times(self, factor: float) -> Passes:
        return replace(
            self,
            padded_tokens=factor * self.padded_tokens,
            scored_tokens=factor * self.scored_tokens,
            attention_cost=factor * self.attention_cost,
            batches=factor * self.batches,
        )


def passes_of(plan: BatchPlan, setup: Setup, trained_tokens: float) -> Passes:
    """Return what passes through the model in a whole run with these batches."""
    scored = trained_tokens if setup.engine == "fast" else plan.padded_tokens
    return Passes(
        padded_tokens=plan.padded_tokens,
        scored_tokens=scored if setup.has_head else 0.0,
        attention_cost=plan.attention_cost,
        batches=plan.batches,
        masked=setup.masked(plan.rows),
    )


def load_of(shape: ModelShape, setup: Setup, passes: Passes, *, steps: float) -> Load:
    """Return the work of so many steps on what passes through the model."""
    full, again = setup.kind == "full", setup.checkpointing
    trained = trained_parameters(shape, setup)
    adapters = 0 if full else trained
    # Forward 2, backward 2 for the inputs, 2 more for trained weights; checkpointing runs forward
    # twice.
    blocks = (6 if full else 4) + (2 if again else 0)
    body = blocks * shape.active_block_parameters + (blocks + 2) * adapters
    matrices = passes.padded_tokens * body + passes.scored_tokens * _head_flops(shape, setup)
    twice = 1.3 if again else 1.0
    return _load(shape, setup, passes, matrices, twice=twice, steps=steps, trained=trained)


def _head_flops(shape: ModelShape, setup: Setup) -> int:
    """Return the operations of the head on one position. Ours gets logits and their gradient in one
    pass; what trains the head in pairs gets them again, and so do TRL's tiles."""
    trained = trains_head(shape, setup)
    summed = setup.engine == "fast" and setup.method in ("sft", "pretrain")
    again = setup.tiled or (trained and setup.engine == "fast" and not summed)
    return (4 + 2 * trained + 2 * again) * shape.vocab_size * shape.hidden_size


def _load(
    shape: ModelShape,
    setup: Setup,
    passes: Passes,
    matrices: float,
    *,
    twice: float,
    steps: float,
    trained: int,
) -> Load:
    # On a GPU that takes memory traffic instead (``gpu_speed``).
    matrices *= DEQUANTISING if setup.kind == "qlora" and setup.device == "cpu" else 1
    # Without a mask torch's kernel skips the later half of the keys.
    meetings = passes.attention_cost * shape.layers * shape.heads * shape.head_dim
    meetings *= 1.0 if passes.masked else 0.5
    numbers = 6 * shape.hidden_size + 4 * shape.intermediate_size * shape.active_experts
    kept = numbers * (AUTOCAST if setup.bf16 else 1.0)
    logits = passes.scored_tokens * shape.vocab_size
    beyond = logits * _beyond_caches(shape, setup, passes)
    tiled = float(setup.tiled)
    return Load(
        units=(
            passes.batches * shape.layers * twice,
            0.0 if setup.bf16 else matrices,
            matrices if setup.bf16 else 0.0,
            (1 - tiled) * logits,
            (1 - tiled) * beyond,
            tiled * logits,
            tiled * beyond,
            passes.padded_tokens * shape.layers * kept * twice,
            meetings * twice,
            steps * trained,
            steps,
        ),
        parameters=shape.parameters,
        checkpoint_bytes=12 * trained,
        quantised=shape.linear_parameters if setup.kind == "qlora" else 0,
        packages=setup.packages,
    )


def _beyond_caches(shape: ModelShape, setup: Setup, passes: Passes) -> float:
    """Return the share of the logits, computed at once, that the caches do not hold."""
    at_once, vocabulary = passes.scored_tokens / max(1, passes.batches), shape.vocab_size
    if setup.tiled:
        at_once, vocabulary = min(at_once, TILE_TOKENS), min(vocabulary, TILE_VOCABULARY)
    elif setup.engine == "fast":
        at_once = min(at_once, BLOCK["cpu"])
    size = 4 * at_once * vocabulary
    return max(0.0, 1 - CACHED / size) if size else 0.0


def forward_of(shape: ModelShape, setup: Setup, passes: Passes) -> Load:
    """Return the work of scoring rows, without training on them: the forward pass alone, which is a
    third of everything but the matrices (counted exactly) and the optimiser."""
    adapters = 0 if setup.kind == "full" else trained_parameters(shape, setup)
    body = 2 * (shape.active_block_parameters + adapters)
    matrices = passes.padded_tokens * body
    matrices += passes.scored_tokens * 2 * shape.vocab_size * shape.hidden_size
    load = _load(shape, setup, passes, matrices, twice=1.0, steps=0, trained=0)
    exact = (WORK.index(MATRICES), WORK.index(MATRICES_BF16))
    units = [unit if at in exact else unit / 3 for at, unit in enumerate(load.units)]
    return replace(load, units=tuple(units))


def forward_passes(spec: TrainingSpec, setup: Setup, epochs: float) -> float:
    """Return how often the rows of an epoch pass through the model without being trained on, in a
    run of so many epochs: for the reference, and for KTO's mismatched answers.

    Ours asks the reference once; TRL's DPO does in each epoch.
    """
    once = min(1.0, epochs)
    if spec.method == "dpo":
        return once if setup.engine == "fast" else epochs
    if spec.method == "kto":
        return 2 * once + epochs if loss_of(spec) == "kto" else once
    return 0.0


_Seconds = Annotated[float, Field(ge=0)]


class Calibration(BaseModel):
    """Seconds per unit of each kind of ``WORK`` on this machine, and of starting and saving."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    machine: str
    torch: str
    measured_on: date
    # Of all cores: those that models above 20 million parameters could use.
    threads: int = Field(ge=1, le=MOST_THREADS)
    rates: tuple[_Seconds, ...]  # CPU seconds per unit of WORK, with one thread
    stretch: float = Field(gt=0)  # wall seconds per CPU second, under the load at that time
    speedups: tuple[
        _Seconds, ...
    ]  # of ``threads`` over one thread, in wall seconds; none of one core
    start_cpu: _Seconds  # importing, loading and the first answer, of LoRA in our engine
    save_cpu: _Seconds  # one checkpoint of an adapter
    save_byte_cpu: _Seconds  # each byte of a larger one
    imported_bytes: int  # resident memory after all imports
    errors: tuple[float, ...]  # of the fit, one for each measured shape
    largest: int  # parameters of the largest measured model
    load_average: float
    quantise_cpu: _Seconds | None = None  # quantising a weight; None without bitsandbytes
    import_cpu: dict[str, _Seconds] = IMPORT_CPU  # of packages that not every job imports
    engine: str  # with which it was measured
    bf16: bool = False  # large models were measured in it

    @field_validator("rates")
    @classmethod
    def _whole(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(rates) != len(WORK):
            raise ValueError("this was measured with other kinds of work")
        return rates

    @field_validator("engine")
    @classmethod
    def _ours(cls, engine: str) -> str:
        if engine != ENGINE:
            raise ValueError("this was measured with another training step")
        return engine

    def cpu_seconds(self, load: Load, saves: int) -> float:
        """Return the CPU seconds of a run with one thread: its wall time on an idle core."""
        work = sum(rate * units for rate, units in zip(self.rates, load.units, strict=True))
        return self._overhead(load, saves) + work

    def _overhead(self, load: Load, saves: int) -> float:
        """Return the CPU seconds of starting and of saving checkpoints and the result."""
        each = self.save_cpu + self.save_byte_cpu * load.checkpoint_bytes
        reading = READINGS * load.quantised * (self.quantise_cpu or QUANTISE_CPU)
        imports = sum(self.import_cpu.get(name, IMPORT_CPU[name]) for name in load.packages)
        return self.start_cpu + imports + reading + (saves + 1) * each

    @property
    def threads_used(self) -> int:
        """Return the threads of a job of a large model: one, unless more were faster each time."""
        return self.threads if min(self.speedups, default=1.0) >= FASTER else 1

    def seconds(self, load: Load, saves: int) -> float:
        """Return the wall seconds of a run under the load of the measurement."""
        overhead = self._overhead(load, saves)
        work = self.cpu_seconds(load, saves) - overhead
        threaded = self.threads_used > 1 and load.parameters >= SMALL_MODEL
        speedup = median(self.speedups) if threaded else 1.0
        return self.stretch * (overhead + work / speedup)

    def busy_seconds(self, load: Load, saves: int) -> float:
        """Return the wall seconds with one thread, under the load of the measurement or that of
        now, whichever is higher."""
        return max(self.stretch, stretch_now()) * self.cpu_seconds(load, saves)

    def stale_reason(self, today: date) -> str | None:
        """Return why the figures may no longer hold, or None."""
        if self.machine != machine():
            return f"it was measured on another machine ({self.machine})"
        if self.bf16 != cpu_has_bf16():
            return "it was measured in another precision"
        if self.torch != torch_version():
            return f"it was measured with torch {self.torch}, not {torch_version()}"
        age = (today - self.measured_on).days
        return f"it is {age} days old" if age > STALE_DAYS else None


def stretch_now() -> float:
    """Return the wall seconds that a CPU second takes beside what has run in the last minute: the
    cores are shared evenly. 1.0 where the system does not say."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return max(1.0, (os.getloadavg()[0] + 1) / cores())


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


def unusable_reason(home: Path) -> str:
    """Return why figures that are there are not used: an older version measured another training
    step, or the file is damaged. Empty if they are used, or there are none."""
    if not (home / FILE).exists() or read(home) is not None:
        return ""
    why = "is of an older training step" if _is_older(home) else f"in {home / FILE} is damaged"
    return f"The calibration of this machine {why}, so it is not used. Run: ftg doctor --calibrate"


def _is_older(home: Path) -> bool:
    """Return True for figures that say that they are of another training step."""
    try:
        found = json.loads((home / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict)
        and isinstance(found.get("rates"), list)
        and (found.get("engine") != ENGINE or len(found["rates"]) != len(WORK))
    )


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
