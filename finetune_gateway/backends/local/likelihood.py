"""How unlikely a local model finds given answers, by the labels of training. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from finetune_gateway.backends.local.batched import Using, run_in_batches
from finetune_gateway.chat import check_messages
from finetune_gateway.errors import DataError, SpecError, shown
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate


@dataclass(frozen=True, eq=False)
class Answered:
    """A conversation with the answer that is judged. ``labels[i]``: of ``ids[i]``."""

    index: int  # among all that were given
    ids: list[int]
    labels: list[int]

    @property
    def length(self) -> int:
        return len(self.ids)


def encoded(
    template: ChatTemplate, index: int, row: Mapping[str, Any], most: int | None
) -> Answered:
    """Return a row as training on its reference alone would encode it. Raises SpecError, and
    DataError if the template refuses it."""
    given = row.get("reference") or {}
    if not isinstance(given, Mapping):
        raise SpecError(f"The reference is no message of an assistant: {shown(given)}.")
    reference = {**given, "weight": 1}
    if reference.setdefault("role", "assistant") != "assistant":
        raise SpecError("The reference is no message of an assistant.")
    check_messages([*row["messages"], reference])
    whole = {"messages": [*row["messages"], reference], "tools": row.get("tools")}
    [sequence] = template.encode(whole, train_on="last_assistant")
    if not sequence.trained:
        raise DataError("The reference has no token to train.")
    if most and len(sequence.input_ids) > most:
        raise SpecError(
            f"The conversation and its reference have {len(sequence.input_ids):,} tokens; this "
            f"model reads at most {most:,}."
        )
    return Answered(index, sequence.input_ids, sequence.labels)


def losses_of(using: Using, rows: Sequence[Answered]) -> dict[int, float]:
    """Return the mean negative log-likelihood of each row's labels, in nats, by its index."""
    found: dict[int, float] = {}
    run_in_batches(using, rows, lambda model, batch: found.update(_losses(model, batch)))
    return found


def _losses(model: PreTrainedModel, batch: list[Answered]) -> dict[int, float]:
    """Return the losses of a batch, padded on the right as in training."""
    width = max(row.length for row in batch)
    ids = [row.ids + row.ids[-1:] * (width - row.length) for row in batch]
    mask = [[1] * row.length + [0] * (width - row.length) for row in batch]
    # A token is foreseen at the position before it. Logits of other positions are not made.
    before = [[at - 1 for at, one in enumerate(row.labels) if one != IGNORED] for row in batch]
    keep = sorted({at for positions in before for at in positions})
    place = {at: number for number, at in enumerate(keep)}
    device = model.device
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(keep, device=device),
        ).logits
    found = {}
    for number, row in enumerate(batch):
        said = logits[number, [place[at] for at in before[number]]].float()
        wanted = torch.tensor([row.ids[at + 1] for at in before[number]], device=device)
        found[row.index] = float(cross_entropy(said, wanted))
    return found
