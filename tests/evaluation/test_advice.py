"""Advice on a data set: eight sets with a stated answer, what a comparison changes, the screen."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.advice_sets import SETS, captain, chat, jsonl, question
from support.cli import Ftg

from finetune_gateway import Gateway, SpecError
from finetune_gateway.evaluation import comparison as comparing
from finetune_gateway.evaluation.advice import measured, specifics
from finetune_gateway.evaluation.advice.rules import RULES
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    ComparedFacts,
    ComparisonData,
    DataFacts,
    Difference,
    Interval,
    Measure,
    MeasureFigure,
    Verdict,
)
from finetune_gateway.reports.advice_text import brief_text, full_text, headline
from scripts.advice_page import PAGE, with_table

Json = dict[str, Any]


@pytest.mark.parametrize("name", SETS)
def test_the_advice_is_the_stated_answer(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt, retrieval or training; the method; the rows; the place: each on eight sets. It has at
    most eleven lines of 80 columns, and no word of a row."""
    stated = SETS[name]
    monkeypatch.setenv("FTG_TODAY", stated.today)
    advice = Gateway().advise(stated.rows(), **stated.options)
    assert advice.approach.answer == stated.approach
    assert advice.method.answer == stated.method
    assert advice.rows.answer.startswith(stated.rows_answer)
    assert advice.place.answer == stated.place
    assert all(point.rules for point in advice.points.values())
    lines = brief_text(advice).splitlines()
    assert len(lines) <= 11 and max(map(len, lines)) <= 80
    said = brief_text(advice) + full_text(advice) + json.dumps(advice.document())
    assert not [word for word in ("kettle", "matey", "posteo") if word in said]


def test_the_command_says_it_in_three_ways(tmp_path: Path, ftg: Ftg) -> None:
    """In ten lines, in full with the sources, as JSON; one contradicts the other."""
    path = tmp_path / "train.jsonl"
    path.write_text(jsonl(SETS["twelve rows"].rows()))
    assert ftg("advise", str(path)).stdout.startswith("train.jsonl: 12 chat rows\ndo       Prompt")
    assert "guides/supervised-fine-tuning" in ftg("advise", str(path), "--explain").stdout
    assert json.loads(ftg("advise", str(path), "--json").stdout)["approach"]["answer"] == "prompt"
    assert ftg("advise", str(path), "--explain", "--json").returncode == 2


def compared(home: Path, better: str, *, rows_needed: int | None = None) -> str:
    """A comparison of a tuned model and two prompts; ``better``: the key of the better one."""
    tuned = {"key": "a", "name": "ftg-1", "title": "tuned", "variant": "tuned"}
    prompt = {"key": "b", "name": "prompt:m", "title": "the prompt", "variant": "prompt"}
    about = {"kind": "local", "model": "m", "base_model": "m"}
    data = ComparisonData(
        id="cmp-00000001",
        created_at=0.0,
        data=DataFacts(words="", sha256="0" * 64),
        models=[ComparedFacts.model_validate(one | about) for one in (tuned, prompt)],
        measures=[Measure(name="exact_match", title="exact", share=True)],
        differences=[
            Difference(
                measure="exact_match",
                first="a",
                second="b",
                better=better,
                rows_needed=rows_needed,
            )
        ],
        verdict=Verdict(text="", measure="exact_match"),
    )
    comparing.keep(Gateway(home).settings, data, [], [])
    return data.id


@pytest.mark.parametrize(
    ("better", "answer", "said"),
    [
        ("a", "fine-tune", "tuned is better than the prompt"),
        ("b", "prompt", "the prompt is better, untrained"),
        ("", "can't tell", "about 800 rows would do"),
    ],
)
def test_what_was_measured_decides(home: Path, better: str, answer: str, said: str) -> None:
    """A comparison goes before all that is guessed from the rows."""
    name = compared(home, better, rows_needed=800)
    advice = Gateway().advise(SETS["one style"].rows()[:80], comparison=name)
    assert advice.approach.answer == answer and advice.comparison == name
    assert said in advice.approach.evidence[0]
    assert "not_measured" not in advice.approach.rules


@pytest.mark.parametrize(
    ("errors", "unjudged", "rule"),
    [(0, {}, "prompt_does"), (90, {}, "prompts_alone"), (0, {"it raised": 90}, "prompts_alone")],
)
def test_a_prompt_that_was_right_where_it_answered_is_not_enough(
    errors: int, unjudged: dict[str, int], rule: str
) -> None:
    """Nor one of which a check has judged a few answers."""
    prompt = {"key": "b", "name": "prompt:m", "title": "the prompt", "variant": "prompt"}
    about = {"kind": "local", "model": "m", "base_model": "m"}
    interval = Interval(mean=1.0, low=0.99, high=1.0, n=10, clusters=10)
    data = ComparisonData(
        id="cmp-00000001",
        created_at=0.0,
        data=DataFacts(words=""),
        models=[ComparedFacts.model_validate(prompt | about)],
        measures=[Measure(name="check:own", title="own", share=True)],
        figures={"check:own": {"b": MeasureFigure(interval=interval, unjudged=unjudged)}},
        answers={"b": AnswerFigures(answers=10, errors=errors)},
        verdict=Verdict(text="", measure="check:own"),
    )
    assert measured.read(data).rule == rule


def test_the_newest_comparison_of_these_rows_is_found(home: Path, tmp_path: Path) -> None:
    """By the hash of the data; one of other rows is not taken."""
    path = tmp_path / "train.jsonl"
    path.write_text(jsonl(SETS["one style"].rows()[:80]))
    name = compared(home, "b")
    assert Gateway().advise(path).comparison is None
    data = comparing.Comparison.load(name).data
    own = DataFacts(words="", sha256=Gateway().open(path).fingerprint)
    comparing.keep(Gateway().settings, data.model_copy(update={"data": own}), [], [])
    assert Gateway().advise(path).comparison == name


def test_a_prompt_that_reaches_nearly_all_needs_no_training(home: Path) -> None:
    """Of prompts compared alone: 97 % and above in the whole interval."""
    name = compared(home, "")
    data = comparing.Comparison.load(name).data
    reached = MeasureFigure(interval=Interval(mean=0.99, low=0.97, high=1, n=200, clusters=200))
    prompt = [one for one in data.models if one.variant == "prompt"]
    changed = {"models": prompt, "figures": {"exact_match": {"b": reached}}}
    changed |= {"answers": {}, "checks": {}, "differences": []}  # of the model that is left out
    comparing.keep(Gateway().settings, data.model_copy(update=changed), [], [])
    assert (
        Gateway().advise(SETS["one style"].rows()[:80], comparison=name).approach.answer == "prompt"
    )


def _named(number: int) -> Json:
    return chat(f"What is {number} times {number + 3}?", f"{number} * 3 = {number * 3}, so $ 12.")


def _json(number: int) -> Json:
    return chat(f"Order {number}: two lamps, Ghent.", f'{{"town": "Ghent", "order": {number}}}')


ODD = {
    "sums": ([_named(number) for number in range(80)], "fine-tune"),
    "JSON of one form": ([_json(number) for number in range(200)], "prompt"),
    "texts": ([{"text": f"The town had {n} stone bridges."} for n in range(90)], "retrieval"),
    "prompts": ([{"prompt": f"Where is parcel {n}?"} for n in range(60)], "prompt"),
    "pairs both ways": (
        [
            {"prompt": f"Describe lamp {n}", "chosen": one, "rejected": two}
            for n in range(30)
            for one, two in (("A warm lamp.", "Lamp."), ("Lamp.", "A warm lamp."))
        ],
        "can't tell",
    ),
    "leave by years": (
        [chat("How many days of leave?", f"You get {20 + n % 12} days.") for n in range(60)],
        "retrieval",
    ),
    "labels that differ": (
        [chat(f"Ticket {n // 2}: the lamp failed", f"P{n % 2}") for n in range(60)],
        "can't tell",
    ),
    "nothing": ([{"question": "?"} for _ in range(60)], "can't tell"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_other_kinds_of_rows(name: str, home: Path) -> None:
    """Sums are no facts that change; a form is asked for; nothing readable is said to be so."""
    rows, answer = ODD[name]
    assert Gateway().advise(rows).approach.answer == answer


def test_pairs_of_a_second_file_count(home: Path) -> None:
    """Rows to imitate, and pairs beside them: both methods."""
    style, pairs = SETS["one style"].rows()[:80], SETS["pairs alone"].rows()[:60]
    assert Gateway().advise(style, preferences=pairs).method.answer == "sft+dpo"
    with pytest.raises(SpecError, match="no preference pairs"):
        Gateway().advise(style, preferences=style)


def test_the_page_has_the_table_of_the_code() -> None:
    """docs/advise.md shows each rule with its sources; python -m scripts.advice_page writes it."""
    text = PAGE.read_text("utf-8")
    assert with_table(text) == text
    assert not [code for code in RULES if f"`{code}`" not in text]


def test_scores_beside_several_answers_could_be_pairs(home: Path) -> None:
    """They are not thrown away: SFT, then DPO on pairs made of them."""
    random = Random(1)
    asked = [question(random) for _ in range(60)]
    rows = [
        chat(one, f"{captain(random, one)} {captain(random, one)}") | {"score": place % 5}
        for place, one in enumerate(asked * 2)
    ]
    assert Gateway().advise(rows).method.answer == "sft+dpo"


def test_one_answer_to_everything_is_asked_about(home: Path) -> None:
    """It is not called a list of answers."""
    random = Random(3)
    rows = [chat(f"{question(random)} Order {number}.", "defect") for number in range(200)]
    approach = Gateway().advise(rows).approach
    assert approach.answer == "prompt" and "all answers are the same" in approach.text


@pytest.mark.parametrize(
    ("answer", "computed"),
    [
        ("The mug is EUR 213.45, and 12 are in stock until 2026-05-11.", False),
        ("It is USD 9 until 11.05.2026; call +49 30 123-45678.", False),
        ("12 - 4 = 8 mugs, so EUR 80.", True),
        ("From 2026-05-11 on it is 3 * 4 = EUR 12.", True),
    ],
)
def test_a_date_is_no_calculation(answer: str, computed: bool) -> None:
    """2026-05-11 read as a subtraction, so that no price beside it counted; one that is calculated
    follows from the question."""
    found = {kind for kind, _ in specifics.changing_facts(answer, "How much is the mug?")}
    assert ("prices" in found) is not computed


def test_prices_and_dates_want_retrieval(home: Path) -> None:
    """They stand in no prompt, and change."""
    facts = [
        chat(f"Is mug {n} in stock?", f"Mug {n} is EUR {200 + n}.45, {n} left until 2026-05-11.")
        for n in range(60)
    ]
    assert Gateway().advise(facts).approach.text.startswith("Retrieval")


def test_few_rows_are_not_to_be_split(home: Path) -> None:
    """Parts of 14 rows tell nothing; and prompts without answers are called that."""
    random = Random(2)
    asked = [question(random) for _ in range(14)]
    steps = Gateway().advise([chat(one, captain(random, one)) for one in asked]).next_steps
    assert steps == ("try a prompt with a few of them as examples; advise again with 50 rows",)
    prompts = [{"messages": [{"role": "user", "content": one}]} for one in asked]
    advice = Gateway().advise(prompts)
    assert advice.rows.text == "Can't tell: no row has an answer."
    assert headline(advice).endswith("14 prompts without answers")
