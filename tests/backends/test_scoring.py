"""The head without logits gives what the whole model gives: log-probabilities and gradients."""

from __future__ import annotations

from functools import partial
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_gateway.backends.local import scoring
from finetune_gateway.backends.local.head import CPU_BLOCK
from finetune_gateway.backends.local.scoring import Scorer

# PEFT 0.21 asks transformers 5.23 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

VOCABULARY = 160
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
# What is special about each: tied heads, norms of queries, soft caps, factors, biases, experts.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
    "gemma3_text": {"tie_word_embeddings": True},
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
    "smollm3": {},
    "cohere": {"logit_scale": 0.25, "use_qk_norm": False},
    "granite": {"logits_scaling": 3.0},
    "gpt2": GPT2,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
TARGETS: dict[str, dict[str, Any]] = {  # all linear layers where nothing is said
    "gpt2": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "mixtral": {"target_modules": ["q_proj", "o_proj"]},
}


def model_of(family: str, **changes: Any) -> Any:
    """A tiny model of a family with random weights, in fp32."""
    shape = FAMILIES[family] if family == "gpt2" else {**SHAPE, **FAMILIES[family]}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**shape, **changes})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():  # drawn at 0.02 all logits were alike
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.train()


def adapted(model: Any, **config: Any) -> Any:
    """The model with adapters that do something: B is not zero."""
    torch.manual_seed(1)
    found = get_peft_model(model, LoraConfig(**{**LORA, "target_modules": "all-linear", **config}))
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return found


def sequences(*lengths: int) -> list[tuple[list[int], list[int]]]:
    """Rows of random tokens, of which about half are trained."""
    torch.manual_seed(2)
    rows = []
    for length in lengths:
        ids = torch.randint(2, VOCABULARY, (length,)).tolist()
        labels = [one if at % 4 > 1 else -100 for at, one in enumerate(ids)]
        rows.append((ids, labels))
    return rows


def plain(model: Any, rows: list[tuple[list[int], list[int]]]) -> list[Tensor]:
    """The same by the model's own logits, row by row."""
    found = []
    for ids, labels in rows:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
        wanted = torch.tensor(labels[1:])
        trained = wanted != -100
        found.append(logits[trained].log_softmax(-1).gather(1, wanted[trained][:, None]).squeeze(1))
    return found


def likeliest(model: Any, row: tuple[list[int], list[int]]) -> int:
    """How many trained tokens of a row are the model's likeliest."""
    ids, labels = row
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return int((logits.argmax(-1) == torch.tensor(labels[1:])).sum())


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor], within: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    assert wanted
    for name, one in wanted.items():
        difference = float((found[name] - one).norm())
        assert difference <= within * float(one.norm()) + 1e-7, (name, difference)


def weighted(found: list[Tensor]) -> Tensor:
    """A loss in which every token counts differently, as in pairs."""
    each = torch.cat(found)
    return (each * torch.linspace(-1, 2, len(each))).sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_scored_as_by_its_own_logits(family: str) -> None:
    """Log-probabilities, and the gradients of all weights, of a sum and of a weighted sum; of one
    row, of rows together; through adapters."""
    model, rows = model_of(family), sequences(280, 20, 7)
    assert Scorer().refusal(model, rows[-1:]) == ""
    for module in model.modules():  # GPT-2 is made with it
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    wanted = plain(model, rows)
    for found, own in zip(Scorer().log_probs(model, rows), wanted, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=2e-5)
    _, right = Scorer().total(model, rows)
    assert int(right) == sum(map(likeliest, repeat(model), rows))
    summed = gradients(model, torch.cat(plain(model, rows)).sum())
    equal(gradients(model, Scorer().total(model, rows)[0]), summed)
    each = gradients(model, weighted(plain(model, rows)))
    equal(gradients(model, weighted(Scorer().log_probs(model, rows))), each)
    lora = adapted(model, **TARGETS.get(family, {}))
    equal(
        gradients(lora, weighted(Scorer().log_probs(lora, rows))),
        gradients(lora, weighted(plain(lora, rows))),
    )


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [3, 5, 9]},
    ],
    ids=lambda config: next(iter(config)) + str(len(config)),
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_a_head_that_is_adapted_too(config: dict[str, Any]) -> None:
    """LoRA on the head, a trained copy of it, tied embeddings, new tokens; and the base alone, with
    adapters switched off, as the reference of DPO is asked."""
    tied = config.get("modules_to_save") != ["lm_head"]
    base, rows = model_of("llama", tie_word_embeddings=tied), sequences(150, 20)
    reference = plain(base, rows)
    model = adapted(base, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    equal(
        gradients(model, weighted(Scorer().log_probs(model, rows))),
        gradients(model, weighted(plain(model, rows))),
    )
    equal(
        gradients(model, Scorer().total(model, rows)[0]),
        gradients(model, torch.cat(plain(model, rows)).sum()),
    )
    with model.disable_adapter(), torch.no_grad():
        for found, own in zip(Scorer().log_probs(model, rows), reference, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-5, atol=2e-5)


def test_rows_without_padding() -> None:
    """Rows laid one behind the other do not see each other, where the attention can tell."""
    model, rows = model_of("qwen3"), sequences(30, 9, 21)
    for found, own in zip(
        Scorer(padding_free=True).log_probs(model, rows), plain(model, rows), strict=True
    ):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=2e-5)


def test_bf16_under_autocast() -> None:
    """bf16 weights with fp32 adapters, as on CPUs that have it: the products are in bf16, the
    log-probabilities in fp32, and the gradients within the rounding of the plain way."""
    rows = sequences(200)
    exact = adapted(model_of("llama"), target_modules=["q_proj", "v_proj"])
    wanted = gradients(exact, torch.cat(plain(exact, rows)).sum())
    model = adapted(model_of("llama").to(torch.bfloat16), target_modules=["q_proj", "v_proj"])
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Scorer().refusal(model, rows) == ""
        [found] = Scorer().log_probs(model, rows)
        ours = gradients(model, Scorer().total(model, rows)[0])
        theirs = gradients(model, torch.cat(plain(model, rows)).sum())
    assert found.dtype == torch.float32
    for name, one in wanted.items():
        rounding = float((theirs[name] - one).norm())
        assert float((ours[name] - one).norm()) <= 1.5 * rounding + 1e-6


def test_a_row_that_is_filled_up_scores_as_it_is() -> None:
    """In bf16 on a CPU to a multiple of 32, unless the model has no position left for it."""
    model, [(ids, labels)] = model_of("llama").to(torch.bfloat16), sequences(45)
    assert scoring.multiple_of(model.base_model, 45) == scoring.LENGTHS
    assert scoring.multiple_of(model.base_model, 500) == 1
    assert scoring.multiple_of(model_of("llama").base_model, 45) == 1
    assert len(scoring.batch([ids], False, 32)["input_ids"][0]) == 64
    [found] = Scorer().log_probs(model, [(ids, labels)])
    [own] = plain(model, [(ids, labels)])
    torch.testing.assert_close(found, own, rtol=0.02, atol=0.05)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """The largest number of elements of any tensor that is made within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return made


def test_no_tensor_has_the_size_of_all_logits() -> None:
    """Forward and backward, the largest tensor is a block of logits; kept are rows of hidden
    states. By the model's own logits it is positions x vocabulary."""
    model = adapted(model_of("llama", vocab_size=4000), target_modules=["q_proj"])
    rows = sequences(480)
    trained = sum(label != -100 for label in rows[0][1])
    kept: list[Tensor] = []

    def keep(one: Tensor) -> Tensor:
        kept.append(one)
        return one

    with (
        Largest() as ours,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one),
    ):
        weighted(Scorer().log_probs(model, rows)).backward()  # type: ignore[no-untyped-call]
    weights = {p.data_ptr() for p in model.parameters()}
    assert ours.elements == CPU_BLOCK * 4000 < trained * 4000
    assert max(one.numel() for one in kept if one.data_ptr() not in weights) < 480 * 100
    with Largest() as theirs:
        weighted(plain(model, rows)).backward()  # type: ignore[no-untyped-call]
    assert theirs.elements >= 480 * 4000


def test_what_cannot_be_scored_is_refused_with_its_reason() -> None:
    """Experts balanced by a loss of their own, and logits that are more than the config says."""
    rows = sequences(12)
    mixture = model_of("mixtral", output_router_logits=True)
    assert "output_router_logits" in Scorer().refusal(mixture, rows)
    model = model_of("llama")
    original = model.forward

    def hotter(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        found.logits = found.logits * 1.7
        return found

    model.forward = hotter
    assert "its own logits say otherwise" in Scorer().refusal(model, rows)


def test_large_logits_that_are_added_in_another_order_are_no_reason_to_refuse() -> None:
    """As a GPU may, whose product for another number of rows is split: in bf16 a large logit is
    then a step of 0.25 off. Logits that are a little hotter are refused still."""
    model, rows = model_of("llama").to(torch.bfloat16), sequences(200)
    with torch.no_grad():
        model.lm_head.weight.mul_(6)

    def split(*args: Any, factor: float = 1.0, **kwargs: Any) -> Any:
        hidden = model.model(*args, **kwargs).last_hidden_state.float()
        weight, half = model.lm_head.weight.float(), SHAPE["hidden_size"] // 2
        first = (hidden[..., :half] @ weight[:, :half].T).to(torch.bfloat16)
        logits = first + (hidden[..., half:] @ weight[:, half:].T).to(torch.bfloat16)
        return SimpleNamespace(logits=logits * factor)

    model.forward = split
    worst, largest = Scorer().difference(model, rows)
    assert worst > 0.1 and largest > 20
    assert Scorer().refusal(model, rows) == ""
    model.forward = partial(split, factor=1.1)
    assert "its own logits say otherwise" in Scorer().refusal(model, rows)


def test_a_row_without_a_trained_token_counts_nothing() -> None:
    """Its loss is 0 and so are its gradients."""
    model, (row,) = model_of("llama"), sequences(12)
    empty = (row[0], [-100] * 12)
    assert [len(found) for found in Scorer().log_probs(model, [empty, row])] == [0, 6]
    found = gradients(model, Scorer().total(model, [empty])[0])
    assert all(not bool(one.any()) for one in found.values())
    assert scoring.blocks(torch.empty(0, 3)) == []
