"""Rows as training takes them: what is compared in a pair, whose answer a label is for, where texts
end and are cut."""

from __future__ import annotations

from typing import Any

import pytest
from families.folders import write_folder
from hypothesis import given
from hypothesis import strategies as st

from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate, Encoded
from finetune_gateway.tokens.text_tokenizer import TextTokenizer, pieces
from finetune_gateway.tokens.training_rows import compared, cut_row, encode_row

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Shows the answers before the last question without their first letter.
ANEW = CHATML.replace(
    "{{ m.content }}",
    "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% else %}{{ m.content[1:] }}"
    "{% endif %}",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return ChatTemplate.load(write_folder(tmp_path_factory.mktemp("chatml"), CHATML))


def pair(good: str, bad: str, question: str = "Where is my parcel?") -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": bad}],
    }


def text_of(template: ChatTemplate, one: Encoded) -> str:
    """What is trained, special tokens included."""
    ids = [label for label in one.labels if label != IGNORED]
    return str(template.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize(
    ("good", "bad", "trained"),
    [
        ("On Tuesday.", "No idea.", ("On Tuesday.<|im_end|>", "No idea.<|im_end|>")),
        # What both answers begin with is no difference, and one may be all of the other.
        ("It comes today.", "It comes never.", (" today.<|im_end|>", " never.<|im_end|>")),
        ("Yes", "Yes, soon", ("<|im_end|>", ", soon<|im_end|>")),
        ("", "No idea.", ("", "")),  # nothing that a model says
    ],
)  # fmt: skip
def test_what_differs_is_compared(
    template: ChatTemplate, good: str, bad: str, trained: tuple[str, str]
) -> None:
    """The stop token included; the sequences are those of the whole conversations."""
    chosen, rejected = encode_row(template, pair(good, bad))
    assert (text_of(template, chosen), text_of(template, rejected)) == trained
    for one, answer in ((chosen, good), (rejected, bad)):
        messages = [*pair("", "")["input"]["messages"], {"role": "assistant", "content": answer}]
        [whole] = template.encode({"messages": messages})
        assert one.input_ids == whole.input_ids
    prompt = template.prompt_ids(pair("", "")["input"]["messages"])
    assert chosen.input_ids[: len(prompt)] == rejected.input_ids[: len(prompt)] == prompt


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_two_sequences_of_ids_are_compared_behind_their_common_beginning(
    one: list[int], other: list[int]
) -> None:
    """Both sides have labels, or neither; the first of each is at the first difference."""
    chosen, rejected = compared([Encoded(ids, list(ids), len(ids)) for ids in (one, other)])
    shared = 0
    while one[shared : shared + 1] == other[shared : shared + 1] != []:
        shared += 1
    if shared in (len(one), len(other)):
        assert not chosen.trained and not rejected.trained
        return
    for side, ids in ((chosen, one), (rejected, other)):
        assert side.labels == [IGNORED] * shared + ids[shared:]


def test_a_difference_that_is_cut_off_leaves_nothing_to_compare(template: ChatTemplate) -> None:
    """Neither do equal answers; a cut behind the difference leaves its beginning on both sides."""
    row = pair("It comes on Tuesday, at noon.", "It comes on Tuesday, at five.")
    sides = encode_row(template, row)
    first = next(at for at, label in enumerate(sides[0].labels) if label != IGNORED)
    assert [one.trained for one in cut_row(sides, first, pair=True)] == [0, 0]
    assert [one.trained for one in cut_row(sides, first + 1, pair=True)] == [1, 1]
    assert [one.trained for one in encode_row(template, pair("The same.", "The same."))] == [0, 0]


def test_a_label_is_for_the_last_answer(template: ChatTemplate) -> None:
    """Earlier answers of an unpaired row are its prompt, and nothing of them is trained."""
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 2, ("a", "one", "b", "two"), strict=True)
    ]
    [one] = encode_row(template, {"messages": messages, "label": False})
    assert text_of(template, one) == "two<|im_end|>"
    [chat] = encode_row(template, {"messages": messages})
    assert text_of(template, chat) == "one<|im_end|>two<|im_end|>"


def test_an_answer_of_several_turns_that_are_shown_anew_is_refused(
    tmp_path_factory: pytest.TempPathFactory, template: ChatTemplate
) -> None:
    """The error names the side; a template that shows them as they are written compares all."""
    row = pair("", "No idea.")
    row["preferred_output"] = [
        {"role": role, "content": text}
        for role, text in zip(("assistant", "user", "assistant"), ("Which?", "A-1", "On Tuesday."),
                              strict=True)
    ]  # fmt: skip
    chosen, _ = encode_row(template, row)
    assert text_of(template, chosen) == "Which?<|im_end|>On Tuesday.<|im_end|>"
    anew = ChatTemplate.load(write_folder(tmp_path_factory.mktemp("anew"), ANEW))
    with pytest.raises(DataError, match="2 turns of the chosen answer"):
        encode_row(anew, row)


def test_a_text_needs_no_chat_template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It ends with the tokenizer's eos_token, once; all of it is trained."""
    folder = write_folder(tmp_path_factory.mktemp("base"), CHATML)
    (folder / "chat_template.jinja").unlink()
    texts = TextTokenizer.load(folder)
    end = texts.tokenizer.token_to_id("<|im_end|>")
    [one] = encode_row(texts, {"text": "Where is my parcel?"})
    assert one.input_ids == one.labels == [*texts.tokenizer.encode("Where is my parcel?").ids, end]
    assert [id == end for id in texts.ids("Here.<|im_end|>")].count(True) == 1
    assert texts.ids("") == []
    with pytest.raises(DataError, match="no chat template"):
        encode_row(texts, {"messages": [{"role": "user", "content": "Hello"}]})


def test_a_tokenizer_without_an_end_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_folder(tmp_path_factory.mktemp("endless"), CHATML)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(SpecError, match="no eos_token"):
        TextTokenizer.load(folder).ids("A text.")


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=9), st.integers(1, 7))
def test_pieces_lose_nothing(texts: list[list[int]], length: int) -> None:
    """Joined they are the texts; all but the last are full."""
    made = list(pieces(texts, length))
    assert [id for piece in made for id in piece] == [id for text in texts for id in text]
    assert all(len(piece) == length for piece in made[:-1])
    assert all(0 < len(piece) <= length for piece in made)
