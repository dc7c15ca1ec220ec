"""Rows with something around them that programs wrote, and what is said of other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import Dataset

CHATS = chat_rows(12)
LINES = [json.dumps(row) for row in CHATS]


def written(folder: Path, text: str) -> Dataset:
    path = folder / "old.jsonl"
    path.write_text(text)
    return Dataset(path)


def in_cells(mark: str = "") -> str:
    quoted = (line.replace('"', '""') for line in LINES)
    return "".join(f'"{line}"{mark}\n' for line in quoted)


@pytest.mark.parametrize(
    "text",
    [
        in_cells(),
        in_cells(",,"),
        "".join(f"2026-11-02T10:00:00Z INFO {line}\n" for line in LINES),
        "".join(f"[10:00:00] {line}\n" for line in LINES),
        "".join(f"data: {line}\n\n" for line in LINES),
        "Here are 12 examples:\n\n```jsonl\n" + "\n".join(LINES) + "\n```\n\nMore, if you like.\n",
        "Two blocks.\n~~~\n" + "\n".join(LINES[:5]) + "\n~~~\nAnd\n~~~ json\n"
        + "\n".join(LINES[5:]) + "\n~~~\n",
        f"const rows = {json.dumps(CHATS, indent=2)};\n",
        f"export default {json.dumps(CHATS)};\n",
        "module.exports = [\n" + ",\n".join(LINES) + "\n];\n",
        "\n".join(LINES) + "\n" + "\0" * 512,
        "\n".join(LINES) + "\0\0\0\n",
        "\0\0" + "\n".join(LINES) + "\n",
    ],
    ids=["cells", "empty cells", "log", "times", "events", "block", "blocks", "script", "module",
         "rows of a script", "NULs", "NULs behind", "NULs before"],
)  # fmt: skip
def test_what_is_around_rows_is_taken_off(tmp_path: Path, text: str) -> None:
    """The report names --fix, and --fix writes each row as it is."""
    dataset = written(tmp_path, text)
    report = gateway.validate(dataset)
    assert not report.ok and any("--fix" in one.fix for one in report.errors)
    fixed = dataset.fix(tmp_path / "new.jsonl")
    assert [row.data for row in Dataset(tmp_path / "new.jsonl").rows()] == CHATS
    assert not fixed.unsafe and fixed.changed


def test_what_may_be_lost_stays(tmp_path: Path) -> None:
    """Prose without a block, a block that is not closed, half a row behind a time, NULs in a row,
    and both sides of a conflict are left for a person."""
    prose = "Note this.\n" + "\n".join(LINES)
    for text in (
        prose,
        "Note this.\n```\n" + "\n".join(LINES),
        f"10:00:00 {LINES[0][:-9]}\n",
        LINES[0].replace("parcel", "par\0cel") + "\n",
        f"<<<<<<< HEAD\n{LINES[0]}\n=======\n{LINES[1]}\n>>>>>>> other\n",
    ):
        fixed = written(tmp_path, text).fix(tmp_path / "new.jsonl", force=True)
        assert fixed.unsafe, text
    assert [one.finding.lines for one in fixed.unsafe if one.finding.code == "not_json"] == [
        [1, 3, 5]
    ]


def test_nan_is_null_where_it_is_not_sent(tmp_path: Path) -> None:
    """In a key beside the example; one that is a label, or in a message, is left."""
    nan = float("nan")
    row = {"prompt": "Where is it?", "completion": "Here.", "score": nan, "meta": {"at": [nan]}}
    kept = {**row, "score": None, "meta": {"at": [None]}}
    for given, expected in (
        (row, kept),
        ({**CHATS[0], "score": nan}, {**CHATS[0], "score": None}),
        ({**row, "label": nan}, None),
        ({"messages": [{**CHATS[0]["messages"][0], "weight": nan}]}, None),
        ({**row, "score": float("inf")}, None),
    ):
        dataset = written(tmp_path, json.dumps(given) + "\n")
        (finding,) = [one for one in gateway.validate(dataset).errors if one.code == "json_nan"]
        dataset.fix(tmp_path / "new.jsonl", force=True)
        text = (tmp_path / "new.jsonl").read_text()
        assert ("--fix" in finding.fix) == (expected is not None)
        assert (
            text == json.dumps(given) + "\n" if expected is None else json.loads(text) == expected
        )


@pytest.mark.parametrize(
    ("line", "words", "fix"),
    [
        ("<!DOCTYPE html>", "a web page", "Download the file itself again"),
        ("<<<<<<< HEAD", "a merge conflict in Git", "Choose one side"),
        ("=======", "a merge conflict in Git", "Choose one side"),
        ("];", "the end of an array", "--fix"),
    ],
)
def test_lines_of_other_files_are_named(tmp_path: Path, line: str, words: str, fix: str) -> None:
    """What a line is, and what to do about it."""
    report = gateway.validate(written(tmp_path, f"{line}\n{LINES[0]}\n"))
    (finding,) = [one for one in report.errors if one.code == "not_json"]
    assert words in finding.message and fix in finding.fix
