"""The one function that renders, tokenises and marks rows of local models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from families import folders, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BatchEncoding

from finetune_gateway.backends.local import builtin
from finetune_gateway.errors import DataError, NotFoundError, SpecError
from finetune_gateway.tokens.chat_template import (
    IGNORED,
    ChatTemplate,
    Encoded,
)
from finetune_gateway.tokens.model_folder import read_model_files
from finetune_gateway.tokens.template_rows import for_template

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"id": "A-1"}'}}
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find an order",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer, template and config of the built-in model."""
    return builtin.ensure_tokenizer(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def template(folder: Path) -> ChatTemplate:
    return ChatTemplate.load(folder)


def turns(*pairs: tuple[str, str], **last: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in pairs]
    messages[-1].update(last)
    return {"messages": messages}


def text_of(template: ChatTemplate, ids: list[int]) -> str:
    return str(template.tokenizer.decode(ids, skip_special_tokens=False))


def encode(template: ChatTemplate, row: dict[str, Any], **options: Any) -> Encoded:
    """Return the only sequence of a row."""
    [encoded] = template.encode(row, **options)
    return encoded


def trained_text(template: ChatTemplate, row: dict[str, Any], **options: Any) -> str:
    labels = encode(template, row, **options).labels
    return text_of(template, [label for label in labels if label != IGNORED])


def test_only_what_the_assistant_says_is_trained_and_its_stop_token(template: ChatTemplate) -> None:
    """The labels, decoded, are the answers and the tokens that end them; nothing else."""
    row = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
    assert trained_text(template, row) == "Hello<|im_end|>"
    row = turns(("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"))
    assert trained_text(template, row) == "one<|im_end|>two<|im_end|>"


def test_labels_stand_where_their_tokens_stand(template: ChatTemplate) -> None:
    """A label is -100 or the very token at its place."""
    encoded = encode(template, turns(("user", "Hi there"), ("assistant", "Hello, you")))
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    assert all(label in (IGNORED, token) for token, label in pairs)


def test_a_turn_of_weight_zero_is_read_but_not_trained(template: ChatTemplate) -> None:
    """OpenAI's ``weight: 0`` holds here too."""
    row = turns(("user", "a"), ("assistant", "bad"), ("user", "b"), ("assistant", "good"))
    row["messages"][1]["weight"] = 0
    row["messages"][3]["weight"] = 1
    assert trained_text(template, row) == "good<|im_end|>"
    assert "bad" in text_of(template, encode(template, row).input_ids)
    assert "bad" not in trained_text(template, row, train_on="all")


def test_train_on_last_assistant_and_all(template: ChatTemplate) -> None:
    """``last_assistant`` keeps the last answer; ``all`` keeps the questions too, except for
    the first token: nothing comes before it, so it has no loss."""
    row = turns(("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"))
    assert trained_text(template, row, train_on="last_assistant") == "two<|im_end|>"
    encoded = encode(template, row, train_on="all")
    assert encoded.labels == [IGNORED, *encoded.input_ids[1:]]
    assert encoded.trained == encoded.length - 1


def test_tool_arguments_are_rendered_once(template: ChatTemplate) -> None:
    """A JSON string on the wire is an object to the template: no escaped quotes."""
    messages = [
        {"role": "user", "content": "Where is A-1?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "in the depot"},
        {"role": "assistant", "content": "In the depot."},
    ]
    row = {"messages": messages, "tools": [TOOL]}
    said = trained_text(template, row)
    assert '{"id": "A-1"}' in said and "\\" not in said
    as_object = json.loads(json.dumps(row))
    as_object["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"id": "A-1"}
    assert encode(template, as_object) == encode(template, row)
    assert "in the depot" not in said and "In the depot." in said


def test_a_special_token_typed_by_a_user_stays_text(template: ChatTemplate) -> None:
    """``<|im_end|>`` in the data is not the token that ends a turn."""
    stop = template.tokenizer.token_to_id("<|im_end|>")
    plain = encode(template, turns(("user", "ab"), ("assistant", "cd")))
    typed = encode(template, turns(("user", "a<|im_end|>b"), ("assistant", "c<|im_end|>d")))
    assert stop is not None
    assert typed.input_ids.count(stop) == plain.input_ids.count(stop)
    assert "a<|im_end|>b" in text_of(template, typed.input_ids)
    row = turns(("user", "a<|im_end|>b"), ("assistant", "c<|im_end|>d"))
    assert trained_text(template, row) == "c<|im_end|>d<|im_end|>"
    asked = template.prompt_ids([{"role": "user", "content": "<|im_start|>system"}])
    start = template.tokenizer.token_to_id("<|im_start|>")
    assert (
        start is not None and asked.count(start) == 2
    )  # the user's turn and the opening of the answer


def test_the_prompt_is_the_beginning_of_the_training_text(template: ChatTemplate) -> None:
    """What a model is asked with is what it was trained on, token for token."""
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Where is it?"}]
    asked = template.prompt_ids(messages)
    for answer in ("It is here", "\n\nIt is here", " spaced"):
        row = {"messages": [*messages, {"role": "assistant", "content": answer}]}
        encoded = encode(template, row)
        assert encoded.input_ids[: len(asked)] == asked
        assert encoded.labels[len(asked)] != IGNORED


def test_ids_and_marks_equal_those_of_transformers(template: ChatTemplate, folder: Path) -> None:
    """For plain rows ``AutoTokenizer.apply_chat_template`` says the same."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        turns(("system", "Be <b>brief</b> \n"), ("user", "hé 😀"), ("assistant", "wörld")),
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "r"},
                {"role": "assistant", "content": "done"},
            ],
            "tools": [TOOL],
        },
    ]
    for row in rows:
        theirs = tokenizer.apply_chat_template(
            [for_template(message) for message in row["messages"]],
            tools=row.get("tools"),
            return_assistant_tokens_mask=True,
            return_dict=True,
        )
        assert isinstance(theirs, BatchEncoding)
        ours = encode(template, row)
        assert ours.input_ids == theirs["input_ids"]
        assert [int(x != IGNORED) for x in ours.labels] == list(theirs["assistant_masks"])


def test_rows_are_cut_at_the_end_and_say_so(template: ChatTemplate) -> None:
    """``max_length`` keeps the beginning, as OpenAI does, and the whole length is known."""
    row = turns(("user", "one two three"), ("assistant", "four five six"))
    whole = encode(template, row)
    cut = encode(template, row, max_length=8)
    assert cut.input_ids == whole.input_ids[:8] and cut.truncated and not whole.truncated
    assert cut.length == len(whole.input_ids)


def test_developer_parts_and_prompt_completion(template: ChatTemplate) -> None:
    """Other ways to write the same conversation give the same tokens."""
    plain = turns(("system", "s"), ("user", "ab"), ("assistant", "c"))
    other = turns(("developer", "s"), ("user", ""), ("assistant", "c"))
    other["messages"][1]["content"] = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert encode(template, other) == encode(template, plain)
    refused = turns(("system", "s"), ("user", "ab"), ("assistant", ""))
    refused["messages"][2] |= {"content": None, "refusal": "c"}
    assert encode(template, refused) == encode(template, plain)
    modern: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "in the depot"},
    ]
    deprecated: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "function_call": CALL["function"]},
        {"role": "function", "name": "find", "content": "in the depot"},
    ]
    asked: list[dict[str, Any]] = plain["messages"][:2]
    found = [template.text([*asked, *one]) for one in (modern, deprecated)]
    assert found[0] == found[1] and "<tool_call>" in found[0]
    pair = encode(template, {"prompt": "q", "completion": "a"})
    assert pair == encode(template, turns(("user", "q"), ("assistant", "a")))
    with pytest.raises(DataError, match="not a conversation"):
        encode(template, {"text": "q"})


def test_a_template_that_never_stops_is_refused(folder: Path, tmp_path: Path) -> None:
    """A model that never stops is an error before training."""
    said = "{% for m in messages %}{{ m.content }}{% endfor %}"
    marked = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    endless = marked + "{{ m.content }}{% endgeneration %}{% endif %};{% endfor %}"
    for source in (said, endless):
        path = tmp_path / "template.jinja"
        path.write_text(source)
        with pytest.raises(SpecError, match="ends an answer"):
            ChatTemplate.load(folder, path).check()
    ChatTemplate.load(folder).check()


@pytest.mark.parametrize(
    ("generation", "config", "stops"),
    [(0, 3, {0, 2}), ([3, 0], None, {0, 2, 3}), (None, [3], {2, 3}), (None, None, {2})],
)
def test_stops_are_those_of_the_model_s_files(
    generation: Any, config: Any, stops: set[int], folder: Path, tmp_path: Path
) -> None:
    """Of generation_config.json, else config.json; and the one of the tokenizer."""
    model = shutil.copytree(folder, tmp_path / "model")
    for name, value in (("generation_config.json", generation), ("config.json", config)):
        (model / name).write_text(json.dumps({} if value is None else {"eos_token_id": value}))
    assert read_model_files(model).stop_ids == stops
    named = tmp_path / "named.jinja"
    named.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert ChatTemplate.load(model, named).stop_ids == stops


def test_what_a_template_refuses_is_said(folder: Path, tmp_path: Path) -> None:
    """The template's own words reach the user; a missing or broken file is named."""
    path = tmp_path / "template.jinja"
    path.write_text("{{ raise_exception('System role not supported') }}")
    with pytest.raises(DataError, match="System role not supported"):
        encode(ChatTemplate.load(folder, path), turns(("user", "a"), ("assistant", "b")))
    path.write_text("{% for %}")
    with pytest.raises(SpecError, match="cannot be read"):
        ChatTemplate.load(folder, path)
    with pytest.raises(NotFoundError):
        ChatTemplate.load(folder, tmp_path / "none.jinja")
    with pytest.raises(SpecError, match="no chat template"):
        (tmp_path / "bare").mkdir()
        ChatTemplate.load(tmp_path / "bare")


def test_a_hostile_template_stays_in_its_sandbox(folder: Path, tmp_path: Path) -> None:
    """A template cannot reach Python's insides."""
    path = tmp_path / "template.jinja"
    path.write_text("{{ cycler.__init__.__globals__.os.popen('id').read() }}")
    with pytest.raises(DataError):
        ChatTemplate.load(folder, path).prompt_ids([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3", "gemma", "phi3", "glm4moe"])
def test_trl_templates_mark_the_answer(tmp_path: Path, family: str) -> None:
    """The answer, and no word of the question, is marked by templates of many families."""
    source = (sources.trl_folder() / f"{family}_training.jinja").read_text(encoding="utf-8")
    template = ChatTemplate.load(folders.write_folder(tmp_path, source))
    said = trained_text(template, turns(("user", "question"), ("assistant", "answer")))
    assert "answer" in said and "question" not in said


@settings(max_examples=200, deadline=None)
@given(question=st.text(max_size=30), answer=st.text(min_size=1, max_size=30))
def test_any_text_survives(template: ChatTemplate, question: str, answer: str) -> None:
    """Whatever is typed comes back from the tokens, and only the answer is trained."""
    if any(0xD800 <= ord(char) <= 0xDFFF for char in question + answer):
        return  # lone surrogates are refused by validation
    row = turns(("user", question), ("assistant", answer))
    said = trained_text(template, row)
    assert said == answer + "<|im_end|>"
    assert question in text_of(template, encode(template, row).input_ids)
