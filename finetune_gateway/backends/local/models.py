"""Find a base model on this machine. Imports no torch.

``builtin/tiny`` is built in the home folder, a path is used as it is, and anything else is a
Hugging Face id, looked up in the hub's cache.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import builtin
from finetune_gateway.errors import BackendError, NotFoundError, SpecError, StoreError
from finetune_gateway.settings.files import by_the_users_umask, locking
from finetune_gateway.settings.home import Settings

MB = 1_000_000
SMALL_FILES = ["*.json", "*.jinja", "tokenizer*"]  # enough to count and to estimate


def resolve(model: str) -> str:
    """Return the real path of a model that is a folder here, whatever its name; any other model as
    it is."""
    path = os.path.expanduser(model)
    return os.path.realpath(path) if model != builtin.NAME and os.path.isdir(path) else model


def small_files(model: str, settings: Settings) -> Path:
    """Return a folder with at least the config, tokenizer and template of a model.

    For a hub model that is not cached these files are downloaded (a few MB), not its weights.
    Raises NotFoundError, SpecError, and BackendError if the hub cannot be reached.
    """
    if model == builtin.NAME:
        folder = settings.models / builtin.folder_name()
        if not (folder / "generation_config.json").exists():  # the last of the small files
            settings.create()
            builtin.ensure_tokenizer(folder)
        return folder
    return _local(model) or _hub(model, SMALL_FILES)


def with_weights(model: str, settings: Settings, report: Callable[[str], None]) -> Path:
    """Return a folder with the weights too; build or download them if they are missing.

    ``report`` is called with what is being done.
    """
    if model == builtin.NAME:
        folder = settings.models / builtin.folder_name()
        if builtin.is_built(folder):
            return folder
        with locking(settings.create().locks / folder.name):  # one builder at a time
            return builtin.ensure_model(folder, report)
    local = _local(model)
    if local is None:
        report(f"downloading {model}")
        return _hub(model, None, report)
    if not any(local.glob("*.safetensors")):
        raise SpecError(
            f"The model folder {local} has no *.safetensors.",
            hint="Pickled weights (.bin) are never loaded; save the model as safetensors.",
        )
    return local


def config_of(folder: Path) -> dict[str, Any]:
    """Return the model's config.json. Raises SpecError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
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


def revision_of(folder: Path) -> str | None:
    """Return the commit of a model in the hub's cache (``.../snapshots/<commit>``)."""
    return folder.name if folder.parent.name == "snapshots" else None


def _local(model: str) -> Path | None:
    path = Path(model).expanduser()
    if os.path.isdir(path):
        return path.absolute()
    if model.startswith("builtin/"):
        raise NotFoundError(
            f"There is no built-in model {model!r}.", hint=f"There is one: {builtin.NAME}"
        )
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_like_path or os.path.exists(path):
        raise NotFoundError(
            f"There is no model folder {model!r}.",
            hint="Give a folder with config.json, or a Hugging Face id such as Qwen/Qwen3-0.6B.",
        )
    return None


def _hub(
    model: str, patterns: list[str] | None, report: Callable[[str], None] | None = None
) -> Path:
    # Imported here: the hub's client takes 0.2 s and only hub models need it.
    # It reads this when it is imported; otherwise it sends the versions of other libraries, and
    # which program runs it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    hint = f"Check the name, run: hf download {model}, or use --model builtin/tiny to try things."
    try:
        with by_the_users_umask():
            bar = _reporting(model, report) if report else None
        return Path(snapshot_download(model, allow_patterns=patterns, tqdm_class=bar))
    except HFValidationError:
        raise NotFoundError(f"{model!r} is not a model id.", hint=hint) from None
    except LocalEntryNotFoundError:
        raise BackendError(
            f"Model {model!r} is not on this machine and the hub cannot be reached.",
            hint=hint,
            backend="local",
        ) from None
    except RepositoryNotFoundError:
        raise NotFoundError(
            f"The hub has no model {model!r}, or it needs an access token (HF_TOKEN).", hint=hint
        ) from None
    except (HfHubHTTPError, OSError) as exc:
        raise BackendError(
            f"Model {model!r} could not be downloaded: {exc}.", hint=hint, backend="local"
        ) from None


def _reporting(model: str, report: Callable[[str], None]) -> type[Any]:
    """Return a bar for the hub's client that draws nothing, and reports the megabytes that have
    come, once a second."""
    from tqdm.auto import tqdm

    class Reported(tqdm):  # type: ignore[misc]  # tqdm has no types
        reported = 0.0

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Draw nothing: this runs in a worker."""

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            # One bar counts files, one what comes from the network, one what is on the disk.
            on_disk = self.unit == "B" and not str(self.desc).startswith("Downloading")
            if on_disk and self.total and time.monotonic() - self.reported > 1:
                self.reported = time.monotonic()
                report(f"downloading {model}: {self.n / MB:.0f} of {self.total / MB:.0f} MB")

    return Reported
