"""Our engine trains as TRL does, whatever the micro-batch; how a run computes is in an
event, can be forced or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows
from support.training import a_run, events_of, train_run

from finetune_gateway import SpecError
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.supported import require_supported
from finetune_gateway.errors import GatewayError
from finetune_gateway.spec import TrainingSpec

# Of transformers 5.23, PEFT 0.21 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
FIGURES = ("train_loss", "grad_norm", "learning_rate", "train_mean_token_accuracy", "step")


def trained(home: Path, base: Path, **options: Any) -> Run:
    given = {"batch_size": 4, "max_steps": 3, "lora_r": 4, "seed": 3, "learning_rate": 1e-2}
    spec = TrainingSpec.build(model=str(base), logging_steps=1, **{**given, **options})
    return train_run(a_run(home, spec, chat_rows(12), validation=chat_rows(5)))


def choice(run: Run) -> dict[str, Any]:
    """What the run said of how it computes."""
    [found] = [event["data"] for event in events_of(run) if "micro_batch" in (event["data"] or {})]
    return dict(found)


def figures(run: Run) -> list[list[float]]:
    steps = [event["data"] for event in events_of(run) if event["type"] == "metrics"]
    assert {name for one in steps for name in one} >= {*FIGURES, "valid_mean_token_accuracy"}
    names = (*FIGURES, "valid_loss")  # TRL takes the mean of its batches' accuracies
    return [[one.get(name, 0.0) for name in names] for one in steps]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss_type": "dft"},
        {"packing": True, "max_length": 120, "batch_size": 2},
        {"gradient_checkpointing": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_ours_equals_trl(home: Path, tiny_folder: Path, options: dict[str, Any]) -> None:
    """Losses, gradients, rates, accuracies and held-out losses, step by step, in fp32: the same
    rows in the same order, whatever goes through the model at once."""
    theirs = trained(home, tiny_folder, engine="trl", **options)
    assert choice(theirs)["name"] == "trl"
    for micro_batch in ("auto", 2):
        ours = trained(home, tiny_folder, micro_batch_size=micro_batch, **options)
        assert choice(ours)["name"] == "fast"
        for one, other in zip(figures(ours), figures(theirs), strict=True):
            assert one == pytest.approx(other, rel=1e-4 if "dft" in str(options) else 2e-5)


def test_how_a_run_computes_is_told_and_can_be_forced(home: Path, tiny_folder: Path) -> None:
    """By itself a small model on a CPU: one row, fp32, one thread. Forced: bf16, two rows."""
    usual = choice(trained(home, tiny_folder, max_steps=1))
    assert usual["name"] == "fast" and usual["micro_batch"] == 1 and usual["bf16"] is False
    assert usual["threads"] == 1 and usual["attention"] == "sdpa"
    forced = trained(home, tiny_folder, bf16=True, micro_batch_size=2)
    assert (choice(forced)["bf16"], choice(forced)["micro_batch"]) == (True, 2)
    said = next(e["message"] for e in events_of(forced) if "our own engine" in e["message"])
    assert "bf16 with sdpa attention" in said and "2 rows per forward pass" in said
    exact = figures(trained(home, tiny_folder, micro_batch_size=2))
    for one, other in zip(figures(forced), exact, strict=True):
        assert one[0] == pytest.approx(other[0], rel=5e-3) and (one != other or not one[0])


def test_adapters_of_a_bf16_run_are_fp32(home: Path, tiny_folder: Path) -> None:
    """Updates of a bf16 weight would round away."""
    from safetensors.torch import load_file

    run = trained(home, tiny_folder, bf16=True, max_steps=1)
    adapter = load_file(run.model / "adapter_model.safetensors")
    assert {str(weight.dtype) for weight in adapter.values()} == {"torch.float32"}
    whole = trained(home, tiny_folder, bf16=True, max_steps=1, training_type="full")
    weights = load_file(whole.model / "model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}


def test_a_model_that_ours_cannot_score_is_trained_by_trl(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are more than its config says: told, and an error if ours was asked for."""
    import torch
    from transformers import LlamaForCausalLM

    original = LlamaForCausalLM.forward

    def hotter(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if found.logits is not None:
            found.logits = found.logits + torch.arange(found.logits.shape[-1]) / 50
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", hotter)
    with pytest.raises(GatewayError, match="cannot be trained with engine=fast: its own logits"):
        trained(home, tiny_folder, engine="fast")
    run = trained(home, tiny_folder, max_steps=1)
    assert choice(run)["name"] == "trl"
    assert any("Ours is not used: its own logits" in event["message"] for event in events_of(run))


def test_a_micro_batch_that_divides_no_batch_is_refused() -> None:
    spec = TrainingSpec.build(model="m", batch_size=4, micro_batch_size=3)
    with pytest.raises(SpecError, match="does not divide the 4 rows of a step") as found:
        require_supported(spec, on_gpu=False)
    assert "1, 2, 4" in str(found.value.hint)
    whole = TrainingSpec.build(
        model="m", batch_size=4, micro_batch_size=8, gradient_accumulation_steps=2
    )
    require_supported(whole, on_gpu=False)
