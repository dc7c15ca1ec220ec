"""What methods on preference pairs share: scores of both answers, steps, figures. Imports torch.

A row has two whole sequences, ``chosen_ids`` and ``rejected_ids``; its labels are where the two are
compared. Log-probabilities are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.step_plan import StepPlan
from finetune_gateway.backends.local.trainer import Row

SIDES = ("chosen", "rejected")
# Columns of the reference's sums, under TRL's names, and what each is about.
REFERENCE_COLUMNS = {f"ref_{side}_logps": (f"{side}_ids", f"{side}_labels") for side in SIDES}


def log_probs(scorer: Scorer, model: Any, rows: Sequence[Row]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the log-probabilities of the compared tokens, of the chosen answer of each row and of
    the rejected one.

    Without padding-free attention the two sequences of a single pair go through the model one after
    the other, so that nothing is padded.
    """
    sequences = [(row[f"{side}_ids"], row[f"{side}_labels"]) for side in SIDES for row in rows]
    if len(rows) == 1 and not scorer.padding_free:
        found = [one for pair in sequences for one in scorer.log_probs(model, [pair])]
    else:
        found = scorer.log_probs(model, sequences)
    return found[: len(rows)], found[len(rows) :]


def sums(found: Sequence[Tensor]) -> Tensor:
    """Return the log-probability of each answer, (n,)."""
    return torch.stack([one.sum() for one in found])


def counts(found: Sequence[Tensor]) -> Tensor:
    """Return how many tokens of each answer are compared, (n,)."""
    return torch.tensor([len(one) for one in found], device=found[0].device)


def figures(logps: Sequence[Tensor], rewards: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return TRL's figures of some pairs, each summed over them. Both arguments have the chosen
    answers' (n,) and the rejected ones'; rewards are what the method makes of log-probabilities."""
    chosen, rejected = (one.detach() for one in rewards)
    found = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": chosen > rejected,
        "rewards/margins": chosen - rejected,
        "logps/chosen": logps[0].detach(),
        "logps/rejected": logps[1].detach(),
    }
    return {name: value.sum() for name, value in found.items()}


def trained_rows(rows: RowTable, plan: StepPlan, seed: int) -> RowTable:
    """Return the rows that the steps of a plan come to: fewer than all only if ``max_steps`` ends
    the first epoch early. The rest need no reference."""
    needed = plan.steps * plan.batch
    if needed >= len(rows):
        return rows
    return rows.shuffled(seed, needed)
