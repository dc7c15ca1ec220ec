"""Where a fine-tune is trained again: from what was typed to a backend, a base and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.errors import SpecError, UnsupportedError, shown
from finetune_gateway.estimation import profiles
from finetune_gateway.estimation.profiles import Profile
from finetune_gateway.migration import carrying
from finetune_gateway.migration.inventory import FineTune
from finetune_gateway.migration.moves import Carried
from finetune_gateway.migration.moving import HOSTED_MODELS
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings

FORMS = (
    "a local model (builtin/tiny, owner/name, a folder), azure, or HOST:BASE like "
    "nebius:meta-llama/Llama-3.1-8B-Instruct"
)


@dataclass(frozen=True)
class Destination:
    """A place and a base there, with what becomes of each setting of the fine-tune."""

    backend: Backend
    model: str
    method: str
    settings: tuple[Carried, ...]
    same_base: bool

    @property
    def title(self) -> str:
        """Return ``Qwen/Qwen3-4B on this machine``."""
        where = self.backend.display_name
        return f"{self.model} {'on this machine' if where == 'local' else f'at {where}'}"

    @property
    def training(self) -> dict[str, Any]:
        """The settings that go along, as keywords of a submit."""
        return {"method": self.method, **carrying.options([*self.settings])}


def destination(
    to: str, one: FineTune, options: Mapping[str, Any], settings: Settings
) -> Destination:
    """Return what ``--to`` means. ``options``: of a host there, its address and the variable of its
    key. Raises SpecError, UnsupportedError for what certainly cannot be trained there."""
    host, model = _split(to, one)
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if host == "local" and given.keys() - {"allow_http"}:
        raise SpecError(
            "An address and a key are for a host.",
            hint=f"Leave --to-url and --to-key-env out: {shown(to)} is trained on this machine.",
        )
    if host != "local":
        _require_address(host, given)
    backend = registry.load(host, given if host != "local" else {})
    backend.bind(settings)
    profile = None if host == "local" else getattr(backend, "profile", None)
    method = one.method or "sft"
    _require_possible(backend, profile, model, method)
    same = profile is not None and model == one.base_model
    limits = backend.capabilities(model)
    carried = carrying.carried(one, limits, profile, same_base=same)
    return Destination(backend, model, method, tuple(carried), same)


def _require_address(host: str, given: Mapping[str, Any]) -> None:
    """Raise SpecError for a host where each customer has an address, and none is given."""
    profile = profiles.load_profile(host)
    if profile.base_url or given.get("base_url"):
        return
    raise SpecError(
        f"Each customer of {profile.title} has an address of their own, and none is given.",
        hint=f"Like --to-url {profile.base_url_hint}; to_options in Python.",
    )


def _split(to: str, one: FineTune) -> tuple[str, str]:
    """Return the backend and the base. Raises SpecError."""
    host, colon, base = to.partition(":")
    if host in registry.HOSTS or host == "openai":
        if base or (known := _usual_base(host, one)):
            return host, base or known
        raise SpecError(
            f"Which base {host} is to train is not said.", hint=f"Like --to {host}:BASE"
        )
    if host == "local" and base:
        return "local", base
    if not to.strip() or registry.default_backend(to) != "local":
        raise SpecError(f"{shown(to)} is no place.", hint=f"Name {FORMS}.")
    return "local", to


def _usual_base(host: str, one: FineTune) -> str:
    """Return its own base where a host has it, else one that is known there; empty for neither."""
    if one.base_model and profiles.load_profile(host).model(one.base_model):
        return one.base_model
    return next(iter(HOSTED_MODELS.get(host, ())), "")


def _require_possible(backend: Backend, profile: Profile | None, model: str, method: str) -> None:
    refusal = profile.refusal(model, method, clock.today()) if profile else None
    if refusal:
        raise UnsupportedError(refusal, hint="Other places: ftg migrate plan MODEL")
    limits = backend.capabilities(model)
    methods = limits.methods | limits.priced
    if method not in methods:
        raise UnsupportedError(
            f"{backend.display_name} trains by {', '.join(sorted(methods))}, not by {method}.",
            hint="Other places: ftg migrate plan MODEL",
            backend=backend.display_name,
            option="method",
        )
