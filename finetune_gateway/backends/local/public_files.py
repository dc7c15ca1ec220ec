"""What of a model's folder may leave this machine: what is needed to load it, and no path.

No optimiser state, no pickle, no row, no system prompt.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_gateway.backend import HandleData
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.estimation import weights
from finetune_gateway.jobs.base_names import HubBase
from finetune_gateway.jobs.downloads import FILE_NAME

# Settings of a model, a tokenizer, an answer: JSON objects of which names of folders are left out.
SETTINGS = (
    *("adapter_config.json", "config.json", "generation_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json"),
)
AS_THEY_ARE = (
    *("tokenizer.json", "chat_template.jinja", "vocab.json", "merges.txt"),
    *("tokenizer.model", "spiece.model"),
)
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Where libraries write the folder that something was read from.
_PLACES = ("_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_file")
# Facts of a handle that are no text of a row and no name of anything here.
_FACTS = (
    *("base_sha256", "base_quantization", "template_hash", "chat_template_kwargs", "job_id"),
    *("step", "dataset_sha256", "created_at"),
)
_PATH = re.compile(r"(?:/|~/|[A-Za-z]:[\\/]|\\\\)\S*")

Content = bytes | Path


def public_files(handle: HandleData, repo: str, base: HubBase | None) -> dict[str, Content]:
    """Return the files of a model that go to the Hub, by their names: their content, or where they
    lie. Raises GatewayError for a folder without weights as safetensors, SpecError for weights
    with notes that may be private."""
    folder = Path(handle.model)
    found: dict[str, Content] = {}
    for name in SETTINGS:
        if (folder / name).is_file():
            found[name] = _settings(folder / name, base)
    found |= {name: folder / name for name in AS_THEY_ARE if (folder / name).is_file()}
    found |= dict(_weights(folder, handle.kind))
    found[FILE_NAME] = _document(handle, repo, base)
    _require_no_path(found)
    return found


def _settings(path: Path, base: HubBase | None) -> bytes:
    about = weights.read_json(path, weights.MAX_CONFIG)
    if not isinstance(about, dict):
        raise GatewayError(f"{path} is no JSON object.", hint="Train it again.")
    about = _without_places(about)
    if path.name == "adapter_config.json" and base is not None:
        about |= {"base_model_name_or_path": base.name, "revision": base.revision}
    return (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(one) for key, one in value.items() if key not in _PLACES}
    return [_without_places(one) for one in value] if isinstance(value, list) else value


def _weights(folder: Path, kind: str) -> Iterator[tuple[str, Content]]:
    names = [ADAPTER_WEIGHTS] if kind in ("adapter", "reward") else weights.weight_files(folder)
    for name in names:
        if not (folder / name).is_file():
            raise GatewayError(f"{folder / name} is missing.", hint="Run: ftg list")
        _require_no_notes(folder / name)
        yield name, folder / name
    if kind == "merged" and (folder / weights.INDEX).is_file():
        yield weights.INDEX, folder / weights.INDEX


def _require_no_notes(path: Path) -> None:
    """Raise SpecError for weights whose header says more than their format: libraries and users
    write what they like there."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        notes = json.loads(file.read(min(length, weights.MAX_HEADER))).get("__metadata__") or {}
    if others := sorted(notes.keys() - {"format"}):
        raise SpecError(
            f"The header of {path.name} has notes ({', '.join(others[:3])}), which may be private.",
            hint="Save the weights again without: save_file(tensors, path, {'format': 'pt'})",
        )


def _document(handle: HandleData, repo: str, base: HubBase | None) -> bytes:
    kept = {name: getattr(handle, name) for name in _FACTS}
    found = HandleData(
        kind=handle.kind,
        model=repo,
        base_model=base.name if base else repo,
        base_revision=base.revision if base else None,
        backend="local",
        **{name: value for name, value in kept.items() if value is not None},
    )
    return (found.model_dump_json(indent=2) + "\n").encode()


def _require_no_path(found: dict[str, Content]) -> None:
    """Raise SpecError for a file of settings that names a folder of this machine."""
    here = {str(Path.home()), os.getcwd()} - {"/"}
    for name, content in found.items():
        if isinstance(content, bytes):
            for text in _texts(json.loads(content)):
                if any(one in text for one in here) or (
                    _PATH.fullmatch(text) and os.path.exists(os.path.expanduser(text))
                ):
                    raise SpecError(
                        f"{name} names a folder of this machine, so nothing was sent.",
                        hint="Take it out of that file.",
                    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
