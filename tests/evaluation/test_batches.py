"""Recordings by the batch API: bought once, followed without a process, what expires stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.hosted import connect
from support.provider import Fault, Provider
from support.recordings import USD_IN, USD_OUT, asked, recorded, rows, tuned, wide

from finetune_gateway import BackendError, BudgetError, Gateway, UnsupportedError
from finetune_gateway.backends.openai import batches as host_batches
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import JobNotFinished
from finetune_gateway.evaluation import Recording, keeping
from finetune_gateway.settings.home import Settings

CREATE, FILES = "POST /batches", "POST /files"


def backend(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"profile": "openai", "poll_seconds": 0.001, "settle_seconds": 0.2}
    return connect(provider, **{**given, **options})


def again(provider: Provider, count: int = 6, **options: Any) -> Recording:
    given = {"name": "b", "batch": True, "backend": backend(provider), **options}
    return recorded(provider, rows(count), **given)


def half_price(provider: Provider) -> float:
    """What the batches have cost, at the contract's own prices for them: not exactly half."""
    charges = [one for one in provider.world.charges if one.batch]
    return sum(one.prompt_tokens * 2.225 + one.completion_tokens * 12.5 for one in charges) / 1e6


def test_a_batch_is_begun_followed_and_collected(home: Path) -> None:
    """Each call goes one step further and asks no question that costs; its answers are matched
    though they come in another order, and it is settled at the price of batches."""
    with Provider(refused_words=("parcel 4",)) as provider:
        first = again(provider)
        assert first.run is not None and "under way" in first.run.stopped
        assert provider.posts["/batches"] == 1 and Gateway().budget().reserved_usd > 0
        assert wide(home) == [] and not [*first.answers()]
        with pytest.raises(JobNotFinished, match="under way at its host"):
            keeping.remove(Settings.load(), "recorded:b")
        for _ in range(8):
            last = again(provider)
            if last.run is not None and not last.run.stopped:
                break
        assert last.run is not None and not last.run.stopped
        assert provider.posts["/batches"] == 1 == provider.posts["/files"]
        answers = {one.row: one for one in last.answers()}
        for prompt in last.prompts():
            if "parcel 4" in str(prompt.messages):
                assert prompt.id not in answers
                continue
            assert str(prompt.messages[-1]["content"]) in answers[prompt.id].text
            assert answers[prompt.id].logprobs and answers[prompt.id].seconds is None
        assert [error.code for error in last.errors()] == ["invalid_prompt"]
        (line,) = Gateway().costs().charges
        assert line.actual_usd is not None
        assert float(line.actual_usd) == pytest.approx(half_price(provider))
        assert Gateway().budget().reserved_usd == 0 and asked(provider) == {1: 5}
        assert not [*last.folder.glob("batch-*.jsonl")]  # its rows are in the recording


def test_what_expires_is_asked_again_by_whatever_means(home: Path) -> None:
    """What was done is kept and paid for; the rest is not, and is asked at once here."""
    with Provider(batch_expires_after=2) as provider:
        done = again(provider, wait=True)
        assert done.run is not None and (done.run.answers, done.run.stopped) == (2, "")
        assert {error.code for error in done.errors()} == {"batch_expired"}
        line = Gateway().costs().charges[0]
        assert line.actual_usd is not None
        assert float(line.actual_usd) == pytest.approx(half_price(provider))
        rest = recorded(provider, rows(6), name="b")
        assert rest.run is not None and rest.run.asked == 4 and asked(provider) == {1: 6}
    assert len([*rest.answers()]) == 6 and not [*rest.errors()]


def test_a_batch_is_no_larger_than_its_limit(home: Path) -> None:
    """It cannot be stopped: what could pass the limit is not in it. The limit is for the recording,
    so the same again asks no more."""
    with Provider(answer_with=lambda body: "word " * 60) as provider:
        options: dict[str, Any] = {"max_tokens": 100, "max_cost_usd": "0.004"}
        begun = again(provider, 9, **options)
        assert begun.run is not None and (begun.run.asked, begun.run.beyond) == (3, 6)
        done = again(provider, 9, wait=True, **options)
        assert done.run is not None and "could pass the limit" in done.run.stopped
        assert len([*done.answers()]) == 4 and half_price(provider) <= 0.004
        with pytest.raises(BudgetError, match="cost at least|may cost"):
            again(provider, 9, max_tokens=100, max_cost_usd="0.003")


LOST = [
    (FILES, "reset_after"), (FILES, "reset_before"), (FILES, "error_after"),
    (CREATE, "reset_after"), (CREATE, "reset_before"), (CREATE, "error_after"), (CREATE, "late"),
    (CREATE, "truncated"), (CREATE, "html_ok"), (CREATE, "busy"),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "kind"), LOST)
def test_nothing_is_bought_twice(home: Path, endpoint: str, kind: str) -> None:
    """After an answer that was lost, the same command finds the batch by its key, or knows that
    there is none."""
    with Provider() as provider:
        provider.fault(endpoint, kind, seconds=0.3)
        slow = backend(provider, request_timeout=0.2 if kind == "late" else 5.0)
        with pytest.raises(BackendError):
            again(provider, backend=slow)
        done = again(provider, wait=True)
        assert len(provider.world.batches) == 1 and asked(provider) == {1: 6}
    assert len([*done.answers()]) == 6 and Gateway().budget().reserved_usd == 0
    assert len(Gateway().costs().charges) == 1


def test_a_batch_that_is_refused_costs_nothing(home: Path) -> None:
    """At its create, or when its lines are read; the rows can be asked otherwise."""
    with Provider() as provider:
        provider.fault(CREATE, Fault("status", status=400, message="No more batches today."))
        with pytest.raises(BackendError, match="No more batches today"):
            again(provider)
        provider.world.batch_queue_tokens = 1
        with pytest.raises(BackendError, match="refused the batch batch_"):
            again(provider, wait=True)
        assert Gateway().budget().reserved_usd == 0 == Gateway().budget().spent_usd
        done = recorded(provider, rows(6), name="b")
    assert done.run is not None and done.run.answers == 6


def test_ctrl_c_stops_no_batch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so."""
    with Provider(batch_stage=1) as provider:
        monkeypatch.setattr("time.sleep", ctrl_c)
        with pytest.raises(KeyboardInterrupt) as caught:
            again(provider, wait=True)
    assert caught.value.__notes__ == [
        "The batch of recorded:b goes on: the same command collects it."
    ]


def ctrl_c(seconds: float) -> None:
    raise KeyboardInterrupt


def test_azure_takes_no_fine_tunes_in_batches(home: Path) -> None:
    """By its profile, with the source; before anything is read."""
    with Provider() as provider:
        azure = connect(provider, profile="azure")
        with pytest.raises(UnsupportedError, match="takes no fine-tunes in a batch .https://learn"):
            recorded(provider, None, batch=True, backend=azure)


def test_a_host_without_batches_says_so(home: Path) -> None:
    """404 to the create: nothing is left reserved."""
    with Provider(takes_batches=False) as provider, pytest.raises(BackendError):
        again(provider)
    assert Gateway().budget().reserved_usd == 0


def test_many_rows_are_several_batches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lines and the bytes that one may have; each with a charge of its own."""
    monkeypatch.setattr(host_batches, "MOST_LINES", 4)
    with Provider() as provider:
        done = again(provider, 10, wait=True)
        assert provider.posts["/batches"] == 3
        monkeypatch.setattr(host_batches, "MOST_BYTES", 900)
        more = again(provider, 5, name="c", wait=True)
        assert len(provider.world.batches) > 4
    assert len([*done.answers()]) == 10 and len([*more.answers()]) == 5


def test_an_answer_that_says_nothing_was_paid_for(home: Path) -> None:
    """A line of status 200 without a choice is no answer, and was sold all the same."""
    with Provider() as provider:
        again(provider, 2)
        for _ in range(8):
            provider.world.batch(next(iter(provider.world.batches)))
        (batch,) = provider.world.batches.values()
        file = provider.world.files[batch["output_file_id"]]
        lines = [json.loads(line) for line in file["content"].splitlines()]
        lines[0]["response"]["body"]["choices"] = []
        file["content"] = text = "\n".join(map(json.dumps, lines))
        file["bytes"] = len(text)
        done = again(provider, 2)
        line = next(one for one in Gateway().costs().charges if one.status.final)
        assert len([*done.answers()]) == 1  # the other is asked again
        assert float(line.actual_usd or 0) == pytest.approx(half_price(provider))


def test_what_a_batch_says_is_read_as_any_answer(home: Path) -> None:
    """Lines that are none of ours, twice the same, and nonsense; the key is not kept."""
    with Provider() as provider:
        first = again(provider, 2)
        for _ in range(8):
            provider.world.batch(next(iter(provider.world.batches)))
        (batch,) = provider.world.batches.values()
        file = provider.world.files[batch["output_file_id"]]
        lines = [json.loads(line) for line in file["content"].splitlines()]
        lines[0]["response"]["body"]["choices"][0]["message"]["content"] = provider.api_key
        strange = [{"custom_id": "other", "response": lines[0]["response"]}, lines[0]]
        text = "\n".join(json.dumps(line) for line in [*strange, *lines])
        file["content"], file["bytes"] = text, len(text)
        done = again(provider, 2)
        kept = "".join(path.read_text() for path in first.folder.glob("*.jsonl"))
    assert len([*done.answers()]) == 2 and provider.api_key not in kept and "[key]" in kept
    assert tuned(provider) and USD_IN < USD_OUT
