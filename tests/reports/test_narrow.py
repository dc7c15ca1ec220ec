"""What a result looks like in a terminal that is narrower than it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import Ftg, at_terminal
from support.pairs import pair_rows
from support.rows import chat_rows

from finetune_gateway import Gateway
from finetune_gateway.reports.output import display_width

COMMANDS = (["backends"], ["models", "--backend", "openai"], ["config"], ["list"])


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_is_cut_by_the_terminal(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch, command: list[str], columns: int
) -> None:
    """Lines wrap at words; a table without the room is a list of heads and values. Only what cannot
    be broken, such as an address, or is to be copied, is longer. A pipe gets the table."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = at_terminal(monkeypatch, "", *command)
    shown = done.stdout + done.stderr
    assert shown
    for line in shown.splitlines():
        whole = len(line.split()) == 1 or line.startswith("ftg ")  # to be copied
        assert display_width(line) <= columns or whole, line
    if command == ["models", "--backend", "openai"]:
        assert "\nMODEL " in shown and "HOST    MODEL" in ftg(*command).stdout


@pytest.mark.parametrize("columns", [80, 60])
def test_methods_are_listed_where_they_differ(
    home: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Jobs of one method have no column for it; it fits into 80 columns, and into 60."""
    monkeypatch.setenv("COLUMNS", str(columns))
    gateway, model = Gateway(), "acme/a-model-with-a-long-name-of-its-own"
    gateway.submit(chat_rows(12), model=model, backend="fake")
    assert "METHOD" not in at_terminal(monkeypatch, "", "list").stdout
    gateway.submit(pair_rows(12), model=model, backend="fake", method="dpo")
    shown = at_terminal(monkeypatch, "", "list").stdout.splitlines()
    assert shown[0].split()[:3] == ["JOB", "STATUS", "METHOD"]
    assert [line.split()[2] for line in shown[1:3]] == ["dpo", "sft"]
    assert max(map(display_width, shown)) <= columns
