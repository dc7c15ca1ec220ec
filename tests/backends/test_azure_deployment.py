"""A model that needs a deployment: the job has succeeded, and says how to deploy the model."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import MODEL, connect
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import (
    FakeBackend,
    Gateway,
    JobStatus,
    ModelHandle,
    NotFoundError,
    OpenAIBackend,
    SpecError,
)
from finetune_gateway.backend import BackendError
from finetune_gateway.jobs.job import Job
from finetune_gateway.settings.home import Settings

CHAT = "/chat/completions"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(deployments={}) as running:
        yield running


@pytest.fixture
def job(provider: Provider, home: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job that has succeeded; other processes have the key from the environment."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", provider.api_key)
    azure = connect(provider, profile="azure", poll_seconds=0.01)
    return Gateway().submit(chat_rows(10), model=MODEL, backend=azure).wait(30)


def named(provider: Provider) -> str:
    return provider.world.model_name(provider.jobs[0])


def deploy(provider: Provider, name: str) -> None:
    """What the command does at Azure."""
    assert provider.world.deployments is not None
    provider.world.deployments[name] = named(provider)


def test_a_result_that_is_not_deployed_comes_at_once(
    provider: Provider, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was polled for ten minutes, then raised, and no handle was stored."""
    monkeypatch.setattr("finetune_gateway.jobs.job.READY_SECONDS", 1.0, raising=False)  # before
    try:
        handle = job.result()
    except BackendError as exc:
        pytest.fail(f"a model that needs a deployment was waited for: {exc}")
    assert provider.posts[CHAT] == 0
    assert not handle.ready and handle.model == named(provider)
    assert handle.deploy is not None and "az cognitiveservices account deployment create" in (
        handle.deploy
    )
    assert f"--model-name {named(provider)}" in handle.deploy
    stored = Gateway().job(job.id).record.handle
    assert (
        stored
        and stored == json.loads(handle.model_dump_json())
        and stored["deploy"] == handle.deploy
    )
    for talk in (lambda: handle.chat("Hi"), lambda: next(handle.stream("Hi"))):
        with pytest.raises(NotFoundError, match="not deployed") as caught:
            talk()
        assert handle.deploy in caught.value.hint
    assert provider.posts[CHAT] == 0


def test_a_deployment_is_ready_once_it_has_answered(provider: Provider, job: Job) -> None:
    """By name; a wrong name changes nothing, a right one is stored for all."""
    job.result()
    with pytest.raises(NotFoundError, match="no deployment 'support-bot'"):
        job.result(model="support-bot")
    assert provider.posts[CHAT] == 1 and not job.result().ready
    deploy(provider, "support-bot")
    handle = job.result(model="support-bot")
    assert handle.ready and handle.deploy is None and "heard: Hello." in (handle.first_answer or "")
    for again in (job, Gateway().job(job.id)):
        assert again.result().ready and again.result().model == "support-bot"
    assert "heard: Hi" in Gateway().job(job.id).result().chat("Hi").text


def test_another_deployment_takes_its_place(provider: Provider, job: Job) -> None:
    """Azure deletes one that is not used; until the next has answered, the old handle stays."""
    deploy(provider, "first")
    assert job.result(model="first").ready
    provider.world.deployments = {}
    with pytest.raises(NotFoundError, match="no deployment 'second'"):
        job.result(model="second")
    assert job.result().model == "first"
    with pytest.raises(BackendError, match="DeploymentNotFound|does not exist") as caught:
        job.result().chat("Hi")
    assert "Deploy the model" in caught.value.hint
    deploy(provider, "second")
    assert job.result(model="second").ready and Gateway().job(job.id).result().model == "second"


def test_all_views_say_that_it_is_not_deployed(
    provider: Provider, job: Job, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after ``result``; the command line takes the name of the deployment."""
    for _ in range(2):
        status = ftg("status", job.id)
        assert "succeeded, not deployed" in status.stdout
        assert "succeeded, not deployed" in ftg("list").stdout
        assert "az cognitiveservices account deployment create" in status.stderr
        assert f"ftg chat {job.id} --model DEPLOYMENT" in status.stderr
        assert "succeeded, not deployed" in ftg("wait", job.id).stdout
        refused = ftg("chat", job.id, "Hello")
        assert refused.returncode == NotFoundError.exit_code
        assert "not deployed" in refused.stderr.lower() and "az cognitive" in refused.stderr
        assert "not deployed" in repr(job.result())
    assert provider.posts[CHAT] == 0
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", provider.api_key)
    deploy(provider, "support-bot")
    done = ftg("chat", job.id, "Hello", "--model", "support-bot")
    assert done.returncode == 0 and "heard: Hello" in done.stdout
    assert "heard: Again" in ftg("chat", job.id, "Again").stdout
    assert "not deployed" not in ftg("status", job.id).stdout
    assert "once it is deployed" in " ".join(ftg("models", "--backend", "azure").stderr.split())


def test_a_job_stored_by_an_older_version(provider: Provider, job: Job, home: Path) -> None:
    """Its result says nothing of deployments: the host does, and nobody polls for ten minutes."""
    with sqlite3.connect(Settings.load(home).database) as db:
        db.execute("UPDATE jobs SET result = json_remove(result, '$.deploy')")
    started = time.monotonic()
    handle = Gateway().job(job.id).result()
    assert time.monotonic() - started < 5 and not handle.ready and handle.deploy
    deploy(provider, "support-bot")
    assert Gateway().job(job.id).result(model="support-bot").ready


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("https://contoso.openai.azure.com/openai/v1/", "contoso"),
        ("https://contoso.services.ai.azure.com/openai/v1/", "contoso"),
        ("https://gateway.example.com/openai/v1", "RESOURCE"),
        ("https://azure.com.evil.example/v1", "RESOURCE"),
        ("http://127.0.0.1:8000/v1", "RESOURCE"),
    ],
)
def test_the_command_is_filled_as_far_as_it_is_known(url: str, resource: str) -> None:
    """A host's words are quoted: the command is meant to be pasted into a shell."""
    azure = OpenAIBackend(profile="azure", base_url=url)
    command = azure.deploy_command("m.ft-1; rm -rf ~ {resource}")
    assert command is not None and f"--name {resource} " in command
    assert "--model-name 'm.ft-1; rm -rf ~ {resource}' " in command


def test_other_hosts_need_none(home: Path) -> None:
    """Their handles are written as older versions wrote them, which read no other field."""
    assert OpenAIBackend(profile="openai").deploy_command("ft:m") is None
    handle = Gateway().submit(chat_rows(10), model="m", backend=FakeBackend()).result()
    assert handle.ready and "deploy" not in json.loads(handle.model_dump_json())


def test_handles_of_older_versions_are_read(tmp_path: Path) -> None:
    """The field is optional; what is no field of a handle is refused as before."""
    old: dict[str, Any] = {
        "kind": "hosted",
        "model": "ft:m",
        "base_model": "m",
        "backend": "openai",
    }
    path = tmp_path / "handle.json"
    path.write_text(json.dumps({"handle_version": 1, **old}))
    assert ModelHandle.load(path).deploy is None
    path.write_text(json.dumps({**old, "deploy": "az ..."}))
    assert ModelHandle.load(ModelHandle.load(path).save(path)).deploy == "az ..."
    path.write_text(json.dumps({**old, "depoly": "az ..."}))
    with pytest.raises(SpecError, match="not a model handle"):
        ModelHandle.load(path)


def test_the_job_itself_has_succeeded(job: Job) -> None:
    assert job.status is JobStatus.SUCCEEDED and job.record.deploy
