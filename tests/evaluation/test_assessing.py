"""From scores to figures: which rows count, which examples come first, what is served."""

from __future__ import annotations

from pathlib import Path

from finetune_gateway.evaluation import assessing, best, costs, judging
from finetune_gateway.evaluation.comparison import ScoredAnswer
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.questions import pairs_of
from finetune_gateway.evaluation.results import (
    AnswerFigures,
    ComparedAnswer,
    ComparedFacts,
    ComparedRow,
    Difference,
    Interval,
    Leak,
    Measure,
    MeasureFigure,
    Score,
)
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

MATCH = Measure(name="match", title="Match", share=True)
MODELS = [
    ComparedFacts(
        key=key, name=key, title=key, kind="local", variant="tuned", model=key, base_model=""
    )
    for key in ("a", "b")
]


def row(name: str, *leaks: Leak) -> ComparedRow:
    prompt = Prompt(id=name, lines=(1,), messages=[{"role": "user", "content": name}])
    return ComparedRow(prompt=prompt, cluster=name, leaks=leaks)


def scored(model: str, row: str, value: float | None) -> ScoredAnswer:
    answer = ComparedAnswer(model=model, row=row, message={"content": "x"})
    return ScoredAnswer(answer=answer, scores={"match": Score(value=value)})


def test_a_row_that_one_model_was_trained_on_counts_for_none() -> None:
    """Neither for the model that has seen it nor for the others."""
    rows = {"new": row("new"), "seen": row("seen", Leak(model="a", kind="near", line=3))}
    answers = [scored(key, name, float(key == "a")) for key in "ab" for name in rows]
    found = assessing.gather(MATCH, MODELS, rows, answers)
    assert found.values == {"a": {"new-0": 1.0}, "b": {"new-0": 0.0}}


def test_examples_of_a_check_begin_with_those_that_failed() -> None:
    """Then those that were not judged; each is counted once."""
    values = [1.0, None, 0.0, 1.0, 0.0]
    answers = [scored("a", f"row {place}", value) for place, value in enumerate(values)]
    figure = assessing.check_figures("match", MODELS, answers)["a"]
    assert (figure.passed, figure.failed, figure.unjudged) == (2, 2, 1)
    assert figure.examples == ("row 2", "row 4", "row 1", "row 0", "row 3")


def test_serving_is_priced_by_the_lengths_that_were_measured(home: Path) -> None:
    """A model without any counts in no mean; without one that has some there is nothing to say."""
    store, silent = Store(Settings.load().create()), AnswerFigures(errors=3)
    assert costs.serving([], {"a": silent}, None, store) is None
    said = AnswerFigures(answers=3, prompt_tokens=100, completion_tokens=10)
    found = costs.serving([], {"a": silent, "b": said}, 500, store)
    assert found is not None
    traffic = found.traffic
    assert (traffic.requests, traffic.tokens_in, traffic.tokens_out) == (500, 100, 10)


def test_serving_is_priced_for_the_base_on_this_machine(home: Path, tiny_folder: Path) -> None:
    """Of its own size: one of 2 million parameters is not served as one of 8 billion. A fine-tuned
    model goes before others, and a base that is gone is taken for 8 billion."""
    store = Store(Settings.load().create())
    said = {"a": AnswerFigures(answers=3, prompt_tokens=100, completion_tokens=10)}
    gone = EvaluatedModel("g", "g", "g", "local", "base", "g", str(home / "gone"))
    tuned = EvaluatedModel("a", "a", "a", "local", "tuned", "a", str(tiny_folder))
    for models, size in (
        ([gone, tuned], f"{tiny_folder.name}, "),
        ([gone], "8 billion parameters (assumed)"),
    ):
        found = costs.serving(models, said, 500, store)
        assert found is not None
        assert {one.serves.startswith(size) for one in found.ways if one.where == "own"} == {True}


def test_a_judge_compares_all_pairs_of_three_and_else_each_with_the_first() -> None:
    """The pairs of 20 models would be 190."""
    assert pairs_of("abc") == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs_of("abcd") == [("a", "b"), ("a", "c"), ("a", "d")]


def figures(**means: float | None) -> dict[str, MeasureFigure]:
    """Figures of ten rows each; of a model with None there is none."""
    found = {}
    for key, mean in means.items():
        interval = None
        if mean is not None:
            interval = Interval(mean=mean, low=mean, high=mean + 0.1, n=10, clusters=10)
        found[key] = MeasureFigure(interval=interval, empty="the model is not there.")
    return found


def test_a_lower_loss_without_a_right_answer_is_said_to_be_that() -> None:
    """Or else a model that is better than nothing reads as a good one."""
    loss = Measure(name="reference_loss", title="Loss", better="lower")
    pair = Difference(
        measure="reference_loss", first="a", second="b", better="a",
        interval=Interval(mean=-1.0, low=-1.5, high=-0.5, n=10, clusters=10),
    )  # fmt: skip
    found = figures(a=6.9, b=7.9)
    said = best.verdict(loss, MODELS, found, [pair], {}, {}, figures(a=0.0, b=0.0)).text
    assert "lower is better" in said and "But no answer of any model matches" in said
    said = best.verdict(loss, MODELS, found, [pair], {}, {}, figures(a=0.1, b=0.0)).text
    assert "But no answer" not in said


def test_a_measure_of_the_form_names_the_answers_that_are_right() -> None:
    """Or else 100 % by a schema reads as a good model, whatever it answers."""
    schema = Measure(name="json_schema", title="Fits the JSON schema", share=True)
    pair = Difference(
        measure="json_schema", first="a", second="b", better="a",
        interval=Interval(mean=1.0, low=0.5, high=1.0, n=10, clusters=10),
    )  # fmt: skip
    found, matches = figures(a=1.0, b=0.0), figures(a=0.125, b=0.0)
    said = best.verdict(schema, MODELS, found, [pair], {}, {}, matches).text
    assert "is about their form alone: 12% of a match the reference." in said
    said = best.verdict(schema, MODELS, figures(a=1.0, b=1.0), [], {}, {}, matches).text
    assert "12% of a, 0% of b match the reference" in said
    assert "form alone" not in best.verdict(MATCH, MODELS, found, [pair], {}, {}, matches).text


def test_a_judge_that_may_go_by_length_is_doubted_in_the_verdict() -> None:
    """With the model that is better by its name, where several may be the best."""
    models = [*MODELS, ComparedFacts.model_validate({**MODELS[0].model_dump(), "key": "c",
                                                     "title": "c"})]  # fmt: skip
    pair = Difference(
        measure="judge:wins", first="a", second="b", better="a",
        interval=Interval(mean=1.0, low=0.8, high=1.0, n=10, clusters=10),
    )  # fmt: skip
    doubts = ["it prefers the longer answer, in 100% of its verdicts"]
    found = figures(a=1.0, b=0.0, c=1.0)
    pairs = [pair, pair.model_copy(update={"second": "c", "better": ""})]
    said = best.verdict(judging.WINS, models, found, pairs, {}, {}, doubts=doubts).text
    assert said.startswith("Can't tell which is best by what the judge prefers: ")
    assert "a is better than b (" in said and "It is better" not in said
    assert f"But of the judge: {doubts[0]}." in said


def test_what_cannot_be_told_apart_is_said_once_with_all_figures() -> None:
    """Each model stands beside its figure, and one without any is named with the reason."""
    pair = Difference(measure="match", first="a", second="b", rows_needed=630)
    said = best.verdict(MATCH, MODELS, figures(a=0.5, b=0.4), [pair], {}, {}).text
    assert said == (
        "Can't tell which is better by match: a 50% (50 to 60%, n 10), b 40% (40 to 50%, n 10). "
        "About 630 rows would do."
    )
    assert "b has no figure: the model is not there." in (
        best.verdict(MATCH, MODELS, figures(a=0.5, b=None), [], {}, {}).text
    )


def test_rows_that_would_do_are_of_a_pair_that_is_named() -> None:
    """Of three models: the pair that needs the most. And the price of all of the best is in one
    sentence: a short screen has it whole, or not at all."""
    third = ComparedFacts.model_validate({**MODELS[0].model_dump(), "key": "c", "title": "c"})
    pairs = [
        Difference(
            measure="match", first="a", second=other, rows_needed=rows,
            interval=Interval(mean=0.1, low=-0.1, high=0.3, n=10, clusters=10),
        )
        for other, rows in (("b", 630), ("c", 90))
    ]  # fmt: skip
    found = figures(a=0.5, b=0.4, c=0.4)
    money = {"a": "$2.00 per 1,000 answers", "b": "$0.10 per 1,000 answers"}
    said = best.verdict(MATCH, [*MODELS, third], found, pairs, money, {}).text
    assert "About 630 rows would tell a from b, and fewer the others." in said
    assert said.endswith(" Cost: a $2.00 per 1,000 answers; b $0.10 per 1,000 answers.")


def test_an_end_that_is_not_0_does_not_read_as_0() -> None:
    """+5.1 points, 0.04 to 12.5, is better; 0.0 would say that it may be none."""
    interval = Interval(mean=0.051, low=0.00044, high=0.125, n=79, clusters=79)
    pair = Difference(measure="match", first="a", second="b", better="a", interval=interval)
    said = best.verdict(MATCH, MODELS, figures(a=0.5, b=0.4), [pair], {}, {}).text
    assert "(+5.1 points, 0.04 to 12.5)" in said


def test_another_measure_that_tells_some_of_them_apart_is_named() -> None:
    """Where what decides is 100 % for all: two are better than the third by what is right. And
    figures of different rows say of how many."""
    third = ComparedFacts.model_validate({**MODELS[0].model_dump(), "key": "c", "title": "c"})
    schema = Measure(name="json_schema", title="Fits the JSON schema", share=True)
    told = [
        Difference(measure="match", first=key, second="a", better=key,
                   interval=Interval(mean=0.5, low=0.3, high=0.7, n=10, clusters=10))
        for key in ("b", "c")
    ]  # fmt: skip
    found, matches = figures(a=1.0, b=1.0, c=1.0), figures(a=0.1, b=0.6, c=0.6)
    interval = matches["c"].interval
    assert interval is not None
    matches["c"] = MeasureFigure(interval=interval.model_copy(update={"n": 4}))
    said = best.verdict(
        schema, [*MODELS, third], found, [], {}, {}, matches, others=[(MATCH, told)]
    ).text
    assert "By match b and c are better than a (--by match)." in said
    assert "10% of a (n 10), 60% of b (n 10), 60% of c (n 4) match the reference" in said


def test_errors_that_differ_in_numbers_alone_are_one_kind() -> None:
    """Else seventeen rows that are too long are five reasons, and the count of none is right."""
    errors = ["It has 550 tokens of 512.", "It has 1,601 tokens of 512.", "Gone."]
    answers = [
        ComparedAnswer(model="a", row=str(place), error=error) for place, error in enumerate(errors)
    ]
    kinds = assessing.answer_figures(answers, 0).error_kinds
    assert kinds == {"It has … tokens of 512.": 2, "Gone.": 1}
    reasons = [{"match": Score(reason=error)} for error in errors]
    listed = [
        ScoredAnswer(answer=one, scores=score) for one, score in zip(answers, reasons, strict=True)
    ]
    rows = {one.row: row(one.row) for one in answers}
    figure = assessing.figures(assessing.gather(MATCH, MODELS, rows, listed), {})["a"]
    assert figure.unjudged == kinds and figure.empty == "It has … tokens of 512., Gone."
