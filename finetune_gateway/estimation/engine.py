"""Which engine trains a run, in which precision, and how many rows at once: the rules that training
and estimates share. Imports no torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec

Device = Literal["cpu", "gpu"]

# Below this size a second thread, and bf16 on a CPU, cost more than they gain: 204 LoRA steps of a
# 2M model took 26 s with one thread, and 153 s with two on a busy machine.
SMALL_MODEL = 20_000_000  # parameters
CPU_INFO = Path("/proc/cpuinfo")
MULTIPLIES_IN_BF16 = {"avx512_bf16", "amx_bf16"}  # flags of a processor


def engine_of(spec: TrainingSpec) -> str:
    """Return whose training step a run takes: the spec's, else the usual one of its method."""
    return METHODS[spec.method].engines[0] if spec.engine == "auto" else spec.engine


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
