"""Short keys and readable titles for the models of a comparison."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.text.cleaning import visible

LONGEST_KEY, LONGEST_TITLE = 40, 100  # characters


def named(models: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """Return the models with a key and a title each, which no other of them has."""
    ways = Counter(_way(model) for model in models)
    wanted = [
        _key(f"{_way(model)}-{base_name(model)}" if ways[_way(model)] > 1 else _way(model))
        if _way(model)
        else _key(short_name(model))
        for model in models
    ]
    keys = _unique(wanted, "-{}")
    titles = _unique([_title(model) for model in models], " ({})")
    pairs = zip(models, keys, titles, strict=True)
    return [replace(model, key=key, title=title) for model, key, title in pairs]


def _way(model: EvaluatedModel) -> str:
    """Return ``base``, ``prompt`` or ``few-shot-5``; nothing for a model that has a name."""
    if model.variant == "few-shot":
        return f"few-shot-{model.shots}"
    return model.variant if model.variant in ("base", "prompt") else ""


def short_name(model: EvaluatedModel) -> str:
    """Return what people call a model: its suffix, its job, its recording, else its own name."""
    step = "" if model.step is None else f"@{model.step}"
    if model.recording is not None:
        return model.recording.about.name
    if model.variant == "other" and model.kind == "local":
        return base_name(model)
    if model.job is not None:
        return f"{model.job.spec.suffix or model.job.id}{step}"
    parts = model.model.split(":")
    if model.model.startswith("ft:") and len(parts) > 4:
        at = f"@{parts[5].rpartition('-')[2]}" if len(parts) > 5 else ""
        return f"{parts[3] or parts[4]}{at}"
    return f"{_last_part(model.model)}{step}"


def base_name(model: EvaluatedModel) -> str:
    """Return the name of a base without its folder or owner."""
    return _last_part(model.base_model)


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


def _title(model: EvaluatedModel) -> str:
    in_folder = Path(model.base_model).is_absolute()
    base = _last_part(model.base_model) if in_folder else model.base_model
    at = f" at {model.host}" if model.host else ""
    if model.recording is not None:
        about = model.recording.about
        text = f"{short_name(model)} ({about.model}, recorded {about.date})"
    elif model.variant == "tuned":
        text = f"{short_name(model)} ({_training_type(model)} of {base}{at})"
    elif model.variant in ("base", "prompt", "few-shot"):
        text = f"{base}{at}, {_framing(model)}"
    else:
        text = f"{base if model.host is None else model.model}{at}"
    return visible(text)[:LONGEST_TITLE]


def _training_type(model: EvaluatedModel) -> str:
    """Return what was trained: of a local model all weights or an adapter, which its handle says.
    A merged adapter is not told from these without its job."""
    if model.kind != "local" or model.handle is None:
        return "fine-tune"
    kind = model.job.spec.training_type if model.job else None
    if model.handle.kind == "adapter":
        return "QLoRA" if model.handle.base_quantization else "LoRA"
    return "full fine-tuning" if kind == "full" else "fine-tune"


def _framing(model: EvaluatedModel) -> str:
    if model.variant == "base":
        return "without fine-tuning"
    if model.variant == "prompt":
        return "with the system prompt"
    return f"with {model.shots} example{'s' if model.shots > 1 else ''}"


def _key(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._@-]+", "-", text).strip("-.")
    return plain[:LONGEST_KEY] or "model"


def _unique(wanted: Sequence[str], form: str) -> list[str]:
    """Return the names, each later one that is taken with a number: from 2 on."""
    taken: list[str] = []
    for name in wanted:
        free, number = name, 2
        while free in taken:
            free, number = f"{name}{form.format(number)}", number + 1
        taken.append(free)
    return taken
