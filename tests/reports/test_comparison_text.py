"""A comparison in the terminal and as Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.comparisons import HOSTILE, comparison

from finetune_gateway.evaluation.results import Verdict
from finetune_gateway.reports.comparison_markdown import comparison_markdown
from finetune_gateway.reports.comparison_text import comparison_text
from finetune_gateway.reports.output import display_width

LONG = "Model A is better than B by 11 points (4 to 19), and costs less. " * 9


@pytest.mark.parametrize("columns", [80, 60, 40])
@pytest.mark.parametrize("explain", [False, True])
def test_the_answer_fits_the_screen(
    columns: int, explain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six lines at 80 columns, whatever the verdict's length; no line is wider than the terminal
    but what can't be broken, and the command to copy."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for verdict in (comparison(tmp_path).data.verdict, Verdict(text=LONG, measure="exact_match")):
        data = comparison(tmp_path, verdict=verdict).data
        text = comparison_text(data, explain=explain)
        lines = text.splitlines()
        for line in lines:
            is_command = line.startswith("  ftg ")
            assert display_width(line) <= columns or len(line.split()) <= 2 or is_command, line
        assert lines[0].startswith(verdict.text[:20])
        assert ("--explain" in text) != explain  # no hint at what is shown
        assert "2 left out" in text and "failed" in text
        assert explain or columns < 80 or len(lines) <= 6


def test_no_name_stands_without_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all models have room, the list ends behind a figure."""
    data = comparison(tmp_path, verdict=Verdict(text=LONG, measure="exact_match")).data
    cut = 0
    for columns in range(40, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = re.search(r"(?ms)^exact match: (.*?),\s+\.\.\.$", comparison_text(data))
        assert not shown or shown[1].endswith("%"), (columns, shown[1])
        cut += bool(shown)
    assert cut


def test_explain_has_every_figure(tmp_path: Path) -> None:
    """Intervals with the rows they count, standing, reasons, cost, speed, the judge, the command; a
    figure that is not there is said, and is no 0."""
    data = comparison(tmp_path).data
    text = " ".join(comparison_text(data, explain=True).split())
    for said in (
        "A 95% (79 to 100%), 38 rows of 20 conversations, better than C, E",
        "2 not scored: the host answered 429",
        "B a host tells no loss of a text that is given",
        "can't tell: A from B",
        "training, actual: B $1.31",
        "per 1,000 answers: B, C, D $0.21",
        "both orders agree: 83%",
        "is cheaper than openai",
        data.command,
    ):
        assert said in text, said


def test_names_steer_neither_terminal_nor_markdown(tmp_path: Path) -> None:
    """Marks of direction are escaped on the screen; in Markdown markup is text, a table stays
    one."""
    plain = comparison(tmp_path, rows=4, models=2).data
    first = plain.models[0].model_copy(update={"title": f"a|b\n{HOSTILE}"})
    data = plain.model_copy(update={"models": [first, plain.models[1]]})
    text = comparison_text(data, explain=True)
    assert "\u202e" not in text and "\\u202e" in text
    written = comparison_markdown(data)
    assert "\u202e" not in written and "\\<script\\>" in written
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert rows and all(line.replace("\\|", "").count("|") == 4 for line in rows)
