"""An adapter on this machine, merged into its base: where the whole model goes, and its handle."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.backend import HandleData
from finetune_gateway.chat import ChatModel, Merges
from finetune_gateway.errors import SpecError, StoreError, UnsupportedError, shown
from finetune_gateway.jobs import downloads
from finetune_gateway.settings import files
from finetune_gateway.settings.arguments import require_function
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import encodable, visible

DTYPES = ("float32", "bfloat16", "float16")
# What stays true of a model when its adapter has become a part of it.
KEPT = (
    *("base_model", "hub_base", "base_revision", "base_sha256", "template_hash", "system_prompt"),
    *("chat_template_kwargs", "job_id", "step", "continued_from", "dataset_sha256", "metrics"),
    *("warnings", "backend", "backend_options"),
)


def say_nothing(text: str) -> None:
    """Say nothing of what is being done."""


def require(others: object, dtype: object, report: object) -> None:
    """Raise SpecError for arguments that cannot be."""
    require_function(report, "report", "what is being done")
    if dtype is not None and dtype not in DTYPES:
        raise SpecError(f"dtype cannot be {shown(dtype)}.", hint=f"One of: {', '.join(DTYPES)}.")
    pairs = others if isinstance(others, Sequence) else [others]
    for one in pairs:
        if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], HandleData)):
            raise SpecError(
                f"others is a list of a handle and its weight, and {shown(one)} is none.",
                hint="others=[(other_handle, 0.5)]",
            )


def require_part(handle: HandleData, weight: float) -> None:
    """Raise SpecError for a weight that cannot be, UnsupportedError for what is no adapter on this
    machine."""
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not (is_number and math.isfinite(weight) and weight > 0):
        raise SpecError(
            f"The weight of an adapter cannot be {shown(weight)}.", hint="Give a number above 0."
        )
    if handle.kind == "adapter":
        return
    name = visible(handle.job_id or handle.model)
    why, hint = {
        "merged": (f"{name} is a whole model: there is nothing to merge.", ""),
        "hosted": (
            f"{name} answers at its host: there is no adapter here.",
            f"Where the host gives its files, bring them here: ftg download {name}",
        ),
        "reward": (f"{name} is a reward model: its head is its own, and it stays an adapter.", ""),
    }[handle.kind]
    raise UnsupportedError(why, hint=hint, backend=handle.backend, option="merge")


def merge(
    models: Sequence[tuple[ChatModel, float]],
    folder: Path,
    settings: Settings,
    document: Callable[[Path], object],
    dtype: str | None,
    report: Callable[[str], None],
) -> None:
    """Write a merged model to a folder. ``models``: the adapters that are added up, and how much of
    each. ``document``: called with the folder, to write the handle, before it is at its place."""
    (model, weight), *others = models
    for one, _ in models:
        if not isinstance(one, Merges):
            raise UnsupportedError(
                "Its backend does not merge adapters.",
                hint="Only the local backend does.",
                option="merge",
            )
    assert isinstance(model, Merges)  # for the type checker
    digest = hashlib.sha256(encodable(str(folder)).encode()).hexdigest()[:16]
    with (
        files.storing("The merged model cannot be written", folder.parent),
        files.try_locking(settings.locks / f"merge-{digest}") as ours,
    ):
        if not ours:
            raise StoreError(
                f"Another process is writing {visible(str(folder))}.",
                hint="Wait until it has ended.",
            )
        if downloads.is_taken(folder):
            raise SpecError(
                f"{visible(str(folder))} is there already: nothing was written.",
                hint="Name a folder that is not there yet: --to FOLDER",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        model.merge(folder, others, weight, dtype, document, report)


def what_stays(handle: HandleData, parts: Sequence[tuple[HandleData, float]]) -> dict[str, Any]:
    """Return the fields of a handle that stay true of the merged model. Of a sum nothing that was
    measured does."""
    kept = {name: getattr(handle, name) for name in KEPT}
    if len(parts) > 1 or parts[0][1] != 1:
        kept |= {"job_id": None, "step": None, "metrics": {}, "dataset_sha256": None}
    return kept
