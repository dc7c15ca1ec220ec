"""A list of rows that was cut off: its whole rows are read and kept, and its early end is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.errors import DataError

CHATS = chat_rows(12)
SPLIT = json.dumps({
    "columns": ["prompt", "completion"], "index": [*range(12)],
    "data": [[f"What is {n}?", f"It is the number {n}."] for n in range(12)],
})  # fmt: skip


def opened(folder: Path, name: str, text: str) -> Dataset:
    path = folder / name
    path.write_text(text)
    return Dataset.open(path, spool=folder / "spool")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("before", "rows"),
    [
        ("", CHATS),
        ('{"version": 2, "data": ', CHATS),
        ('{"data": {"train": ', CHATS),
        ("", {f"row_{number}": row for number, row in enumerate(CHATS)}),
    ],
)
def test_the_whole_rows_are_kept(
    tmp_path: Path, before: str, rows: object, indent: int | None, suffix: str
) -> None:
    """Wherever the last row was cut, --fix writes the eleven before it, and no half of it."""
    text = before + json.dumps(rows, indent=indent)
    last = text.rindex('"messages"')
    for end in (last + 3, last + 40, text.rindex("}") - 3):
        fixed = opened(tmp_path, f"cut.{suffix}", text[:end]).fix(tmp_path / "new", force=True)
        kept = [row.data for row in Dataset(tmp_path / "new").rows()]
        assert kept == CHATS[:-1]
        assert [one.finding.code for one in fixed.unsafe] == ["file_truncated"]


def test_what_is_said_of_a_file_that_ends_early(tmp_path: Path) -> None:
    """The line of the end, the number of whole rows and the way, in .json and in an envelope; and
    nothing but --fix uses its rows."""
    for start in ("", '{"data": '):
        dataset = opened(tmp_path, "cut.json", (start + json.dumps(CHATS, indent=1))[:-90])
        (finding,) = gateway.validate(dataset).errors
        assert finding.code == "file_truncated"
        assert "11 rows are whole" in finding.message and "--fix" in finding.fix
        with pytest.raises(DataError, match="before the list of rows does: 11 rows are whole"):
            dataset.convert("sharegpt", tmp_path / "out")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_in_a_file_of_lines_is_said_to_end_early(indent: int | None, tmp_path: Path) -> None:
    """As in a .json file: the line of its end, the whole rows and the way; a whole list is not."""
    text = json.dumps(CHATS, indent=indent)
    start = text[: text.rindex('"messages"') + 40]
    dataset = opened(tmp_path, "cut.jsonl", start)
    cut, listed = sorted(gateway.validate(dataset).errors, key=lambda one: one.code)
    assert (listed.code, cut.code) == ("json_array_not_jsonl", "file_truncated")
    assert "11 rows are whole" in cut.message and f"{dataset.path} --fix" in cut.fix
    (in_json,) = gateway.validate(opened(tmp_path, "cut.json", start)).errors
    assert (cut.line, cut.message) == (in_json.line, in_json.message)
    whole = gateway.validate(opened(tmp_path, "whole.jsonl", text))
    assert [one.code for one in whole.errors] == ["json_array_not_jsonl"]


def test_a_bracket_that_is_missing_takes_no_row(tmp_path: Path) -> None:
    """Without the brackets at its end all rows of a list are whole."""
    for text, count in ((json.dumps(CHATS)[:-1], 12), (SPLIT[:-2], 12), (SPLIT[:-12], 11)):
        dataset = opened(tmp_path, "cut.json", text)
        assert len([*dataset.lines()]) == count
        assert [one.code for one in gateway.validate(dataset).errors] == ["file_truncated"]


def test_a_mistake_before_the_end_is_no_cut(tmp_path: Path) -> None:
    """A list with a mistake in the middle is not read up to it."""
    text = json.dumps(CHATS).replace('"role"', "role", 5).replace("role", '"role"', 4)
    with pytest.raises(DataError, match="Expecting property name"):
        opened(tmp_path, "wrong.json", text)
