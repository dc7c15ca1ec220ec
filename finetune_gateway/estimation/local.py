"""Estimate memory, time, cost and energy of a local run from a model's ``config.json``.

Combines ``batch_plan``, ``memory``, ``calibration`` and ``gpus``; imports no torch and looks at no
device. Figures for GPUs come from datasheets, with wide ranges, and are labelled so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from math import ceil

from finetune_gateway.estimation import assumptions
from finetune_gateway.estimation.assumptions import (
    START_SECONDS,
    TargetDevice,
)
from finetune_gateway.estimation.batch_plan import BatchPlan, plan_batches
from finetune_gateway.estimation.calibration import (
    QUANTISE_CPU,
    READINGS,
    Calibration,
    Load,
    forward_of,
    forward_passes,
    load_of,
    passes_of,
)
from finetune_gateway.estimation.engine import cores
from finetune_gateway.estimation.estimate import Estimate, Range, auto_eval_steps
from finetune_gateway.estimation.gpu_hours import expected_price
from finetune_gateway.estimation.gpu_speed import HIGH, LOW, gpu_seconds, share_of_peak
from finetune_gateway.estimation.gpus import GPUS, NO_BFLOAT16, gpu_name, smallest
from finetune_gateway.estimation.hosted import stale_prices
from finetune_gateway.estimation.memory import (
    Setup,
    float32_or_bfloat16,
    least_rows,
    micro_batch_rows,
    most_memory,
    step_memory,
)
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.estimation.price_table import Price, gpu_prices
from finetune_gateway.settings import clock
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

# FLOP/s of one CPU core in training, if not measured: 15 G with SFTTrainer on an AVX-512 core, 35 G
# with our engine, 80 G in bfloat16; a core without AVX-512 is assumed to reach a fifth.
_CORE_SPEEDS = {"trl": (3e9, 15e9, 40e9), "fast": (7e9, 35e9, 70e9), "bf16": (16e9, 80e9, 160e9)}
# Share of a GPU's board power in training: low, expected and high; assumed, not measured.
_POWER = (0.5, 0.8, 1.0)
# Predictions after calibration were within 15 % of runs of 45 s (docs/memory.md). An idle machine
# is as fast as its CPU seconds; one that gets busier is slower.
_CALIBRATED_LOW, _CALIBRATED_HIGH = 0.8, 1.5
_FAR = 4  # times the largest measured model; beyond it the range doubles
_SAVES = 10  # checkpoints of a job, as in sft.py
MOST_ROWS = 4096  # larger batches are not tried
ENDED = "ended by max_steps"  # the rule of epochs then


def _memory_range(setup: Setup, expected: int, *, short: int) -> Range[int]:
    """Return the range about an expected peak. ``short``: with rows of median length, which is the
    low figure on a CPU; on a GPU it is four fifths of the expected one."""
    low = min(short, expected) if setup.device == "cpu" else expected * 4 // 5
    return Range[int](low=low, expected=expected, high=most_memory(expected, setup.device))


def largest_batch(shape: ModelShape, setup: Setup, length: int, usable: int) -> int:
    """Return the most rows of this length whose step fits for certain; 0 if none does."""
    low, high = 0, MOST_ROWS
    while low < high:
        rows = (low + high + 1) // 2
        expected = step_memory(shape, setup, rows, length).total
        fits = most_memory(expected, setup.device) <= usable
        low, high = (rows, high) if fits else (low, rows - 1)
    return low


def estimate_local(
    spec: TrainingSpec,
    tokens: TokenStats,
    shape: ModelShape | None,
    *,
    validation: TokenStats | None = None,
    target: TargetDevice | None = None,
    today: date | None = None,
) -> Estimate:
    """Return the estimate of a run on this machine, or on a GPU named in ``GPUS``.

    ``validation``: rows that are evaluated during training. ``target``: this machine's CPU by
    default. Without ``shape`` memory and time are unknown. Raises SpecError for an unknown GPU.
    """
    target = target or TargetDevice()
    day = today or clock.today()
    if target.gpu is not None:
        target = _on_gpu(target)
    calibrated = target.calibration if target.device == "cpu" else None
    imported = calibrated.imported_bytes if calibrated else None
    has_bf16 = target.gpu not in NO_BFLOAT16
    setup = Setup.of(spec, target.device, shape, imported, gpu_has_bf16=has_bf16)
    longest = max(1, plan_batches(spec, tokens, target.row_limit).longest)
    at_once = micro_batch_rows(spec, shape, setup, longest, target.usable_bytes)
    plan = plan_batches(spec, tokens, target.row_limit, at_once=at_once)
    seconds = memory = parts = share = None
    if shape is not None:
        longest = max(1, plan.longest)
        fewest = min(plan.rows, least_rows(spec))
        setup = float32_or_bfloat16(shape, setup, fewest, longest, target.usable_bytes)
        load = _whole_load(shape, spec, setup, plan, validation, target.row_limit)
        seconds = _seconds(shape, spec, setup, plan, target, load)
        if target.gpu is not None:
            share = share_of_peak(load, shape.layers, GPUS[target.gpu])
        parts = step_memory(shape, setup, plan.rows, longest)
        short = step_memory(shape, setup, plan.rows, max(1, min(tokens.median, plan.longest)))
        memory = _memory_range(setup, parts.total, short=short.total)
    prices = _gpu_prices(target, day)
    evaluation_runs = _evaluations(spec, plan, validation, target.row_limit)
    usable = target.usable_bytes
    return Estimate(
        backend="local",
        model=spec.model,
        method=spec.method,
        training_type=spec.training_type or "lora",
        n_epochs=plan.epochs,
        n_epochs_rule=_epochs_rule(spec),
        tokens=tokens,
        parameters=shape.parameters if shape else None,
        read_tokens=round(plan.passes * (tokens.total - tokens.truncated_tokens)),
        trained_tokens=plan.trained,
        steps=plan.steps,
        validation_tokens=validation.total if validation else None,
        cost_usd=_cost(seconds, prices, target),
        seconds=seconds,
        memory_bytes=memory,
        memory_parts=parts,
        memory_available_bytes=usable,
        cache_bytes=shape.cache_bytes if shape else None,
        expert_parameters=shape.expert_parameters if shape else 0,
        used_experts=shape.active_experts / shape.experts if shape else 1.0,
        gpu=target.gpu,
        smallest_gpu=_smallest(shape, spec, plan),
        largest_batch=largest_batch(shape, setup, max(1, plan.longest), usable)
        if shape and usable
        else None,
        energy_kwh=_energy(seconds, target),
        prices=prices,
        data_leaves_machine=False,
        assumptions=[
            *assumptions.assumptions(spec, setup, plan, target, prices, shape, share),
            *assumptions.evaluation_words(evaluation_runs, tokens, validation),
        ],
        warnings=[
            *assumptions.warnings(target, memory, tokens, calibrated, day),
            *stale_prices(prices, day),
        ],
        unknown=assumptions.unknown(shape, target, prices),
    )


def _on_gpu(target: TargetDevice) -> TargetDevice:
    """Return the target with the GPU's name in ``GPUS``. Raises SpecError."""
    assert target.gpu is not None  # for the type checker
    gpu = gpu_name(target.gpu)
    return replace(target, device="gpu", gpu=gpu, memory_bytes=None, calibration=None)


def _epochs_rule(spec: TrainingSpec) -> str:
    if spec.max_steps is not None:
        return ENDED
    if spec.n_epochs != "auto":
        return "given"
    return "auto: by the number of rows, as the OpenAI cookbook does"


def _smallest(shape: ModelShape | None, spec: TrainingSpec, plan: BatchPlan) -> str | None:
    """Return the smallest GPU that holds a step, with one row at once if need be."""
    if shape is None:
        return None
    needed = {
        has_bf16: _least_memory(shape, spec, plan, gpu_has_bf16=has_bf16)
        for has_bf16 in (True, False)
    }
    return smallest(needed[True], needed[False])


def _least_memory(
    shape: ModelShape, spec: TrainingSpec, plan: BatchPlan, *, gpu_has_bf16: bool
) -> int:
    """Return the bytes with which a step fits a GPU for certain, of the fewest rows or, where that
    is less, of the whole batch: gradients are then held after the activations alone."""
    setup = Setup.of(spec, "gpu", shape, gpu_has_bf16=gpu_has_bf16)
    fewest, longest = min(plan.rows, least_rows(spec)), max(1, plan.longest)
    setup = float32_or_bfloat16(shape, setup, fewest, longest, 0)  # the least that there can be
    counts = {fewest, setup.batch} if spec.micro_batch_size == "auto" else {fewest}
    return min(most_memory(step_memory(shape, setup, n, longest).total, "gpu") for n in counts)


def _seconds(
    shape: ModelShape,
    spec: TrainingSpec,
    setup: Setup,
    plan: BatchPlan,
    target: TargetDevice,
    load: Load,
) -> Range[float]:
    """Return the run time by this machine's calibration, else by FLOP and a device's speed."""
    if target.device == "cpu" and target.calibration is not None:
        return _calibrated(shape, spec, plan, target.calibration, load)
    first, second, third = START_SECONDS
    if target.device == "gpu":
        fast, usual, slow = (
            gpu_seconds(load, shape.layers, GPUS[name]) for name in _gpus_of(target)
        )
        return Range[float](
            low=first + LOW * fast, expected=second + usual, high=third + HIGH * slow
        )
    if setup.kind == "qlora":
        second += READINGS * QUANTISE_CPU * shape.linear_parameters
        third += 2 * READINGS * QUANTISE_CPU * shape.linear_parameters
    speeds = _CORE_SPEEDS["bf16" if setup.bf16 else setup.engine]
    slow, usual, fast = (load.flops / (cores() * speed) for speed in speeds)
    return Range[float](low=first + fast, expected=second + usual, high=third + slow)


def _gpus_of(target: TargetDevice) -> tuple[str, str, str]:
    """Return the GPU of the low, expected and high time: one without a name may be any."""
    return (target.gpu, target.gpu, target.gpu) if target.gpu else ("H200", "A10", "T4")


def checkpoints(spec: TrainingSpec, steps: int) -> int:
    """Return how many checkpoints a job of so many steps saves."""
    every = max(1, steps // _SAVES) if spec.save_steps == "auto" else spec.save_steps
    return steps // every


def evaluations(
    spec: TrainingSpec, steps: int, trained_rows: float = 0.0, validation_rows: int = 0
) -> int:
    """Return how often a job of so many steps evaluates its validation rows, the last time at its
    end (transformers 5.23). ``trained_rows``: of all epochs; 0 if they are not known."""
    every = max(1, steps // _SAVES) if spec.eval_steps == "auto" else spec.eval_steps
    if spec.eval_steps == "auto" and trained_rows:
        every = auto_eval_steps(every, steps, trained_rows, validation_rows)
    return ceil(steps / every)


def _evaluations(
    spec: TrainingSpec, plan: BatchPlan, validation: TokenStats | None, limit: int | None
) -> int:
    if validation is None:
        return evaluations(spec, plan.steps)
    held_out = round(plan_validation(spec, validation, limit, plan.rows).trained_rows)
    return evaluations(spec, plan.steps, plan.trained_rows, held_out)


def _forward_evaluations(
    spec: TrainingSpec,
    setup: Setup,
    plan: BatchPlan,
    validation: TokenStats,
    limit: int | None,
) -> float:
    """Return how often the validation rows pass through the model: once in each evaluation, twice
    with KTO's mismatched answers; and for the reference."""
    runs = _evaluations(spec, plan, validation, limit)
    return runs + forward_passes(spec, setup, float(runs))


def plan_validation(
    spec: TrainingSpec, validation: TokenStats, limit: int | None, at_once: int
) -> BatchPlan:
    """Return one pass over the validation rows: as many at once as in training, never packed."""
    once = {"n_epochs": 1, "max_steps": None, "packing": False}
    return plan_batches(spec.model_copy(update=once), validation, limit, at_once=at_once)


def _whole_load(
    shape: ModelShape,
    spec: TrainingSpec,
    setup: Setup,
    plan: BatchPlan,
    validation: TokenStats | None,
    limit: int | None,
) -> Load:
    """Return the work of training and of evaluating, on what passes through the model: cut, packed
    or padded rows."""
    load = training_load(shape, spec, setup, plan)
    if not validation:
        return load
    once = plan_validation(spec, validation, limit, plan.rows)
    passes = passes_of(once, setup, once.trained.expected)
    runs = _forward_evaluations(spec, setup, plan, validation, limit)
    return load.plus(forward_of(shape, setup, passes), runs)


def _calibrated(
    shape: ModelShape, spec: TrainingSpec, plan: BatchPlan, calibration: Calibration, load: Load
) -> Range[float]:
    saves = checkpoints(spec, plan.steps)
    expected = calibration.seconds(load, saves)
    idle = min(expected, calibration.cpu_seconds(load, saves))
    # More threads than one may be of no use by then: others want the cores.
    slowest = max(expected, calibration.busy_seconds(load, saves))
    far = 2.0 if shape.parameters > _FAR * calibration.largest else 1.0
    return Range[float](
        low=_CALIBRATED_LOW * idle / far, expected=expected, high=_CALIBRATED_HIGH * far * slowest
    )


def training_load(shape: ModelShape, spec: TrainingSpec, setup: Setup, plan: BatchPlan) -> Load:
    """Return the work of training, without evaluations."""
    passes = passes_of(plan, setup, plan.trained.expected)
    load = load_of(shape, setup, passes, steps=plan.steps)
    epochs = plan.passes
    forward = forward_passes(spec, setup, epochs) / epochs if epochs else 0.0
    return load.plus(forward_of(shape, setup, passes), forward)


def _gpu_prices(target: TargetDevice, today: date) -> list[Price]:
    """Return the user's own price, else every row of the GPU."""
    usd = target.usd_per_gpu_hour
    if usd is None:
        return gpu_prices(target.gpu, extra=target.price_file) if target.gpu else []
    return [
        Price(
            backend="local",
            model=target.gpu or "this machine",
            unit="gpu_hour",
            usd=parse_usd(usd, "usd_per_gpu_hour"),
            as_of=today,
            source="given by the user",
        )
    ]


def _cost(
    seconds: Range[float] | None, prices: Sequence[Price], target: TargetDevice
) -> Range[Decimal] | None:
    """Return hours times price: low at the cheapest row, high at the most expensive, expected at
    the cheapest that is not spot."""
    if not prices:
        free = Range[Decimal](low=Decimal(0), expected=Decimal(0), high=Decimal(0))
        return None if target.gpu else free
    if seconds is None:
        return None
    hours = [Decimal(str(s)) / 3600 for s in (seconds.low, seconds.expected, seconds.high)]
    usd = (min(p.usd for p in prices), expected_price(prices).usd, max(p.usd for p in prices))
    low, expected, high = (
        (hour * price).quantize(Decimal("0.000001")) for hour, price in zip(hours, usd, strict=True)
    )
    return Range[Decimal](low=low, expected=expected, high=high)


def _energy(seconds: Range[float] | None, target: TargetDevice) -> Range[float] | None:
    if seconds is None or target.gpu is None:
        return None
    kilowatts = GPUS[target.gpu].watts / 1000
    low, expected, high = (
        share * kilowatts * taken / 3600
        for share, taken in zip(_POWER, (seconds.low, seconds.expected, seconds.high), strict=True)
    )
    return Range[float](low=low, expected=expected, high=high)
