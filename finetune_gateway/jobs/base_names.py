"""The base of a model by its name on the Hub: what others can load it on, and no path of this
machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from finetune_gateway.backend import HandleData
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.events import HUB_NAME

BUILTIN = "builtin/"
COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")


class HubBase(NamedTuple):
    """A base on the Hub: ``owner/name``, and its commit, where that is known."""

    name: str
    revision: str | None = None


def hub_base(handle: HandleData) -> HubBase | None:
    """Return the base of a model as the Hub knows it; None for a folder of this machine, for the
    built-in model, and for a base of a host."""
    if handle.hub_base:
        return HubBase(handle.hub_base, handle.base_revision)
    if handle.kind == "hosted" or handle.base_model.startswith(BUILTIN):
        return None
    if is_hub_name(handle.base_model):
        return HubBase(handle.base_model, handle.base_revision)
    return _of_cache(Path(handle.base_model))


def is_hub_name(name: str) -> bool:
    """Return True for ``owner/name``."""
    return "/" in name and re.fullmatch(HUB_NAME, name) is not None


def require_repo(name: object) -> str:
    """Return the name of a model on the Hub. Raises SpecError for what can be none."""
    if isinstance(name, str) and is_hub_name(name) and "--" not in name and ".." not in name:
        return name
    raise SpecError(
        f"{shown(name)} is no name of a model on the Hub.", hint="Like: my-organisation/my-model"
    )


def require_ref(name: object, what: str) -> None:
    """Raise SpecError for what can be no name of a branch or a tag; None is not given."""
    if name is not None and not (isinstance(name, str) and _REF.fullmatch(name)):
        raise SpecError(f"{what} cannot be {shown(name)}.", hint="Like: v1.0")


def _of_cache(folder: Path) -> HubBase | None:
    """Return what lies in a folder of the Hub's cache, ``models--owner--name/snapshots/COMMIT``."""
    if folder.parent.name != "snapshots" or not COMMIT.fullmatch(folder.name):
        return None
    found = _CACHED.fullmatch(folder.parent.parent.name)
    name = f"{found['owner']}/{found['name']}" if found else ""
    return HubBase(name, folder.name) if is_hub_name(name) else None
