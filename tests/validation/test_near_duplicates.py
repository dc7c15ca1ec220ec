"""Near-duplicates: planted ones are found, with hardly a false one, and no two questions are."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT, SHARED_DATA

from finetune_gateway import Dataset
from finetune_gateway.errors import MissingDependency
from finetune_gateway.validation.dataset import near_duplicates
from finetune_gateway.validation.dataset.row_index import RowReader
from finetune_gateway.validation.dataset.row_text import Comparison, extract_row_text, words

pytest.importorskip("rensa")

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hanna", "Ida", "Jon", "Kim", "Lea"]
THINGS = ["parcel", "invoice", "chair", "lamp", "refund", "ticket", "bicycle", "camera", "order"]
Row = dict[str, Any]


def written(tmp_path: Path, rows: list[Row], name: str = "rows.jsonl") -> Dataset:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Dataset.open(path)


def chat(asked: str, answer: str) -> Row:
    said = [("system", "You are a helpful shop."), ("user", asked), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def vocabulary(rng: random.Random) -> list[str]:
    """Made-up words, the early ones used far more often, as in a language."""
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3)))) for _ in range(3000)]


def texts(rng: random.Random, count: int, shortest: int, longest: int) -> list[str]:
    known = vocabulary(rng)
    weights = [1 / (place + 5) for place in range(len(known))]
    return [
        " ".join(rng.choices(known, weights, k=rng.randint(shortest, longest)))
        for _ in range(count)
    ]


def changed(text: str, rng: random.Random) -> str:
    """One to three words replaced, added or left out."""
    said = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(said))
        match rng.randrange(3):
            case 0:
                said[place] = f"{rng.choice(NAMES)}{rng.randrange(99)}"
            case 1:
                said.insert(place, rng.choice(THINGS))
            case _:
                del said[place]
    return " ".join(said)


def figures(tmp_path: Path, rows: list[Row], copies: list[tuple[int, Row]]) -> tuple[float, float]:
    """Recall and precision over rows and copies of them, shuffled."""
    mixed = [*enumerate(rows), *copies]
    random.Random(5).shuffle(mixed)
    found = near_duplicates.pairs([written(tmp_path, [row for _, row in mixed])])
    right = sum(mixed[one.line - 1][0] == mixed[one.earlier - 1][0] for one in found)
    return right / len(copies), right / len(found)


@pytest.mark.parametrize(("shortest", "longest"), [(18, 40), (40, 80), (80, 400)])
def test_planted_near_duplicates_are_found(tmp_path: Path, shortest: int, longest: int) -> None:
    """Of 1,000 rows of which each has a copy with one to three words changed, at least 95 of
    100 are found, and at least 95 of 100 found are copies."""
    rng = random.Random(shortest)
    asked = texts(rng, 2000, shortest, longest)
    rows = [chat(text, f"Yes, {number}.") for number, text in enumerate(asked)]
    copies = [(i, chat(changed(asked[i], rng), f"Yes, {i}.")) for i in range(0, 2000, 2)]
    recall, precision = figures(tmp_path, rows, copies)
    assert recall >= 0.95 and precision >= 0.95


def told_apart(row: Row, other: Row) -> int:
    """In how many words two rows differ, counted without any of our code but the reading."""
    one, two = (
        Counter(text.conversation.split())
        for text in (extract_row_text(row), extract_row_text(other))
        if text
    )
    return max((one - two).total(), (two - one).total())


KINDS = {
    "fireworks_text2sql/text2sql_dataset.jsonl": "",
    "foundry_gsm8k_chat/chat_train.jsonl": "",
    "foundry_orca_dpo/validation.jsonl": "",
    "foundry_stock_toolcall/*train*.jsonl": "",
    "llamafactory_dpo_en/*.json": "",
    "llamafactory_glaive_toolcall_en/*.json": "",
    "llamafactory_kto_en/*.json": "",
    "llamafactory_plain_text/c4_demo.jsonl": "",
    "mlx_wikisql_text/train.jsonl": "",
    "self_instruct_seed/quoref_Find_Answer.jsonl": "",
    "fastchat_sharegpt/*.json": "made from templates",
}


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the data sets are not beside the checkout")
@pytest.mark.parametrize("name", KINDS)
def test_planted_near_duplicates_of_real_rows_are_found(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kind of real rows with a copy of each, 95 of 100 copies are found, and 95 of 100
    pairs found are such: sums, SQL, articles, calls, pairs, many questions about one article."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from _planting import planted

    (source,) = SHARED_DATA.glob(name)
    rows = [row.data for row in Dataset.open(source, spool=tmp_path).rows()]
    rows = [
        *{
            " ".join(text.conversation.casefold().split()): row
            for row in rows
            if (text := extract_row_text(row))
        }.values()
    ]
    mixed = planted(rows, len(rows), seed=3)
    found = near_duplicates.pairs([written(tmp_path, [row for _, row in mixed])])
    pairs = [(mixed[one.line - 1], mixed[one.earlier - 1]) for one in found]
    right = [late[0] == early[0] for late, early in pairs]
    if KINDS[name]:  # rows that differ in as few words of their own are no mistakes
        right = [told_apart(late[1], early[1]) <= 3 for late, early in pairs]
        lines = {pair.line for pair, fine in zip(found, right, strict=True) if fine}
        last = {number: line for line, (number, _) in enumerate(mixed, 1)}
        twice = [number for number, times in Counter(n for n, _ in mixed).items() if times == 2]
        assert sum(last[number] in lines for number in twice) >= 0.95 * len(twice)
    else:
        assert sum(right) >= 0.95 * (len(mixed) - len(rows))
    assert sum(right) >= 0.95 * len(right)


def test_questions_about_one_article_are_told_apart(tmp_path: Path) -> None:
    """What rows share does not make them the same; a copy with a word changed is found."""
    rng = random.Random(4)
    (article,) = texts(rng, 1, 300, 300)
    asked = texts(rng, 60, 12, 16)
    rows = [chat(f"{text}\n\n{article}", f"name{i}") for i, text in enumerate(asked)]
    rows += [chat(f"What is the {what} name of the composer?\n\n{article}", what.upper())
             for what in ("first", "last", "full")]  # fmt: skip
    copies = [
        (i, chat(f"{text}\n\n{changed(article, rng)}", f"name{i}")) for i, text in enumerate(asked)
    ]
    assert figures(tmp_path, rows, copies) == (1, 1)


def test_names_in_question_and_answer_make_two_rows(tmp_path: Path) -> None:
    """One word that stands for another throughout is another question, not a copy."""
    said = (
        "How is the weather in {0} today, and what should I wear when I go out there with my dog?"
    )
    answer = "In {0} it rains all day long today, so take a coat and an umbrella with you, please."
    rows = [chat(said.format(town), answer.format(town)) for town in ("Paris", "London", "Rome")]
    assert near_duplicates.pairs([written(tmp_path, rows)]) == []


@pytest.mark.parametrize("length", [*range(13, 61, 4), 118, 122, 238, 242])
def test_rows_on_both_sides_of_a_step_meet(tmp_path: Path, length: int) -> None:
    """What a row is compared by depends on its length; copies a word longer are found all the
    same."""
    rng = random.Random(length)
    asked = texts(rng, 100, length, length)
    rows = [chat(text, "Yes.") for text in asked]
    copies = [(i, chat(f"{text} parcel", "Yes.")) for i, text in enumerate(asked)]
    recall, precision = figures(tmp_path, rows, copies)
    assert recall >= 0.98 and precision >= 0.98


def test_rows_of_one_template_take_no_quadratic_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,000 rows that are all alike each is compared with a few, not with all."""
    rows = [
        chat(
            f"Where is parcel {i % 97} {i % 89} {i % 83} {i % 79} {i % 61} that I ordered?",
            "Here.",
        )
        for i in range(1000)
    ]
    compared = []
    real = RowReader.compare

    def compare(reader: RowReader, early: int, late: int) -> Comparison:
        compared.append((early, late))
        return real(reader, early, late)

    monkeypatch.setattr(RowReader, "compare", compare)
    list(near_duplicates.links(written(tmp_path, rows)))
    assert 1000 < len(compared) < 60 * 1000  # 40 for each; without limits 250


def test_short_questions_are_told_apart(tmp_path: Path) -> None:
    """In a short row one word makes another question."""
    rows = [
        chat("What is the capital of France?", "Paris"),
        chat("What is the capital of Spain?", "Madrid"),
        chat("Is it hot?", "No"),
        chat("Is it cold?", "No"),
    ]
    assert near_duplicates.pairs([written(tmp_path, rows)]) == []


def test_rows_that_are_equal_are_called_so(tmp_path: Path) -> None:
    """Apart from case and spaces; checks names these, so nothing says them twice."""
    asked = "Where is the parcel that I ordered from you on Monday morning?"
    rows = [chat(asked, "Here."), chat(asked.upper(), " here. "), chat(asked + " Please", "Here.")]
    found = near_duplicates.pairs([written(tmp_path, rows)])
    assert [(one.line, one.same) for one in found] == [(2, True), (3, False)]


def test_texts_without_spaces_are_compared(tmp_path: Path) -> None:
    """Each character of such a script counts as a word."""
    text = "请问我上周在你们网站订购的自行车什么时候可以送到我家门口"
    rows = [
        chat(text, "明天"),
        chat(text.replace("上周", "昨天"), "明天"),
        chat("完全不同的问题在这里", "好"),
    ]
    assert [one.line for one in near_duplicates.pairs([written(tmp_path, rows)])] == [2]


def test_pairs_across_files(tmp_path: Path) -> None:
    """Only rows of the other file count, and both lines are named."""
    rng = random.Random(1)
    asked = texts(rng, 20, 20, 30)
    one = written(tmp_path, [chat(text, "Yes.") for text in [*asked, asked[3]]], "one.jsonl")
    two = written(tmp_path, [chat(f"Hello {asked[7]}", "Yes.")], "two.jsonl")
    (pair,) = near_duplicates.pairs([two, one], across=True)
    assert (pair.line, pair.file, pair.earlier, pair.earlier_file) == (8, 1, 1, 0)


def test_rows_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    """Broken lines, rows of no format and an empty file are no failure."""
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b'{"messages": 3}\n\xff\xfe\n[1]\n\n{"a": 1}\n{"text": ""}\n{"text": ""}\n')
    assert all(one.same for one in near_duplicates.pairs([Dataset.open(path)]))


def test_words() -> None:
    """As spaces part them, without case and the punctuation around."""
    assert words('Hello, (World)! 48/2=24 -- "x" {"key": "IBM"}') == [
        "hello", "world", "48/2=24", "x", "key", "ibm",
    ]  # fmt: skip


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package to install is named."""
    monkeypatch.setattr(near_duplicates, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        near_duplicates.pairs([written(tmp_path, [])])
    assert "[dedup]" in caught.value.hint
