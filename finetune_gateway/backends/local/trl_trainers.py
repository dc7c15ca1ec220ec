"""TRL's own trainers over our rows and labels: what ``engine="trl"`` trains with.

Imports TRL, which takes eight seconds: only a run that needs it imports this. Given the same ids,
labels, order and micro-batch each equals TRL's own in every digit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset as HFDataset
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.trainer.reward_trainer import DataCollatorForPreference

from finetune_gateway.backends.local.pairs import SIDES
from finetune_gateway.backends.local.progress import Progress
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.start import REFERENCE
from finetune_gateway.backends.local.trainer import Row, WatchedTrainer
from finetune_gateway.errors import GatewayError
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import IGNORED

COMPARED = "compared_tokens"


class TrlSFTTrainer(WatchedTrainer, SFTTrainer):
    """TRL's SFTTrainer, which counts the tokens whose loss it uses."""

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        # The loss is over labels shifted by one: the first column predicts nothing.
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, loss)
        return loss


def sft_trainer(
    spec: TrainingSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: dict[str, Any],
    train: RowTable,
    held_out: RowTable | None,
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
        train_dataset=train.for_trl(),
        eval_dataset=held_out and held_out.for_trl(),
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.progress = progress
    require_all_rows(trainer, train)
    return trainer


class TrlKTOTrainer(WatchedTrainer, KTOTrainer):
    """TRL's KTOTrainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset: HFDataset, *_: Any) -> HFDataset:
        return dataset  # TRL would render and mark the rows itself

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        tokens = inputs["completion_mask"].sum()
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, loss)
        return loss


def kto_trainer(
    spec: TrainingSpec,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    arguments: dict[str, Any],
    options: dict[str, Any],
    train: RowTable,
    held_out: RowTable | None,
    progress: Progress,
) -> TrlKTOTrainer:
    """Return TRL's KTOTrainer on rows of ``encode_rows``, with ``mismatched_ids`` where the loss
    has a KL term; ``model``: with its adapter, if it has one; ``options``: loss and beta.

    Raises GatewayError for a batch of one row, which has no other to be mismatched with.
    """
    kl = "mismatched_ids" in train.column_names
    if kl and arguments["per_device_train_batch_size"] < 2:
        raise GatewayError(
            "TRL estimates the KL term of KTO from the rows of one forward pass, and here that is "
            "one row.",
            hint="Set micro_batch_size to 2 or more, or leave engine out.",
        )
    config = KTOConfig(
        **arguments,
        **options,
        desirable_weight=spec.desirable_weight,
        undesirable_weight=spec.undesirable_weight,
        max_length=None,  # we cut the rows, and count them
        disable_dropout=not spec.lora_dropout,
        precompute_ref_log_probs=True,  # so it needs no second model, and no second adapter
    )
    trainer = TrlKTOTrainer(
        model=model,
        args=config,
        train_dataset=of_kto(train),
        eval_dataset=None if held_out is None else of_kto(held_out),
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.progress = progress
    if isinstance(model, PeftModel):
        model.delete_adapter(REFERENCE)  # it has been asked, and would be saved too
    return trainer


def of_kto(rows: RowTable) -> HFDataset:
    """Return rows under TRL's names: prompt and answer apart. TRL trains all of an answer, so it is
    cut behind its last label. Raises GatewayError for one that has tokens without a label."""
    columns: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "label": []}
    kl = "mismatched_ids" in rows.column_names
    columns |= {"KL_completion_ids": []} if kl else {}
    for row in rows:
        prompt = row["prompt_length"]
        columns["prompt_ids"].append(row["input_ids"][:prompt])
        columns["completion_ids"].append(trained(row["input_ids"], row["labels"], prompt))
        columns["label"].append(row["label"])
        if kl:
            found = trained(row["mismatched_ids"], row["mismatched_labels"], prompt)
            columns["KL_completion_ids"].append(found)
    return HFDataset.from_dict(columns)


def trained(ids: list[int], labels: list[int], start: int) -> list[int]:
    """Return the trained tokens from ``start`` on, which follow one another."""
    end = max((at for at, label in enumerate(labels) if label != IGNORED), default=start - 1) + 1
    if IGNORED in labels[start:end]:
        raise GatewayError(
            "An answer has tokens that are not trained, and TRL's KTO trains all of it.",
            hint="Leave engine out.",
        )
    return ids[start:end]


class TrlDPOTrainer(WatchedTrainer, DPOTrainer):
    """TRL's DPOTrainer on pairs of ids and labels, which counts the tokens that it compares."""

    def _prepare_dataset(self, dataset: HFDataset, *_: Any) -> HFDataset:
        return dataset  # TRL would render and mark the rows itself

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        tokens = inputs["completion_mask"][:, 1:].sum()
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, loss)
        return loss


def dpo_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    arguments: dict[str, Any],
    options: dict[str, Any],
    train: RowTable,
    held_out: RowTable | None,
    progress: Progress,
) -> TrlDPOTrainer:
    """Return TRL's DPOTrainer on pairs of ``encode_rows``; ``model``: with its adapter, if it has
    one; ``options``: loss, beta, smoothing.

    The reference is a copy of the adapter, or of a model that is trained whole.
    """
    config = DPOConfig(
        **{**arguments, "remove_unused_columns": False},
        **options,
        max_length=None,  # we cut the rows, and count them
        disable_dropout=False,  # that of the base is off already; an adapter's was asked for
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as TRL does
    trainer = TrlDPOTrainer(
        model=model,
        ref_model=None if isinstance(model, PeftModel) else copy.deepcopy(model),
        args=config,
        data_collator=PairCollator(tokenizer.pad_token_id),
        train_dataset=train.for_trl(),
        eval_dataset=held_out and held_out.for_trl(),
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.progress = progress
    return trainer


@dataclass(frozen=True)
class PairCollator:
    """Pads pairs to a batch of TRL's DPOTrainer: the chosen sequences (n, length), then as many
    rejected ones. The mask marks our labels, where TRL's own marks whole answers."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row[f"{side}_ids"]) for side in SIDES for row in rows]
        labels = [torch.tensor(row[f"{side}_labels"]) for side in SIDES for row in rows]
        masks = [(one != IGNORED).long() for one in labels]
        return {
            "input_ids": pad_sequence(ids, True, self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], True),
            "completion_mask": pad_sequence(masks, True),
        }


@dataclass
class RewardCollator(DataCollatorForPreference):
    """TRL's collator, which counts what is compared."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        labels = [one[f"{side}_labels"] for one in examples for side in SIDES]
        compared = sum(label != IGNORED for some in labels for label in some)
        return {**batch, COMPARED: torch.tensor(compared)}


class TrlRewardTrainer(WatchedTrainer, RewardTrainer):
    """TRL's RewardTrainer, which counts the tokens that are compared."""

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        tokens = inputs[COMPARED]
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        self.progress.add_batch(tokens, loss)
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        known = {name: value for name, value in inputs.items() if name != COMPARED}
        return super().compute_loss(model, known, *rest, **named)


def reward_trainer(
    spec: TrainingSpec,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    arguments: dict[str, Any],
    train: RowTable,
    held_out: RowTable | None,
    progress: Progress,
) -> TrlRewardTrainer:
    """Return TRL's RewardTrainer on pairs; ``model``: with one score in place of logits;
    ``tokenizer``: with the token that pads."""
    config = RewardConfig(
        **{**arguments, "remove_unused_columns": False},
        max_length=None,  # we cut the answers, and count them
        disable_dropout=not spec.lora_dropout,
    )
    trainer = TrlRewardTrainer(
        model=model,
        args=config,
        data_collator=RewardCollator(pad_token_id=tokenizer.pad_token_id),
        train_dataset=train.for_trl(),
        eval_dataset=held_out and held_out.for_trl(),
        processing_class=tokenizer,
        callbacks=[progress],
    )
    trainer.progress = progress
    return trainer


def require_all_rows(trainer: WatchedTrainer, rows: RowTable) -> None:
    """Raise GatewayError if TRL has dropped rows: ours are counted already."""
    kept = len(cast(Sized, trainer.train_dataset))
    if kept != len(rows):
        raise GatewayError(f"The trainer kept {kept} of {len(rows)} rows.")
