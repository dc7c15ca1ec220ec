"""Files as other tools leave them: what is said of them can be done, and nothing good is lost."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.data.columns import offer
from finetune_gateway.errors import DataError

Json = dict[str, Any]
ROW = {
    "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here"}]
}
LINES = [json.dumps(ROW).replace("Where", f"Where is {n}") for n in range(3)]
FIX = "--fix new.jsonl"


def first(rows: Any, code: str, **options: Any) -> Any:
    """Return the finding of a code."""
    findings = gateway.validate(rows, quality=False, **options).findings
    return next(one for one in findings if one.code == code)


def fixed(path: Path, text: str | bytes) -> list[Json]:
    """Return the rows of the copy that --fix makes of a file."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    Dataset.open(path).fix(out := path.with_name("fixed.jsonl"), force=True)
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


# -- labels and numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["text", "sentence"])
def test_a_class_is_no_label_of_an_answer(column: str, tmp_path: Path, home: object) -> None:
    """0 and 1 were read as false and true: written so by --fix, and refused as answers."""
    path = tmp_path / "classes.csv"
    rows = fixed(path, f"{column},label\nGood,1\nBad,0\n")
    assert [row["label"] for row in rows] == ["1", "0"]
    made = Dataset.open(path, columns={column: "prompt", "label": "completion"})
    assert [row.data["completion"] for row in made.rows()] == ["1", "0"]


def test_a_label_beside_an_answer_is_true_or_false(tmp_path: Path, home: object) -> None:
    """Whatever the columns are called."""
    path = tmp_path / "good.csv"
    path.write_text("q,a,label\nWhere?,Here,1\nWhen?,Now,0\n")
    made = Dataset.open(path, columns={"q": "prompt", "a": "completion"})
    assert [row.data["label"] for row in made.rows()] == [True, False]


def test_a_number_in_a_mapped_column_is_its_text(home: object) -> None:
    """As in a table; true and false are not told apart from words."""
    rows = [{"text": f"Text {n}", "label": n} for n in (0, 1, 2.5)]
    made = Dataset.open(rows, columns={"text": "prompt", "label": "completion"})
    assert [row.data["completion"] for row in made.rows()] == ["0", "1", "2.5"]


def test_texts_with_a_class_are_told_how_it_is_learned(home: object) -> None:
    """And convert does not take it for a label of KTO."""
    rows = [{"text": f"Text {n}", "label": n % 2} for n in range(10)]
    assert "--map text=prompt,label=completion" in first(rows, "not_sent").fix
    with pytest.raises(DataError, match="text: OpenAI trains on conversations"):
        Dataset.open(rows).convert("openai", "never.jsonl")


# -- commands ----------------------------------------------------------------------------------


def _zip(data: bytes) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr("train.jsonl", data)
    return made.getvalue()


def _tar(data: bytes) -> bytes:
    with tarfile.open(fileobj=(made := io.BytesIO()), mode="w") as archive:
        member = tarfile.TarInfo("train.jsonl")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


PACKED: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "gzip": (gzip.compress, True),
    "bzip2": (bz2.compress, True),
    "xz": (lzma.compress, True),
    "zip": (_zip, False),
    "tar": (_tar, False),
    "tar.gz": (lambda data: gzip.compress(_tar(data)), False),
}


@pytest.mark.parametrize("name", PACKED)
def test_fix_is_offered_of_what_it_unpacks(name: str, tmp_path: Path, home: object) -> None:
    """With the file's own name: train.jsonl.gz was named, which is not there."""
    pack, is_read = PACKED[name]
    (path := tmp_path / "train.jsonl").write_bytes(pack("\n".join(LINES).encode()))
    (finding,) = gateway.validate(path).errors
    assert finding.code == "compressed"
    assert (f"ftg validate {path} {FIX}" in finding.fix) == is_read == ("--fix" in finding.fix)
    if is_read:
        assert Dataset.open(path).fix(tmp_path / "new.jsonl").rows == len(LINES)
    else:
        with pytest.raises(DataError) as failed:
            Dataset.open(path).fix(tmp_path / "new.jsonl")
        assert "--fix" not in failed.value.hint


def test_a_file_that_looks_like_an_option(
    ftg: Ftg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its name in a command is a path."""
    monkeypatch.chdir(tmp_path)
    Path("-faq.csv").write_text("Frage,Antwort\nWo?,Hier\n")
    said = ftg("validate", "./-faq.csv").stderr
    assert "Next: ftg validate ./-faq.csv --map Frage=prompt,Antwort=completion" in said


def test_preview_names_the_file(ftg: Ftg, tmp_path: Path) -> None:
    """FILE cannot be pasted."""
    (path := tmp_path / "t.jsonl").write_bytes(gzip.compress(b"{}"))
    said = ftg("preview", str(path), "--model", "gpt-4.1-mini-2025-04-14").stderr
    assert f"ftg validate {path}" in said.replace("\n", "") and "FILE" not in said


@pytest.mark.parametrize(
    "content", [gzip.compress(b"{}\n"), "{}\n".encode("utf-16")], ids=["gzip", "utf-16"]
)
def test_what_is_no_text_is_not_written(content: bytes, tmp_path: Path) -> None:
    """Neither parts nor a copy is made of lines that are none; the way out names the file."""
    (path := tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="byte 0") as converted:
        Dataset.open(path).convert("openai", tmp_path / "o.jsonl")
    with pytest.raises(DataError, match="byte 0"):
        Dataset.open(path).split(0.5, folder=tmp_path / "o", seed=0)
    assert f"ftg validate {path} {FIX}" in converted.value.hint
    assert [*tmp_path.glob("o*")] == []


def test_what_a_row_is_is_said_alike(tmp_path: Path) -> None:
    """A row of no format has the words of validate and its way out in convert, too."""
    rows: list[Json] = [
        {"example": ROW},
        {"items": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here"}]},
        {"Messages": ROW["messages"]},
    ]
    for row in rows:
        (path := tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
        said = first(path, "missing_messages" if "Messages" in row else "unknown_format")
        with pytest.raises(DataError) as refused:
            Dataset.open(path).convert("openai", tmp_path / "o.jsonl")
        assert said.message.split(". ")[0].lower() in str(refused.value).lower()
        assert "--drop" not in refused.value.hint
        if "--fix" in said.fix:
            assert f"ftg validate {path} {FIX}" in refused.value.hint


def test_preview_offers_what_can_be_run(tmp_path: Path, home: object) -> None:
    """Not a file of its own that is gone by then; and a line without a row has a neighbour."""
    (path := tmp_path / "t.jsonl").write_text(json.dumps({"example": ROW}) + "\n")
    preview = gateway.preview(path, model="gpt-4.1-mini-2025-04-14")[0]
    assert any(f"ftg validate {path} {FIX}" in one.fix for one in preview.findings)
    (table := tmp_path / "t.csv").write_text("prompt,completion\nWhere?,Here\n")
    with pytest.raises(gateway.NotFoundError) as missing:
        gateway.preview(table, model="gpt-4.1-mini-2025-04-14", rows=[1])
    assert missing.value.hint == "The next row begins in line 2."


# -- rows in a row -----------------------------------------------------------------------------

PARTS: dict[str, Json] = {
    "SQuAD": {"question": "Where?", "context": "Here.", "answers": {"text": ["Here"]}},
    "Label Studio": {"data": {"prompt": "Where?"}, "annotations": [{"result": "Here"}]},
    "summaries": {"info": {"post": "Long"}, "summaries": [{"text": "a"}, {"text": "b"}]},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_row_is_no_row(name: str, tmp_path: Path, home: object) -> None:
    """Alone it has lost the question or the answer; --fix made texts of them."""
    row = PARTS[name]
    fix = first([row] * 2, "unknown_format").fix
    assert "one row a line" not in fix and "--fix" not in fix
    rows = [row, {**row, "id": 2}]
    assert fixed(tmp_path / "parts.jsonl", "\n".join(map(json.dumps, rows))) == rows


def test_whole_rows_in_a_row_are_offered_to_fix(tmp_path: Path, home: object) -> None:
    """As it writes them: with the keys beside."""
    inner = {"prompt": "Where?", "completion": "Here"}
    row = {"row_idx": 7, "row": inner}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert FIX in first(tmp_path / "rows.jsonl", "unknown_format").fix
    assert fixed(tmp_path / "rows.jsonl", json.dumps(row)) == [{**inner, "row_idx": 7}]


# -- lines -------------------------------------------------------------------------------------

LEFT_OF = {
    "an array that was cut off": "[" + ",\n".join(LINES),
    "an array, its bracket on a line": "[\n" + ",\n".join(LINES),
    "a pretty array that was cut off": "[\n" + ",\n".join(
        json.dumps(json.loads(line), indent=1) for line in LINES) + ",\n",
    "the end of an array": ",\n".join(LINES) + "]",
    "Markdown": "```jsonl\n" + "\n".join(LINES) + "\n```\n",
    "a sequence": "".join(f"\x1e{line}\n" for line in LINES),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OF)
def test_what_stands_around_rows(name: str, tmp_path: Path, home: object) -> None:
    """The rows are the same without it."""
    path = tmp_path / "train.jsonl"
    assert fixed(path, LEFT_OF[name]) == [json.loads(line) for line in LINES]
    assert any(FIX in one.fix for one in gateway.validate(path).errors)


@pytest.mark.parametrize(("text", "is_read"), [("Où est-il ?", True), ("Где он?", False)])
def test_fix_is_offered_of_encodings_that_it_reads(
    text: str, is_read: bool, tmp_path: Path, home: object
) -> None:
    """Not of Cyrillic, which it leaves as it is."""
    line = json.dumps({"prompt": text, "completion": "x"}, ensure_ascii=False)
    (path := tmp_path / "t.jsonl").write_bytes(line.encode("cp1252" if is_read else "cp1251"))
    assert (FIX in first(path, "encoding_not_utf8").fix) == is_read


def test_a_pointer_of_git_lfs(tmp_path: Path, home: object) -> None:
    """It stands where a file should be."""
    path = tmp_path / "train.jsonl"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    assert "git lfs pull" in first(path, "not_json").fix


def test_two_columns_of_one_name_have_no_line(tmp_path: Path, home: object) -> None:
    """The first row with both was named, not the header."""
    (path := tmp_path / "t.csv").write_text("prompt,prompt,completion\na,b,c\n")
    with pytest.raises(DataError, match="two of its columns are named 'prompt'"):
        Dataset.open(path)


# -- calls, contents, columns ------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["{'a': True}", '{"a": 1,}'])
def test_calls_as_mistral_and_python_write_them(
    arguments: str, tmp_path: Path, home: object
) -> None:
    """Both are fixed, and said to be."""
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    row = {
        "messages": [ROW["messages"][0], {"role": "assistant", "tool_calls": [call]}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    for code in ("tool_type", "tool_args_json"):
        assert "--fix does" in first([row], code).fix
    (made,) = fixed(tmp_path / "calls.jsonl", json.dumps(row))
    (call,) = made["messages"][1]["tool_calls"]
    assert call["type"] == "function" and json.loads(call["function"]["arguments"]) in (
        {"a": True}, {"a": 1},
    )  # fmt: skip
    assert gateway.validate([made] * 10, quality=False).ok


def test_an_answer_that_is_an_object(home: object) -> None:
    """What to write is said."""
    row = {"messages": [ROW["messages"][0], {"role": "assistant", "content": {"a": 1}}]}
    assert "json.dumps" in first([row], "type_error").fix


@pytest.mark.parametrize(("label", "is_fixed"), [("True", True), (0, True), (-1, False)])
def test_labels_that_fix_writes_are_said(label: object, is_fixed: bool, home: object) -> None:
    """Others are the user's."""
    row = {"prompt": "Where?", "completion": "Here", "label": label}
    assert ("--fix does" in first([row], "label").fix) == is_fixed


def test_an_offered_map_says_what_it_leaves_out() -> None:
    """The choices of a question, the text it is about."""
    said = offer({"question": "Where?", "A": "here", "B": "there", "answer": "A"})
    assert "'A', 'B' can be left out, add --map question=prompt,answer=completion" in said


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"context": "x", "response1": "a", "response2": "b", "overall_preference": 1}, "chosen"),
        ({"history": "x", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "chosen"),
        ({"info": {"post": "x"}, "summaries": [{"text": "a"}], "choice": 0}, "chosen"),
        ({"anchor": "x", "positive": "a", "negative": "b"}, "embedding"),
        ({"query": "x", "pos": ["a"], "neg": ["b"]}, "embedding"),
        ({"attributes.llm.input_messages": []}, "OpenInference"),
    ],
)
def test_sets_that_are_no_rows_are_named(row: Json, word: str, home: object) -> None:
    """No map of theirs was right: it learned one answer whatever the score."""
    finding = first([row], "unknown_format")
    assert word in finding.message + finding.fix and "--map" not in finding.fix
