"""KTO: what is mismatched, what a row loses, what comes out, and that a run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from support.plain_models import logits, logits_of
from support.training import (
    DEVIATION,
    KINDS,
    a_run,
    check_steps,
    difference,
    handle_of,
    log_of,
    losses_of,
    method_run,
    metrics_of,
    row_table,
    train_in_two,
    train_run,
)

from finetune_gateway import DataError, Gateway, SpecError
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.run import Run
from finetune_gateway.data import canonical
from finetune_gateway.methods import require
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def unpaired(number: int) -> dict[str, Any]:
    """A row whose answer is good if it names a day."""
    good = number % 2 == 0
    answer = f"It comes on day {number % 7}." if good else "No idea, ask somebody else."
    return {
        "messages": [
            {"role": "user", "content": f"Where is parcel number {number}?"},
            {"role": "assistant", "content": answer},
        ],
        "label": good,
    }


ROWS = [unpaired(number) for number in range(14)]  # in batches of 4, the last has 2
HELD_OUT = [unpaired(number) for number in range(14, 19)]


def kto_run(
    home: Path, folder: Path, kind: str = "lora", rows: Sequence[Any] = ROWS, **options: Any
) -> Run:
    return method_run(home, folder, "kto", kind, rows, validation=HELD_OUT, **options)


def test_kto_from_rows_to_a_model_that_answers(home: Path, tiny_folder: Path) -> None:
    """The loss falls from 0.5, where the model is its reference; good answers gain and bad ones
    lose; held-out rows are evaluated; plain PEFT loads what was saved, with the same logits."""
    import torch

    run = train_run(kto_run(home, tiny_folder, n_epochs=4))
    found = metrics_of(run)
    first, last = losses_of(run)[0], losses_of(run)[-1]
    assert first == 0.5 and last < 0.4, losses_of(run)
    assert found[0]["train_kl"] == 0.0
    assert found[-2]["train_rewards/chosen"] > 0 > found[-2]["train_rewards/rejected"]
    valid = [one for one in found if "valid_loss" in one]
    assert valid[-1]["valid_loss"] < 0.5 and valid[-1]["valid_kl"] >= 0.0
    result, tokens = finishing.result_of(run)
    assert result.kind == "adapter" and result.first_answer is not None
    template = ChatTemplate.load(tiny_folder)
    sequences = [template.encode(row)[0] for row in ROWS]
    assert tokens == 4 * sum(one.trained for one in sequences)
    checkpoint = run.checkpoints / "checkpoint-16"
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in checkpoint.iterdir()}
    plain, ours = logits(run.model, tiny_folder), logits_of(handle_of(run))
    assert torch.allclose(plain, ours, atol=1e-4)


def test_answers_are_mismatched_within_a_batch(home: Path) -> None:
    """The prompt of a row has the answer of the one before; the first of a batch that of its last;
    a row that is alone that of the batch before. What is too long is cut."""
    from finetune_gateway.backends.local.methods.kto import with_mismatched

    rows = row_table(
        {
            "input_ids": [[10, 1], [20, 20, 2, 2], [30, 3], [40, 4], [50, 5]],
            "labels": [[-100, 1], [-100, -100, 2, 2], [-100, 3], [-100, 4], [-100, 5]],
            "prompt_length": [1, 2, 1, 1, 1],
        }
    )
    found = with_mismatched(rows, 2, 8)
    assert found["mismatched_ids"] == [[10, 2, 2], [20, 20, 1], [30, 4], [40, 3], [50, 4]]
    assert found["mismatched_labels"][:2] == [[IGNORED, 2, 2], [IGNORED, IGNORED, 1]]
    assert with_mismatched(rows, 5, 2)["mismatched_ids"][:2] == [[10, 5], [20, 20]]


def test_the_micro_batch_changes_no_loss(home: Path, tiny_folder: Path) -> None:
    """The KL term is that of the whole batch, whatever passes through the model at once."""
    given: dict[str, Any] = {
        "rows": [unpaired(number) for number in (0, 2, 4, 6, 8, 10, 1, 3)],
        "n_epochs": 2,
        "gradient_accumulation_steps": 2,
        "desirable_weight": 1.3,
    }
    whole = losses_of(train_run(kto_run(home, tiny_folder, **given)))
    # The model is its reference in the first step: half the mean weight of six good and two bad.
    assert len(whole) == 2 and whole[0] == pytest.approx((6 * 1.3 + 2) / 8 / 2, rel=1e-5)
    together = losses_of(train_run(kto_run(home, tiny_folder, micro_batch_size=4, **given)))
    assert together == pytest.approx(whole, rel=1e-5)


def test_the_loss_of_the_reference_is_half_the_mean_weight() -> None:
    """What the first step loses; divergence is judged by it."""
    from finetune_gateway.backends.local.methods.kto import neutral_loss

    spec = TrainingSpec.build(model="m", method="kto", desirable_weight=2, undesirable_weight=1)
    assert neutral_loss(spec, [True, False, False, False]) == (2 + 3) / 4 / 2


@pytest.mark.parametrize(
    ("good", "bad", "options", "said"),
    [
        (6, 2, {}, "6 answers are good and 2 bad"),
        (2, 6, {}, "set desirable_weight between 3.00 and 4.00"),
        (6, 2, {"undesirable_weight": 3.0}, ""),
        (5, 0, {}, "called good"),
        (4, 3, {}, ""),
    ],
)
def test_an_imbalance_of_labels_is_said(
    home: Path, good: int, bad: int, options: dict[str, Any], said: str
) -> None:
    """With the weight that would make up for it, by the paper's 1:1 to 4:3."""
    from finetune_gateway.backends.local.methods.kto import report_balance

    spec = TrainingSpec.build(model="builtin/tiny", method="kto", **options)
    run = a_run(home, spec, ROWS)
    report_balance(run, [True] * good + [False] * bad)
    text = log_of(run)
    assert (said in text) if said else text == ""


@pytest.mark.parametrize(("labels", "said"), [([True] * 3, "called good"), ([True, False], "")])
def test_held_out_rows_of_one_label_are_said(home: Path, labels: list[bool], said: str) -> None:
    """Their loss would stay at half, and decide which checkpoint is best."""
    from finetune_gateway.backends.local.methods.kto import report_held_out

    run = a_run(home, TrainingSpec.build(model="builtin/tiny", method="kto"), ROWS)
    report_held_out(run, labels)
    text = log_of(run)
    assert (said in text) if said else text == ""


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"micro_batch_size": 1}, {"loss_type": "nca_pair"}]
)
def test_what_kto_has_not_is_refused(options: dict[str, Any]) -> None:
    """TRL's trainer takes its KL term from the rows of one forward pass: one alone has none."""
    spec = TrainingSpec.build(model="builtin/tiny", method="kto", engine="trl", **options)
    with pytest.raises(SpecError, match="micro_batch_size|loss_type"):
        require(spec)


# -- heavy: each kind of training, beside TRL, and killed ------------------------------------


@pytest.mark.chaos
@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
def test_real_answers_are_learned(home: Path, tiny_folder: Path, shared: Path, kind: str) -> None:
    """The training loss falls on real rows; plain transformers and PEFT give the same logits."""
    import torch

    text = (shared / "data" / "llamafactory_kto_en" / "kto_en_demo.json").read_text("utf-8")
    rows = [canonical.read(row).row for row in json.loads(text) if len(json.dumps(row)) < 1200]
    rate = 1e-3 if kind != "full" else 1e-4
    options: dict[str, Any] = {"n_epochs": 5, "learning_rate": rate}
    run = train_run(kto_run(home, tiny_folder, kind, rows=rows[:32], **options))
    first, last = fmean(losses_of(run)[:8]), fmean(losses_of(run)[-8:])  # of an epoch
    assert last < first - 0.02, losses_of(run)
    ours = logits_of(handle_of(run))
    if kind != "qlora":  # plain PEFT has the base in full precision
        plain = logits(run.model, None if kind == "full" else tiny_folder)
        assert torch.allclose(plain, ours, atol=1e-4)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_both_engines_take_the_same_steps(
    home: Path, tiny_folder: Path, kind: str, loss: str
) -> None:
    """Our losses are TRL's up to rounding; its KL term is that of one forward pass,
    which is the whole batch here. On a base in 4 bits TRL rounds a new adapter to bfloat16."""
    runs = [
        train_run(kto_run(home, tiny_folder, kind, loss_type=loss, engine=engine))
        for engine in ("fast", "trl")
    ]
    ours, trl = map(losses_of, runs)
    assert len(ours) == len(trl) == 8
    assert ours == pytest.approx(trl, rel=2e-4 if kind != "qlora" else 2e-2)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_trl_is_bare_trl(home: Path, tiny_folder: Path, kind: str, tmp_path: Path) -> None:
    """In every digit of loss and gradient norm, given the same ids, labels, order and batch."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    from finetune_gateway.backends.local.methods import kto

    run = train_run(kto_run(home, tiny_folder, kind, rows=ROWS[:12], engine="trl", warmup_ratio=0))

    template = ChatTemplate.load(tiny_folder)
    encoded = [template.encode(row)[0] for row in ROWS[:12]]
    given = Dataset.from_list(
        [
            {
                "prompt_ids": one.input_ids[: (n := start(one.labels))],
                "completion_ids": kto_answer(one.input_ids, one.labels, n),
                "label": row["label"],
            }
            for one, row in zip(encoded, ROWS, strict=False)
        ]
    ).shuffle(seed=3)

    class Bare(KTOTrainer):
        """TRL's own, from ids on: its mismatched answers are its own too."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            def rotated(some: dict[str, Any]) -> dict[str, Any]:
                answers = some["completion_ids"]
                return {"KL_completion_ids": [answers[-1], *answers[:-1]]}

            return dataset.map(rotated, batched=True, batch_size=4)

    rate = KINDS[kind]["learning_rate"]
    config = KTOConfig(
        output_dir=str(tmp_path / "bare"),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        learning_rate=rate,
        seed=3,
        data_seed=3,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        logging_steps=1,
        report_to="none",
        max_length=None,
        save_strategy="no",
    )
    lora = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    bare = Bare(
        model=model,
        args=config,
        train_dataset=given,
        processing_class=AutoTokenizer.from_pretrained(tiny_folder),
        peft_config=lora if kind == "lora" else None,
    )
    check_steps(run, bare)
    assert config.beta == kto.BETA


def start(labels: Sequence[int]) -> int:
    return next(at for at, label in enumerate(labels) if label != IGNORED)


def kto_answer(ids: list[int], labels: Sequence[int], first: int) -> list[int]:
    last = max(at for at, label in enumerate(labels) if label != IGNORED)
    return ids[first : last + 1]


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_comes_to_the_same_model(
    home: Path, tiny_folder: Path, kind: str
) -> None:
    """Bit for bit; with a base in 4 bits within 1e-3."""
    whole = train_run(kto_run(home, tiny_folder, kind))
    stopped = train_in_two(kto_run(home, tiny_folder, kind), "Saved checkpoint-4")
    assert difference(whole, stopped) <= DEVIATION[kind]


def test_a_single_row_is_refused_before_there_is_a_job(home: Path, tiny_folder: Path) -> None:
    """To train on or held out: its answer has no other to be compared with."""
    gateway, given = Gateway(home), {"model": str(tiny_folder), "backend": "local"}
    rows = [unpaired(number) for number in range(9)]
    for some, held_out, what in ((rows[:1], None, "to train on"), (rows[1:], rows[:1], "held out")):
        asked: dict[str, Any] = {**given, "method": "kto", "validation": held_out}
        with pytest.raises(DataError, match=f"there is one row {what}"):
            gateway.submit(some, **asked)
        gateway.plan(some, **asked, loss_type="apo_zero_unpaired")
    assert not gateway.jobs()
