"""What many jobs and threads share in a process, and what a forked one has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import Gateway, OpenAIBackend

MODEL = "gpt-4.1-mini-2025-04-14"
FILE = "POST /files"
THREADS = 8


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1) as provider:
        yield provider


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    """A host that settles quickly, with a key by value."""
    given = {"request_timeout": 5.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    place = {"base_url": provider.url, "profile": "custom", "api_key": provider.api_key}
    return OpenAIBackend(**{**given, **place, **options})


def submit_at_once(gateways: list[Gateway], provider: Provider) -> list[str]:
    """Submit a job of the same data in each thread; return the ids of the training files."""
    rows = chat_rows(20)

    def submit(number: int) -> str:
        gateway = gateways[number % len(gateways)]
        backend = wire(provider)
        return gateway.submit(rows, model=MODEL, backend=backend, seed=number).id

    with ThreadPoolExecutor(THREADS) as pool:
        jobs = list(pool.map(submit, range(THREADS)))
    assert len(provider.jobs) == len({*jobs}) == THREADS
    return [provider.world.shown(job)["training_file"] for job in provider.jobs]


@pytest.mark.parametrize("count", [1, 3], ids=["one gateway", "several"])
def test_threads_upload_a_content_once(home: Path, provider: Provider, count: int) -> None:
    """While its upload is on its way, the jobs of all other threads wait for it."""
    provider.fault(FILE, "slow", seconds=0.2)
    used = submit_at_once([Gateway() for _ in range(count)], provider)
    assert len({*used}) == provider.posts["/files"] == 1
    assert not [*home.glob("locks/*.upload")]


def test_an_upload_that_fails_is_made_by_the_next(home: Path, provider: Provider) -> None:
    """A refusal is that of one job: it keeps back no other, and the content is sent once more."""
    provider.fault(FILE, "status", status=400)
    with ThreadPoolExecutor(4) as pool:
        given: Any = {"model": MODEL, "backend": wire(provider)}
        submits = [pool.submit(Gateway().submit, chat_rows(20), seed=n, **given) for n in range(4)]
    assert sum(one.exception() is not None for one in submits) == 1
    assert len(provider.jobs) == 3 and provider.posts["/files"] == 2
