"""Supervised fine-tuning, from top to bottom: load, format, configure, train, save.

We tokenise the rows and mark their labels (``ChatTemplate.encode``). TRL's SFTTrainer would ignore
``weight: 0``, encode string tool arguments twice, and silently drop rows without a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from finetune_gateway.backends.local import engine as engines
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.configuration import training_arguments
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.loading import load_base, max_length_for
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.scoring import Scorer, Sequences
from finetune_gateway.backends.local.start import begin, restore
from finetune_gateway.backends.local.trainer import FastTrainer, Losses, Row
from finetune_gateway.methods import loss_of
from finetune_gateway.tokens.chat_template import IGNORED

# TRL, peft_integration.md: LoRA needs 10x the rate of full. QLoRA: the paper's, for up to 13B.
LEARNING_RATE = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}


class FastSFTTrainer(FastTrainer):
    """Our engine on conversations: a trained token is a unit."""

    def __init__(self, scorer: Scorer, loss_type: str, **given: Any) -> None:
        super().__init__(**given)
        self.scorer, self.loss_type = scorer, loss_type

    def units_of(self, row: Row) -> int:
        return sum(map(trained_tokens, sequences_of(row)))

    def losses(self, model: Any, rows: Sequence[Row]) -> Losses:
        sequences = [one for row in rows for one in sequences_of(row)]
        units = sum(map(trained_tokens, sequences))
        # The rows of a pack must not see each other: where the attention cannot tell them apart,
        # they go through the model one after another.
        packed = any("seq_lengths" in row for row in rows) and not self.scorer.padding_free
        passes = [[one] for one in sequences] if packed else [sequences]
        total, right = zip(*(self._lost(model, some) for some in passes), strict=True)
        figures = {"mean_token_accuracy": torch.stack(right).sum()}
        return Losses(torch.stack(total).sum(), units, units, figures)

    def _lost(self, model: Any, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Return the loss (), summed over tokens, and how many tokens are the likeliest, ()."""
        if self.loss_type == "dft":
            # A token counts as much as it is likely already: Wu et al. 2025 (2508.05629), eq. 9.
            each, right = self.scorer.each(model, sequences)
            found = torch.cat(each)
            return -(found.detach().exp() * found).sum(), right
        share = -1 / self.step_units if self.step_units else None  # as ``compute_loss`` divides
        total, right = self.scorer.total(model, sequences, share)
        return -total, right


def sequences_of(row: Row) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of a row, or of each row in a pack."""
    ids, labels = row["input_ids"], row["labels"]
    found, start = [], 0
    for length in row.get("seq_lengths") or [len(ids)]:
        found.append((ids[start : start + length], labels[start : start + length]))
        start += length
    return found


def trained_tokens(sequence: tuple[list[int], list[int]]) -> int:
    """Return how many tokens are trained: the first follows nothing."""
    return sum(label != IGNORED for label in sequence[1][1:])


def train_and_save(run: Run) -> None:
    """Train the base model and save an adapter, or for full fine-tuning the whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model, its chat template and tokenizer; the adapter on it
    base = load_base(run)
    model = begin(run, base.model)

    # -- format: rows -> input_ids (n,) and labels (n,), -100 for tokens that are not trained
    run.phase("reading the data")
    max_length = max_length_for(run, base.model)
    train_rows = encode_rows(run, run.train, base.template, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, base.template, max_length) if held_out else None
    rows = pack(train_rows.rows, max_length) if spec.packing else train_rows.rows

    # -- configure: names as in Hugging Face's libraries
    engine = engines.choose(run, base, model, train_rows.rows)
    plan = engine.plan(spec, train_rows, valid_rows, packs=len(rows))
    arguments = training_arguments(
        run,
        plan,
        learning_rate=LEARNING_RATE[kind],
        held_out=valid_rows is not None,
        bf16=engine.bf16,
    )
    progress = finishing.progress_of(run, base)
    valid = valid_rows.rows if valid_rows else None
    trainer: Any
    if engine.name == "trl":
        # Imported here: TRL takes eight seconds, and only its own engine needs it.
        from finetune_gateway.backends.local import trl_trainers

        trainer = trl_trainers.sft_trainer(
            spec, model, base.tokenizer, arguments, rows, valid, progress
        )
        if base.quantization:
            restore(run, model)  # TRL has rounded it to bf16
    else:
        trainer = FastSFTTrainer(
            engine.scorer,
            loss_of(spec),
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=rows,
            eval_dataset=valid,
            processing_class=base.tokenizer,
            callbacks=[progress],
        )
        trainer.progress = progress

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    finishing.train_to_the_end(run, trainer)

    # -- save: the adapter (or the whole model) with its tokenizer and template
    finishing.save(run, trainer, base, engine.warnings)


def pack(rows: RowTable, max_length: int) -> RowTable:
    """Return packs of rows, of at most ``max_length`` tokens: best fit, the longest first."""
    # Imported here, and not from trl, which would import its trainers: eight seconds.
    from trl.data_utils import pack_dataset

    return RowTable(pack_dataset(rows.for_trl(), max_length).data.table)
