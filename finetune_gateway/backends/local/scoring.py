"""Log-probabilities of trained tokens: the head of a language model without its logits.

A plain loss scores every position, padding and prompt too, and keeps logits of size positions x
vocabulary for the backward pass: most of the memory and half of the time of a small model. Here
only trained positions meet the head, a block at a time, and while a block's logits are there its
gradient is taken as well. Kept are numbers of size positions x hidden.

Every loss over tokens (sft, pretrain, dpo, orpo, kto) is a function of these log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetune_gateway.backends.local.head import LENGTHS, Head, LogProbs, WeightGradient, blocks
from finetune_gateway.tokens.chat_template import IGNORED

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]  # ids and labels, as in a row

# The largest difference to the model's own logits that rounding explains, in nats; at least two
# steps of the largest logit. Its own product has another shape, for which a GPU may add in another
# order: in bf16 a logit of 30 is then 0.125 off, and so may be the largest one.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Scorer:
    """Scores sequences with a causal model, wrapped by PEFT or not.

    One sequence is one forward pass without a mask. Several are laid one behind the other without
    padding where the attention keeps them apart by their positions (``padding_free``: flash or flex
    attention), else padded on the right.
    """

    padding_free: bool = False

    def log_probs(self, model: nn.Module, sequences: Sequences) -> list[Tensor]:
        """Return for each sequence the log-probabilities (fp32) of its trained tokens, in order.

        A token is foreseen at the position before it, so the first is never trained.
        """
        return self.each(model, sequences)[0]

    def each(self, model: nn.Module, sequences: Sequences) -> tuple[list[Tensor], Tensor]:
        """Return the same, and how many of the tokens are the likeliest, ()."""
        hidden, targets, counts = self._hidden(model, sequences)
        found, right = self._scored(model, hidden, targets, summed=False)
        return list(torch.split(found, counts)), right

    def total(
        self, model: nn.Module, sequences: Sequences, share: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the sum () of all log-probabilities, cheaper where the head is trained too, and
        how many of the tokens are the likeliest, ().

        ``share``: the gradient that ``backward`` will come with. Where it is known, that of the
        head's weight is added to its ``grad`` in this call already, where that saves memory.
        """
        hidden, targets, _ = self._hidden(model, sequences)
        return self._scored(model, hidden, targets, summed=True, share=share)

    def difference(self, model: nn.Module, sequences: Sequences) -> tuple[float, float]:
        """Return the largest difference, in nats, to what the model's own logits say, and the
        largest of these.

        To be asked of a short row before training: a model may do more with its hidden states than
        its config says.
        """
        worst, largest, training = 0.0, 0.0, model.training
        model.eval()  # without dropout
        with torch.no_grad():
            scored = self.log_probs(model, sequences)
            for (ids, labels), found in zip(sequences, scored, strict=True):
                inputs = torch.tensor([list(ids)], device=found.device)
                logits = causal(model)(input_ids=inputs, use_cache=False).logits[0, :-1].float()
                largest = max(largest, float(logits.abs().max()))
                wanted = torch.tensor(labels[1:], device=found.device)
                trained = wanted != IGNORED
                own = logits[trained].log_softmax(-1).gather(1, wanted[trained][:, None])[:, 0]
                worst = max(worst, *(own - found).abs().tolist())
        model.train(training)
        return worst, largest

    def refusal(self, model: nn.Module, sequences: Sequences) -> str:
        """Return why this model cannot be scored here; an empty string if it can."""
        within = causal(model)
        config = within.config.get_text_config()
        if getattr(config, "output_router_logits", False):
            return "its experts are balanced by a loss of their own (output_router_logits)"
        if within.base_model is within or within.get_output_embeddings() is None:
            return f"{type(within).__name__} has no body and head of their own"
        dtype = compute_dtype(within.device, within.dtype)
        worst, largest = self.difference(model, sequences)
        if not worst <= max(TOLERANCE.get(dtype, 0.1), 2 * largest * torch.finfo(dtype).eps):
            return (
                f"its own logits say otherwise: log-probabilities differ by up to {worst:.2g} nats"
            )
        return ""

    def _hidden(self, model: nn.Module, sequences: Sequences) -> tuple[Tensor, Tensor, list[int]]:
        """Return the hidden states (n, hidden) before all trained tokens, those tokens (n,), and
        how many each sequence has."""
        body = causal(model).base_model
        device = body.device
        lengths = [len(ids) for ids, _ in sequences]
        flat = self.padding_free and len(sequences) > 1
        width = 0 if flat else max(lengths)
        starts = [sum(lengths[:n]) if flat else n * width for n in range(len(sequences))]
        before, wanted, counts = [], [], []
        for start, (ids, labels) in zip(starts, sequences, strict=True):
            trained = [at for at in range(1, len(ids)) if labels[at] != IGNORED]
            before += [start + at - 1 for at in trained]
            wanted += [labels[at] for at in trained]
            counts.append(len(trained))
        rows = [list(ids) for ids, _ in sequences]
        inputs = {
            name: torch.tensor(value, device=device)
            for name, value in batch(rows, flat, multiple_of(body, max(lengths))).items()
        }
        states = body(**inputs, use_cache=False).last_hidden_state
        chosen = states.flatten(0, 1)[torch.tensor(before, dtype=torch.long, device=states.device)]
        return chosen, torch.tensor(wanted, dtype=torch.long, device=states.device), counts

    @staticmethod
    def _scored(
        model: nn.Module,
        hidden: Tensor,
        targets: Tensor,
        *,
        summed: bool,
        share: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        head = Head.of(causal(model))
        if head.weight is None:
            found, right = by_module(head, hidden, targets)
            return found.sum() if summed else found, right
        dtype = compute_dtype(hidden.device, head.weight.dtype)
        into = None if share is None else WeightGradient.within(head)
        weight, bias = head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)
        if into is not None:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        given = (hidden.to(dtype), weight, bias, targets, head.scale, head.cap, summed)
        with uncast(hidden.device):
            scored: tuple[Tensor, Tensor] = LogProbs.apply(
                *given, into, None if into is None else share
            )
        return scored


def batch(ids: list[list[int]], flat: bool, multiple: int = 1) -> dict[str, list[list[int]]]:
    """Return the inputs of a forward pass over whole sequences; one alone is filled up to a
    ``multiple``."""
    if len(ids) == 1:
        [row] = ids  # what follows a row is not seen by it
        return {"input_ids": [row + row[-1:] * (-len(row) % multiple)]}
    if flat:
        # transformers tells sequences apart by positions that begin again.
        positions = [at for row in ids for at in range(len(row))]
        return {"input_ids": [[one for row in ids for one in row]], "position_ids": [positions]}
    width = max(map(len, ids))
    return {
        "input_ids": [row + row[-1:] * (width - len(row)) for row in ids],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in ids],
    }


def multiple_of(body: Any, length: int) -> int:
    """Return of what the length of a row alone should be a multiple: 1 outside bf16 on a CPU, and
    where the model has no position left."""
    half = compute_dtype(body.device, body.dtype) == torch.bfloat16
    if body.device.type != "cpu" or not half:
        return 1
    context = getattr(body.config.get_text_config(), "max_position_embeddings", None)
    return 1 if context and length + LENGTHS > context else LENGTHS


def by_module(head: Head, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (n,), and how many targets are the likeliest token, by the layer
    itself, whatever it is; the logits of a block are computed again in the backward pass."""

    def score(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = head.logits(states).float()
        found = -torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        return found, (logits.detach().argmax(-1) == wanted).sum()

    found = [hidden[:0].sum(-1).float()]  # part of the graph, also if there are no targets
    right = torch.zeros((), dtype=torch.long, device=hidden.device)
    for at in blocks(hidden):
        one, likeliest = checkpoint(score, hidden[at], targets[at], use_reentrant=False)
        found.append(one)
        right += likeliest
    return torch.cat(found), right


def causal(model: nn.Module) -> Any:
    """Return the causal model inside: of PEFT's wrapper, and of what accelerate puts around."""
    model = getattr(model, "module", model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of matrix products here: autocast's, else the given one of the weight."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off, where every dtype is chosen already."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
