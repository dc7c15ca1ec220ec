"""Save a result whole, or not at all.

Files are written to a temporary folder, last of all manifest.json with the sha256 of each; then the
folder is renamed. Where there is a manifest, all files are there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune_gateway.backends.local.checkpoints import GENERATION_CONFIG
from finetune_gateway.backends.local.divergence import NotFinite
from finetune_gateway.backends.local.run import write_json
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.weights import MAX_CONFIG, read_json
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.settings import files, sealed


def save_whole(
    target: Path,
    write: Callable[[Path], None],
    about: dict[str, Any],
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Let ``write`` fill a temporary folder, check it, and rename it to ``target``.

    ``about``: what the manifest says of the model. ``finish``: called with the folder once the
    manifest is in it: what it adds is not among the files that are as they were saved. Raises
    GatewayError if a weight is not finite or nothing was written.
    """
    temporary = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    for folder in target.parent.glob(f"{target.name}.tmp.*"):
        shutil.rmtree(folder)  # left by workers that died while saving
    try:
        _fill(temporary, write, about)
        finish(temporary)
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # free its space on a full disk
        raise
    files.sync(target.parent)


def _fill(temporary: Path, write: Callable[[Path], None], about: dict[str, Any]) -> None:
    files.folder(temporary)
    write(temporary)
    for name in ("training_args.bin", "README.md"):  # a pickle, and an empty model card
        (temporary / name).unlink(missing_ok=True)
    _check_weights(temporary)
    saved = sorted(path for path in temporary.rglob("*") if path.is_file())
    for path in saved:
        files.sync(path)
    hashes = {str(path.relative_to(temporary)): files.sha256_of(path) for path in saved}
    sealed.write(temporary / MANIFEST, {**about, "files": hashes})


def keep_stops(folder: Path, base: Path, stop_ids: Collection[int]) -> None:
    """Write the tokens that end an answer into a result's generation_config.json, where whatever
    serves it looks: an adapter is saved without one, and a base may not name the end of a turn."""
    places = [at / GENERATION_CONFIG for at in (folder, base)]
    given = next((path for path in places if path.exists()), None)
    config = read_json(given, MAX_CONFIG) if given else {}
    config = config if isinstance(config, dict) else {}
    write_json(places[0], {**config, "eos_token_id": sorted(stop_ids)})


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a result after checking its hashes; None if there is no result.

    Raises GatewayError if a file is missing or was changed.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = sealed.read(path, "Train again, or restore the folder from a copy.")
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file() or files.sha256_of(file) != digest:
            raise GatewayError(
                f"{file} is missing or was changed since it was saved.",
                hint="Train again, or restore the folder from a copy.",
            )
    return manifest


def _check_weights(folder: Path) -> None:
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise GatewayError("Training ended but saved no weights.", hint="See worker.log.")
    for path in weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # safe_open cannot be iterated
                if not torch.isfinite(file.get_tensor(name)).all():
                    raise NotFinite(
                        f"The trained weight {name} is not finite: training has diverged.",
                        hint="Submit it again with a smaller learning_rate.",
                    )
