"""``ftg migrate list``: every field against the provider's own state, by ``check_inventory``, and
what is gone, hidden, refused or not known on the screen, as CSV and as a page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from check_inventory import complaints
from support.browser import Browser
from support.cli import Ftg, at_terminal
from support.provider import Provider
from support.provider_memory import BASES
from support.rows import chat_rows

from finetune_gateway import Gateway, Inventory, OpenAIBackend, SpecError, migration
from finetune_gateway.backends.openai import inventory as host_lists
from finetune_gateway.errors import AuthenticationError, MissingScopeError
from finetune_gateway.reports.inventory_page import page
from finetune_gateway.reports.inventory_table import table_text
from finetune_gateway.reports.inventory_text import inventory_text
from finetune_gateway.reports.output import display_width
from finetune_gateway.settings.money import format_usd

A, B, ADMIN = "sk-a-0123456789abcdef", "sk-b-0123456789abcdef", "sk-admin-0123456789abcd"
SHOP = "main proj_shop"
KEYS = {"A_KEY": A, "B_KEY": B}
TODAY = date(2026, 11, 21)
FAULTS = {"busy": 0.06, "error_after": 0.06, "truncated": 0.06, "cut": 0.04, "slow": 0.02}


@pytest.fixture
def provider(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """Two keys of two projects, and an admin key, which ``ftg`` leaves in the environment."""
    for name, key in {**KEYS, "ADMIN_KEY": ADMIN}.items():
        monkeypatch.setenv(name, key)
    with Provider(
        api_key=A, keys={B: SHOP}, admin_keys={ADMIN: "main"}, fault_seconds=0.02
    ) as started:
        yield started


def past(provider: Provider, count: int) -> list[dict[str, Any]]:
    """A past with all that can have become of a fine-tune."""
    world = provider.world
    made = world.add_fine_tunes(count, accounts=["main", SHOP])
    world.shutdown_dates = {BASES[0]: "2026-12-24", made[1]["fine_tuned_model"]: "2026-12-01"}
    for number, name in enumerate(("training_file", "validation_file", "training_file")):
        del world.files[made[number][name]]
    for name in ("training_file", "validation_file"):
        del world.files[made[3][name]]
    for file in made[3]["result_files"]:
        del world.files[file]
    world.deleted.add(made[2]["fine_tuned_model"])
    world.hide(made[4]["fine_tuned_model"])
    world.retired.add(made[5]["fine_tuned_model"])
    for status in ("failed", "cancelled", "paused", "running", "pausing"):
        world.add_fine_tune(status=status, account=SHOP, validation_rows=0)
    world.add_fine_tune(method="sft", hyperparameters=None, seed=None, account=SHOP)
    return made


def hosts(provider: Provider, names: Sequence[str] = ("A_KEY", "B_KEY")) -> list[OpenAIBackend]:
    return [
        OpenAIBackend(base_url=provider.url, profile="openai", api_key_env=name) for name in names
    ]


def found_wrong(
    provider: Provider, inventory: Inventory, *names: str, admin: bool = False
) -> list[str]:
    keys = {name: KEYS[name] for name in names or KEYS}
    shown = inventory.model_dump(mode="json")
    return [*complaints(shown, provider.whole_report(), keys, TODAY, admin=admin)]


def lines(provider: Provider, *more: str) -> list[str]:
    where = ["--base-url", provider.url, "--profile", "openai"]
    return ["migrate", "list", *where, "--key-env", "A_KEY", "--key-env", "B_KEY", *more]


# -- against the provider's state --------------------------------------------------------------


def test_every_field_is_what_the_provider_has(provider: Provider, home: Path) -> None:
    """Under faults, with two keys: merged by job, in few requests; and with one key alone."""
    past(provider, 16)
    provider.chaos, provider.chaos_on = FAULTS, ("*",)
    inventory = migration.list_fine_tunes(hosts(provider))
    assert found_wrong(provider, inventory) == []
    assert {one.model_state for one in inventory.fine_tunes} == {"there", "not_visible", "unknown"}
    provider.chaos = {}
    before = len(provider.requests)
    alone = migration.list_fine_tunes(hosts(provider, ["B_KEY"]))
    assert found_wrong(provider, alone, "B_KEY") == []
    ended = sum(one.job_status is not None and one.job_status.final for one in alone.fine_tunes)
    unlisted = sum(one.model_state == "not_visible" for one in alone.fine_tunes)
    assert alone.requests == len(provider.requests) - before == 3 + ended + unlisted


@pytest.mark.chaos
def test_three_hundred_under_a_storm(provider: Provider, home: Path) -> None:
    """A question that fails with every try is said to; all else is what the provider has."""
    past(provider, 300)
    provider.chaos = {kind: 2 * share for kind, share in FAULTS.items()}
    provider.chaos_on = ("*",)
    inventory = migration.list_fine_tunes(hosts(provider))
    assert len(inventory.fine_tunes) == 304
    unread = [
        one.job_id
        for one in inventory.fine_tunes
        if one.checkpoints is None and one.job_status and one.job_status.final
    ]
    wrong = found_wrong(provider, inventory)
    of_jobs = [text for text in wrong if text.startswith("ftjob-")]
    assert {text.partition(" is ")[0] for text in of_jobs} == {
        f"{job}: checkpoints" for job in unread
    }
    refused = [key.variable for key in inventory.keys if "checkpoints" in key.refused]
    assert len(unread) <= 6 and bool(unread) == bool(refused)
    assert [text.partition(":")[0] for text in wrong if text not in of_jobs] == refused


@pytest.mark.parametrize("scope", ["api.files.read", "api.model.read", "api.fine_tuning.jobs.read"])
def test_a_scope_that_is_missing_is_named_and_the_rest_goes_on(
    provider: Provider, home: Path, scope: str, ftg: Ftg
) -> None:
    """Of one key and of both: what was refused is never shown as gone, deleted or zero."""
    past(provider, 8)
    provider.lacks = {A: [scope]}
    assert found_wrong(provider, migration.list_fine_tunes(hosts(provider))) == []
    provider.lacks = {A: [scope], B: [scope]}
    if "jobs" in scope:
        listed = migration.list_fine_tunes(hosts(provider))
        assert {one.job_id for one in listed.fine_tunes} == {None} and listed.fine_tunes
        assert all(one.base_model in BASES and one.cost is None for one in listed.fine_tunes)
    else:
        assert found_wrong(provider, migration.list_fine_tunes(hosts(provider))) == []
    provider.lacks = {A: [scope], B: [scope]}
    with pytest.raises(MissingScopeError) as refused:
        {"jobs": host_lists.jobs, "model": host_lists.models, "files": host_lists.files}[
            scope.split(".")[-2]
        ](hosts(provider)[0])
    assert refused.value.scope == scope and scope in refused.value.hint


@pytest.mark.parametrize("lacks", [(), ("api.fine_tuning.jobs.read",)])
def test_a_checkpoint_in_a_list_of_models_is_no_other_fine_tune(
    provider: Provider, home: Path, lacks: tuple[str, ...]
) -> None:
    """Also where no job tells what it belongs to; with dates for fine-tunes of their own."""
    past(provider, 8)
    provider.world.lists_checkpoints = provider.world.dates_fine_tunes = True
    provider.lacks = {A: [*lacks], B: [*lacks]}
    inventory = migration.list_fine_tunes(hosts(provider))
    assert found_wrong(provider, inventory) == []
    states = {point.state for one in inventory.fine_tunes for point in one.checkpoints or ()}
    assert states == (set() if lacks else {"there", "unknown"})


def test_an_admin_key_tells_what_was_paid_and_the_last_use(provider: Provider, home: Path) -> None:
    """Of the fine-tunes that the bill names; where it names none, the estimate stays."""
    made = past(provider, 8)
    for number, days in ((6, 3), (6, 40), (7, 9)):
        provider.world.add_usage(made[number]["fine_tuned_model"], days_ago=days, requests=2)
    [admin] = hosts(provider, ["ADMIN_KEY"])
    inventory = migration.list_fine_tunes(hosts(provider), admin=admin)
    assert found_wrong(provider, inventory, admin=True) == []
    by_model = {one.model: one for one in inventory.fine_tunes}
    used = by_model[made[6]["fine_tuned_model"]]
    assert used.billed and not used.billed.estimated and used.last_used
    assert used.cost and used.cost.estimated and used.unused_since is None
    assert "billed" in table_text(inventory) and "<$0.01" in table_text(inventory)
    assert "$0.00112 in lines of the bill" in " ".join(inventory_text(inventory).split())
    plain_page, known = page(inventory), [one.cost.usd for one in inventory.fine_tunes if one.cost]
    assert f"about {format_usd(sum(known, Decimal(0)))}" in plain_page  # no bill among trainings
    assert by_model[made[0]["fine_tuned_model"]].unused_since is not None
    provider.world.names_fine_tunes = False
    inventory = migration.list_fine_tunes(hosts(provider), admin=admin)
    assert found_wrong(provider, inventory, admin=True) == []
    assert all(one.unused_since is None for one in inventory.fine_tunes)
    assert "no fine-tune" in inventory.keys[-1].refused["usage"]
    [plain] = hosts(provider, ["B_KEY"])
    refused = migration.list_fine_tunes(hosts(provider), admin=plain)
    assert refused.keys[-1].refused.keys() == {"costs", "usage"}
    assert found_wrong(provider, refused) == []


def test_what_was_retired_is_at_the_end(
    provider: Provider, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a later day: the models that no list shows are retired, and the others come first."""
    past(provider, 8)
    provider.world.retired |= {*BASES[:2]}
    monkeypatch.setenv("FTG_TODAY", "2027-01-14")
    inventory = migration.list_fine_tunes(hosts(provider))
    shown = inventory.model_dump(mode="json")
    assert [*complaints(shown, provider.whole_report(), KEYS, date(2027, 1, 14))] == []
    assert inventory.fine_tunes[-1].model_state == "retired"
    assert all((one.days_left or 0) <= 0 for one in inventory.fine_tunes)


def other_than(value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "x": "x"}
    if isinstance(value, list):
        return [*value, "x"]
    return f"{value or ''}1" if value is None or isinstance(value, str) else value + 1


def test_an_error_in_the_inventory_would_be_found(provider: Provider, home: Path) -> None:
    """The check can fail: for each field there is, changed by itself."""
    past(provider, 8)
    shown = migration.list_fine_tunes(hosts(provider)).model_dump(mode="json")
    stored = provider.whole_report()
    one = next(one for one in shown["fine_tunes"] if one["checkpoints"] and one["cost"])
    parts = [one, one["training_file"], one["checkpoints"][0], one["cost"], shown["keys"][0]]
    for part in parts:
        for name in part.keys() - {"admin"}:
            before, part[name] = part[name], other_than(part[name])
            assert any(True for _ in complaints(shown, stored, KEYS, TODAY)), name
            part[name] = before
    assert [*complaints(shown, stored, KEYS, TODAY)] == []


# -- what this home knows, and other hosts -----------------------------------------------------


def test_our_job_is_named(provider: Provider, home: Path) -> None:
    """By the host and the provider's id."""
    host = OpenAIBackend(base_url=provider.url, api_key_env="A_KEY", poll_seconds=0.01)
    job = Gateway().submit(chat_rows(12), model=BASES[3], backend=host)
    job.wait()
    provider.world.add_fine_tune()
    inventory = migration.list_fine_tunes(hosts(provider))
    assert {one.our_job for one in inventory.fine_tunes} == {job.id, None}
    ours = {str(one.job_id): job.id for one in inventory.fine_tunes if one.our_job}
    told = inventory.model_dump(mode="json"), provider.whole_report(), {"A_KEY": A, "B_KEY": B}
    assert ours and [*complaints(*told, TODAY, ours=ours)] == []


def test_azure_and_hosts_without_lists(provider: Provider, home: Path) -> None:
    """Azure's names and dates; where no list shows fine-tunes, their state is not known; a host
    that has no list of models or files has its jobs listed all the same."""
    provider.world.deployments = {}
    made = provider.world.add_fine_tunes(4, methods=["sft"])
    names = {one["fine_tuned_model"] for one in made}
    [azure] = [OpenAIBackend(base_url=provider.url, profile="azure", api_key_env="A_KEY")]
    found = migration.list_fine_tunes(azure).fine_tunes
    assert {one.model for one in found} == names and {one.model_state for one in found} == {"there"}
    assert {one.shutdown_from for one in found} == {"base"}
    rows = [{"id": BASES[0], "deprecation": {"inference": 1_900_000_000}}]
    provider.fault("GET /models", "body", body={"object": "list", "data": rows})
    provider.fault("GET /models/*", *["status"] * 4, status=404, code="DeploymentNotFound")
    found = migration.list_fine_tunes(azure).fine_tunes
    assert {one.model_state for one in found} == {"unknown"}
    assert str(found[-1].shutdown_date) == "2030-03-17" and found[-1].base_model == BASES[0]
    for endpoint in ("GET /models", "GET /files"):
        provider.fault(endpoint, "status", status=404, message="no such page")
    custom = OpenAIBackend(base_url=provider.url, profile="custom", api_key_env="A_KEY")
    [key] = (inventory := migration.list_fine_tunes(custom)).keys
    assert key.refused.keys() == {"models", "files"} and len(inventory.fine_tunes) == 4
    for one in inventory.fine_tunes:
        assert (one.shutdown_date, one.cost, one.days_left) == (None, None, None)
        assert one.training_file and one.training_file.state == "refused"


ODD: tuple[Any, ...] = (
    None,
    7,
    -1,
    1e300,
    True,
    "",
    "x\x1b[2J",
    [],
    ["a", None, 3],
    {},
    {"type": 3},
)
FIELDS = (
    *("id", "model", "fine_tuned_model", "method", "hyperparameters", "training_file", "seed"),
    *("result_files", "created_at", "finished_at", "status", "trained_tokens", "error"),
    "user_provided_suffix",
)


def test_values_that_nobody_expects_are_not_known(provider: Provider, ftg: Ftg) -> None:
    """Whatever a host sends in any field, the rest is listed, and nothing steers the terminal."""
    good = provider.world.add_fine_tune()
    jobs = [{**good, "id": f"ftjob-{n}-{f}", f: odd} for f in FIELDS for n, odd in enumerate(ODD)]
    rows = [{"id": good["fine_tuned_model"], "shutdown_date": odd} for odd in (*ODD, "soon")]
    rows += [{"id": odd, "deprecation": odd} for odd in ODD]
    files = [{"id": good["training_file"], "bytes": odd, "filename": odd} for odd in ODD]
    for form in ("--explain", "--format=table", "--format=csv", "--format=json"):
        for endpoint, items in (
            ("GET /fine_tuning/jobs", [*jobs, None, 7]),
            ("GET /models", [*rows, "x"]),
            ("GET /files", [*files, []]),
        ):
            page = {"object": "list", "data": items, "has_more": False}
            provider.fault(endpoint, "body", body=page)
        done = ftg(*lines(provider)[:-2], "--no-checkpoints", form)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout and "Traceback" not in done.stderr
        assert done.stdout.count("ftjob-" if form != "--format=table" else "\nft:") > 100
        assert form != "--format=table" or max(map(len, done.stdout.splitlines())) < 160


def test_nothing_to_list_is_said_and_wrong_calls_are_errors(
    provider: Provider, home: Path, monkeypatch: pytest.MonkeyPatch, ftg: Ftg
) -> None:
    assert migration.list_fine_tunes(hosts(provider)).fine_tunes == ()
    with pytest.raises(SpecError, match="no host of OpenAI's contract"):
        migration.list_fine_tunes("fake")
    with pytest.raises(SpecError, match="One host"):
        migration.list_fine_tunes([*hosts(provider), OpenAIBackend(api_key="k")])
    provider.keys = {}
    with pytest.raises(AuthenticationError, match="Incorrect API key") as wrong:
        migration.list_fine_tunes(hosts(provider))
    assert "A_KEY and B_KEY" in wrong.value.hint
    monkeypatch.delenv("B_KEY")
    before = len(provider.requests)
    with pytest.raises(AuthenticationError, match="B_KEY is not set"):
        migration.list_fine_tunes(hosts(provider))
    assert len(provider.requests) == before
    done = ftg(*lines(provider, "--format", "xml"))
    assert done.returncode == 2 and "table, csv, json" in done.stderr


# -- as people and programs see it -------------------------------------------------------------


@pytest.fixture
def listed(provider: Provider) -> list[dict[str, Any]]:
    """A past of 8, seen by two keys of which one may not see files."""
    made = past(provider, 8)
    provider.lacks = {A: ["api.files.read"]}
    return made


def test_the_screen_in_every_form(
    provider: Provider, ftg: Ftg, listed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """All that is known, JSON, CSV, the ids alone; what is not known is never a zero."""
    table = ftg(*lines(provider, "--explain"))
    assert table.returncode == 0, table.stderr
    for text in (
        "12 fine-tunes, as A_KEY and B_KEY see them",
        "It lacks api.files.read",
        "2 jobs ended without a model: left out (--all).",
        "Stops on 2026-12-01, in 10 days: 1 fine-tune",
        "its own date, by the list of models",
        "deleted, or hidden from them",
        "validation gone",
        "training not visible to",
        "tokens not known, cost not known",
        "2 checkpoints besides (step 4, 8)",
        "seen by B_KEY",
    ):
        assert text in " ".join(table.stdout.split()), text
    assert not re.search(r"\b0 tokens|\$0\.00(?!\d)", table.stdout)
    assert "requests. Save what can be saved: ftg migrate fetch" in table.stderr
    beside = " ".join(ftg(*lines(provider, "--format", "csv")).stderr.split())
    assert "It lacks api.files.read" in beside and "left out (--all)" in beside
    told = json.loads(ftg(*lines(provider, "--json")).stdout)
    assert told == json.loads(ftg(*lines(provider, "--format", "json")).stdout) | {
        "as_of": told["as_of"]
    }
    assert [*complaints(told, provider.whole_report(), KEYS, TODAY)] == []
    rows = [*csv.DictReader(io.StringIO(ftg(*lines(provider, "--format", "csv")).stdout))]
    assert [row["model"] or row["job_id"] for row in rows] == [
        one["model"] or one["job_id"] for one in told["fine_tunes"]
    ]
    for row, one in zip(rows, told["fine_tunes"], strict=True):
        assert (row["trained_tokens"] == "") == (one["trained_tokens"] is None)
        assert (row["cost_usd"] == "") == (one["cost"] is None)
    quiet = ftg(*lines(provider, "-q", "--no-checkpoints"))
    assert quiet.stderr == "" and quiet.stdout.split() == [
        one["model"] or one["job_id"] for one in told["fine_tunes"]
    ]


def test_the_table_has_a_line_for_each(
    provider: Provider, ftg: Ftg, listed: list[dict[str, Any]]
) -> None:
    """Without a question for each; what is gone, hidden, refused or not known is a word in it, and
    never a zero. One by the last part of its id has all its facts."""
    before = len(provider.requests)
    done = ftg(*lines(provider))
    assert done.returncode == 0, done.stderr
    assert all("checkpoints" not in path for _, path, _ in provider.requests[before:])
    table = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    told = json.loads(ftg(*lines(provider, "--json")).stdout)["fine_tunes"]
    for one in told:
        cells = table[one["model"] or one["job_id"]]
        state = {"not_visible": "unseen"}.get(one["model_state"], one["model_state"])
        assert (state if one["model"] else one["raw_status"]) in cells
        assert ("unknown" in cells) is (one["cost"] is None or one["method"] is None)
        files = [one["training_file"], one["validation_file"], *one["result_files"]]
        for file in filter(None, files):
            word = {"not_visible": "unseen"}.get(file["state"], file["state"])
            assert word in cells or "of" in cells or word == "there", cells
    assert "unseen: deleted, or hidden" in done.stdout and "It lacks api.files.read" in done.stdout
    assert not re.search(r"\$0\.00\b|~<", done.stdout) and "(401)" not in done.stdout
    assert "fetch --all --base-url" in done.stderr and "--key-env A_KEY" in done.stderr
    one = next(one for one in told if one["model_state"] == "there")
    end = one["model"].rpartition(":")[2]
    named = ftg(*lines(provider, end))
    assert one["model"] in named.stdout and "checkpoints besides" in named.stdout
    assert "1 fine-tune," in named.stdout
    failed = next(id_ for id_, job in provider.world.jobs.items() if job["status"] == "failed")
    assert failed in ftg(*lines(provider, failed)).stdout
    wrong = ftg(*lines(provider, one["model"][:-1] + "~"))
    assert wrong.returncode == 102 and f"Did you mean {one['model']}" in wrong.stderr
    several = ftg(*lines(provider, "x"))
    assert several.returncode == 102 and "ftg migrate list" in several.stderr


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_no_line_is_wider_than_the_terminal(
    provider: Provider,
    listed: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    """Except for an id, which stands by itself, and a command to copy."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for more in ([], ["--explain"]):
        done = at_terminal(monkeypatch, "", *lines(provider, *more))
        assert done.returncode == 0 and "in 10 days" in " ".join(done.stdout.split())
        for line in (done.stdout + done.stderr).splitlines():
            command = line.lstrip().startswith("ftg ")  # in one line, to copy
            assert display_width(line) <= columns or len(line.split()) == 1 or command, line
    ends = [one["fine_tuned_model"].rpartition(":")[2] for one in listed]
    assert all(end in at_terminal(monkeypatch, "", *lines(provider)).stdout for end in ends[:2])


def test_the_page(
    provider: Provider, ftg: Ftg, listed: list[dict[str, Any]], tmp_path: Path, tab: Browser
) -> None:
    """All fine-tunes with their facts, what the host says escaped; nothing is loaded, nothing is
    cut off at 360 and 1280 px, light and dark."""
    provider.world.add_fine_tune(suffix="<script>alert(1)</script>", account=SHOP)
    out = tmp_path / "page.html"
    done = ftg(*lines(provider, "--html", str(out)))
    assert done.returncode == 0 and f"Wrote {out}" in done.stderr
    text = out.read_text("utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert all(one["fine_tuned_model"] in text for one in listed)
    for width, dark in ((1280, False), (1280, True), (360, False), (360, True)):
        tab.open(out, width=width, dark=dark)
        assert tab.said == [] and tab.js("document.documentElement.scrollWidth") <= width
    (tmp_path / "mine.html").write_text("mine")
    done = ftg(*lines(provider, "--html", str(tmp_path / "mine.html")))
    assert done.returncode == 2 and "not a page of ours" in done.stderr
