"""Sizes that are counted from a config.json, against those of models that transformers builds."""

from __future__ import annotations

import json
import tomllib
from importlib import resources

import pytest
from hypothesis import settings
from transformers import AutoConfig

from finetune_gateway.estimation.model_config import OFF, shape_of
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
