"""Deployments at Azure, against a stand-in of its management plane: calls, states, refusals."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.azure_management import GROUP, REGION, RESOURCE, SUBSCRIPTION, AzureManagement
from support.cli import Ftg, at_terminal
from support.hosted import MODEL, connect
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import Gateway, NotFoundError, SpecError
from finetune_gateway.backends.openai import azure_token
from finetune_gateway.backends.openai.management import ADDRESS, Account, Management
from finetune_gateway.cli import deploy as command
from finetune_gateway.errors import AuthenticationError, BackendError, MissingDependency
from finetune_gateway.jobs import deployments
from finetune_gateway.jobs.job import Job

TUNED = "gpt-4.1-mini-2025-04-14.ft-b044a9d3"
ACCOUNT = Account(SUBSCRIPTION, GROUP, RESOURCE)
WHERE = ("--subscription", SUBSCRIPTION, "--resource-group", GROUP, "--account", RESOURCE)


@pytest.fixture
def azure() -> Iterator[AzureManagement]:
    with AzureManagement() as running:
        yield running


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(deployments={}) as running:
        yield running


def plane(azure: AzureManagement, token: str | None = None) -> Management:
    given = azure.token if token is None else token
    return Management(address=azure.url, token=lambda: given, poll_seconds=0.01)


def test_a_deployment_is_made_watched_and_ended(azure: AzureManagement) -> None:
    """PUT once, with Microsoft's body; GET until it has ended; DELETE, whoever was faster."""
    management, states = plane(azure), list[str]()
    made = management.deploy(ACCOUNT, "bot", TUNED)
    assert (made.model, made.sku, made.capacity, made.ended) == (TUNED, "Standard", 1, False)
    assert management.wait(ACCOUNT, "bot", TUNED, on_state=states.append).state == "Succeeded"
    assert states == ["Creating", "Succeeded"]
    assert management.deploy(ACCOUNT, "bot", TUNED).state == "Succeeded"  # again: nothing is made
    puts = [asked for asked in azure.requests if asked.method == "PUT"]
    assert [asked.path for asked in puts] == [f"{azure.account_path}/deployments/bot"]
    assert puts[0].query == {"api-version": "2024-10-01"}
    assert puts[0].headers["authorization"] == f"Bearer {azure.token}"
    assert puts[0].body == {
        "sku": {"name": "Standard", "capacity": 1},
        "properties": {"model": {"format": "OpenAI", "name": TUNED, "version": "1"}},
    }
    assert management.delete(ACCOUNT, "bot", TUNED) and not management.delete(ACCOUNT, "bot", TUNED)


def test_no_deployment_of_another_model_is_replaced(azure: AzureManagement) -> None:
    plane(azure).deploy(ACCOUNT, "bot", TUNED)
    for model, sku in (("other.ft-1", "Standard"), (TUNED, "GlobalStandard")):
        with pytest.raises(SpecError, match=f"bot is a deployment of {TUNED}"):
            plane(azure).deploy(ACCOUNT, "bot", model, sku=sku)
    assert [asked.method for asked in azure.requests].count("PUT") == 1


def test_no_deployment_of_another_model_is_ended_or_called_ours(
    azure: AzureManagement, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this name there may be somebody else's, also since ours was asked for."""
    plane(azure).deploy(ACCOUNT, "prod", TUNED)
    with pytest.raises(SpecError, match=f"prod is a deployment of {TUNED}, not of other"):
        plane(azure).wait(ACCOUNT, "prod", "other.ft-1")
    monkeypatch.setattr(command, "plane", lambda: plane(azure))
    done = ftg("deploy", "other.ft-1", *WHERE, "--name", "prod", "--delete", "--yes")
    assert done.returncode == 2 and "Nothing was changed" in " ".join(done.stderr.split())
    assert "prod" in azure.deployments


def test_a_deployment_is_called_deleted_once_it_is_gone(
    azure: AzureManagement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete that was taken may fail afterwards: until then it costs."""
    plane(azure).deploy(ACCOUNT, "bot", TUNED)
    monkeypatch.setattr(azure, "remove", lambda name: None)
    monkeypatch.setattr("finetune_gateway.backends.openai.management.LONGEST_END", 0.02)
    with pytest.raises(BackendError, match="bot is still there, and may cost"):
        plane(azure).delete(ACCOUNT, "bot", TUNED)


@pytest.mark.parametrize("fault", ["refuse", "reset_after", "cut", "html", "html_ok"])
def test_a_deployment_is_watched_past_lost_answers(azure: AzureManagement, fault: str) -> None:
    """A look changes nothing: it is repeated. A PUT is not, and says that it can be."""
    plane(azure).deploy(ACCOUNT, "bot", TUNED)
    azure.fault("GET deployments", fault)
    assert plane(azure).wait(ACCOUNT, "bot", TUNED).state == "Succeeded"
    azure.fault("PUT deployments", fault)
    with pytest.raises(BackendError) as lost:
        plane(azure).deploy(ACCOUNT, "other", TUNED)
    assert "Run the same command again" in lost.value.hint and lost.value.retryable
    assert plane(azure).deploy(ACCOUNT, "other", TUNED).model == TUNED


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ({"quota": 0}, "InsufficientQuota", "--capacity"),
        ({"unsupported": (TUNED,)}, "DeploymentModelNotSupported", "North Central US"),
        ({"skus": ("GlobalStandard",)}, "SKU 'Standard'", "--sku"),
    ],
)
def test_refusals_say_what_instead(settings: dict[str, Any], said: str, hint: str) -> None:
    with AzureManagement(**settings) as azure, pytest.raises(BackendError, match=said) as error:
        plane(azure).deploy(ACCOUNT, "bot", TUNED)
    assert hint in error.value.hint and not error.value.retryable
    assert not error.value.maybe_applied


def test_a_header_that_asks_to_wait_may_be_nonsense(azure: AzureManagement) -> None:
    """It is read as that of any host: what is no number of seconds says nothing."""
    for text, seconds in (("\xb2", None), ("7", 7.0), ("9" * 400, None)):
        azure.fault("GET deployments", "status", status=429, headers={"Retry-After": text})
        with pytest.raises(BackendError) as refused:
            plane(azure).find(ACCOUNT, "ours")
        assert refused.value.retry_after == seconds


def test_the_right_that_is_missing_is_named(azure: AzureManagement) -> None:
    """403 names it, 401 the way to sign in; neither repeats the token."""
    azure.may_write = False
    with pytest.raises(AuthenticationError, match="authorization to perform action") as denied:
        plane(azure).deploy(ACCOUNT, "bot", TUNED)
    assert "Microsoft.CognitiveServices/accounts/deployments/write" in denied.value.hint
    assert "the right to train does not include it" in denied.value.hint
    with pytest.raises(AuthenticationError, match="InvalidAuthenticationToken") as stale:
        plane(azure, "eyJ0.an-old-token").deploy(ACCOUNT, "bot", TUNED)
    assert "az login" in stale.value.hint and "an-old-token" not in str(stale.value)


def test_a_failed_deployment_is_an_error(azure: AzureManagement) -> None:
    azure.end = "Failed"
    plane(azure).deploy(ACCOUNT, "bot", TUNED)
    with pytest.raises(BackendError, match="The deployment bot is Failed"):
        plane(azure).wait(ACCOUNT, "bot", TUNED)
    azure.end, azure.looks = "Succeeded", 1000
    plane(azure).deploy(ACCOUNT, "late", TUNED)
    with pytest.raises(BackendError, match="It goes on without us"):
        plane(azure).wait(ACCOUNT, "late", TUNED, longest=0.0)


def test_a_missing_account_is_no_missing_deployment(azure: AzureManagement) -> None:
    for account, said in (
        (Account(SUBSCRIPTION, "nowhere", RESOURCE), "ResourceGroupNotFound"),
        (Account(SUBSCRIPTION, GROUP, "nobody"), "ResourceNotFound"),
    ):
        with pytest.raises(BackendError, match=said):
            plane(azure).deploy(account, "bot", TUNED)
    for wrong in ({"subscription": "mine"}, {"resource_group": "a/b"}, {"name": "../x"}):
        fields = {"subscription": SUBSCRIPTION, "resource_group": GROUP, "name": RESOURCE, **wrong}
        with pytest.raises(SpecError, match="cannot be the name"):
            Account(**fields)
    with pytest.raises(SpecError, match="name of a deployment"):
        plane(azure).deploy(ACCOUNT, "a/../b", TUNED)
    assert all(asked.method == "GET" for asked in azure.requests if "nowhere" in asked.path)


def test_the_token_goes_to_azure_alone(azure: AzureManagement) -> None:
    """No other address, no redirect, no next page elsewhere; nothing but an argument names one."""
    for address, token in (
        ("https://management.azure.com.evil.example", lambda: "t"),
        ("https://gateway.example.com", lambda: "t"),
        (azure.url, None),
    ):
        with pytest.raises(SpecError, match="tokens go nowhere else"):
            Management(address=address, token=token)
    assert ADDRESS == "https://management.azure.com"
    with AzureManagement() as elsewhere_too:
        azure.fault("PUT deployments", "redirect", location=f"{elsewhere_too.url}/x")
        with pytest.raises(BackendError, match="which is not followed"):
            plane(azure).deploy(ACCOUNT, "bot", TUNED)
        assert elsewhere_too.requests == []
    azure.models[REGION] *= 2
    azure.lists_by = 2
    assert len(plane(azure).models(SUBSCRIPTION, REGION)) == len(azure.models[REGION])
    before = len(azure.requests)
    real, azure.list_models = azure.list_models, elsewhere  # type: ignore[method-assign]  # a fault
    with pytest.raises(BackendError, match="goes on at another address"):
        plane(azure).models(SUBSCRIPTION, REGION)
    azure.list_models = real  # type: ignore[method-assign]  # as it was
    assert len(azure.requests) == before + 1


def elsewhere(region: str, query: dict[str, str]) -> dict[str, Any]:
    return {"value": [], "nextLink": "https://evil.example/models?api-version=1"}


def test_who_may_train_what_is_asked_of_the_subscription(azure: AzureManagement) -> None:
    """The plane's Deprecating is the pages' Deprecated, and its Deprecated is retired."""
    azure.models[REGION][-1]["model"]["lifecycleStatus"] = "Deprecated"
    azure.models[REGION].append({"model": {"name": "new", "lifecycleStatus": "Soon"}})
    found = {f"{one.model}-{one.version}": one for one in plane(azure).models(SUBSCRIPTION, REGION)}
    said = {"Deprecating": "deprecated", "Legacy": "legacy", "Deprecated": "retired",
            "Soon": "unknown"}  # fmt: skip
    assert {one.said: one.state for one in found.values()} == said
    facts = found["gpt-4.1-2025-04-14"]
    assert (facts.fine_tune_until, facts.inference_until) == (date(2027, 4, 14), date(2027, 10, 14))
    assert facts.planned == "Planned" and facts.fine_tunes is True
    assert found["new-"].said == "Soon" and found["new-"].fine_tune_until is None
    with pytest.raises(SpecError, match="eastus2"):
        plane(azure).models(SUBSCRIPTION, "East US 2")


# -- the token ---------------------------------------------------------------------------


def fake_az(folder: Path, body: str) -> None:
    program = folder / "az"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)


def test_azures_command_gives_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where azure-identity is not installed; without either, it says what to install."""
    monkeypatch.setattr(azure_token, "_has_identity", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="Signing in to Azure") as missing:
        azure_token.signed_in()
    assert "finetune-gateway[azure]" in missing.value.hint
    fake_az(tmp_path, "assert sys.argv[1:3] == ['account', 'get-access-token']; print('eyJ.t.s')")
    assert azure_token.signed_in() == "eyJ.t.s"
    fake_az(tmp_path, "sys.exit('ERROR: Please run az login to setup account.')")
    with pytest.raises(AuthenticationError, match="Please run az login"):
        azure_token.signed_in()
    fake_az(tmp_path, "print('two words')")
    with pytest.raises(AuthenticationError, match="gave no token"):
        azure_token.signed_in()


def test_azure_identity_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scope, and its refusal in one line; a package of that name stands in for it."""
    for path, text in (
        ("azure/core/exceptions.py", "class ClientAuthenticationError(Exception): ..."),
        ("azure/identity/__init__.py", IDENTITY),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "azure"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("FTG_TEST_TOKEN", "eyJ.a.b")
    assert azure_token.signed_in() == "eyJ.a.b"
    monkeypatch.delenv("FTG_TEST_TOKEN")
    with pytest.raises(AuthenticationError, match=r"no token: Nobody is signed in\. Sign in"):
        azure_token.signed_in()
    for name in [name for name in sys.modules if name.partition(".")[0] == "azure"]:
        monkeypatch.delitem(sys.modules, name)


IDENTITY = """
import os
from types import SimpleNamespace
from azure.core.exceptions import ClientAuthenticationError

class DefaultAzureCredential:
    def get_token(self, scope):
        assert scope == "https://management.azure.com/.default"
        if "FTG_TEST_TOKEN" not in os.environ:
            raise ClientAuthenticationError("Nobody is signed in.\\nMore on it.")
        return SimpleNamespace(token=os.environ["FTG_TEST_TOKEN"])

    def close(self): ...
"""


# -- ftg deploy --------------------------------------------------------------------------


@pytest.fixture
def job(provider: Provider, ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job that has succeeded, in the home of the command line."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", provider.api_key)
    backend = connect(provider, profile="azure", poll_seconds=0.01)
    return Gateway().submit(chat_rows(10), model=MODEL, backend=backend).wait(30)


@pytest.fixture
def signed_in(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureManagement]:
    with AzureManagement(provider) as azure:
        monkeypatch.setattr(command, "plane", lambda: plane(azure))
        monkeypatch.setattr(deployments, "PAUSE", 0.01)
        yield azure


def test_a_job_is_deployed_asked_and_ended(job: Job, ftg: Ftg, signed_in: AzureManagement) -> None:
    """After it 'ftg chat JOB' answers; what it costs and when it ends is said before."""
    done = ftg("deploy", job.id, *WHERE, "--yes", "--json")
    words = " ".join(done.stderr.split())
    assert done.returncode == 0, done.stderr
    assert "$1.70 an hour, used or not, $1,241" in words and "15 days without a call" in words
    assert json.loads(done.stdout)["ready"] and f"ftg deploy {job.id} --delete" in words
    assert "heard: Hello" in ftg("chat", job.id, "Hello").stdout
    assert deployments.details(job) == {
        "subscription": SUBSCRIPTION, "resource_group": GROUP, "account": RESOURCE,
        "name": job.id, "sku": "Standard", "capacity": 1,
    }  # fmt: skip
    # What it costs is counted from its first hour on, and only as long as it is there.
    assert Gateway().budget().reserved_usd == Decimal("1.70")
    # Where it is was kept: ending it needs no more options, and so does another one.
    asked = ftg("deploy", job.id, "--delete")
    assert asked.returncode == 4 and "Nothing was done" in asked.stderr
    assert signed_in.deployments != {}  # nor without a yes
    ended = ftg("deploy", job.id, "--delete", "--yes", "--quiet")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{job.id}\n", "")
    assert signed_in.deployments == {} and Gateway().budget().reserved_usd == 0
    (cost,) = Gateway().costs().charges
    assert cost.job_id == f"deployment:{job.id}" and "hours x $1.70" in cost.basis
    refused = ftg("chat", job.id, "Hello")
    assert refused.returncode == NotFoundError.exit_code and "not deployed" in refused.stderr
    assert f"--deployment-name {job.id}" in " ".join(refused.stderr.split())
    again = ftg("deploy", job.id, "--yes", "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, f"{job.id}\n", "")


def test_azure_deletes_what_nobody_calls(job: Job, ftg: Ftg, signed_in: AzureManagement) -> None:
    """After 15 days without a call, developer deployments after one; the model can be deployed
    again by the same command."""
    for sku, days in (("standard", 16.0), ("developer", 1.1)):
        done = ftg("deploy", job.id, *WHERE, "--sku", sku, "--yes")
        assert done.returncode == 0 and "heard" in ftg("chat", job.id, "Hi").stdout, done.stderr
        signed_in.pass_days(days)
        assert signed_in.deployments == {}
        gone = ftg("chat", job.id, "Hi")
        assert gone.returncode != 0 and "ftg deploy JOB" in " ".join(gone.stderr.split())
    developer = " ".join(done.stderr.split())
    assert "no fee by the hour" in developer and "after 24 hours" in developer


def test_a_deployment_that_goes_on_is_not_forgotten(
    job: Job, ftg: Ftg, signed_in: AzureManagement
) -> None:
    """It costs: a slip in the name of the one that is ended, or in its place, loses no other; and a
    second one does not take its place in silence."""
    assert ftg("deploy", job.id, *WHERE, "--yes").returncode == 0
    ended = ftg("deploy", job.id, "--delete", "--yes", "--name", "no-such")
    assert "no-such was gone already. What it has cost: ftg costs" in ended.stderr
    assert deployments.details(job)["sku"] == "Standard"
    second = ftg("deploy", job.id, "--name", "second")
    said = f"End it: ftg deploy {job.id} --delete --subscription {SUBSCRIPTION}"
    assert second.returncode == 4 and said in " ".join(second.stderr.split())
    assert ftg("deploy", job.id, "--delete", "--yes").returncode == 0
    assert not signed_in.deployments and "sku" not in deployments.details(job)


def test_a_deployment_whose_answer_is_lost_is_known(
    job: Job, ftg: Ftg, signed_in: AzureManagement
) -> None:
    """It was made, and costs: the next command ends it, without its name. What was certainly not
    made is not kept."""
    signed_in.fault("PUT deployments", "reset_after")
    assert ftg("deploy", job.id, *WHERE, "--name", "trial", "--yes").returncode != 0
    assert [*signed_in.deployments] == ["trial"]
    assert ftg("deploy", job.id, "--delete", "--yes").returncode == 0
    assert not signed_in.deployments
    signed_in.fault("PUT deployments", "reset_before")
    assert ftg("deploy", job.id, "--yes").returncode != 0 and not signed_in.deployments
    early = ftg("deploy", job.id, "--delete", "--yes")
    assert early.returncode != 0 and "may still take effect" in " ".join(early.stderr.split())
    assert Gateway().budget().reserved_usd == Decimal("1.70")
    assert ftg("deploy", job.id, "--yes").returncode == 0 and len(signed_in.deployments) == 1
    with Gateway().store.transaction() as db:  # the lost one can no longer take effect
        db.execute("UPDATE jobs SET handle = json_remove(handle, '$.deployment.unsettled')")
    assert ftg("deploy", job.id, "--delete", "--yes").returncode == 0
    assert Gateway().budget().reserved_usd == 0
    before = deployments.details(job)
    plane(signed_in).deploy(ACCOUNT, "taken", deployments.model_of(job), sku="GlobalStandard")
    assert ftg("deploy", job.id, "--name", "taken", "--yes").returncode == 2
    assert deployments.details(job) == before


def test_nothing_is_made_without_a_yes(
    job: Job, ftg: Ftg, signed_in: AzureManagement, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ftg("deploy", job.id, *WHERE).returncode == 4
    asked = at_terminal(monkeypatch, "n\n", "deploy", job.id, *WHERE, "--quiet")
    assert "$1.70 an hour" in " ".join(asked.stderr.split()) and asked.returncode == 4
    for wrong, said in (
        (WHERE[:4], "--account"),
        ((*WHERE, "--sku", "batch"), "standard, global, developer"),
        ((*WHERE, "--name", "a b"), "name of a deployment"),
    ):
        refused = ftg("deploy", job.id, *wrong, "--yes")
        assert refused.returncode == 2 and said in " ".join(refused.stderr.split())
    assert [asked for asked in signed_in.requests if asked.method != "GET"] == []


def test_without_a_way_to_sign_in_the_command_is_printed(
    job: Job, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled as far as it is known; nothing is asked and nothing sent."""
    monkeypatch.setattr(azure_token, "_has_identity", lambda: False)
    monkeypatch.setenv("PATH", "")
    done = ftg("deploy", job.id, *WHERE[:4], "--sku", "global")
    assert done.returncode == 1 and "finetune-gateway[azure]" in done.stderr
    assert done.stdout.startswith("az cognitiveservices account deployment create")
    for part in (f"--subscription {SUBSCRIPTION}", "--name RESOURCE", "--sku-name GlobalStandard",
                 f"--model-name {deployments.model_of(job)}"):  # fmt: skip
        assert part in done.stdout


def test_other_hosts_are_refused_and_models_taken_by_id(
    ftg: Ftg, provider: Provider, signed_in: AzureManagement
) -> None:
    backend = connect(provider)
    other = Gateway().submit(chat_rows(10), model=MODEL, backend=backend)
    refused = ftg("deploy", other.id, *WHERE, "--yes")
    assert refused.returncode == 2 and "makes deployments at Azure" in refused.stderr
    signed_in.provider = None  # whose models it may have
    done = ftg("deploy", TUNED, *WHERE, "--yes")
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert signed_in.deployments[name]["properties"]["model"]["name"] == TUNED
    assert ftg("deploy", TUNED, *WHERE, "--delete", "--yes").returncode == 0
    assert signed_in.deployments == {}
