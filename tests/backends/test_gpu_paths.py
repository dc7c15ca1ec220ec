"""What only a GPU would show, as far as a machine without one can."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support.training import row_table
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from transformers.integrations import liger

from finetune_gateway.backends.local import precision
from finetune_gateway.backends.local.methods.sft import FastSFTTrainer
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.estimation.assumptions import TargetDevice
from finetune_gateway.estimation.gpus import NO_BFLOAT16, smallest
from finetune_gateway.estimation.local import estimate_local
from finetune_gateway.estimation.memory import Setup, float32_or_bfloat16, step_memory
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
    "vocab_size": 128_256, "tie_word_embeddings": True,
}  # fmt: skip
TOKENS = TokenStats(encoding="x", exact=True, rows=16, total=16 * 512, trained=4096, max=512,
                    median=512, lengths={512: 16})  # fmt: skip


@pytest.mark.parametrize(("generation", "wanted"), [(7, False), (8, True), (9, True)])
def test_emulated_bfloat16_is_none(
    monkeypatch: pytest.MonkeyPatch, generation: int, wanted: bool
) -> None:
    """torch calls bf16 supported on a T4 or a V100, where it is slower than fp32."""
    about = SimpleNamespace(major=generation)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert torch.cuda.is_bf16_supported()
    assert precision.gpu_has_bf16() is wanted
    spec = TrainingSpec(model="m")
    assert precision.bf16_of(spec, 10**9) is wanted
    assert precision.bf16_of(spec.model_copy(update={"bf16": False}), 10**9) is False


def test_estimates_of_gpus_without_bfloat16_are_in_float32() -> None:
    """So a base needs twice as much there, and the smallest GPU is one that holds it."""

    def parts(gpu: str) -> int:
        spec, target = TrainingSpec(model="m", batch_size=1), TargetDevice(gpu=gpu)
        found = estimate_local(spec, TOKENS, shape_of(SHAPE), target=target)
        assert found.memory_parts is not None
        return found.memory_parts.weights

    assert all(parts(gpu) == 4 * shape_of(SHAPE).parameters for gpu in NO_BFLOAT16)
    assert parts("A10") == 2 * shape_of(SHAPE).parameters
    assert smallest(12 * 2**30, 14 * 2**30) == "T4"
    assert smallest(12 * 2**30, 20 * 2**30) not in {*NO_BFLOAT16, None}


def test_float32_that_was_asked_for_stays() -> None:
    """Full training with bf16=false does not fall back to bf16 weights where memory lacks."""
    shape = shape_of(SHAPE)
    cases: list[tuple[Any, bool]] = [("auto", True), (False, False)]
    for given, changed in cases:
        spec = TrainingSpec.build(model="m", training_type="full", bf16=given)
        setup = Setup.of(spec, "gpu", shape)
        usable = step_memory(shape, setup, 1, 512).total - 1
        found = float32_or_bfloat16(shape, setup, 1, 512, usable)
        assert (found != setup) is changed


def test_fused_kernels_are_there_before_the_reference_is_scored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers applies Liger's when training begins: scores of the reference would be those of
    other kernels than the model's."""
    applied: list[tuple[Any, dict[str, bool]]] = []
    package: Any = ModuleType("liger_kernel.transformers")
    package._apply_liger_kernel_to_instance = lambda model, **given: applied.append((model, given))
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: True)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, vocab_size=32,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model, head = LlamaForCausalLM(config), {"fused_linear_cross_entropy": False}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", use_liger_kernel=True,
        liger_kernel_config=head,
    )  # fmt: skip
    rows = row_table({"input_ids": [[3, 4]], "labels": [[-100, 4]]})
    FastSFTTrainer(Scorer(), "nll", model=model, args=arguments, train_dataset=rows)
    assert applied == [(model, head)]
