"""DPO and ORPO beside TRL's own trainers: the same ids, labels, order and micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pairs import pair_rows
from support.training import a_run, row_table

from finetune_gateway.backends.local import fourbit
from finetune_gateway.backends.local.run import Run
from finetune_gateway.methods import METHODS, SMOOTHED, SORTED
from finetune_gateway.spec import TrainingSpec

pytestmark = [
    pytest.mark.chaos,  # TRL is imported, which takes eight seconds
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
FIGURES = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins")
SIDES = ("chosen", "rejected")
Log = list[dict[str, float]]


@pytest.fixture
def prepare(home: Path, tiny_folder: Path) -> Callable[..., tuple[Run, Any, dict[str, Any]]]:
    """``prepare(method, kind, **options)``: a run, the model that it trains, the arguments of a
    trainer; 12 rows, three steps of four."""

    def prepared(
        method: Any, kind: str = "lora", micro_batch: int = 4, **options: Any
    ) -> tuple[Run, Any, dict[str, Any]]:
        fourbit.import_quietly()
        from finetune_gateway.backends.local.configuration import training_arguments
        from finetune_gateway.backends.local.loading import load_base
        from finetune_gateway.backends.local.start import begin
        from finetune_gateway.backends.local.step_plan import plan_steps

        given: dict[str, Any] = {"lora_r": 4} if kind != "full" else {}
        spec = TrainingSpec.build(
            model=str(tiny_folder),
            method=method,
            batch_size=4,
            warmup_ratio=0.0,
            **{"n_epochs": 1, "learning_rate": 1e-3, "seed": 3, "logging_steps": 1, **options},
            **{"training_type": kind, **given},
        )
        run = a_run(home, spec, pair_rows(12))
        base = load_base(run)
        plan = plan_steps(spec, 12, rows=12, engine="trl", micro_batch=micro_batch)
        arguments = training_arguments(run, plan, learning_rate=1e-3, held_out=False, bf16=False)
        return run, begin(run, base.model), {**arguments, "save_strategy": "no"}

    return prepared


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def progress_of(run: Run) -> Any:
    from finetune_gateway.backends.local.progress import Progress

    return Progress(run, 1_152)


def logged(trainer: Any) -> Log:
    """What a training has logged of its steps."""
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 3
    return [{name: entry[name] for name in FIGURES} for entry in history]


def messages(row: dict[str, Any]) -> dict[str, Any]:
    """A pair in TRL's form."""
    return {
        "prompt": row["input"]["messages"],
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
    }


def our_rows(rows: Any) -> Any:
    """Pairs that TRL has tokenised for DPO, as ours: what is behind the prompt is compared."""
    columns: dict[str, list[list[int]]] = {}
    for side in ("chosen", "rejected"):
        both = list(zip(rows["prompt_ids"], rows[f"{side}_ids"], strict=True))
        columns[f"{side}_ids"] = [prompt + answer for prompt, answer in both]
        columns[f"{side}_labels"] = [[-100] * len(prompt) + answer for prompt, answer in both]
    return row_table(columns)


def bare_dpo(folder: Path, model: Any, arguments: dict[str, Any], **options: Any) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model=model,
        args=DPOConfig(**arguments, **options),
        train_dataset=Dataset.from_list([messages(row) for row in pair_rows(12)]),
        processing_class=tokenizer_of(folder),
    )


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_trl_s_dpo_is_bare(prepare: Any, tiny_folder: Path, kind: str) -> None:
    """In every digit; without a held-out set, with TRL's own way to a reference."""
    from finetune_gateway.backends.local import trl_trainers

    run, model, arguments = prepare("dpo", kind)
    theirs = bare_dpo(tiny_folder, model, arguments)
    rows = our_rows(theirs.train_dataset)
    expected = logged(theirs)
    run, model, arguments = prepare("dpo", kind)
    options = {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}
    ours = trl_trainers.dpo_trainer(
        model, tokenizer_of(tiny_folder), arguments, options, rows, None, progress_of(run)
    )
    assert logged(ours) == expected
    assert expected[2]["loss"] < expected[0]["loss"]


@pytest.mark.parametrize("loss", METHODS["dpo"].losses)
def test_our_losses_of_dpo_are_those_of_trl(prepare: Any, tiny_folder: Path, loss: str) -> None:
    """Of every step, to the rounding of fp32, pair by pair or four at once."""
    from transformers import TrainingArguments

    from finetune_gateway.backends.local.methods import dpo
    from finetune_gateway.backends.local.pairs import REFERENCE_COLUMNS
    from finetune_gateway.backends.local.reference import score_reference
    from finetune_gateway.backends.local.scoring import Scorer

    # TRL's own counts the tokens of what goes through the model at once.
    micro_batch = 1 if loss == "sft" else 4
    options = {"loss_type": loss, **({"label_smoothing": 0.1} if loss in SMOOTHED else {})}
    _, model, arguments = prepare("dpo", micro_batch=micro_batch, **options)
    theirs = bare_dpo(tiny_folder, model, arguments, beta=0.1, **options)
    rows = our_rows(theirs.train_dataset)
    expected = logged(theirs)
    alone = 4 if loss in SORTED else 1
    run, model, arguments = prepare("dpo", micro_batch=alone, **options)
    ours = dpo.FastDPOTrainer(
        run.spec,
        Scorer(),
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=rows,
        callbacks=[progress := progress_of(run)],
    )
    ours.progress = progress
    score_reference(ours, ours.scorer, REFERENCE_COLUMNS)
    for found, wanted in zip(logged(ours), expected, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-3)
        assert found["rewards/margins"] == pytest.approx(wanted["rewards/margins"], abs=1e-4)


def bare_orpo(folder: Path, model: Any, arguments: dict[str, Any]) -> Any:
    from datasets import Dataset

    from finetune_gateway.backends.local import trl_orpo

    return trl_orpo.ORPOTrainer(
        model=model,
        args=trl_orpo.ORPOConfig(**{**arguments, "remove_unused_columns": False}),
        train_dataset=Dataset.from_list([messages(row) for row in pair_rows(12)]),
        processing_class=tokenizer_of(folder),
    )


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_trl_s_orpo_is_bare(prepare: Any, tiny_folder: Path, kind: str) -> None:
    from finetune_gateway.backends.local import trl_orpo

    run, model, arguments = prepare("orpo", kind)
    theirs = bare_orpo(tiny_folder, model, arguments)
    rows = row_table(
        {
            f"{side}_{ours}": theirs.train_dataset[f"{side}_{name}"][:]
            for side in ("chosen", "rejected")
            for ours, name in (("ids", "input_ids"), ("labels", "labels"))
        }
    )
    expected = logged(theirs)
    run, model, arguments = prepare("orpo", kind)
    ours = trl_orpo.orpo_trainer(
        model, tokenizer_of(tiny_folder), arguments, 0.1, rows, None, progress_of(run)
    )
    assert logged(ours) == expected
    assert expected[2]["loss"] < expected[0]["loss"]


def test_our_loss_of_orpo_is_that_of_trl(prepare: Any, tiny_folder: Path) -> None:
    """Of every step, to the rounding of fp32, where there is no prompt that TRL would count."""
    from transformers import TrainingArguments

    from finetune_gateway.backends.local import trl_orpo
    from finetune_gateway.backends.local.methods.orpo import FastORPOTrainer
    from finetune_gateway.backends.local.scoring import Scorer

    run, model, arguments = prepare("orpo", micro_batch=1)
    rows = bare_orpo(tiny_folder, model, arguments).train_dataset
    rows = rows.rename_columns({f"{side}_input_ids": f"{side}_ids" for side in SIDES})
    rows = rows.map(
        lambda row: {f"{side}_labels": [-100, *row[f"{side}_ids"][1:]] for side in SIDES}
    )
    rows = row_table(
        {
            f"{side}_{part}": rows[f"{side}_{part}"][:]
            for side in SIDES
            for part in ("ids", "labels")
        }
    )
    run, model, arguments = prepare("orpo", micro_batch=1)
    theirs = trl_orpo.orpo_trainer(
        model, tokenizer_of(tiny_folder), arguments, 0.1, rows, None, progress_of(run)
    )
    expected = logged(theirs)
    run, model, arguments = prepare("orpo", micro_batch=1)
    ours = FastORPOTrainer(
        run.spec,
        Scorer(),
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=rows,
        callbacks=[progress := progress_of(run)],
    )
    ours.progress = progress
    for found, wanted in zip(logged(ours), expected, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-3)
