"""Splits: placed by content, near copies on one side, stratified on demand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import chat_rows

from finetune_gateway.cli import main
from finetune_gateway.dataset import Dataset
from finetune_gateway.errors import DataError, SpecError

Json = dict[str, Any]


def write(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


def parts(source: Path, folder: Path, **options: Any) -> tuple[set[str], set[str]]:
    train, held_out = Dataset.open(source).split(0.1, folder=folder, **options)
    return lines(train.path), lines(held_out.path)


def test_every_row_is_on_one_side(tmp_path: Path) -> None:
    """The two files hold all rows, about a tenth in the second; the same call gives the same."""
    source = write(tmp_path / "rows.jsonl", chat_rows(500))
    train, held_out = parts(source, tmp_path / "a")
    assert train | held_out == lines(source)
    assert not train & held_out
    assert 30 <= len(held_out) <= 70
    assert parts(source, tmp_path / "b") == (train, held_out)
    assert parts(source, tmp_path / "c", seed=1) != (train, held_out)


def test_added_rows_move_no_other(tmp_path: Path) -> None:
    """A row's side depends on the row alone, in whatever order and company."""
    few = write(tmp_path / "few.jsonl", chat_rows(200))
    many = write(tmp_path / "many.jsonl", chat_rows(400)[::-1])
    train, held_out = parts(few, tmp_path)
    more_train, more_held_out = parts(many, tmp_path)
    assert train <= more_train
    assert held_out <= more_held_out


def test_near_copies_stay_together(tmp_path: Path) -> None:
    """Rows that differ in case and spaces are on one side."""
    rows = chat_rows(100)
    loud = [json.loads(json.dumps(row).replace("Parcel ", "PARCEL   ")) for row in rows]
    train, held_out = parts(write(tmp_path / "rows.jsonl", rows + loud), tmp_path)

    def folded(side: set[str]) -> set[str]:
        return {" ".join(line.casefold().split()) for line in side}

    assert not folded(train) & folded(held_out)
    assert len(train) + len(held_out) == 200


def labelled(count: int) -> list[Json]:
    """Nine short answers of 'yes' to one of 'no', and a few of their own."""
    rows = chat_rows(count)
    for number, row in enumerate(rows):
        row["messages"][-1]["content"] = "no" if number % 10 == 0 else "yes"
        if number % 50 == 1:
            row["messages"][-1]["content"] = f"own {number}"
    return rows


def test_stratified_shares_are_exact(tmp_path: Path) -> None:
    """Each class gives its share; classes too small for one are taken together."""
    source = write(tmp_path / "rows.jsonl", labelled(500))
    _, held_out = parts(source, tmp_path, stratify=True)
    answers = Counter(json.loads(line)["messages"][-1]["content"][:3] for line in held_out)
    assert answers == {"yes": 44, "no": 5, "own": 1}


def test_long_answers_are_stratified_by_system_prompt(tmp_path: Path) -> None:
    """Where the answer is a text, the system prompt is the class."""
    rows = chat_rows(200)
    for number, row in enumerate(rows):
        row["messages"].insert(0, {"role": "system", "content": f"You are {number % 4}."})
        row["messages"][-1]["content"] *= 4
    _, held_out = parts(write(tmp_path / "rows.jsonl", rows), tmp_path, stratify=True)
    systems = Counter(json.loads(line)["messages"][0]["content"] for line in held_out)
    assert set(systems.values()) == {5}


def test_a_small_file_holds_out_one_row(tmp_path: Path) -> None:
    """At least one row is held out, and a file of one row cannot be cut."""
    for count in (2, 3, 7):
        source = write(tmp_path / f"{count}.jsonl", chat_rows(count))
        assert len(parts(source, tmp_path)[1]) == 1
    with pytest.raises(DataError, match="empty"):
        parts(write(tmp_path / "1.jsonl", chat_rows(1)), tmp_path)
    with pytest.raises(SpecError):
        Dataset.open(tmp_path / "2.jsonl").split(1.5, folder=tmp_path)


def test_split_on_the_command_line(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are named after the data, counts are told, nothing is overwritten unasked."""
    source, out = write(tmp_path / "rows.jsonl", chat_rows(300)), tmp_path / "parts"
    assert main(["split", str(source), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["parts"]
    assert [Path(one["path"]).name for one in told] == ["rows.train.jsonl", "rows.validation.jsonl"]
    assert sum(one["rows"] for one in told) == 300
    assert sum(len(lines(Path(one["path"]))) for one in told) == 300
    assert main(["split", str(source), "-o", str(out)]) == 2
    argv = ["split", str(source), "-o", str(out), "--force", "--ratio"]
    assert main([*argv, "80/10/10"]) == 0
    assert (out / "rows.test.jsonl").exists()
    for wrong in ("0.9/0.2", "0.9", "1/0", "x/y", "0.7/0.1/0.1/0.1", "nan/1"):
        assert main([*argv, wrong]) == 2, wrong
