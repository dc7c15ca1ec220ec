"""Sizes that are counted from a config.json, against those of models that transformers builds."""

from __future__ import annotations

import json
import tomllib
import warnings
from importlib import resources
from typing import Any

import pytest
import torch
from hypothesis import settings
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_gateway import TrainingSpec
from finetune_gateway.backends.local.configuration import lora_config
from finetune_gateway.estimation.model_config import OFF, shape_of
from finetune_gateway.estimation.model_shape import lora_parameters
from scripts.count_families import PUBLISHED, ratios_of, sizes_of

TABLE = tomllib.loads(
    resources.files("finetune_gateway.estimation").joinpath("families.toml").read_text("utf-8")
)
OFTEN = (
    *("llama", "qwen3", "qwen3_5", "gemma3_text", "falcon", "lfm2", "apertus", "arcee", "nemotron"),
    *("deepseek_v3", "gpt_oss", "olmo_hybrid"),
)
FAMILIES = (
    sorted({*TABLE["counted"]} - {*PUBLISHED})
    if settings.get_current_profile_name() == "deep"
    else OFTEN
)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_table_are_counted_right(family: str) -> None:
    assert family in TABLE["counted"]
    ratios = [*ratios_of(family)]
    assert ratios and all(one == pytest.approx(1, abs=OFF) for one in ratios)


@pytest.mark.parametrize("outer", ["gemma3", "llama4", "mistral3"])
def test_what_a_nested_config_leaves_out_is_its_class_s_default(outer: str) -> None:
    """transformers 4 saves of a nested config what differs from its class: of Gemma 3 of 4 billion
    no heads and no vocabulary."""
    config = AutoConfig.for_model(outer)
    config.text_config = type(config.text_config)()
    whole = json.loads(config.to_json_string())
    whole.pop("tie_word_embeddings", None)  # which goes before the text's
    text = {"model_type": config.text_config.model_type}
    kinds = {"layer_types": whole["text_config"].get("layer_types")}
    assert shape_of({**whole, "text_config": text | kinds}) == shape_of(whole)
    assert shape_of({**whole, "text_config": kinds}) == shape_of(whole)  # by the outer family
    assert TABLE["defaults"][text["model_type"]] == sizes_of(config.text_config)


def test_sizes_of_a_file_go_before_defaults_by_whatever_name() -> None:
    """The default of Qwen3-VL's experts has another name than its files have."""
    text = {"model_type": "qwen3_vl_moe_text", "num_experts": 128, "num_hidden_layers": 48}
    shape = shape_of({"model_type": "qwen3_vl_moe", "text_config": text})
    assert (shape.experts, shape.layers) == (128, 48)
    gemma = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    shape = shape_of({"model_type": "gemma3", "text_config": gemma})
    assert shape.parameters / 1e9 == pytest.approx(3.88, rel=0.001)  # without the tower's 0.42


SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "moe_intermediate_size": 32, "vocab_size": 200, "head_dim": 16,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1, "n_routed_experts": 4,
    "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen3", {}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2}),
        ("qwen2_moe", {"num_experts": 4, "shared_expert_intermediate_size": 32}),
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}),
        ("mixtral", {"num_local_experts": 4, "moe_intermediate_size": 96}),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("deepseek_v3", LATENT),
        ("deepseek_v2", {**LATENT, "q_lora_rank": None}),
        ("apertus", {}),
    ],
)
def test_adapters_are_those_that_peft_makes(family: str, more: dict[str, Any]) -> None:
    """Also of experts in one tensor, which PEFT adapts in some families."""
    config = AutoConfig.for_model(family, **{**SMALL, **more})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    shape = shape_of(json.loads(config.to_json_string()))
    spec = TrainingSpec(model="m", lora_r=4)
    with warnings.catch_warnings():
        # PEFT warns of a name that it has given itself.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern", RuntimeWarning)
        adapted = get_peft_model(model, lora_config(spec, model) or LoraConfig())
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert lora_parameters(shape, 4) == trained
