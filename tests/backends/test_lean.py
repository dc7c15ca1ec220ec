"""Norms, gates and embeddings that keep less give what they gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_gateway.backends.local import lean
from finetune_gateway.backends.local.scoring import Scorer

# PEFT 0.21 asks transformers 5.23 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
}
# How many norms and gates of two blocks are replaced. Gemma's are others, its embedding too.
FAMILIES = {"qwen3": 11, "llama": 7, "olmo2": 11, "gemma2": 0}


def model_of(family: str, *, lora: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE)
    loader: Any = AutoModelForCausalLM
    model = loader.from_config(config).to(dtype)
    if not lora:
        return model.train()
    given = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, given).train()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def row() -> list[tuple[list[int], list[int]]]:
    ids = torch.randint(2, 160, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    return [([*ids, 0, 0], [-100, *ids[1:], 0, 0])]  # with tokens that the embedding leaves alone


def passed(model: Any, *, bf16: bool, share: float | None = None) -> dict[str, Any]:
    """The sum of log-probabilities, the bytes kept for the backward pass, and all gradients."""
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (at := tensor.untyped_storage().data_ptr()) not in own:
            kept[at] = tensor
        return tensor

    kept_of = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16), kept_of:
        total, _ = Scorer().total(model, row(), share)
    size = sum(one.untyped_storage().nbytes() for one in kept.values())
    loss: Any = total * (share or 1.0)
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return {"total": float(total.detach()), "bytes": size, "gradients": gradients}


def off(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest difference between gradients, relative to their size."""
    assert found["gradients"].keys() == wanted["gradients"].keys()
    return max(
        float((found["gradients"][name] - one).norm() / (one.norm() + 1e-6))
        for name, one in wanted["gradients"].items()
    )


@pytest.mark.parametrize(
    ("family", "lora"), [*((family, False) for family in FAMILIES), ("qwen3", True)]
)
def test_what_keeps_less_gives_the_same(family: str, lora: bool) -> None:
    """In fp32 the same log-probabilities bit for bit, and the same gradients except rounding."""
    wanted = passed(model_of(family, lora=lora), bf16=False)
    model = model_of(family, lora=lora)
    assert lean.slim(model, bf16=False) == FAMILIES[family] + (not lora and family != "gemma2")
    found = passed(model, bf16=False, share=-0.25)
    assert found["total"] == wanted["total"]
    scaled = {name: one * -0.25 for name, one in wanted["gradients"].items()}
    assert off(found, {"gradients": scaled}) < 1e-4


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_in_bf16_less_is_kept_at_the_same_precision(lora: bool) -> None:
    """Under autocast a row keeps less than two thirds, and gradients are as near to those of fp32
    as they were."""
    dtype = torch.bfloat16 if lora else torch.float32
    exact = passed(model_of("qwen3", lora=lora), bf16=False)
    before = passed(model_of("qwen3", lora=lora, dtype=dtype), bf16=True)
    model = model_of("qwen3", lora=lora, dtype=dtype)
    assert lean.slim(model, bf16=True)
    after = passed(model, bf16=True)
    assert after["total"] == before["total"]
    assert after["bytes"] < before["bytes"] * 2 / 3
    assert off(after, exact) < 1.2 * off(before, exact)


def test_a_share_that_does_not_come_is_an_error() -> None:
    """A gradient that was added for another loss than the one differentiated is no result."""
    total: Any = Scorer().total(model_of("qwen3"), row(), share=0.5)[0]
    with pytest.raises(ValueError, match="came from above"):
        total.backward()
