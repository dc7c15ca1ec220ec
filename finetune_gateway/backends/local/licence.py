"""The licence of a base, as its model card or its config says it on this machine. Imports no torch,
and asks nobody."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.local import hub, models
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import weights
from finetune_gateway.jobs.base_names import hub_base
from finetune_gateway.settings.home import Settings

CARD = "README.md"
LONGEST = 1 << 20  # bytes of a card that are read
OTHER = "other"  # the Hub's word for a licence that has a name and a link of its own
KEYS = ("license", "license_name", "license_link")
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_VALUES = {
    "license": re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}"),
    "license_name": re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+-]{0,99}"),
    "license_link": re.compile(r"https://[A-Za-z0-9./?=&_%#-]{1,300}"),
}


def licence_of(handle: HandleData, settings: Settings) -> dict[str, str]:
    """Return the licence of a base in the keys of a model card: ``license``, and ``license_name``
    and ``license_link`` where it is none that the Hub knows. Empty if nothing here says it."""
    folder = _folder(handle, settings)
    if folder is None:
        return {}
    return known(_head(folder / CARD)) or known(_config(folder / "config.json"))


def known(said: dict[str, Any]) -> dict[str, str]:
    """Return what of these keys says a licence; a card of somebody else may hold anything."""
    found = {
        key: value
        for key in KEYS
        if isinstance(value := said.get(key), str) and _VALUES[key].fullmatch(value)
    }
    return found if "license" in found else {}


def _folder(handle: HandleData, settings: Settings) -> Path | None:
    named = hub_base(handle)
    with suppress(GatewayError):
        at = models.located(handle.base_model, handle.base_sha256, settings)
        if Path(at).is_dir():
            return Path(at)
        if named is not None:
            return hub.fetch(named.name, (CARD,), revision=named.revision, offline=True)
    return None


def _head(path: Path) -> dict[str, Any]:
    """Return the YAML at the head of a card."""
    with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        with path.open("rb") as file:
            text = file.read(LONGEST).decode("utf-8", "replace").replace("\r\n", "\n")
        found = _HEAD.match(text)
        said = yaml.safe_load(found[1]) if found else None
        return said if isinstance(said, dict) else {}
    return {}


def _config(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        said = weights.read_json(path, weights.MAX_CONFIG)
        return said if isinstance(said, dict) else {}
    return {}
