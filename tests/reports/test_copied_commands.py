"""Commands that a screen gives to copy, in terminals that are narrower than they are."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from support.cli import Ftg, at_terminal

from finetune_gateway.reports.output import display_width, fold

PATH = "a folder with a long name/and, in it. Another/the rows of december, cleaned.jsonl"
SCREENS = {
    "advise": (),
    "validate": (),
    "estimate": ("--model", "gpt-9"),
    "submit": ("--model", "gpt-4.1-mini-2025-04-14", "--backend", "openai"),
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_command_stays_on_one_line(
    name: str, ftg: Ftg, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, with the long path of its file, at 80 and at 60 columns; the rest is wrapped."""
    monkeypatch.chdir(train_file.parent)
    data = Path(PATH)
    data.parent.mkdir(parents=True)
    rows = train_file.read_text()
    if name == "advise":  # it names a command from 50 different rows on
        texts = [(f"Where is parcel {n}?", f"It comes on day {n * 7}.") for n in range(60)]
        rows = "".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in texts)
    data.write_text('{"messages": []}\n' * 12 if name == "submit" else rows)

    def lines(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        done = at_terminal(monkeypatch, "", name, PATH, *SCREENS[name])
        return f"{done.stdout}\n{done.stderr}".splitlines()

    meant = (
        shlex.quote(PATH) if name != "estimate" else "gpt-9 --unit train_mtok --usd USD --source"
    )
    [command] = {
        found[0]
        for line in lines(1000)
        if (found := re.search(rf"ftg [a-z ]+.*{re.escape(meant)}[a-z0-9 .-]*\w", line))
    }
    for columns in (80, 60):
        shown = lines(columns)
        assert any(command in line for line in shown), shown
        for line in shown:
            assert display_width(line) <= columns or command in line or PATH in line, line


def test_prose_around_commands_is_wrapped_and_names_stay_whole() -> None:
    """A command ends where its sentence does; a name of two words in a list is not torn apart."""
    said = "See your jobs: ftg list. To try a base model: ftg chat builtin/tiny. Others: ftg models"
    assert fold(f"hint:  {said}", 50).splitlines() == [
        "hint:  See your jobs: ftg list. To try a base",
        "       model: ftg chat builtin/tiny. Others:",
        "       ftg models",
    ]
    known = "Known: RTX 3060, T4, V100-32GB, RTX 4080, Quadro RTX 6000, H100 PCIe."
    for width in range(40, 60):
        shown = fold(f"hint:  {known}", width)
        assert "RTX 4080" in shown and "Quadro RTX 6000" in shown and "H100 PCIe" in shown
        assert max(map(len, shown.splitlines())) <= width
