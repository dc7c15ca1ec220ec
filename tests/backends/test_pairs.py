"""DPO and ORPO on this machine: what is learned and saved, and that a run goes on as it was."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pairs import pair_rows
from support.plain_models import logits
from support.training import a_run, events_of, row_table, train_run

from finetune_gateway import Gateway, SpecError
from finetune_gateway.backends.local.run import Run
from finetune_gateway.methods import METHODS, require
from finetune_gateway.spec import Engine, TrainingSpec

LOSSES = METHODS["dpo"].losses
RATES = {"lora": 1e-2, "qlora": 1e-2, "full": 1e-3}
ENGINES: tuple[Engine, ...] = ("fast", "trl")
Train = Callable[..., Run]


@pytest.fixture
def prepare(home: Path, tiny_folder: Path) -> Train:
    """``prepare(method, kind, **options)``: a run on 12 pairs, 4 more held out; not trained yet."""

    def prepared(method: Any, kind: str = "lora", **options: Any) -> Run:
        usual: dict[str, Any] = {"seed": 3, "batch_size": 4, "n_epochs": 2, "logging_steps": 1}
        usual |= {"save_steps": 2, "learning_rate": RATES[kind], "training_type": kind}
        given = {**usual, **({} if kind == "full" else {"lora_r": 4}), **options}
        spec = TrainingSpec.build(model=str(tiny_folder), method=method, **given)
        rows = pair_rows(16)
        return a_run(home, spec, rows[:12], validation=rows[12:])

    return prepared


def series(run: Run, name: str) -> list[float]:
    return [event["data"][name] for event in events_of(run) if name in event["data"]]


def weights(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.model.glob("*.safetensors"))}


# -- the losses ------------------------------------------------------------------------------


def pairs_of(chosen: list[float], rejected: list[float], **options: Any) -> Any:
    """Pairs whose reference is 0, of answers of 4 and 2 tokens, with a gradient."""
    import torch

    from finetune_gateway.backends.local.methods.dpo import Pairs

    up = torch.tensor(chosen, requires_grad=True)
    down = torch.tensor(rejected, requires_grad=True)
    zero, tokens = torch.zeros(len(chosen)), torch.full([len(chosen)], 4)
    given = {"beta": 0.1, "smoothing": 0.1, **options}
    return Pairs(up, down, zero, zero, tokens, tokens // 2, **given)


LN2 = math.log(2)
AT_REFERENCE = {  # by hand, for beta 0.1 and smoothing 0.1
    "sigmoid": LN2,
    "hinge": 1.0,
    "ipo": 25.0,
    "exo_pair": -LN2 - 0.5 * (math.log(0.9) + math.log(0.1)),
    "nca_pair": 2 * LN2,
    "robust": LN2,
    "bco_pair": 2 * LN2,
    "sppo_hard": 50.0,
    "aot": LN2,
    "aot_unpaired": LN2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": 0.5 * LN2 + 0.5,
    "sft": 0.0,
    "sigmoid_norm": LN2,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_prefers_the_chosen_answer(name: str) -> None:
    """It has its value while nothing is learned, and falls as the answers move apart."""
    from finetune_gateway.backends.local.methods.dpo import LOSSES as FUNCTIONS

    assert list(FUNCTIONS) == list(LOSSES)
    found = FUNCTIONS[name](pairs_of([0.0, 0.0], [0.0, 0.0]))
    assert found.tolist() == pytest.approx([AT_REFERENCE[name]] * 2, rel=1e-6)
    pair = pairs_of([-0.5, 1.0], [-2.0, -1.0])
    loss: Any = FUNCTIONS[name](pair).sum()
    loss.backward()
    assert bool((pair.chosen.grad > 0).all()) == (name == "apo_down")
    if name != "sft":
        assert bool((pair.rejected.grad > 0).all())


def test_odds_have_their_value_and_gradient_at_both_ends() -> None:
    """Near 1 and near 0 a probability's odds are finite, and so is their gradient."""
    import torch

    from finetune_gateway.backends.local.methods.orpo import log1mexp, odds_ratio

    x = torch.tensor([-1e-6, -0.5, -LN2, -1.0, -30.0, -90.0], requires_grad=True)
    found = log1mexp(x)
    wanted = [math.log(-math.expm1(value)) for value in x.tolist()]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-12)
    found.sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())
    ratio = odds_ratio(torch.tensor([math.log(0.8)]), torch.tensor([math.log(0.5)]))
    assert ratio.item() == pytest.approx(math.log(4), rel=1e-5)


def test_exo_pair_has_a_smoothing_of_its_own() -> None:
    """Its loss has the logarithm of it; others have none unless it is given."""
    from finetune_gateway.backends.local.methods.dpo import neutral_loss, smoothing_of

    exo = TrainingSpec.build(model="m", method="dpo", loss_type="exo_pair")
    assert smoothing_of(exo) == 0.001
    assert neutral_loss(exo) == pytest.approx(-LN2 - 0.5 * (math.log(0.999) + math.log(0.001)))
    assert smoothing_of(TrainingSpec.build(model="m", method="dpo", loss_type="robust")) == 0
    given = TrainingSpec.build(model="m", method="dpo", loss_type="robust", label_smoothing=0.2)
    assert smoothing_of(given) == 0.2


def test_pairs_that_no_step_comes_to_are_left_out() -> None:
    """Drawn by the seed, not the first of the file; all of them where an epoch is made."""
    from finetune_gateway.backends.local.pairs import trained_rows
    from finetune_gateway.backends.local.step_plan import plan_steps

    rows = row_table({"number": list(range(20))})
    drawn = rows.for_trl().shuffle(seed=3)["number"][:8]
    for steps, expected in ((2, drawn), (5, rows["number"])):
        spec = TrainingSpec(model="m", method="dpo", batch_size=4, max_steps=steps)
        plan = plan_steps(spec, 20, rows=20, engine="fast", micro_batch=1)
        assert list(trained_rows(rows, plan, 3)["number"]) == list(expected)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"method": "dpo", "packing": True}, "packing is no setting of dpo"),
        ({"method": "orpo", "packing": True}, "packing is no setting of orpo"),
        ({"method": "dpo", "label_smoothing": 0.1}, "no setting of the loss sigmoid"),
        (
            {"method": "dpo", "loss_type": "exo_pair", "label_smoothing": 0},
            "label_smoothing of exo_pair must be above 0",
        ),
        ({"method": "dpo", "loss_type": "aot", "micro_batch_size": 2}, "of the loss aot"),
    ],
)
def test_what_pairs_cannot_honour_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        require(TrainingSpec.build(model="m", **given))
    assert reason in str(caught.value)


def test_an_estimate_says_what_is_experimental(home: Path, tiny_folder: Path) -> None:
    """TRL's trainer of ORPO is; ours is not."""
    quotes = [
        Gateway().estimate(
            pair_rows(12), model=str(tiny_folder), backend="local", method="orpo", engine=engine
        )
        for engine in ENGINES
    ]
    assert [any("experimental" in text for text in one.warnings) for one in quotes] == [False, True]


# -- training --------------------------------------------------------------------------------


def check_result(run: Run, tiny_folder: Path) -> None:
    """The loss falls, and that of held-out rows, which have figures too; plain PEFT or transformers
    computes what our handle computes, and it has answered."""
    import torch

    from finetune_gateway.backends.local import finishing
    from finetune_gateway.backends.local.loading import free_memory

    train_run(run)
    losses = series(run, "train_loss")
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert series(run, "train_rewards/margins")[-1] > series(run, "train_rewards/margins")[0]
    assert series(run, "valid_rewards/accuracies")[-1] == 1.0
    assert len(series(run, "train_logps/chosen")) == len(series(run, "valid_loss")) + 6 - 1
    free_memory()
    result, tokens = finishing.result_of(run)
    assert result.first_answer is not None and tokens == series(run, "trained_tokens")[-1]
    kind = run.spec.training_type
    if kind != "qlora":  # its base is in 4 bits here
        from support.plain_models import MESSAGES

        from finetune_gateway.backends.local.inference import LocalModel
        from finetune_gateway.jobs.handle import ModelHandle

        handle = ModelHandle(
            kind=result.kind, model=result.model, base_model=str(tiny_folder), backend="local"
        )
        local: Any = LocalModel.load(handle, run.settings)
        ids = torch.tensor([local.template.prompt_ids(MESSAGES, None)])
        with torch.inference_mode():
            ours = local.model(ids).logits[0]
        plain = logits(run.model, None if kind == "full" else tiny_folder)
        assert float((ours - plain).abs().max()) < 1e-4
        assert float((plain - logits(tiny_folder)).abs().max()) > 1e-3  # it has learned


@pytest.mark.parametrize(("method", "kind"), [("dpo", "lora"), ("orpo", "full")])
def test_pairs_from_rows_to_an_answer(
    prepare: Train, tiny_folder: Path, method: str, kind: str
) -> None:
    check_result(prepare(method, kind), tiny_folder)


@pytest.mark.chaos
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_every_way_to_train_on_pairs(
    prepare: Train, tiny_folder: Path, method: str, kind: str, engine: str
) -> None:
    check_result(prepare(method, kind, engine=engine), tiny_folder)


def gone_on(run: Run, step: int) -> dict[str, bytes]:
    """The weights of a run that is trained again from its checkpoint of a step."""
    shutil.rmtree(run.model)
    for path in run.checkpoints.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)
    train_run(run)
    assert f"Continuing from checkpoint-{step}." in [event["message"] for event in events_of(run)]
    return weights(run)


def test_a_run_goes_on_bit_for_bit(prepare: Train) -> None:
    """With dropout; what the reference has scored is not scored again."""
    run = train_run(prepare("dpo", lora_dropout=0.1))
    before = weights(run)
    assert series(run, "reference_rows") == [12, 4]
    assert gone_on(run, 4) == before
    assert series(run, "reference_rows") == [12, 4, 0, 0]


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_every_run_goes_on_bit_for_bit(prepare: Train, method: str, kind: str) -> None:
    run = train_run(prepare(method, kind))
    before = weights(run)
    assert gone_on(run, 4) == before


def test_the_micro_batch_changes_no_loss(prepare: Train) -> None:
    """Pairs one by one in four passes, or together; a loss that sorts its batch takes all at
    once, and says so."""
    apart = train_run(prepare("dpo", batch_size=2, gradient_accumulation_steps=2))
    together = train_run(
        prepare("dpo", loss_type="aot", batch_size=2, gradient_accumulation_steps=2)
    )
    assert len(series(apart, "train_loss")) == len(series(together, "train_loss")) == 6
    said = [event["message"] for event in events_of(together)]
    assert any("aot sorts the pairs of a batch: all 4 go through" in text for text in said)
    chosen = [series(run, "train_logps/chosen")[0] for run in (apart, together)]
    assert chosen[0] == pytest.approx(chosen[1], rel=1e-6)


# -- the reference ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_reference_is_the_model_as_it_was(prepare: Train, tiny_folder: Path) -> None:
    """To the bit what the base says, also beneath the trained adapter; half a record is made
    anew."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from finetune_gateway.backends.local.encoding import encode_rows
    from finetune_gateway.backends.local.scoring import Scorer
    from finetune_gateway.tokens.chat_template import ChatTemplate

    run = train_run(prepare("dpo", max_steps=2))
    [path] = (run.folder / "reference").glob("train-*.f32")
    kept = path.read_bytes()
    assert len(kept) == 8 * 12  # of 12 pairs, two steps take 8
    scored = {scores[:2] for scores in struct.iter_unpack("<ffI", kept)}
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(run.model)).eval()
    rows = encode_rows(run, run.train, ChatTemplate.load(tiny_folder), 2048).rows
    with torch.no_grad(), model.disable_adapter():
        live = {
            tuple(
                float(
                    Scorer()
                    .log_probs(model, [(row[f"{side}_ids"], row[f"{side}_labels"])])[0]
                    .sum()
                )
                for side in ("chosen", "rejected")
            )
            for row in rows
        }
    assert scored < live
    path.write_bytes(kept[:-13])
    shutil.rmtree(run.checkpoints)
    shutil.rmtree(run.model)
    train_run(run)
    assert path.read_bytes() == kept and series(run, "reference_rows")[2:] == [2, 0]
