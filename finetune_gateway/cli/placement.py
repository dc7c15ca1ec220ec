"""Where the options of ``ftg estimate`` would run: --gpu, --base-url, --profile and
--azure-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.estimation.profiles import load_profile
from finetune_gateway.jobs.planning import Option


@dataclass(frozen=True)
class Placement:
    """The GPU of local options, and the address of a host."""

    gpu: str | None = None
    usd_per_gpu_hour: Decimal | None = None
    base_url: str | None = None
    profile: str | None = None
    azure_training: str | None = None

    def place(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str | Backend] | Option]:
        """Return each (model, backend name) with its backend, or refused as an Option.

        Raises SpecError when a GPU or an address is for none of them.
        """
        names = list(dict.fromkeys(name for _, name in pairs))
        options = self._backend_options(names)
        backends = {name: _load(name, given) for name, given in options.items()}
        placed: list[tuple[str, str | Backend] | Option] = []
        for model, name in pairs:
            backend = backends.get(name, name)
            if isinstance(backend, GatewayError):
                placed.append(Option(name, model, error=backend))
            else:
                placed.append((model, backend))
        return placed

    def _backend_options(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the options of each backend that has any."""
        local = _without_none(gpu=self.gpu, usd_per_gpu_hour=self.usd_per_gpu_hour)
        if local and "local" not in names:
            raise SpecError(
                "--gpu and --usd-per-gpu-hour are for training on your own machine.",
                hint="Add: --backend local",
            )
        hosted = _without_none(base_url=self.base_url, profile=self.profile)
        options = {"local": local} if local else {}
        if hosted:
            options[_addressed_host(names)] = hosted
        if self.azure_training is not None:
            azure = "azure" if "azure" in names else _addressed_host(names)
            options[azure] = options.get(azure, {}) | {"azure_training": self.azure_training}
        return options


def _without_none(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _load(name: str, options: dict[str, Any]) -> Backend | GatewayError:
    """Return the backend, or why it cannot be loaded, to be shown beside the other options."""
    try:
        return registry.load(name, options)
    except GatewayError as exc:
        return exc


def _addressed_host(names: Sequence[str]) -> str:
    """Return the backend that --base-url and --profile are for.

    This is the only host with OpenAI's API, or the only one of several that has no address of
    its own. Raises SpecError when that is ambiguous.
    """
    if len(names) == 1:
        return names[0]  # a plug-in may take an address too
    hosts = [name for name in names if name == "openai" or name in registry.HOSTS]
    without_address = [name for name in hosts if not load_profile(name).base_url]
    if len(hosts) == 1 or len(without_address) == 1:
        return (without_address or hosts)[0]
    needed = f"one host, but there are {', '.join(hosts)}" if hosts else "a hosted backend"
    raise SpecError(
        f"--base-url and --profile are for {needed}.",
        hint="Name only the host they are for, like: --backend custom,local",
    )
