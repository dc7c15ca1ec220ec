"""Every method, each kind of training, on real rows: it learns, plain transformers and PEFT load
what was saved and compute what the trained model computed, and the handle answers or scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from support.method_rows import FILES, real_rows
from support.plain_models import four_bits
from support.training import (
    a_run,
    handle_of,
    losses_of,
    metrics_of,
    train_run,
    trained_weights,
)

from finetune_gateway.backends.local.run import Run
from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.shared,
    # Of transformers 5.23 and TRL 1.16, about each other.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

EPOCHS, BATCHES = 5, 3
IDS = [*range(20, 60)]  # any tokens
RATES = {"lora": 2e-3, "qlora": 2e-3, "full": 3e-4}
TRAINABLE = [name for name, method in METHODS.items() if method.trainer]
# Of each method with an adapter: what else its settings do to the model or to the steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "modules_to_save": {"modules_to_save": ["embed_tokens"]},
    "checkpointing": {"gradient_checkpointing": True},
    "trl": {"engine": "trl", "micro_batch_size": 4},
    "micro_batch": {"micro_batch_size": 4, "gradient_accumulation_steps": 2},
    "adafactor": {"optim": "adafactor"},
    "lion_8bit": {"optim": "lion_8bit", "learning_rate": 2e-4},
    "sgd": {"optim": "sgd", "learning_rate": 0.2},
    "bf16": {"bf16": True},
}
# Not the loss dft: -p log p of a model that has learned nothing rises at first.
OF_ONE: dict[str, dict[str, Any]] = {
    "sft packing": {"packing": True, "batch_size": 1, "max_length": 512},
    "sft packing trl": {"packing": True, "batch_size": 1, "max_length": 512, "engine": "trl"},
    "sft norms": {"modules_to_save": ["norm"]},
    "dpo aot": {"loss_type": "aot"},
    "kto apo": {"loss_type": "apo_zero_unpaired"},
}


def in_memory(model: Any) -> Any:
    """The logits of some tokens, or the score."""
    import torch

    training = model.training
    with torch.inference_mode():
        found = model.eval()(torch.tensor([IDS])).logits[0].float().clone()
    model.train(training)
    return found


def plain(run: Run) -> Any:
    """The same by transformers and PEFT alone, on the base in the precision of the training."""
    import torch
    from peft import PeftModel
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    kind = run.spec.training_type
    scores = run.spec.method == "reward"
    load: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    given: dict[str, Any] = {"dtype": torch.float32, **({"num_labels": 1} if scores else {})}
    if kind == "full":
        return in_memory(load.from_pretrained(run.model, **given))
    if kind == "qlora":
        given["quantization_config"] = four_bits()
    base = load.from_pretrained(run.spec.model, **given)
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # else bitsandbytes computes in bf16
            module.support_avx512bf16_for_cpu = False
    with warnings.catch_warnings():  # peft 0.21 reads what transformers 5.23 has renamed
        warnings.simplefilter("ignore", FutureWarning)
        return in_memory(PeftModel.from_pretrained(base, str(run.model)))


Train = Callable[..., tuple[Run, Any]]


@pytest.fixture
def train(home: Path, tiny_folder: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """``train(method, kind, **options)``: a run on real rows, the last step of which is saved, and
    the logits of its model in memory at that moment."""
    from finetune_gateway.backends.local import finishing

    memory: list[Any] = []
    save = finishing.save

    def looked_at(run: Run, trainer: Any, *rest: Any) -> None:
        memory.append(in_memory(trainer.model))
        save(run, trainer, *rest)

    monkeypatch.setattr(finishing, "save", looked_at)

    def trained(method: Any, kind: Any, **options: Any) -> tuple[Run, Any]:
        rows = real_rows(shared, method, 30)
        given: dict[str, Any] = {
            "seed": 3,
            "batch_size": 8,
            "n_epochs": EPOCHS,
            "logging_steps": 1,
            "max_length": 256,
            "learning_rate": RATES[kind],
            "bf16": False,
            "load_best_model_at_end": False,
            **({} if kind == "full" else {"lora_r": 4}),
            **options,
        }
        spec = TrainingSpec.build(
            model=str(tiny_folder), method=method, training_type=kind, **given
        )
        run = train_run(a_run(home, spec, rows[: 8 * BATCHES], validation=rows[8 * BATCHES :]))
        return run, memory.pop()

    return trained


def check(run: Run, memory: Any, what: str) -> None:
    """Hold the result of a run against all that is promised, and print its figures."""
    losses = losses_of(run)
    held_out = [one["valid_loss"] for one in metrics_of(run) if "valid_loss" in one]
    epoch = max(1, len(losses) // EPOCHS)
    first, last = fmean(losses[:epoch]), fmean(losses[-epoch:])
    apart = float((plain(run) - memory).abs().max())
    handle = handle_of(run)
    if run.spec.method == "reward":
        answer = handle.score(
            [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        )
        assert isinstance(answer, float)
    elif run.spec.method == "pretrain":
        assert handle.complete("The air", max_tokens=4).usage.completion_tokens > 0
    else:
        assert handle.chat("Why?", max_tokens=4).usage.completion_tokens > 0
    print(
        f"\n{what}: loss of an epoch {first:.4f} -> {last:.4f}, held out {held_out[0]:.4f} -> "
        f"{held_out[-1]:.4f}, plain logits differ by at most {apart:.1e}"
    )
    assert last < first
    assert apart < (1e-4 if run.spec.bf16 is False else 0.05)  # a bf16 base rounds its logits
    if run.spec.training_type != "full":
        assert {str(one.dtype) for one in trained_weights(run).values()} == {"torch.float32"}


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("method", TRAINABLE)
def test_every_method_and_kind(train: Train, method: str, kind: str) -> None:
    run, memory = train(method, kind)
    check(run, memory, f"{method} {kind}")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", TRAINABLE)
def test_every_setting(train: Train, method: str, setting: str) -> None:
    options = SETTINGS[setting]
    if "engine" in options and options["engine"] not in METHODS[method].engines:
        pytest.skip(f"{method} has one engine")
    run, memory = train(method, "lora", **options)
    check(run, memory, f"{method} {setting}")


@pytest.mark.parametrize("setting", OF_ONE)
def test_settings_of_one_method(train: Train, setting: str) -> None:
    run, memory = train(setting.split()[0], "lora", **OF_ONE[setting])
    check(run, memory, setting)


def test_each_method_has_real_rows() -> None:
    assert {*FILES} == {*METHODS} - {"reinforcement"}
