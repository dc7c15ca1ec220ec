"""Score answers with a reward model of this machine, through the template that it was trained with.
Imports torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.local import models, peft_warnings, probe
from finetune_gateway.backends.local.bases import ADAPTER
from finetune_gateway.backends.local.divergence import NotFinite
from finetune_gateway.backends.local.loading import load_scoring_model
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.shared_bases import require_weights
from finetune_gateway.errors import DataError, GatewayError, SpecError
from finetune_gateway.events import Result
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.template_rows import row_of_unpaired
from finetune_gateway.tokens.training_rows import cut_row, encode_row


class RewardModel:
    """A reward model in this process."""

    def __init__(self, model: PreTrainedModel, template: ChatTemplate) -> None:
        self.model = model.eval()
        self.template = template

    @classmethod
    def load(cls, handle: HandleData, settings: Settings) -> Self:
        """Load the base and adapter of a handle, or the whole model; only safetensors are read."""
        folder = Path(handle.model)
        if not folder.is_dir():
            raise GatewayError(f"The model folder {folder} is gone.", hint="Run: ftg list")
        if handle.job_id is not None:  # the gateway has saved it
            models.require_as_saved(folder, settings)
        template = ChatTemplate.load(folder, chat_template_kwargs=handle.chat_template_kwargs)
        if not (folder / ADAPTER).is_file():
            return cls(load_scoring_model(folder, new_head=False), template)
        base = models.base_of(handle, settings, logging.getLogger(__name__).info)
        require_weights(folder)
        # In 4 bits if it was trained in 4 bits, as for chats.
        bare = load_scoring_model(base, handle.base_quantization)
        with peft_warnings.ignored():
            adapted = PeftModel.from_pretrained(bare, str(folder))
        return cls(cast(PreTrainedModel, adapted), template)

    def scores(self, conversations: Sequence[Mapping[str, Any]]) -> list[float | GatewayError]:
        """Return the score of the last answer of each conversation, ``{"messages", "tools"}``, or
        the error why it has none: it ends in no answer, is too long, or the template refuses it."""
        found: list[float | GatewayError] = []
        for one in conversations:
            try:
                found.append(self._score(self._ids(one)))
            except (SpecError, DataError) as exc:
                found.append(exc)
        return found

    def _ids(self, conversation: Mapping[str, Any]) -> list[int]:
        """Return the token ids of a conversation, as training reads them."""
        messages = conversation["messages"]
        if not messages or messages[-1].get("role") != "assistant":
            raise SpecError(
                "A reward model scores an answer, and this conversation ends in none.",
                hint="Let its last message be one of the assistant.",
            )
        if messages[-1].get("content") is None and not messages[-1].get("tool_calls"):
            raise SpecError(
                "A reward model scores an answer, and this one has neither content nor calls.",
                hint='An answer that says nothing has the content "".',
            )
        [row] = self.template.encode(row_of_unpaired(dict(conversation)))
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most and len(row.input_ids) > most:
            raise SpecError(
                f"The conversation has {len(row.input_ids):,} tokens; this model reads at most "
                f"{most:,}.",
                hint="Leave out earlier turns, or score another answer.",
            )
        return row.input_ids

    def _score(self, ids: list[int]) -> float:
        """Return the score of a conversation. One at a time: the head reads the last token that is
        no padding, so none is needed."""
        device, dtype = self.model.device, self.model.dtype
        inputs = torch.tensor([ids], device=device)
        half = dtype in (torch.bfloat16, torch.float16)  # the trained head is in float32
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=half):
            return float(self.model(input_ids=inputs, use_cache=False).logits[0, 0])


def first_scores(run: Run, result: Result) -> str:
    """Load the saved model anew and return what it says of a pair it was trained on, in words.
    Raises NotFinite for a score that is no number."""
    handle = ModelHandle(
        kind=result.kind,
        model=result.model,
        base_model=run.spec.model,
        base_revision=result.base_revision,
        base_sha256=result.base_sha256,
        base_quantization=result.base_quantization,
        backend="local",
        chat_template_kwargs=result.chat_template_kwargs,
    )
    model = RewardModel.load(handle, run.settings)
    pair = _first_pair(model, run)
    if not pair:
        run.event("No pair of the first rows can be scored: a plain answer is.")
        return f"{_finite(_plain_score(model)):.4f} a plain answer"
    better, worse = (_finite(model._score(ids)) for ids in pair)
    return f"{better:.4f} the preferred answer, {worse:.4f} the other"


def _first_pair(model: RewardModel, run: Run) -> list[list[int]]:
    """Return the ids of both sides of the first pair that can be scored, cut as they were trained;
    an empty list if there is none."""
    most = probe.limit_of(run, model.model.config)
    for row in probe.first_rows(run):
        with suppress(DataError, SpecError):
            sides = cut_row(encode_row(model.template, row), most, pair=True)
            if all(one.trained for one in sides):
                return [one.input_ids for one in sides]
    return []


def _plain_score(model: RewardModel) -> float:
    """Return the score of a plain answer. Raises DataError if the template refuses it."""
    first, *more = model.scores([probe.PLAIN, probe.PLAIN_WITH_TOOLS])
    found = next((one for one in (first, *more) if isinstance(one, float)), first)
    if isinstance(found, GatewayError):
        raise found
    return found


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise NotFinite(f"The reward model gives the score {score}: training has diverged.")
    return score
