"""Rows that a compared model was trained on, rows of its generator, rows of one conversation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.leaked import different_rows, leaked
from support.rows import chat_rows

from finetune_gateway.evaluation.leaks import clusters, mark, same_generator
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.evaluation.results import ComparedRow

Row = dict[str, Any]


def prompts(rows: Sequence[Row]) -> list[Prompt]:
    """What is asked in these rows."""
    found = [prompt_of(row, line) for line, row in enumerate(rows, 1)]
    return [one for one in found if one is not None]


def compared(rows: Sequence[Row]) -> list[ComparedRow]:
    return [ComparedRow(prompt=one, cluster=one.id) for one in prompts(rows)]


def trained_on(path: Path, rows: Sequence[Row], key: str = "tuned") -> EvaluatedModel:
    """A model of which no more is known than these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return EvaluatedModel(key, key, key, "local", "tuned", key, key, training_data=[path])


def kinds(rows: Sequence[ComparedRow]) -> Counter[str]:
    return Counter(leak.kind for row in rows for leak in row.leaks)


def test_twenty_planted_rows_are_found(tmp_path: Path) -> None:
    """Twelve exact ones, and of eight that were changed at least six, each with its line; of 40
    rows that were not trained on, none. Of three plantings each."""
    rows = different_rows(340)
    train, others = rows[:300], rows[300:]
    model = trained_on(tmp_path / "train.jsonl", train)
    for seed in range(3):
        exact, changed = leaked(train, seed)
        marked = mark(compared([*exact, *changed, *others]), [model])
        assert kinds(marked[:12]) == {"exact": 12}
        assert kinds(marked[12:20])["near"] >= 6
        assert kinds(marked[20:]) == {}
        for row, planted in zip(marked, exact, strict=False):
            assert row.leaks[0].model == "tuned" and train[row.leaks[0].line - 1] == planted


@pytest.mark.shared
def test_planted_rows_of_real_data(shared: Path, tmp_path: Path) -> None:
    """Questions to tables, and sums in words: none of those held out is taken for a leak."""
    for name, share in (
        ("fireworks_text2sql/text2sql_dataset", 5),
        ("foundry_gsm8k_chat/chat_train", 9),
    ):
        lines = (shared / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()
        every = [json.loads(line) for line in lines]
        train, others = every[len(every) // share :], every[: len(every) // share]
        model = trained_on(tmp_path / "train.jsonl", train)
        exact, changed = leaked(train, 1)
        marked = mark(compared([*exact, *changed, *others]), [model])
        assert kinds(marked[:12]) == {"exact": 12}
        assert kinds(marked[12:20])["near"] >= 6 and kinds(marked[20:]) == {}


def test_what_counts_as_the_same_row(tmp_path: Path) -> None:
    """The prompt alone counts: with another answer, and as an earlier turn of what was trained. A
    number that makes another question does not, nor an answer that many rows have."""
    [first, second, *rest] = different_rows(40)
    long = {"messages": [*second["messages"], {"role": "user", "content": "And then?"}]}
    long["messages"].append({"role": "assistant", "content": "Then nothing."})
    model = trained_on(tmp_path / "train.jsonl", [first, long, *rest, *chat_rows(60)])
    other_answer = {"messages": [*first["messages"][:-1], {"role": "assistant", "content": "No."}]}
    alone = {"messages": rest[0]["messages"][:-1]}
    unseen = chat_rows(70)[60:]
    marked = mark(compared([other_answer, second, alone, *unseen]), [model])
    found = [[(leak.kind, leak.line) for leak in row.leaks] for row in marked]
    assert found == [[("near", 1)], [("near", 2)], [("exact", 3)], *[[] for _ in unseen]]


def test_each_model_has_its_own_leaks(tmp_path: Path) -> None:
    """A row is marked for those that were trained on it; a base has no training rows. The file of
    two models is read for both; the same content under another name counts once."""
    rows = different_rows(60)
    one = trained_on(tmp_path / "one.jsonl", rows[:30], "one")
    two = trained_on(tmp_path / "two.jsonl", rows[20:50], "two")
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "two.jsonl").read_bytes())
    again = EvaluatedModel(
        "again", "n", "t", "local", "tuned", "m", "b",
        training_data=[tmp_path / "two.jsonl", tmp_path / "copy.jsonl"],
    )  # fmt: skip
    base = EvaluatedModel("base", "n", "t", "local", "base", "m", "b")
    [first, both, last, none] = mark(
        compared([rows[0], rows[25], rows[45], rows[55]]), [one, two, again, base]
    )
    assert [leak.model for leak in first.leaks] == ["one"]
    assert [(leak.model, leak.line) for leak in both.leaks] == [
        ("one", 26), ("two", 6), ("again", 6),
    ]  # fmt: skip
    assert [leak.model for leak in last.leaks] == ["two", "again"] and none.leaks == ()


def test_plain_text_and_lines_that_are_no_rows(tmp_path: Path) -> None:
    """A prompt that is part of a text was trained on; a line that cannot be read was not."""
    text = "The parcel was sent to the old harbour on a cold Monday in March, and came back."
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"text": "{text}"}}\n{{"text": \n[1]\n', encoding="utf-8")
    model = EvaluatedModel("m", "n", "t", "local", "tuned", "m", "b", training_data=[path])
    piece = {"messages": [{"role": "user", "content": text.removesuffix(", and came back.")}]}
    other = {"messages": [{"role": "user", "content": "Which harbour is the oldest of all then?"}]}
    found, none = mark(compared([piece, other]), [model])
    assert [leak.line for leak in found.leaks] == [1] and none.leaks == ()


def test_rows_of_one_template_are_warned_of(tmp_path: Path) -> None:
    """With its words, and dots for what differs; rows without one are not."""
    [warning] = same_generator(
        compared(chat_rows(80)[60:]), [trained_on(tmp_path / "one.jsonl", chat_rows(60))]
    )
    assert warning.startswith("20 of 20 rows have the form") and "..." in warning
    free = trained_on(tmp_path / "two.jsonl", different_rows(60))
    assert same_generator(compared(different_rows(80)[60:]), [free]) == []
    assert same_generator(compared(chat_rows(80)[60:]), [free]) == []


def test_rows_of_one_conversation_are_one_cluster() -> None:
    """Where one is the beginning of the other. The same system prompt alone is no conversation, nor
    is the same first question with another answer."""
    system = {"role": "system", "content": "Be brief."}
    one, two = ({"role": "user", "content": text} for text in ("One?", "Two?"))
    yes, no = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))
    rows = [
        {"messages": [system, one]},
        {"messages": [system, one, yes, two]},
        {"messages": [system, one, yes, two, no, one]},
        {"messages": [system, two]},
        {"messages": [one]},
    ]
    asked = prompts(rows)
    names = clusters(asked)
    assert [names[prompt.id] for prompt in asked] == [
        asked[0].id, asked[0].id, asked[0].id, asked[3].id, asked[4].id,
    ]  # fmt: skip
    later = prompts([{"messages": [one, yes, two]}, {"messages": [one, no, two]}])
    assert len(set(clusters(later).values())) == 2


def test_of_several_training_files_an_exact_row_counts(tmp_path: Path) -> None:
    """Whichever file it is in: a fine-tune of a fine-tune has those of both."""
    rows = different_rows(30)
    others = [
        {"messages": [*row["messages"][:-1], {"role": "assistant", "content": "No."}]}
        for row in rows
    ]
    first = trained_on(tmp_path / "second.jsonl", others)
    both = trained_on(tmp_path / "first.jsonl", rows)
    both = replace(both, training_data=[*first.training_data, *both.training_data])
    assert kinds(mark(compared(rows[:3]), [first])) == {"near": 3}
    assert kinds(mark(compared(rows[:3]), [both])) == {"exact": 3}
