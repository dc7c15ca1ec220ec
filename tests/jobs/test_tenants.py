"""Accounts and tenants in one process: no job, file, price or key of one reaches another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.provider import CREATE, Provider

from finetune_gateway import Gateway, GatewayError, OpenAIBackend
from finetune_gateway.backend import Capabilities
from finetune_gateway.jobs.budget import never_created
from finetune_gateway.jobs.job import Job

MODEL = "gpt-4.1-mini-2025-04-14"
MINE = "sk-test-0123456789abcdef"
THEIRS = "sk-test-other-6789abcdef"  # of another account


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1, keys={THEIRS: "other"}) as provider:
        yield provider


def wire(provider: Provider, key: str, **options: Any) -> OpenAIBackend:
    """A host that settles quickly, with a key by value."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    return OpenAIBackend(
        base_url=provider.url, profile="custom", **{**given, "api_key": key, **options}
    )


class RunningOut(OpenAIBackend):
    """Its jobs are in doubt for a minute, which is over after so many looks at the clock."""

    looks = 0

    def capabilities(self, model: str | None = None) -> Capabilities:
        self.looks -= 1
        seconds = 60.0 if self.looks >= 0 else 0.0
        return replace(super().capabilities(model), settle_seconds=seconds)


@pytest.mark.parametrize("action", ["resume", "cancel"])
def test_time_that_runs_out_during_a_look_shows_nothing(
    home: Path, train_file: Path, provider: Provider, action: str
) -> None:
    """The key of another account sees no job, at whatever moment the time is over in which a
    create may take effect: nothing is sent with it, nothing ends as never created."""
    provider.fault(CREATE, "reset_after")
    gateway = Gateway()
    job = gateway.submit(train_file, model=MODEL, backend=wire(provider, MINE, settle_seconds=60))
    assert job.provider_id is None and len(provider.jobs) == 1
    before = provider.posts.copy()
    for looks in range(5):
        other = RunningOut(base_url=provider.url, profile="custom", api_key=THEIRS)
        other.looks = looks
        load = partial(gateway.backend, other)
        seen = Job(job.reload().record, gateway.store, load, gateway._submitter)
        with suppress(GatewayError):
            getattr(seen, action)()
        assert provider.posts == before
        assert not never_created(job.reload().record), job.record
