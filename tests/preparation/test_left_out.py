"""What ``convert`` leaves out of a row is said by its key, at every depth; a label is one."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.services import ASK, ROWS, SAY
from support.shapes import SHAPES

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.data.canonical import converted
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.sharegpt import ConversionError

Json = dict[str, Any]
EXAMPLES = {**SHAPES, **ROWS}
MARK = "zz-mark"


def marked(value: Any, row: Any) -> Iterator[Any]:
    """Yield the row with one more key, once for each object in it."""
    if isinstance(value, dict):
        value["zz"] = MARK
        yield row
        del value["zz"]
    for inner in list(value.values() if isinstance(value, dict) else value):
        if isinstance(inner, dict | list):
            yield from marked(inner, row)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_key_is_kept_or_refused_or_named(name: str) -> None:
    row = copy.deepcopy(EXAMPLES[name][1])
    before = converted(row)[1]
    for changed in marked(row, row):
        if format_of(changed) is None:
            continue
        try:
            made, left_out = converted(changed)
        except ConversionError:
            continue
        assert MARK in json.dumps(made) or {*left_out} - {*before}, changed


def test_it_is_counted_with_its_first_line(tmp_path: Path) -> None:
    blocks = {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "Yes."},
    ]}  # fmt: skip
    plain = {"messages": [ASK, SAY]}
    path = tmp_path / "rows.jsonl"
    rows = [plain, {"messages": [ASK, blocks]}, {"messages": [ASK, blocks]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    conversion = Dataset.open(path).convert("openai", tmp_path / "out.jsonl")

    assert conversion.notes == (
        "the key 'messages[].content[].signature' of 2 rows was left out, first in line 2: "
        "no place for it",
    )


@pytest.mark.parametrize("label", [True, 0, "good", None])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, SAY]},
        {"prompt": "Is it dark?", "completion": "Yes."},
        {"instruction": "Is it dark?", "output": "Yes."},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]},
                      {"role": "model", "parts": [{"text": "Hello"}]}]},
    ],
)  # fmt: skip
def test_a_label_beside_a_conversation_is_one_of_kto(row: Json, label: Any) -> None:
    """In validate as in convert; what is neither true nor false is an error in both."""
    given = {**row, "label": label}
    report = gateway.validate([given], method="kto", quality=False)
    assert report.format == "unpaired-preference"
    assert ("label" in {one.code for one in report.errors}) == (type(label) is not bool)
    made = converted(given)[0]
    assert made["label"] == label
    again = format_of(made)
    assert again is not None and again.name == report.format


@pytest.mark.parametrize("labels", [(0, 1, 2), (2, 0, 1), (1, 0.5), ("good", "bad", "neutral")])
@pytest.mark.parametrize("texts", [False, True])
def test_labels_with_one_that_is_a_class_are_classes(
    labels: tuple[Any, ...], texts: bool, tmp_path: Path, ftg: Ftg
) -> None:
    """All of them: --fix writes none as true or false, and the command that is named works."""
    rows = [
        {"prompt": f"Is it {n}?", "completion": "Yes."} if texts
        else {"messages": [{"role": "user", "content": f"Is it {n}?"}, SAY]}
        for n in range(12)
    ]  # fmt: skip
    rows = [{**row, "label": labels[n % len(labels)]} for n, row in enumerate(rows)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {one.code: one for one in gateway.validate(path, quality=False).errors}
    assert found.keys() <= {"label", "label_class"} and "label_class" in found
    commands = {one.fix.partition("out: ")[2].replace("new.jsonl", str(tmp_path / "new.jsonl"))
                for one in found.values()}  # fmt: skip
    (command,) = commands
    done = ftg(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    made = gateway.validate(tmp_path / "new.jsonl", quality=False)
    assert made.ok and made.format == "openai-chat" and made.rows == 12
    fixed = Dataset.open(path).fix(tmp_path / "fixed.jsonl")
    assert "label" not in fixed.changes
    assert [row.data["label"] for row in Dataset.open(fixed.out).rows()] == [
        row["label"] for row in rows
    ]


def test_labels_of_0_and_1_may_be_either(tmp_path: Path) -> None:
    """Both ways are said; a file of KTO with one row without a label is mixed, as it was."""
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, SAY], "label": n % 2}
            for n in range(12)]  # fmt: skip
    (error,) = gateway.validate(rows, quality=False).errors
    assert error.code == "label" and "--fix does" in error.fix and "--drop label" in error.fix
    kto = [{**row, "label": bool(row["label"])} for row in rows]
    plain = {"messages": rows[0]["messages"]}
    mixed = gateway.validate([*kto, plain], quality=False)
    assert [one.code for one in mixed.errors] == ["mixed_formats"]
    path = tmp_path / "rows.jsonl"
    for given, written in (([*rows, plain], 12), ([plain, *rows], 0)):
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        fixed = Dataset.open(path).fix(tmp_path / "fixed.jsonl", force=True)
        assert fixed.changes.get("label", 0) == written
        said = {one.code: one.fix for one in gateway.validate(path, quality=False).errors}
        assert ("--fix does" in said.get("label", "")) == bool(written)


def test_a_category_is_no_label(tmp_path: Path) -> None:
    row = {"messages": [ASK, SAY], "label": "weather"}
    report = gateway.validate([row], backend="openai", quality=False)
    assert (report.format, [one.path for one in report.warnings]) == ("openai-chat", ["label"])
    made = Dataset.open([row]).convert("openai", tmp_path / "out.jsonl")
    assert made.notes and "'label'" in made.notes[0]
    texts = {"prompt": "Is it dark?", "completion": "Yes.", "label": "weather"}
    assert gateway.validate([texts], quality=False).format == "prompt-completion"
