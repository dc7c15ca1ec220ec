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
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetune_gateway.tokens.chat_template import IGNORED

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]  # ids and labels, as in a row

# Positions that meet the head at once. With 32,768 tokens in bf16 on one core of a Zen 5, 1,024
# positions took 0.28 s in blocks of 64, 0.24 in 128, 0.30 in 256: a block should fit in the cache.
# A GPU wants larger products.
CPU_BLOCK, GPU_BLOCK = 128, 512
# In bf16 on a CPU a row is filled up to a multiple of it: oneDNN compiles its products for each
# shape that is new, and keeps them. 100 rows through a model of 1 million parameters then took 4.8
# CPU seconds instead of 6.8, and 440 MB less.
LENGTHS = 32
# The names that configs have for a factor of the logits; Granite and MiniCPM3 divide by theirs.
FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISOR, MULTIPLIES = "logits_scaling", ("hyperclovax",)
# The largest difference to the model's own logits that rounding explains, in nats; at least two
# steps of the largest logit. Its own product has another shape, for which a GPU may add in another
# order: in bf16 a logit of 30 is then 0.125 off, and so may be the largest one.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Head:
    """The last layer of a model: logits = cap * tanh(scale * (hidden @ weight.T + bias) / cap).

    ``module`` alone, where the layer is more than a weight (adapted by LoRA, quantised).
    """

    module: nn.Module
    weight: Tensor | None  # (vocabulary, hidden)
    bias: Tensor | None
    scale: float
    cap: float | None

    @classmethod
    def of(cls, model: Any) -> Head:
        config = model.config.get_text_config()
        scale = next((s for name in FACTORS if (s := getattr(config, name, None)) is not None), 1.0)
        if (divisor := getattr(config, DIVISOR, None)) is not None:
            scale = divisor if config.model_type in MULTIPLIES else 1 / divisor
        cap = getattr(config, "final_logit_softcapping", None)
        module = active(model.get_output_embeddings())
        plain = type(module) is nn.Linear and not module._forward_hooks
        weight = module.weight if plain else None
        return cls(module, weight, module.bias if plain else None, float(scale), cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (n, vocabulary) of hidden states (n, hidden)."""
        return transformed(self.module(hidden), self.scale, self.cap)


def active(module: Any) -> Any:
    """Return what a layer of ``modules_to_save`` does now: its trained copy, or with adapters
    switched off the original."""
    if not isinstance(module, ModulesToSaveWrapper):
        return module
    if module.disable_adapters or not module.active_adapters:
        return module.original_module
    return module.modules_to_save[module.active_adapters[0]]


def transformed(logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """Return logits as the model gives them; exactly those given where there is nothing to do."""
    if scale != 1.0:
        logits = logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


class LogProbs(torch.autograd.Function):
    """log p(target) of each position from its hidden state; (n,) in fp32, or their sum (). Beside
    it how many targets are the likeliest token, (), without a gradient.

    With z the logits and p = softmax(z): d log p(t) / dz = onehot(t) - p. So the gradient by the
    hidden state is weight[t] - p @ weight, and by the weight (onehot(t) - p).T @ hidden. The matrix
    products are those of the layer itself, in its dtype; the softmax is in fp32.

    The rows of the first are kept and multiplied by what comes from above. The second is as large
    as the weight: in the sum every position counts alike, so it is added up in the same pass; for
    positions that count differently (pairs) it needs what comes from above, and logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (n, hidden)
        weight: Tensor,  # (vocabulary, hidden), of the same dtype
        bias: Tensor | None,
        targets: Tensor,  # (n,)
        scale: float,
        cap: float | None,
        summed: bool,
    ) -> tuple[Tensor, Tensor]:
        by_hidden, by_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        ctx.summed, ctx.scale, ctx.cap = summed, scale, cap
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        rows = torch.empty_like(hidden) if by_hidden else None
        right = torch.zeros((), dtype=torch.long, device=hidden.device)
        total = WeightGradient(weight, bias) if by_weight and summed else None
        for at in blocks(hidden):
            block = Block.of(hidden[at], weight, bias, targets[at], scale, cap)
            found[at] = block.log_probs
            right += block.right
            if rows is None and total is None:
                continue
            block.differentiate()
            if rows is not None:
                rows[at] = block.by_hidden(weight)
            if total is not None:
                total.add(block, hidden[at], None)
        kept = [] if summed or not by_weight else [hidden, weight, targets]
        kept += [] if bias is None or not kept else [bias]
        ctx.total = total
        ctx.save_for_backward(rows, *kept)
        ctx.mark_non_differentiable(right)
        return found.sum() if summed else found, right

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        rows, *kept = ctx.saved_tensors
        by_hidden = by_weight = by_bias = None
        if rows is not None:
            by_hidden = rows * (upstream if ctx.summed else upstream[:, None]).to(rows.dtype)
        total = ctx.total
        if kept:
            hidden, weight, targets, *rest = kept
            bias = rest[0] if rest else None
            total = WeightGradient(weight, bias)
            for at in blocks(hidden):
                block = Block.of(hidden[at], weight, bias, targets[at], ctx.scale, ctx.cap)
                block.differentiate()
                total.add(block, hidden[at], upstream[at])
        if total is not None:
            by_weight, by_bias = total.result(upstream if ctx.summed else None)
        return by_hidden, by_weight, by_bias, None, None, None, None


def blocks(hidden: Tensor) -> list[slice]:
    size = CPU_BLOCK if hidden.device.type == "cpu" else GPU_BLOCK
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


@dataclass
class Block:
    """The logits of a block of positions, until its gradient is taken.

    ``powers`` = exp(z - max) is never divided by its sum: the quotient is taken of the products
    (n, hidden), which are smaller by far.
    """

    raw: Tensor | None  # (n, vocabulary): logits before they are capped, where they are
    powers: Tensor  # (n, vocabulary), fp32
    sums: Tensor  # (n, 1)
    targets: Tensor  # (n,)
    log_probs: Tensor  # (n,)
    right: Tensor  # (): targets that are the likeliest token
    scale: float
    cap: float | None
    dtype: torch.dtype
    slope: Tensor  # (n, 1): d z(target) / d (hidden @ weight.T)

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        cap: float | None,
    ) -> Block:
        raw = torch.nn.functional.linear(hidden, weight, bias)
        logits = transformed(raw, scale, cap)
        best = logits.amax(-1, keepdim=True).float()
        at_target = logits.gather(1, targets[:, None]).float()
        powers = (logits - best).exp_()  # best is fp32, so this is
        sums = powers.sum(-1, keepdim=True)
        log_probs = (at_target - best - sums.log()).squeeze(1)
        right = (at_target >= best).sum()
        slope = torch.full_like(sums, scale)
        capped = None if cap is None else raw
        return cls(capped, powers, sums, targets, log_probs, right, scale, cap, hidden.dtype, slope)

    def differentiate(self) -> None:
        """Turn ``powers`` into sums * p * dz/draw, in the dtype of the products."""
        if self.raw is not None and self.cap is not None:
            slopes = 1 - torch.tanh(self.raw.float() * self.scale / self.cap) ** 2
            self.powers *= slopes
            self.slope = self.slope * slopes.gather(1, self.targets[:, None])
        self.powers = self.powers.to(self.dtype)

    def by_hidden(self, weight: Tensor) -> Tensor:
        """Return d log p / d hidden, (n, hidden)."""
        expected = (self.powers @ weight).float() * (self.scale / self.sums)
        return weight[self.targets].float() * self.slope - expected


class WeightGradient:
    """The gradient of a head's weight (vocabulary, hidden) and bias, added up in fp32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.dtype = weight.dtype
        self.weight = torch.zeros_like(weight, dtype=torch.float32)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)

    def add(self, block: Block, hidden: Tensor, upstream: Tensor | None) -> None:
        """Add a block's; ``upstream`` (n,): how much each position counts, all 1 if None."""
        counts = block.slope if upstream is None else block.slope * upstream[:, None]
        shares = block.scale / block.sums
        shares = shares if upstream is None else shares * upstream[:, None]
        self.weight.index_add_(0, block.targets, hidden.float() * counts)
        self.weight -= block.powers.T @ (hidden.float() * shares).to(block.dtype)
        if self.bias is not None:
            self.bias.index_add_(0, block.targets, counts.squeeze(1))
            self.bias -= (block.powers.float() * shares).sum(0)

    def result(self, upstream: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return both gradients times ``upstream``, in the dtype of the weight."""
        if upstream is not None:
            self.weight *= upstream
        if upstream is not None and self.bias is not None:
            self.bias *= upstream
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return self.weight.to(self.dtype), bias


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

    def total(self, model: nn.Module, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Return the sum () of all log-probabilities, cheaper where the head is trained too, and
        how many of the tokens are the likeliest, ()."""
        hidden, targets, _ = self._hidden(model, sequences)
        return self._scored(model, hidden, targets, summed=True)

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
        model: nn.Module, hidden: Tensor, targets: Tensor, *, summed: bool
    ) -> tuple[Tensor, Tensor]:
        head = Head.of(causal(model))
        if head.weight is None:
            found, right = by_module(head, hidden, targets)
            return found.sum() if summed else found, right
        dtype = compute_dtype(hidden.device, head.weight.dtype)
        weight, bias = head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)
        given = (hidden.to(dtype), weight, bias, targets, head.scale, head.cap, summed)
        with uncast(hidden.device):
            scored: tuple[Tensor, Tensor] = LogProbs.apply(*given)
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
