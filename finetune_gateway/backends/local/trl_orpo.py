"""TRL's own trainer of ORPO over our rows and labels. It is experimental there: imported only by a
run with ``engine="trl"``.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from finetune_gateway.backends.local.pairs import SIDES
from finetune_gateway.backends.local.progress import Progress
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.trainer import WatchedTrainer
from finetune_gateway.tokens.chat_template import IGNORED

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # the run says it, in an event
from trl.experimental.orpo import ORPOConfig, ORPOTrainer


class TrlORPOTrainer(WatchedTrainer, ORPOTrainer):
    """TRL's ORPOTrainer on pairs of ids and labels, which counts the tokens that it compares."""

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        """Return our ids and labels under TRL's names; TRL would render and mark the row itself."""
        columns: dict[str, Any] = {}
        for side in SIDES:
            columns[f"{side}_input_ids"] = feature[f"{side}_ids"]
            columns[f"{side}_attention_mask"] = [1] * len(feature[f"{side}_ids"])
            columns[f"{side}_labels"] = feature[f"{side}_labels"]
        return columns

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        sides = (inputs["chosen_labels"], inputs["rejected_labels"])
        tokens = sum((labels[:, 1:] != IGNORED).sum() for labels in sides)
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, loss)
        return loss


def orpo_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    arguments: dict[str, Any],
    beta: float,
    train: RowTable,
    held_out: RowTable | None,
    progress: Progress,
) -> TrlORPOTrainer:
    """Return TRL's ORPOTrainer on pairs of ``encode_rows``; ``model``: with its adapter, if it has
    one."""
    config = ORPOConfig(
        **{**arguments, "remove_unused_columns": False},
        beta=beta,
        disable_dropout=False,  # that of the base is off already; an adapter's was asked for
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # it pads by this one
    trainer = TrlORPOTrainer(
        model=model,
        args=config,
        train_dataset=train.for_trl(),
        eval_dataset=held_out and held_out.for_trl(),
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.progress = progress
    return trainer
