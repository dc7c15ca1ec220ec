"""A comparison in the terminal and as Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.comparisons import HOSTILE, comparison

from finetune_gateway.evaluation.results import NOT_RECORDED, PAIRS, Measure, Verdict
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


def test_figures_of_the_verdict_leave_room_for_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand on the next line anyway; which is better, and how many rows would do, do not."""
    monkeypatch.setenv("COLUMNS", "80")
    most = "Can't tell which is best by exact match"
    figures = ", ".join(f"{name * 20} 95% (79 to 100%, n 38 in 20 conversations)" for name in "ABC")
    found = " A is better than C (+80 points, 60 to 94). About 1,240 rows would do."
    verdict = Verdict(
        text=f"{most}: {figures}.{found}", short=f"{most}.{found}", measure="exact_match"
    )
    data = comparison(tmp_path, verdict=verdict).data
    text = " ".join(comparison_text(data).split())
    assert text.startswith(verdict.short) and len(comparison_text(data).splitlines()) <= 6
    assert " ".join(comparison_text(data, explain=True).split()).startswith(verdict.text)
    room = verdict.model_copy(update={"text": f"{most}: A 95%, B 94%.{found}"})
    data = data.model_copy(update={"verdict": room})
    assert " ".join(comparison_text(data).split()).startswith(room.text)


def test_what_a_recording_lacks_is_no_failed_request(tmp_path: Path) -> None:
    """Nothing was sent for it."""
    data = comparison(tmp_path).data
    for key, figures in data.answers.items():
        lacks = {"errors": 17, "error_kinds": {NOT_RECORDED: 17}}
        data.answers[key] = figures.model_copy(update=lacks)
        break
    others = sum(one.errors for one in data.answers.values()) - 17
    text = " ".join(comparison_text(data).split())
    assert f", {others} requests failed, 17 answers not recorded" in text
    told = " ".join(comparison_text(data, explain=True).split())
    assert "questions are not in the recording, and count in no figure" in told
    assert "17 requests" not in told


def test_no_name_stands_without_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all models have room, the list ends behind a figure."""
    data = comparison(tmp_path, verdict=Verdict(text=LONG, measure="exact_match")).data
    cut = 0
    for columns in range(40, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = re.search(r"(?ms)^exact match: (.*?),\s+\.\.\.$", comparison_text(data))
        assert not shown or shown[1].endswith("%)"), (columns, shown[1])
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


def test_a_judge_compares_pairs_and_is_said_to_be_at_one_place(tmp_path: Path) -> None:
    """220 pairs of 44 rows are no 220 rows, and a title may name the host already."""
    data = comparison(tmp_path).data
    assert data.judge is not None
    named = {"model": "judge-9 at localhost:8915", "host": "localhost:8915"}
    judge = data.judge.model_copy(update=named)
    wins = Measure(name=PAIRS, title="Preferred by the judge", share=True)
    data = data.model_copy(update={"judge": judge, "measures": [*data.measures, wins]})
    data.figures[PAIRS] = data.figures["exact_match"]
    text = " ".join(comparison_text(data, explain=True).split())
    assert "38 pairs of 20 conversations" in text and "38 rows of 20 conversations" in text
    assert text.count("localhost:8915") == 1
