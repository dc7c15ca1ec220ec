"""Memory, time and cost of a local run, from the numbers in a model's ``config.json``.

Puts together what ``memory``, ``batches``, ``gpus`` and ``calibration`` know; imports no torch
and looks at no device. Figures for GPUs are datasheet values with wide ranges, and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from math import ceil

from finetune_gateway.estimation import assumptions
from finetune_gateway.estimation.assumptions import START_SECONDS, Place, cores, usual_price
from finetune_gateway.estimation.batch_plan import Feed, feed, usual_batch
from finetune_gateway.estimation.calibration import (
    QUANTISE_CPU,
    READINGS,
    Calibration,
    evaluation_of,
    load_of,
)
from finetune_gateway.estimation.estimate import Estimate, MemoryParts, Range
from finetune_gateway.estimation.gpus import GIB, GPUS, Gpu, gpu_name, smallest
from finetune_gateway.estimation.hosted import stale_prices
from finetune_gateway.estimation.memory import Device, Setup, step_memory
from finetune_gateway.estimation.model_shape import ModelShape, lora_parameters, shape_of
from finetune_gateway.estimation.price_table import Price, gpu_prices
from finetune_gateway.settings import clock
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

__all__ = [
    "GIB", "GPUS", "MOST_ROWS", "Device", "Gpu", "MemoryParts", "ModelShape", "Place", "cores",
    "estimate_local", "estimate_memory", "estimate_seconds", "largest_batch", "lora_parameters",
    "memory_range", "shape_of", "training_flops",
]  # fmt: skip

Speeds = tuple[float, float, float]  # FLOP/s: slow, usual, fast

# Share of the measured bfloat16 GEMM peak that training reaches: 0.38 predicts within 10 % the
# best configuration found (one row at a time, fused loss); TRL's SFTTrainer on padded batches
# of 8 in float32 reaches 0.08 (both measured on a CPU).
_BEST_SHARE = 0.38
_SHARES = {"cpu": (0.05, 0.08, 0.38), "gpu": (0.05, 0.15, 0.40)}  # gpu: not measured
# FLOP/s one CPU core reaches in training when nobody measured it: 15 G with SFTTrainer on an
# AVX-512 core, 35 G with single rows; a core without AVX-512 is taken to do a fifth.
_CORE_SPEEDS = (3e9, 15e9, 40e9)
# Of a GPU's board power while it trains, least, usual and most; assumed, not measured.
_POWER = (0.5, 0.8, 1.0)
# A prediction after calibration against runs of 45 s was within 15 % (docs/memory.md);
# an idle machine is as fast as its CPU seconds, and one that gets busier is slower.
_CALIBRATED_LOW, _CALIBRATED_HIGH = 0.8, 1.5
_FAR = 4  # times the largest model that was measured; beyond, twice the high figure
_SAVES = 10  # checkpoints of a job, as sft.py sets it
MOST_ROWS = 4096  # a larger batch is not looked for


def estimate_memory(
    shape: ModelShape,
    spec: TrainingSpec,
    tokens: TokenStats,
    *,
    device: Device = "cpu",
    rows: int = 8,
    row_tokens: int | None = None,
) -> MemoryParts:
    """Peak memory of one step on ``rows`` rows padded to ``row_tokens`` (default: the longest)."""
    length = row_tokens or min(tokens.max, spec.max_length or tokens.max)
    return step_memory(shape, Setup.of(spec, device), min(rows, tokens.rows), length)


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
    return _around(longest, low=short)


def _around(expected: int, *, low: int) -> Range[int]:
    return Range[int](low=min(low, expected), expected=expected, high=expected + expected // 4)


def largest_batch(shape: ModelShape, setup: Setup, length: int, usable: int) -> int:
    """Rows of this length whose step fits, with a quarter to spare; 0 when not even one does."""
    low, high = 0, MOST_ROWS
    while low < high:
        rows = (low + high + 1) // 2
        fits = step_memory(shape, setup, rows, length).total * 5 // 4 <= usable
        low, high = (rows, high) if fits else (low, rows - 1)
    return low


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


def estimate_local(
    spec: TrainingSpec,
    tokens: TokenStats,
    shape: ModelShape | None,
    *,
    validation: TokenStats | None = None,
    place: Place | None = None,
    device: Device = "cpu",
    gpu: str | None = None,
    usd_per_gpu_hour: Decimal | None = None,
    flops_per_second: float | None = None,
    today: date | None = None,
) -> Estimate:
    """What a run on this machine, or on a GPU named in ``GPUS``, would take.

    ``validation``: rows whose loss is taken now and then. ``flops_per_second``: the measured
    bfloat16 GEMM peak of the device, when it is known. Without ``shape`` neither memory nor time
    is told. Raises SpecError for an unknown GPU.
    """
    where = place or Place(device=device, gpu=gpu, usd_per_gpu_hour=usd_per_gpu_hour)
    day = today or clock.today()
    if where.gpu is not None:
        where = _on_gpu(where)
    fed = feed(spec, tokens, where.row_limit)
    calibrated = where.calibration if where.device == "cpu" else None
    setup = Setup.of(spec, where.device, calibrated.imported_bytes if calibrated else None)
    seconds = memory = parts = None
    if shape is not None:
        seconds = _seconds(shape, spec, setup, tokens, fed, where, flops_per_second, validation)
        parts = step_memory(shape, setup, fed.rows, max(1, fed.longest))
        short = step_memory(shape, setup, fed.rows, max(1, min(tokens.median, fed.longest)))
        memory = _around(parts.total, low=short.total)
    prices = _gpu_prices(where, day)
    looks = evaluations(spec, fed.steps)
    usable = where.usable_bytes
    return Estimate(
        backend="local",
        model=spec.model,
        method=spec.method,
        training_type=spec.training_type or "lora",
        n_epochs=fed.epochs,
        n_epochs_rule=_epochs_rule(spec),
        tokens=tokens,
        trained_tokens=fed.trained,
        steps=fed.steps,
        validation_tokens=validation.total if validation else None,
        cost_usd=_cost(seconds, prices, where),
        seconds=seconds,
        memory_bytes=memory,
        memory_parts=parts,
        memory_available_bytes=usable,
        gpu=where.gpu,
        smallest_gpu=_smallest(shape, spec, fed),
        largest_batch=largest_batch(shape, setup, max(1, fed.longest), usable)
        if shape and usable
        else None,
        energy_kwh=_energy(seconds, where),
        prices=prices,
        data_leaves_machine=False,
        assumptions=[
            *assumptions.assumptions(spec, setup, fed, where, prices, flops_per_second),
            *assumptions.evaluation_words(looks, tokens, validation),
        ],
        warnings=[
            *assumptions.warnings(where, memory, tokens, calibrated, day),
            *stale_prices(prices, day),
        ],
        unknown=assumptions.unknown(shape, where, prices),
    )


def _on_gpu(place: Place) -> Place:
    """The same place under the GPU's own name. Raises SpecError."""
    assert place.gpu is not None  # for the type checker
    return Place(
        "gpu", gpu_name(place.gpu), place.usd_per_gpu_hour, None, None, place.row_limit,
        place.price_file,
    )  # fmt: skip


def _epochs_rule(spec: TrainingSpec) -> str:
    if spec.max_steps is not None:
        return "ended by max_steps"
    if spec.n_epochs != "auto":
        return "given"
    return "auto: by the number of rows, as the OpenAI cookbook does"


def _smallest(shape: ModelShape | None, spec: TrainingSpec, fed: Feed) -> str | None:
    if shape is None:
        return None
    needed = step_memory(shape, Setup.of(spec, "gpu"), fed.rows, max(1, fed.longest)).total
    return smallest(needed + needed // 4)


def _seconds(
    shape: ModelShape,
    spec: TrainingSpec,
    setup: Setup,
    tokens: TokenStats,
    fed: Feed,
    place: Place,
    measured: float | None,
    validation: TokenStats | None,
) -> Range[float]:
    """By what was measured on this machine, else by FLOP and the speed of a device."""
    if place.device == "cpu" and place.calibration is not None and measured is None:
        held_out = held_out_feed(spec, validation, place.row_limit) if validation else None
        return _calibrated(shape, spec, setup, fed, place.calibration, held_out)
    passes = fed.trained.expected / tokens.trained if tokens.trained else 0.0
    flops = training_flops(shape, tokens, passes, full=spec.training_type == "full")
    if validation:  # forward alone: half of what LoRA does
        looks = evaluations(spec, fed.steps)
        flops += training_flops(shape, validation, looks, full=False) / 2
    slow, usual, fast = _speeds(place, measured)
    first, second, third = START_SECONDS
    if setup.kind == "qlora" and place.device == "cpu":
        second += READINGS * QUANTISE_CPU * shape.linear_parameters
        third += 2 * READINGS * QUANTISE_CPU * shape.linear_parameters
    return Range[float](
        low=first + flops / fast, expected=second + flops / usual, high=third + flops / slow
    )


def checkpoints(spec: TrainingSpec, steps: int) -> int:
    """How many a job of so many steps saves."""
    every = max(1, steps // _SAVES) if spec.save_steps == "auto" else spec.save_steps
    return steps // every


def evaluations(spec: TrainingSpec, steps: int) -> int:
    """How many times a job of so many steps runs through its validation rows: the last time at
    its end (transformers 5.23)."""
    every = max(1, steps // _SAVES) if spec.eval_steps == "auto" else spec.eval_steps
    return ceil(steps / every)


def held_out_feed(spec: TrainingSpec, validation: TokenStats, limit: int | None) -> Feed:
    """One pass over validation rows: in batches as large as those trained on, never packed."""
    once = {"n_epochs": 1, "max_steps": None, "packing": False, "gradient_accumulation_steps": 1}
    return feed(
        spec.model_copy(update={**once, "batch_size": usual_batch(spec)}), validation, limit
    )


def _calibrated(
    shape: ModelShape,
    spec: TrainingSpec,
    setup: Setup,
    fed: Feed,
    found: Calibration,
    held_out: Feed | None,
) -> Range[float]:
    load = load_of(
        shape, setup, slots=fed.slots, squares=fed.squares, batches=fed.batches, steps=fed.steps,
        masked=fed.rows > 1 or setup.flat,
    )  # fmt: skip
    if held_out is not None:
        once = evaluation_of(
            shape, setup, slots=held_out.slots, squares=held_out.squares,
            batches=held_out.batches, masked=held_out.rows > 1,
        )  # fmt: skip
        load = load.plus(once, evaluations(spec, fed.steps))
    saves = checkpoints(spec, fed.steps)
    expected = found.seconds(load, saves)
    idle = min(expected, found.cpu_seconds(load, saves))
    far = 2.0 if shape.parameters > _FAR * found.largest else 1.0
    return Range[float](
        low=_CALIBRATED_LOW * idle / far, expected=expected, high=_CALIBRATED_HIGH * far * expected
    )


def _speeds(place: Place, measured: float | None) -> Speeds:
    """FLOP/s that training reaches: slow, usual, fast."""
    slow, usual, fast = _SHARES[place.device]
    if measured is not None:
        return slow * measured, usual * measured, fast * measured
    if place.gpu is not None:
        flops = GPUS[place.gpu].flops
        return slow * flops, usual * flops, fast * flops
    if place.device == "gpu":  # some GPU: from the slowest known to the fastest
        return slow * GPUS["T4"].flops, usual * GPUS["A10"].flops, fast * GPUS["H200"].flops
    first, second, third = _CORE_SPEEDS
    return cores() * first, cores() * second, cores() * third


def _gpu_prices(place: Place, today: date) -> list[Price]:
    """The user's own price, else every row of the GPU's."""
    usd = place.usd_per_gpu_hour
    if usd is None:
        return gpu_prices(place.gpu, extra=place.price_file) if place.gpu else []
    return [
        Price(
            backend="local",
            model=place.gpu or "this machine",
            unit="gpu_hour",
            usd=parse_usd(usd, "usd_per_gpu_hour"),
            as_of=today,
            source="given by the user",
        )
    ]


def _cost(
    seconds: Range[float] | None, prices: Sequence[Price], place: Place
) -> Range[Decimal] | None:
    """Hours times price: low at the cheapest row, high at the dearest, expected at the cheapest
    that is not taken away."""
    if not prices:
        free = Range[Decimal](low=Decimal(0), expected=Decimal(0), high=Decimal(0))
        return None if place.gpu else free
    if seconds is None:
        return None
    hours = [Decimal(str(s)) / 3600 for s in (seconds.low, seconds.expected, seconds.high)]
    usd = (min(p.usd for p in prices), usual_price(prices).usd, max(p.usd for p in prices))
    low, expected, high = (
        (hour * price).quantize(Decimal("0.000001")) for hour, price in zip(hours, usd, strict=True)
    )
    return Range[Decimal](low=low, expected=expected, high=high)


def _energy(seconds: Range[float] | None, place: Place) -> Range[float] | None:
    if seconds is None or place.gpu is None:
        return None
    kilowatts = GPUS[place.gpu].watts / 1000
    low, expected, high = (
        share * kilowatts * taken / 3600
        for share, taken in zip(_POWER, (seconds.low, seconds.expected, seconds.high), strict=True)
    )
    return Range[float](low=low, expected=expected, high=high)
