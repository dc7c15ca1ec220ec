"""Merge an adapter into its base: load, add the adapters up, merge, check by logits, save. Imports
torch.

The base is loaded in the precision that it is stored in, also where the adapter was trained on it
in 4 bits: merged into 4 bits, the weights would be rounded again and the model another one. The
merged model is a whole one, which any tool loads without PEFT.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.local import models, peft_warnings, umask
from finetune_gateway.backends.local.loading import free_memory, load_model, unmap_weights
from finetune_gateway.backends.local.quantization import MXFP4, stored_method
from finetune_gateway.backends.local.saving import keep_stops, save_whole
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.jobs import merges
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.model_folder import has_template, has_tokenizer
from finetune_gateway.tokens.text_tokenizer import TextTokenizer

SHARD = "1GB"  # of the weights that are written: so much is in memory beside the model
PROBES, LENGTH = 4, 24  # rows of tokens on which the logits are compared
# How far logits may move, by the largest of them. PEFT's own sum and the merged weights differ by
# rounding: 1.4e-6 in float32, 1.1e-2 in bfloat16 were measured; merged into 4 bits it was 1.65.
CLOSE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in merges.DTYPES}
DEFAULT, SUM = "default", "sum"  # names of adapters
# Files of a base that are no weights and are not written by transformers' save_pretrained.
BESIDE = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Adapter:
    """An adapter and how much of it is added."""

    handle: HandleData
    weight: float = 1.0

    @property
    def folder(self) -> Path:
        return Path(self.handle.model)


def merge(
    adapters: Sequence[Adapter],
    target: Path,
    settings: Settings,
    *,
    document: Callable[[Path], object],
    dtype: str | None = None,
    report: Report = lambda text: None,
) -> dict[str, Any]:
    """Write the base of these adapters with their weighted sum merged into it to a folder, whole or
    not at all, and return its manifest.

    ``document``: called with the folder before it is at its place, to write what says where the
    model is from. ``dtype``: float32, bfloat16 or float16, by default that of the base. Memory: the
    base, and a shard of 1 GB while it is written. Raises SpecError for adapters that cannot be
    merged, GatewayError if the merged model does not answer as the adapter does.
    """
    for one in adapters:
        _require_there(one, settings)
    first = adapters[0]
    base = _base_of(adapters, settings, report)
    config = models.config_of(base)
    _require_full_precision(first.handle, config)
    kind = DTYPES[dtype] if dtype else _stored_dtype(config)

    report("loading the base")
    adapted = _adapted(base, adapters, kind)
    probes = _probes(adapted)
    wanted = _logits(adapted, probes)

    report("merging")
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    del adapted
    found = _require_close(wanted, _logits(merged, probes), kind, "Merged")

    words = first.folder if has_tokenizer(first.folder) else base
    stops = sorted(_source(first.handle, words).stop_ids)

    def write(folder: Path) -> None:
        nonlocal merged
        merged.save_pretrained(folder, max_shard_size=SHARD)
        for place in dict.fromkeys((base, words)):  # those of the adapter in the place of its base
            _copy_words(place, folder, words)
        keep_stops(folder, words, stops)
        report("checking what was written")
        del merged
        free_memory()
        saved = load_model(folder, dtype=kind)
        _require_close(wanted, _logits(saved, probes), kind, "Saved")
        del saved
        free_memory()

    def finish(folder: Path) -> None:
        document(folder)
        # A container or another user is to read it: safetensors writes for this user alone.
        umask.open_to_users(folder)

    manifest = {
        "kind": "merged",
        "base_model": first.handle.base_model,
        "base_revision": first.handle.base_revision,
        "base_sha256": models.content_hash(base, settings),
        "template_sha256": first.handle.template_hash,
        "adapters": [_about(one) for one in adapters],
        "dtype": str(kind).removeprefix("torch."),
        "logits_difference": found,
    }
    report("writing")
    save_whole(target, write, manifest, finish)
    return manifest


def _about(one: Adapter) -> dict[str, Any]:
    weights = one.folder / "adapter_model.safetensors"
    return {
        "job_id": one.handle.job_id,
        "step": one.handle.step,
        "weight": one.weight,
        "sha256": files.sha256_of(weights),
    }


# -- what can be merged --------------------------------------------------------------------------


def _require_there(one: Adapter, settings: Settings) -> None:
    if not one.folder.is_dir():
        raise GatewayError(f"The model folder {one.folder} is gone.", hint="Run: ftg list")
    if one.handle.job_id is not None:
        models.require_as_saved(one.folder, settings)


def _base_of(adapters: Sequence[Adapter], settings: Settings, report: Report) -> Path:
    """Return the folder of their base. Raises SpecError if they have several."""
    found = {models.base_of(one.handle, settings, report) for one in adapters}
    if len(found) > 1:
        names = " and ".join(sorted({one.handle.base_model for one in adapters}))
        raise SpecError(
            f"These adapters have different bases: {names}. An adapter fits on its own alone.",
            hint="Merge each by itself.",
        )
    return next(iter(found))


def _require_full_precision(handle: HandleData, config: dict[str, Any]) -> None:
    method = stored_method(config)
    if method not in (None, MXFP4):  # that of gpt-oss is unpacked when it is loaded
        raise SpecError(
            f"The base {handle.base_model} is stored quantised ({method}): merged into it, the "
            "adapter would be rounded away.",
            hint="Serve the adapter on that base, or train it on the full-precision model (QLoRA, "
            "if memory is short) and merge that.",
        )


def _stored_dtype(config: dict[str, Any]) -> torch.dtype:
    """Return the precision of a base, by its config; float32 if it names none."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        name = str(place.get("dtype") or place.get("torch_dtype") or "").removeprefix("torch.")
        if name in DTYPES:
            return DTYPES[name]
    return torch.float32


# -- merging -------------------------------------------------------------------------------------


def _adapted(base: Path, adapters: Sequence[Adapter], dtype: torch.dtype) -> Any:
    """Return the base with the sum of the adapters on it. Raises SpecError for what cannot be
    summed, or merged."""
    with peft_warnings.ignored():
        bare = load_model(base, dtype=dtype)
        unmap_weights(bare)  # else the files stay in memory beside what is merged
        first = adapters[0]
        adapted: Any = PeftModel.from_pretrained(bare, str(first.folder), use_safetensors=True)
        names = [DEFAULT]
        for number, one in enumerate(adapters[1:], 1):
            names.append(f"adapter{number}")
            adapted.load_adapter(str(one.folder), names[-1], use_safetensors=True)
        if len(adapters) > 1 or first.weight != 1:
            try:
                # "cat" is the sum of what each adds to the weights; "linear" adds up the factors,
                # whose product has terms of both.
                adapted.add_weighted_adapter(
                    names, [one.weight for one in adapters], SUM, combination_type="cat"
                )
            except (ValueError, NotImplementedError) as exc:
                raise SpecError(
                    f"These adapters cannot be added up: {exc}", hint="Merge each by itself."
                ) from None
            adapted.set_adapter(SUM)
            adapted.delete_adapter(DEFAULT)
            for name in names[1:]:
                adapted.delete_adapter(name)
    _require_untied(adapted, bare)
    return adapted.eval()


def _require_untied(adapted: Any, base: PreTrainedModel) -> None:
    """Raise SpecError for an adapter on a weight that the embedding and the head share: merged, it
    would change the other one too."""
    ends = [adapted.get_input_embeddings(), adapted.get_output_embeddings()]
    tied = base.config.get_text_config().tie_word_embeddings
    if tied and any(isinstance(one, BaseTunerLayer) for one in ends):
        raise SpecError(
            "This adapter cannot be merged: the embedding and the head of its base share one "
            "weight, and it is on one of them.",
            hint="Train it again without embed_tokens and lm_head among target_modules.",
        )


def _probes(model: Any) -> torch.Tensor:
    """Return rows of token ids, the same at each call."""
    most = model.config.get_text_config().vocab_size
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, most, (PROBES, LENGTH), generator=drawn)


def _logits(model: Any, rows: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=rows.to(model.device)).logits
    return found.float().cpu()


def _require_close(
    wanted: torch.Tensor, found: torch.Tensor, dtype: torch.dtype, how: str
) -> float:
    """Return how far the logits are from those of the base with the adapter, as a share of the
    largest one. Raises GatewayError if that is more than rounding."""
    apart = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
    if not apart <= CLOSE[dtype]:
        raise GatewayError(
            f"{how}, the model answers otherwise than the adapter on its base: logits differ by "
            f"{apart:.2g} of the largest, and {CLOSE[dtype]:g} is rounding. Nothing was written.",
            hint="Serve the adapter itself, or merge in full precision: --dtype float32",
        )
    return apart


# -- what lies beside the weights ----------------------------------------------------------------


def _source(handle: HandleData, words: Path) -> ChatTemplate | TextTokenizer:
    if has_template(words):
        return ChatTemplate.load(words, chat_template_kwargs=handle.chat_template_kwargs)
    return TextTokenizer.load(words)


def _copy_words(place: Path, folder: Path, words: Path) -> None:
    """Copy the tokenizer, the chat template and what reads pictures; of the base only what the
    adapter has none of."""
    names = [name for name in models.MEANING if name != "config.json"] if place == words else []
    for name in (*names, *BESIDE):
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
