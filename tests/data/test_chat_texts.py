"""Conversations in one text, as a chat template writes them, are named, and read where all of the
text is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as gateway
from finetune_gateway import DataError
from finetune_gateway.data.canonical import read
from finetune_gateway.data.chat_texts import is_whole
from finetune_gateway.validation.rows.formats import chat_as_text

Json = dict[str, Any]
ASK, SAY, WHY, SO = "What is 2\n+ 2?", "It is\n\n4.", "Sure: 4?", "Yes."
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n"
)


def told(*texts: str, system: str = "") -> list[Json]:
    """Messages of user and assistant in turns."""
    said = [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)
    ]
    return [*([{"role": "system", "content": system}] if system else []), *said]


BOTH = told(ASK, SAY, WHY, SO)
LED = told(ASK, SAY, WHY, SO, system="Be brief.")
# The name of a template, a text in it, and its messages.
TEXTS: dict[str, tuple[str, list[Json]]] = {
    "Guanaco": (
        f"### Human: {ASK}### Assistant: {SAY}### Human: {WHY}### Assistant: {SO}", BOTH,
    ),
    "Guanaco by lines": (
        f"### Human: {ASK}\n### Assistant: {SAY}\n### Human: {WHY}\n### Assistant: {SO}", BOTH,
    ),
    "Llama 2": (
        f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{ASK} [/INST] {SAY} </s>"
        f"<s>[INST] {WHY} [/INST] {SO} </s>", LED,
    ),
    "Mistral": (f"<s>[INST] {ASK} [/INST] {SAY}</s>[INST] {WHY} [/INST] {SO}</s>", BOTH),
    "Claude 2": (
        f"\n\nHuman: {ASK}\n\nAssistant: {SAY}\n\nHuman: {WHY}\n\nAssistant: {SO}", BOTH,
    ),
    "ChatML": (
        "".join(f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in LED), LED,
    ),
    "Llama 3": (
        "<|begin_of_text|>" + "".join(
            f"<|start_header_id|>{one['role']}<|end_header_id|>\n\n{one['content']}<|eot_id|>"
            for one in LED
        ), LED,
    ),
    "Gemma": (
        "<bos>" + "".join(
            f"<start_of_turn>{('user', 'model')[at % 2]}\n{one['content']}<end_of_turn>\n"
            for at, one in enumerate(BOTH)
        ), BOTH,
    ),
    "Zephyr": ("".join(f"<|{one['role']}|>\n{one['content']}</s>\n" for one in LED), LED),
    "Phi-3": ("".join(f"<|{one['role']}|>\n{one['content']}<|end|>\n" for one in LED), LED),
    "Vicuna": (
        f"A chat between two. USER: {ASK} ASSISTANT: {SAY}</s>USER: {WHY} ASSISTANT: {SO}</s>",
        told(ASK, SAY, WHY, SO, system="A chat between two."),
    ),
    "Alpaca": (f"{ALPACA}### Instruction:\n{ASK}\n\n### Response:\n{SAY}", told(ASK, SAY)),
    "Alpaca with an input": (
        f"{ALPACA}### Instruction:\nSum up.\n\n### Input:\nOnce.\n\n### Response:\n{SAY}",
        told("Sum up.\n\nOnce.", SAY),
    ),
}  # fmt: skip


def written(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("name", TEXTS)
def test_a_conversation_in_a_template_is_named_and_read(name: str) -> None:
    """With its template; what is read is what was said, whatever the spaces around it."""
    text, wanted = TEXTS[name]
    found = chat_as_text({"text": text})
    assert found is not None and found.code == "chat_in_text"
    for spaced in (text, text.rstrip(), f"{text}\n"):
        sent = read({"messages": spaced})
        assert (sent.row, sent.errors) == ({"messages": wanted}, [])


def test_the_command_of_the_finding_reads_texts_of_all_templates(tmp_path: Path) -> None:
    """What it writes says the same and is accepted; under the map no mark is warned of."""
    rows: list[Json] = [{"text": text} for text, _ in TEXTS.values()]
    path = written(tmp_path / "texts.jsonl", rows)
    report = gateway.validate(path)
    (found,) = [one for one in report.findings if one.code == "chat_in_text"]
    assert found.line == 1 and "template of Guanaco" in found.message
    assert f"ftg convert {path} --map text=messages --to openai" in found.fix
    dataset = gateway.Dataset.open(path, columns={"text": "messages"})
    dataset.convert("openai", tmp_path / "chat.jsonl")
    lines = (tmp_path / "chat.jsonl").read_text("utf-8").splitlines()
    assert [*map(json.loads, lines)] == [{"messages": wanted} for _, wanted in TEXTS.values()]
    judged = dataset.validate()
    assert not judged.errors
    assert {one.code for one in judged.warnings} <= {"duplicates", "near_duplicates"}


MENTIONED = {
    "a mark within a line": "### Human: What is ### Assistant: for?\n### Assistant: A turn.",
    "both marks": "### Human: Is ### Assistant: or ### Human: first?\n### Assistant: The latter.",
    "in code": "### Human: Show it.\n### Assistant: ```\n### Human: Hi\n### Assistant: Hello\n```",
    "quoted": '### Human: Why "### Assistant: a" and "### Human: b"?### Assistant: So.',
    "a line break before it": "\n\nHuman: A chat?\n\nAssistant: This:\nHuman: Hi\nAssistant: Hello",
    "of a user": "<s>[INST] What is [INST] for? [/INST] A turn. </s>",
    "in ChatML": "<|im_start|>user\nWhy <|im_start|>?<|im_end|>\n<|im_start|>assistant\nA",
    "an end inside": "USER: What is </s> for? ASSISTANT: It ends an answer.</s>",
    "two answers": "USER: Hi ASSISTANT: Hello</s>ASSISTANT: Hello</s>",
    "no answer": "### Instruction:\nHi\n\n### Response:\n",
    "cut off": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel",
    "text behind it": "<s>[INST] Hi [/INST] Hello </s> and more",
}


@pytest.mark.parametrize("name", MENTIONED)
def test_a_mark_that_is_mentioned_begins_no_turn(name: str) -> None:
    """The row is refused as a whole."""
    assert not is_whole(MENTIONED[name])
    errors = read({"messages": MENTIONED[name]}).errors
    assert [one.path for one in errors] == ["messages"] * (name != "no answer")


def test_rows_that_are_not_one_conversation_are_kept_by_their_lines(tmp_path: Path) -> None:
    """Nothing is converted, the error has the line, and --fix leaves those rows as they are."""
    rows: list[Json] = [{"text": text} for text, _ in TEXTS.values()]
    bad = MENTIONED["both marks"]
    path = written(tmp_path / "texts.jsonl", [*rows, {"text": bad}])
    dataset = gateway.Dataset.open(path, columns={"text": "messages"})
    with pytest.raises(DataError, match=f"line {len(rows) + 1}: .*not one conversation"):
        dataset.convert("openai", tmp_path / "chat.jsonl")
    assert not (tmp_path / "chat.jsonl").exists()
    (error,) = dataset.validate().errors
    assert (error.code, error.path, error.line) == ("not_convertible", "text", len(rows) + 1)
    dataset.fix(tmp_path / "fixed.jsonl")
    last = (tmp_path / "fixed.jsonl").read_text("utf-8").splitlines()[-1]
    assert json.loads(last) == {"messages": bad}


def test_a_text_about_a_template_is_plain_text() -> None:
    """Prose and code that mention marks are no conversation, also under sft."""
    texts = [
        "A prompt of Guanaco has ### Human: and ### Assistant: in it.",
        "Human: a being. Assistant: a helper.",
        "In ChatML, <|im_start|>user begins a turn.",
        "[INST] is a mark of Llama 2.",
        "USER: the person. It is written so.",
        *MENTIONED.values(),
    ]
    for text in texts:
        found = chat_as_text({"text": text})
        assert found is None or found.code != "chat_in_text"


def test_a_prompt_in_a_template_is_read_with_its_completion(tmp_path: Path) -> None:
    """The finding names the command; the answer is the completion."""
    rows = [
        {"prompt": f"\n\nHuman: {ASK} {n}\n\nAssistant:", "completion": f" {SAY}"}
        for n in range(12)
    ]
    path = written(tmp_path / "claude.jsonl", rows)
    (found,) = [one for one in gateway.validate(path).findings if one.code == "dialogue_in_text"]
    assert "--map prompt=messages --to openai" in found.fix
    dataset = gateway.Dataset.open(path, columns={"prompt": "messages"})
    dataset.convert("openai", tmp_path / "chat.jsonl")
    first = json.loads((tmp_path / "chat.jsonl").read_text().splitlines()[0])
    assert first == {"messages": told(f"{ASK} 0", SAY)}


def test_the_command_names_a_column_that_was_mapped(tmp_path: Path) -> None:
    """By the name that the file has."""
    path = written(tmp_path / "texts.jsonl", [{"sample": TEXTS["Guanaco"][0]}] * 12)
    report = gateway.validate(path, columns={"sample": "text"})
    (found,) = [one for one in report.findings if one.code == "chat_in_text"]
    assert f"ftg convert {path} --map sample=messages --to openai" in found.fix


def test_texts_in_a_template_are_meant_where_the_method_is_pretrain(tmp_path: Path) -> None:
    """By the user's word that is a note, and the marks of the template are no finding; a special
    token in what is said is one. Without that word the way to messages is a warning."""
    rows: list[Json] = [{"text": text} for text, _ in TEXTS.values()]
    path = written(tmp_path / "texts.jsonl", rows)
    report = gateway.validate(path, method="pretrain")
    assert not report.errors
    assert {one.code for one in report.findings if one.severity == "warning"} <= {"similar_rows"}
    (note,) = [one for one in report.findings if one.code == "format_text"]
    assert "template of Guanaco; all of it is trained" in note.message
    assert "chat_in_text" in {one.code for one in gateway.validate(path).findings}
    text = (
        f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{SAY}<|endoftext|><|im_end|>\n"
    )
    path = written(
        tmp_path / "ended.jsonl", [{"text": text.replace(ASK, f"{n}?")} for n in range(12)]
    )
    report = gateway.validate(path, method="pretrain")
    (found,) = [one for one in report.findings if one.code == "special_tokens_in_text"]
    assert found.count == 12
