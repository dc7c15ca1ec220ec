"""Files that hold neither rows nor a text: named for what they are, with a command that makes rows
of them; and texts about the same, which are trained on."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.data.other_files import other_file
from finetune_gateway.errors import DataError

Json = dict[str, Any]
PAIRS = [(f"What is {n} and {n}?", f"It is {n + n}.") for n in range(12)]
ROWS = [{"prompt": q, "completion": a} for q, a in PAIRS]
SRT = "".join(
    f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{a}\n\n" for n, (_, a) in enumerate(PAIRS, 1)
)
MARKDOWN = "# Sums\n\n| Question | Answer |\n|---|---|\n" + "".join(
    f"| {q} | {a} |\n" for q, a in PAIRS
)
YAML = "".join(f'- prompt: "{q}"\n  completion: "{a}"\n' for q, a in PAIRS)
LOG = "".join(f"2026-11-02T10:00:{n:02}Z INFO {json.dumps(row)}\n" for n, row in enumerate(ROWS))
SQL = "-- MySQL dump 10.13\nCREATE TABLE `faq` (`q` text);\nINSERT INTO `faq` VALUES ('a'),('b');\n"
ANKI = "#separator:tab\n#html:true\n" + "".join(f"{q}\t<b>{a}</b>\n" for q, a in PAIRS)
PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Sign in</title></head>\n"
    + "<p>Sign in.</p>\n" * 12
    + "</html>\n"
)

OTHERS: dict[str, tuple[str, str]] = {
    "subtitles (SRT)": (SRT, "grep "),
    "subtitles (WebVTT)": ("WEBVTT\n\n" + SRT.replace(",", "."), "grep "),
    "a table in Markdown": (MARKDOWN, "grep "),
    "a list in YAML": (YAML, "python "),
    "a log with JSON in its lines": (LOG, "sed "),
    "a dump of SQL": (SQL, ""),
    "an export of Anki": (ANKI, "(printf "),
    "a web page (HTML)": (PAGE, ""),
    "a pointer of Git LFS, in place of the file": (
        "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "XML": ("<?xml version='1.0'?>\n<rows>\n" + "<row>a</row>\n" * 12 + "</rows>\n", ""),
}  # fmt: skip
TEXTS = {
    "prose": "It rained: 00:12:01,000 --> a code.\nA | B is a choice.\n- So is: this.\n" * 4,
    "a poem": "\tThe rain\n\t\tin Spain\n\tfalls\tslowly\n" * 5,
    "code": "def f(a: int) -> int:\n\treturn a\n\nx = {'a': 1}\n" * 5,
    "queries": "SELECT a FROM b;\nINSERT INTO b SELECT 1;\n-- a remark\nUPDATE b SET a = 2;\n" * 4,
    "a page of Markdown": "# A\n\nSome words.\nMore.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n" * 3,
    "pages, one a line": "<html><p>A page.</p></html>\n" * 12,
    "tags in prose": "<b>Bold</b> words, and <i>others</i>.\n" * 12,
    "a list": "- Milk: two bottles\n- Bread: one\n- Eggs: ten\n" * 4,
    "a playbook": "- name: a\n  hosts: b\n- name: c\n  hosts: d\n- name: e\n  hosts: f\n" * 2,
    "a log": "2026-11-02 10:00:00 INFO started\n2026-11-02 10:00:01 WARN {odd} brackets\n" * 6,
    "tasks with JSON": "Who is named: Bob -> {\"name\": \"Bob\"}\n" * 12,
    "some tabs": "One\ttab.\nNone.\nTwo\ttabs\there.\n" * 5,
    "numbers": "1\n2\n3\n" * 5,
    "times": "00:01 It begins.\n00:02 It goes on.\n" * 6,
}  # fmt: skip


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("name", OTHERS)
def test_another_file_is_named_and_not_trained_on(name: str, tmp_path: Path, home: Path) -> None:
    """Whatever the name promises: one error, with a way out; nothing is written from its lines."""
    text, command = OTHERS[name]
    for suffix in ("txt", "md", "csv"):
        path = written(tmp_path, f"my talk.{suffix}", text)
        [one] = gateway.validate(path).findings
        assert (one.code, one.severity, one.line) == ("other_file", "error", None)
        assert f"The file is {name}, not rows" in one.message and command in one.fix
        assert command in ("", "git lfs pull") or f"'{path}'" in one.fix
    with pytest.raises(DataError, match="not rows"):
        Dataset.open(path).fix(tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize("indent", [None, 1])
def test_a_notebook_is_named(indent: int | None, tmp_path: Path, home: Path) -> None:
    """Whatever its name and layout; the command writes its cells as texts. A row about cells is
    none."""
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "and words"]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": "print(1)"},
    ]
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    for name in ("it's.ipynb", "book.json"):
        path = written(tmp_path, name, json.dumps(book, indent=indent))
        (one,) = gateway.validate(path).findings
        assert (one.code, one.severity) == ("other_file", "error")
        assert "The file is a notebook (Jupyter), not rows" in one.message
        if shutil.which("jq"):
            command = one.fix.partition("as text: ")[2]
            subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
            lines = (tmp_path / "cells.jsonl").read_text().splitlines()
            texts = ["# A title\nand words", "print(1)"]
            assert [*map(json.loads, lines)] == [{"text": text} for text in texts]
    in_lines = written(tmp_path, "book.jsonl", json.dumps(book))
    assert "notebook (Jupyter)" in gateway.validate(in_lines).errors[-1].message
    row = {"cells": [{"prompt": "Hi", "completion": "Hello"}], "metadata": {"a": "cell_type"}}
    about = written(tmp_path, "about.json", json.dumps(row))
    assert "other_file" not in {one.code for one in gateway.validate(about).findings}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_about_the_same_is_a_text(name: str, tmp_path: Path) -> None:
    """Prose, poems, code, lists: each line is trained on as it stands."""
    assert other_file(TEXTS[name], whole=True) is None
    dataset = Dataset.open(written(tmp_path, "a.txt", TEXTS[name]))
    lines = [line for line in TEXTS[name].split("\n") if line]
    assert [row.data for row in dataset.rows()] == [{"text": line} for line in lines]


MADE = {"a list in YAML": "rows.jsonl", "a log with JSON in its lines": "rows.jsonl"}
MAPS = {
    "a table in Markdown": ("rows.psv", {"Question": "prompt", "Answer": "completion"}),
    "an export of Anki": ("cards.tsv", {"front": "prompt", "back": "completion"}),
}


@pytest.mark.parametrize("name", [*MADE, *MAPS, "subtitles (SRT)"])
def test_the_command_makes_rows_of_it(name: str, tmp_path: Path) -> None:
    """Every pair is there, and nothing else."""
    path = written(tmp_path, "it's.txt", OTHERS[name][0])
    other = other_file(path.read_text(), whole=True)
    assert other is not None
    command = other.advice(path).partition(": ")[2].partition(" && ")[0]
    own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=own, check=True)
    if name == "subtitles (SRT)":
        assert (tmp_path / "spoken.txt").read_text().splitlines() == [a for _, a in PAIRS]
        return
    file, columns = MAPS.get(name, (MADE.get(name, ""), None))
    dataset = Dataset.open(tmp_path / file, columns=columns)
    rows = [
        {k: v.replace("<b>", "").replace("</b>", "") for k, v in one.data.items()}
        for one in dataset.rows()
    ]
    assert rows == ROWS


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_a_pickle_is_refused_and_never_opened(protocol: int, tmp_path: Path, home: Path) -> None:
    """By its first bytes, as a text too; what it would run is not run."""

    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    for name in ("a.txt", "a.jsonl"):
        path = written(tmp_path, name, pickle.dumps([*ROWS, Runs()], protocol))
        [one] = gateway.validate(path).findings
        assert one.code == "not_text" and "a Python pickle" in one.message
        with pytest.raises(DataError, match="pickle"):
            Dataset.open(path).fix(tmp_path / "new.jsonl")
    assert not (tmp_path / "ran").exists()


def test_a_table_by_tabs_and_rows_among_prose_are_read_as_such(tmp_path: Path, home: Path) -> None:
    """In a file named .txt; the first pair is no header, and RTF is no text."""
    path = written(tmp_path, "a.txt", "".join(f"{q}\t{a}\n" for q, a in PAIRS))
    assert {one.code for one in gateway.validate(path).errors} == {
        "header_missing",
        "unknown_format",
    }
    columns = {"column 1": "prompt", "column 2": "completion"}
    assert [one.data for one in Dataset.open(path, columns=columns).rows()] == ROWS
    rows = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    path = written(tmp_path, "b.txt", f"Here are the rows:\n{rows}")
    assert [one.code for one in gateway.validate(path).errors] == ["not_json"]
    path = written(tmp_path, "c.txt", r"{\rtf1\ansi Hello.}" + "\n")
    assert [one.code for one in gateway.validate(path).errors] == ["not_text"]
