"""Where the options of ``ftg estimate`` would run, and what a local run needs, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.local import MOST_ROWS
from finetune_gateway.estimation.profiles import load_profile
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.output import format_bytes


@dataclass(frozen=True)
class Places:
    """What was said of where options run: the GPU of local ones, the address of a host."""

    gpu: str | None = None
    usd_per_gpu_hour: Decimal | None = None
    base_url: str | None = None
    profile: str | None = None

    def placed(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str | Backend] | Option]:
        """The same options, each on the backend that is meant; a GPU or an address that is none
        refuses those it is for.

        Raises SpecError when something was said that is for none of them.
        """
        names = list(dict.fromkeys(name for _, name in pairs))
        built = {name: _built(name, given) for name, given in self._given(names).items()}
        found: list[tuple[str, str | Backend] | Option] = []
        for model, name in pairs:
            there = built.get(name, name)
            if isinstance(there, GatewayError):
                found.append(Option(name, model, error=there))
            else:
                found.append((model, there))
        return found

    def _given(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The options of each backend that has any."""
        local = _set(gpu=self.gpu, usd_per_gpu_hour=self.usd_per_gpu_hour)
        if local and "local" not in names:
            raise SpecError(
                "--gpu and --usd-per-gpu-hour are for training on a machine of your own.",
                hint="Add: --backend local",
            )
        hosted = _set(base_url=self.base_url, profile=self.profile)
        return {**({"local": local} if local else {}), **({_host(names): hosted} if hosted else {})}


def _set(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _built(name: str, options: dict[str, Any]) -> Backend | GatewayError:
    try:
        return registry.load(name, options)
    except GatewayError as exc:  # told in the place of the options it is for
        return exc


def _host(names: Sequence[str]) -> str:
    """The backend that --base-url and --profile are for: the one host of OpenAI's contract, or
    of several the one without an address of its own. Raises SpecError when that is not clear."""
    if len(names) == 1:
        return names[0]  # a plugin may take an address too
    hosts = [name for name in names if name == "openai" or name in registry.HOSTS]
    homeless = [name for name in hosts if not load_profile(name).base_url]
    if len(hosts) == 1 or len(homeless) == 1:
        return (homeless or hosts)[0]
    said = f"for one host, and here are {', '.join(hosts)}" if hosts else "for a hosted backend"
    raise SpecError(
        f"--base-url and --profile are {said}.",
        hint="Name the one it is for, like: --backend custom,local",
    )


def rows(found: Estimate) -> Iterator[tuple[str, str]]:
    """Names and figures below the memory; none of a hosted option."""
    if found.memory_parts is not None:
        parts = found.memory_parts.model_dump()
        told = (f"{name} {format_bytes(count)}" for name, count in parts.items() if count)
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
        kwh = found.energy_kwh
        span = f"{_plain(kwh.low)} to {_plain(kwh.high)}"
        yield "energy", f"{_plain(kwh.expected)} kWh ({span})"
    elif not found.data_leaves_machine and found.backend == "local":
        yield "energy", "not known"


def _plain(figure: float) -> str:
    """Three digits, never as 5.07e-05."""
    return f"{Decimal(f'{figure:.3g}'):f}"
