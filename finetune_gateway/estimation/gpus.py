"""GPUs by name: memory, speed and power from their datasheets.

Knows no prices (``pricetable``) and looks at no device.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from finetune_gateway.errors import SpecError

GIB = 1 << 30
# A GPU tells a little less than its label: 22.5 of 24 GB on an L4 and an A10, whose error
# correction takes some, 79.6 of 80 on an H100 (nvidia-smi). So much of the label is reckoned with.
USABLE = 0.92


class Gpu(NamedTuple):
    """Dense 16-bit tensor FLOP/s, memory and board power of one GPU, by NVIDIA's datasheets."""

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

# Before Ampere (compute capability 8.0) there is no arithmetic in bfloat16.
NO_BFLOAT16 = frozenset({"T4", "V100"})


def gpu_name(text: str) -> str:
    """The name in ``GPUS`` that was meant; case, spaces and dashes do not count.

    Raises SpecError with the names that are near.
    """
    names = {_plain(name): name for name in GPUS}
    if _plain(text) in names:
        return names[_plain(text)]
    begun = [name for name in names if _plain(text) and name.startswith(_plain(text))]
    near = begun or difflib.get_close_matches(_plain(text), names, n=3, cutoff=0.5)
    said = [names[name] for name in near] or list(GPUS)
    raise SpecError(
        f"No figures are known for GPU {text!r}.",
        hint=f"{'Near it' if near else 'Known'}: {', '.join(said)}.",
    )


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def smallest(needed_bytes: int) -> str | None:
    """The GPU with the least memory that holds so much; of equal ones the slowest."""
    order = sorted(GPUS, key=lambda name: (GPUS[name].memory_bytes, GPUS[name].flops))
    return next((name for name in order if GPUS[name].usable_bytes >= needed_bytes), None)
