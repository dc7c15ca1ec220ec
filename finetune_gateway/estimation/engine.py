"""Which engine trains a run, in which precision, and how many rows at once: the rules that training
and estimates share. Imports no torch."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec

Device = Literal["cpu", "gpu"]

# Below this size a second thread, and bf16 on a CPU, cost more than they gain: 204 LoRA steps of a
# 2M model took 26 s with one thread, and 153 s with two on a busy machine.
SMALL_MODEL = 20_000_000  # parameters
# Packages that a job imports only where it needs them; the optimizers of the second.
TRL, BITSANDBYTES = "trl", "bitsandbytes"
OF_BITSANDBYTES = (
    *("adamw_8bit", "adamw_bnb_8bit", "lion_32bit", "lion_8bit", "ademamix", "ademamix_8bit"),
    *("rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit"),
)
# On a GPU: on a CPU bitsandbytes leaves the paging out.
PAGED = (
    *("paged_adamw_32bit", "paged_adamw_8bit", "paged_lion_32bit", "paged_lion_8bit"),
    *("paged_ademamix_32bit", "paged_ademamix_8bit"),
)
CPU_INFO = Path("/proc/cpuinfo")
MULTIPLIES_IN_BF16 = {"avx512_bf16", "amx_bf16"}  # flags of a processor


def engine_of(spec: TrainingSpec) -> str:
    """Return whose training step a run takes: the spec's, else the usual one of its method."""
    return METHODS[spec.method].engines[0] if spec.engine == "auto" else spec.engine


def needs_bitsandbytes(spec: TrainingSpec) -> bool:
    """Return True if a run cannot do without bitsandbytes."""
    return spec.training_type == "qlora" or spec.optim in (*OF_BITSANDBYTES, *PAGED)


def packages_of(spec: TrainingSpec) -> tuple[str, ...]:
    """Return the packages that a run imports beside those of every one."""
    wanted = {TRL: engine_of(spec) == "trl", BITSANDBYTES: needs_bitsandbytes(spec)}
    return tuple(name for name, needed in wanted.items() if needed)


def computes_in_bf16(
    spec: TrainingSpec, device: Device, parameters: int, *, gpu_has_bf16: bool = True
) -> bool:
    """Return whether a run computes in bf16: as the spec says, else on a GPU that has it, and in
    our engine on a CPU that multiplies in it, where a model is large enough to gain.

    qlora stays in fp32 on a CPU, where bitsandbytes is not measured in bf16.
    """
    if spec.bf16 != "auto":
        return spec.bf16
    if device == "gpu":
        return gpu_has_bf16
    if spec.training_type == "qlora" or engine_of(spec) != "fast":
        return False
    return parameters >= SMALL_MODEL and cpu_has_bf16()


def cores() -> int:
    """Return the number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def cpu_has_bf16() -> bool:
    """Return whether the matrix products of this CPU are faster in bf16 (AVX512-BF16 or AMX).
    False where Linux does not say so."""
    try:
        lines = CPU_INFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return bool(MULTIPLIES_IN_BF16 & {*flags.split()})
