"""Choose in which precision the weights of a model are held."""

from __future__ import annotations

from typing import Any

import torch

from finetune_gateway.backends.local.step_plan import engine_of
from finetune_gateway.estimation.memory import Setup, float32_or_bfloat16, step_memory
from finetune_gateway.estimation.model_shape import shape_of
from finetune_gateway.spec import TrainingSpec

GB = 1e9
# Below this size a second thread, and bf16 on a CPU, cost more than they gain: 204 LoRA steps of a
# 2M model took 26 s with one thread, and 153 s with two on a busy machine.
SMALL_MODEL = 20_000_000  # parameters


def computes_in_bf16(spec: TrainingSpec, config: dict[str, Any]) -> bool:
    """Return whether a run computes in bf16: as the spec says, else on a GPU that has it, and in
    our engine on a CPU that multiplies in it, where a model is large enough to gain.

    qlora stays in fp32 on a CPU, where bitsandbytes is not measured in bf16.
    """
    if spec.bf16 != "auto":
        return spec.bf16
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    if spec.training_type == "qlora" or engine_of(spec) != "fast":
        return False
    return cpu_has_bf16() and shape_of(config).parameters >= SMALL_MODEL


def cpu_has_bf16() -> bool:
    """Return whether the matrix products of this CPU are faster in bf16 (AVX512-BF16 or AMX)."""
    has: Any = torch.cpu  # its own names for what the processor says
    return bool(has._is_avx512_bf16_supported() or has._is_amx_tile_supported())


def autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    """Return a context in which matrix products are in bf16, if ``enabled``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def weights_dtype(kind: str, *, bf16: bool) -> torch.dtype:
    """Return the dtype of the weights for training of a ``kind``: bf16 where that is computed in,
    but fp32 where all weights are trained (if memory allows: ``bf16_reason``).

    A bf16 weight has 8 bits of mantissa, so an update below 1/256 of it rounds away: of full
    fine-tuning at 2e-5 most would (emulated: 24 % of the weights moved, and a loss of 8.56 in fp32
    was 8.87). The work is done in bf16 all the same, by autocast. A frozen base is not updated, and
    adapters are fp32 in any case.
    """
    return torch.bfloat16 if bf16 and kind != "full" else torch.float32


def bf16_reason(
    spec: TrainingSpec, config: dict[str, Any], rows: int, length: int, usable: int
) -> str:
    """Return why a GPU with so many ``usable`` bytes cannot hold fp32 weights in full fine-tuning
    on batches of ``rows`` of ``length`` tokens; an empty string if it can, as ``ftg estimate``
    computes it."""
    shape, wanted = shape_of(config), Setup.of(spec, "gpu")
    if float32_or_bfloat16(shape, wanted, rows, length, usable) == wanted:
        return ""
    needed = step_memory(shape, wanted, rows, length).total
    return (
        f"The weights are trained in bfloat16: float32 needs about {needed / GB:.1f} GB, and "
        f"{usable / GB:.1f} GB are free. Small updates round away; a smaller batch_size or "
        "max_length, gradient_checkpointing or training_type=lora avoids it."
    )


def usable_gpu_memory() -> int:
    """Return the bytes of the GPU that are free or are ours."""
    free, _ = torch.cuda.mem_get_info()
    return int(free) + torch.cuda.memory_reserved()
