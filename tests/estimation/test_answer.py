"""The answer of estimate: a few lines, one screen, each thing once; --explain has the rest."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support.cli import Ftg
from support.options import DATA, LARGE, MINI, SMALL, TINY
from support.paths import ROOT

import finetune_gateway as gateway
from finetune_gateway import Option
from finetune_gateway.estimation.serving import serving_costs
from finetune_gateway.estimation.traffic import Traffic
from finetune_gateway.reports.estimate_text import estimates_text
from finetune_gateway.reports.serving_text import amount_text

ONE = ("estimate", str(DATA), "--model", MINI)
TWELVE = ("estimate", str(DATA), "--backend", "openai,azure,nebius,custom",
          "--model", MINI, "--model", LARGE, "--model", SMALL)  # fmt: skip
MIXED = ("estimate", str(DATA), "--backend", "openai,azure,local",
         "--model", MINI, "--model", TINY)  # fmt: skip
pytestmark = pytest.mark.usefixtures("tiny_at_home")
SCREEN = 24  # lines of a terminal


def side_by_side(backends: list[str], models: list[str]) -> list[Option]:
    return gateway.estimate(DATA, model=models, backend=backends)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("model", "names"),
    [(MINI, "cost tokens rows time until data"), (TINY, "cost tokens rows time memory data")],
)
def test_one_option_is_seven_lines_and_what_stands_in_the_way(
    ftg: Ftg, model: str, names: str
) -> None:
    """Price with range and day, tokens, how many rows are trained, time, whether it fits or until
    when, where the data go."""
    lines = ftg("estimate", str(DATA), "--model", model).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == names.split()
    assert lines[0].endswith(f" / {model}") and lines[-1] == "why: --explain"
    text = words("\n".join(lines[7:-1]))
    if model == TINY:
        assert "fits in" in lines[5] and text == ""
    else:
        assert lines[1] == "cost     $0.187 ($0.125 to $0.259), price as of 2026-10-05"
        assert "2027-01-05 (in 45 days) for new jobs; retired on 2027-01-14" in lines[5]
        assert text.startswith("warning: Only organisations") and text.count("warning:") == 1


def test_the_answer_fits_one_screen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80, 60 and 40 columns, with the prompt and what is on stderr: one option, options that
    are partly left out, and twelve, in the order of their cost."""
    twelve = side_by_side(["openai", "azure", "nebius", "custom"], [MINI, LARGE, SMALL])
    mixed = side_by_side(["openai", "azure", "local"], [MINI, TINY])
    for columns in (80, 60, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        for options in (twelve, mixed, mixed[:1], mixed[-1:], twelve[1:2]):
            lines = estimates_text(options).splitlines()
            assert max(map(len, lines)) <= columns
            assert len(lines) <= SCREEN - 3, "\n".join(lines)
        lines = estimates_text(twelve).splitlines()
        costs = [re.findall(r" \$[\d.]+|not known", line)[0].strip() for line in lines[1:13]]
        assert costs == ["$0.112", "$0.187", "$0.936", *["not known"] * 9]


@pytest.mark.parametrize("columns", [80, 60])
def test_what_serving_costs_fits_the_same_screen(
    columns: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One option, several and twelve: the cheapest way of serving comes first, and what did not
    fit is counted."""
    monkeypatch.setenv("COLUMNS", str(columns))
    twelve = side_by_side(["openai", "azure", "nebius", "custom"], [MINI, LARGE, SMALL])
    traffic = Traffic(requests=300_000, tokens_in=800, tokens_out=200)
    for options in (twelve, twelve[:1], side_by_side(["openai", "local"], [MINI, TINY])):
        hosts = [(one.backend, one.model) for one in options if one.estimate]
        costs = serving_costs(traffic, [pair for pair in hosts if pair[0] != "local"])
        lines = estimates_text(options, costs).splitlines()
        assert max(map(len, lines)) <= columns
        assert len(lines) <= SCREEN - (3 if columns == 80 else 0), "\n".join(lines)
        shown = words("\n".join(lines))
        priced = [(one.monthly_usd.expected, place) for place, one in enumerate(costs.ways)
                  if one.monthly_usd]  # fmt: skip
        first = amount_text(costs.ways[min(priced)[1]]).partition(" ")[0]
        table = shown.partition("per 1,000 ")[2]
        assert re.findall(r"\$[\d,.]+", table)[0] == first
        assert ("more ways to serve" in shown) == (len(options) == 12 or columns == 60), shown
        assert "own" not in table or "8 billion parameters (assumed) in 16 bits, 64 req" in table


def test_a_higher_terminal_shows_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is counted; with 60 lines nothing but the age of sources is left."""
    mixed = side_by_side(["openai", "azure", "local"], [MINI, TINY])
    monkeypatch.setenv("COLUMNS", "40")
    assert "(5 more warnings)" in words(estimates_text(mixed))
    monkeypatch.setenv("LINES", "60")
    assert "(1 more warning)" in words(estimates_text(mixed))


def test_what_is_said_of_several_options_is_said_once(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the names of those it is about; why whole backends are left out is said too."""
    monkeypatch.setenv("LINES", "60")
    call = [word.replace("custom", "local,frob") for word in TWELVE]
    said = words(ftg(*call).stdout)
    assert said.count("used a fine-tuned model in the past 60 days") == 1
    assert f"warning: nebius, azure / {LARGE}, azure / {SMALL}: No price" not in said
    assert said.count("nebius: The cost of this model on nebius: no price known") == 1
    assert f"6 left out (see --explain): local / {MINI}, frob / " in said
    assert said.count(f"left out: local / {MINI}, local / {LARGE}, local / {SMALL}: this") == 1
    assert said.count("No backend named 'frob'") == 1


@pytest.mark.parametrize("call", [ONE, MIXED])
def test_explain_prints_all_that_is_known(ftg: Ftg, call: tuple[str, ...]) -> None:
    """Every warning, source, assumption and unknown that JSON has, each once; with the reasons."""
    said = words(ftg(*call, "--explain").stdout)
    for one in json.loads(ftg(*call, "--json").stdout):
        if "error" in one:
            assert words(one["error"]["message"]) in said
            continue
        texts = [*one["warnings"], *one["assumptions"], *one["unknown"]]
        assert texts and all(said.count(words(text)) == 1 for text in texts)
        assert all(price["source"] in said and price["as_of"] in said for price in one["prices"])
        assert one["n_epochs_rule"] in said
    for flag in ("--quiet", "--json"):
        refused = ftg(*call, "--explain", flag)
        assert refused.returncode == 2 and "contradicts" in refused.stderr + refused.stdout


def test_the_example_of_the_docs_is_what_is_printed(
    ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command on the page gives the screen below it, whatever the speed of this machine."""
    text = (ROOT / "docs" / "estimate.md").read_text(encoding="utf-8")
    shown = text.partition("```text\n")[2].partition("```")[0]
    shutil.copy(DATA, tmp_path / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    printed = ftg("estimate", "train.jsonl", *MIXED[2:]).stdout
    assert "--backend openai,azure,local" in text.partition("```text\n")[0]
    time = re.compile(r"\d+ (?:s|min) +fits")
    assert time.sub("TIME", printed) == time.sub("TIME", shown)
