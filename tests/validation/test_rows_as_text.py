"""Rows that lie as text in a column, as collectors of logs write them; and which columns are
offered as question and answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import Dataset

Json = dict[str, Any]
PAIRS = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(12)]


@pytest.mark.parametrize("key", ["log", "message", "msg", "line", "body", "value", "_raw"])
@pytest.mark.parametrize("rows", [chat_rows(12), PAIRS], ids=["chats", "pairs"])
def test_rows_as_text_are_taken_out(key: str, rows: list[Json], tmp_path: Path, home: Path) -> None:
    """No column is offered as the answer; --fix writes the rows."""
    lines = [
        {key: json.dumps(row) + "\n", "stream": "stdout", "time": f"2026-11-02T10:00:{n:02}Z"}
        for n, row in enumerate(rows)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [one] = gateway.validate(path).errors
    assert f"'{key}' holds a row as text" in one.message
    assert "--map" not in one.fix and f"ftg validate {path} --fix new.jsonl" in one.fix
    out = tmp_path / "new.jsonl"
    Dataset.open(path).fix(out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("messages") or row["prompt"] for row in written] == [
        row.get("messages") or row["prompt"] for row in rows
    ]
    assert gateway.validate(out).ok


def test_a_level_a_time_and_an_id_are_no_answers(home: Path) -> None:
    """Columns are offered that differ from row to row; a few values are a class."""
    rows = [
        {"level": "INFO", "at": f"2026-11-02T10:00:{n:02}Z", "id": f"{n:032x}", "alpha": f"Is {n}?"}
        for n in range(12)
    ]
    assert "--map" not in gateway.validate(rows).errors[0].fix
    for n, row in enumerate(rows):
        row["beta"] = f"Yes, {n}."
    assert "--map alpha=prompt,beta=completion" in gateway.validate(rows).errors[0].fix
    table = {name: [row[name] for row in rows] for name in rows[0]}
    assert "--map alpha=prompt,beta=completion" in gateway.validate(table).errors[0].fix


def test_an_event_as_text_is_named(home: Path) -> None:
    """What it holds is no row by itself."""
    rows = [
        {"log": json.dumps({"event": f"e{n}", "user": "a"}), "source": f"b{n}"} for n in range(12)
    ]
    [one] = gateway.validate(rows).errors
    assert "'log' holds an object as text, with the keys 'event', 'user'" in one.message
    assert "--map" not in one.fix
