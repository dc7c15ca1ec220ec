"""What a row is the same as: one answer in validate, --fix, split and leaks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway import Dataset
from finetune_gateway.preparation.split import assign
from finetune_gateway.validation.dataset.analysis import analyze
from finetune_gateway.validation.duplicates import same_lines

Json = dict[str, Any]

ASKED = "How many parcels of the order 4711 are on their way to Rome today?"
ANSWER = "Three of them are, and one is still in the store."
URL = "https://pictures.example/1.png"
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"q": {}, "n": {}}},
    },
}


def chat(asked: Any = ASKED, answer: Any = ANSWER, system: str = "", **more: Any) -> Json:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": [*first, *messages], **more}


def seen(url: str, asked: str = ASKED) -> Json:
    return chat([{"type": "text", "text": asked}, {"type": "image_url", "image_url": {"url": url}}])


def call(arguments: str, own: str = "c1") -> Json:
    function = {"name": "find", "arguments": arguments}
    called = {
        "role": "assistant",
        "tool_calls": [{"id": own, "type": "function", "function": function}],
    }
    return {"messages": [{"role": "user", "content": ASKED}, called], "tools": [TOOL]}


def pair(chosen: str = ANSWER, rejected: str = "No idea.", asked: str = ASKED) -> Json:
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


def openai_pair(chosen: str = ANSWER, rejected: str = "No idea.") -> Json:
    return {
        "input": {"messages": [{"role": "user", "content": ASKED}]},
        "preferred_output": [{"role": "assistant", "content": chosen}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
    }


def backwards(value: Any) -> Any:
    """The value with its keys in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(one) for one in value] if isinstance(value, list) else value


def sharegpt(*turns: str, **more: Any) -> Json:
    names = ("human", "gpt")
    said = [{"from": names[at % 2], "value": text} for at, text in enumerate(turns)]
    return {"conversations": said, **more}


def turn(text: str) -> Json:
    return {"from": "gpt", "value": text}


def said(row: Json, **changes: Any) -> Json:
    """The row with members of its last message changed."""
    *before, last = row["messages"]
    return {**row, "messages": [*before, {**last, **changes}]}


FACE = f"\U0001f600 {ASKED}"
SAME, NEAR, OTHER = "same", "near", "other"
E_ACUTE = "Where is the café of the old harbour, please, and when is it open?"
SPACED = json.dumps(chat(), separators=(" ,  ", " :  "))
# Two rows, as objects or as written, and what they are.
PAIRS: list[tuple[str, Json | str, Json | str]] = [
    # Written otherwise.
    (SAME, chat(), chat()),
    (SAME, chat(), SPACED),
    (SAME, chat(tools=[TOOL]), backwards(chat(tools=[TOOL]))),
    (SAME, chat(E_ACUTE), json.dumps(chat(E_ACUTE), ensure_ascii=False)),
    (SAME, chat(), json.dumps(chat()).replace("4711", "4\\u00371\\u0031")),
    (SAME, chat(URL), json.dumps(chat(URL)).replace("/", "\\/")),
    (SAME, chat(FACE), json.dumps(chat(FACE), ensure_ascii=False)),
    # Another format of the same.
    (SAME, chat(), {"prompt": ASKED, "completion": ANSWER}),
    (SAME, chat(), {"instruction": ASKED, "input": "", "output": ANSWER}),
    (SAME, chat(), sharegpt(ASKED, ANSWER)),
    (SAME, chat(), chat([{"type": "text", "text": ASKED}])),
    (SAME, {"prompt": ASKED, "completion": ANSWER}, {"instruction": ASKED, "output": ANSWER}),
    (SAME, pair(), openai_pair()),
    (SAME, pair(), sharegpt(ASKED, chosen=turn(ANSWER), rejected=turn("No idea."))),
    # With what is not trained on.
    (SAME, chat(), chat(id=17)),
    (SAME, chat(), said(chat(), weight=1)),
    (SAME, chat(), said(chat(), tool_calls=None)),
    (SAME, call('{"q": "x", "n": 1}'), call('{"n":1,"q":"x"}')),
    # Apart from case and white space.
    (NEAR, chat(), chat(ASKED.upper(), ANSWER)),
    (NEAR, chat(), chat(ASKED, ANSWER.replace(" ", "  \n"))),
    (NEAR, chat(E_ACUTE), chat(E_ACUTE.upper())),
    (NEAR, chat(E_ACUTE), chat(E_ACUTE.replace("é", "e\u0301"))),
    (NEAR, pair(), {**pair(), "chosen": ANSWER.upper()}),
    (NEAR, chat(), {"prompt": ASKED.lower(), "completion": ANSWER}),
    (NEAR, {"text": f"{ASKED} {ANSWER}"}, {"text": f"{ASKED}\t{ANSWER}"}),
    # Others.
    (OTHER, chat("Sort 291348567."), chat("Sort 819275436.")),
    (OTHER, chat(ASKED), chat(ASKED.replace("4711", "1174"))),
    (OTHER, chat("Which comes first, ab or ba?"), chat("Which comes first, ba or ab?")),
    (OTHER, chat(), chat("An altogether different question is asked here, is it?")),
    (OTHER, seen(URL), seen(URL.replace("1.", "2."))),
    (OTHER, seen(URL), seen(URL.replace("png", "PNG"))),
    (OTHER, seen(URL), chat()),
    (OTHER, {"text": "one two three"}, {"text": "three two one"}),
    (OTHER, chat("Is it a, b or c?", "a"), chat("Is it a, b or c?", "b")),
    (OTHER, chat("Go on.", "Yes."), chat("Go on.", "Yes.", system="Say no.")),
    (OTHER, call('{"q": "x"}'), call('{"q": "y"}')),
    (OTHER, call('{"q": "1"}'), call('{"q": 1}')),
    (OTHER, chat("Go on.", "Yes."), said(chat("Go on.", "Yes."), weight=0)),
    (OTHER, {**chat("Go on.", "Yes."), "label": True}, {**chat("Go on.", "Yes."), "label": False}),
    (OTHER, pair(asked="Go on."), pair("No idea.", ANSWER, asked="Go on.")),
    (OTHER, {"text": "naive words"}, {"text": "naïve words"}),
    (OTHER, chat("Translate: Masse", "mass"), chat("Translate: Maß", "measure")),
]  # fmt: skip


def written(path: Path, *rows: Json | str) -> Dataset:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Dataset.open(path)


def validated(one: Json | str, two: Json | str, folder: Path) -> str:
    report = written(folder / "rows.jsonl", one, two).validate()
    codes = {finding.code for finding in report.findings}
    return SAME if "duplicates" in codes else NEAR if "near_duplicates" in codes else OTHER


def fixed(one: Json | str, two: Json | str, folder: Path) -> str:
    """Only what is the same is left out; the copy is warned of what is nearly."""
    made = written(folder / "rows.jsonl", one, two).fix(folder / "out.jsonl", force=True)
    codes = {left.finding.code for left in made.unsafe}
    return SAME if made.rows == 1 else NEAR if "near_duplicates" in codes else OTHER


def leaked(one: Json | str, two: Json | str, folder: Path) -> str:
    train = written(folder / "train.jsonl", one)
    held_out = written(folder / "held_out.jsonl", two)
    found = analyze(train, against=[held_out], thorough=False)
    counts = found.figures["leaks"]["held_out.jsonl"]
    same = counts["exact"] > counts["questions"]
    return SAME if same else NEAR if counts["near"] else OTHER


@pytest.fixture(autouse=True)
def without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with a few words changed are another matter."""
    monkeypatch.setattr(
        "finetune_gateway.validation.dataset.near_duplicates.available", lambda: False
    )


@pytest.mark.parametrize("ask", [validated, fixed, leaked])
def test_planted_pairs_are_told_alike(
    ask: Callable[[Json | str, Json | str, Path], str], tmp_path: Path
) -> None:
    """42 pairs: written otherwise, in another format, with other images, numbers, words."""
    answers = [(ask(one, two, tmp_path), one, two) for _, one, two in PAIRS]
    wrong = [
        (expected, *answer)
        for (expected, _, _), answer in zip(PAIRS, answers, strict=True)
        if answer[0] != expected
    ]
    assert not wrong


def test_a_split_keeps_what_is_the_same_on_one_side(tmp_path: Path) -> None:
    """With ten seeds, near-duplicates searched or not; others are apart with some of them."""
    fill = [chat(f"Say the number {number} in words.", str(number)) for number in range(20)]
    for expected, one, two in PAIRS:
        dataset = written(tmp_path / "rows.jsonl", one, *fill, two)
        apart = 0
        for seed in range(10):
            parts = assign(dataset, (0.5, 0.5), seed=seed, stratify=False, near=False).parts
            apart += parts[0] != parts[-1]
        if expected != OTHER:
            assert not apart, (one, two)
        elif str(one).casefold() != str(two).casefold():  # names of pictures may have one place
            assert apart, (one, two)


def texts(count: int | None) -> Iterator[str]:
    orders = list(permutations("123456789"))
    chosen = orders if count is None else random.Random(7).sample(orders, count)
    return ("".join(order) for order in chosen)


@pytest.mark.parametrize(
    "count", [1_000, pytest.param(None, marks=pytest.mark.chaos)], ids=["some", "all"]
)
def test_permutations_of_digits_are_rows_of_their_own(count: int | None, tmp_path: Path) -> None:
    """All 362,880 have the same characters, and no two are one row."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for text in texts(count):
            file.write(json.dumps(chat(f"Sort {text}.", "123456789")) + "\n")
    dataset = Dataset.open(path)
    report = dataset.validate()
    assert not {one.code for one in report.findings} & {"duplicates", "near_duplicates"}
    assert dataset.fix(tmp_path / "out.jsonl").rows == report.rows


def test_a_repeated_row_is_told_the_first_that_is_like_it(tmp_path: Path) -> None:
    """Also where it is written as a later one, byte by byte; what is the same wins over what is
    nearly."""
    plain, loud = json.dumps(chat("Hi there")), json.dumps(chat("HI there"))
    spaced = plain.replace(": ", ":  ")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([plain, spaced, spaced, loud, loud]))
    assert sorted(same_lines(Dataset.open(path)), key=lambda one: one.line) == [
        (True, 2, 1),
        (True, 3, 1),
        (False, 4, 1),
        (True, 5, 4),
    ]


def test_what_grades_an_answer_is_part_of_the_row(tmp_path: Path) -> None:
    """One question with another reference is another row; beside an answer a key says nothing."""
    asked = chat("Which?")["messages"][:1]
    rows = [{"messages": asked, "reference": one} for one in ("a", "b", "a")]
    rows += [chat("Which?", id=number) for number in range(2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = sorted(same_lines(Dataset.open(path)), key=lambda one: one.line)
    assert found == [(True, 3, 1), (True, 5, 4)]
