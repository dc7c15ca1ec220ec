"""Find a base model on this machine. Imports no torch.

``builtin/tiny`` is built in the home folder, an absolute path is a folder, and anything else is a
Hugging Face id, looked up in the hub's cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.local import bases, builtin, hub, manifests
from finetune_gateway.backends.local.quantization import stored_method
from finetune_gateway.errors import (
    BackendError,
    GatewayError,
    NotFoundError,
    SpecError,
    StoreError,
    shown,
)
from finetune_gateway.estimation import weights
from finetune_gateway.estimation.model_config import OFF, is_counted, shape_of
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.settings import files, sealed
from finetune_gateway.settings.files import locking, sha256_of
from finetune_gateway.settings.hashing import sha256_of_all
from finetune_gateway.settings.home import Settings

MAX_MANIFEST = 1 << 26  # bytes
CACHE = "weights.json"  # in the folder of models: hashes of weights, by their paths
# Files beside the weights that decide what a model is shown and makes of it.
MEANING = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("tokenizer.model", "spiece.model"),
)


def resolve(model: str) -> str:
    """Return the real path of a model that is a folder here (or a file, which is refused later),
    whatever its name; any other model as it is."""
    path = os.path.expanduser(model)
    return os.path.realpath(path) if model != builtin.NAME and os.path.exists(path) else model


def small_files(model: str, settings: Settings) -> Path:
    """Return a folder with at least the config, tokenizer and template of a model.

    For a hub model that is not cached these files are downloaded (a few MB), not its weights.
    Raises NotFoundError, SpecError, and BackendError if the hub cannot be reached.
    """
    if model == builtin.NAME:
        folder = settings.models / builtin.folder_name()
        if not (folder / "generation_config.json").exists():  # the last of the small files
            with files.storing(f"{model} cannot be made", settings.create().models):
                builtin.ensure_tokenizer(folder)
        return folder
    folder = folder_of(model) or hub.fetch(model)
    if not (folder / "config.json").exists():  # say what it is, rather than what it lacks
        bases.require_weights(model, folder, _names(model, folder))
    return folder


def with_weights(
    model: str, settings: Settings, report: Callable[[str], None], revision: str | None = None
) -> Path:
    """Return a folder with the weights too; build or download them if they are missing.

    ``report`` is called with what is being done. ``revision``: a commit of a model of the hub; by
    default the newest. Raises SpecError for a folder without weights that we read.
    """
    if model == builtin.NAME:
        folder = settings.models / builtin.folder_name()
        if builtin.is_whole(folder):
            return folder
        with locking(settings.create().locks / folder.name):  # one builder at a time
            return builtin.ensure_model(folder, report)
    local = folder_of(model)
    if local is None:
        report(f"downloading {model}")
    folder = local or hub.fetch(model, revision=revision)
    bases.require_weights(model, folder, _names(model, folder))
    if local is not None:
        return local
    wanted = [*hub.SMALL_FILES, *weights.weight_files(folder)]
    return hub.fetch(model, wanted, revision=folder.name, report=report)


def require_whole(model: str, folder: Path, training_type: str | None) -> None:
    """Raise SpecError for a base that cannot be trained as it is; ``folder``: of ``small_files`` or
    ``with_weights``."""
    config = config_of(folder)
    if model == builtin.NAME:
        return
    at_hub = hub.file_names(model, folder.name) if _is_at_hub(model) else None
    bases.require_whole(model, folder, config, training_type, at_hub)


def tensor_names(model: str, folder: Path) -> Collection[str]:
    """Return the names of a base's tensors; none while its weights are not here."""
    if model == builtin.NAME and not builtin.is_built(folder):
        return ()
    return bases.tensor_names(folder, at_hub=_is_at_hub(model))


def config_of(folder: Path) -> dict[str, Any]:
    """Return the model's config.json. Raises SpecError."""
    try:
        config = weights.read_json(folder / "config.json", weights.MAX_CONFIG)
    except FileNotFoundError:
        raise SpecError(
            f"There is no {folder / 'config.json'}.", hint="Is this a model folder?"
        ) from None
    except OSError as exc:
        raise StoreError(
            f"{folder / 'config.json'} cannot be read: {exc.strerror or exc}."
        ) from None
    except ValueError as exc:
        raise SpecError(f"{folder / 'config.json'} is not valid JSON: {exc}.") from None
    if not isinstance(config, dict):
        raise SpecError(f"{folder / 'config.json'} is not a JSON object.")
    if "auto_map" in config:
        raise SpecError(
            f"The model in {folder} needs code of its own to run (auto_map).",
            hint="The gateway never runs such code; choose a model that transformers supports.",
        )
    return config


def context_of(folder: Path) -> int | None:
    """Return how many tokens the model reads, as transformers finds it; None if it does not say."""
    config = config_of(folder)
    # The second: GPT-2, GPT-J, GPTBigCode, CodeGen (attribute_map of transformers' configs).
    found = config.get("max_position_embeddings", config.get("n_positions"))
    return found if isinstance(found, int) and found > 0 else None


# -- which base it is ------------------------------------------------------------------------


def revision_of(model: str, folder: Path) -> str | None:
    """Return the commit of a model of the hub, whose folder is ``.../snapshots/<commit>``; None for
    a folder of the user's."""
    return folder.name if _is_at_hub(model) else None


def cached_revision(model: str) -> str | None:
    """Return the newest commit of a model of the hub that is on this machine; None for any other
    model. Asks nobody."""
    if not _is_at_hub(model):
        return None
    try:
        return hub.fetch(model, offline=True).name
    except BackendError:
        return None


def identity(model: str, folder: Path, settings: Settings) -> tuple[str | None, str | None]:
    """Return what a base is recognised by: the commit of a model of the hub, or the hash of the
    weights in a folder."""
    revision = revision_of(model, folder)
    return revision, None if revision else content_hash(folder, settings)


def small_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of the files of a base that say what its weights compute, and which ids a
    text has."""
    there = [name for name in MEANING if (folder / name).is_file()]
    return {name: sha256_of(folder / name) for name in there}


def content_hash(folder: Path, settings: Settings, *, anew: bool = False) -> str:
    """Return what the weights in a folder are recognised by; see ``weights.content_hash``."""
    with suppress(StoreError):  # a home of another user: it is hashed each time
        settings.create()
    return weights.content_hash(folder, settings.models / CACHE, anew=anew)


def located(model: str, sha256: str | None, settings: Settings) -> str:
    """Return where the base of a job is now, which may have moved since: at the same place below
    the home folder, or in another folder that this home knows, with weights of this hash. The name
    itself for one that is where it was, or that is found nowhere."""
    if not os.path.isabs(model) or os.path.exists(model):
        return model
    here = settings.real_path(model)
    if here != model or sha256 is None:
        return here
    found = weights.find_by_hash(sha256, settings.models / CACHE)
    return str(found) if found else model


def base_of(handle: HandleData, settings: Settings, report: Callable[[str], None]) -> Path:
    """Return the folder with the base of an adapter. Raises GatewayError if its weights are not
    those that the adapter was trained on, unless the handle allows that."""
    name = located(handle.base_model, handle.base_sha256, settings)
    folder = with_weights(name, settings, report, handle.base_revision)
    if handle.base_sha256 is None or handle.allows_changed_base:
        return folder
    if (now := content_hash(folder, settings)) != handle.base_sha256:
        raise GatewayError(
            f"The base {name} is not the one that this adapter was trained on: its weights have "
            f"changed since (sha256 {handle.base_sha256[:12]} then, {now[:12]} now).",
            hint="Put the old weights back, or train again. To answer all the same: "
            "ftg chat MODEL --allow-changed-base.",
        )
    return folder


def require_as_saved(folder: Path, settings: Settings) -> None:
    """Raise GatewayError unless the model in a folder is as it was saved, by its manifest; one
    without has none. Weights of gigabytes are hashed again only if they have changed."""
    try:
        about = weights.read_json(folder / MANIFEST, MAX_MANIFEST)
        about = sealed.unsealed(about, folder / MANIFEST, "") if isinstance(about, dict) else {}
    except FileNotFoundError:
        return
    except (OSError, ValueError, StoreError) as exc:
        raise _not_as_saved(folder, f"{MANIFEST} cannot be read ({exc})") from None
    named = about.get("files")
    if not isinstance(named, dict):
        return  # of somebody else
    found = {name: one["sha256"] if isinstance(one, dict) else one for name, one in named.items()}
    saved: dict[str, str] = found
    whole = not (folder / bases.ADAPTER).exists()
    large = {*weights.weight_files(folder)} & saved.keys() if whole else set[str]()
    names = sorted(saved.keys() - large - {*manifests.TORCH_STATE})
    if missing := [name for name in (*names, *large) if not (folder / name).is_file()]:
        raise _not_as_saved(folder, f"{missing[0]} is missing")
    for name, digest in zip(names, sha256_of_all([folder / name for name in names]), strict=True):
        if digest != saved[name]:
            raise _not_as_saved(folder, manifests.changed(name, saved[name], digest))
    if large and weights.hash_by(folder, saved) != content_hash(folder, settings):
        raise _not_as_saved(folder, "its weights have another content")


def _not_as_saved(folder: Path, reason: str) -> GatewayError:
    return GatewayError(
        f"The model in {folder} is not as it was saved: {reason}.",
        hint="Train again, restore the folder from a copy, or ask another checkpoint of the job.",
    )


def _names(model: str, folder: Path) -> set[str]:
    """Return the names of a model's files, also of those that the hub has and this machine not."""
    at_hub = hub.file_names(model, folder.name) if _is_at_hub(model) else []
    # Of a model of which nothing was fetched there is no folder.
    return {*(os.listdir(folder) if folder.is_dir() else ()), *at_hub}


def _is_at_hub(model: str) -> bool:
    return model != builtin.NAME and folder_of(model) is None


def _readable(folder: Path) -> Path:
    try:
        os.scandir(folder).close()
        (folder / "config.json").is_file()
    except OSError as exc:
        raise StoreError(
            f"The model folder {folder} cannot be read: {exc.strerror or exc}.",
            hint="Ask for rights on the folder.",
        ) from None
    return folder


def folder_of(model: str) -> Path | None:
    """Return the folder of a model that is given as a path; None for an id of the hub."""
    path = os.path.expanduser(model)
    if model.startswith("builtin/"):
        raise NotFoundError(
            f"There is no built-in model {model!r}.", hint=f"There is one: {builtin.NAME}"
        )
    as_path = model.startswith((".", "/", "~")) or os.path.isabs(path) or model.count("/") > 1
    if as_path and os.path.isdir(path):
        return _readable(Path(path).absolute())
    if as_path and os.path.isfile(path):
        raise NotFoundError(
            f"{model!r} is a file, not a model folder.",
            hint="Give the folder, with config.json and *.safetensors. GGUF files and pickles "
            "cannot be trained.",
        )
    if as_path:
        raise NotFoundError(
            f"There is no model folder {model!r}.",
            hint="Give a folder with config.json, or a Hugging Face id such as Qwen/Qwen3-0.6B. "
            f"Was it moved? Make a link: ln -s NEW {model}. A job knows its base by its weights.",
        )
    return None


def shape_in(folder: Path) -> ModelShape:
    """Return the shape of a base by its config.json, of the size that its weights have where they,
    or an index of them, are here. Raises SpecError."""
    config = config_of(folder)
    shape = shape_of(config)
    stored = None if stored_method(config) is not None else _stored_parameters(folder, shape)
    if stored is None or abs(stored - shape.parameters) <= OFF * shape.parameters:
        return shape
    beyond = stored - shape.parameters
    return shape.model_copy(update={"other_parameters": shape.other_parameters + beyond})


def other_size(folder: Path, shape: ModelShape) -> str:
    """Return a sentence on a base whose size was not counted right by its config.json: with blocks
    that are no attention, or other towers. Empty for all others."""
    config = config_of(folder)
    counted = shape_of(config)
    if shape.parameters != counted.parameters:
        return (
            f"Its weights have {shape.parameters / 1e9:.3g} billion parameters, and by its "
            f"config.json {counted.parameters / 1e9:.3g} billion are counted: parts of it are not "
            "known here. Its memory is that of all its weights; its time may be off by as much."
        )
    if is_counted(config) or stored_method(config) is not None:
        return ""
    if _stored_parameters(folder, shape) is not None:
        return ""
    return (
        f"{shape.parameters / 1e9:.3g} billion parameters are counted from its config.json, as for "
        f"a model of the Llama kind; models of the type {shown(shape.model_type)} are not known "
        "here, so its memory and time may be far off. Compare the size with its model card."
    )


def _stored_parameters(folder: Path, shape: ModelShape) -> int | None:
    """Return the parameters of a folder's weights; None if neither they nor an index says."""
    stored = weights.parameters_of(folder, tied=shape.tied)
    if stored is not None:
        return stored
    declared = weights.declared_parameters(folder, shape.stored_bytes)
    # A config may name another type than that of the file: then the counted size decides.
    near = [n for n in declared if abs(n - shape.parameters) <= OFF * shape.parameters]
    return next(iter([*near, *declared]), None)
