"""The picture of a job: ``ftg metrics --plot`` in the terminal, ``--html`` and ``job.to_html`` as a
page. The losses are those of a real run of ``ftg demo``."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from support.browser import Browser
from support.cli import Ftg, process

from finetune_gateway import FakeBackend, Gateway, Job
from finetune_gateway.errors import SpecError
from finetune_gateway.events import Event, Metric
from finetune_gateway.reports.charts import Axis, Bins, Chart, Line, linear_axis
from finetune_gateway.reports.job_history_text import plot_text
from finetune_gateway.reports.job_page import page
from finetune_gateway.reports.loss_chart import lowest_text, series, span_text

LOSSES = Path(__file__).parents[1] / "support" / "data" / "demo_losses.csv"
NASTY = "<script>alert(1)</script> jane.doe@example.com"


def real_losses() -> list[dict[str, Any]]:
    """The losses of 204 steps and 11 evaluations of builtin/tiny."""
    with LOSSES.open(encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            | {"step": int(row["step"]), "total_steps": 204}
            for row in csv.DictReader(file)
        ]


def job_with(
    home: Path, losses: list[dict[str, Any]], status: str = "succeeded", **more: Any
) -> Job:
    """A job that has reported these metrics, and two messages."""
    said = [Event(id="a", created_at=1.0, message="Training starts.")]
    said += [
        Event(id=f"m{at}", created_at=2.0, type="metrics", data=one)
        for at, one in enumerate(losses)
    ]
    said += [Event(id="z", created_at=3.0, level="warn", message=f"Beware: {NASTY}")]
    end = {"status": status, "job_id": None, "events": said, "cursor": "1", **more}
    if status == "succeeded":
        end["result"] = {"kind": "hosted", "model": "m"}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i}?"},
                {"role": "assistant", "content": "Yes."},
            ]
        }
        for i in range(12)
    ]
    job = Gateway(home).submit(rows, model="gpt-4.1-mini-2025-04-14", backend=FakeBackend([end]))
    return job.wait()


# -- in the terminal -----------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_the_chart_is_as_wide_as_the_terminal(
    columns: int, ftg: Ftg, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both losses with their figures, round figures on both axes, the log scale said, no colour."""
    job_with(Path(env["FTG_HOME"]), real_losses())
    monkeypatch.setenv("COLUMNS", str(columns))
    env["COLUMNS"] = str(columns)
    done = ftg("metrics", "latest", "--plot")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert max(map(len, lines)) <= columns
    assert lines[0].endswith("loss by step, log scale")
    foot = next(line for line in lines if "└" in line)
    assert len(foot) == columns, "the axis reaches the edge"
    figures = re.findall(r"^ *([\d.]+) ┤", done.stdout, re.MULTILINE)
    assert {"2", "1", "0.5", "0.2", "0.1"} <= {*figures}
    steps = lines[lines.index(foot) + 1].split()
    assert steps[0] == "0" and {"100", "200"} <= {*steps}
    said = " ".join(done.stdout.split())
    assert "training 1.96 → 0.0687, lowest 0.065 at step 181" in said
    assert "validation 0.372 → 0.0867" in said
    assert sum(line.count("●") for line in lines[1:-4]) in (10, 11), "evaluations"


def test_the_curve_falls_where_the_loss_falls(home: Path) -> None:
    """The chart shows the values: of a line from 1 to 3 the first is at the foot, the last at the
    top, and each row in between is crossed."""
    rising = [Metric(step=at, train_loss=1 + at / 50) for at in range(101)]
    rows = [
        line for line in plot_text("j", rising, "utf-8").splitlines() if "┤" in line or "│" in line
    ]
    places = [[at for at, one in enumerate(row) if one >= "\u2800" and one != "●"] for row in rows]
    assert all(places) and [min(row) for row in places] == sorted(
        (min(row) for row in places), reverse=True
    )
    assert max(places[0]) == 79 and min(places[-1]) == rows[-1].index("┤") + 1


def test_ascii_where_the_stream_has_nothing_else(env: dict[str, str], tmp_path: Path) -> None:
    """Of a stream in ASCII no character is replaced or escaped; block characters are in UTF-8."""
    job_with(Path(env["FTG_HOME"]), real_losses())
    plain = process(
        env | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, "metrics", "latest", "--plot"
    )
    assert plain.returncode == 0 and plain.stdout.isascii() and "\\u" not in plain.stdout
    assert "** training" in plain.stdout and "1.96 to 0.0687" in plain.stdout
    assert re.search(r"^ 0\.1 \+ +\*", plain.stdout, re.MULTILINE)


def test_few_or_odd_losses_are_drawn_too(home: Path) -> None:
    """One point, equal values, zeros, a negative loss, validation alone; no loss is a sentence."""
    for metrics in (
        [Metric(step=1, train_loss=0.5)],
        [Metric(step=1, train_loss=0.0), Metric(step=2, train_loss=0.0)],
        [Metric(step=1, train_loss=-0.5), Metric(step=900, train_loss=-4.0)],
        [Metric(step=1, valid_loss=1.0), Metric(step=2, valid_loss=float("nan"))],
        [Metric(step=7, train_loss=1e-9), Metric(step=9, train_loss=4e3)],
    ):
        lines = plot_text("job", metrics, "utf-8").splitlines()
        assert len(lines) > 15 and max(map(len, lines)) <= 80
    assert plot_text("job", [Metric(step=1)], "utf-8") == ""


def test_many_evaluations_leave_the_training_loss_in_sight(home: Path) -> None:
    """Hosts report both at each step: some of them are dots, the latest is one; where it stands
    is said while the job runs."""
    both = [
        Metric(step=at, total_steps=900, train_loss=1.0, valid_loss=1.0) for at in range(1, 601)
    ]
    lines = plot_text("job", both, "utf-8").splitlines()
    assert lines[0] == "job  loss by step, step 600 of 900"
    row = next(line for line in lines if "●" in line)
    assert row.endswith("●") and 30 < row.count("●") < 45
    assert sum(one > "\u2800" for one in row) > 30


def test_nothing_to_draw_is_said(ftg: Ftg, env: dict[str, str]) -> None:
    """A job without losses, and two forms at once."""
    job_with(Path(env["FTG_HOME"]), [{"step": 1, "learning_rate": 0.1}])
    done = ftg("metrics", "latest", "--plot")
    assert (done.returncode, done.stdout) == (0, "") and done.stderr == "No losses.\n"
    done = ftg("metrics", "latest", "--plot", "--csv")
    assert done.returncode == SpecError.exit_code and "--plot, --csv and --json" in done.stderr


def test_losses_in_words(home: Path) -> None:
    """From where to where, the lowest unless it is the last; no number is no loss."""
    assert (
        span_text([(1, 1.957), (9, 0.0687)]) == "1.96 → 0.0687" and span_text([(1, 0.5)]) == "0.5"
    )
    assert lowest_text([(1, 3.0), (5, 0.25), (9, 0.5)]) == "lowest 0.25 at step 5"
    assert lowest_text([(1, 3.0), (8, 0.4999), (9, 0.5)]) == ""
    # As far apart as the line on the result says them.
    assert lowest_text([(9, 0.48), (81, 0.146), (96, 0.155)]) == "lowest 0.146 at step 81"
    assert series([Metric(step=1, train_loss=float("inf"))], "train_loss") == []


# -- as a page -----------------------------------------------------------------------------


def test_the_page_of_a_job(ftg: Ftg, env: dict[str, str], tmp_path: Path, tab: Browser) -> None:
    """In a browser, wide and narrow, light and dark: the answer first, the chart of that width,
    nothing beyond the edge; what it rests on is folded, and opens; texts are masked and inert."""
    job = job_with(Path(env["FTG_HOME"]), real_losses())
    out = tmp_path / "job.html"
    done = ftg("metrics", job.id, "--html", str(out))
    assert (done.returncode, done.stdout) == (0, "") and f"Wrote {out}." in done.stderr
    for width, kind in ((1280, "wide"), (360, "narrow")):
        tab.open(out, width=width, dark=width == 360)
        assert tab.js("document.documentElement.scrollWidth") == width
        drawn = "[...document.querySelectorAll('svg')].filter(e => e.getClientRects().length)"
        assert tab.js(f"{drawn}.map(e => e.classList[0])") == [kind]
        assert tab.js("[...document.querySelectorAll('details')].some(e => e.open)") is False
    seen = tab.js("document.body.innerText")
    assert seen.index("1.96 → 0.0687") < seen.index("The job") and "loss, log scale" in seen
    assert "gpt-4.1-mini-2025-04-14" in seen and "Beware: <script>" in seen
    assert "jane.doe@example.com" not in out.read_text(encoding="utf-8")
    assert "Training starts." not in seen
    tab.click("details:last-of-type summary")
    assert "Training starts." in tab.js("document.body.innerText")
    tab.js("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.js("document.documentElement.scrollWidth") == 360
    assert tab.said == []


def test_the_page_of_a_failed_job(home: Path, tmp_path: Path) -> None:
    """Its reason comes first; a file that is not a page of ours is kept unless ``force``."""
    job = job_with(home, [], "failed", error="Out of memory: <b>8 GiB</b> are not there.")
    out = tmp_path / "job.html"
    job.to_html(out)
    html = out.read_text(encoding="utf-8")
    assert f"{job.id} failed" in html and "No losses were reported." in html
    assert html.index("Out of memory: &lt;b&gt;") < html.index("<h2>Loss")
    job.to_html(out)  # a page of ours
    out.write_text("mine")
    with pytest.raises(SpecError, match="not a page of ours"):
        job.to_html(out)
    job.to_html(out, force=True)
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("dpo", "Not compared yet: ftg compare base:{id} {id}<"),
        ("pretrain", "ftg compare base:{id} {id} --data PROMPTS.jsonl"),
        ("reward", "ftg chat {id} &lt; FILE.jsonl"),
    ],
)
def test_what_comes_next_is_what_the_model_can(home: Path, method: str, said: str) -> None:
    """A reward model answers nothing; texts ask nothing."""
    job = job_with(home, [])
    job.record = job.record.model_copy(
        update={"spec": job.record.spec.model_copy(update={"method": method})}
    )
    assert said.format(id=job.id) in page(job)


# -- charts --------------------------------------------------------------------------------


def test_lines_that_coincide_are_named_together() -> None:
    """Two lines on the same pixels are one key; one that leaves them, or ends earlier, is not."""
    axis = Axis("x", 0, 100)
    line = Line("a", [(0, 0), (100, 100)], 0)
    same = Line("b", [(0, 0.1), (40, 40), (100, 100)], 1)
    apart = Line("c", [(0, 0), (40, 60), (100, 100)], 2)
    short = Line("d", [(0, 0), (50, 50)], 3)
    keys = Chart(axis, axis, "chart", [line, same, apart, short]).keys
    assert [(key.name, [*key.colors]) for key in keys] == [
        ("a and b (the same line)", [0, 1]), ("c", [2]), ("d", [3]),
    ]  # fmt: skip


def test_axes_say_when_they_are_logarithmic() -> None:
    """Columns that span more and more are; so is a loss that falls far, and only that."""
    assert Bins("tokens", [(1, 1, 5), (2, 3, 1)]).title == "tokens, log scale"
    assert Bins("tokens", [(1, 2, 5), (3, 4, 1)]).title == "tokens"
    assert Axis("loss", 1, 9, log=True).title == "loss, log scale"
    for first, last, log in ((1.2, 0.9, False), (2.0, 0.1, True)):
        metrics = [Metric(step=1, train_loss=first), Metric(step=2, train_loss=last)]
        assert ("log scale" in plot_text("j", metrics, "utf-8")) is log


@pytest.mark.parametrize(
    ("values", "ends"), [([1.2, 0.93], (0.9, 1.2)), ([0.5], (0.2, 0.8)), ([0.0], (0.0, 1.0))]
)
def test_a_linear_axis_ends_at_round_figures(
    values: list[float], ends: tuple[float, float]
) -> None:
    """Close around its values, with figures between whole numbers."""
    axis = linear_axis("loss", values)
    assert (axis.low, axis.high) == pytest.approx(ends)
    figures = [figure for _, figure in axis.ticks(8)]
    assert len(figures) >= 2 and all(len(figure) <= 4 for figure in figures)
