"""Norms, gates and embeddings that keep less for the backward pass, on a CPU. Imports torch.

Written out in PyTorch, a norm keeps its input in fp32, the normed input and a copy for each layer
that reads it; a gated MLP keeps both factors, the gate's activation and their product. Here a norm
keeps its input and one number a row, and the MLP its two factors: what else the backward pass needs
is made again, which is no matrix product. On a GPU Liger's kernels do the same where they are
installed.

What is replaced is tried first: it must give what it gave before, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

NORMS = {"input_layernorm", "post_attention_layernorm"}  # of a block, where all feed linear layers
GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
TRIED_ROWS = 4


class RMSNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps), Zhang and Sennrich 2019 (1910.07467), eq. 4, for rows
    (..., size); in fp32 except the last product, which is in the dtypes given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return (weight * (wide * inverse).to(x.dtype)).to(dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        normed = x.float().mul_(inverse) if x.dtype != torch.float32 else x * inverse
        upstream = upstream.float()
        by_weight = by_x = None
        if ctx.needs_input_grad[1]:
            by_weight = (upstream * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            # d/dx of x * inverse: inverse * (g - normed * mean(g * normed)).
            scaled = upstream * weight
            share = (scaled * normed).mean(-1, keepdim=True)
            by_x = scaled.sub_(normed.mul_(share)).mul_(inverse).to(x.dtype)
        return by_x, by_weight, None, None


def normed(norm: Any, before_linear: bool, x: Tensor) -> Tensor:
    """Return what an RMSNorm of transformers gives. ``before_linear``: linear layers alone read it,
    so under autocast it is cast once, for all of them."""
    dtype = torch.promote_types(x.dtype, norm.weight.dtype)
    if before_linear and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    apply: Any = RMSNorm.apply
    found: Tensor = apply(x, norm.weight, norm.variance_epsilon, dtype)
    return found


class SiluProduct(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, 2002.05202, SwiGLU), which keeps its two factors."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        by_gate = torch.ops.aten.silu_backward(upstream * up, gate)
        return by_gate, upstream * nn.functional.silu(gate)


def gated(mlp: Any, x: Tensor) -> Tensor:
    """Return what a gated MLP gives; its last layer reads a product that is made again when the
    backward pass asks for it."""
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    apply: Any = SiluProduct.apply
    product: Tensor = apply(gate, up)
    at, gate, up = product.data_ptr(), gate.detach(), up.detach()

    def pack(kept: Tensor) -> Tensor | torch.Size:
        same = kept.data_ptr() == at and kept.numel() == gate.numel() and kept.is_contiguous()
        return kept.shape if same and kept.dtype == gate.dtype else kept

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        again: Tensor = nn.functional.silu(gate) * up
        return again.view(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        found: Tensor = mlp.down_proj(product)
    return found


class Embedded(torch.autograd.Function):
    """Rows of an embedding. Their gradient is added to those rows of the weight's ``grad``; PyTorch
    makes one as large as the weight for each forward pass, and adds that."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, ...]:
        [ids], weight = ctx.saved_tensors, ctx.weight
        if ctx.padding is not None:  # it is never trained here
            upstream = upstream.masked_fill((ids == ctx.padding).unsqueeze(-1), 0.0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids.flatten(), upstream.flatten(0, -2).to(weight.dtype))
        return None, None, None


def embedded(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    """Return what an embedding that is trained gives."""
    apply: Any = Embedded.apply
    found: Tensor = apply(embedding.weight, ids, embedding.padding_idx)
    return found


def slim(model: nn.Module, *, bf16: bool, recompute: bool = True) -> int:
    """Replace the norms and gates of a model's blocks that can be, and return how many were: those
    of Llama, Qwen, Mistral and their like. ``bf16``: training is under autocast, so an adapter
    need not have a copy of its input in fp32, which is rounded back at once. ``recompute``: no
    checkpointing makes all of a block again anyway."""
    found = 0
    for module, forward in _replacements(model):
        kept = recompute or not hasattr(module, "act_fn")
        if kept and _gives_the_same(module, forward):
            module.forward = forward
            found += 1
    if bf16:
        layers: list[Any] = [one for one in model.modules() if isinstance(one, BaseTunerLayer)]
        for layer in layers:
            layer.cast_input_dtype_enabled = False
    return found


def _replacements(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield modules that look as if they could be replaced, and their new forward pass."""
    blocks: list[Any] = list(model.modules())
    for block in blocks:
        norms = {name for name, one in block.named_children() if _is_norm(one)}
        for name, one in block.named_children():
            if _is_norm(one):
                yield one, partial(normed, one, norms == NORMS and name in NORMS)
        if all(hasattr(block, name) for name in GATED):
            yield block, partial(gated, block)
        if type(block) is nn.Embedding and block.weight.requires_grad:
            plain = block.max_norm is None and not block.sparse and not block.scale_grad_by_freq
            if plain and block.weight.dtype == torch.float32:
                yield block, partial(embedded, block)


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


@torch.no_grad()
def _gives_the_same(module: Any, forward: Any) -> bool:
    """Return whether a new forward pass gives bit for bit what the module does."""
    if isinstance(module, nn.Embedding):
        x = torch.arange(TRIED_ROWS)
    else:
        # A weight in 4 bits is packed: its shape is not that of the layer, its type no number's.
        weight = next(one for one in module.parameters() if one.is_floating_point())
        gate = getattr(module, "gate_proj", None)
        size = weight.shape[-1] if gate is None else gate.in_features
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(TRIED_ROWS, size, generator=drawn).to(weight.dtype)
    return torch.equal(module(x), forward(x))
