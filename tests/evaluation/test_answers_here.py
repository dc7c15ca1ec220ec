"""Models of this machine, objects and recordings, asked by the same plan as hosts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.asked import Scripted, answers, hosted, local, planned, prompts
from support.chaos import killed_after
from support.provider import Provider
from support.recordings import NAME, recorded, rows, tuned, wide

from finetune_gateway.chat import ChatReply
from finetune_gateway.errors import GatewayError
from finetune_gateway.evaluation.answers import AskHow
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.questions import Questions
from finetune_gateway.evaluation.results import ComparedRow
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings


def asked(one: Prompt) -> str:
    return str(one.messages[-1]["content"])


def test_some_rows_are_timed_and_the_rest_asked_in_batches(home: Path) -> None:
    """The first eight one by one, with the time to the first piece; the others eight at a time, in
    the order of their lengths. They are kept for the same content, whatever it is called."""
    model, every = Scripted(), [*prompts(31)[::-1]]
    found = answers([local(model)], every)
    assert model.singles == [asked(one) for one in every[:8]]
    assert [len(one) for one in model.batches] == [8, 8, 7]
    lengths = [len(text) for batch in model.batches for text in batch]
    assert lengths == sorted(lengths)
    for prompt in every:
        answer = found.answers["tuned", prompt.id, 0]
        assert answer.text == f"heard: {asked(prompt)}"
        timed = answer.seconds is not None and answer.first_token_seconds is not None
        assert timed is (prompt in every[:8]) and answer.usd is None
    assert (found.asked, found.kept, wide(home)) == (31, 0, [])
    same, other = Scripted(), Scripted()
    models = [local(same, "renamed"), local(other, "other", content="another adapter")]
    again = answers(models, every, name="compare:cmp-00000002")
    assert (again.asked, again.kept) == (31, 31)
    assert not same.singles + same.batches and len(other.singles) == 8


def test_each_name_of_a_model_is_timed(home: Path) -> None:
    """With an example its answers take longer: eight rows of each are asked one by one, after one
    question that reads the weights."""
    model, every = Scripted(), prompts(20)
    bare = local(model, "bare")
    example = (1, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    told = replace(local(model, "told"), variant="few-shot", examples=(example,))
    found = answers([bare, told], every)
    timed = [key for (key, _, _), one in found.answers.items() if one.seconds is not None]
    assert (timed.count("bare"), timed.count("told")) == (8, 8)
    assert model.warmed == ["Hello"] and len(model.singles) == 16


def test_one_model_is_in_memory_at_a_time(home: Path) -> None:
    """The one before is let go of; asked again, it is loaded again."""
    first, second = local(Scripted(), "first", "1"), local(Scripted(), "second", "2")
    backends: list[Any] = [one.handle and one.handle._backend for one in (first, second)]
    answers([first, second], prompts(3))
    assert [one.opened for one in backends] == [2, 1]  # attached, and let go of
    answers([second], prompts(5))
    assert [one.opened for one in backends] == [2, 1]


def test_a_row_that_it_cannot_answer_is_an_error_of_the_row(home: Path) -> None:
    """In a batch and alone; asked again by a new run only."""
    model, every = Scripted(refuses="parcel 1"), prompts(14)
    found = answers([local(model)], every)
    errors = {row: one.error for (_, row, _), one in found.answers.items() if one.error}
    assert len(errors) == 5 and {*errors.values()} == {"The conversation has parcel 1 in it."}
    assert planned([local(model)], every).left == {"tuned": 0}
    assert planned([local(model)], every, name="compare:cmp-2").left == {"tuned": 5}


def test_a_kill_loses_one_batch(home: Path) -> None:
    """What was in flight is asked again, and counted; nothing else is."""
    every = prompts(40)
    killed_after(lambda: answers([local(Scripted(dies_at=3))], every))
    model = Scripted()
    found = answers([local(model)], every)
    assert (found.kept, found.asked, found.again) == (24, 16, 8)
    assert not model.singles and not any(one.error for one in found.answers.values())


class Own:
    """An object of the user's."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> Any:
        self.asked.append({"messages": messages, **sampling})
        number = int(messages[-1]["content"].split()[-2])
        if number == 1:
            raise ZeroDivisionError("of mine")
        return {0: "a text", 2: 7}.get(number) or ChatReply(text="a reply")


def test_an_object_is_asked_each_time(home: Path) -> None:
    """With the parameters of all; what it raises is an error of the row, and nothing is kept: what
    it is made of cannot be told."""
    own = Own()
    model = EvaluatedModel("own", "own", "Own", "object", "other", "own", "own", answers_to=own)
    every = prompts(4)
    assert "is not kept" in planned([model], every).notes[0]
    for _ in range(2):
        found = answers([model], every, parameters={"temperature": 0, "max_tokens": 9})
        said = [found.answers["own", prompt.id, 0] for prompt in every]
        assert [one.text for one in said] == ["a text", "", "", "a reply"]
        assert said[1].error == "ZeroDivisionError: of mine" and "int" in said[2].error
        assert said[0].seconds is not None and found.asked == 4
    assert len(own.asked) == 8 and own.asked[0]["max_tokens"] == 9
    assert not (home / "answers").exists()


def test_a_recording_answers_what_it_has(home: Path) -> None:
    """By the prompt, else by its messages alone; what it has not got is an error, and nothing is
    sent to anybody."""
    with Provider() as provider:
        recording = recorded(provider, rows(4), name=NAME)
        posts = provider.posts["/chat/completions"]
        name = tuned(provider)
        model = EvaluatedModel(
            "old", NAME, "old", "recorded", "tuned", name, "base", recording=recording
        )
        tools = [{"type": "function", "function": {"name": "track"}}]
        every = [*prompts(6), *prompts(1, tools=tools)]
        found = answers([model, hosted(provider)], every[:2])
        found = answers([model], every)
        assert provider.posts["/chat/completions"] == posts + 2
    said = [found.answers["old", prompt.id, 0] for prompt in every]
    assert [one.error for one in said] == [*[""] * 4, *["not recorded"] * 2, ""]
    assert said[0].kept and said[0].seconds and said[0].prompt_tokens
    assert said[0].text == f"{name} heard: {asked(every[0])}" and said[6].text == said[0].text
    assert (found.asked, found.kept) == (0, 5) and found.spent_usd == 0


class Damaged(Scripted):
    """Its weights are damaged: what it finds of references is no number."""

    def reference_losses(self, rows: Sequence[Mapping[str, Any]]) -> list[float | GatewayError]:
        return [*(math.nan, math.inf, 1.0)]


def test_a_loss_that_is_no_number_is_none(home: Path) -> None:
    """It ended the comparison when all had been asked."""
    rows = [ComparedRow(prompt=one, cluster=one.id) for one in prompts(3)]
    how, store = AskHow(name="compare:cmp-00000001"), Store(Settings.load())
    found = Questions(store, [local(Damaged())], None, None, rows, how, 0, True).ask()
    assert found.losses == {("tuned", rows[2].id): 1.0}


def test_a_comparison_loads_each_model_once(home: Path) -> None:
    """Under all of its names, with every turn of a check: the next one is loaded after that."""
    models = [Scripted(), Scripted()]
    one, other = local(models[0], "one", "1"), local(models[1], "other", "2")
    backends: list[Any] = [model.handle and model.handle._backend for model in (one, other)]
    guide = Guide.loads("checks:\n- must: heard\n- keeps_format: must\n  turns: 3\n")
    compared = [one, other, replace(one, key="again", variant="few-shot")]
    asked = Questions(
        Store(Settings.load()),
        compared,
        None,
        guide,
        [ComparedRow(prompt=prompt, cluster=prompt.id) for prompt in prompts(3)],
        AskHow(name="compare:cmp-00000001"),
        0,
    )
    found = asked.ask()
    assert {*found.outcomes} == {"one", "other", "again"} and len(found.answers) == 9
    assert all(len(each.answers) == 4 for each in found.outcomes["other"][3:])
    assert [backend.opened for backend in backends] == [2, 1]  # attached, and let go of
