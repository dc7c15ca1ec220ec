"""What a local run needs, part by part: lines of ``ftg estimate``, and where it would run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from finetune_gateway import backends
from finetune_gateway.backends.base import Backend
from finetune_gateway.cli.output import size
from finetune_gateway.errors import SpecError
from finetune_gateway.hardware import MOST_ROWS
from finetune_gateway.pricing import Estimate


def placed(
    pairs: Sequence[tuple[str, str]], gpu: str | None, usd_per_hour: Decimal | None
) -> list[tuple[str, str | Backend]]:
    """The same options, the local ones on this GPU or at this price.

    Raises SpecError for an unknown GPU, and when there is no local option.
    """
    if gpu is None and usd_per_hour is None:
        return list(pairs)
    if all(name != "local" for _, name in pairs):
        raise SpecError(
            "--gpu and --usd-per-gpu-hour are for training on a machine of your own.",
            hint="Add: --backend local",
        )
    there = backends.load("local", {"gpu": gpu, "usd_per_gpu_hour": usd_per_hour})
    return [(model, there if name == "local" else name) for model, name in pairs]


def rows(found: Estimate) -> Iterator[tuple[str, str]]:
    """Names and figures below the memory; none of a hosted option."""
    if found.memory_parts is not None:
        parts = found.memory_parts.model_dump()
        told = (f"{name} {size(count)}" for name, count in parts.items() if count)
        yield "  by part", ", ".join(told)
    if found.largest_batch is not None:
        where = found.gpu or "this machine"
        most = found.largest_batch
        rows = f"{most:,} or more" if most >= MOST_ROWS else f"{most:,}" if most else "none"
        yield "  largest batch", f"{rows} on {where}"
    if found.smallest_gpu is not None and not found.gpu:
        yield "  smallest GPU", found.smallest_gpu
    elif found.smallest_gpu is not None:
        yield "  smallest GPU", f"{found.smallest_gpu} (asked: {found.gpu})"
    elif found.memory_parts is not None:
        yield "  smallest GPU", "none of those known holds it"
    if found.trained_tokens is not None and found.steps is not None:
        low, high = found.trained_tokens.low, found.trained_tokens.high
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        yield "trained tokens", f"{count} in {found.steps:,} steps"
    if found.energy_kwh is not None:
        energy = found.energy_kwh
        yield "energy", f"{energy.expected:.3g} kWh ({energy.low:.3g} to {energy.high:.3g})"
