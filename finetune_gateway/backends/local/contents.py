"""What a model of this machine is recognised by: two folders with the same content are the same
model, wherever they lie. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.local import models
from finetune_gateway.backends.local.bases import ADAPTER
from finetune_gateway.errors import NotFoundError
from finetune_gateway.estimation import weights
from finetune_gateway.settings.home import Settings

# What decides an answer beside the weights.
SMALL_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    "chat_template.jinja",
)
PLACES = ("base_model_name_or_path", "revision")  # where an adapter's base lay


def content_of(handle: HandleData, settings: Settings) -> str:
    """Return the sha256 of all that decides what a local model answers. Hashes weights once, and
    again only if they have changed. Raises NotFoundError if its folder is gone, StoreError."""
    folder = Path(handle.model)
    if not folder.is_dir():
        raise NotFoundError(f"The model folder {folder} is gone.", hint="See: ftg list")
    known = [models.content_hash(folder, settings)] if _is_whole(folder) else _hashes(folder)
    small = [_read(folder / name) for name in SMALL_FILES]
    base = [handle.base_revision, handle.base_sha256] if (folder / ADAPTER).is_file() else []
    how = [handle.kind, handle.base_quantization, handle.chat_template_kwargs]
    text = json.dumps([known, small, _adapter(folder), base, how], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_whole(folder: Path) -> bool:
    return any((folder / name).exists() for name in (weights.SINGLE, weights.INDEX))


def _hashes(folder: Path) -> list[str]:
    """Return the hashes of an adapter's weights, which are small."""
    return [_read(path) for path in sorted(folder.glob("*.safetensors"))]


def _read(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _adapter(folder: Path) -> Any:
    """Return what an adapter's configuration says, but where its base lay. PEFT writes its modules
    in the order of a set, another one in each run."""
    path = folder / ADAPTER
    said = weights.read_json(path, weights.MAX_CONFIG) if path.is_file() else {}
    if not isinstance(said, dict):
        return said
    listed = {name: sorted(map(str, v)) if isinstance(v, list) else v for name, v in said.items()}
    return {name: value for name, value in listed.items() if name not in PLACES}
