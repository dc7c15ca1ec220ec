"""A behaviour guide in a comparison: the same checks on several models, paired row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.hosted import connect
from support.provider import Provider

from finetune_gateway import ChatReply, Comparison, Gateway
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparing import ComparePlan
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]

GUIDE = """\
system: You are a parcel desk.
checks:
  - name: valid
    json: object
  - name: turns
    keeps_format: valid
    turns: 2
    prompts: ['Where is it?', 'When?']
  - name: role
    stays_in_role: injection
    prompts: Where is it?
  - name: friendly
    rubric: Is it friendly?
    prompts: Are you there?
  - function: own.py:nice
"""


class Desk:
    """A model of the user's that answers in JSON, or forgets that after the first question."""

    def __init__(self, *, forgets: bool = False) -> None:
        self.forgets = forgets
        self.heard: list[str] = []

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        """Answer whatever is asked."""
        asked = [one["content"] for one in messages if one["role"] == "user"]
        self.heard.append(asked[-1])
        if "Which score" in messages[-1]["content"]:
            return ChatReply(text='{"reason": "Kind.", "score": 5}')
        plain = self.forgets and len(asked) > 1
        return ChatReply(text="On its way." if plain else '{"reply": "On its way."}')


class Mute(Desk):
    """It passes no check of a form."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        return ChatReply(text="I do not know.")


def rows(count: int) -> list[Json]:
    """Rows whose answer is JSON."""
    answer = {"role": "assistant", "content": '{"reply": "On its way."}'}
    return [
        {"messages": [{"role": "user", "content": f"Where is parcel {number}?"}, answer]}
        for number in range(count)
    ]


def test_checks_are_measures_with_reasons_where_they_do_not_run(home: Path) -> None:
    """What checks ask on is in the comparison with its turns, paired between models; a rubric
    without a judge is not asked, and a function whose file nobody named does not run."""
    good, bad = Desk(), Desk(forgets=True)
    made = Gateway().compare([good, bad], rows(4), checks=Guide.loads(GUIDE))
    first, second = (model.key for model in made.data.models)
    checks = made.data.checks
    assert (checks["valid"][second].passed, checks["valid"][second].failed) == (4, 0)
    assert (checks["turns"][first].passed, checks["turns"][second].failed) == (2, 2)
    assert (checks["role"][first].passed, checks["role"][first].failed) == (3, 0)
    assert not Settings.load().answers.exists()  # nobody could read what objects answer again
    figures = made.data.figures
    assert "--judge" in figures["check:friendly"][first].empty
    assert "--code" in figures["check:function"][first].empty
    assert "Are you there?" not in good.heard
    asked_on = [one for one in Comparison.load(made.id).answers() if "turns" in one.turns]
    assert len({one.answer.row for one in asked_on}) == 2 and len(asked_on) == 4
    assert [turn["role"] for turn in asked_on[0].turns["turns"]] == ["assistant", "user"] * 2 + [
        "assistant"
    ]


def test_a_rubric_is_decided_by_the_judge_of_a_comparison(home: Path) -> None:
    """Of each model, on the prompts of the guide."""
    judge = Desk()
    made = Gateway().compare([Desk()], rows(2), checks=Guide.loads(GUIDE), judge=judge)
    (key,) = (model.key for model in made.data.models)
    assert made.data.checks["friendly"][key].passed == 1
    assert json.loads(made.data.model_dump_json())["checks"]["friendly"][key]["failed"] == 0


def test_checks_decide_where_they_say_something(home: Path) -> None:
    """Also beside a judge. An answer passes all of them or not at all; checks that nobody passes
    leave the verdict to the references."""
    one, other, judge = Desk(), Desk(), Desk()
    json_alone = "checks:\n- json: object\n"
    judged = Gateway().compare([one, other], rows(3), checks=Guide.loads(json_alone), judge=judge)
    assert judged.verdict.measure == "checks" and "judge:wins" in judged.data.figures
    guide = Guide.loads(json_alone + "- must: nowhere\n")
    made = Gateway().compare([one, other], rows(3), checks=guide)
    means = [one.interval and one.interval.mean for one in made.data.figures["checks"].values()]
    assert means == [0, 0] and made.verdict.measure == "json_schema"


class Leaky(Desk):
    """It says all that it has been given, its system prompt too, once somebody asks on."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply:
        if len(messages) < 4:
            return super().chat(messages)
        return ChatReply(text=json.dumps({"reply": messages[0]["content"]}))


STARTER = """\
system: You are a parcel desk.
checks:
  - json: object
  - name: turns
    keeps_format: json
    turns: 2
    rows: 3
  - name: role
    stays_in_role: true
    keeps: json
    rows: 1
"""


def test_conversations_begun_with_a_row_count_as_that_row_in_all_checks(home: Path) -> None:
    """14 attacks after one row are one conversation more for nobody: with them as rows of their
    own, models that pass all and none of 20 rows read as "can't tell"."""
    system = {"role": "system", "content": "You are a parcel desk."}
    asked = [{"messages": [system, *row["messages"]]} for row in rows(20)]
    made = Gateway().compare([Desk(), Leaky(), Mute()], asked, checks=Guide.loads(STARTER))
    good, leaky, mute = (model.key for model in made.data.models)
    found = {key: one.interval for key, one in made.data.figures["checks"].items()}
    assert {(one.n, one.clusters) for one in found.values() if one} == {(20, 20)}
    assert [round(20 * one.mean) if one else None for one in found.values()] == [20, 19, 0]
    role = made.data.figures["check:role"][good].interval
    assert role is not None and role.n > role.clusters == 1
    told = {(one.first, one.second): one.better for one in made.data.differences
            if one.measure == "checks"}  # fmt: skip
    assert told == {(good, leaky): "", (good, mute): good, (leaky, mute): leaky}
    turns = [one for one in Comparison.load(made.id).rows() if one.check == "turns"]
    opened = {row.id: row.cluster for row in Comparison.load(made.id).rows() if not row.check}
    assert [opened[one.opening] for one in turns] == [one.cluster for one in turns]


def test_checks_name_the_answers_that_are_right_where_that_can_be_said(home: Path) -> None:
    """A guide of forms is passed by any label; of prose nobody expects the words of the data."""
    guide = Guide.loads("checks:\n- json: object\n")
    made = Gateway().compare([Desk(), Mute()], rows(20), checks=guide)
    assert "Normalized match: 100% of" in made.verdict.text
    sentence = "It is on its way and will be with you by noon tomorrow."
    prose = [
        {"messages": [row["messages"][0], {"role": "assistant", "content": sentence}]}
        for row in rows(20)
    ]
    assert "ormalized" not in Gateway().compare([Desk(), Mute()], prose, checks=guide).verdict.text


def test_an_answer_that_the_judge_did_not_score_passes_no_check_by_it(home: Path) -> None:
    """One that fails another check has failed all the same."""
    guide = Guide.loads("checks:\n- json: object\n- rubric: Is it friendly?\n")

    judge = Mute()
    made = Gateway().compare([Desk(), Mute()], rows(4), checks=guide, judge=judge, by="checks")
    good, bad = (made.data.figures["checks"][model.key] for model in made.data.models)
    assert good.interval is None and sum(good.unjudged.values()) == 4
    assert bad.interval is not None and (bad.interval.mean, bad.unjudged) == (0, {})


def test_what_was_answered_is_not_priced_again(home: Path) -> None:
    """Also not what checks ask on, and the judge: their questions hold the answers that the model
    gave. Half of the rows more are half of the questions more."""
    models = ["gpt-4.1-mini-2025-04-14", "gpt-4.1-2025-04-14"]
    guide = Guide.loads(GUIDE.replace("  - function: own.py:nice\n", ""))
    plans: list[ComparePlan] = []

    def agree(plan: ComparePlan) -> bool:
        plans.append(plan)
        return True

    with Provider() as provider:
        provider.world.answer_with = lambda body: json.dumps({"reply": str(body["messages"])[-40:]})
        for count in (4, 4, 6, 6):
            Gateway().compare(models, rows(count), checks=guide, judge="gpt-4o-2024-08-06",
                              backends=[connect(provider, profile="openai")],
                              confirm=agree)  # fmt: skip
        asked = len(provider.world.asked)
    first, second, third, last = (plan.left for plan in plans)
    assert second == last == 0 and not plans[1].sends and plans[1].cost is not None
    assert plans[1].cost.high == 0 < first and 0 < third < first
    assert len(plans) == 4 and asked > 0
