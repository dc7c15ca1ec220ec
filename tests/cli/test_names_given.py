"""A message speaks of what was asked for by the name that was given."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import Ftg

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


def test_costs_says_what_is_paid_without_a_job(ftg: Ftg) -> None:
    """Each kind of charge is named in its help."""
    help_text = ftg("costs", "--help").stdout
    for kind in ("recordings", "comparisons", "checks", "deployments"):
        assert kind in help_text
