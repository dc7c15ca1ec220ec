"""Many conversations at once on a local model: each is answered as it would be alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune_gateway.backends.local.inference import LocalModel
from finetune_gateway.chat import ChatReply
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.tokens.chat_template import ChatTemplate

SIZE: dict[str, Any] = {
    "vocab_size": 1152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
# What reads a batch in ways of its own: positions by number, a window, a state, scaled positions.
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gemma3_text": {
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    "phi3": {
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
            **FACTORS,
        },
    },
}

LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MORE_KINDS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("llama", "qwen2", "bloom", "gpt_neox", "starcoder2", "mamba")},
    **{kind: SLIDING for kind in ("olmo3", "gemma2", "cohere2")},
    "gpt_oss": {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": EXPERTS,
    "qwen3_5_text": LINEAR,
    "qwen3_next": {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "jamba": {
        "num_experts": 2,
        "mamba_d_state": 8,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two on a busy machine take ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)


def made(template: ChatTemplate, kind: str = "qwen3") -> LocalModel:
    """A model with random weights, large enough that its answers differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**SIZE, **(KINDS | MORE_KINDS)[kind]})
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4 if weights.dim() == 2 else 1)
    return LocalModel(model, template)


def conversation(number: int) -> dict[str, Any]:
    question = f"Where is parcel {number}? " * (1 + 3 * number)
    return {"messages": [{"role": "user", "content": question}]}


CONVERSATIONS = [conversation(number) for number in (3, 0, 5, 1)]


def alone(model: LocalModel, **sampling: Any) -> list[dict[str, Any]]:
    return [said(model.chat(one["messages"], **sampling)) for one in CONVERSATIONS]


def together(model: LocalModel, **sampling: Any) -> list[dict[str, Any]]:
    return [said(one) for one in model.chat_many(CONVERSATIONS, **sampling)]


def said(reply: ChatReply | GatewayError) -> dict[str, Any]:
    assert isinstance(reply, ChatReply), reply
    return reply.model_dump(exclude={"seconds"})


def _require_the_same(model: LocalModel) -> None:
    """All rows end as they end alone: early, by a stop text, or at their last token."""
    whole = alone(model, max_tokens=20)
    assert together(model, max_tokens=20) == whole
    texts = [one["text"] for one in whole]
    stop = [text[4:8] for text in texts if text[4:8]][:2] or ["stop"]
    stopped = alone(model, max_tokens=20, stop=stop)
    assert together(model, max_tokens=20, stop=stop) == stopped


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_depend_on_the_others(template: ChatTemplate, kind: str) -> None:
    """In models that treat padding, positions and state in different ways: the same text, finish
    and usage, of answers that differ in text and length."""
    model = made(template, kind)
    _require_the_same(model)
    answers = alone(model, max_tokens=20)
    stop = [one["text"][4:8] for one in answers[:2]]
    lengths = {one["usage"]["completion_tokens"] for one in alone(model, max_tokens=20, stop=stop)}
    assert len({one["text"] for one in answers}) > 2 and len(lengths) > 1


@pytest.mark.chaos
@pytest.mark.parametrize("kind", MORE_KINDS)
def test_nor_does_it_in_other_families(template: ChatTemplate, kind: str) -> None:
    """Windows, experts, linear attention, states and both, each as transformers builds it; the
    losses of references are the same too."""
    model = made(template, kind)
    _require_the_same(model)
    rows = [{**one, "reference": {"content": "On its way."}} for one in CONVERSATIONS]
    singly = [model.reference_losses([row])[0] for row in rows]
    assert model.reference_losses(rows) == pytest.approx(singly, abs=1e-4)


def test_a_row_is_drawn_by_the_seed_as_if_alone(template: ChatTemplate) -> None:
    model = made(template)
    hot = {"temperature": 1.5, "max_tokens": 12}
    assert together(model, seed=7, **hot) == alone(model, seed=7, **hot)
    assert together(model, seed=8, **hot) != alone(model, seed=7, **hot)


def test_what_is_wrong_with_one_row_is_its_own_error(template: ChatTemplate) -> None:
    """One that is too long, one with tools that are none. What is wrong with all is raised."""
    model = made(template)
    long = {"messages": [{"role": "user", "content": "parcel " * 600}]}
    odd = {**conversation(0), "tools": [{"name": "find"}]}
    first, *errors, last = model.chat_many(
        [conversation(0), long, odd, conversation(1)], max_tokens=4
    )
    assert isinstance(first, ChatReply) and isinstance(last, ChatReply)
    assert "reads at most 512" in str(errors[0]) and "tools is a list" in str(errors[1])
    assert [type(one) for one in errors] == [SpecError, SpecError]
    refused: list[dict[str, Any]] = [{"top_k": 5}, {"tools": []}, {"max_tokens": 0}]
    for wrong in refused:
        with pytest.raises(SpecError):
            model.chat_many(CONVERSATIONS, **wrong)
    with pytest.raises(SpecError, match="has answer"):
        model.chat_many([{**conversation(0), "answer": "x"}])
    assert model.chat_many([]) == []


class Small(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """As on a GPU that has no memory for more than two rows: of answers after their first token,
    when something is drawn already."""

    def forward(self, input_ids: torch.Tensor, **given: Any) -> Any:
        answering = given.get("use_cache") is not False
        if len(input_ids) > 2 and not (answering and input_ids.shape[1] > 1):
            raise torch.OutOfMemoryError("no memory")
        return super().forward(input_ids, **given)


def test_a_batch_that_does_not_fit_is_halved(template: ChatTemplate) -> None:
    """Answers, draws and losses are the same."""
    model = LocalModel(Small(LlamaConfig(**SIZE)), template)
    hot = {"temperature": 1.0, "max_tokens": 6, "seed": 3}
    assert together(model, **hot) == alone(model, **hot)
    rows = [{**one, "reference": {"content": "On its way."}} for one in CONVERSATIONS]
    assert model.reference_losses(rows) == [model.reference_losses([row])[0] for row in rows]


TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}


def test_the_loss_of_a_reference_is_that_of_training_on_it(template: ChatTemplate) -> None:
    """Of its own tokens and the one that ends it, not of an earlier answer; as transformers
    computes it from our labels, alone or in a batch."""
    model = made(template)
    asked = [{"role": "user", "content": "Where is it?"}]
    earlier = [*asked, {"role": "assistant", "content": "Which one?"}, *asked]
    rows: list[dict[str, Any]] = [
        {"messages": asked, "reference": {"role": "assistant", "content": "On its way."}},
        {"messages": earlier, "reference": {"content": "Number 5."}},
        {"messages": asked, "reference": {"content": "", "tool_calls": [CALL]}, "tools": TOOLS},
    ]
    losses = model.reference_losses(rows)
    for row, loss in zip(rows, losses, strict=True):
        whole = [*row["messages"], {"role": "assistant", **row["reference"]}]
        weighed = [{**one, "weight": 0} if one["role"] == "assistant" else one for one in whole]
        weighed[-1] = whole[-1]
        [sequence] = template.encode({"messages": weighed, "tools": row.get("tools")})
        ids, labels = torch.tensor([sequence.input_ids]), torch.tensor([sequence.labels])
        assert set(sequence.labels[-3:]) & template.stop_ids
        with torch.no_grad():
            expected = float(model.model(input_ids=ids, labels=labels).loss)
        assert loss == pytest.approx(expected, abs=1e-4)
    wrong, long = model.reference_losses(
        [
            {"messages": asked, "reference": {"role": "user", "content": "Hm."}},
            {"messages": asked, "reference": {"content": "way " * 600}},
        ]
    )
    assert "no message of an assistant" in str(wrong) and "at most 512" in str(long)
