"""``ftg migrate plan``: where a fine-tune could go, at what price, and lines that can be typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.azure_management import REGION, SUBSCRIPTION, AzureManagement
from support.cli import Done, Ftg, at_terminal
from support.provider import Provider
from support.provider_memory import BASES

from finetune_gateway import FakeBackend, NotFoundError, OpenAIBackend, migration
from finetune_gateway.backends.openai.management import Management, ModelFacts
from finetune_gateway.migration import carrying
from finetune_gateway.migration.moves import MovePlan, Place
from finetune_gateway.reports.output import display_width

KEY, URL = "sk-test-0123456789abcdef", "https://mine.openai.azure.com/openai/v1"
TINY = "builtin/tiny"


@pytest.fixture
def provider(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("A_KEY", KEY)
    with Provider(api_key=KEY) as started:
        yield started


def host(provider: Provider) -> OpenAIBackend:
    return OpenAIBackend(base_url=provider.url, profile="openai", api_key_env="A_KEY")


def made(provider: Provider, **more: Any) -> dict[str, Any]:
    settings = {"base": BASES[3], "rows": 20, "suffix": "support", **more}
    return provider.world.add_fine_tune(**settings)


def planned(provider: Provider, model: str, **more: Any) -> MovePlan:
    return migration.plan(model, host(provider), local_models=[TINY], azure_url=URL, **more)


def at(plan: MovePlan, backend: str) -> Place:
    [place] = [one for one in plan.places if one.backend == backend]
    return place


def run(ftg: Ftg, command: tuple[str, ...], *more: str) -> Done:
    assert command[0] == "ftg"
    return ftg(*command[1:], *more)


@pytest.mark.usefixtures("tiny_at_home")
def test_from_the_host_to_a_job(
    provider: Provider, home: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the fetch a price for the trained tokens; its lines, typed in order, fetch the files
    and start what they say. After it the figures of an estimate, without the host."""
    job = made(provider)
    plan = planned(provider, job["fine_tuned_model"])
    azure, local, crusoe = (at(plan, name) for name in ("azure", "local", "crusoe"))
    assert azure.same_base and azure.model == BASES[3] and not azure.refused
    assert not local.same_base and not crusoe.same_base
    assert crusoe.cost_usd == Decimal(job["trained_tokens"]) * Decimal("0.40") / 1_000_000
    assert (azure.cost_usd, local.seconds, plan.fetched) == (None, None, False)
    [fetch] = {line for place in plan.places for line in place.before}
    assert run(ftg, tuple(shlex.split(fetch))).returncode == 0
    provider.__exit__()
    plan = planned(provider, job["fine_tuned_model"])
    azure, local, crusoe = (at(plan, name) for name in ("azure", "local", "crusoe"))
    assert plan.fetched and Path(str(plan.training_file)).read_text().count("\n") == 20
    assert local.fits == "yes" and local.seconds and crusoe.cost_usd and crusoe.cost_high_usd
    assert "region" in azure.data and azure.jobs_at_least_until and azure.answers_until
    assert "adapter" in local.weights and "no export" in azure.weights
    for name in ("AZURE_OPENAI_API_KEY", "CRUSOE_API_KEY"):
        monkeypatch.setenv(name, "k")
    for place in (azure, local, crusoe):
        assert place.command and not place.before
        done = run(ftg, place.command, "--dry-run", "--json")
        assert done.returncode == 0, done
        told = json.loads(done.stdout)["estimate"]
        assert (told["backend"], told["model"]) == (place.backend, place.model)
        assert told["n_epochs"] == 3 and "support" in place.command
        assert ("learning_rate_multiplier=1.8" in place.command) is (place is azure)


def test_each_setting_is_mapped_or_said_to_have_no_equal(provider: Provider, home: Path) -> None:
    """The multiplier has none beyond the same base; a batch or a suffix that a host refuses stays
    here; what only one method has is named."""
    job = made(provider, suffix="a-suffix-longer-than-azure-takes", method="dpo")
    plan = planned(provider, job["id"])
    azure = {one.name: one for one in at(plan, "azure").settings}
    given = job["method"]["dpo"]["hyperparameters"]
    assert azure.keys() == {*given, "seed", "suffix"}
    assert azure["suffix"].becomes is None and "not taken" in azure["suffix"].note
    assert azure["learning_rate_multiplier"].becomes
    assert azure["beta"].becomes == "--set beta=0.1"
    assert "not verified" in azure["learning_rate_multiplier"].note
    local = at(plan, "local")
    assert local.command and {"dpo", "beta=0.1"} <= {*local.command}
    crusoe = {
        one.name: one for one in at(planned(provider, made(provider)["id"]), "crusoe").settings
    }
    assert crusoe["learning_rate_multiplier"].becomes is None
    assert "no equal" in crusoe["learning_rate_multiplier"].note
    assert crusoe["batch_size"].becomes is None and "16 to 1,024" in crusoe["batch_size"].note


def test_what_cannot_be_is_said(
    provider: Provider, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training file that is gone, a base that Azure has retired, a model that nobody sees."""
    job = made(provider)
    del provider.world.files[job["training_file"]]
    plan = planned(provider, job["fine_tuned_model"])
    assert all(place.command is None for place in plan.places)
    assert "gone" in str(at(plan, "local").refused)
    few = made(provider, rows=6)["id"]
    migration.fetch(few, host(provider))
    place = at(planned(provider, few), "azure")
    assert "at least 10" in str(place.refused) and place.command is None
    monkeypatch.setenv("FTG_TODAY", "2028-01-01")
    assert "shut down" in str(at(planned(provider, made(provider)["id"]), "azure").refused)
    with pytest.raises(NotFoundError, match="seen by these keys"):
        planned(provider, "ft:nobody:has:it:1")


def test_what_is_still_to_be_fetched_is_asked_of_the_same_host_with_the_same_keys(
    provider: Provider, home: Path
) -> None:
    """Also where a fetch was refused the files, and left the rest."""
    job = made(provider)
    provider.lacks = {KEY: ["api.files.read"]}
    assert not migration.fetch(job["id"], host(provider)).complete
    places = planned(provider, job["id"]).places
    [line] = {line for place in places for line in place.before}
    assert f"--base-url {provider.url} --profile openai --key-env A_KEY" in line


def test_azure_is_asked_about_this_subscription(
    provider: Provider, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its list shows is said; a base that it trains no more is refused, and one that it does
    not show is no certain no."""
    where = ["--base-url", provider.url, "--profile", "openai", "--key-env", "A_KEY"]
    asked = ["--azure-subscription", SUBSCRIPTION, "--azure-region", REGION]
    line = ["migrate", "plan", made(provider)["id"], *where, *asked, "--json"]
    with AzureManagement(provider) as azure:
        plane = Management(address=azure.url, token=lambda: azure.token)
        monkeypatch.setattr("finetune_gateway.cli.migrate_plan.plane", lambda: plane)

        def place() -> dict[str, Any]:
            [found] = [
                one
                for one in json.loads(ftg(*line).stdout)["places"]
                if one["backend"] == "azure" and one["same_base"]
            ]
            return dict(found)

        shown = place()
        assert "legacy, trained until 2027-04-14" in shown["subscription"] and shown["command"]
        monkeypatch.setenv("FTG_TODAY", "2027-04-14")
        late = place()
        assert late["command"] is None and "no more for your subscription" in late["refused"]
    facts = [ModelFacts("gpt-4.1-mini", "2030-01-01", "open", "", True, None, None, "")]
    other = at(planned(provider, line[2], azure_models=facts), "azure")
    assert "not shown to your subscription" in str(other.subscription)
    assert ftg(*line[:-3]).returncode == 2


@pytest.mark.parametrize("columns", [40, 80])
def test_the_screen(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, ftg: Ftg, columns: int
) -> None:
    """No line but a command or an address is wider than the terminal; JSON and the commands alone
    say the same."""
    end = made(provider)["fine_tuned_model"].rpartition(":")[2]
    where = ["--base-url", provider.url, "--profile", "openai", "--key-env", "A_KEY"]
    line = ["migrate", "plan", end, *where, "--local-model", TINY]
    monkeypatch.setenv("COLUMNS", str(columns))
    told = json.loads(ftg(*line, "--json").stdout)
    commands = [shlex.join(one["command"]) for one in told["places"] if one["command"]]
    common = ("(the same base)", "nothing is billed", "no equal", "Bedrock", "Nebius")
    brief = ("(proposed)", "is not known to equal yours", "2 left out:", "First, once:")
    full = ("proposed; no measured equal is known", "not verified", "(as of 2026-")
    for more, parts, others in (([], brief, full), (["--explain"], full, brief)):
        done = at_terminal(monkeypatch, "", *line, *more)
        assert done.returncode == 0
        text = " ".join(done.stdout.split())
        assert all(part in text for part in (*common, *parts))
        assert not any(part in text for part in others) and " equal to " not in text
        lines = done.stdout.splitlines()
        for shown in lines:
            command = shown.lstrip().startswith("ftg ")
            assert display_width(shown) <= columns or len(shown.split()) == 1 or command, shown
        assert {f"  {command}" for command in commands} < {*lines}  # each in one line, to copy
        assert more or text.count("migrate fetch") == 1
    quiet = ftg(*line, "-q").stdout.splitlines()
    assert commands and set(commands) < set(quiet)


def test_what_a_place_refuses_is_left_out(provider: Provider, home: Path) -> None:
    """A plug-in that takes no suffix, seed or epochs would refuse the whole job for them."""
    one = made(provider, hyperparameters={"n_epochs": 3}, seed=7)
    [listed] = [
        found for found in migration.list_fine_tunes(host(provider)).fine_tunes
        if found.model == one["fine_tuned_model"]
    ]  # fmt: skip
    limits = replace(FakeBackend().capabilities(), refuses=frozenset({"seed", "suffix"}))
    settings = {one.name: one for one in carrying.carried(listed, limits, None, same_base=True)}
    assert settings["n_epochs"].becomes == "--n-epochs 3"
    for name in ("seed", "suffix"):
        assert (settings[name].becomes, settings[name].note) == (None, "not taken there.")
    assert not {"seed", "suffix"} & carrying.options([*settings.values()]).keys()
