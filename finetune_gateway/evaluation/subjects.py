"""Which model a name means, and who answers for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_gateway import registry
from finetune_gateway.backends.openai import inventory
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import GatewayError, NotFoundError, SpecError, UnsupportedError
from finetune_gateway.jobs import added_models, fetched
from finetune_gateway.jobs.handle import FILE_NAME, ModelHandle
from finetune_gateway.jobs.store import NEWEST, Store
from finetune_gateway.tokens.encodings import base_model

if TYPE_CHECKING:
    from finetune_gateway.backend import HandleData
    from finetune_gateway.jobs.records import JobRecord


@dataclass(frozen=True)
class Subject:
    """A hosted model. ``job_id``: of the job here that made it, if one did. ``system_prompt``: of
    its training rows, if they shared one and it is known."""

    model: str
    base_model: str
    backend: OpenAIBackend
    job_id: str | None = None
    system_prompt: str | None = None


def subject_of(name: str, backends: Sequence[OpenAIBackend], store: Store) -> Subject:
    """Return the model that a name means: a handle's file, a job here, or a model of a host; of one
    that was fetched, the id of its job or the last part of its own will do.

    ``backends``: given by the user, with a key each of one host; the first whose key sees the model
    is used. Without any, the host of the job or the handle is asked, else OpenAI. Raises
    NotFoundError, SpecError for a job without a model, UnsupportedError for a model of this
    machine.
    """
    backends = [registry.bound(one, store.settings) for one in backends]
    path = Path(name).expanduser()
    if path.is_file() or (path / FILE_NAME).is_file():
        return _of_handle(ModelHandle.load(path), backends, store)
    record = _job_of(name, store)
    if record is not None:
        return _of_job(record, backends, store)
    name = fetched.model_of(store.settings, name)
    handle = added_models.find(store.settings, name)
    if handle is not None:
        return _of_handle(handle, backends, store)
    if not (name.startswith("ft:") or backends):
        raise NotFoundError(
            f"There is no job or handle {name!r}, and it is no fine-tune of OpenAI (ft:...).",
            hint="A model of another host: --base-url URL, or --profile NAME. Yours: ftg list",
        )
    usable = backends or [_bound(OpenAIBackend(), store)]
    return Subject(name, base_model(name), seeing(usable, name))


def _job_of(name: str, store: Store) -> JobRecord | None:
    """Return the job with this name, or the newest that made this model."""
    made = store.that_made(name)
    if made or name.startswith("ft:"):
        return made
    try:
        return store.find(name)
    except NotFoundError:
        if name in NEWEST:
            raise
        return None


def _of_job(record: JobRecord, backends: Sequence[OpenAIBackend], store: Store) -> Subject:
    if record.result is None:
        raise SpecError(
            f"{record.id} has no model: it is {record.status}.",
            hint=f"See: ftg status {record.id}",
        )
    handle = record.handle or {}
    return _subject(
        record.result.model,
        record.spec.model,
        [*backends] or [_restored(record, record.id, store)],
        job_id=record.id,
        system_prompt=record.system_prompt or handle.get("system_prompt"),
    )


def _of_handle(handle: HandleData, backends: Sequence[OpenAIBackend], store: Store) -> Subject:
    if handle.kind != "hosted":
        raise _not_hosted(handle.model)
    usable = [*backends] or [_restored(handle, handle.model, store)]
    return _subject(
        handle.model,
        handle.base_model,
        usable,
        job_id=handle.job_id,
        system_prompt=handle.system_prompt,
    )


def _subject(
    model: str,
    base: str,
    backends: list[OpenAIBackend],
    *,
    job_id: str | None,
    system_prompt: str | None,
) -> Subject:
    return Subject(model, base_model(base), seeing(backends, model), job_id, system_prompt)


def _restored(stored: JobRecord | HandleData, name: str, store: Store) -> OpenAIBackend:
    """Return the host of a job or a handle; ``name``: of it in messages."""
    backend = registry.restore(stored.backend, stored.backend_options, store.settings)
    if isinstance(backend, OpenAIBackend):
        return backend
    if not backend.capabilities().hosted:
        raise _not_hosted(name)
    raise UnsupportedError(
        f"{name!r} answers at {backend.display_name}, whose backend is a plug-in: what is recorded "
        "goes over OpenAI's contract.",
        hint="A comparison keeps what it answers, for the next ones too: ftg compare JOB",
        option="model",
    )


def _bound(backend: OpenAIBackend, store: Store) -> OpenAIBackend:
    backend.bind(store.settings)
    return backend


def _not_hosted(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"{name!r} is no model of a host: nobody shuts it down.",
        hint="A model of this machine can be asked at any time: ftg chat MODEL",
        option="model",
    )


def seeing(backends: Sequence[OpenAIBackend], model: str) -> OpenAIBackend:
    """Return the first backend whose key sees a model; the first of all if none does, or if there
    is one. A refusal says nothing: the first chat will tell."""
    for backend in backends if len(backends) > 1 else ():
        try:
            inventory.model(backend, model)
        except GatewayError:
            continue
        return backend
    return backends[0]
