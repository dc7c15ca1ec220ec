"""Models of plug-ins in a comparison or a check: what they may cost, and with whose key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.hostile import Answering, Honest
from support.plugins import installed

from finetune_gateway import BudgetError, Gateway, Job, UnsupportedError, aio, evaluation
from finetune_gateway.backend import Capabilities, ChatReply, HandleData
from finetune_gateway.evaluation.checks import Guide

ROWS = [{"prompt": f"Is {n} even?", "completion": "Yes."} for n in range(6)]
GUIDE = "checks: [{name: yes, must: Yes, prompts: ['Is it?']}]"
chats: list[str] = []  # the key of each


class Shop(Honest):
    """A host that is paid, with a key for each account; without one, that of the environment."""

    name = "shop"

    def __init__(self, key: str = "of-the-environment") -> None:
        super().__init__()
        self.paid_with = key

    def account(self) -> str | None:
        return f"account {self.paid_with}"

    def open(self, handle: HandleData) -> Answering:
        return Counting(self.paid_with)


class Counting(Answering):
    """Counts its answers."""

    def __init__(self, key: str) -> None:
        self.key = key

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        chats.append(self.key)
        return super().chat(messages, **sampling)


@pytest.fixture
def shop(
    home: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Gateway, Job]]:
    """A Gateway with a key of its own, and a job of it that has ended."""
    installed(tmp_path / "site", f"{__name__}:Shop", "shop")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with Gateway(home, backends={"shop": Shop("mine")}) as gateway:
        job = gateway.submit(train_file, model="m", backend="shop").wait(20)
        job.result()
        chats.clear()
        yield gateway, job


def test_a_hosted_plugin_is_asked_after_a_yes_and_within_no_limit(
    shop: tuple[Gateway, Job],
) -> None:
    """Nobody knows its prices: no limit and no budget can be held, and its cost is not known."""
    gateway, job = shop
    for how in ({"max_cost_usd": 5}, {"confirm": lambda plan: not plan.sends}):
        with pytest.raises(BudgetError):
            gateway.compare([job.id], ROWS, **how)
        with pytest.raises(BudgetError):
            evaluation.check(job.id, Guide.loads(GUIDE), **how)
    with (
        gateway.use(monthly_usd=Decimal(100)) as capped,
        pytest.raises(BudgetError, match="No price is known for answers of 'tuned'"),
    ):
        capped.compare([job.id], ROWS)
    with pytest.raises(BudgetError, match="No price is known for answers of 'tuned'"):
        evaluation.check(job.id, Guide.loads(GUIDE), monthly_usd=Decimal(100))
    assert not chats
    found = gateway.compare([job.id], ROWS)
    assert found.data.spent_usd is None and len(chats) == len(ROWS)


def test_a_plugin_is_not_recorded_and_the_reason_is_said(shop: tuple[Gateway, Job]) -> None:
    """It is a host; one that speaks a language of its own."""
    _, job = shop
    with pytest.raises(UnsupportedError, match="answers at shop, whose backend is a plug-in") as no:
        evaluation.record(job.id, ROWS)
    assert f"{job.id!r}" in no.value.message and "ftg compare" in (no.value.hint or "")
    assert not chats


class Meeting(Answering):
    """Answers once as many are on their way as it waits for."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.on_the_way = self.most = 0
        self.lock = threading.Lock()

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        with self.lock:
            self.on_the_way += 1
            self.most = max(self.most, self.on_the_way)
        try:
            self.barrier.wait(20)
        finally:
            with self.lock:
                self.on_the_way -= 1
        return super().chat(messages, **sampling)


@pytest.mark.parametrize(("own", "at_once", "most"), [(None, 3, 3), (2, 16, 2), (1, 16, 1)])
def test_the_host_of_a_plugin_is_asked_some_at_once(
    home: Path, train_file: Path, own: int | None, at_once: int, most: int
) -> None:
    """As many as the user says, or as its capabilities say: one alone would wait for the others."""
    model = Meeting(most)

    class Host(Honest):
        name = "host"

        def capabilities(self, model: str | None = None) -> Capabilities:
            return replace(super().capabilities(model), chats_at_once=own)

        def open(self, handle: HandleData) -> Answering:
            return model if chats else Answering()

    with Gateway(home, backends={"host": Host()}) as gateway:
        job = gateway.submit(train_file, model="m", backend="host").wait(20)
        job.result()
        chats.append("from now on it waits")
        found = gateway.compare([job], ROWS, at_once=at_once)
        chats.clear()
    [figures] = found.data.answers.values()
    assert (figures.answers, figures.errors, model.most) == (len(ROWS), 0, most)


def test_what_a_job_of_a_plugin_has_answered_is_not_asked_again(
    shop: tuple[Gateway, Job],
) -> None:
    """Its job says which model it is; who removes the job removes its answers."""
    gateway, job = shop
    gateway.compare([job.id], ROWS[:4])
    found = gateway.compare([job.id], ROWS)
    assert (len(chats), found.data.kept) == (len(ROWS), 4)
    gateway.remove([job])
    assert not [*gateway.settings.answers.glob("*")]


def test_a_plugin_is_asked_with_the_key_of_its_gateway(shop: tuple[Gateway, Job]) -> None:
    """By the id of its job, the job, or its model; not with that of the environment."""
    gateway, job = shop

    async def awaited() -> None:
        async with aio.Gateway(gateway.settings.home, backends={"shop": Shop("mine")}) as other:
            await other.compare([await other.job(job.id)], ROWS[3:4])

    gateway.compare([job.id], ROWS[:1])
    gateway.compare([job], ROWS[1:2])
    gateway.compare([job.result()], ROWS[2:3])
    asyncio.run(awaited())
    evaluation.check(job, Guide.loads(GUIDE))
    assert chats and {*chats} == {"mine"}
