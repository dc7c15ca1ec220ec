"""Files whose lines are pieces of something larger: none of them repeats another."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.validation.duplicates import same_lines

Json = dict[str, Any]

REPEATS = {"duplicates", "near_duplicates"}


def message(role: str, text: str, **more: Any) -> Json:
    return {"role": role, "content": text, **more}


def piece(text: str) -> Json:
    """A line of a streamed answer."""
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "a1", "object": "chat.completion.chunk", "choices": [delta]}


MESSAGES = [message("user", "And 3?"), message("assistant", "Yes."), message("user", "Thanks.")]
PIECES: dict[str, list[Json]] = {
    "messages": MESSAGES,
    "messages of conversations": [{**one, "conversation_id": 7} for one in MESSAGES],
    "messages of a chat": [
        {"type": "message", "user": user, "text": text}
        for user, text in (("U1", "Is it there?"), ("U2", "Yes."), ("U1", "Thanks."))
    ],
    "speakers in texts": [{"text": "User: Is it there?"}, {"text": "Agent: Yes."}],
    "a streamed answer": [piece("the "), piece("page "), piece("of ")],
    "requests and responses": [
        {"messages": [message("user", "Is it there?")]},
        {"choices": [{"index": 0, "message": message("assistant", "Yes.")}]},
    ],
    "rows of no format": [{"a": "yes", "b": 1}, {"a": "no", "b": 2}],
    "some examples too": [*chat_rows(2), {"a": "yes"}],
}


def written(folder: Path, lines: list[str], name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def copied(path: Path) -> list[Json]:
    """The rows that --fix writes."""
    out = path.with_name("out.jsonl")
    Dataset.open(path, spool=path.parent).fix(out, force=True)
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", PIECES)
def test_fix_removes_no_piece(case: str, tmp_path: Path) -> None:
    """However often it comes."""
    rows = PIECES[case] * 10
    assert copied(written(tmp_path, [json.dumps(row) for row in rows])) == rows


@pytest.mark.parametrize("case", [one for one in PIECES if one[:3] not in ("req", "som")])
def test_no_piece_is_called_a_repeat(case: str, tmp_path: Path) -> None:
    """Nor kept with another in a split."""
    path = written(tmp_path, [json.dumps(row) for row in PIECES[case] * 10])
    assert not REPEATS & {one.code for one in gateway.validate(path).findings}
    if "text" not in PIECES[case][0]:
        assert not [*same_lines(Dataset.open(path))]


def test_examples_beside_pieces_are(tmp_path: Path) -> None:
    """What they repeat is said, and left."""
    path = written(tmp_path, [json.dumps(row) for row in PIECES["some examples too"] * 10])
    (found,) = (one for one in gateway.validate(path).findings if one.code in REPEATS)
    assert found.count == 18


VERSE = ["Row, row, row your boat,", "Gently down the stream.", "Merrily, merrily,", "```", "Oh! "]


@given(st.lists(st.sampled_from([one for rows in PIECES.values() for one in rows]), max_size=40))
def test_fix_keeps_every_row_of_no_format(rows: list[Json]) -> None:
    """Whatever stands around it."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"a": "yes"}, *rows]
        assert copied(written(Path(folder), [json.dumps(row) for row in rows])) == rows


@given(st.lists(st.sampled_from([*VERSE, ""]), max_size=40))
def test_fix_keeps_every_line_of_a_text(lines: list[str]) -> None:
    """A refrain too."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [VERSE[0], *lines]
        path = written(Path(folder), lines, "poem.txt")
        kept = [line.strip() for line in lines if line]
        assert [row["text"].strip() for row in copied(path)] == kept


def test_a_text_by_another_name_keeps_its_lines(tmp_path: Path) -> None:
    """What stands outside blocks of code is left out only where these hold rows."""
    lines = ["Call it so:", "```python", "print(1)", "```", "That is all."]
    out = tmp_path / "out.jsonl"
    Dataset.open(written(tmp_path, lines)).fix(out)
    assert {lines[0], lines[2], lines[4]} <= set(out.read_text().splitlines())


def test_repeated_lines_of_a_text_are_said(tmp_path: Path) -> None:
    """With advice that does not harm a running text."""
    path = written(tmp_path, VERSE[:3] * 5, "poem.txt")
    (found,) = (one for one in gateway.validate(path).findings if one.code == "duplicates")
    assert (found.count, found.fix.split(".")[0]) == (12, "Nothing to do in a running text")
