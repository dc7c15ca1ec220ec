"""TRL's step beside TRL's bare trainers, and ours beside TRL's step, where no other test has it:
whole models, bases in 4 bits, packs; all methods with both engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.method_rows import small_rows
from support.plain_models import four_bits
from support.training import a_run, losses_of, metrics_of, train_run

from finetune_gateway.backends.local.run import Run
from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec

pytestmark = [
    pytest.mark.chaos,  # TRL is imported, which takes eight seconds
    # Of transformers 5.23 and TRL 1.16, about each other.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
STEPS = 6
PACKED: dict[str, Any] = {"packing": True, "max_length": 96, "batch_size": 2}
PIECES: dict[str, Any] = {"max_length": 64}


def run_of(home: Path, folder: Path, method: Any, kind: Any, **options: Any) -> Run:
    """Six steps on a few rows, without a warm-up, which TRL begins with a rate of 0."""
    given: dict[str, Any] = {
        "batch_size": 4,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "warmup_ratio": 0,
        "seed": 3,
        "logging_steps": 1,
        **({} if kind == "full" else {"lora_r": 4}),
        **(PIECES if method == "pretrain" else {}),
        **options,
    }
    spec = TrainingSpec.build(model=str(folder), method=method, training_type=kind, **given)
    return train_run(a_run(home, spec, small_rows(method, 14)))


def encoded(run: Run) -> Any:
    """The rows that a run has trained, from the cache of its home, as TRL takes them."""
    from finetune_gateway.backends.local.encoding import encode_rows
    from finetune_gateway.backends.local.loading import load_base, max_length_for

    base = load_base(run)
    return encode_rows(run, run.train, base.source, max_length_for(run, base.model)).rows.for_trl()


def bare(run: Run, rows: Any, folder: Path, **options: Any) -> list[tuple[float, float]]:
    """The losses and gradient norms of TRL's own trainer on these rows."""
    import torch
    import trl
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        set_seed,
    )

    spec, scores = run.spec, run.spec.method == "reward"
    load: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    given: dict[str, Any] = {"num_labels": 1} if scores else {}
    if spec.training_type == "qlora":
        given["quantization_config"] = four_bits()
    lora = LoraConfig(
        r=4,
        lora_alpha=32,
        target_modules="all-linear",
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        modules_to_save=["score"] if scores else None,
    )
    config: Any = trl.RewardConfig if scores else trl.SFTConfig
    trainer: Any = trl.RewardTrainer if scores else trl.SFTTrainer
    set_seed(3)  # draws the head of a reward model
    theirs: Any = trainer(
        model=load.from_pretrained(spec.model, dtype=torch.float32, **given),
        args=config(
            output_dir=str(folder / "bare"), max_steps=STEPS, learning_rate=1e-3, seed=3,
            per_device_train_batch_size=spec.batch_size, use_cpu=True, bf16=False, data_seed=3,
            activation_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, dataloader_pin_memory=False, **{"max_length": None, **options},
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(spec.model),
        peft_config=None if spec.training_type == "full" else lora,
    )  # fmt: skip
    if spec.training_type == "qlora":
        # TRL rounds adapters on such a base to bf16 (docs/local.md); ours train in fp32 from there.
        for parameter in theirs.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    theirs.train()
    logged = [entry for entry in theirs.state.log_history if "loss" in entry]
    return [(entry["loss"], entry["grad_norm"]) for entry in logged]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("sft", "qlora"),
        ("sft", "full"),
        ("pretrain", "qlora"),
        ("pretrain", "full"),
        ("reward", "qlora"),
    ],
)
def test_trl_is_bare_trl(
    home: Path, tiny_folder: Path, tmp_path: Path, method: str, kind: str
) -> None:
    """In every digit of loss and gradient norm."""
    run = run_of(home, tiny_folder, method, kind, engine="trl")
    columns = ("input_ids", "labels") if method != "reward" else ("chosen_ids", "rejected_ids")
    expected = bare(run, encoded(run).select_columns([*columns]), tmp_path)
    found = [(one["train_loss"], one["grad_norm"]) for one in metrics_of(run)]
    assert found == expected and len(found) == STEPS
    assert found[-1][0] < found[0][0]


def test_packs_are_those_of_bare_trl(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """TRL packs the same rows itself."""
    run = run_of(home, tiny_folder, "sft", "lora", engine="trl", **PACKED)
    rows = encoded(run).select_columns(["input_ids", "labels"])
    expected = bare(run, rows, tmp_path, packing=True, max_length=PACKED["max_length"])
    assert [(one["train_loss"], one["grad_norm"]) for one in metrics_of(run)] == expected


# TRL's ORPO counts the prompt in its loss: tests/backends/test_pairs_trl.py compares the rest.
BOTH = [
    (name, one) for name, method in METHODS.items() if method.trainer and "fast" in method.engines
    for one in method.losses or ("",) if name not in ("orpo", "dpo") or one == "sigmoid"
]  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(("method", "loss"), [*BOTH, ("sft", "packing")])
def test_ours_is_trl_s_to_rounding(
    home: Path, tiny_folder: Path, method: str, loss: str, kind: str
) -> None:
    """The losses of steps, to 1e-5 in fp32, row by row or a batch at once."""
    options: dict[str, Any] = {"learning_rate": 1e-4, "bf16": False}
    if loss == "packing":
        options |= PACKED
    elif loss:
        options["loss_type"] = loss
    theirs = losses_of(run_of(home, tiny_folder, method, kind, engine="trl", **options))
    alone = losses_of(run_of(home, tiny_folder, method, kind, engine="fast", **options))
    together = losses_of(
        run_of(home, tiny_folder, method, kind, engine="fast", micro_batch_size=2, **options)
    )
    worst = max(
        abs(a / b - 1) for some in (alone, together) for a, b in zip(some, theirs, strict=True)
    )
    print(f"\n{method} {loss} {kind}: ours differs from TRL's by at most {worst:.1e}")
    assert len(theirs) == STEPS and worst <= 1e-5
