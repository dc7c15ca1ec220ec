"""A price that is missing: the command that adds it is named, and works when it is pasted."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from support.cli import Done, Ftg
from support.provider import Provider

COMMAND = re.compile(r"ftg (prices set .*? --source) TEXT")


def added(ftg: Ftg, done: Done) -> tuple[str, str]:
    """Paste the command with an amount for each USD, and return the backend and the units."""
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    [typed] = {*COMMAND.findall(said)}
    words = shlex.split(typed)
    units, usd = words.index("--unit") + 1, words.index("--usd") + 1
    words[usd] = words[usd].replace("USD", "0.001")
    pasted = ftg(*words, "our contract")
    assert pasted.returncode == 0, pasted.stderr
    return words[words.index("--backend") + 1], words[units]


@pytest.mark.parametrize(
    ("command", "units"),
    [
        ("estimate {data} --model gpt-9", "train_mtok"),
        ("submit {data} --base-url {url} --model gpt-9 --max-cost 5 --yes", "train_mtok"),
        ("submit {data} --base-url {url} --model gpt-9 --dry-run", "train_mtok"),
        ("compare {url}#gpt-9 --data {data} --max-cost 5 --dry-run", "in_mtok,out_mtok"),
        ("check {url}#gpt-9 {guide} --data {data} --max-cost 5 --dry-run", "in_mtok,out_mtok"),
        ("prices --backend openai --model gpt-9 --unit in_mtok", "in_mtok"),
        ("estimate {data} --model gpt-9 --train-price 1 --monthly-requests 9 --explain",
         "in_mtok,out_mtok"),
    ],
)  # fmt: skip
def test_the_named_command_adds_what_is_missing(
    command: str, units: str, ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the backend and in the units that are looked up: the same command names it no more."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-main")
    guide = train_file.with_name("guide.yaml")
    guide.write_text("checks:\n  - contains: a\n")
    if "--max-cost" not in command:
        ftg("config", "set", "budget.monthly_usd", "50")
    with Provider() as provider:
        words = command.format(data=train_file, guide=guide, url=provider.url).split()
        refused = ftg(*words)
        backend, asked = added(ftg, refused)
        assert asked == units
        assert backend == ("custom" if "{url}" in command else "openai")
        again = ftg(*words)
    assert "prices set" not in again.stdout + again.stderr
    assert "No price is known" not in again.stderr


def test_only_the_missing_one_of_two_prices_is_asked_for(ftg: Ftg, train_file: Path) -> None:
    """Where the price of what is read has a row, the one of what is written is named."""
    row = ("--backend", "custom", "--model", "gpt-9", "--source", "ours")
    assert ftg("prices", "set", *row, "--unit", "in_mtok", "--usd", "1").returncode == 0
    words = ("--data", str(train_file), "--max-cost", "5", "--dry-run")
    with Provider() as provider:
        assert added(ftg, ftg("compare", f"{provider.url}#gpt-9", *words))[1] == "out_mtok"


def test_several_prices_are_set_at_once(ftg: Ftg) -> None:
    """As many amounts as units; else nothing is written."""
    row = ("--backend", "openai", "--model", "gpt-9", "--source", "ours", "--json")
    units = ("prices", "set", *row, "--unit", "in_mtok,out_mtok", "--usd")
    assert ftg(*units, "1").returncode == 2 and ftg(*units, "1,no").returncode == 2
    assert ftg("prices", "--model", "gpt-9").returncode == 102
    said = json.loads(ftg(*units, "1,2.5").stdout)
    assert [(one["unit"], one["usd"]) for one in said["rows"]] == [
        ("in_mtok", "1"),
        ("out_mtok", "2.5"),
    ]
