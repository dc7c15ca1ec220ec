"""ftg prune --remote at a host that lies: nothing that this home has sent or made is left there,
and what may be left is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.provider import Fault, Provider
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import Gateway, Job, OpenAIBackend

MODEL = "gpt-4.1-mini-2025-04-14"
FILE, FILES, DELETE_MODEL = "POST /files", "GET /files", "DELETE /models/*"
NO_FILES = Fault("body", body={"object": "list", "data": [], "has_more": False})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Provider]:
    with Provider(keys={"sk-other-0123456789": "other"}, steps=1) as running:
        monkeypatch.setenv("PRUNE_KEY", running.api_key)
        yield running


def submit(provider: Provider, **options: Any) -> Job:
    backend = OpenAIBackend(
        base_url=provider.url, api_key_env="PRUNE_KEY", profile="custom",
        settle_seconds=0.0, poll_seconds=0.01,
    )  # fmt: skip
    return Gateway().submit(chat_rows(10), model=MODEL, backend=backend, train_price=1, **options)


def removed(job: Job) -> Job:
    job.wait(20)
    job.remove()
    return job


def models(provider: Provider) -> list[str]:
    return [name for name in provider.world.models() if name.startswith("ft:")]


def test_all_uploads_of_a_content_go(provider: Provider) -> None:
    """One whose answer was lost and that no list showed then, so that it was sent again; it broke
    off there, and was refused. What somebody else sent with the account, a day before, stays."""
    provider.fault(FILE, "reset_after")
    job = submit(provider)
    (first,) = provider.world.files.values()
    first.update(bytes=100, status="error", content=first["content"][:100])
    theirs = provider.world.add_file("fine-tune", first["filename"], b"{}")["id"]
    provider.world.files[theirs]["created_at"] -= 86_400
    provider.fault(FILES, NO_FILES)
    removed(job)
    assert len(provider.world.files) == 3
    pruned = gateway.prune(remote=True)
    assert not pruned.failed and not pruned.unknown and job.reload().record.gone
    assert provider.world.files.keys() == {theirs}


@pytest.mark.parametrize("way", ["half a list", "another account", "no list"])
def test_what_cannot_be_seen_is_not_gone(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A list with its end missing, an error, or a key to which the host shows nothing: it is said,
    and looked for again the next time."""
    provider.fault(FILE, "reset_after")
    job = removed(submit(provider).cancel())
    half = {"object": "list", "data": [], "has_more": True}
    lies = {"half a list": Fault("body", body=half), "no list": Fault("status", status=403)}
    if way in lies:
        provider.fault(FILES, lies[way])
    else:
        monkeypatch.setenv("PRUNE_KEY", "sk-other-0123456789")
    pruned = gateway.prune(remote=True)
    assert len(pruned.unknown) == 1 and not pruned.removed and not job.reload().record.gone
    monkeypatch.setenv("PRUNE_KEY", provider.api_key)
    assert len(gateway.prune(remote=True).removed) == 1
    assert provider.world.files == {} and job.reload().record.gone


NOT_OURS = [
    Fault("raw", status=200, body=b"<html>Sign in</html>"),
    Fault("raw", status=404, body=b"<html>nginx</html>"),
]


@pytest.mark.parametrize("lie", NOT_OURS, ids=["portal", "nginx"])
def test_a_page_deletes_nothing(provider: Provider, lie: Fault) -> None:
    """Of a checkpoint, which no list shows, that was called deleted; its name was forgotten."""
    removed(submit(provider))
    provider.fault(DELETE_MODEL, *[lie] * 6)
    pruned = gateway.prune(remote=True)
    assert [one.item.kind for one in pruned.failed] == ["model", "model"], pruned
    assert models(provider) and provider.world.files == {}
    provider.faults.clear()
    assert len(gateway.prune(remote=True).removed) == 2 and not models(provider)
    assert len(provider.world.deleted) == 2


def test_half_a_list_of_models_proves_nothing(provider: Provider) -> None:
    """That the host knows no such route is no proof that the model is gone."""
    removed(submit(provider))
    provider.fault(DELETE_MODEL, *["status"] * 6, status=404, message="Invalid URL")
    half = {"data": [{"id": "a-base"}], "has_more": True}
    provider.fault("GET /models", *[Fault("body", body=half)] * 6)
    pruned = gateway.prune(remote=True)
    assert "Invalid URL" in pruned.failed[0].reason and models(provider)


def test_checkpoints_that_were_never_shown_go(provider: Provider) -> None:
    """Their list could not be read while the job ran."""
    provider.fault("GET /fine_tuning/jobs/*/checkpoints", *["status"] * 9, status=403)
    job = submit(provider).wait(20)
    assert job.checkpoints() == []
    job.remove()
    provider.faults.clear()
    gateway.prune(remote=True)
    (name,) = {name.partition(":ckpt")[0] for name in provider.world.deleted}
    assert provider.world.deleted == {name, f"{name}:ckpt-step-1"} and job.reload().record.gone
