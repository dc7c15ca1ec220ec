"""A reward model: from pairs to a handle that scores, as plain transformers and PEFT score."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from support.cli import Ftg
from support.training import (
    DEVIATION,
    KINDS,
    check_steps,
    difference,
    handle_of,
    losses_of,
    method_run,
    metrics_of,
    train_in_two,
    train_run,
    trained_weights,
)

from finetune_gateway import Gateway, GatewayError, ModelHandle, SpecError, UnsupportedError
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.rewards import first_scores
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.supported import require_modules
from finetune_gateway.data import canonical
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.training_rows import encode_row

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",
)


def pair(number: int) -> dict[str, Any]:
    """A row whose preferred answer names a day."""
    return {
        "input": {"messages": [{"role": "user", "content": f"Where is parcel number {number}?"}]},
        "preferred_output": [{"role": "assistant", "content": f"It comes on day {number % 7}."}],
        "non_preferred_output": [{"role": "assistant", "content": "No idea, ask somebody else."}],
    }


ROWS, HELD_OUT = [pair(n) for n in range(14)], [pair(n) for n in range(14, 18)]
GOOD = [
    {"role": "user", "content": "Where is parcel number 30?"},
    {"role": "assistant", "content": "It comes on day 2."},
]
BAD = [GOOD[0], {"role": "assistant", "content": "No idea, ask somebody else."}]


def reward_run(home: Path, folder: Path, kind: str = "lora", **options: Any) -> Run:
    return method_run(home, folder, "reward", kind, ROWS, validation=HELD_OUT, **options)


def plain_score(folder: Path, base: Path | None, messages: Sequence[Any]) -> float:
    """The score by transformers and PEFT alone, and the folder's own template."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        base or folder, num_labels=1, dtype=torch.float32
    )
    if base is not None:
        with warnings.catch_warnings():  # peft 0.21 reads what transformers 5.23 has renamed
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(model, str(folder))
    text = tokenizer.apply_chat_template([*messages], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        return float(model.eval()(ids).logits[0, 0])


def test_reward_from_pairs_to_scores(ftg: Ftg, tmp_path: Path, tiny_folder: Path) -> None:
    """The loss falls from ln 2; better answers score higher, as plain PEFT scores them; the handle
    scores and does not chat, at the command line too; no comparison takes it."""
    run = train_run(reward_run(tmp_path / "home", tiny_folder))
    found = losses_of(run)
    assert found[0] == pytest.approx(0.693, abs=0.05) and found[-1] < 0.4
    assert metrics_of(run)[-1]["valid_accuracy"] == 1.0 and metrics_of(run)[-1]["valid_margin"] > 0
    result, compared = finishing.result_of(run)
    assert result.kind == "reward" and "the preferred answer" in (result.first_answer or "")
    long = pair(0) | {"input": {"messages": [{"role": "user", "content": "Where is it? " * 200}]}}
    cut = method_run(tmp_path / "cut", tiny_folder, "reward", "lora", [long, *ROWS])
    assert first_scores(cut, result) == result.first_answer  # of the first row nothing was compared
    none = method_run(tmp_path / "none", tiny_folder, "reward", "lora", [long])
    assert "a plain answer" in first_scores(none, result)
    sides = [side for row in ROWS for side in encode_row(ChatTemplate.load(tiny_folder), row)]
    assert compared == 2 * sum(side.trained for side in sides)

    handle = handle_of(run)
    scores = handle.score(GOOD), handle.score(BAD)
    assert scores[0] > scores[1]
    for messages, score in zip((GOOD, BAD), scores, strict=True):
        assert score == pytest.approx(plain_score(run.model, tiny_folder, messages), abs=1e-4)
    answer: dict[str, Any] = {"role": "assistant", "content": None}
    odd: list[Any] = [GOOD[:1], [1], [GOOD[0], answer], [GOOD[0], {**answer, "content": "\ud83d"}]]
    unanswered = handle.score_many([{"messages": one} for one in (*odd, GOOD)])
    assert unanswered[-1] == scores[0]
    assert all(isinstance(one, SpecError) for one in unanswered[:-1])
    again = ModelHandle.load(run.model)
    calls: list[Callable[[], Any]] = [
        lambda: again.chat("Hello"),
        lambda: again.stream("Hello"),
        lambda: again.chat_many([{"messages": GOOD[:1]}]),
        lambda: again.reference_loss(GOOD[:1], GOOD[1]),
        lambda: Gateway(tmp_path / "home").compare([again], HELD_OUT),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match="it scores answers"):
            call()

    rows = "\n".join(json.dumps(row) for row in ({"messages": GOOD}, HELD_OUT[0]))
    done = ftg("chat", str(run.model), text=rows)  # behind what the trainer has printed
    first, (better, worse) = (
        [float(score) for score in line.split("\t")] for line in done.stdout.splitlines()[-2:]
    )
    assert done.returncode == 0 and first == [pytest.approx(scores[0], abs=1e-4)]
    assert better > worse
    as_json = json.loads(
        ftg("chat", str(run.model), "--json", json.dumps({"messages": BAD})).stdout
    )
    assert as_json["scores"] == [[pytest.approx(scores[1], abs=1e-6)]]
    whole = {"messages": [GOOD[0], {"role": "assistant", "content": "It comes on day 2. " * 200}]}
    partly = ftg("chat", str(run.model), text=f"{json.dumps(whole)}\n{rows}")
    assert partly.returncode == 1 and "Line 1 has no score" in partly.stderr
    assert partly.stdout.splitlines() == ["-", *done.stdout.splitlines()[-2:]]
    refused = "\n".join(json.dumps({"messages": one}) for one in odd)
    said = ftg("chat", str(run.model), text=refused)
    assert said.returncode == 1 and said.stderr.count("has no score") == len(odd), said.stderr
    asked = ftg("chat", str(run.model), "Where is parcel number 3?")
    assert asked.returncode == 2 and "rows of data" in asked.stderr
    shaped = ftg("chat", str(run.model), "--max-tokens", "3", rows)
    assert shaped.returncode == 2 and "max_tokens" in shaped.stderr


def test_a_model_that_answers_does_not_score(home: Path, tiny_folder: Path) -> None:
    """Nor does it fail otherwise than in words."""
    handle = ModelHandle(
        kind="merged", model=str(tiny_folder), base_model=str(tiny_folder), backend="local"
    )
    with pytest.raises(UnsupportedError, match="no reward model"):
        handle.score(GOOD)


@pytest.mark.parametrize(
    ("named", "usual", "expected"),
    [(5, 9, "<5>"), (None, 9, "<9>"), (None, 7, "<3>"), (-1, None, "<3>")],
)
def test_what_pads_ends_no_row(named: int | None, usual: int | None, expected: str) -> None:
    """Unless the base names it: whatever loads the result reads up to the last other token."""
    from types import SimpleNamespace

    from finetune_gateway.backends.local.methods.reward import padding_token

    config = SimpleNamespace(pad_token_id=named)

    class Tokenizer:
        """Twelve tokens, of which 3 begins a text."""

        pad_token_id, unk_token_id, bos_token_id = usual, None, 3
        all_special_ids = (3,)

        def __len__(self) -> int:
            return 12

        def convert_ids_to_tokens(self, one: int) -> str:
            return f"<{one}>"

    base: Any = SimpleNamespace(
        tokenizer=Tokenizer(),
        template=SimpleNamespace(stop_ids={8}),
        model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)),
    )
    assert padding_token(base, [[1, 7]], [[1, 2, 7]]) == expected


def test_a_family_without_a_reward_model_is_refused(tmp_path: Path) -> None:
    """In words, before any weight is read."""
    from finetune_gateway.backends.local.loading import load_scoring_model

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(GatewayError, match="no reward model of the family mamba"):
        load_scoring_model(tmp_path)


def test_a_reward_model_has_no_head_for_tokens() -> None:
    """So none can be trained beside its adapter."""
    given: dict[str, Any] = {"method": "reward", "modules_to_save": ("lm_head",)}
    spec = TrainingSpec.build(model="builtin/tiny", **given)
    with pytest.raises(SpecError, match="lm_head"):
        require_modules(spec, ["model.embed_tokens.weight", "lm_head.weight"])


# -- heavy: each kind of training, beside TRL, and stopped ------------------------------------


@pytest.mark.chaos
@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
def test_real_pairs_are_learned(home: Path, tiny_folder: Path, shared: Path, kind: str) -> None:
    """The training loss falls on answers of real users, and the chosen ones score higher."""
    text = (shared / "data" / "llamafactory_dpo_en" / "dpo_en_demo.json").read_text("utf-8")
    found = [canonical.read(row).row for row in json.loads(text) if len(json.dumps(row)) < 1500]
    rate = 1e-3 if kind != "full" else 3e-4
    options: dict[str, Any] = {"n_epochs": 5, "learning_rate": rate}
    run = train_run(method_run(home, tiny_folder, "reward", kind, found[:32], **options))
    first, last = fmean(losses_of(run)[:8]), fmean(losses_of(run)[-8:])  # of an epoch
    assert last < first - 0.05, losses_of(run)
    assert fmean(one["train_accuracy"] for one in metrics_of(run)[-8:]) > 0.7
    assert handle_of(run).first_answer


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["full", "qlora"])
def test_other_kinds_score_as_plain_transformers_do(
    home: Path, tiny_folder: Path, kind: str
) -> None:
    """Its base in 4 bits is another than that of plain PEFT in 32: there better stays better."""
    run = train_run(reward_run(home, tiny_folder, kind))
    assert losses_of(run)[-1] < losses_of(run)[0] - 0.2
    handle = handle_of(run)
    base = None if kind == "full" else tiny_folder
    ours = [handle.score(one) for one in (GOOD, BAD)]
    plain = [plain_score(run.model, base, one) for one in (GOOD, BAD)]
    assert ours[0] > ours[1] and plain[0] > plain[1]
    if kind == "full":
        assert ours == pytest.approx(plain, abs=1e-4)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_reward_is_bare_trl(home: Path, tiny_folder: Path, kind: str, tmp_path: Path) -> None:
    """In every digit of loss and gradient norm, given the same ids, order and batch."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl import RewardConfig, RewardTrainer

    run = train_run(reward_run(home, tiny_folder, kind, warmup_ratio=0))
    template = ChatTemplate.load(tiny_folder)
    sides = [[side.input_ids for side in encode_row(template, row)] for row in ROWS]
    given = Dataset.from_list([{"chosen_ids": one, "rejected_ids": two} for one, two in sides])
    lora = LoraConfig(
        r=4,
        lora_alpha=32,
        target_modules="all-linear",
        task_type="SEQ_CLS",
        modules_to_save=["score"],
    )
    set_seed(3)  # draws the head; the trainer draws the adapter by the same seed
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)
    bare = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(tmp_path / "bare"),
            per_device_train_batch_size=4,
            num_train_epochs=2,
            learning_rate=KINDS[kind]["learning_rate"],
            seed=3,
            data_seed=3,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            logging_steps=1,
            report_to="none",
            max_length=None,
            save_strategy="no",
        ),
        train_dataset=given,
        processing_class=AutoTokenizer.from_pretrained(tiny_folder),
        peft_config=lora if kind == "lora" else None,
    )
    check_steps(run, bare)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_run_that_was_stopped_comes_to_the_same_model(
    home: Path, tiny_folder: Path, kind: str
) -> None:
    """Bit for bit; with a base in 4 bits within 1e-3. The head is part of it."""
    whole = train_run(reward_run(home, tiny_folder, kind))
    stopped = train_in_two(reward_run(home, tiny_folder, kind), "Saved checkpoint-4")
    assert any("score" in name for name in trained_weights(whole))
    assert difference(whole, stopped) <= DEVIATION[kind]
