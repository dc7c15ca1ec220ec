"""The head of a language model: log-probabilities of given tokens without the logits of all.

A block of positions meets the head at a time, and while its logits are there its gradient is taken
as well. Kept are numbers of size positions x hidden. Imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

# Positions that meet the head at once. With 32,768 tokens in bf16 on one core of a Zen 5, 1,024
# positions took 0.28 s in blocks of 64, 0.24 in 128, 0.30 in 256: a block should fit in the cache.
# A GPU wants larger products.
CPU_BLOCK, GPU_BLOCK = 128, 512
# In bf16 on a CPU a row, and a block of positions, is filled up to a multiple of it: oneDNN
# compiles its products for each shape that is new, and keeps them. 100 rows through a model of 1
# million parameters then took 4.8 CPU seconds instead of 6.8, and 440 MB less.
LENGTHS = 32
# Rows of a head whose gradient is made at once: a product in between is no larger.
VOCABULARY = 8192
# The names that configs have for a factor of the logits; Granite and MiniCPM3 divide by theirs.
FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISOR, MULTIPLIES = "logits_scaling", ("hyperclovax",)


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

    With ``into``, the ``grad`` of the layer itself, the sum's is added there in the forward pass,
    for a ``share`` that is known to come from above: then there is none beside it, as large as the
    weight, at the moment when all activations are there.
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
        into: WeightGradient | None = None,
        share: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        by_hidden, by_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        ctx.summed, ctx.scale, ctx.cap, ctx.share = summed, scale, cap, share
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        rows = torch.empty_like(hidden) if by_hidden else None
        right = torch.zeros((), dtype=torch.long, device=hidden.device)
        total = WeightGradient.of(weight, bias) if by_weight and summed else into
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
                total.add(block, 1.0 if share is None else share)
        kept = [] if summed or not by_weight else [hidden, weight, targets]
        kept += [] if bias is None or not kept else [bias]
        ctx.total = None if into else total
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
            total = WeightGradient.of(weight, bias)
            for at in blocks(hidden):
                block = Block.of(hidden[at], weight, bias, targets[at], ctx.scale, ctx.cap)
                block.differentiate()
                total.add(block, upstream[at, None])
        if ctx.share is not None and not math.isclose(float(upstream), ctx.share, rel_tol=1e-5):
            raise ValueError(f"{float(upstream)} came from above, and {ctx.share} was counted with")
        if total is not None:
            by_weight, by_bias = total.result(upstream if ctx.summed else None)
        return by_hidden, by_weight, by_bias, *[None] * 6


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
    hidden: Tensor  # (n, hidden)
    slope: Tensor  # (n, 1): d z(target) / d (hidden @ weight.T)
    positions: int  # of the n; the rest fills the block up, and counts nothing

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
        positions = len(targets)
        more = -positions % LENGTHS if hidden.dtype == torch.bfloat16 and not hidden.is_cuda else 0
        hidden = torch.nn.functional.pad(hidden, (0, 0, 0, more)) if more else hidden
        targets = torch.nn.functional.pad(targets, (0, more)) if more else targets
        raw = torch.nn.functional.linear(hidden, weight, bias)
        logits = transformed(raw, scale, cap)
        best = logits.amax(-1, keepdim=True).float()
        at_target = logits.gather(1, targets[:, None]).float()
        capped = None if cap is None else raw
        powers = logits.to(torch.float32, copy=True).sub_(best).exp_()
        sums = powers.sum(-1, keepdim=True)
        log_probs = (at_target - best - sums.log()).squeeze(1)
        right = (at_target >= best)[:positions].sum()
        slope = torch.full_like(sums, scale)
        return cls(
            capped, powers, sums, targets, log_probs[:positions], right,
            scale, cap, hidden, slope, positions,
        )  # fmt: skip

    def differentiate(self) -> None:
        """Turn ``powers`` into sums * p * dz/draw, in the dtype of the products."""
        if self.raw is not None and self.cap is not None:
            slopes = 1 - torch.tanh(self.raw.float() * self.scale / self.cap) ** 2
            self.powers *= slopes
            self.slope = self.slope * slopes.gather(1, self.targets[:, None])
        self.powers = self.powers.to(self.hidden.dtype)

    def by_hidden(self, weight: Tensor) -> Tensor:
        """Return d log p / d hidden, (positions, hidden)."""
        expected = (self.powers @ weight).float() * (self.scale / self.sums)
        found = weight[self.targets].float() * self.slope - expected
        return found[: self.positions]


@dataclass(frozen=True, eq=False)
class WeightGradient:
    """The gradient of a head's weight (vocabulary, hidden) and bias, added up in fp32."""

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> WeightGradient:
        """Return a new one, of zeros."""
        zeros = [
            None if one is None else torch.zeros_like(one, dtype=torch.float32)
            for one in (weight, bias)
        ]
        assert zeros[0] is not None  # for the type checker
        return cls(zeros[0], zeros[1], weight.dtype)

    @classmethod
    def within(cls, head: Head) -> WeightGradient | None:
        """Return that which the head's own parameters keep in ``grad``, for a head whose layer is
        trained in fp32 on a CPU; None for any other, or where no gradient is taken."""
        own = [one for one in (head.weight, head.bias) if one is not None]
        trained = all(one.is_leaf and one.requires_grad for one in own)
        wide = all(one.dtype == torch.float32 and one.device.type == "cpu" for one in own)
        if not own or not trained or not wide or not torch.is_grad_enabled():
            return None
        for one in own:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        weight, *bias = (one.grad for one in own if one.grad is not None)
        return cls(weight, bias[0] if bias else None, weight.dtype)

    def add(self, block: Block, upstream: Tensor | float) -> None:
        """Add a block's; ``upstream``: how much each position (n, 1) counts, or all of them."""
        if isinstance(upstream, Tensor):
            upstream = torch.nn.functional.pad(upstream, (0, 0, 0, len(block.sums) - len(upstream)))
        counts, shares = block.slope * upstream, block.scale / block.sums * upstream
        wide, count = block.hidden.float(), block.positions
        self.weight.index_add_(0, block.targets, wide * counts)
        scaled = (wide * shares).to(block.hidden.dtype)
        for start in range(0, len(self.weight), VOCABULARY):
            some = slice(start, start + VOCABULARY)
            self.weight[some] -= block.powers[:, some].T @ scaled
        if self.bias is not None:
            self.bias.index_add_(0, block.targets[:count], counts[:count, 0])
            self.bias.sub_((block.powers.float() * shares)[:count].sum(0))

    def result(self, upstream: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return both gradients times ``upstream``, in the dtype of the weight."""
        if upstream is not None:
            self.weight.mul_(upstream)
        if upstream is not None and self.bias is not None:
            self.bias.mul_(upstream)
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return self.weight.to(self.dtype), bias
