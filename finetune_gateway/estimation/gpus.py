"""GPUs by name: memory, bandwidth, speed and power from their datasheets (``gpus.toml``)."""

from __future__ import annotations

import difflib
import re
import tomllib
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from finetune_gateway.errors import SpecError, shown

MIB, GIB = 1 << 20, 1 << 30
# A GPU reports less than its label: 22.5 of 24 GB on an L4 and an A10 because of error correction,
# 79.6 of 80 on an H100 (nvidia-smi). Estimates use this share of the label.
USABLE = 0.92


class Gpu(NamedTuple):
    """One GPU: dense 16-bit tensor FLOP/s, memory, board power, bytes read per second.

    ``also``: its other names. ``note``: what an estimate for it has to say.
    """

    flops: float
    memory_bytes: int
    watts: int
    bandwidth: float
    bf16: bool
    also: tuple[str, ...]
    note: str
    maker: str

    @property
    def usable_bytes(self) -> int:
        return int(USABLE * self.memory_bytes)


def _read_gpus() -> dict[str, Gpu]:
    text = resources.files("finetune_gateway.estimation").joinpath("gpus.toml").read_text("utf-8")
    return {
        name: Gpu(
            flops=row["tflops"] * 1e12,
            memory_bytes=row["memory_gib"] * GIB,
            watts=row["watts"],
            bandwidth=row["bandwidth_gb_s"] * 1e9,
            bf16=row.get("bf16", True),
            also=tuple(row.get("also", ())),
            note=row.get("note", ""),
            maker=row.get("maker", "NVIDIA"),
        )
        for name, row in tomllib.loads(text).items()
    }


GPUS = _read_gpus()

# GPUs before Ampere (compute capability 8.0) have no bfloat16 arithmetic.
NO_BFLOAT16 = frozenset(name for name, gpu in GPUS.items() if not gpu.bf16)

# Words that tell no GPU from another: makers, families, kinds of memory.
_NOISE = re.compile(
    r"\b(nvidia|amd|geforce|tesla|instinct|corporation|graphics|card|gpu|tensor|core|generation|"
    r"blackwell|edition|oam|hbm\d?e?|gddr\dx?)\b"
)
_MEMORY = re.compile(r"\b(\d+) ?(?:gb|gib|g)\b")
_APPLE = re.compile(r"\b(apple|metal|mps|m[1-9] ?(pro|max|ultra)?)\b")


def gpu_name(text: str) -> str:
    """Return the name in ``GPUS`` of a GPU, as nvidia-smi, vendors or people write it.

    A name of several GPUs is taken as the one with the least memory; ``gpu_notes`` says so. Raises
    SpecError with similar names.
    """
    if fitting := gpus_named(text):
        return fitting[0]
    if _APPLE.search(_words(text)):
        raise SpecError(
            f"Nothing is trained on Apple's GPUs here, so there are no figures for {text!r}.",
            hint="A Mac trains on its CPU: leave the GPU out and run the estimate there.",
        )
    wanted = _split(text)[0]
    bases = {name: _split(name)[0] for name in GPUS}
    alike = [
        name
        for name, base in bases.items()
        if wanted and (wanted.startswith(base) or base.startswith(wanted))
    ]
    close = difflib.get_close_matches(wanted, bases.values(), n=3, cutoff=0.5)
    similar = alike or [name for name, base in bases.items() if base in close]
    raise SpecError(
        f"No figures are known for GPU {text!r}.",
        hint=f"{'Similar' if similar else 'Known'}: {', '.join(similar or GPUS)}.",
    )


def gpu_notes(text: str) -> list[str]:
    """Return what has to be said of the GPU with this name: which of several, and its own note."""
    fitting = gpus_named(text)
    own = GPUS[fitting[0]].note if fitting else ""
    return [note for note in (which_gpu(text), own) if note]


def which_gpu(text: str) -> str:
    """Return which GPU is taken where the name is that of several; else nothing."""
    name, *others = gpus_named(text) or [""]
    if not others:
        return ""
    size = GPUS[name].memory_bytes // GIB
    return f"{text}: {name} is taken, the one with {size} GB; there is also {', '.join(others)}."


def gpus_named(text: str) -> list[str]:
    """Return the names in ``GPUS`` that this may mean, the one with the least memory first.

    Raises SpecError if it is no text.
    """
    if not isinstance(text, str):
        raise SpecError(f"gpu is a name, not {shown(text)}.", hint="Like 'H200'.")
    return [*_fitting(text)]


@lru_cache(maxsize=512)  # each row of the price table asks
def _fitting(text: str) -> tuple[str, ...]:
    wanted = _split(text)
    found = [
        name
        for name, gpu in GPUS.items()
        if any(_fits(text, wanted, own, gpu.memory_bytes // GIB) for own in (name, *gpu.also))
    ]
    return tuple(sorted(found, key=lambda name: GPUS[name].memory_bytes))


def _fits(text: str, wanted: tuple[str, int | None], name: str, size: int) -> bool:
    """Return whether ``text``, which ``wanted`` splits, is this name of a GPU with ``size`` GB."""
    base, label = _split(name)
    label = size if label is None else label
    return wanted in ((base, None), (base, label)) or _plain(text) == _plain(name)


def _split(text: str) -> tuple[str, int | None]:
    """Return what names the GPU, and the memory of the label (GB) where the text has one."""
    words = _NOISE.sub(" ", re.sub(r"\bsxm\d\b", "sxm", _words(text)))
    label = _MEMORY.search(words)
    return _plain(_MEMORY.sub(" ", words)), int(label[1]) if label else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.casefold()))


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def smallest(needed_bytes: int, without_bf16: int) -> str | None:
    """Return the GPU with the least memory that holds so much, or so much ``without_bf16`` where it
    has none; of equal ones the slowest. Jobs here find NVIDIA's alone."""
    order = sorted(
        (name for name, gpu in GPUS.items() if gpu.maker == "NVIDIA"),
        key=lambda name: (GPUS[name].memory_bytes, GPUS[name].flops),
    )
    needed = {name: needed_bytes if GPUS[name].bf16 else without_bf16 for name in order}
    return next((name for name in order if GPUS[name].usable_bytes >= needed[name]), None)
