"""Many jobs at once, at a provider and in a store, without a submit for each."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress

from support.hosted import MODEL
from support.provider import Provider
from support.records import record

from finetune_gateway import Gateway
from finetune_gateway.jobs.store import Store

KEY = "MANY_KEY"  # the variable that holds the provider's key
RUNNING = 3  # a stage of the provider's jobs


def running(
    provider: Provider, store: Store, count: int, key: str = KEY, **changes: object
) -> list[str]:
    """Let a provider have so many running jobs that the store knows as running; return the
    provider's ids, oldest first."""
    options: dict[str, object] = {"base_url": provider.url, "api_key_env": key, "profile": "custom"}
    options |= {"poll_seconds": 0.005, "request_timeout": 5.0, "settle_seconds": 0.03}
    file = provider.world.add_file("fine-tune", "train.jsonl", b'{"messages": []}\n')
    made = [
        provider.world.create({"model": MODEL, "training_file": file["id"]})["id"]
        for _ in range(count)
    ]
    bind(store, key, provider.url)
    store.query("PRAGMA synchronous = OFF")  # of this connection: no wait for the disk
    for number, provider_id in enumerate(made):
        provider.world.jobs[provider_id]["stage"] = RUNNING
        known = {
            "backend": "openai", "backend_options": options, "hosted": True, "step": "sent",
            "provider_id": provider_id, "status": "running", "raw_status": "running",
            "polled_at": time.time(), "created_at": time.time() - 9000 + number / 1000,
        }  # fmt: skip
        store.add(record(**known | changes))
    return made


def bind(store: Store, key: str, url: str) -> None:
    """Let a variable belong to an address, as a submit would."""
    with suppress(ImportError):  # tests/trust.py runs tests on commits that have no bindings
        from finetune_gateway.settings.bindings import Bindings

        Bindings(store.settings).keep(key, url)


def end(provider: Provider, *provider_ids: str) -> None:
    """Let jobs of the provider succeed."""
    for provider_id in provider_ids:
        provider.world.jobs[provider_id]["stage"] = provider.world.last


def stored(gateway: Gateway) -> Counter[str]:
    """Return how many stored jobs have each status."""
    return Counter(job.status.value for job in gateway.jobs())


def asked(provider: Provider, since: int = 0) -> Counter[str]:
    """Return how many requests of each kind came: list, job, events, checkpoints."""
    kinds: Counter[str] = Counter()
    for method, path, _ in provider.requests[since:]:
        parts = path.removeprefix("/fine_tuning/jobs").split("/")[1:]
        kinds["list" if not parts else "job" if len(parts) == 1 else parts[1]] += method == "GET"
    return kinds
