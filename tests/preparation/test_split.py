"""Splits: placed by content, near copies on one side, stratified on demand."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows

from finetune_gateway import Dataset
from finetune_gateway.cli import main
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.preparation.split import assign
from finetune_gateway.validation.dataset import near_duplicates

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
    """Files are named after the data, counts are printed, nothing is overwritten by default."""
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


def talk(asked: str, answer: str) -> Json:
    said = (("user", asked), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def prose(rng: random.Random, count: int, length: int = 40) -> list[str]:
    known = ["".join(rng.choices("abcdefghiklmnoprstuw", k=rng.randint(2, 9))) for _ in range(4000)]
    return [" ".join(rng.choices(known, k=length)) for _ in range(count)]


def changed(text: str, rng: random.Random) -> str:
    """One to three words replaced."""
    said = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        said[rng.randrange(len(said))] = f"parcel{rng.randrange(999)}"
    return " ".join(said)


def sides(source: Path, folder: Path, **options: Any) -> dict[str, int]:
    """For each row as written its part."""
    made = parts(source, folder, **options)
    return {line: part for part, found in enumerate(made) for line in found}


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    """Of 1,000 planted pairs none straddles, the share is kept, and without looking some do."""
    pytest.importorskip("rensa")
    rng = random.Random(1)
    asked = prose(rng, 2000)
    pairs = [(talk(text, "Yes."), talk(changed(text, rng), "Yes.")) for text in asked[:1000]]
    rows = [row for pair in pairs for row in pair] + [talk(text, "Yes.") for text in asked[1000:]]
    rng.shuffle(rows)
    source = write(tmp_path / "rows.jsonl", rows)
    side = sides(source, tmp_path / "near")
    straddling = [a for a, b in pairs if side[json.dumps(a)] != side[json.dumps(b)]]
    assert not straddling
    assert 0.08 <= sum(side.values()) / len(side) <= 0.12
    apart = sides(source, tmp_path / "exact", near=False)
    assert sum(apart[json.dumps(a)] != apart[json.dumps(b)] for a, b in pairs) > 100


def test_added_rows_move_only_those_they_join(tmp_path: Path) -> None:
    """A tenth more rows, copies among them: an old row moves only with a new one near to it."""
    pytest.importorskip("rensa")
    rng = random.Random(2)
    asked = prose(rng, 1100)
    old = [talk(text, "Yes.") for text in asked[:1000]]
    old += [talk(changed(text, rng), "Yes.") for text in asked[:200]]
    joined = range(150, 200)
    new = [talk(changed(asked[i], rng), "Yes.") for i in joined]
    new += [talk(text, "Yes.") for text in asked[1000:]]
    before = sides(write(tmp_path / "old.jsonl", old), tmp_path / "old")
    after = sides(write(tmp_path / "all.jsonl", [*new, *old[::-1]]), tmp_path / "all")
    moved = {line for line in before if before[line] != after[line]}
    free = {json.dumps(old[i]) for i in joined} | {json.dumps(old[1000 + i]) for i in joined}
    assert moved <= free
    for i in joined:
        near = [old[i], old[1000 + i], new[i - 150]]
        assert len({after[json.dumps(row)] for row in near}) == 1


def test_a_chain_of_near_copies_is_one_group(tmp_path: Path) -> None:
    """Rows that are near only through others stay together, though the ends differ wholly."""
    pytest.importorskip("rensa")
    rng = random.Random(3)
    (first,) = prose(rng, 1, 20)
    said, chain = first.split(" "), []
    for place in range(len(said)):
        chain.append(talk(" ".join(said), "Yes."))
        said[place] = f"changed{place}"
    rows = chain + [talk(text, "Yes.") for text in prose(rng, 500)]
    rng.shuffle(rows)
    for seed in range(5):
        source = write(tmp_path / "rows.jsonl", rows)
        side = sides(source, tmp_path / str(seed), seed=seed)
        assert len({side[json.dumps(row)] for row in chain}) == 1


def test_a_large_group_is_not_held_out(tmp_path: Path) -> None:
    """A group that would be most of the validation part goes to the first one, whatever the
    seed; rows that are nearly all of one group are placed one by one, and that is said."""
    pytest.importorskip("rensa")
    rng = random.Random(4)
    (text,) = prose(rng, 1)
    group = [talk(f"{text} {number}", "Yes.") for number in range(60)]
    rows = group + [talk(one, "Yes.") for one in prose(rng, 340)]
    source = write(tmp_path / "rows.jsonl", rows)
    for seed in range(12):
        side = sides(source, tmp_path / "parts", seed=seed)
        assert {side[json.dumps(row)] for row in group} == {0}
    few = write(tmp_path / "few.jsonl", rows[:-200])  # 60 of 200 rows are of the group
    shares = []
    for seed in range(12):
        side = sides(few, tmp_path / "few", seed=seed)
        assert {side[json.dumps(row)] for row in group} == {0}
        shares.append(sum(side.values()) / len(side))
    assert 0.08 <= sum(shares) / len(shares) <= 0.12
    dataset = Dataset.open(write(tmp_path / "alike.jsonl", group))
    cut = assign(dataset, (0.8, 0.2), seed=0, stratify=False, near=True)
    assert cut.loosened == 60 and cut.joined == 0 and min(cut.rows) >= 4


def test_stratified_groups_stay_together(tmp_path: Path) -> None:
    """The shares of each class hold, and near-duplicates with other answers are on one side."""
    pytest.importorskip("rensa")
    rng = random.Random(5)
    asked = prose(rng, 600)
    pairs = [
        (talk(text, f"yes {text[:9]}"), talk(changed(text, rng), f"yes {text[:9]}"))
        for text in asked[:100]
    ]
    rows = [row for pair in pairs for row in pair]
    rows += [talk(text, "no" if number % 5 else "yes") for number, text in enumerate(asked[100:])]
    source = write(tmp_path / "rows.jsonl", rows)
    side = sides(source, tmp_path, stratify=True)
    assert all(side[json.dumps(a)] == side[json.dumps(b)] for a, b in pairs)
    held_out = [json.loads(line)["messages"][-1]["content"] for line, part in side.items() if part]
    assert Counter(answer for answer in held_out if len(answer) <= 3) == {"no": 40, "yes": 10}


def test_what_was_not_looked_for_is_said(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra the command tells how to get it, and --no-near asks for no more."""
    source, out = write(tmp_path / "rows.jsonl", chat_rows(300)), str(tmp_path / "parts")
    argv = ["split", str(source), "-o", out, "--force"]
    monkeypatch.setattr(near_duplicates, "find_spec", lambda name: None)
    assert main(argv) == 0
    assert "pip install 'finetune-gateway[dedup]'" in " ".join(capsys.readouterr().err.split())
    assert main([*argv, "--no-near"]) == 0
    assert "dedup" not in capsys.readouterr().err
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["near_duplicates"] is None


def test_one_question_with_many_answers_stays_on_one_side(tmp_path: Path) -> None:
    """Otherwise ``validate --against`` would call our own split a leak."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What does the part {number // 3} cost in the shop?"},
                {"role": "assistant", "content": f"{chr(97 + number % 3) * 9} {number * 7919}."},
            ]
        }
        for number in range(600)
    ]
    source = write(tmp_path / "rows.jsonl", rows)
    train, held_out = parts(source, tmp_path / "near")
    asked = [
        {json.loads(line)["messages"][0]["content"] for line in side} for side in (train, held_out)
    ]
    assert not asked[0] & asked[1]
    assert 30 <= len(held_out) <= 90
    apart = parts(source, tmp_path / "apart", near=False)
    loose = [{json.loads(line)["messages"][0]["content"] for line in side} for side in apart]
    assert loose[0] & loose[1]
