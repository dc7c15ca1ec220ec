"""Names of jobs at Azure on the command line, and what its deployments are said to cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.azure_management import GROUP, RESOURCE, SUBSCRIPTION, AzureManagement
from support.cli import Ftg
from support.hosted import MODEL, connect
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import FakeBackend, Gateway, NotFoundError
from finetune_gateway.backends.openai.management import Management
from finetune_gateway.cli import deploy as command
from finetune_gateway.jobs import deployments
from finetune_gateway.jobs.job import Job

TUNED = "gpt-4.1-mini-2025-04-14.ft-b044a9d3"
WHERE = ("--subscription", SUBSCRIPTION, "--resource-group", GROUP, "--account", RESOURCE)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(deployments={}) as running:
        yield running


def plane(azure: AzureManagement, token: str | None = None) -> Management:
    given = azure.token if token is None else token
    return Management(address=azure.url, token=lambda: given, poll_seconds=0.01)


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


def test_a_job_is_found_by_its_names_at_azure(
    job: Job, ftg: Ftg, provider: Provider, signed_in: AzureManagement
) -> None:
    """Its id there, and its model, which does not begin with ft:. A deployment that goes on keeps
    it; its price is said once in the costs."""
    named = (str(job.provider_id), deployments.model_of(job))
    assert ftg("deploy", named[0], *WHERE, "--yes").returncode == 0
    for name in named:
        assert job.id in ftg("status", name).stdout
        refused = ftg("rm", name, "--yes")
        assert refused.returncode == 2 and "its deployment goes on" in refused.stderr
    said = ftg("costs")
    lines, _, _ = said.stdout.partition("\n1 job")
    assert lines.count("$1.70") == 2 and "$1.70 counted until now" in lines  # and the price
    assert f"ftg deploy {job.id} --delete" in said.stdout and "settle" not in said.stderr
    assert ftg("deploy", named[1], "--delete", "--yes").returncode == 0
    removed = ftg("rm", named[1], "--yes")
    assert removed.returncode == 0 and f"{job.id} removed" in removed.stdout


def test_what_is_not_counted_is_said(ftg: Ftg, signed_in: AzureManagement) -> None:
    """A model that no job here has made costs by the hour too."""
    signed_in.provider = None
    done = ftg("deploy", TUNED, *WHERE, "--yes")
    assert "in no budget, and not in ftg costs" in " ".join(done.stderr.split())
    assert Gateway().costs().charges == ()
    free = ftg("deploy", TUNED, *WHERE, "--name", "trial", "--sku", "developer", "--yes")
    assert "in no budget" not in " ".join(free.stderr.split())


def test_an_id_of_two_jobs_names_both(ftg: Ftg, home: Path) -> None:
    """At two resources: neither can be told by it, and more of it would not help."""
    jobs = [Gateway().submit(chat_rows(10 + n), model=MODEL, backend=FakeBackend()) for n in (0, 1)]
    with Gateway().store.transaction() as db:
        db.execute("UPDATE jobs SET provider_id = 'ftjob-1'")
    for verb in ("rm", "status"):
        said = ftg(verb, "ftjob-1")
        assert said.returncode == NotFoundError.exit_code
        assert "Several jobs have the id 'ftjob-1'" in said.stderr and "Name one" in said.stderr
        assert all(job.id in said.stderr for job in jobs)
