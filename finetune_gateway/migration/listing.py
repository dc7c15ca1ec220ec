"""Takes stock: asks a host with each key, and says what is lost first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.inventory import RequestCount
from finetune_gateway.errors import SpecError
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.migration import facts, key_lists, names, spending
from finetune_gateway.migration.inventory import FineTune, Inventory
from finetune_gateway.migration.key_lists import Seen
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings

LOST = ("retired", "deleted")
OurJobs = dict[tuple[str | None, str | None], JobRecord]


def list_fine_tunes(
    backends: str | Backend | Sequence[str | Backend],
    *,
    admin: Backend | None,
    models: str | Iterable[str] | None = None,
    checkpoints: bool,
    every: bool,
    home: str | os.PathLike[str] | None,
    on_progress: Callable[[str], object],
) -> Inventory:
    """Return what these keys see. See ``migration.list_fine_tunes``."""
    settings = Settings.load(home)
    hosts = hosts_of(backends, settings)
    admins = hosts_of(admin, settings) if admin else []
    for host in (*hosts, *admins):
        host.connect()  # raises for a variable that is not set, before anything is sent
    asked = RequestCount()
    keys = key_lists.read_lists(hosts, asked)
    seen = key_lists.merged(keys)
    ours = _our_jobs(settings)
    if models is None:
        kept = [one for one in seen if every or not one.has_no_model]
    else:
        kept = _chosen(seen, [models] if isinstance(models, str) else models, ours)
    on_progress(f"{len(kept)} found; looking at each.")
    key_lists.look_closer(kept, asked, checkpoints=checkpoints)
    today = clock.today()
    found = [facts.fine_tune(one, keys, settings, today) for one in kept]
    found, views = [_ours(one, ours) for one in found], [key.view() for key in keys]
    for one in admins:
        found, view = spending.with_spending(found, one, asked)
        views.append(view)
    return Inventory(
        fine_tunes=tuple(sorted(found, key=partial(_urgency, never=date.max))),
        keys=tuple(views),
        as_of=time.time(),
        without_model=len(seen) - len(kept) if models is None else 0,
        requests=asked.requests,
    )


def hosts_of(
    backends: str | Backend | Sequence[str | Backend], settings: Settings
) -> list[OpenAIBackend]:
    """Return the hosted backends, with this home. Raises SpecError for another kind of backend, for
    none, and for different hosts."""
    given = [backends] if isinstance(backends, str | Backend) else [*backends]
    hosts = []
    for one in given:
        backend = registry.load(one) if isinstance(one, str) else one
        if not isinstance(backend, OpenAIBackend):
            raise SpecError(
                f"{backend.display_name!r} is no host of OpenAI's contract.",
                hint="Name one: openai, azure, nebius, or OpenAIBackend(base_url=...).",
            )
        hosts.append(registry.bound(backend, settings))
    addresses = {host.base_url for host in hosts}
    if len(addresses) != 1:
        named = " and ".join(sorted(addresses)) or "no host"
        raise SpecError(
            f"One host is listed at a time, not {named}.", hint="Give several keys of one host."
        )
    return hosts


def options_of(hosts: Sequence[OpenAIBackend]) -> tuple[str, ...]:
    """Return the options of a command that name this host and these keys; none for OpenAI with its
    own key."""
    first, keys = hosts[0], [host.api_key_env for host in hosts]
    profile = [] if first.profile_name == "openai" else ["--profile", first.profile_name]
    elsewhere = first.base_url != first.profile.base_url
    url = ["--base-url", first.base_url, "--profile", first.profile_name] if elsewhere else profile
    named = elsewhere or keys != [first.profile.api_key_env]
    return (*url, *(word for key in keys if named for word in ("--key-env", key)))


def _chosen(seen: Sequence[Seen], models: Iterable[str], ours: OurJobs) -> list[Seen]:
    """Return the fine-tunes with these names. Raises NotFoundError for one that is none's, and
    SpecError for one that several have."""
    chosen: dict[int, Seen] = {}
    for name in models:
        mine = {record.provider_id for record in ours.values() if record.id == name}
        found = [one for one in seen if mine & {wire.usable_id(one.job)}]
        one = found[0] if found else names.one_named(name, seen, _names)
        chosen[id(one)] = one
    return [*chosen.values()]


def _names(seen: Seen) -> tuple[str | None, ...]:
    return seen.model, wire.usable_id(seen.job)


def _our_jobs(settings: Settings) -> OurJobs:
    """Return the jobs of this home by their host and their id there."""
    if not settings.database.exists():
        return {}
    store = Store(settings)
    try:
        records = store.select("provider_id IS NOT NULL", ())
    finally:
        store.close()
    return {(one.host, one.provider_id): one for one in records}


def _ours(one: FineTune, ours: OurJobs) -> FineTune:
    """Return a fine-tune with the job of this home that made it, and whether it was deleted."""
    record = ours.get((one.host, one.job_id))
    if record is None:
        return one
    deleted = record.removed and record.gone and one.model_state == "not_visible"
    state = "deleted" if deleted else one.model_state
    return one.model_copy(update={"our_job": record.id, "model_state": state})


def _urgency(one: FineTune, never: date) -> tuple[Any, ...]:
    """Sort what is lost first to the front, then what was used last; to the end what is lost."""
    used = one.last_used.toordinal() if one.last_used else 0
    day = one.shutdown_date or never
    return one.model_state in LOST, day, -used, -(one.created_at or 0), one.name
