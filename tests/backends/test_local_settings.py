"""Settings that libraries name are honoured, or refused before a job exists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows
from support.training import a_run, train_run

from finetune_gateway import Gateway, GatewayError, LocalBackend, SpecError
from finetune_gateway.backends.local import supported
from finetune_gateway.backends.local.run import Run
from finetune_gateway.estimation.engine import OF_BITSANDBYTES, PAGED
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.self_attn.{name}.weight" for n in (0, 1) for name in ("q_proj", "v_proj")),
    "model.layers.0.mlp.up_proj.weight",
]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"optim": "adamw"}, "optim 'adamw' is no optimizer"),
        ({"optim": "galore_adamw"}, "Use one of: adamw_torch_fused, adamw_torch"),
        ({"optim": "paged_adamw_8bit"}, "this job runs on the CPU. Use adamw_8bit."),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "is no schedule that is used here"),
        ({"lr_scheduler_type": "wavy"}, "Use one of: linear, cosine"),
        ({"target_modules": ["q_proj", "c_attn"]}, "target_modules names 'c_attn'"),
        ({"target_modules": ".*c_proj"}, "target_modules names '.*c_proj'"),
        ({"target_modules": "(q_proj"}, "is no regular expression"),
        ({"modules_to_save": ["wte"]}, "modules_to_save names 'wte'"),
        ({"target_modules": []}, "target_modules is empty"),
        ({"target_modules": ["q_proj", "norm"]}, "a norm can have no adapter"),
        ({"target_modules": ".*layernorm"}, "a norm can have no adapter"),
        (
            {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["up_proj"]},
            "both name model.layers.0.mlp.up_proj",
        ),
        ({"target_modules": ["embed_tokens"]}, "the embedding and the head of this model share"),
        ({"target_modules": ["lm_head"]}, "the embedding and the head of this model share"),
    ],
)
def test_a_setting_that_cannot_be_honoured_makes_no_job(
    home: Path, tiny_folder: Path, given: dict[str, Any], reason: str
) -> None:
    """Nor an estimate: what is refused has no price."""
    gateway = Gateway()
    for asked in (gateway.submit, gateway.estimate):
        with pytest.raises(SpecError) as caught:
            asked(chat_rows(10), model=str(tiny_folder), backend="local", **given)
        assert reason in str(caught.value)
    assert not gateway.jobs()


def test_a_base_that_is_refused_has_no_price(home: Path, tmp_path: Path) -> None:
    """As gpt-oss is stored, for QLoRA: by the gateway, and by the backend for a GPU by name."""
    config = {
        "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201_088,
        "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4,
        "quantization_config": {"quant_method": "mxfp4"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    backend = LocalBackend(gpu="H200")
    spec = TrainingSpec.build(model=str(tmp_path), training_type="qlora")
    counted = TokenStats(encoding="x", exact=True, rows=1, total=9, trained=9, lengths={9: 1})
    with pytest.raises(SpecError, match="stored quantised .mxfp4.*cannot be trained by qlora"):
        backend.estimate(spec, counted)
    with pytest.raises(SpecError, match="cannot be trained by qlora"):
        Gateway().estimate(
            chat_rows(10), model=str(tmp_path), backend=backend, training_type="qlora"
        )


@pytest.mark.parametrize(
    "given",
    [
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": r".*layers\.1\..*(q|v)_proj"},
        {"target_modules": "all-linear", "modules_to_save": ["lm_head", "embed_tokens"]},
    ],
)
def test_modules_are_named_as_peft_reads_them(given: dict[str, Any]) -> None:
    supported.require_modules(TrainingSpec.build(model="m", **given), TENSORS)


def test_an_adapter_that_does_not_fit_is_named_in_words(home: Path, tiny_folder: Path) -> None:
    """Where submit could not see it, as there were no weights yet, the job ends in words."""
    spec = TrainingSpec.build(model=str(tiny_folder), target_modules=["norm"], max_steps=1)
    with pytest.raises(GatewayError, match="cannot have such an adapter: Target module LlamaRMS"):
        train_run(a_run(home, spec, chat_rows(2)))


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True")
@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers:UserWarning")
def test_an_adapter_that_merging_would_ruin_is_not_merged(home: Path, tiny_folder: Path) -> None:
    """On a head that is the embedding too: full training would begin at a loss of 80."""
    given: dict[str, Any] = {"max_steps": 1, "learning_rate": 0.05}
    spec = TrainingSpec.build(model=str(tiny_folder), target_modules=["lm_head"], **given)
    first = train_run(a_run(home, spec, chat_rows(2)))
    on = TrainingSpec.build(model="any", continue_from=first.id, training_type="full", max_steps=1)
    with pytest.raises(GatewayError, match="cannot be merged: the embedding and the head"):
        train_run(a_run(home, on, chat_rows(2)))


def test_the_names_are_those_of_transformers() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    optimizers = {*supported.OF_TORCH, *OF_BITSANDBYTES, *PAGED}
    assert optimizers <= {one.value for one in OptimizerNames}
    assert set(supported.SCHEDULES) <= {one.value for one in SchedulerType}


def weights(run: Run) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.model / "adapter_model.safetensors")


def test_adapters_are_as_the_spec_says(train: Callable[..., Run]) -> None:
    """DoRA has a magnitude, rsLoRA its scale, and what is saved whole lies beside; the learning
    rate of SGD and the clipping show in the weights."""
    run = train(
        4, use_dora=True, use_rslora=True, modules_to_save=["lm_head"], optim="sgd", max_steps=1
    )
    config = json.loads((run.model / "adapter_config.json").read_text())
    assert config["use_dora"] and config["use_rslora"]
    assert config["modules_to_save"] == ["model.embed_tokens"]  # whose weight this head has
    found = weights(run)
    assert any("lora_magnitude_vector" in name for name in found)
    assert any(name.endswith("embed_tokens.weight") for name in found)


def test_gradients_are_clipped_to_the_norm(train: Callable[..., Run]) -> None:
    """One step of SGD moves the weights by the rate times the gradient, at most its norm."""
    given = {"optim": "sgd", "max_steps": 1, "learning_rate": 1.0, "warmup_ratio": 0.0}
    moved = [
        sum(float((tensor**2).sum()) for name, tensor in weights(run).items() if "lora_B" in name)
        for run in (train(4, **given, max_grad_norm=norm) for norm in (1e-3, 0.0))
    ]
    assert moved[0] ** 0.5 <= 1e-3 + 1e-6 < moved[1] ** 0.5


@pytest.mark.chaos
@pytest.mark.parametrize("optim", [*supported.OF_TORCH, *OF_BITSANDBYTES])
def test_every_optimizer_trains(train: Callable[..., Run], optim: str) -> None:
    run = train(4, optim=optim, max_steps=2)
    assert any(float(tensor.abs().sum()) for name, tensor in weights(run).items() if "B" in name)


@pytest.mark.chaos
@pytest.mark.parametrize("name", supported.SCHEDULES)
def test_every_schedule_trains(train: Callable[..., Run], name: str) -> None:
    train(4, lr_scheduler_type=name, max_steps=4)
