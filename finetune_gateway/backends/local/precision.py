"""Choose in which precision the weights of a model are held."""

from __future__ import annotations

import torch

from finetune_gateway.estimation.engine import computes_in_bf16
from finetune_gateway.estimation.memory import Setup, float32_or_bfloat16, most_memory, step_memory
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.spec import TrainingSpec

GB = 1e9


def bf16_of(spec: TrainingSpec, parameters: int) -> bool:
    """Return whether a run on a base of so many ``parameters`` computes in bf16 on this machine
    (``estimation.engine``)."""
    return computes_in_bf16(
        spec,
        "gpu" if torch.cuda.is_available() else "cpu",
        parameters,
        gpu_has_bf16=gpu_has_bf16(),
    )


def gpu_has_bf16() -> bool:
    """Return whether there is a GPU that multiplies in bf16. One before Ampere emulates it, slower
    than fp32, and torch calls that supported."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


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


def bf16_reason(shape: ModelShape, wanted: Setup, rows: int, length: int, usable: int) -> str:
    """Return why a GPU with so many ``usable`` bytes cannot hold fp32 weights in full fine-tuning
    on batches of ``rows`` of ``length`` tokens; an empty string if it can, as ``ftg estimate``
    computes it."""
    if float32_or_bfloat16(shape, wanted, rows, length, usable) == wanted:
        return ""
    needed = step_memory(shape, wanted, rows, length).total
    return (
        f"The weights are trained in bfloat16: float32 needs about {needed / GB:.1f} GB, at most "
        f"{most_memory(needed, 'gpu') / GB:.1f}, and {usable / GB:.1f} GB are free. "
        "Small updates round away; a smaller batch_size or max_length, gradient_checkpointing or "
        "training_type=lora avoids it."
    )


def usable_gpu_memory() -> int:
    """Return the bytes of the GPU that are free or are ours."""
    free, _ = torch.cuda.mem_get_info()
    return int(free) + torch.cuda.memory_reserved()
