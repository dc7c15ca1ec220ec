"""Rows that differ in numbers are found without signatures, and as a plain comparison of all rows
with all would find them."""

from __future__ import annotations

import json
import random
import zlib
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_gateway import Dataset
from finetune_gateway.validation.dataset import languages, near_duplicates, row_index, statistics
from finetune_gateway.validation.dataset.row_index import Index, index_with_copies
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    RowWords,
    changes_of,
    extract_row_text,
    iter_row_texts,
    max_difference,
    words,
)

Row = dict[str, Any]
needs_rensa = pytest.mark.skipif(not near_duplicates.available(), reason="rensa is not installed")
WORDS = [
    *("parcel", "late", "blue", "chair", "refund", "seven", "ticket", "window", "order", "again"),
    *("monday", "broken", "city"),
]


def chat(asked: str, answer: str) -> Row:
    said = [("user", asked), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def written(tmp_path: Path, rows: list[Row]) -> Dataset:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Dataset.open(path)


def numbered_rows(rng: random.Random) -> list[Row]:
    """Rows of a few templates with one to five numbers each, some of them twice or with a word
    changed; some answers are a number of the question."""
    rows = []
    for _ in range(30):
        asked, answer = (" ".join(rng.choices(WORDS, k=rng.randint(5, 14))) for _ in range(2))
        for _ in range(rng.randint(1, 6)):
            numbers = [str(rng.randrange(100)) for _ in range(rng.randint(1, 5))]
            told = rng.choice([answer, answer, numbers[0], f"{answer} {numbers[0]}"])
            row = chat(f"{asked}, {' and '.join(numbers)}?", told)
            rows += [row] * rng.choice([1, 1, 1, 2])
            if rng.random() < 0.3:
                rows.append(chat(f"{asked}, or {' and '.join(numbers)}?", told.upper()))
    rng.shuffle(rows)
    return rows


def are_near(one: RowText, two: RowText) -> bool:
    """What the docs say of two rows, word by word."""
    first, second = (Counter(words(row.conversation)) for row in (one, two))
    removed, added = first - second, second - first
    limit = max_difference(max(first.total(), second.total()))
    if max(removed.total(), added.total()) > limit:
        return False
    if any(removed[word] > 1 for word in removed) and any(added[word] > 1 for word in added):
        return False
    if one.answer == two.answer or one.prompt == two.prompt:
        return True
    short, other = set(words(one.answer)), set(words(two.answer))
    differ = short != other and 0 < len(short) <= 5 and 0 < len(other) <= 5
    return not (differ and one.prompt.lower() != two.prompt.lower())


@needs_rensa
@pytest.mark.parametrize("seed", range(2))
def test_rows_with_numbers_are_paired_as_by_comparing_all(tmp_path: Path, seed: int) -> None:
    """The same rows have an earlier near-duplicate, those that are the same are called so, and each
    pair is one."""
    rows = numbered_rows(random.Random(seed))
    dataset = written(tmp_path, rows)
    texts = [text for row in rows if (text := extract_row_text(row))]
    plain = {
        late: earlier
        for late in range(len(texts))
        if (earlier := [one for one in range(late) if are_near(texts[one], texts[late])])
    }
    found = {pair.line - 1: pair for pair in near_duplicates.pairs([dataset])}
    assert set(found) == set(plain)
    folded = [" ".join(text.conversation.lower().split()) for text in texts]
    for late, pair in found.items():
        assert pair.earlier - 1 in plain[late]
        assert pair.same == (folded[late] in folded[:late])
    index = index_with_copies(dataset)
    assert len(index.copies) > len(rows) / 8 and len(index) + len(index.copies) == len(rows)


@needs_rensa
def test_a_row_is_compared_with_copies_too(tmp_path: Path) -> None:
    """Four words from the first row, three from a copy of it with another number."""
    asked = " ".join(WORDS)
    rows = [
        chat(f"{asked} 1 one two three four five six seven eight", "Yes, we do."),
        *(chat(f"{asked} {n} one two three four five six seven eight", "Yes, we do.")
          for n in range(2, 40)),
        chat(f"{asked} 39 uno due tre four five six seven eight", "Yes, we do."),
    ]  # fmt: skip
    (last,) = [pair for pair in near_duplicates.pairs([written(tmp_path, rows)]) if pair.line == 40]
    assert last.earlier == 39


@needs_rensa
def test_other_images_are_no_copies(tmp_path: Path) -> None:
    """Numbers may differ, images not."""

    def row(number: int, image: str) -> Row:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
        asked = {"type": "text", "text": f"What is in picture {number} of the album from Rome?"}
        return {"messages": [
            {"role": "user", "content": [asked, part]},
            {"role": "assistant", "content": "A dog."},
        ]}  # fmt: skip

    rows = [row(1, "AAAA"), row(2, "BBBB"), row(3, "AAAA")]
    index = index_with_copies(written(tmp_path, rows))
    assert [*index.lines] == [1, 2] and [*index.copies.lines] == [3]


@needs_rensa
def test_parts_of_an_index_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where more rows are unlike than are compared: their copies are left out, too."""
    rng = random.Random(3)
    asked = [" ".join(rng.choices(WORDS, k=12)) for _ in range(40)]
    rows = [chat(f"{text} {n}?", "Yes, so it is.") for text in asked for n in range(2)]
    monkeypatch.setattr(row_index, "MAX_ROWS", 30)
    dataset = written(tmp_path, rows)
    whole = index_with_copies(dataset)
    first, second = Index(), Index()
    with dataset.path.open("rb") as file:
        for index, part in ((first, range(20)), (second, range(20, 80))):
            finder = row_index.CopyFinder(index, file)
            for text in iter_row_texts(dataset):
                if text.line - 1 in part:
                    finder.add(text)
            index.finish()
    first.extend(second)
    assert len(whole) == 30 and len(whole.copies) == 30
    for one, other in ((whole, first), (whole.copies, first.copies)):
        values = vars(one).items()
        arrays = {name: value for name, value in values if isinstance(value, array)}
        assert arrays == {name: getattr(other, name) for name in arrays}
    assert whole.bands == first.bands


TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "a b", " ", "\n", ",", "12", "é", "好", ""]))


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_changes_are_those_of_counted_words(
    start: list[str], one: list[str], two: list[str], end: list[str]
) -> None:
    """Leaving out what two texts share at both ends changes nothing."""
    first, second = ("".join([*start, *middle, *end]) for middle in (one, two))
    (removed, added), chunks = changes_of(RowWords(first), RowWords(second))
    counted, other = Counter(words(first)), Counter(words(second))
    assert (Counter(removed), Counter(added)) == (counted - other, other - counted)
    counted, other = Counter(first.split(" ")), Counter(second.split(" "))
    assert chunks == max((counted - other).total(), (other - counted).total())


def test_answers_are_sampled_as_one_pass_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the first rows, then every fourth, then every sixteenth."""
    monkeypatch.setattr(languages, "LANGUAGE_SAMPLE", 10)
    rng = random.Random(1)
    rows = [RowText(n, n * 100, "text", None, "", "x" * rng.choice([5, 90])) for n in range(1, 900)]
    parts = languages.LanguageStats(), languages.LanguageStats()
    for row in rows:
        parts[row.line > 123].add(row)
    parts[0].extend(parts[1])
    plain, every = [], 1
    for row in rows:
        if row.line % every == 0 and len(row.answer) >= languages.MIN_CHARS:
            plain.append((row.line, row.offset))
            every = 4 ** (len(plain) // 10)
    assert parts[0].sample() == plain and every > 16


def test_repetition_is_that_of_the_whole_text() -> None:
    """Whatever the beginning is like."""
    rng = random.Random(2)
    plain = "".join(rng.choices("abcdefgh ", k=3000))
    kinds = [plain, "ab " * 3000, plain[:300] + "so " * 9000, "so " * 900 + plain, plain[:40] * 300]
    found = []
    for text in kinds:
        whole = len(zlib.compress(text.encode(), 1)) / len(text) < statistics.REPETITIVE
        assert statistics._is_repetitive(text) == whole
        found.append(whole)
    assert set(found) == {True, False}
