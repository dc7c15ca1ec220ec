"""What a local model answers, taken apart: text, reasoning, calls; and what ends an answer.

The model is real and has learnt four rows by heart.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import Ftg
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_gateway import ModelHandle, SpecError
from finetune_gateway.backends.local import builtin
from finetune_gateway.backends.local.answering import ShippedReader, answer_reader
from finetune_gateway.chat import ChatReply, ChatStream
from finetune_gateway.tokens.chat_template import ChatTemplate

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("find", "refund")]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": "call_1", "type": "function", "function": function}


CALLS = [call("find", id='A-"1"'), call("refund", to="Zü", of=[1, {"b": None}])]
ROWS: dict[str, dict[str, Any]] = {
    "Where is it?": {
        "content": "Let me look.", "reasoning_content": "They ask.\nSo find it.",
        "tool_calls": CALLS,
    },
    "Count.": {"content": "One, two, three.\nFour, five, six.", "reasoning_content": "Easy."},
    "Only call.": {"content": "", "tool_calls": CALLS[:1]},
    "Break.": {"content": 'Here: <tool_call>\n{"name": "find", "arguments": oops\n</tool_call>'},
}  # fmt: skip


# The template of builtin/tiny, with reasoning as Qwen3 writes it.
REASONS = "{%- if message.reasoning_content -%}{{- '<think>\\n' + message.reasoning_content }}"
REASONS += "{{- '\\n</think>\\n\\n' -}}{%- endif -%}"
TEMPLATE = builtin.CHAT_TEMPLATE.replace("{%- generation -%}", "{%- generation -%}" + REASONS)


def conversation(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}]


def learn(model: LlamaForCausalLM, template: ChatTemplate) -> None:
    """Teach it the rows, until it says them by heart; one of them without tools too."""
    asked: list[tuple[str, Any]] = [(question, TOOLS) for question in ROWS]
    encoded = [
        template.encode(
            {
                "messages": [*conversation(question), {"role": "assistant", **ROWS[question]}],
                "tools": tools,
            }
        )[0]
        for question, tools in [*asked, ("Count.", None)]
    ]
    longest = max(len(one.input_ids) for one in encoded)
    ids = torch.tensor([one.input_ids + [3] * (longest - len(one.input_ids)) for one in encoded])
    labels = torch.tensor([one.labels + [-100] * (longest - len(one.labels)) for one in encoded])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            return
    raise AssertionError(f"it has not learnt the rows: {loss.item()}")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two on a busy machine take ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """The folder of the model."""
    folder = tmp_path_factory.mktemp("answers") / "model"
    shutil.copytree(tiny_tokenizer, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        size |= {"num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 128}
        size |= {"max_position_embeddings": 1024}
        model = LlamaForCausalLM(LlamaConfig(**{**builtin.CONFIG, **size}))
        learn(model, ChatTemplate.load(folder))
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
    return folder


@pytest.fixture(scope="module")
def handle(folder: Path) -> ModelHandle:
    """A handle on the model; the weights are loaded once."""
    return ModelHandle(kind="merged", model=str(folder), base_model=str(folder), backend="local")


def both(handle: ModelHandle, question: str, **sampling: Any) -> ChatReply:
    """Return an answer that comes the same at once and in pieces."""
    whole = handle.chat(conversation(question), **sampling)
    stream = handle.stream(conversation(question), **sampling)
    assert "".join(stream) == whole.text
    assert isinstance(stream, ChatStream) and stream.reply is not None
    assert same(stream.reply) == same(whole)
    return whole


def same(reply: ChatReply) -> dict[str, Any]:
    """Return what two equal answers have in common: their ids and times differ."""
    data = reply.model_dump(exclude={"seconds"})
    data["tool_calls"] = [one["function"] for one in data["tool_calls"]]
    return data


def test_calls_and_reasoning_come_apart_from_the_text(handle: ModelHandle) -> None:
    """In chat and stream: two calls with nested arguments, as OpenAI writes them."""
    reply = both(handle, "Where is it?", tools=TOOLS)
    assert reply.text == "Let me look." and reply.finish_reason == "tool_calls"
    assert reply.reasoning == "They ask.\nSo find it." and reply.note is None
    assert [one["function"] for one in reply.tool_calls] == [one["function"] for one in CALLS]
    ids = {one["id"] for one in reply.tool_calls}
    assert len(ids) == 2 and all(one.startswith("call_") for one in ids)
    alone = both(handle, "Only call.", tools=TOOLS)
    assert (alone.text, alone.reasoning) == ("", None) and len(alone.tool_calls) == 1
    assert alone.calls_text == r'find({"id": "A-\"1\""})' == alone.said


def test_what_cannot_be_read_stays_text_and_is_said(handle: ModelHandle) -> None:
    reply = both(handle, "Break.", tools=TOOLS)
    assert reply.text == ROWS["Break."]["content"] and reply.tool_calls == []
    assert reply.finish_reason == "stop" and "cannot be read" in str(reply.note)


def test_an_answer_that_is_cut_off_has_no_half_call(handle: ModelHandle) -> None:
    """Nor reasoning in its text, wherever max_tokens ends it."""
    whole = handle.chat(conversation("Where is it?"), tools=TOOLS)
    for tokens in range(3, whole.usage.completion_tokens, 31):
        reply = both(handle, "Where is it?", tools=TOOLS, max_tokens=tokens)
        assert reply.finish_reason == "length" and reply.usage.completion_tokens == tokens
        assert "think" not in reply.text and "They" not in reply.text
        assert [one["function"] for one in reply.tool_calls] in (
            [], [CALLS[0]["function"]], [one["function"] for one in CALLS]
        )  # fmt: skip


def test_many_at_once_are_answered_as_one_by_one(handle: ModelHandle) -> None:
    """With calls, reasoning, a note of what cannot be read, with tools and without, stopped or cut
    off."""
    asked: list[dict[str, Any]] = [
        {"messages": conversation(question), "tools": TOOLS} for question in ROWS
    ]
    asked += [{"messages": conversation("Count.")}, asked[0]]
    for given in ({}, {"stop": "three"}, {"max_tokens": 20}):
        sampling: dict[str, Any] = dict(given)
        alone = [
            same(handle.chat(one["messages"], tools=one.get("tools"), **sampling)) for one in asked
        ]
        together = handle.chat_many(asked, **sampling)
        assert [same(one) for one in together if isinstance(one, ChatReply)] == alone
        assert all(isinstance(one, ChatReply) and one.seconds > 0 for one in together)
        assert len({json.dumps(one) for one in alone}) > 3


def test_a_learnt_answer_is_likelier_than_another(handle: ModelHandle) -> None:
    learnt = {"content": "One, two, three.\nFour, five, six.", "reasoning_content": "Easy."}
    losses = [
        handle.reference_loss("Count.", {"role": "assistant", **reference}, TOOLS)
        for reference in (learnt, {"content": "Six, five."})
    ]
    assert losses[0] < 0.1 < 1 < losses[1]


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("three", "One, two, "),
        (["zzz", "o, th"], "One, tw"),  # over the bounds of tokens
        ("\nFour", "One, two, three."),
        (["six.", "five"], "One, two, three.\nFour, "),
        ("Easy", "One, two, three.\nFour, five, six."),  # reasoning is not searched
    ],
)
def test_a_stop_text_ends_the_answer(handle: ModelHandle, stop: Any, text: str) -> None:
    """The generation too: no more tokens are made; the stop text is not in the answer."""
    whole = handle.chat(conversation("Count."), tools=TOOLS)
    reply = both(handle, "Count.", tools=TOOLS, stop=stop)
    assert reply.text == text and reply.finish_reason == "stop" and reply.reasoning == "Easy."
    shorter = reply.usage.completion_tokens < whole.usage.completion_tokens
    assert shorter == (text != whole.text)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [0, -1, 1.5, True, "8"]),
        ("temperature", [-0.1, 2.1, float("nan"), "1", True]),
        ("top_p", [0, 1.1, -1, "1"]),
        ("seed", [1.5, "1", 2**64]),
        ("stop", ["", ["a", ""], 1, [1]]),
        ("tools", ["find", [1], [{"name": "find"}]]),
        ("top_k", [5]),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    handle: ModelHandle, name: str, values: list[Any]
) -> None:
    """By name, in chat and stream, before anything is generated."""
    for value in values:
        with pytest.raises(SpecError, match=name):
            handle.chat("Count.", **{name: value})
        with pytest.raises(SpecError, match=name):
            next(handle.stream("Count.", **{name: value}))


def test_sampling_follows_temperature_top_p_and_seed(handle: ModelHandle) -> None:
    """The same seed gives the same answer, others give others; a tiny top_p is greedy."""
    asked = conversation("Something else entirely.")
    hot = [
        handle.chat(asked, max_tokens=24, temperature=2, seed=seed).said for seed in (1, 1, 2, 3)
    ]
    assert hot[0] == hot[1] and len({*hot}) > 1
    greedy = handle.chat(asked, max_tokens=24).said
    assert handle.chat(asked, max_tokens=24, temperature=2, top_p=1e-6, seed=4).said == greedy
    assert handle.chat(asked, max_tokens=24, temperature=1e-300, seed=4).said == greedy


def test_a_reader_that_goes_ends_the_generation(handle: ModelHandle) -> None:
    stream = handle.stream(conversation("Count."), tools=TOOLS)
    assert next(stream)
    stream.close()
    assert stream.reply is None


def test_ftg_chat_shows_what_is_beside_the_text(folder: Path, ftg: Ftg) -> None:
    """Reasoning on stderr, and in --json; the answer alone on stdout."""
    done = ftg("chat", str(folder), "Count.")
    assert done.returncode == 0, done.stderr
    shown = json.loads(ftg("chat", str(folder), "Count.", "--json").stdout)
    assert shown["text"] == ROWS["Count."]["content"] and done.stdout == shown["text"] + "\n"
    assert shown["reasoning"] == "Easy." and shown["note"] is None
    assert "Reasoning: Easy." in done.stderr


def test_a_response_template_is_used_if_it_reads_what_the_model_writes(
    folder: Path, tmp_path: Path
) -> None:
    """One that a folder ships; one that reads something else is not."""
    answer: dict[str, dict[str, Any]] = {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*"},
        "tool_calls": {
            "open": "<tool_call>", "close_pattern": r"</tool_call>\s*", "repeats": True,
            "content": "json", "transform": {"type": "function", "function": "{content}"},
        },
        "content": {},
    }  # fmt: skip
    shipped = {"start_anchor": "<|im_start|>assistant\n", "fields": answer}
    wrong = {**shipped, "fields": {**answer, "tool_calls": {**answer["tool_calls"], "open": "<x>"}}}
    raw = "<think>\nWhy.\n</think>\n\nSo.\n"
    raw += '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    for one, used in ((shipped, True), (wrong, False)):
        copied = shutil.copytree(folder, tmp_path / str(used))
        config = json.loads((copied / "tokenizer_config.json").read_text())
        config["response_template"] = one
        (copied / "tokenizer_config.json").write_text(json.dumps(config))
        reader = answer_reader(ChatTemplate.load(copied))
        assert isinstance(reader, ShippedReader) == used
        answered = reader.read(raw, "<|im_start|>assistant\n", None)
        assert (answered.text, answered.calls[0].arguments) == ("So.", {"a": 1})
        assert str(answered.reasoning).strip() == "Why."


SAID: dict[str, Any] = {"role": "assistant", "content": "On Tuesday."}
NO_MESSAGES: list[tuple[Any, str]] = [
    (None, "a text or a list of messages, not None"),
    ([1], r"messages\[0\] is no message: 1"),
    ([[SAID]], r"messages\[0\] is no message"),
    ([{"content": "Hello"}], r"messages\[0\].role is None"),
    ([SAID, {"role": "user", "content": 4}], r"messages\[1\].content is 4"),
    ([{"role": "user", "content": [4]}], r"messages\[0\].content is \[4\]"),
    ([{**SAID, "tool_calls": 3}], r"messages\[0\].tool_calls is no list of calls: 3"),
    ([{"role": "user", "content": "\ud83d"}], "half of a character, '.ud83d'"),
    ("\ud83d", "half of a character"),
]


@pytest.mark.parametrize(("messages", "words"), NO_MESSAGES)
def test_what_is_no_conversation_is_said(handle: ModelHandle, messages: Any, words: str) -> None:
    """Before anything is generated, of one and of many, in which the others are answered."""
    for ask in (handle.chat, handle.stream):
        with pytest.raises(SpecError, match=words):
            ask(messages, max_tokens=2)
    with pytest.raises(SpecError, match=words):
        handle.reference_loss(messages, SAID)
    if isinstance(messages, list):
        asked = [{"messages": messages}, {"messages": conversation("Count.")}]
        wrong, answered = handle.chat_many(asked, max_tokens=2)
        assert isinstance(wrong, SpecError) and isinstance(answered, ChatReply)


def test_what_is_no_text_is_said(handle: ModelHandle) -> None:
    """As a system prompt, a text to go on with, a reference, a conversation among many."""
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: handle.chat("Count.", system=5), "system is a text, not 5"),  # type: ignore[arg-type]
        (lambda: handle.chat("Count.", system="\udc80"), "system holds half of a character"),
        (lambda: handle.complete("\ud83d"), "The text holds half of a character"),
        (lambda: handle.reference_loss("Count.", "One."), "no message of an assistant: 'One.'"),  # type: ignore[arg-type]
    ]
    for ask, words in wrong:
        with pytest.raises(SpecError, match=words):
            ask()
    number: Any = 1
    [error] = handle.chat_many([number])
    assert isinstance(error, SpecError) and "1 is no conversation" in error.message
