"""Fine-tunes of hosts that the user has added by name: a handle of each in the home folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import encodable


def path(settings: Settings, model: str) -> Path:
    """Return where the handle of this model lies, whether it is there or not."""
    name = hashlib.sha256(encodable(model).encode()).hexdigest()
    return settings.models / f"{name}.json"


def save(settings: Settings, handle: ModelHandle) -> Path:
    """Keep a handle, in place of an earlier one of the same model; return its path. Raises
    StoreError."""
    target = path(settings.create(), handle.model)
    with files.storing("The model cannot be added", target.parent):
        return handle.save(target, private=True)


def find(settings: Settings, model: str) -> ModelHandle | None:
    """Return the handle of a model that was added; None if it was not. Raises SpecError for a file
    that is no handle."""
    target = path(settings, model)
    return ModelHandle.load(target) if target.exists() else None


def every(settings: Settings) -> list[ModelHandle]:
    """Return the models that were added, by name. A file that is no handle is left out."""
    found = []
    for target in settings.models.glob("[0-9a-f]*.json"):
        try:
            found.append(ModelHandle.load(target))
        except GatewayError:
            continue
    return sorted(found, key=lambda handle: handle.model)
