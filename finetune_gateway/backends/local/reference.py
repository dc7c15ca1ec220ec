"""Log-probabilities of the reference of dpo and kto: of the model as it is before its first step.

They are computed once, so that training holds one model and makes no second forward pass. A run
that is continued computes them again, before its checkpoint is read: they are the same. Imports
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset as HFDataset

from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.trainer import FastTrainer

# Of a new column: the columns of the ids and of the labels that it is about.
Columns = Mapping[str, tuple[str, str]]


def score_reference(trainer: FastTrainer, scorer: Scorer, columns: Columns) -> None:
    """Add to the trainer's rows, those to train on and the held-out ones, columns with the sum of
    the log-probabilities of the trained tokens. To be called before anything is trained."""
    trainer.progress.run.phase("scoring with the reference model")
    trainer.train_dataset = with_reference(trainer, scorer, trainer.train_dataset, columns)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = with_reference(trainer, scorer, trainer.eval_dataset, columns)


@torch.no_grad()
def with_reference(trainer: FastTrainer, scorer: Scorer, rows: Any, columns: Columns) -> HFDataset:
    """Return these rows with the columns that ``score_reference`` adds."""
    model: Any = trainer.model
    model.eval()  # without dropout
    size = trainer.args.per_device_eval_batch_size
    found: dict[str, list[float]] = {name: [] for name in columns}
    for at in range(0, len(rows), size):
        trainer.progress.run.check()
        some = rows[at : at + size]
        for name, (ids, labels) in columns.items():
            sequences = list(zip(some[ids], some[labels], strict=True))
            with trainer.compute_loss_context_manager():
                scored = scorer.log_probs(model, sequences)
            found[name] += [float(one.sum()) for one in scored]
    for name, values in found.items():
        rows = rows.add_column(name, values)
    return rows
