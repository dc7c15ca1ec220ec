"""Errors about a key say which one: that of a variable, of the call, or of the Gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.hosted import MODEL
from support.provider import Provider

from finetune_gateway import AuthenticationError, Gateway, OpenAIBackend
from finetune_gateway.jobs.job import Job

WRONG = "sk-test-of-nobody-0123456789"
GIVEN = "the key given as api_key"


def refused(ask: Callable[[], object]) -> str:
    with pytest.raises(AuthenticationError) as caught:
        ask()
    assert WRONG not in str(caught.value)
    return str(caught.value)


def test_a_refusal_names_the_key_that_was_sent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked to set a variable that is not read."""
    monkeypatch.setenv("GPU_KEY", WRONG)
    with Provider() as provider:
        by_name = OpenAIBackend(base_url=provider.url, api_key_env="GPU_KEY")
        assert "Check the key in GPU_KEY and the account" in refused(by_name.health)
        by_value = OpenAIBackend(base_url=provider.url, api_key=WRONG, api_key_env="GPU_KEY")
        said = refused(by_value.health)
        assert f"Check {GIVEN} and the account" in said and "GPU_KEY" not in said
        host = provider.url.split("/")[2]
        with Gateway(home, keys={host: WRONG}) as gateway:
            by_gateway = OpenAIBackend(base_url=provider.url)
            by_gateway.bind(gateway.settings)
            said = refused(by_gateway.health)
            assert f"the key that this Gateway was given for {host}" in said
            assert "OPENAI_API_KEY" not in said


@pytest.mark.parametrize("status", [401, 403])
def test_both_refusals_do(home: Path, status: int) -> None:
    with Provider() as provider:
        provider.fault("GET /models", "status", status=status)
        backend = OpenAIBackend(base_url=provider.url, api_key=provider.api_key)
        assert GIVEN in refused(backend.health)


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_key_of_the_call_is_that(
    home: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Though the variable is set: it is not what the call says. Nor is that of the Gateway."""
    monkeypatch.setenv("OPENAI_API_KEY", WRONG)
    with Provider() as provider:
        backend = OpenAIBackend(base_url=provider.url, api_key=key)
        said = refused(backend.health)
        assert "the api_key that was given is empty" in said and "export" not in said
        with Gateway(home, keys={"openai": WRONG}) as gateway:
            backend.bind(gateway.settings)
            assert "the api_key that was given is empty" in refused(backend.health)
        assert not provider.requests


def test_a_key_with_a_blank_is_named_too(home: Path) -> None:
    backend = OpenAIBackend(base_url="http://127.0.0.1:9/v1", api_key="sk test")
    assert f"T{GIVEN[1:]} has spaces" in refused(backend.health)


def test_another_account_is_said_of_the_key_that_was_given(home: Path, train_file: Path) -> None:
    """A job of one account, looked at with a key of another one that was given in the call."""
    with Provider(keys={"sk-test-of-others": "other"}) as provider:

        def with_key(key: str) -> OpenAIBackend:
            return OpenAIBackend(
                base_url=provider.url, api_key=key, poll_seconds=0.01, settle_seconds=0.0
            )

        job: Job = Gateway().submit(train_file, model=MODEL, backend=with_key(provider.api_key))
        said = refused(Gateway().job(job.id, backend=with_key("sk-test-of-others")).refresh)
        assert GIVEN in said.lower() and "OPENAI_API_KEY" not in said
