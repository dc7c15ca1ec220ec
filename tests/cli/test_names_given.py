"""A message speaks of what was asked for by the name that was given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.cli import Ftg
from support.paths import ROOT

JOBS = (
    "report", "status", "logs", "events", "wait", "watch", "metrics", "checkpoints", "cancel",
    "pause", "resume", "download", "chat", "rm", "compare", "compare base:",
    "estimate train.jsonl --model builtin/tiny --continue-from",
)  # fmt: skip
COMPARISONS = ("report cmp-", "rm cmp-", "advise train.jsonl --comparison cmp-")


@pytest.mark.parametrize("command", [*JOBS, *COMPARISONS])
def test_the_newest_where_there_is_none(
    command: str, ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an empty home it is said that there are none yet, and which command makes one. A name that
    means nothing is said as it was given."""
    monkeypatch.chdir(train_file.parent)
    kind, verb = ("comparisons", "compare") if command in COMPARISONS else ("jobs", "submit")

    def said(name: str) -> str:
        joined = command if command.endswith((":", "-")) else f"{command} "
        done = ftg(*f"{joined}{name}".split(), text="Hello?")
        assert done.returncode != 0
        return done.stderr

    assert said("latest").splitlines() == [
        f"error: There are no {kind} yet.", f"hint:  Run: ftg {verb} --help"
    ]  # fmt: skip
    wrong = "cmp-nope" if kind == "comparisons" else "nope"
    assert repr(wrong) in said("nope").splitlines()[0]


def test_the_help_has_each_form_of_a_model_that_the_docs_have(ftg: Ftg) -> None:
    """The table of docs/compare.md, in the help of both commands that take such a model."""
    table = (ROOT / "docs" / "compare.md").read_text().partition("| name | the model |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    forms = [form for row in rows for form in re.findall("`([^`]*)`", row.split(" | ")[0])]
    assert len(forms) > 12
    own = {"JOB@last": "@last", "JOB@best": "@best", "./my-model": "a handle's file or folder",
           "./my-model/finetune_gateway.json": "a handle's file or folder",
           "ft:BASE:ORG:SUFFIX:ID": "ft:...",
           "http://HOST/v1#MODEL": "http(s)://HOST/v1#MODEL"}  # fmt: skip
    for command in ("compare", "check"):
        help_text = " ".join(ftg(command, "--help").stdout.split())
        for form in forms:
            assert own.get(form, form) in help_text, (command, form)


def test_costs_says_what_is_paid_without_a_job(ftg: Ftg) -> None:
    """Each kind of charge is named in its help."""
    help_text = ftg("costs", "--help").stdout
    for kind in ("recordings", "comparisons", "checks", "deployments"):
        assert kind in help_text
