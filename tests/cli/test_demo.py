"""ftg demo: one whole run as a user starts it, and the parts that judge and draw."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html import escape
from pathlib import Path
from typing import Any

import pytest
from support.modes import umask, wide

from finetune_gateway.backends.local import builtin
from finetune_gateway.cli.demo.answers import (
    Answer,
    Question,
    find_fault,
    guide_text,
    load_questions,
    pick_samples,
)
from finetune_gateway.cli.demo.command import break_rows
from finetune_gateway.cli.demo.screen import event_line, side_by_side
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.prompts import prompt_of
from finetune_gateway.evaluation.row_matching import matches
from finetune_gateway.events import Event, Metric
from finetune_gateway.reports.layout import fragment
from finetune_gateway.reports.loss_chart import loss_chart, series

GOOD = {"intent": "refund", "urgency": "low", "reply": "We paid it back."}


def ftg(folder: Path, *args: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "FTG_HOME"} | {"COLUMNS": "80"}
    if home:
        env["FTG_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "finetune_gateway", *args],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=590,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_teaches_a_model(tmp_path: Path) -> None:
    """From nothing: the faults are found, few answers are as taught before and at least 90 %
    after, the losses fall, and the page and the job are there for other commands."""
    with umask(0):
        done = ftg(tmp_path, "demo", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert wide(Path(found["paths"]["home"])) == {}
    assert found["data"]["ok"] and found["data"]["rows"] == 270
    assert [(fault["line"], fault["code"]) for fault in found["faults"]] == [
        (7, "no_assistant"),
        (12, "json_truncated"),
    ]
    assert all(fault["message"] and fault["fix"] for fault in found["faults"])
    assert found["options"][-1]["model"] == builtin.NAME
    assert found["before"]["prompts"] == found["after"]["prompts"] == 36
    assert found["before"]["share"] < 0.1 and found["after"]["share"] >= 0.9
    assert found["after"]["intents_right"] >= 27
    assert found["training"]["seconds_per_step"] > 0
    for name in ("train_loss", "valid_loss"):
        assert found["training"][name]["last"] < found["training"][name]["first"] / 2

    home = tmp_path / "demo-output" / "home"
    paths = {name: Path(path) for name, path in found["paths"].items()}
    assert paths["home"] == home
    assert (paths["run"] / "events.jsonl").is_file()
    assert (paths["model"] / "manifest.json").is_file()
    assert_compared(found["comparison"], paths["report"].read_text("utf-8"))
    for one in found["answers"]:
        assert one["before"] != one["after"]
    # What happens is printed beside the document, in 80 columns except for words that are longer.
    for number in range(1, 7):
        assert f"[{number}/6]" in done.stderr
    assert "step  20/204" in done.stderr
    assert [line for line in done.stderr.splitlines() if len(line) > 80 and "/" not in line] == []
    listed = json.loads(ftg(tmp_path, "list", "--json", home=home).stdout)
    assert [(job["id"], job["status"]) for job in listed] == [
        (found["training"]["job"], "succeeded")
    ]


def assert_compared(data: dict[str, Any], html: str) -> None:
    """The fine-tuned model is better than its base in what it was taught, beyond chance; the page
    has the verdict, the check, and the losses."""
    keys = {model["variant"]: model["key"] for model in data["models"]}
    assert keys.keys() == {"base", "few-shot", "tuned"}
    checked = data["figures"]["check:as-taught"]
    assert checked[keys["tuned"]]["interval"]["low"] > checked[keys["base"]]["interval"]["high"]
    assert data["verdict"]["decided"] and data["verdict"]["best"] == [keys["tuned"]]
    assert escape(data["verdict"]["text"], quote=False).split(". ")[0] in html
    assert "as-taught" in html and 'class="line series-2"' in html


def test_a_folder_that_cannot_be_made_is_told_before_anything_runs(tmp_path: Path) -> None:
    """A file is in the way: exit 2, what to do, no traceback."""
    (tmp_path / "taken").write_text("")
    done = ftg(tmp_path, "demo", "--out", "taken")
    assert done.returncode == 2
    assert "taken" in done.stderr and "--out" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_answer_as_taught_has_no_fault() -> None:
    """One object, its three keys in any order, allowed values."""
    assert find_fault(json.dumps(GOOD)) == ""
    assert find_fault(json.dumps(dict(reversed(GOOD.items())), indent=1)) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "We paid it back.",
        json.dumps(GOOD) + " Anything else?",
        json.dumps([GOOD]),
        json.dumps(GOOD)[:-1],
        json.dumps({**GOOD, "more": 1}),
        json.dumps({k: v for k, v in GOOD.items() if k != "reply"}),
        json.dumps(GOOD)[:-1] + ', "reply": "twice"}',
        json.dumps({**GOOD, "intent": "weather"}),
        json.dumps({**GOOD, "intent": ["refund"]}),
        json.dumps({**GOOD, "urgency": "medium"}),
        json.dumps({**GOOD, "reply": " "}),
        json.dumps({**GOOD, "reply": 3}),
    ],
)
def test_any_other_answer_has_a_fault(text: str) -> None:
    """Prose, text around the object, keys that are missing, more or twice, other values."""
    assert find_fault(text)


def test_no_held_out_row_repeats_a_taught_one() -> None:
    """Nearly either: a comparison would not ask it."""
    rows = [json.loads(line) for line in builtin.demo_path("held_out").read_text().splitlines()]
    prompts = [prompt_of(row, line) for line, row in enumerate(rows, 1)]
    asked = [one for one in prompts if one is not None]
    assert len(asked) == 36
    for name in ("train", "validation"):
        assert matches(asked, builtin.demo_path(name)) == {}


def test_the_held_out_rows_are_as_taught() -> None:
    """The check agrees with the data, and the intents shown are different ones."""
    rows = builtin.demo_path("held_out").read_text("utf-8").splitlines()
    assert [find_fault(json.loads(row)["messages"][-1]["content"]) for row in rows] == [""] * 36
    asked = load_questions()
    assert len({asked[place].intent for place in pick_samples(asked, 3)}) == 3


def test_the_guide_agrees_with_the_check() -> None:
    """The behaviour guide that the comparison runs has the keys and values of the data."""
    (check,) = Guide.loads(guide_text()).checks
    assert check.name == "as-taught"
    assert all(word in guide_text() for word in ("intent", "urgency", "reply", "high"))


def test_a_right_answer_needs_the_intent_too() -> None:
    """As taught, but another intent, is not right; a fault never is."""
    question = Question("Where is my money?", "refund")
    assert Answer(question, json.dumps(GOOD), "").right
    assert not Answer(question, json.dumps({**GOOD, "intent": "invoice"}), "").right
    assert not Answer(question, "no JSON", "not one JSON object").right


def test_two_faults_are_planted() -> None:
    """Of the broken copy two lines differ: one ends with the customer, one is no JSON."""
    text = builtin.demo_path("train").read_text("utf-8")
    pairs = list(zip(text.splitlines(), break_rows(text).splitlines(), strict=True))
    assert [number for number, (a, b) in enumerate(pairs, 1) if a != b] == [7, 12]
    assert json.loads(pairs[6][1])["messages"][-1]["role"] == "user"
    with pytest.raises(ValueError):
        json.loads(pairs[11][1])


def test_answers_stand_side_by_side_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both columns are wrapped, whichever is longer."""
    monkeypatch.setenv("COLUMNS", "80")
    question = Question("A question " * 12, "refund")
    text = side_by_side(
        Answer(question, "prose " * 30, "x"), Answer(question, json.dumps(GOOD), "")
    )
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"before +after\n +prose .* {2}\{", text)


def test_one_line_for_an_evaluation_none_for_a_step() -> None:
    """Without a screen, steps are silent; an evaluation brings both losses."""
    step = {"step": 20, "total_steps": 204}
    assert event_line(Event(id="a", type="metrics", data={**step, "train_loss": 1.0}), [1.0]) == ""
    line = event_line(Event(id="b", type="metrics", data={**step, "valid_loss": 0.5}), [2.0, 1.0])
    assert line.split() == ["step", "20/204", "train_loss", "1.000", "valid_loss", "0.500"]
    assert event_line(Event(id="c", message="Training begins."), []).strip() == "Training begins."


METRICS = [
    Metric(step=step, train_loss=2 / step, valid_loss=None if step % 4 else 1.5 / step)
    for step in range(1, 41)
]


def drawings(metrics: list[Metric]) -> dict[str, ET.Element]:
    """The chart of the losses as parsed SVG, for wide screens and narrow ones."""
    chart = loss_chart(metrics)
    assert chart is not None
    pictures = chart.pictures()
    return {one.kind: ET.fromstring(fragment("parts.html", "picture", one)) for one in pictures}


@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_both_curves_are_in_the_picture(kind: str) -> None:
    """Well-formed SVG; every point of both curves is there and inside the frame."""
    drawn = drawings(METRICS)[kind]
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    lines = [*drawn.iter("polyline")]
    for name, line in zip(("train_loss", "valid_loss"), lines, strict=True):
        pairs = [point.split(",") for point in line.attrib["points"].split()]
        places = [(float(x), float(y)) for x, y in pairs]
        assert len(places) == len(series(METRICS, name))
        assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
        assert [x for x, _ in places] == sorted(x for x, _ in places)
        assert [y for _, y in places] == sorted(y for _, y in places), "a falling loss"
    assert len([*drawn.iter("circle")]) == 10  # the validation losses
    words = {text.text for text in drawn.iter("text")}
    assert {"step", "loss, log scale", "0", "0.1", "1"} <= words


@pytest.mark.parametrize(
    "metrics",
    [
        [Metric(step=1, train_loss=0.5)],
        [Metric(step=1, train_loss=0.0), Metric(step=2, train_loss=0.0)],
        [Metric(step=1, valid_loss=1.0), Metric(step=2, valid_loss=1.0)],
        [Metric(step=1, train_loss=1e-9), Metric(step=900, train_loss=4e3)],
    ],
)
def test_odd_curves_are_drawn_too(metrics: list[Metric]) -> None:
    """One point, zeros, a flat line, a huge range."""
    for drawn in drawings(metrics).values():
        for line in drawn.iter():
            figures = f"{line.get('d')} {line.get('points')}"
            assert "nan" not in figures and "inf" not in figures


def test_no_losses_are_a_word() -> None:
    """A job without figures has no chart."""
    assert loss_chart([Metric(step=1)]) is None
