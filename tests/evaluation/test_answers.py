"""Many models asked at once: each request once, streamed, kept, within its limits."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from support.asked import BASES, RUN, Scripted, answers, hosted, local, planned, prompts
from support.provider import Provider
from support.recordings import asked, wide

from finetune_gateway import BackendError, BudgetError, Gateway, NotFoundError
from finetune_gateway.errors import PrivateDataError
from finetune_gateway.evaluation import asking
from finetune_gateway.evaluation.answers import AskHow, Limit, ask, limit_of, plan, spending
from finetune_gateway.evaluation.answers.store import KeptAnswers
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings


def test_all_models_are_asked_all_rows_once(home: Path) -> None:
    """Two models of one host, with the time to the first piece; the second time nothing is sent,
    whoever wants the answers; for this user alone."""
    rows = prompts(12)
    with Provider(latency=(0.01, 0.02)) as provider:
        models = [hosted(provider, model) for model in BASES]
        found = answers(models, rows)
        assert asked(provider) == {1: 24}
        again = answers(models, rows, name="compare:cmp-00000002")
        assert asked(provider) == {1: 24}
    assert (found.asked, found.kept, found.again, found.stopped) == (24, 0, 0, "")
    assert (again.asked, again.kept) == (0, 24) and again.spent_usd == 0
    assert found.answers.keys() == again.answers.keys() and len(found.answers) == 24
    for (key, row, _), answer in found.answers.items():
        prompt = next(one for one in rows if one.id == row)
        assert answer.text == f"{key} heard: {prompt.messages[-1]['content']}"
        assert answer.prompt_tokens and answer.completion_tokens and answer.usd
        assert answer.first_token_seconds and answer.seconds
        assert 0.01 <= answer.first_token_seconds <= answer.seconds
        same = answer.model_copy(update={"kept": True})
        assert not answer.kept and again.answers[key, row, 0] == same
    assert found.spent_usd == sum(one.usd or 0 for one in found.answers.values())
    assert Gateway().budget().spent_usd == found.spent_usd and Gateway().budget().reserved_usd == 0
    assert wide(home) == []


def test_a_plan_tells_what_is_left_and_its_price(home: Path) -> None:
    """By model, and nothing of what is kept."""
    with Provider() as provider:
        model = hosted(provider)
        answers([model], prompts(3))
        found = planned([model], prompts(5))
        assert (found.left, found.kept, found.again) == ({model.key: 2}, 3, 0)
        assert found.cost is not None and found.costs == {model.key: found.cost}
        done = answers([model], prompts(5))
    assert done.asked == 2 and found.cost.low <= done.spent_usd <= found.cost.high


def test_each_sample_has_a_seed_of_its_own(home: Path) -> None:
    """Else a host that honours seeds would answer the same each time."""
    with Provider() as provider:
        sent = {"max_tokens": 8, "seed": 7}
        found = planned([hosted(provider)], prompts(1), samples=3, parameters=sent)
    (target,) = found.targets
    assert sorted(one.body["seed"] for one in target.questions.values()) == [7, 8, 9]


# -- limits and what may be sent -----------------------------------------------------------------


def test_a_limit_is_one_for_processes_that_were_confirmed_at_the_same_time(home: Path) -> None:
    """Of two that have looked at what was spent before either has asked, the second one stops."""
    with Provider() as provider:
        store, models = Store(Settings.load()), [hosted(provider)]
        first, second = (limit_of(store, RUN, Decimal("0.0019")) for _ in range(2))
        one = answers(models, prompts(30), first)
        other = answers(models, prompts(60)[30:], second)
        spent = Gateway().budget().spent_usd
    assert one.stopped and other.stopped and other.asked == 0 == other.spent_usd
    assert 0 < one.spent_usd == spent <= Decimal("0.0019")


def test_a_limit_is_shared_by_all_models_and_calls(home: Path) -> None:
    """It is never passed, what was not asked says why, and a higher one goes on."""
    with Provider() as provider:
        models = [hosted(provider, model) for model in BASES]
        limit = Limit(Decimal("0.0106"))
        first = answers(models, prompts(9), limit, at_once=2)
        spent = Decimal(str(provider.world.spent(2.5, 10, BASES[1]))) + Decimal(
            str(provider.world.spent(0.4, 1.6, BASES[0]))
        )
        assert first.stopped.startswith("the next request could pass the limit of 0.0106")
        errors = [one for one in first.answers.values() if one.error]
        assert errors and {one.error for one in errors} == {first.stopped}
        assert len(first.answers) == 18 and first.asked == 18 - len(errors) > 0
        assert spent == first.spent_usd == limit.spent <= Decimal("0.0106")
        found = spending(Store(Settings.load()), RUN, first.payers)
        assert sum(one.usd for one in found.by.values()) == found.usd == first.spent_usd
        assert not found.unanswered
        more = answers(models[1:], prompts(400), limit)  # a round later: no error, nothing is sent
        assert (more.asked, more.stopped) == (0, first.stopped) and more.spent_usd == 0
        with pytest.raises(BudgetError, match="of which .* are spent"):
            answers(models, prompts(400), limit_of(Store(Settings.load()), RUN, limit.usd))
        done = answers(models, prompts(9))
        assert not done.stopped and (done.asked, done.kept) == (len(errors), first.asked)
    assert Gateway().budget().spent_usd == first.spent_usd + done.spent_usd


def test_the_month_has_room_for_all_or_for_none(home: Path) -> None:
    """Nothing is reserved for one model if another one's share does not fit."""
    settings = Settings.load().create()
    with Provider() as provider:
        models = [hosted(provider, model) for model in BASES]
        config.write(settings, "budget.monthly_usd", "0.05")
        with pytest.raises(BudgetError, match="are left"):
            answers(models, prompts(20))
        assert provider.posts["/chat/completions"] == 0 and Gateway().budget().holds == ()
        limited = answers(models, prompts(20), "0.0106", at_once=1)
        assert limited.stopped and 0 < Gateway().budget().spent_usd <= Decimal("0.0106")


def test_a_price_that_nobody_knows_stops_a_limit(home: Path) -> None:
    """Before anything is sent; without a limit it is asked, and costs what nobody knows."""
    with Provider() as provider:
        model = hosted(provider, "gpt-4o-2024-08-06", model="unheard-of", key="x")
        provider.world.require_answers = lambda model: None  # type: ignore[method-assign]
        with pytest.raises(BudgetError, match="No price is known for answers of 'unheard-of'"):
            answers([model], prompts(2), "1")
        assert provider.posts["/chat/completions"] == 0
        found = answers([model], prompts(2))
        assert found.asked == 2 and planned([model], prompts(3)).cost is None
        assert [one.usd for one in found.answers.values()] == [None, None]


def test_private_data_stop_it_for_each_host(home: Path) -> None:
    """What is sent counts, examples among it; what is kept already, and what stays on this machine,
    does not."""
    rows = prompts(3)
    told = {"role": "user", "content": "I am Ann, mail me: ann.lee@parcels.de"}
    said = {"role": "assistant", "content": "Yes."}
    with Provider() as provider:
        model = hosted(provider, variant="few-shot", examples=((7, [told, said]),))
        with pytest.raises(PrivateDataError, match="an e-mail address"):
            planned([model], rows)
        found = planned([model], rows, allow_pii=True)
        assert found.allowed == {"an e-mail address": 3}
        ask(found)
        assert planned([model], rows).allowed == {}
        bare = replace(model, variant="tuned", examples=())
        other = hosted(provider, BASES[1], variant="tuned")
        mail = [told, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "?"}]
        some = [one.model_copy(update={"messages": [*mail, *one.messages]}) for one in rows]
        how = AskHow(RUN, allow_pii=True)
        both = plan(
            Store(Settings.load()), [bare, other], {bare.key: some, other.key: some[:2]}, how
        )
        assert both.allowed == {"an e-mail address": 3}  # as many as the host that sees most
        here = local(Scripted())
        assert planned([replace(here, variant="few-shot", examples=model.examples)], rows).left


# -- what goes wrong -----------------------------------------------------------------------------


def test_a_host_that_ends_leaves_the_others(home: Path) -> None:
    """A key that is refused, a model that is not there: said of each of its rows; asked again by
    the same call."""
    with Provider() as provider, Provider() as other:
        other.keys.clear()
        models = [hosted(provider), hosted(other, BASES[1])]
        found = answers(models, prompts(5))
        assert {*found.ended} == {BASES[1]} and isinstance(found.ended[BASES[1]], BackendError)
        errors = {key: one.error for (key, _, _), one in found.answers.items()}
        assert errors[BASES[0]] == "" and "401" in errors[BASES[1]]
        other.keys[other.api_key] = "main"
        again = answers(models, prompts(5))
        assert not again.ended and (again.kept, again.asked) == (5, 5)


def test_a_model_that_is_not_there_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the list of its host says."""
    monkeypatch.setattr(asking, "COLD_SECONDS", (0.01, 0.01))
    with Provider() as provider:
        found = answers([hosted(provider, "ft:gpt-4o-2024-08-06:gone")], prompts(3), at_once=1)
    (ended,) = found.ended.values()
    assert isinstance(ended, NotFoundError) and "does not have it" in ended.message
    assert {one.error for one in found.answers.values()} >= {ended.message}


def test_an_error_of_a_row_is_one_of_its_run(home: Path) -> None:
    """One that the host will not change is asked again by a new run alone; one that it may change
    by the next call."""
    with Provider(refused_words=("parcel 1",)) as provider:
        provider.fault("POST /chat/completions", *["error_after"] * 3)
        model = hosted(provider)
        found = answers([model], prompts(4), at_once=1)
        errors = [found.answers[model.key, prompt.id, 0].error for prompt in prompts(4)]
        assert "500" in errors[0] and "flagged" in errors[1] and errors[2:] == ["", ""]
        assert planned([model], prompts(4)).left == {model.key: 1}
        assert planned([model], prompts(4), name="compare:cmp-00000002").left == {model.key: 2}
        kept = KeptAnswers(Store(Settings.load()), model.fingerprint)
        (target,) = planned([model], prompts(4)).targets
        assert len(kept.errors({*target.questions}, RUN)) == 2
        assert kept.errors({*target.questions}, "compare:cmp-00000002") == {}


def test_two_names_of_one_model_are_asked_once(home: Path) -> None:
    """What both want is sent once, and the first one pays."""
    with Provider() as provider:
        model = hosted(provider)
        other = replace(model, key="again", variant="prompt", system_prompt="You are kind.")
        found = answers([model, replace(model, key="same")], prompts(3))
        assert (found.asked, len(found.answers)) == (3, 6)
        paid = spending(Store(Settings.load()), RUN, found.payers)
        assert paid.by.keys() == {model.key} and paid.of(model.key).usd == found.spent_usd
        assert answers([other], [one for one in prompts(3)]).asked == 0  # it has a system prompt


def test_samples_have_seeds_of_their_own(home: Path) -> None:
    """And are kept apart: more of them ask the new ones alone."""
    with Provider(varies=True) as provider:
        model = hosted(provider)
        parameters = {"temperature": 1, "max_tokens": 50, "seed": 3}
        two = answers([model], prompts(2), samples=2, parameters=parameters)
        three = answers([model], prompts(2), samples=3, parameters=parameters)
        assert (two.asked, three.asked, three.kept) == (4, 2, 4)
        assert answers([model], prompts(2), parameters={**parameters, "seed": 4}).asked == 2


def test_it_works_where_a_loop_is_running(home: Path) -> None:
    """As in a notebook."""

    async def cell() -> int:
        return answers([hosted(provider)], prompts(3)).asked

    with Provider() as provider:
        assert asyncio.run(cell()) == 3


@pytest.mark.parametrize("where", ["a script", "a notebook", "a task"])
def test_ctrl_c_keeps_what_was_answered(home: Path, where: str) -> None:
    """And settles what was spent; the same call goes on."""
    loop = asyncio.new_event_loop()
    with Provider() as provider, closing(loop):
        provider.fault("POST /chat/completions", *["ok"] * 5, *["slow"] * 40, seconds=0.3)
        model = hosted(provider)

        def interrupt(done: int, every: int, title: str) -> None:
            assert (every, title) == (30, model.title)
            if done == 5:
                os.kill(os.getpid(), signal.SIGINT)

        limit = Limit(Decimal(5))

        async def cell() -> None:
            answers([model], prompts(30), limit, on_progress=interrupt)

        with pytest.raises(KeyboardInterrupt) as caught:
            if where == "a task":
                asyncio.run(cell())
            elif where == "a notebook":
                loop.run_until_complete(cell())
            else:
                answers([model], prompts(30), limit, on_progress=interrupt)
        assert provider.posts["/chat/completions"] < 30
        if where != "a task":  # asyncio makes its own
            assert "the same command goes on" in caught.value.__notes__[0]
        budget = Gateway().budget()
        assert budget.reserved_usd == 0 and 0 < budget.spent_usd <= limit.spent
        del provider.faults["POST /chat/completions"][:]
        again = answers([model], prompts(30))
    assert again.kept >= 5 and again.kept + again.asked == 30 and not again.ended


def test_answers_of_one_account_are_none_of_another(home: Path) -> None:
    """Whoever has another key at the host asks, and pays, himself: nobody reads answers that were
    given to another account."""
    with Provider() as provider:
        mine, every = hosted(provider), prompts(3)
        answers([mine], every)
        assert planned([mine], every).left == {mine.key: 0}
        theirs = replace(mine, account="the fingerprint of another key")
        assert planned([theirs], every).left == {mine.key: 3}


def test_a_request_that_fits_to_the_cent_is_asked() -> None:
    """At its most, with what is on its way; one more is not."""

    async def fits() -> list[bool]:
        limit = Limit(Decimal(3))
        took = [await limit.take(Decimal(1)), await limit.take(Decimal(2))]
        limit.end(Decimal(1), Decimal(1))
        limit.end(Decimal(2), Decimal(1))
        return [*took, await limit.take(Decimal("1.01")), await limit.take(Decimal(1))]

    assert asyncio.run(fits()) == [True, True, False, True]
