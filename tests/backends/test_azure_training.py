"""How Azure trains is a choice: it is sent, priced, told before the question, and kept."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from support.cli import Ftg, at_terminal
from support.hosted import MODEL, begin, connect, data_file
from support.paths import DEMO_TRAIN
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import Gateway, OpenAIBackend, SpecError, UnsupportedError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.price_table import new_price, write_price
from finetune_gateway.jobs import schema
from finetune_gateway.jobs.job import Job
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

NANO = "gpt-4.1-nano-2025-04-14"
SENT = {
    None: "Standard",
    "standard": "Standard",
    "global": "GlobalStandard",
    "datazone": "DatazoneStandard",
    "developer": "developerTier",
}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(deployments={}) as running:
        yield running


def azure(provider: Provider, training: str | None = None) -> OpenAIBackend:
    return connect(provider, profile="azure", azure_training=training)


def submit(provider: Provider, training: str | None = None, seed: int = 1) -> Job:
    backend = azure(provider, training)
    return Gateway().submit(chat_rows(10), model=MODEL, backend=backend, seed=seed)


def types(provider: Provider) -> list[str]:
    return [job["request"]["trainingType"] for job in provider.jobs]


@pytest.mark.parametrize("training", SENT)
def test_the_create_carries_the_type(
    provider: Provider, tmp_path: Path, training: str | None
) -> None:
    """Standard without a choice: the data stay in the region of the resource."""
    begin(azure(provider, training), data_file(tmp_path / "t.jsonl"))
    assert types(provider) == [SENT[training]]


def test_no_other_host_takes_it(tmp_path: Path) -> None:
    """Nor does Azure take another word, nor a base the way that it has not."""
    for profile in ("openai", "nebius", "custom"):
        with pytest.raises(SpecError, match="choice of Azure"):
            OpenAIBackend(profile=profile, azure_training="global")
    with pytest.raises(SpecError, match="'regional'") as wrong:
        OpenAIBackend(profile="azure", azure_training="regional")
    assert "standard, global, datazone, developer" in wrong.value.hint
    with pytest.raises(SpecError, match="azure_training must be text"):
        OpenAIBackend(profile="azure", azure_training=1)  # type: ignore[arg-type]  # the test
    with pytest.raises(UnsupportedError, match="cannot be trained as 'standard'.*global") as error:
        OpenAIBackend(profile="azure").check(TrainingSpec(model="gpt-oss-20b"))
    assert "--azure-training" in error.value.hint


def test_it_is_part_of_what_a_job_is_known_by(provider: Provider, home: Path) -> None:
    """The same submit in another way is another job; its file is sent once for all."""
    first, again, other = submit(provider), submit(provider, "standard"), submit(provider, "global")
    assert first.id == again.id != other.id
    assert types(provider) == ["Standard", "GlobalStandard"]
    assert provider.posts["/files"] == 1
    rebuilt = OpenAIBackend(**json.loads(json.dumps(azure(provider, "developer").options())))
    assert rebuilt.options()["azure_training"] == "developer"
    assert rebuilt.identity() == azure(provider, "developer").identity()
    # As jobs of versions without the choice are known.
    assert azure(provider, "global").identity() == {"base_url": provider.url}
    assert "azure_training" not in OpenAIBackend(profile="openai").options()


def forget_the_choice(home: Path) -> None:
    """Leave the store as it was before there was a choice, and bring it up to date."""
    with sqlite3.connect(Settings.load(home).database) as db:
        db.execute(
            "UPDATE jobs SET backend_options = json_remove(backend_options, '$.azure_training')"
        )
        schema.m013_azure_training(db)
    assert schema.m013_azure_training in schema.MIGRATIONS


def test_jobs_from_before_the_choice_were_global(
    provider: Provider, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stored job says it, the same submit finds it, and one that was not sent goes as it was
    asked for: to any region."""
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", provider.api_key)
    sold = submit(provider, "global")
    provider.world.running_limit, provider.world.retry_after = 1, "0"
    waiting = submit(provider, "global", seed=2)
    assert waiting.provider_id is None
    forget_the_choice(home)
    provider.world.running_limit = None
    with sqlite3.connect(Settings.load(home).database) as db:
        db.execute("UPDATE jobs SET not_before = step_at")
    old = Gateway().job(sold.id)
    assert old.record.backend_options["azure_training"] == "global"
    assert Gateway().job(waiting.id).resume().provider_id
    assert types(provider) == ["GlobalStandard", "GlobalStandard"]
    assert submit(provider, "global").id == sold.id != submit(provider).id


def quote(training: str, model: str = NANO, home: Path | None = None) -> Estimate:
    backend = OpenAIBackend(profile="azure", azure_training=training)
    return Gateway(home=home).estimate(chat_rows(10), model=model, backend=backend, n_epochs=1)


@pytest.mark.parametrize(
    ("training", "usd"), [("standard", "1.65"), ("global", "1.50"), ("developer", "0.75")]
)
def test_it_is_priced_by_the_type(home: Path, training: str, usd: str) -> None:
    """Each with its own row; where the data go is said."""
    estimate = quote(training)
    assert estimate.prices[0].usd == Decimal(usd) and estimate.prices[0].tier == training
    assert estimate.azure_training == training and estimate.residency
    warned = any("no data residency" in text for text in estimate.warnings)
    assert warned == (training != "standard")


def test_half_of_the_global_price_for_developers(home: Path) -> None:
    """Microsoft's rule, with its source, where that type has no row of its own; what is not known
    is not derived from another type."""
    path = Settings.load(home).create().prices
    row = new_price(
        backend="azure", model=MODEL, unit="train_mtok", usd="4.40", tier="global",
        source="list", as_of=date(2026, 11, 1),
    )  # fmt: skip
    write_price(path, row)
    developer = quote("developer", MODEL, home)
    assert developer.prices[0].usd == Decimal("2.20") and developer.prices[0].tier == "developer"
    assert "cost-management" in developer.prices[0].note and "4.40" in developer.prices[0].note
    for training in ("standard", "datazone"):
        estimate = quote(training, MODEL, home)
        assert estimate.cost_usd is None
        assert any(f"as {training!r} training: no price known" in x for x in estimate.unknown)
    # The user's own price without a type counts for all of them.
    write_price(path, row.model_copy(update={"tier": None, "usd": Decimal("3.30")}))
    assert quote("standard", MODEL, home).prices[0].usd == Decimal("3.30")


def test_regions_and_what_is_not_verified_are_said(home: Path) -> None:
    standard, zone = quote("standard").warnings, quote("datazone").warnings
    assert any("North Central US and Sweden Central alone" in text for text in standard)
    assert any("not verified" in text and "DatazoneStandard" in text for text in zone)
    refused = quote("developer", "gpt-oss-20b").warnings[0]
    assert refused.startswith("This job cannot be created: gpt-oss-20b cannot be trained as")


def test_the_question_names_it(
    ftg: Ftg, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the data go is shown before anything is sent, and --quiet does not hide it."""
    monkeypatch.setenv("GPU_KEY", provider.api_key)
    host = ("--backend", "azure", "--base-url", provider.url, "--api-key-env", "GPU_KEY")
    asked = ("submit", str(DEMO_TRAIN), "--model", MODEL, *host, "--quiet")
    done = at_terminal(monkeypatch, "n\n", *asked)
    words = " ".join(done.stderr.split())
    assert "Trained as 'standard': the data stay in the region of the resource" in words
    assert "Proceed with 'standard' training? [y/N]" in words and provider.jobs == []
    done = at_terminal(monkeypatch, "y\n", *asked, "--azure-training", "global")
    words = " ".join(done.stderr.split())
    assert "data and weights are copied to the region where training runs" in words
    assert "Proceed with 'global' training?" in words and types(provider) == ["GlobalStandard"]


def test_estimates_take_it(ftg: Ftg) -> None:
    """For Azure among others; it is refused where no host has the choice."""
    data = str(DEMO_TRAIN)
    asked = ("estimate", data, "--model", NANO, "--azure-training", "global")
    both = ftg(*asked, "--backend", "openai,azure", "--json")
    found = {one["backend"]: one for one in json.loads(both.stdout)}
    assert found["azure"]["azure_training"] == "global"
    assert found["openai"]["azure_training"] is None
    assert "Trained as 'global'" in " ".join(ftg(*asked, "--backend", "azure").stdout.split())
    refused = ftg(*asked, "--backend", "openai")
    assert refused.returncode != 0 and "choice of Azure" in refused.stderr
