"""Many models asked at once: each request once, streamed, kept, within its limits."""

from __future__ import annotations

from pathlib import Path

from support.asked import BASES, answers, hosted, planned, prompts
from support.provider import Provider
from support.recordings import asked, wide

from finetune_gateway import Gateway


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
