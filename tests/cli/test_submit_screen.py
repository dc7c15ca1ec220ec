"""What submit says and offers in a terminal, and the bar while a base model is built or fetched."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from support.cli import Ftg, Terminal, at_terminal
from support.paths import DEMO_TRAIN
from support.records import record

import finetune_gateway as gateway
from finetune_gateway.backends.fake import FakeBackend
from finetune_gateway.backends.local import hub
from finetune_gateway.backends.local.builtin import ABOUT
from finetune_gateway.cli.watch import follow
from finetune_gateway.events import Event, JobStatus, Snapshot
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.job_text import job_list_text, phase_share
from finetune_gateway.reports.live import View
from finetune_gateway.spec import TrainingSpec

DATA = str(DEMO_TRAIN)
HOSTED = "gpt-4.1-mini-2025-04-14"
FAKE = ("submit", DATA, "--model", "m", "--backend", "fake")


# -- submit ------------------------------------------------------------------------------------


def test_submit_offers_to_watch(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty line is a yes, and the exit code that of watch; a no names the command."""
    done = at_terminal(monkeypatch, "n\n", *FAKE)
    assert done.returncode == 0 and done.stderr.count("Watch it now? [Y/n]") == 1
    assert "It runs on this machine" in done.stderr and "Next: ftg watch ftg-" in done.stderr
    done = at_terminal(monkeypatch, "\n", *FAKE, "--again")
    assert done.returncode == 0 and "succeeded" in done.stdout and "Next: ftg chat" in done.stderr


@pytest.mark.parametrize("flag", ["--yes", "--json", "--quiet", "--wait", "--dry-run"])
def test_submit_asks_nothing_where_nobody_may_answer(
    flag: str, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Watch it now?" not in at_terminal(monkeypatch, "", *FAKE, flag).stderr


def test_submit_asks_nothing_in_a_pipe(ftg: Ftg) -> None:
    done = ftg(*FAKE)
    assert "Watch" not in done.stderr and "Next: ftg watch" in done.stderr


def test_submit_says_each_date_once(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day after which no job is taken, and that on which the model stops answering."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    said = ftg("submit", DATA, "--model", HOSTED, "--dry-run").stderr
    assert said.count("2027-01-05") == said.count("2027-01-14") == 1


@pytest.mark.usefixtures("tiny_at_home")
def test_the_built_in_model_is_called_a_toy(ftg: Ftg) -> None:
    said = ftg("submit", DATA, "--model", "builtin/tiny", "--dry-run").stderr
    assert f"{ABOUT} It is built first, in about a minute." in " ".join(said.split())
    shown = ftg("estimate", DATA, "--model", "builtin/tiny", "--explain").stdout
    assert "without the minute that it takes to build this model" in " ".join(shown.split())


def test_ctrl_c_at_the_question_sends_nothing(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so, below the question."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    done = at_terminal(monkeypatch, "", "submit", DATA, "--model", HOSTED, ctrl_c=True)
    assert done.returncode == 130
    said = re.sub(r"\x1b\[\d*m", "", done.stderr)
    assert "Proceed? [y/N] \nerror: Interrupted.\nhint:  Nothing was sent.\n" in said


# -- what is done before the first step --------------------------------------------------------


class Building(FakeBackend):
    """Builds a model in its first three polls."""

    polls = 0

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Return one more step of the phase, then what the fake plays."""
        self.polls += 1
        if self.polls > 3:
            return super().poll(provider_id, cursor)
        time.sleep(0.05)
        phase = f"building a model: step {self.polls} of 4, loss 2.10"
        return Snapshot(status=JobStatus.RUNNING, phase=phase)


def test_a_wait_in_a_terminal_has_a_bar(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the base is built, and it is gone when the events come; none with --quiet."""
    job = gateway.submit(DATA, model="m", backend=Building())
    err = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", err)
        patch.setenv("TERM", "xterm")
        follow(job)
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err.getvalue())
        assert re.search(r"building a model ━*\S* +75%", shown), shown
        assert "step 1 of 4" not in shown and "\x1b[2K" in err.getvalue()
        quiet = Terminal()
        patch.setattr(sys, "stderr", quiet)
        follow(gateway.submit(DATA, model="m", backend=Building(), again=True), quiet=True)
    assert quiet.getvalue() == ""


def screen(phase: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What watch shows of a job in this phase, and of its first losses without one."""
    monkeypatch.setenv("COLUMNS", str(columns))
    job = Job(record(status=JobStatus.RUNNING, phase=phase), *cast(Any, (None, None, None)))
    view = View(job)
    for step in () if phase else range(1, 40):
        data = {"step": step, "total_steps": 100, "epoch": 1.0, "train_loss": 2 / step}
        view.add(Event(id=str(step), created_at=step, type="metrics", data=data))
    console = Console(width=columns, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return captured.get().splitlines()


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_the_screen_shows_how_much_of_the_base_is_there(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar and a share for a base that is built or fetched; a narrow screen breaks no figure."""
    text = " ".join(screen("downloading acme/x: 30 of 40 MB", columns, monkeypatch))
    assert (
        "(downloading acme/x)" in " ".join(text.split()) and "75%" in text and "of 40" not in text
    )
    lines = screen("", columns, monkeypatch)
    assert max(map(len, map(str.rstrip, lines))) <= columns
    assert any("step 39/100" in line for line in lines), lines
    assert any("train_loss" in line and "2 → 0.0513" in line for line in lines), lines


def test_a_share_is_read_from_a_phase() -> None:
    assert phase_share("building builtin/tiny: step 25 of 100, loss 4.1") == (
        "building builtin/tiny",
        0.25,
    )
    for phase in ("", "training", "downloading a: 0 of 0 MB", "saving: 3 of", "a 1 of 2"):
        assert phase_share(phase) is None


def test_a_download_says_how_far_it_is() -> None:
    """As the hub's client counts: files, bytes of the network, bytes on the disk."""
    said: list[str] = []
    bar = hub.reporting_bar("acme/x", said.append)
    disk = bar(desc="Reconstructing", total=0, unit="B")
    disk.total += 80_000_000
    for other in (bar(desc="Downloading bytes", total=9, unit="B"), bar(total=2, unit="it")):
        other.update(1)
    disk.update(20_000_000)
    disk.update(1)  # not a second later
    assert said == ["downloading acme/x: 20 of 80 MB"]


@pytest.mark.parametrize("columns", [60, 40])
def test_a_list_fits_a_narrow_screen(
    columns: int, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the job, its status and its age or its cost; the wide one has every column."""
    job = ftg(*FAKE, "-q").stdout.strip()
    assert "DATA" in ftg("list").stdout
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, last in ((("list",), "CREATED"), (("list", "--costs"), "ACTUAL")):
        head, row = ftg(*words).stdout.splitlines()
        assert len(head) <= columns and len(row) <= columns and last in head and job in row


def test_a_list_tells_methods_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs on one model: in a column, which a list of one method has not."""
    monkeypatch.setenv("COLUMNS", "80")
    specs = [TrainingSpec(model="acme/x"), TrainingSpec(model="acme/x", method="dpo")]
    head, *rows = job_list_text([record(spec=spec) for spec in specs]).splitlines()
    assert head.split()[2] == "METHOD" and [row.split()[2] for row in rows] == ["sft", "dpo"]
    assert "METHOD" not in job_list_text([record(spec=specs[1])])
