"""The built-in model and the demo's data: what is made, and that it loads like any other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import Dataset
from finetune_gateway.backends.local import builtin
from finetune_gateway.errors import SpecError
from finetune_gateway.tokens.chat_template import ChatTemplate

QUESTION = {"role": "user", "content": "Where is parcel A-1042?"}
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "track", "arguments": {"n": "é<1"}}}
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin.ensure_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin.ensure_model(tmp_path_factory.mktemp("model"), lambda line: None, steps=2)


def answers(split: builtin.Split) -> list[dict[str, Any]]:
    rows = Dataset.open(builtin.demo_path(split)).rows()
    return [json.loads(row.data["messages"][-1]["content"]) for row in rows]


def prompts(split: builtin.Split) -> list[str]:
    rows = Dataset.open(builtin.demo_path(split)).rows()
    return [row.data["messages"][0]["content"] for row in rows]


# -- tokenizer and template


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    """Another process, with other hashes, trains the same tokenizer, without torch."""
    program = (
        "import sys; from finetune_gateway.backends.local import builtin\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "sys.stdout.write(builtin.build_tokenizer().to_str())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert other.stdout.decode() == builtin.build_tokenizer().to_str()


@pytest.mark.parametrize("text", ["Where is A-1042?", " \n\n\tx  y ", "Ünï 日本 🙂", '{"a": 1}'])
def test_any_text_survives_the_tokenizer(text: str) -> None:
    """Byte-level: what goes in comes out, whatever the corpus knew."""
    tokenizer = builtin.build_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_are_single_ids_and_the_vocabulary_fits_the_model() -> None:
    """The ids the config names are those of the tokenizer."""
    tokenizer = builtin.build_tokenizer()
    assert [tokenizer.encode(token).ids for token in builtin.SPECIAL] == [[0], [1], [2], [3]]
    assert builtin.SPECIAL[builtin.CONFIG["eos_token_id"]] == "<|im_end|>"
    assert builtin.SPECIAL[builtin.CONFIG["pad_token_id"]] == "<|pad|>"
    assert tokenizer.get_vocab_size() == builtin.CONFIG["vocab_size"]


def test_transformers_reads_the_folder_like_any_other(folder: Path) -> None:
    """AutoTokenizer and AutoConfig load it; ids are those of our own tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "<|im_start|>user\nWhere is A-1042?<|im_end|>\n"
    assert tokenizer(text)["input_ids"] == builtin.build_tokenizer().encode(text).ids
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 3, None)
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.head_dim, config.tie_word_embeddings) == ("llama", 32, True)


@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be short."}]])
def test_the_prompt_is_the_beginning_of_what_is_trained(
    folder: Path, tools: list[dict[str, Any]] | None, system: list[dict[str, Any]]
) -> None:
    """In transformers and in our own renderer, at every assistant turn; both give one text."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)  # its types know no list of dicts
    ours = ChatTemplate.load(folder)
    answer = {"role": "assistant", "content": "It is on its way."}
    chat = [*system, QUESTION, CALL, {"role": "tool", "content": "on its way"}, answer]
    whole = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    row = {"messages": chat, **({"tools": tools} if tools else {})}
    [encoded] = ours.encode(row)
    assert encoded.input_ids == tokenizer(whole)["input_ids"]
    for cut in (len(system) + 1, len(chat) - 1):
        prompt = tokenizer.apply_chat_template(
            chat[:cut], tools=tools, tokenize=False, add_generation_prompt=True
        )
        assert whole.startswith(prompt) and whole != prompt
        assert ours.prompt_ids(chat[:cut], tools) == tokenizer(prompt)["input_ids"]


def test_the_marks_stand_around_the_answer_and_its_end(folder: Path) -> None:
    """Content, calls and <|im_end|> are trained, nothing else; arguments are encoded once."""
    template = ChatTemplate.load(folder)
    template.check()
    answer = {"role": "assistant", "content": "On its way."}
    [encoded] = template.encode({"messages": [QUESTION, CALL, QUESTION, answer], "tools": [TOOL]})
    trained = [label for label in encoded.labels if label >= 0]
    assert template.tokenizer.decode(trained, skip_special_tokens=False) == (
        '<tool_call>{"name": "track", "arguments": {"n": "é<1"}}</tool_call><|im_end|>'
        "On its way.<|im_end|>"
    )


# -- the model


def test_the_model_loads_and_answers_like_any_other(model_folder: Path) -> None:
    """AutoModelForCausalLM reads the folder whole and generates."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model_folder, output_loading_info=True, use_safetensors=True
    )
    model, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"]
    prompt = AutoTokenizer.from_pretrained(model_folder).apply_chat_template(
        [QUESTION], add_generation_prompt=True, return_tensors="pt"
    )
    assert isinstance(prompt, BatchEncoding)
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=4)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_two_builds_give_the_same_bytes(model_folder: Path, tmp_path: Path) -> None:
    """Same seed, same machine, same files; and the caller's torch is left as it was."""
    import torch

    torch.manual_seed(7)
    before = (torch.get_num_threads(), torch.random.get_rng_state())
    said: list[str] = []
    again = builtin.ensure_model(tmp_path / "again", said.append, steps=2)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert said == [said[0]] and "step 2 of 2" in said[0]
    names = sorted(path.name for path in model_folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (again / name).read_bytes() == (model_folder / name).read_bytes(), name


def test_a_built_model_is_not_built_again(model_folder: Path) -> None:
    """The second call only looks."""
    said: list[str] = []
    assert builtin.ensure_model(model_folder, said.append) == model_folder
    assert said == []


def test_damaged_weights_are_built_again(model_folder: Path, tmp_path: Path) -> None:
    """One bit may be another since: a job would train on it, and succeed with another model. Those
    of an earlier version have no hash."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights, said = folder / "model.safetensors", list[str]()
    whole = weights.read_bytes()
    damaged = bytearray(whole)
    damaged[-1000] ^= 0x40
    weights.write_bytes(damaged)
    assert builtin.is_built(folder) and not builtin.is_whole(folder)
    builtin.ensure_model(folder, said.append, steps=2)
    assert weights.read_bytes() == whole and "damaged" in said[0] and builtin.is_whole(folder)
    (folder / builtin.HASH).unlink()
    assert builtin.is_whole(folder)


def test_a_changed_recipe_gets_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter keeps the base it was trained on when the package is upgraded."""
    before = builtin.folder_name()
    assert before == builtin.folder_name()
    monkeypatch.setattr(builtin, "STEPS", builtin.STEPS + 1)
    assert builtin.folder_name() != before


# -- the demo's data


def test_every_demo_answer_is_the_behaviour() -> None:
    """One JSON object with the fixed keys and allowed values, all intents in every split."""
    counts = {split: len(answers(split)) for split in builtin.SPLITS}
    assert counts == {"train": 270, "validation": 36, "held_out": 36}
    for split in builtin.SPLITS:
        for answer in answers(split):
            assert tuple(answer) == builtin.DEMO_KEYS
            assert answer["urgency"] in ("low", "high")
        assert {answer["intent"] for answer in answers(split)} == set(builtin.demo_intents())


def test_no_demo_prompt_occurs_twice() -> None:
    """Not within a split, not across splits; nor has the base read one."""
    everything = [prompt for split in builtin.SPLITS for prompt in prompts(split)]
    assert len(set(everything)) == len(everything)
    rows = (row for row, _ in zip(builtin.corpus(), range(2000), strict=False))
    read = {m["content"] for row in rows for m in row.get("messages", [])}
    assert not read & set(everything)


def test_demo_rows_are_short(folder: Path) -> None:
    """They stay small enough for a minute on two cores (tokens, template included)."""
    template = ChatTemplate.load(folder)
    for split in builtin.SPLITS:
        for row in Dataset.open(builtin.demo_path(split)).rows():
            [encoded] = template.encode(row.data)
            assert len(encoded.input_ids) <= 80


def test_an_answer_ends_where_the_model_does(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At its 512 tokens, without a reminder of a library; a conversation that is longer has an
    error of ours."""
    from finetune_gateway.backends.local.inference import LocalModel
    from finetune_gateway.backends.local.loading import load_model

    model = LocalModel(load_model(model_folder), ChatTemplate.load(model_folder))
    long = {"role": "user", "content": "parcel " * 480}
    usage = model.chat([long], max_tokens=5000).usage
    assert usage is not None and usage.prompt_tokens + usage.completion_tokens <= 512
    assert usage.prompt_tokens > 400
    assert "maximum length" not in caplog.text
    with pytest.raises(SpecError, match="this model reads at most 512"):
        model.chat([{"role": "user", "content": "parcel " * 600}])
