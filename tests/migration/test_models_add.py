"""ftg models add: a fine-tune of a host becomes a model of this home, ready once it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.modes import wide
from support.provider import Fault, Provider

from finetune_gateway import (
    AuthenticationError,
    ModelHandle,
    NotFoundError,
    OpenAIBackend,
    migration,
)

CHAT, MODELS = "POST /chat/completions", "GET /models"


@pytest.fixture
def provider(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr("finetune_gateway.migration.adding.COLD_SECONDS", 0.0)
    with Provider() as running:
        monkeypatch.setenv("MAIN_PASS", running.api_key)
        yield running


@pytest.fixture
def tune(provider: Provider) -> dict[str, Any]:
    return provider.world.add_fine_tune(system="You answer for the shop.")


def host(provider: Provider, **options: Any) -> OpenAIBackend:
    return OpenAIBackend(base_url=provider.url, api_key_env="MAIN_PASS", **options)


def chats(provider: Provider) -> int:
    return provider.posts["/chat/completions"]


def test_it_has_what_the_host_and_the_fetched_files_tell(
    provider: Provider, tune: dict[str, Any], home: Path
) -> None:
    """Base, dates, key and host; the system prompt once its file was fetched."""
    model, base = tune["fine_tuned_model"], tune["model"]
    provider.world.shutdown_dates = {base: "2027-01-14"}
    before = migration.add_model(model, host(provider))
    assert before.ready and before.first_answer and chats(provider) == 1
    assert before.system_prompt is None and before.retires_on == "2027-01-14"
    migration.fetch(model, host(provider))
    added = migration.add_model(model, host(provider))
    assert (added.base_model, added.api_key_env) == (base, "MAIN_PASS")
    assert added.system_prompt == "You answer for the shop."
    assert added.metrics["step"] == 12 and added.dataset_sha256
    kept = ModelHandle.load(next((home / "models").glob("*.json")))
    assert (
        kept.model_dump() == added.model_dump()
        and wide(home) == {}
        and provider.api_key not in kept.model_dump_json()
    )
    assert kept.chat("Hello").text  # built again from what it says


def test_a_checkpoint_is_added_by_the_hosts_own_id(
    provider: Provider, tune: dict[str, Any]
) -> None:
    migration.fetch(tune["id"], host(provider))
    points = provider.world.list_checkpoints(tune["id"], {})["data"]
    name = points[-1]["fine_tuned_model_checkpoint"]
    added = migration.add_model(name, host(provider))
    assert ":ckpt-step-" in name and added.model == name and added.ready
    assert added.base_model == tune["model"] and added.system_prompt


def test_chat_and_models_find_it_and_rm_removes_it(
    provider: Provider, tune: dict[str, Any], ftg: Ftg
) -> None:
    model, at = tune["fine_tuned_model"], ("--base-url", provider.url)
    done = ftg("models", "add", model, *at, "--api-key-env", "MAIN_PASS")
    assert done.returncode == 0 and f"{model} is ready" in done.stdout
    assert ftg("chat", model, "Hello").stdout.startswith(model)
    assert model in ftg("models").stdout and model not in ftg("models", "-q").stdout
    documents = json.loads(ftg("models", "--json").stdout)
    assert [one["model"] for one in documents if one.get("added")] == [model]
    assert ftg("models", "add", model, *at, "--api-key-env", "MAIN_PASS", "-q").stdout == "ready\n"
    assert ftg("rm", model, "--yes").returncode == 0
    assert model not in ftg("models").stdout and ftg("chat", model, "Hello").returncode == 5


def test_one_that_is_not_there_is_refused(provider: Provider, tune: dict[str, Any]) -> None:
    """With the nearest that is; nothing is kept."""
    model = tune["fine_tuned_model"]
    with pytest.raises(NotFoundError) as caught:
        migration.add_model(f"{model[:-1]}!", host(provider))
    assert f"Did you mean {model}?" in caught.value.hint and chats(provider) == 2
    provider.world.deleted.add(model)
    with pytest.raises(NotFoundError, match="for the key in MAIN_PASS"):
        migration.add_model(model, host(provider))
    with pytest.raises(NotFoundError, match="for the key given as api_key"):
        given = OpenAIBackend(base_url=provider.url, api_key=provider.api_key)
        migration.add_model(model, given)


def test_of_several_keys_the_one_that_has_it_is_kept(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked first where it is listed; a variable that is not set is passed over."""
    provider.keys["sk-shop-0123456789"] = "main proj_shop"
    monkeypatch.setenv("SHOP_PASS", "sk-shop-0123456789")
    model = provider.world.add_fine_tune(account="main proj_shop")["fine_tuned_model"]
    hosts = [
        OpenAIBackend(base_url=provider.url, api_key_env=name)
        for name in ("NO_PASS", "MAIN_PASS", "SHOP_PASS")
    ]
    added = migration.add_model(model, hosts)
    assert added.ready and added.api_key_env == "SHOP_PASS" and chats(provider) == 1
    with pytest.raises(NotFoundError):
        migration.add_model(f"{model}!", hosts)


def test_a_cold_model_is_asked_twice(provider: Provider, tune: dict[str, Any]) -> None:
    """Before it is believed not to answer; where it is listed, it is added all the same."""
    model = tune["fine_tuned_model"]
    provider.world.cold[model] = 1
    assert migration.add_model(model, host(provider)).ready and chats(provider) == 2
    provider.world.cold[model] = 5
    added = migration.add_model(model, host(provider))
    assert not added.ready and "does not exist" in added.warnings[0] and chats(provider) == 4


def test_a_key_that_may_not_ask_adds_it_unready(
    provider: Provider, tune: dict[str, Any], ftg: Ftg
) -> None:
    """Said with the reason, and exit code 1; one that may list no models asks all the same."""
    provider.lacks[provider.api_key] = ["model.request"]
    at = ("--base-url", provider.url, "--api-key-env", "MAIN_PASS")
    done = ftg("models", "add", tune["fine_tuned_model"], *at)
    assert done.returncode == 1 and "not ready" in done.stdout and "model.request" in done.stderr
    provider.lacks[provider.api_key] = ["api.model.read"]
    assert ftg("models", "add", tune["fine_tuned_model"], *at).returncode == 0


def test_without_a_key_nothing_is_sent(
    provider: Provider, tune: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAIN_PASS")
    with pytest.raises(AuthenticationError, match="MAIN_PASS is not set"):
        migration.add_model(tune["fine_tuned_model"], host(provider))
    assert provider.requests == []


def test_a_model_of_azure_says_how_to_deploy_it(
    provider: Provider, tune: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers only through a deployment: added, and not ready."""
    monkeypatch.setattr(provider.world, "deployments", {})
    rows = [{"id": tune["model"], "deprecation": {"inference": 1_900_000_000}}]
    provider.fault(MODELS, Fault("body", body={"data": rows}))
    name = provider.world.model_name(provider.world.jobs[tune["id"]])
    added = migration.add_model(name, host(provider, profile="azure"))
    assert not added.ready and name in (added.deploy or "") and added.base_model == tune["model"]
    assert added.retires_on == "2030-03-17"  # as the list of Azure dates a base
    with pytest.raises(NotFoundError, match="not deployed"):
        added.require_deployed()


def test_one_that_was_fetched_is_meant_by_the_end_of_its_id_or_its_job(
    provider: Provider, tune: dict[str, Any], ftg: Ftg
) -> None:
    """By models add and by record, once it is here."""
    model, where = tune["fine_tuned_model"], ["--base-url", provider.url, "--key-env", "MAIN_PASS"]
    end = model.rpartition(":")[2]
    assert ftg("models", "add", end, *where).returncode == 102
    assert ftg("migrate", "fetch", end, *where).returncode == 0
    for name in (end, tune["id"]):
        added = ftg("models", "add", name, *where)
        assert added.returncode == 0 and f"ftg chat {model}" in added.stderr, added
        planned = ftg("migrate", "record", name, *where, "--profile", "openai", "--dry-run")
        assert planned.returncode == 0 and model in planned.stderr, planned
