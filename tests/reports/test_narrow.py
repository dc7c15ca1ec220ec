"""What a result looks like in a terminal that is narrower than it."""

from __future__ import annotations

import pytest
from support.cli import Ftg, at_terminal

from finetune_gateway.reports.output import display_width

COMMANDS = (["backends"], ["models", "--backend", "openai"], ["config"], ["list"])


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_is_cut_by_the_terminal(
    ftg: Ftg, monkeypatch: pytest.MonkeyPatch, command: list[str], columns: int
) -> None:
    """Lines wrap at words; a table without the room is a list of heads and values. Only what cannot
    be broken, such as an address, is longer. A pipe gets the table."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = at_terminal(monkeypatch, "", *command)
    shown = done.stdout + done.stderr
    assert shown
    for line in shown.splitlines():
        assert display_width(line) <= columns or len(line.split()) == 1, line
    if command == ["models", "--backend", "openai"]:
        assert "\nMODEL " in shown and "HOST    MODEL" in ftg(*command).stdout
