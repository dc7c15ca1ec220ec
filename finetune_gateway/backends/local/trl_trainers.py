"""TRL's own trainers over our rows and labels: what ``engine="trl"`` trains with.

Imports TRL, which takes eight seconds: only a run that needs it imports this. Given the same ids,
labels, order and micro-batch each equals TRL's own in every digit.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import torch
from datasets import Dataset as HFDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from finetune_gateway.backends.local.progress import Progress
from finetune_gateway.backends.local.trainer import WatchedTrainer
from finetune_gateway.errors import GatewayError
from finetune_gateway.spec import TrainingSpec


class TrlSFTTrainer(WatchedTrainer, SFTTrainer):
    """TRL's SFTTrainer, which counts the tokens whose loss it uses."""

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        # The loss is over labels shifted by one: the first column predicts nothing.
        tokens = int((inputs["labels"][:, 1:] != -100).sum())
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, float(loss))
        return loss


def sft_trainer(
    spec: TrainingSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: dict[str, Any],
    train: HFDataset,
    held_out: HFDataset | None,
    progress: Progress,
) -> TrlSFTTrainer:
    """Return TRL's SFTTrainer on rows with ``input_ids`` and ``labels``, or packs of them;
    ``model``: with its adapter, if it has one."""
    config = SFTConfig(
        **arguments,
        loss_type=spec.loss_type or "nll",
        max_length=None,  # we cut the rows, and count them
        packing=False,  # we pack: the number of steps must be known before there is a trainer
        padding_free=spec.packing,  # rows of a pack do not attend to each other
    )
    trainer = TrlSFTTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.progress = progress
    require_all_rows(trainer, train)
    return trainer


def require_all_rows(trainer: WatchedTrainer, rows: HFDataset) -> None:
    """Raise GatewayError if TRL has dropped rows: ours are counted already."""
    kept = len(cast(Sized, trainer.train_dataset))
    if kept != len(rows):
        raise GatewayError(f"The trainer kept {kept} of {len(rows)} rows.")
