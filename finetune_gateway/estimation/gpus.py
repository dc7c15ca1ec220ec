"""GPUs by name: memory, speed and power from their datasheets."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from finetune_gateway.errors import SpecError, shown

GIB = 1 << 30
# A GPU reports less than its label: 22.5 of 24 GB on an L4 and an A10 because of error correction,
# 79.6 of 80 on an H100 (nvidia-smi). Estimates use this share of the label.
USABLE = 0.92


class Gpu(NamedTuple):
    """Dense 16-bit tensor FLOP/s, memory and board power of one GPU, from NVIDIA's datasheets."""

    flops: float
    memory_bytes: int
    watts: int

    @property
    def usable_bytes(self) -> int:
        return int(USABLE * self.memory_bytes)


GPUS = {
    "T4": Gpu(65e12, 16 * GIB, 70),
    "V100": Gpu(125e12, 16 * GIB, 300),
    "A10": Gpu(125e12, 24 * GIB, 150),
    "A10G": Gpu(70e12, 24 * GIB, 300),
    "L4": Gpu(121e12, 24 * GIB, 72),
    "RTX 3090": Gpu(71e12, 24 * GIB, 350),
    "RTX 4090": Gpu(165e12, 24 * GIB, 450),
    "RTX 5090": Gpu(209e12, 32 * GIB, 575),
    "A6000": Gpu(155e12, 48 * GIB, 300),
    "L40S": Gpu(362e12, 48 * GIB, 350),
    "A100-40GB": Gpu(312e12, 40 * GIB, 400),
    "A100-80GB": Gpu(312e12, 80 * GIB, 400),
    "A100-80GB PCIe": Gpu(312e12, 80 * GIB, 300),
    "H100": Gpu(989e12, 80 * GIB, 700),
    "H100 PCIe": Gpu(756e12, 80 * GIB, 350),
    "H100 NVL": Gpu(835e12, 94 * GIB, 400),
    "H200": Gpu(989e12, 141 * GIB, 700),
    "B200": Gpu(2250e12, 180 * GIB, 1000),
}

# GPUs before Ampere (compute capability 8.0) have no bfloat16 arithmetic.
NO_BFLOAT16 = frozenset({"T4", "V100"})


def gpu_name(text: str) -> str:
    """Return the name in ``GPUS`` that matches, ignoring case, spaces and dashes.

    Raises SpecError with similar names.
    """
    if not isinstance(text, str):
        raise SpecError(f"gpu is a name, not {shown(text)}.", hint="Like 'H200'.")
    names = {_plain(name): name for name in GPUS}
    if _plain(text) in names:
        return names[_plain(text)]
    longer = [name for name in names if _plain(text) and name.startswith(_plain(text))]
    similar = longer or difflib.get_close_matches(_plain(text), names, n=3, cutoff=0.5)
    suggestions = [names[name] for name in similar] or list(GPUS)
    raise SpecError(
        f"No figures are known for GPU {text!r}.",
        hint=f"{'Similar' if similar else 'Known'}: {', '.join(suggestions)}.",
    )


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def smallest(needed_bytes: int, without_bf16: int) -> str | None:
    """Return the GPU with the least memory that holds so much, or so much ``without_bf16`` where it
    has none; of equal ones the slowest."""
    order = sorted(GPUS, key=lambda name: (GPUS[name].memory_bytes, GPUS[name].flops))
    needed = {name: without_bf16 if name in NO_BFLOAT16 else needed_bytes for name in order}
    return next((name for name in order if GPUS[name].usable_bytes >= needed[name]), None)
