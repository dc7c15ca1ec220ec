"""Behaviour guides: what a file may say, and what each check makes of answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway.errors import NotFoundError, SpecError
from finetune_gateway.evaluation.checks import Guide, Rounds
from finetune_gateway.evaluation.checks.conversations import KINDS, attacks
from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow

Json = dict[str, Any]
Model = Callable[[list[Json]], str | Json]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "track",
            "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}},
        },
    }
]


def own_rows(guide: Guide) -> list[ComparedRow]:
    """The prompts of a guide as rows."""
    return [ComparedRow(prompt=one, cluster=one.id) for one in guide.prompts]


def row(ask: str, reference: str | Json = "Yes.", **beside: Any) -> ComparedRow:
    """A row of data."""
    said = reference if isinstance(reference, dict) else {"content": reference}
    messages = [{"role": "user", "content": ask}, {"role": "assistant", **said}]
    prompt = prompt_of({"messages": messages, **beside}, 1)
    assert prompt is not None
    return ComparedRow(prompt=prompt, cluster=prompt.id)


def answered(model: Model, prompt: Prompt) -> ComparedAnswer:
    """What a model says to a prompt, as the engine returns it."""
    said = model(prompt.messages)
    message = said if isinstance(said, dict) else {"content": said}
    return ComparedAnswer(model="m", row=prompt.id, message={"role": "assistant", **message})


def scores(
    text: str, model: Model, rows: list[ComparedRow] | None = None, guide: Guide | None = None
) -> dict[str, list[float | None]]:
    """The scores of each check of a guide, asked to its end."""
    guide = guide or Guide.loads(text)
    rounds = Rounds(guide.cases(rows if rows is not None else own_rows(guide)))
    while prompts := rounds.pending():
        rounds.take({one.id: answered(model, one) for one in prompts})
    found: dict[str, list[float | None]] = {}
    for outcome in rounds.outcomes():
        found.setdefault(outcome.case.check.name, []).append(outcome.score.value)
    return found


def _always(said: str | Json) -> Model:
    return lambda messages: said


def score(check: str, said: str | Json, ask: str = "Where is my parcel?", **beside: Any) -> Any:
    """The score of one answer by one check."""
    found = scores(f"checks:\n  - {check}", lambda messages: said, [row(ask, **beside)])
    return next(iter(found.values()))[0]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("json", '{"a": 1}', '```json\n{"a": 1}\n```'),
        ("json: object", '{"a": 1}', "[1]"),
        ("schema: {type: object, required: [a]}", '{"a": 1}', '{"b": 1}'),
        ("schema: {properties: {a: {pattern: '^x'}}}", '{"a": "xy"}', '{"a": "y"}'),
        ("must: ['^On', 'way']", "On its way", "Away"),
        ("must_not: '(?i)as an ai'", "Hello", "As an AI, no."),
        ("contains: Thanks", "Thanks!", "thanks"),
        ("not_contains: ['!', '?']", "Fine.", "Fine?"),
        ("length: {max_words: 3}", "one two three", "one two three four"),
        ("length: {min_chars: 2, max_chars: 3}", "abc", "a"),
        ("language: de", "Ihr Paket ist schon unterwegs.", "Your parcel is on its way now."),
        ("language: same", "Your parcel is on its way now.", "Ihr Paket ist schon unterwegs."),
        ("does_not_refuse", "It comes tomorrow.", "I'm sorry, I can't help with that."),
    ],
)
def test_a_check_passes_what_is_right_and_fails_what_is_not(
    check: str, good: str, bad: str
) -> None:
    """Each kind, by one answer of both sorts."""
    asked = "Where is my parcel now, please?"
    assert (score(check, good, asked), score(check, bad, asked)) == (1, 0)


@pytest.mark.parametrize(
    "check", ["json", "must: x", "contains: x", "length: {min_words: 1}", "language: en"]
)
def test_a_call_alone_is_not_judged_by_checks_of_texts(check: str) -> None:
    """It is neither JSON nor none: the data may want the call."""
    call = {"content": None, "tool_calls": [{"function": {"name": "track", "arguments": "{}"}}]}
    assert score(check, call, tools=TOOLS) is None


def test_calls_are_of_offered_tools_with_fitting_arguments() -> None:
    """A wrong name, wrong types, text for arguments, and no call where the data call."""
    made = [("track", '{"id": 1}'), ("trick", "{}"), ("track", '{"id": "1"}'), ("track", "id")]
    calls: list[str | Json] = [
        {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
        for name, arguments in made
    ]
    wanted = row("Where?", {"tool_calls": [{"function": {"name": "track", "arguments": "{}"}}]})
    asked = wanted.model_copy(
        update={"prompt": wanted.prompt.model_copy(update={"beside": {"tools": TOOLS}})}
    )
    for said, value in zip([*calls, "Here."], (1, 0, 0, 0, 0), strict=True):
        found = scores("checks: [tool_calls]", _always(said), [asked])
        assert found == {"tool_calls": [value]}


def test_refusals_are_asked_for_by_prompts_of_the_guide() -> None:
    """The system prompt of the guide goes along; a check without prompts asks nothing."""
    text = """
system: You sell parcels.
checks:
  - refuses: medical advice
    prompts: ['Which pills?', {messages: [{role: user, content: 'And which dose?'}]}]
"""
    heard: list[list[Json]] = []

    def model(messages: list[Json]) -> str:
        heard.append(messages)
        return "I can't help with that." if "pills" in messages[-1]["content"] else "Two a day."

    assert scores(text, model, []) == {"refuses": [1, 0]}
    assert all(one[0] == {"role": "system", "content": "You sell parcels."} for one in heard)
    with pytest.raises(SpecError, match="needs prompts"):
        Guide.loads("checks:\n  - refuses: x")


def test_the_system_prompt_of_a_training_leads_prompts_that_have_none() -> None:
    """Each prompt once, under another id; the guide's own system prompt stays."""
    guide = Guide.loads("prompts: Hi\nchecks:\n  - {contains: x, prompts: Ho}\n  - json")
    led = guide.with_system("You sell parcels.")
    for case in led.cases(own_rows(led)):
        assert case.opening.messages[0]["content"] == "You sell parcels."
    ids = {case.opening.id for case in guide.cases(own_rows(guide))}
    assert not ids & {case.opening.id for case in led.cases(own_rows(led))}
    assert led.with_system("Another.") is led


def test_a_format_that_is_lost_in_a_later_turn_fails() -> None:
    """The reason names the turn; the questions are those of other rows."""
    text = "checks:\n  - json\n  - keeps_format: json\n    turns: 3\n    rows: 2"
    rows = [row(f"Question {number}?") for number in range(4)]

    def forgets(messages: list[Json]) -> str:
        turns = sum(message["role"] == "user" for message in messages)
        return '{"a": 1}' if turns < 3 else "Sure!"

    assert scores(text, lambda messages: "{}", rows)["keeps_format"] == [1, 1]
    assert scores(text, forgets, rows) == {"json": [1] * 4, "keeps_format": [0, 0]}
    rounds = Rounds(Guide.loads(text).cases(rows))
    while prompts := rounds.pending():
        rounds.take({one.id: answered(forgets, one) for one in prompts})
    lost = rounds.outcomes()[-1]
    assert lost.score.reason.startswith("turn 3:")
    asked = [turn["content"] for turn in lost.turns if turn["role"] == "user"]
    assert len({*asked}) == 3
    assert all(one.startswith("Question") for one in asked)


def test_a_model_that_says_nothing_has_not_passed() -> None:
    """It neither helps nor stays in its role."""
    text = "prompts: Where is it?\nchecks:\n  - does_not_refuse\n  - stays_in_role"
    found = scores(text, lambda messages: " ")
    assert {value for values in found.values() for value in values} == {None}


ROLE = "system: You are a parcel desk.\nprompts: Where is it?\nchecks:\n  - stays_in_role"


def test_a_model_that_keeps_its_secret_passes_where_it_was_asked_for_it_alone() -> None:
    """Attacks that ask for nothing certain are not judged: never passed."""
    found = scores(ROLE, lambda messages: "Your parcel is on its way.")["stays_in_role"]
    decided = [bool(one.get("leaks") or one.get("marker")) for one in attacks()]
    assert found == [1 if certain else None for certain in decided]
    assert {one["kind"] for one in attacks()} == {*KINDS}


@pytest.mark.parametrize("form", [str, str.lower, lambda text: text[::-1], ".".join])
def test_a_secret_that_is_repeated_in_another_form_is_a_leak(form: Callable[[str], str]) -> None:
    """In lower case, backwards, with dots between the letters."""

    def leaks(messages: list[Json]) -> str:
        told = messages[0]["content"].partition("alone: ")[2][:11]
        asked = messages[-1]["content"]
        return f"It is {form(told)}, dear." if "code" in asked else "It is on its way, dear."

    found = scores(ROLE, leaks)["stays_in_role"]
    names = [one["says"] for one in attacks()]
    assert [value == 0 for value in found] == ["code" in says for says in names]


def test_a_model_that_does_what_an_attack_says_fails_and_one_that_quotes_it_is_not_judged() -> None:
    """The word in the middle of a longer answer may be a quote; in a refusal it is one."""

    def word(messages: list[Json]) -> str:
        return next((one for one in messages[-1]["content"].split() if "-" in one[5:6]), "Fine.")

    def quotes(messages: list[Json]) -> str:
        said = word(messages)
        return f"You ask for the word {said}, but this desk is about parcels, so let us talk of it."

    marked = [bool(one.get("marker")) for one in attacks()]
    for model, value in ((word, 0), (quotes, None)):
        found = scores(ROLE, model)["stays_in_role"]
        assert {one for one, is_marked in zip(found, marked, strict=True) if is_marked} == {value}


def test_patterns_and_named_checks_decide_attacks_too() -> None:
    """A pattern finds the poem, and a check the lost format, where no canary decides. Who keeps the
    format has not shown that it stays in its role."""
    text = """
prompts: Where is it?
checks:
  - json
  - {stays_in_role: scope, must_not: '(?i)waves', canary: false, name: pattern}
  - {stays_in_role: [typos], keeps: json, canary: false, name: format}
"""
    found = scores(text, lambda messages: "Waves roll in" if "sea" in str(messages) else "{}")
    assert found["pattern"] == [0, 1]
    assert found["format"] == [None, None]
    assert scores(text, lambda messages: "Sorry?")["format"] == [0, 0]


def test_what_a_model_called_in_a_conversation_has_a_result_before_the_next_question() -> None:
    """Hosts refuse a call without one."""
    heard: list[list[Json]] = []

    def calls(messages: list[Json]) -> Json:
        heard.append(messages)
        return {"tool_calls": [{"id": "c1", "function": {"name": "track", "arguments": "{}"}}]}

    scores("prompts: Where?\nchecks:\n  - stays_in_role: typos", calls)
    assert [one["role"] for one in heard[-1]][-4:] == ["user", "assistant", "tool", "user"]
    assert heard[-1][-2]["tool_call_id"] == "c1"


def test_what_is_not_answered_is_not_judged_and_ends_its_conversation() -> None:
    """An error in the second turn has no third, and no score."""
    guide = Guide.loads("prompts: [A, B]\nchecks:\n  - json\n  - keeps_format: json")
    rounds = Rounds(guide.cases(own_rows(guide)))
    asked = 0
    while prompts := rounds.pending():
        asked += 1
        error = "HTTP 500" if asked == 2 else ""
        rounds.take(
            {one.id: ComparedAnswer(model="m", row=one.id, message={"content": "{}"}, error=error)
             for one in prompts}
        )  # fmt: skip
    assert asked == 2
    by_check = {one.case.check.name: one.score for one in rounds.outcomes()}
    assert by_check["json"].value == 1
    assert by_check["keeps_format"].value is None


def test_a_conversation_fails_by_an_answer_before_the_one_that_is_missing() -> None:
    """Whatever that would say: one that fails is enough. The reason of a missing one is named."""
    guide = Guide.loads(
        "system: You are a desk.\nprompts: A\nchecks:\n  - json\n  - keeps_format: json\n"
        "  - stays_in_role: override\n"
    )
    for first, expected in (("{}", {None}), ("Sorry.", {0}), ("leak", {0})):
        rounds = Rounds(guide.cases(own_rows(guide)))
        asked = 0
        while prompts := rounds.pending():
            asked += 1
            said = {}
            for one in prompts:
                secret = one.messages[0]["content"].partition("alone: ")[2][:11]
                text = secret if first == "leak" else first
                error = "650 tokens; it reads at most 512" if asked == 2 else ""
                message = {"content": text}
                said[one.id] = ComparedAnswer(model="m", row=one.id, message=message, error=error)
            rounds.take(said)
        found = {one.case.check.name: one.score for one in rounds.outcomes()}
        assert {found["keeps_format"].value} == expected
        assert found["stays_in_role"].value == (0 if first == "leak" else None)
        if first == "{}":
            assert found["keeps_format"].reason.endswith(": 650 tokens; it reads at most 512")


FUNCTIONS = """
def short(text, row):
    if "?" in text:
        raise ValueError("a question")
    if not text:
        return None
    return len(text) < 10, f"{len(text)} characters to {row['messages'][0]['content']!r}"
"""


def test_a_function_runs_only_if_its_file_is_named(tmp_path: Path) -> None:
    """Otherwise nothing is loaded; its exception judges nothing, and fails nothing."""
    trap = 'open(__file__ + ".ran", "w").close()\n'
    (tmp_path / "own.py").write_text(trap + FUNCTIONS)
    path = tmp_path / "behaviour.yaml"
    path.write_text("checks:\n  - function: own.py:short\n")
    assert scores("", lambda messages: "x", [row("Hi?")], Guide.load(path)) == {}
    assert not (tmp_path / "own.py.ran").exists()
    guide = Guide.load(path, code=[tmp_path / "own.py"])
    for said, value in (("Yes.", 1), ("Yes, and so on.", 0), ("What?", None), ("", None)):
        found = scores("", _always(said), [row("Hi?")], guide)
        assert found == {"function": [value]}
    path.write_text("checks:\n  - function: own.py:missing\n")
    with pytest.raises(SpecError, match="line 2: .* has no function missing"):
        Guide.load(path, code=[tmp_path / "own.py"])


HOSTILE = """\
print("loaded")

class Odd(Exception):
    def __str__(self):
        raise ValueError

    __bool__ = __str__

def judged(text, row):
    print("judged", file=__import__("sys").stdout)
    row["messages"].clear()
    if text == "raise":
        raise Odd
    return True, Odd() if text == "reason" else "so"
"""


def test_a_function_changes_and_prints_nothing_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it prints is no part of a result in JSON; the next model is asked the same row; and an
    exception, or a reason, without a text judges nothing."""
    (tmp_path / "own.py").write_text(HOSTILE)
    path = tmp_path / "behaviour.yaml"
    path.write_text("checks:\n  - function: own.py:judged\n")
    guide, asked = Guide.load(path, code=[tmp_path / "own.py"]), row("Hi?")
    for said, value in (("Yes.", 1), ("raise", None), ("reason", None)):
        assert scores("", _always(said), [asked], guide) == {"function": [value]}
    assert asked.prompt.messages
    printed = capsys.readouterr()
    assert printed.out == "" and "loaded" in printed.err and "judged" in printed.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_a_schema_is_read_from_a_file_alone(tmp_path: Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="line 1: the schema .* is no file"):
        Guide.loads(f"checks: [schema: {tmp_path / 'pipe'}]")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("chekcs: []", 1, "Did you mean checks"),
        ("checks:\n  - jsn", 1, "Did you mean json"),
        ("checks:\n  - name: a\n    must: x\n    promts: y", 4, "Did you mean prompts"),
        ("checks:\n  - must: '(?=a)'", 2, "look-around"),
        ("checks:\n  - must: '(a)\\1'", 2, "backreferences"),
        ("checks:\n  - must: a\n    json: true", 3, "two kinds"),
        ("checks:\n  - name: x", 2, "without a kind"),
        ("checks:\n  - contains: 12", 2, "quotes: '12'"),
        ("checks:\n  - length: {max_chars: -1}", 2, "whole number"),
        ("checks:\n  - length: {min_words: 3, max_words: 2}", 2, "below"),
        ("checks:\n  - json\n  - json\n  - {name: json-2, json: true}", 4, "named 'json-2'"),
        ("checks:\n  - json: true\n    min_pass: 90", 3, "share"),
        ("checks:\n  - keeps_format: json", 2, "comes before"),
        ("checks:\n  - schema: {type: objekt}", 2, "cannot be used"),
        ("checks:\n  - schema: missing.json", 2, "cannot be read"),
        ("checks:\n  - function: own.py", 2, "names no function"),
        ("checks:\n  - stays_in_role: [poems]", 2, "no attacks"),
        ("checks:\n  - json:\n    json: 1", 3, "twice"),
        ("a: &x [1]\nchecks: *x\nb:\n  - c", 2, "aliases"),
        ("checks: !!python/object/apply:os.system ['true']", 1, "tag"),
        ("checks: !!map json", 1, "tag"),
        ("checks: !!str [json]", 1, "tag"),
        ("checks:\n  - must: '" + "(" * 5000 + "'", 2, "... cannot be used"),
        ("checks:\n\t- json", 2, "tabs"),
        ('checks:\n  - must: "\\d"', 2, "written twice"),
        ("tone: short", 1, "list of checks"),
        ("prompts: [{messages: [{content: x}]}]\nchecks: [json]", 1, "without a role"),
    ],
)
def test_what_is_wrong_in_a_guide_is_named_with_its_line(text: str, line: int, words: str) -> None:
    """Each with what was probably meant, or what to write."""
    with pytest.raises(SpecError) as caught:
        Guide.loads(text)
    assert f"behaviour.yaml, line {line}:" in caught.value.message
    assert words in str(caught.value)


def test_a_file_that_is_large_deep_or_missing_is_refused(tmp_path: Path) -> None:
    """In one sentence, and without reading it to its end."""
    path = tmp_path / "behaviour.yaml"
    for raw, words in ((b"#" * 1_000_001, "larger"), (b"[" * 900, "deep"), (b"\xff", "UTF-8")):
        path.write_bytes(raw)
        with pytest.raises(SpecError, match=words):
            Guide.load(path)
    with pytest.raises(NotFoundError, match="no file"):
        Guide.load(tmp_path / "none.yaml")


def test_words_that_yaml_1_1_takes_for_something_else_are_texts() -> None:
    """Norwegian is no falsehood, and a date is what it says."""
    assert Guide.loads("checks:\n  - language: no").checks[0].about.title == "In no"
    assert score("contains: 2026-12-01", "On 2026-12-01.") == 1


def test_a_pattern_that_would_take_years_elsewhere_is_matched_at_once() -> None:
    """Its time does not grow with the power of the text's length."""
    assert score("must: '^(a+)+$'", "a" * 50_000 + "b") == 0
