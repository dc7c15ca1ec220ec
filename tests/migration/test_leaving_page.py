"""docs/leaving-openai.md: its commands run in order on the provider, and every screen that shows
the last days of OpenAI's fine-tuning names it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Done, Ftg
from support.paths import DEMO_TRAIN, ROOT
from support.provider import Provider
from support.provider_memory import BASES

from finetune_gateway.estimation import profiles
from finetune_gateway.estimation.price_table import Unit, find_price
from finetune_gateway.reports.leaving import LINE, PAGE

DAYS = re.compile(r"2027-01-(?:05|06|14)")
HOSTED = ["--model", BASES[3]]
SCREENS = (
    ["estimate", str(DEMO_TRAIN), *HOSTED],
    ["submit", str(DEMO_TRAIN), *HOSTED, "--dry-run"],
    ["models", "--backend", "openai"],
    ["backends"],
    ["doctor"],
)
WITHOUT = (
    ["estimate", str(DEMO_TRAIN), *HOSTED, "--backend", "azure"],
    ["models", "--backend", "azure"],
    ["list"],
)


PAIRS: tuple[tuple[Unit, Unit], ...] = (
    ("in_mtok", "batch_in_mtok"),
    ("out_mtok", "batch_out_mtok"),
)


def commands() -> list[str]:
    """The lines of the page's shell blocks."""
    text = (ROOT / PAGE).read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.fixture
def provider(ftg: Ftg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Provider]:
    monkeypatch.chdir(tmp_path)
    with Provider() as started:
        monkeypatch.setenv("OPENAI_BASE_URL", started.url)
        yield started


def test_what_a_batch_costs_is_what_the_prices_say() -> None:
    """Half, of all bases but those whose share the page names."""
    text = (ROOT / PAGE).read_text("utf-8")
    for base in BASES:
        shares = [
            round(100 * batch.usd / usual.usd)
            for unit in PAIRS
            if (usual := find_price("openai", f"ft:{base}", unit[0]))
            and (batch := find_price("openai", f"ft:{base}", unit[1]))
        ]
        if shares != [50, 50]:
            told = "{} % of it for what is read and {} % for what is written".format(*shares)
            assert f"of {base[:-11]}, {told}" in text


def test_its_commands_run_in_order(
    provider: Provider, ftg: Ftg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a reader types them, with a key and a model of the provider in place of those shown, and
    with OpenAI's prices and dates for it, and a base that is here. Each ends with 0; at the end
    there are a page, a table and commands that can be typed, too."""
    job = provider.world.add_fine_tune(base=BASES[3], rows=12, suffix="support")
    provider.world.add_stored(job["fine_tuned_model"], [{"role": "user", "content": "Hi"}])
    given = {"OPENAI_API_KEY": provider.api_key, "MODEL": job["fine_tuned_model"]}
    ran = []
    for line in commands():
        if line.startswith("export "):
            name = line.removeprefix("export ").partition("=")[0]
            monkeypatch.setenv(name, given.pop(name))
            continue
        line, _, out = line.replace("$MODEL", job["fine_tuned_model"]).partition(" > ")
        if "migrate run" in line:
            line = line.replace("Qwen/Qwen3-4B", "builtin/tiny")
            if "--dry-run" not in line:  # test_run.py trains
                continue
        host = ["--profile", "openai"] if line.split()[1] in ("migrate", "models") else []
        done: Done = ftg(*shlex.split(line)[1:], *host)
        assert done.returncode == 0, (line, done)
        if out:
            (tmp_path / out).write_text(done.stdout)
        ran.append(" ".join(shlex.split(line)[1:3]))
    assert given == {}
    for word in ("list", "fetch", "record", "plan", "run"):
        assert f"migrate {word}" in ran
    assert "<table" in (tmp_path / "fine-tunes.html").read_text()
    assert job["fine_tuned_model"] in (tmp_path / "fine-tunes.csv").read_text()
    lines = (tmp_path / "commands.txt").read_text().splitlines()
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    [azure] = [line for line in lines if "--backend azure" in line]
    done = ftg(*shlex.split(azure)[1:], "--dry-run", "--base-url", "https://a.openai.azure.com/x")
    assert done.returncode == 0, done


def test_its_days_are_those_of_the_profile() -> None:
    """And those of the reference that no profile has."""
    text, openai = (ROOT / PAGE).read_text("utf-8"), profiles.load_profile("openai")
    retired = {row.retires_on for row in openai.models if row.retires_on}
    for day in (openai.no_new_jobs_from, openai.no_new_jobs_after, max(retired), "2026-11-30"):
        assert str(day) in text


def test_it_is_on_the_first_screen_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text[: text.index(PAGE)].count("\n") < 20


@pytest.mark.parametrize("line", [*SCREENS, *WITHOUT], ids=lambda line: " ".join(line[::9]))
def test_a_screen_that_shows_the_days_names_the_page(
    line: list[str], ftg: Ftg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once, in a line of its own; other screens, and a quiet one, do not."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    done = ftg(*line)
    shown = done.stdout + done.stderr
    assert (DAYS.search(shown) is not None) == (line in SCREENS)
    assert shown.splitlines().count(LINE) == (1 if line in SCREENS else 0), shown
    quiet = ftg(*line, "-q")
    assert LINE not in quiet.stdout + quiet.stderr
    if line[0] == "estimate":
        ftg(*line, "--html", str(tmp_path / "page.html"))
        page = (tmp_path / "page.html").read_text("utf-8")
        assert (LINE in page) == (line in SCREENS)
