"""What is measured of single answers: each measure on answers that are right, wrong and neither."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_gateway.data import json_schema
from finetune_gateway.data.json_schema import schema_judge
from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation import answer_forms as forms
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.measures import FILTERED, NO_ANSWER, choose
from finetune_gateway.evaluation.prompts import prompt_of
from finetune_gateway.evaluation.refusals import languages, phrase_in
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow, Score
from finetune_gateway.text.cleaning import whole

Json = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("track", "cancel")]


def row(*answers: Json, ask: str = "Where is it?", **beside: Any) -> ComparedRow:
    """A row with these messages as its references."""
    asked = {"messages": [{"role": "user", "content": ask}], **beside}
    prompt = prompt_of(asked, 1)
    assert prompt is not None
    references = [{"role": "assistant", **one} for one in answers]
    update = {"references": references, "beside": {**prompt.beside, **beside}}
    return ComparedRow(prompt=prompt.model_copy(update=update), cluster=prompt.id)


def says(text: str, **fields: Any) -> ComparedAnswer:
    """An answer of text."""
    return ComparedAnswer(model="a", row="r", message={"content": text}, **fields)


def call(name: str, arguments: str) -> Json:
    """A call as in OpenAI's messages."""
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: Json) -> ComparedAnswer:
    """An answer of calls."""
    return ComparedAnswer(model="a", row="r", message={"content": None, "tool_calls": [*made]})


def scored(one: ComparedRow, answer: ComparedAnswer) -> dict[str, Score]:
    """All scores of an answer by their measures."""
    return {each.measure.name: each.score(one, answer) for each in choose([one]).scorers}


def values(one: ComparedRow, answer: ComparedAnswer) -> dict[str, float | None]:
    """Their values alone."""
    return {name: score.value for name, score in scored(one, answer).items()}


def test_an_answer_that_nobody_gave_is_not_judged_by_any_measure() -> None:
    """An error and what a filter held back have no value and a reason, in each measure."""
    asked = row({"content": '{"a": 1}', "tool_calls": [call("track", "{}")]}, tools=TOOLS)
    for answer, why in (
        (says("", error="HTTP 500"), f"{NO_ANSWER}: HTTP 500"),
        (says("{", finish_reason="content_filter"), FILTERED),
    ):
        scores = scored(asked, answer)
        assert len(scores) == 9
        assert {(score.value, score.reason) for score in scores.values()} == {(None, why)}


def test_measures_that_do_not_apply_are_left_out_with_a_sentence() -> None:
    """The references alone decide: of texts there are no calls, no JSON and no numbers."""
    chosen = choose([row({"content": "On its way."})])
    names = [one.measure.name for one in chosen.scorers]
    assert names == [
        *("exact_match", "normalized_match", "refusal", "completion_tokens", "characters")
    ]
    assert {*chosen.left_out} == {
        *("tool_names", "tool_arguments", "json_valid", "json_schema", "final_number")
    }
    assert all(why.endswith(".") for why in chosen.left_out.values())
    assert "exact_match" in choose([row()]).left_out


@pytest.mark.parametrize(
    ("reference", "text", "exact", "alike"),
    [
        (" On its way.", "On its way.\n", 1, 1),
        ("On its way.", "**on  ITS way**", 0, 1),
        ("SELECT a FROM t WHERE b > 3", "```sql\nselect a\nfrom t where b > 3;\n```", 0, 1),
        ("SELECT a FROM t WHERE b > 3", "SELECT a FROM t WHERE b < 3", 0, 0),
        ("3.5", "35", 0, 0),
        ("-3", "3", 0, 0),
        ("It’s “fine” – yes", 'it\'s "fine" - yes!', 0, 1),
        ('{"a": 1, "b": [2]}', '{"b":[2.0],"a":1}', 0, 1),
        ('{"a": 1}', '{"a": true}', 0, 0),
        ('{"a": 1}', '{"a": 1, "a": 1}', 0, 0),
    ],
)
def test_matches(reference: str, text: str, exact: int, alike: int) -> None:
    """Exact is to the character; normalized forgives form, never an operator, sign or point."""
    found = values(row({"content": reference}), says(text))
    assert (found["exact_match"], found["normalized_match"]) == (exact, alike)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("so 72.\n#### 72!!!", 1),
        ("It is 1,072 or 72.0", 1),
        ("#### 1,072", 0),
        ("72 of them, so #### 7", 0),
        ("many", 0),
    ],
)
def test_the_final_number_is_that_after_the_mark_else_the_last(text: str, right: int) -> None:
    """A number elsewhere in the answer is not taken for it."""
    assert values(row({"content": "48/2.\n#### 72!!!"}), says(text))["final_number"] == right


def test_json_is_all_of_an_answer_and_fits_what_the_references_have_in_common() -> None:
    """A fence is no JSON; a missing, a new or a mistyped key does not fit."""
    asked = row({"content": '{"id": 7, "lines": ["a"]}'})
    cases: dict[str, tuple[float, float]] = {
        '{"id": 8, "lines": []}': (1, 1),
        '{"id": 8}': (1, 0),
        '{"id": "8", "lines": []}': (1, 0),
        '{"id": 8, "lines": [], "more": 1}': (1, 0),
        '```json\n{"id": 8, "lines": []}\n```': (0, 0),
        '{"id": NaN, "lines": []}': (0, 0),
        "8": (0, 0),
    }
    for text, wanted in cases.items():
        found = values(asked, says(text))
        assert (found["json_valid"], found["json_schema"]) == wanted, text
    cut = scored(asked, says('{"id": 8', finish_reason="length"))
    assert cut["json_valid"].reason == "cut at max_tokens"


def test_a_schema_is_judged_by_all_its_keywords_and_fetches_nothing() -> None:
    """Keywords beyond types count too; a reference to elsewhere, or a pattern that takes its time,
    is no schema."""
    assert schema_judge({"properties": {"a": {"multipleOf": 2}}})({"a": 3})
    assert not schema_judge({"not": {"required": ["b"]}})({"a": 3})
    for schema in ({"$ref": "https://example.com/x"}, {"pattern": "(?=a)b"}, {"type": "objekt"}):
        with pytest.raises(SpecError, match="cannot be used"):
            schema_judge(schema)


def test_a_count_that_no_host_can_have_is_none() -> None:
    """10^400 tokens would end the comparison when all had been asked."""
    counts = (0, 2**53, 2**53 + 1, 10**400, -1, True, 1.0)
    assert [whole(one) for one in counts] == [0, 2**53, *[None] * 5]


INSIDE: Json = {"type": "object", "properties": {"a": {"$ref": "#/$defs/0"}}}
NODE: Json = {"anyOf": [*({**INSIDE, "required": ["a", key]} for key in "xy"), {"type": "null"}]}
BRANCHES: Json = {
    str(level): {"anyOf": [{"items": {"$ref": f"#/$defs/{level + 1}"}, "maxItems": 1}] * 2}
    for level in range(60)
}


def nested(value: Any, levels: int) -> Any:
    """Return the value so many lists deep."""
    return nested([value], levels - 1) if levels else value


def test_a_schema_that_takes_years_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further level of an answer doubles the time: it is neither right nor wrong then. A small
    answer is judged by the same schema; after some that took too long it is given up."""
    monkeypatch.setattr(json_schema, "SECONDS", 0.05)
    monkeypatch.setattr(json_schema, "MOST_ENDED", 1)
    tree = schema_judge({"$ref": "#/$defs/0", "$defs": {"0": NODE}})
    deep: Any = None
    for _ in range(60):
        deep = {"a": deep}
    assert tree({"a": None, "x": 1}) == "" and "valid under" in tree({"a": None})
    with pytest.raises(json_schema.TooCostly):
        tree(deep)
    branches = schema_judge({"$ref": "#/$defs/0", "$defs": BRANCHES | {"60": {"const": 1}}})
    for why in ("more than", "as 1 before it"):
        with pytest.raises(json_schema.TooCostly, match=why):
            branches(nested(2, 60))
    unseen: Json = {"properties": {"a": {"type": "integer"}}}
    for _ in range(40):
        unseen = {"allOf": [unseen], "unevaluatedProperties": False}
    guide = Guide.loads(f"checks:\n- schema: {json.dumps(unseen)}\n")
    (case,) = guide.cases([row({"content": "Yes."})])
    assert "to judge by its schema" in guide.checks[0].judge(case, [says('{"a": 1}')]).reason


def test_calls_are_right_in_any_order_with_arguments_equal_as_json() -> None:
    """Names are judged alone, and with their arguments; how often a call is made counts."""
    first, second = call("track", '{"id": 1, "fast": true}'), call("cancel", '{"id": 2}')
    asked = row({"tool_calls": [first, second]}, tools=TOOLS)
    same = call("track", '{"fast":true,"id":1.0}')
    cases: list[tuple[ComparedAnswer, tuple[float, float]]] = [
        (calls(second, same), (1, 1)),
        (calls(second, call("track", '{"id": 1, "fast": 1}')), (1, 0)),
        (calls(second, call("track", "not JSON")), (1, 0)),
        (calls(first), (0, 0)),
        (calls(first, first, second), (0, 0)),
        (says("On its way."), (0, 0)),
    ]
    for answer, wanted in cases:
        found = values(asked, answer)
        assert (found["tool_names"], found["tool_arguments"]) == wanted


def test_no_call_is_right_where_the_reference_makes_none() -> None:
    """Only a row that offers tools is judged; a call that nobody wants is wrong."""
    called = row({"tool_calls": [call("track", "{}")]}, tools=TOOLS)
    quiet = row({"content": "Which parcel?"}, tools=TOOLS)
    plain = row({"content": "Hello."}, ask="Hi")
    judge = next(
        one for one in choose([called, quiet, plain]).scorers if "names" in one.measure.name
    )
    assert judge.score(quiet, says("Which one?")).value == 1
    assert judge.score(quiet, calls(call("track", "{}"))).value == 0
    assert judge.score(plain, says("Hello.")).value is None


@pytest.mark.parametrize(
    "text",
    [
        "I’m sorry, but I can’t help with that.",
        "Es tut mir leid, dabei kann ich dir nicht helfen – da kann ich nicht helfen.",
        "Je suis désolé, je ne peux pas vous aider.",
        "申し訳ありませんが、お手伝いできません。",
        "对不起，我无法提供这些信息。",
        "К сожалению, я не могу помочь с этим.",
    ],
)
def test_refusals_of_many_languages_are_found(text: str) -> None:
    """Whatever the apostrophe; and an answer that only says sorry is none."""
    asked = row({"content": "Yes."})
    assert values(asked, says(text))["refusal"] == 1
    assert len(languages()) >= 10


def test_an_answer_that_is_only_sorry_is_no_refusal() -> None:
    """Nor is one that can't find an order, or a call; but a marked one is."""
    asked = row({"content": "Yes."})
    for text in (
        "I'm sorry, but I can't find your order A-1.",
        "Sorry for the delay: it comes tomorrow.",
        "Üzgünüm, ancak paketiniz gecikti.",
        "Es tut mir leid, dass das Paket spät kommt.",
    ):
        assert phrase_in(text) == ""
    marked = ComparedAnswer(model="a", row="r", message={"content": None, "refusal": "No."})
    assert values(asked, marked)["refusal"] == 1


def test_lengths_are_of_the_text_and_of_counted_tokens() -> None:
    """Tokens that nobody counted are no zero."""
    found = scored(row({"content": "Yes."}), says("four", completion_tokens=None))
    assert found["characters"].value == 4
    assert found["completion_tokens"].value is None
    assert found["completion_tokens"].reason


def test_a_shape_is_fitted_by_all_values_it_was_made_of() -> None:
    """Types differ, keys are missing, lists are empty, objects lie deep: each value fits."""
    made: list[Any] = [
        {"a": 1, "b": [], "c": {"d": {"e": {"f": 1}}}},
        {"a": 1.5, "b": [{"x": None}]},
        {"a": None, "b": [{"x": "y", "z": True}], "c": {"d": {"e": {}}}},
        [1, "two"],
        {str(n): n for n in range(60)},
    ]
    labels = forms.shape([{"a": "x"}, {"a": "y"}] * 10, labels=True)
    assert labels["properties"]["a"]["enum"] == ["x", "y"]
    assert "enum" not in str(forms.shape([{"a": str(n)} for n in range(20)], labels=True))
    for values_ in ([made[0]], made[:3], made[:4], made):
        judge = schema_judge(json.loads(json.dumps(forms.shape(values_))))
        assert [judge(value) for value in values_] == [""] * len(values_)


def test_a_bad_answer_is_no_reference() -> None:
    """Of KTO's rows those that are called good are; a model that says what a bad one says is not
    right."""
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "No idea."}]
    for label, number in ((True, 1), (False, 0)):
        prompt = prompt_of({"messages": turns, "label": label}, 1)
        assert prompt is not None and len(prompt.messages) == 1
        assert len(prompt.references) == number
    prompt = prompt_of({"prompt": "Where?", "completion": "No idea.", "label": False}, 1)
    assert prompt is not None and prompt.references == []
