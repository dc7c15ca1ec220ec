"""Adapters on experts that are one tensor: trained, answered with and merged without a warning,
and of the same scale as the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.rows import chat_rows
from support.training import a_run, handle_of, train_run
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_gateway.backends.local import builtin
from finetune_gateway.backends.local.inference import LocalModel
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

SIZE = {
    "vocab_size": builtin.CONFIG["vocab_size"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
}  # fmt: skip


@pytest.fixture
def of_experts(tmp_path: Path, tiny_tokenizer: Path) -> Path:
    """A model folder: an untrained Qwen3-MoE with the tokenizer of ``builtin/tiny``."""
    folder = tmp_path / "experts"
    shutil.copytree(tiny_tokenizer, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model("qwen3_moe", **SIZE)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
    return folder


def test_an_adapter_of_experts_has_the_scale_of_the_others(home: Path, of_experts: Path) -> None:
    """A warning is an error here, and PEFT warns of the rank that it has set itself."""
    spec = TrainingSpec.build(
        model=str(of_experts), lora_r=4, lora_alpha=8, seed=3, batch_size=4, n_epochs=1
    )
    handle = handle_of(train_run(a_run(home, spec, chat_rows(8))))

    model = LocalModel.load(handle, Settings(home))

    adapted = model.model
    scales = {
        name.rpartition("layers.0.")[2]: module.scaling["default"]
        for name, module in adapted.named_modules()
        if "layers.0." in name and isinstance(getattr(module, "lora_alpha", None), dict)
    }
    assert {"mlp.experts", "mlp.experts.base_layer", "self_attn.q_proj"} <= scales.keys()
    assert set(scales.values()) == {2.0}
    assert handle.merge(home / "whole").kind == "merged"  # of equal logits, or it raises
