"""Takes stock of the fine-tunes that some keys see."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.backends.openai import inventory as host_lists
from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import SpecError
from finetune_gateway.migration.inventory import FineTune, Inventory, KeyView
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import moment, whole


def list_fine_tunes(
    backends: str | Backend | Sequence[str | Backend],
    home: str | os.PathLike[str] | None,
) -> Inventory:
    """Return the succeeded jobs of the first key. See ``migration.list_fine_tunes``."""
    host = hosts_of(backends, Settings.load(home))[0]
    jobs, complete = host_lists.jobs(host)
    found = [_fine_tune(job, host) for job in jobs if job.get("status") == "succeeded"]
    view = KeyView(variable=host.api_key_env, host=host.host, jobs=len(jobs), whole=complete)
    return Inventory(fine_tunes=tuple(found), keys=(view,), as_of=time.time())


def hosts_of(
    backends: str | Backend | Sequence[str | Backend], settings: Settings
) -> list[OpenAIBackend]:
    """Return the hosted backends, with this home. Raises SpecError for another kind of backend."""
    given = [backends] if isinstance(backends, str | Backend) else [*backends]
    hosts = []
    for one in given:
        backend = registry.load(one) if isinstance(one, str) else one
        if not isinstance(backend, OpenAIBackend):
            raise SpecError(
                f"{backend.display_name!r} is no host of OpenAI's contract.",
                hint="Name one: openai, azure, nebius, or OpenAIBackend(base_url=...).",
            )
        backend.bind(settings)
        hosts.append(backend)
    return hosts


def _fine_tune(job: wire.Json, host: OpenAIBackend) -> FineTune:
    return FineTune(
        model=wire.text_of(job.get("fine_tuned_model")),
        base_model=wire.text_of(job.get("model")),
        job_id=wire.usable_id(job),
        host=host.host,
        profile=host.profile_name,
        keys=(host.api_key_env,),
        created_at=moment(job.get("created_at")),
        finished_at=moment(job.get("finished_at")),
        job_status=wire.status_of(job),
        raw_status=wire.text_of(job.get("status")),
        trained_tokens=whole(job.get("trained_tokens")),
    )
