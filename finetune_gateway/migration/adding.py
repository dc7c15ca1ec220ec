"""Makes a fine-tune of a host a handle of this home: one that no job of this home has made."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetune_gateway.backend import NOT_DEPLOYED, Backend
from finetune_gateway.backends.openai import inventory, wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import BackendError, GatewayError, NotFoundError, SpecError, shown
from finetune_gateway.jobs import added_models, fetched
from finetune_gateway.jobs.fetched import Manifest
from finetune_gateway.jobs.handle import PROBE_TOKENS, ModelHandle
from finetune_gateway.migration import facts
from finetune_gateway.migration.keys import Key
from finetune_gateway.migration.listing import hosts_of
from finetune_gateway.migration.names import fine_tune_of
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import moment, visible
from finetune_gateway.tokens.encodings import base_model

COLD_SECONDS = 5.0  # a model that nobody has used for long may say once that it is not found
LONGEST_ID = 512  # characters

Models = dict[str, wire.Json]


def add_model(
    model: str,
    backends: str | Backend | Sequence[str | Backend],
    home: str | os.PathLike[str] | None,
) -> ModelHandle:
    """Add a fine-tune. See ``migration.add_model``."""
    settings = Settings.load(home).create()
    hosts = hosts_of(backends, settings)
    if not model.strip() or len(model) > LONGEST_ID or visible(model) != model:
        raise SpecError(f"{shown(model)} is no id of a model.", hint="Like: ft:BASE:ORG::ID")
    model = fetched.model_of(settings, model)
    missing: GatewayError | None = None
    for host, models, whole in _by_sight(model, hosts, settings):
        try:
            return _add(model, host, models, whole, settings)
        except NotFoundError as exc:
            missing = missing or exc
    assert missing is not None  # there is a host, or _by_sight has raised
    raise missing


def _by_sight(
    model: str, hosts: Sequence[OpenAIBackend], settings: Settings
) -> list[tuple[OpenAIBackend, Models, bool]]:
    """Return the hosts with the models that their keys see, those first that list this one. Raises
    BackendError if no key can be used at all."""
    usable, errors = [], []
    for host in hosts:
        try:
            usable.append((host, *_models(Key(host, settings))))
        except BackendError as exc:
            errors.append(exc)
    if not usable:
        raise errors[0]
    return sorted(usable, key=lambda one: fine_tune_of(model) not in one[1])


def _add(
    model: str, host: OpenAIBackend, models: Models, whole: bool, settings: Settings
) -> ModelHandle:
    manifest = _fetched(settings, host, model)
    handle = _handle(model, host, manifest, models, settings)
    handle.attach(host)
    _probe(handle, host, models if whole else None)
    host.remember()
    added_models.save(settings, handle)
    return handle


def _fetched(settings: Settings, host: OpenAIBackend, model: str) -> Manifest | None:
    found = fetched.find(settings, model)
    return next((one for one in found if one.host == host.host), None)


def _models(key: Key) -> tuple[Models, bool]:
    """Return the models that the key sees, by their ids, and True if these are all. Raises
    BackendError for a key that cannot be used at all."""
    try:
        listed, whole = key.ask("models", lambda: inventory.models(key.host))
    except BackendError as exc:
        if exc.status_code is None and not exc.retryable:
            raise
        return {}, False
    return {name: one for one in listed if (name := wire.text_of(one.get("id")))}, whole


def _handle(
    model: str, host: OpenAIBackend, manifest: Manifest | None, models: Models, settings: Settings
) -> ModelHandle:
    base = (manifest and manifest.base_model) or base_model(model)
    training = manifest.piece("training") if manifest else None
    made = moment(models.get(fine_tune_of(model), {}).get("created"))
    handle = ModelHandle(
        kind="hosted",
        model=model,
        base_model=base,
        backend="openai",
        backend_options=host.options(),
        base_url=host.base_url,
        api_key_env=host.api_key_env,
        dataset_sha256=training.sha256 if training else None,
        created_at=made or time.time(),
        retires_on=_last_day(model, base, host, models),
    )
    if manifest is not None:
        handle.system_prompt = _system_prompt(fetched.find_piece(settings, manifest, "training"))
        handle.metrics = _last_metrics(fetched.find_piece(settings, manifest, "metrics"))
    return handle


def _last_day(model: str, base: str, host: OpenAIBackend, models: Models) -> str | None:
    """Return from which day it does not answer: by the host for the model or its base, else by the
    profile."""
    for name in (model, fine_tune_of(model), base):
        if day := facts.stops_on(models.get(name, {})):
            return str(day)
    life = host.profile.life_cycle(base)
    return str(life.retires_on) if life.retires_on else None


def _system_prompt(path: Path | None) -> str | None:
    """Return the system prompt of a training file, if all rows have the same one."""
    try:
        return Dataset.open(path).system_prompt() if path else None
    except GatewayError:  # no rows of chat
        return None


def _last_metrics(path: Path | None) -> dict[str, Any]:
    last = b""
    if path is not None:
        with path.open("rb") as file:
            for line in file:
                last = line
    return dict(json.loads(last)) if last else {}


# -- does it answer? ---------------------------------------------------------------------------


def _probe(handle: ModelHandle, host: OpenAIBackend, models: Models | None) -> None:
    """Ask once, and note in the handle that it has answered, or why not. ``models``: all that the
    key sees, None if that is not known. Raises NotFoundError for a model that is not there,
    AuthenticationError for a key that may not be sent."""
    try:
        reply = _ask_twice(handle)
    except BackendError as exc:
        if exc.status_code is None and not exc.retryable:
            raise
        if exc.code == NOT_DEPLOYED:
            handle.deploy = host.deploy_command(handle.model)
        elif exc.status_code == 404 and not _may_start(handle, models):
            raise _not_there(handle.model, host, models) from None
        handle.warnings = [f"It has not answered yet: {exc.message}"]
        return
    handle.ready_at, handle.first_answer = time.time(), reply


def _ask_twice(handle: ModelHandle) -> str:
    """Return its first answer. One that says it is not there may be starting: asked once more."""
    try:
        return handle.chat("Hello.", max_tokens=PROBE_TOKENS).said
    except BackendError as exc:
        if exc.status_code != 404 or exc.code == NOT_DEPLOYED:
            raise
    time.sleep(COLD_SECONDS)
    return handle.chat("Hello.", max_tokens=PROBE_TOKENS).said


def _may_start(handle: ModelHandle, models: Models | None) -> bool:
    """Return True for a model that is listed; where nothing is, for one that was fetched."""
    if models is None:
        return handle.dataset_sha256 is not None
    return fine_tune_of(handle.model) in models


def _not_there(model: str, host: OpenAIBackend, models: Models | None) -> NotFoundError:
    tuned = [name for name in models or () if base_model(name) != name]
    near = get_close_matches(model, tuned, 2, 0.6)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return NotFoundError(
        f"{host.host} has no model {model!r} for {host.key_words}.",
        hint=f"{meant}One of another project needs a key of that project (--api-key-env).",
    )
