"""Batches whose host, key or clock says too little: none is bought twice, none holds its budget for
ever, and what a host says in the wrong form is no bug of ours."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.hosted import connect
from support.provider import Provider
from support.recordings import asked, recorded, rows

from finetune_gateway import AuthenticationError, BackendError, Gateway
from finetune_gateway.evaluation import Recording, keeping
from finetune_gateway.jobs.requests import BATCHES
from finetune_gateway.settings.home import Settings

CREATE = "POST /batches"
OTHER = "sk-other-0123456789"


def batch(provider: Provider, **options: Any) -> Recording:
    """The same command each time."""
    given = {"profile": "openai", "poll_seconds": 0.001, "settle_seconds": 0.0}
    backend = connect(provider, **{**given, **options})
    return recorded(provider, rows(2), name="b", batch=True, backend=backend)


def lose_create(provider: Provider) -> None:
    """Let a batch be made whose answer is lost."""
    provider.fault(CREATE, "reset_after")
    with pytest.raises(BackendError):
        batch(provider)
    assert len(provider.world.batches) == 1


def bought_once(provider: Provider) -> bool:
    for _ in range(8):
        last = batch(provider)
        if last.run is not None and not last.run.stopped:
            break
    return len(provider.world.batches) == 1 and asked(provider) == {1: 2}


def test_a_call_without_the_key_decides_nothing(home: Path, monkeypatch: Any) -> None:
    with Provider() as provider:
        lose_create(provider)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(AuthenticationError):
            batch(provider, api_key=None)
        assert Gateway().budget().reserved_usd > 0 and bought_once(provider)


def test_a_key_of_another_account_decides_nothing(home: Path) -> None:
    keys = {"sk-test-0123456789": "main", OTHER: "other"}
    with Provider(keys=keys) as provider:
        provider.world.unbatched = ()
        lose_create(provider)
        with pytest.raises(BackendError, match="does not see"):
            batch(provider, api_key=OTHER)
        assert Gateway().budget().reserved_usd > 0 and bought_once(provider)


def test_a_host_that_keeps_no_metadata_is_known_by_the_file(home: Path) -> None:
    with Provider() as provider:
        lose_create(provider)
        for one in provider.world.batches.values():
            one["metadata"] = None
        assert bought_once(provider)


def test_a_list_that_shows_neither_proves_nothing(home: Path) -> None:
    """Rows with an id alone: one of them may be ours."""
    with Provider() as provider:
        lose_create(provider)
        rest = {"object": "list", "has_more": False}
        provider.fault("GET /batches", "body", body={**rest, "data": [{"id": "batch_1"}]})
        with pytest.raises(BackendError, match="may be there"):
            batch(provider)
        assert bought_once(provider)


def test_a_clock_that_was_ahead_keeps_nobody_waiting(home: Path) -> None:
    with Provider() as provider:
        provider.fault(CREATE, "reset_before")
        with pytest.raises(BackendError):
            batch(provider)
        path = home / "recordings" / "b" / BATCHES
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        ahead = [{**line, "at": time.time() + 86_400 * 365} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in ahead))
        began = time.monotonic()
        assert bought_once(provider) and time.monotonic() - began < 5


ODD: list[Any] = [
    {"request_counts": {"completed": [1], "failed": "x"}}, {"request_counts": {"failed": -4}},
    {"status": ["completed"]}, {"status": {}}, {"status": None},
]  # fmt: skip


def test_what_a_batch_says_of_itself_in_odd_forms_is_no_bug(home: Path) -> None:
    with Provider() as provider:
        batch(provider)
        for odd in ODD:
            provider.fault("GET /batches/*", "overlay", body=odd)
            batch(provider)
        provider.world.batch_stage = 0
        for name in ("..", "../../files", "a/b", "x" * 300):
            body = {"status": "completed", "output_file_id": name}
            provider.fault("GET /batches/*", "overlay", body=body)
            with pytest.raises(BackendError, match="OpenAI's format"):
                batch(provider)
        provider.world.batch_stage = None
        assert bought_once(provider)


def test_answers_that_are_paid_for_are_waited_for(home: Path) -> None:
    """Of a batch that is said to be complete, without its file or with half of it."""
    with Provider() as provider:
        batch(provider)
        (kept,) = provider.world.batches
        for _ in range(8):
            provider.world.batch(kept)
        provider.fault("GET /batches/*", "overlay", body={"output_file_id": None})
        with pytest.raises(BackendError, match="0 of the 2 answers"):
            batch(provider)
        file = provider.world.files[str(provider.world.batches[kept]["output_file_id"])]
        whole = str(file["content"])
        file["content"] = whole.splitlines(keepends=True)[0]
        with pytest.raises(BackendError, match="1 of the 2 answers"):
            batch(provider)
        file["content"] = whole
        assert bought_once(provider)


def test_a_batch_that_its_host_has_lost_is_let_go(home: Path) -> None:
    """Only when the user says so: it may have been answered, and counts at its most."""
    with Provider() as provider:
        batch(provider)
        reserved = Gateway().budget().reserved_usd
        provider.world.batches.clear()
        with pytest.raises(BackendError, match="404") as caught:
            batch(provider)
        assert "ftg settle recorded:b --not-created" in str(caught.value)
        keeping.settle(Settings.load(), "recorded:b")
        assert Gateway().budget().reserved_usd == reserved
        spent = keeping.settle(Settings.load(), "recorded:b", lost=True)
        assert spent == reserved == Gateway().budget().spent_usd
        done = recorded(provider, rows(2), name="b")
        assert done.run is not None and done.run.answers == 2
        assert keeping.remove(Settings.load(), "recorded:b") > 0


def test_a_batch_whose_host_counts_nothing_is_not_bought_again(home: Path) -> None:
    """It calls it complete, without a file and without a count that says otherwise."""
    with Provider() as provider:
        batch(provider)
        (kept,) = provider.world.batches
        for _ in range(8):
            provider.world.batch(kept)
        for counts in (None, {"completed": 0, "failed": 0, "total": 2}):
            odd = {"output_file_id": None, "request_counts": counts}
            provider.fault("GET /batches/*", "overlay", body=odd)
            with pytest.raises(BackendError, match="0 of the 2 answers"):
                batch(provider)
        assert bought_once(provider)


def test_a_kill_before_the_end_of_a_batch_is_written_leaves_it_to_be_settled(home: Path) -> None:
    """All of its answers are here already: the same command still ends it, and it can be removed
    then."""

    def killed(one: object, event: str, **more: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with Provider() as provider:
        batch(provider)
        for _ in range(8):
            provider.world.batch(next(iter(provider.world.batches)))
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("finetune_gateway.evaluation.batches._Batch._note", killed)
                batch(provider)
            os._exit(1)  # it was not killed
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert len([*Recording.load("b").answers()]) == 2 and bought_once(provider)
    assert Gateway().budget().reserved_usd == 0 < Gateway().budget().spent_usd
    assert keeping.remove(Settings.load(), "b") > 0
