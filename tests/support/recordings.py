"""What the tests of recordings share: a provider with a fine-tune, prompts, a recording."""

from __future__ import annotations

import stat
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from support.hosted import connect
from support.provider import Provider

from finetune_gateway import evaluation
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation import Recording
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.charges import Charge

Json = dict[str, Any]
CHAT = "POST /chat/completions"
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
# Of gpt-4o-2024-08-06, the base of the provider's first fine-tune, per million tokens.
USD_IN, USD_OUT = 3.75, 15.00
NAME = "recorded:support-2026-11-21"


def rows(count: int, answer: str | None = "On its way.") -> list[Json]:
    """Different questions, with an answer in the data, or without."""
    system = {"role": "system", "content": "You answer for a parcel service."}
    said = [] if answer is None else [{"role": "assistant", "content": answer}]
    asked = ({"role": "user", "content": f"Where is parcel {n} now?"} for n in range(count))
    return [{"messages": [system, one, *said]} for one in asked]


def tuned(provider: Provider) -> str:
    """The id of a fine-tune of the provider."""
    if not provider.jobs:
        provider.world.add_fine_tunes(1)
    names = (str(model["id"]) for model in provider.world.list_models()["data"])
    return next(name for name in names if name.startswith("ft:"))


def recorded(provider: Provider, data: Any = None, **options: Any) -> Recording:
    """A recording of the fine-tune, at OpenAI's prices."""
    backend = options.pop("backend", None) or connect(provider, profile="openai")
    return evaluation.record(tuned(provider), data, backend=backend, **options)


def asked(provider: Provider) -> Counter[int]:
    """How many prompts were answered how often."""
    return Counter(provider.world.asked.values())


def spent(provider: Provider) -> float:
    """What the provider has charged, in USD."""
    return provider.world.spent(USD_IN, USD_OUT)


def wide(folder: Path) -> list[str]:
    """What others may read or list."""
    every = (folder, *folder.rglob("*"))
    return [str(path) for path in every if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def charge(high: str, name: str = NAME, **fields: object) -> Charge:
    """What was reserved for a recording, of this high estimate."""
    cost = Range[Decimal](low=Decimal(0), expected=Decimal(high) / 2, high=Decimal(high))
    given = {
        "id": charges.new_id(),
        "created_at": time.time(),
        "name": name,
        "backend": "openai",
        "host": "api.openai.com",
        "model": "ft:m",
        "cost": cost,
        "reserved_usd": Decimal(high),
    }
    return Charge.model_validate({**given, **fields})
