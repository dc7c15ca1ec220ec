"""A file is read as what it holds, whatever its name: each row on its line, none lost, and what is
wrong with it said with the line and the way out."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import pprint
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.paths import SHARED_DATA
from support.rows import chat_rows
from support.workbooks import Cell, workbook

import finetune_gateway as gateway
from finetune_gateway import Dataset, FakeBackend
from finetune_gateway.cli import main
from finetune_gateway.data.python_literals import read_literal
from finetune_gateway.errors import DataError, MissingDependency
from finetune_gateway.text.windows_1252 import read_windows_1252

Json = dict[str, Any]

CHATS = chat_rows(12)
LINES = "".join(json.dumps(row) + "\n" for row in CHATS)
PAIRS = [
    {"prompt": f"Où est la salle {n} ?", "completion": f"Après la {n}e porte."} for n in range(12)
]
COLUMNS = {
    key: {str(n): row[key] for n, row in enumerate(PAIRS)} for key in ("prompt", "completion")
}
CELLS = [[row["prompt"], row["completion"]] for row in PAIRS]
HEADER = ["prompt", "completion"]


def table(rows: Sequence[Sequence[str]], mark: str = ",", end: str = "\r\n") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=mark, lineterminator=end).writerows(rows)
    return file.getvalue()


def opened(folder: Path, name: str, raw: str | bytes) -> Dataset:
    path = folder / name
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    return Dataset.open(path, spool=folder / "spool")


def rows_of(dataset: Dataset) -> list[Json]:
    return [row.data for row in dataset.rows()]


def numbers(dataset: Dataset) -> list[int]:
    return [row.line for row in dataset.rows()]


def noted(dataset: Dataset) -> set[str]:
    return {one.code for one in dataset.reading.observations.values()}


# -- content before the name -----------------------------------------------------------------------

SAME: dict[str, tuple[str, str | bytes, str, list[Json]]] = {
    **{
        f"JSON lines in {name}": (name, LINES, "jsonl", CHATS)
        for name in ("a.txt", "A.TXT", "a.csv", "a.tsv", "a.json", "a.jsonl.txt", "a", "a.dat")
    },
    "JSON lines with a mark": ("a.txt", "\ufeff" + LINES, "jsonl", CHATS),
    "JSON lines after a blank": ("a.csv", "\n" + LINES, "jsonl", CHATS),
    "an array in .txt": ("a.txt", json.dumps(CHATS), "json-array", CHATS),
    "an array in .csv": ("a.csv", json.dumps(CHATS, indent=1), "json-array", CHATS),
    "an array without a name": ("a", json.dumps(CHATS), "json-array", CHATS),
    "an array in UTF-16": ("a.json", json.dumps(CHATS).encode("utf-16"), "json-array", CHATS),
    **{
        f"under {key}": ("a.json", json.dumps({key: CHATS}, indent=2), "json-object", CHATS)
        for key in ("data", "rows", "train", "examples", "anything")
    },
    "under a key after others": (
        "a.json", json.dumps({"version": 1, "by": {"name": "x"}, "data": CHATS}), "json-object", CHATS),
    "under two keys": ("a.txt", json.dumps({"result": {"data": CHATS}}), "json-object", CHATS),
    "pandas' columns": ("a.json", json.dumps(COLUMNS), "json-object", PAIRS),
    "pandas' columns in .txt": ("a.txt", json.dumps(COLUMNS, indent=1), "json-object", PAIRS),
    "columns as lists": (
        "a.json", json.dumps({key: list(column.values()) for key, column in COLUMNS.items()}),
        "json-object", PAIRS),
    "a column of messages": (
        "a.json", json.dumps({"messages": [row["messages"] for row in CHATS]}), "json-object", CHATS),
    "pandas' split": (
        "a.json", json.dumps({"columns": HEADER, "index": list(range(12)), "data": CELLS}), "json-object", PAIRS),
    "pandas' index": (
        "a.json", json.dumps({str(n): row for n, row in enumerate(PAIRS)}), "json-object", PAIRS),
    "pandas' table": (
        "a.json", json.dumps({"schema": {"fields": [{"name": "prompt", "type": "string"}]}, "data": PAIRS}),
        "json-object", PAIRS),
    **{
        f"a table by {mark!r} in {name}": (name, table([HEADER, *CELLS], mark), "csv", PAIRS)
        for mark, name in ((",", "a.csv"), (";", "a.csv"), ("\t", "a.txt"), ("|", "a.csv"), (",", "a.json"),
                           ("\t", "a.tsv"), (";", "a"))
    },
    "Excel's Unicode text": ("a.txt", table([HEADER, *CELLS], "\t").encode("utf-16"), "csv", PAIRS),
    "UTF-16 without a mark": ("a.csv", table([HEADER, *CELLS]).encode("utf-16-le"), "csv", PAIRS),
    "UTF-16, big-endian": ("a.csv", table([HEADER, *CELLS]).encode("utf-16-be"), "csv", PAIRS),
    "Excel's line of the delimiter": ("a.csv", "sep=;\r\n" + table([HEADER, *CELLS], ";"), "csv", PAIRS),
    "the same with a mark": ("a.csv", "\ufeffsep=|\n" + table([HEADER, *CELLS], "|"), "csv", PAIRS),
    "capitals and spaces": ("a.csv", table([["Prompt", " Completion "], *CELLS]), "csv", PAIRS),
    "messages as JSON": (
        "a.csv", table([["Messages"], *([json.dumps(row["messages"])] for row in CHATS)]), "csv", CHATS),
    "messages as Python": (
        "a.csv", table([["messages"], *([repr(row["messages"])] for row in CHATS)]), "csv", CHATS),
    "messages as NumPy prints them": (
        "a.csv", table([["messages"], *([f"[{one['messages'][0]}\n {one['messages'][1]}]"] for one in CHATS)]),
        "csv", CHATS),
}  # fmt: skip

SAME |= {
    "JSON lines, a cell each": ("a.csv", table([[json.dumps(row)] for row in CHATS]), "csv", CHATS),
    "the same with a header": ("a.csv", table([["json"], *([json.dumps(row)] for row in CHATS)]), "csv", CHATS),
    "JSON lines that Excel cut at commas": (
        "a.csv", table([json.dumps(row).split(",") for row in CHATS]), "csv", CHATS),
    "a title above the header": ("a.csv", "My data\n\n" + table([HEADER, *CELLS]), "csv", PAIRS),
    "turns by line": (
        "a.csv", table([["id", "from", "value"], ["1", "human", "a"], ["1", "gpt", "b"]]), "csv",
        [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_a_file_is_read_as_what_it_holds(case: str, tmp_path: Path) -> None:
    """The rows are those that were written, in whatever container, encoding and name."""
    name, raw, container, wanted = SAME[case]
    dataset = opened(tmp_path, name, raw)
    assert (dataset.container, rows_of(dataset)) == (container, wanted)


def test_prose_stays_prose(tmp_path: Path) -> None:
    """A text about JSON or with commas in its first line is a text."""
    for text in (
        "{curly} is a word.\nSo is [square].\n",
        "Dear Ann, hello, it is me.\n",
        "[Verse]\nla\n",
    ):
        dataset = opened(tmp_path, "a.txt", text)
        assert [row["text"] for row in rows_of(dataset)] == text.splitlines()


def test_lines_of_as_many_tabs_are_a_table(tmp_path: Path) -> None:
    """Excel's "Unicode text" is UTF-16 named .txt, and its columns may have names of the user's own;
    a tab here and there makes no table."""
    cells = [["Frage", "Antwort"], ["Wo?", 'Im "Lager"\nhinten'], ["Wann?", "Morgen"]]
    dataset = opened(tmp_path, "a.txt", table(cells, "\t").encode("utf-16"))
    assert dataset.container == "csv"
    assert rows_of(dataset) == [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    prose = "One\ttab.\nNone.\nTwo\ttabs\there.\n"
    for text in (prose, "One\tline.\n"):
        wide = opened(tmp_path, "b.txt", text.encode("utf-16"))
        assert rows_of(wide) == [{"text": one} for one in text.splitlines()]


@pytest.mark.parametrize("texts", [["\0"] * 2, ["\0"] * 4, ["a\0b\0"], ["a\0b\0c", "d\0"]])
def test_texts_with_nuls_are_no_utf16(texts: list[str], tmp_path: Path) -> None:
    """A NUL beside each of the first letters makes no other encoding: every text is read."""
    dataset = opened(tmp_path, "rows.txt", "".join(f"{text}\n" for text in texts))
    assert rows_of(dataset) == [{"text": text} for text in texts]


def test_a_row_of_blanks_is_a_row(tmp_path: Path) -> None:
    """Blank lines above a header are none; below it, cells of spaces are values, as anywhere."""
    dataset = opened(tmp_path, "rows.csv", "\n \nprompt,completion\n , \n\n,\na,b\n")
    assert rows_of(dataset) == [
        {"prompt": " ", "completion": " "},
        {"prompt": "a", "completion": "b"},
    ]
    assert numbers(dataset) == [4, 7]


def test_one_row_is_no_envelope(tmp_path: Path) -> None:
    """A file of a single row, or of rows that begin with lists, is JSON lines."""
    calls = {"messages": [{"role": "user", "content": "Hi"}], "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {}}}]}  # fmt: skip
    pair = {
        "input": {"messages": CHATS[0]["messages"][:1]},
        "preferred_output": [],
        "x": [{"a": 1}],
    }
    for row in (
        calls,
        pair,
        {"prompt": "a", "completion": "b"},
        {"text": "x", "data": [{"text": "y"}]},
    ):
        dataset = opened(tmp_path, "a.json", json.dumps(row))
        assert (dataset.container, rows_of(dataset)) == ("jsonl", [row])


def test_rows_under_several_keys_are_asked_for(tmp_path: Path) -> None:
    """Which are meant is not guessed; the keys and a command are named."""
    with pytest.raises(DataError, match="'train', 'test'. Which") as caught:
        opened(tmp_path, "a.json", json.dumps({"train": CHATS, "test": CHATS[:2]}))
    assert "jq -c '.train[]'" in caught.value.hint


def test_columns_of_other_lengths_are_refused(tmp_path: Path) -> None:
    """No cell is put beside that of another row."""
    broken = {"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "2": "d"}}
    with pytest.raises(DataError, match="row 2: the columns 'prompt', 'completion'"):
        opened(tmp_path, "a.json", json.dumps(broken))


def test_a_name_that_promises_json_lines_is_taken_at_its_word(home: Path, tmp_path: Path) -> None:
    """The file is rejected with what it is, and --fix reads it."""
    for raw, code in (
        (table([HEADER, *CELLS]).encode(), "not_json"),
        (workbook({"Train": [HEADER, *CELLS]}), "not_text"),
        (json.dumps({"data": PAIRS}, indent=1).encode(), "pretty_printed"),
        (json.dumps(PAIRS).encode("utf-16"), "encoding_utf16"),
        (gzip.compress(table([HEADER, *CELLS]).encode()), "compressed"),
        (bz2.compress(LINES.encode()), "compressed"),
        (lzma.compress(json.dumps({"rows": PAIRS}).encode()), "compressed"),
    ):
        dataset = opened(tmp_path, "a.jsonl", raw)
        report = dataset.validate()
        assert not report.ok and report.findings[0].code == code
        assert "--fix" in report.findings[0].fix
        fixed = dataset.fix(tmp_path / "out.jsonl", force=True)
        assert (fixed.rows, fixed.report.errors) == (12, [])


def test_a_damaged_file_is_said_to_be_damaged(home: Path, tmp_path: Path) -> None:
    """What cannot be decompressed to its end leaves no copy."""
    whole = gzip.compress(LINES.encode())
    for raw in (whole[:-20], whole[:40] + b"\xff" * 20 + whole[60:], b"\x1f\x8b\x08"):
        with pytest.raises(DataError, match="cannot be read to its end"):
            opened(tmp_path, "a.jsonl.gz", raw).fix(tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


# -- lines -----------------------------------------------------------------------------------------


def test_lines_are_those_of_the_file(home: Path, tmp_path: Path) -> None:
    """Records with line breaks, blank lines and a header; a finding and its detail name the lines
    that an editor shows."""
    raw = 'sep=,\nprompt,completion\n\n"a\nb\nc",d\ne,f\n\n"a\nb\nc",d\ng,\n'
    dataset = opened(tmp_path, "a.csv", raw)
    assert (numbers(dataset), dataset.reading.numbering) == ([4, 7, 9, 12], "line")
    findings = {one.code: one for one in dataset.validate().findings}
    assert (
        findings["duplicates"].line == 9
        and "line 9 repeats line 4" in findings["duplicates"].message
    )
    assert findings["missing_completion"].lines == [12]
    assert "blank_line" not in findings


def test_an_array_by_line_and_on_one_line(tmp_path: Path) -> None:
    """Rows that begin on lines of their own have these; others are counted."""
    by_line = opened(tmp_path, "a.json", json.dumps({"data": PAIRS[:3]}, indent=1))
    assert (numbers(by_line), by_line.reading.numbering) == ([3, 7, 11], "line")
    compact = opened(tmp_path, "b.json", json.dumps(PAIRS[:3]))
    assert (numbers(compact), compact.reading.numbering) == ([1, 2, 3], "row")
    mixed = opened(tmp_path, "c.json", '[{"text": "a"},\n{"text": "b"}, {"text": "c"}]')
    assert (numbers(mixed), mixed.reading.numbering) == ([1, 2, 3], "row")


def test_a_list_in_a_cell_that_is_no_json(home: Path, tmp_path: Path) -> None:
    """Why it cannot be read is said, with its line; the other rows are good."""
    cut = json.dumps(CHATS[0]["messages"])[:-20]
    cells = [
        ["messages"],
        *([json.dumps(row["messages"])] for row in CHATS[1:]),
        [cut],
        ["[{“role”: 1}]"],
    ]
    report = opened(tmp_path, "a.csv", table(cells)).validate()
    assert [(one.code, one.lines) for one in report.errors] == [("type_error", [13, 14])]
    assert "begins like a list in JSON, but" in report.errors[0].message


def test_a_page_of_a_web_site_is_no_table(home: Path, tmp_path: Path) -> None:
    """An answer in HTML under the name .csv is called that."""
    report = opened(
        tmp_path, "a.csv", "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"
    ).validate()
    assert report.errors[0].code == "other_file" and "HTML" in report.errors[0].message


def test_what_is_sent_has_no_gaps(home: Path, tmp_path: Path) -> None:
    """Blank lines between rows are ours; a job gets the rows alone, held out or not."""
    raw = json.dumps(chat_rows(60), indent=1)
    backend = FakeBackend()
    for share in (0, None):
        job = gateway.submit(
            opened(tmp_path, "a.json", raw), model="m", backend=backend, validation_split=share
        )
        lines = Path(job.record.train.path).read_bytes().splitlines()
        assert len(lines) == job.record.train.rows and all(lines)


# -- tables ----------------------------------------------------------------------------------------


def test_a_header_is_asked_for(home: Path, tmp_path: Path) -> None:
    """A first line that is a row is one: it is kept, and the question is put."""
    dataset = opened(tmp_path, "a.csv", table(CELLS))
    report = dataset.validate()
    (finding,) = [one for one in report.errors if one.code == "header_missing"]
    assert finding.line == 1 and "no header?" in finding.message.lower() and report.rows == 12
    with pytest.raises(DataError, match="line 1: no header?"):
        rows_of(dataset)
    fixed = dataset.fix(tmp_path / "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first == {"column 1": CELLS[0][0], "column 2": CELLS[0][1]}
    assert (fixed.rows, fixed.unsafe[0].finding.code) == (12, "header_missing")


@pytest.mark.parametrize("header", [["Frage", "Antwort"], ["ask", "reply"], ["q", "a"]])
def test_other_names_are_names(tmp_path: Path, header: list[str]) -> None:
    """They are kept as keys, and said to be taken for names."""
    dataset = opened(tmp_path, "a.csv", table([header, *CELLS]))
    assert (list(rows_of(dataset)[0]), noted(dataset)) == (header, {"header_unknown"})


@pytest.mark.parametrize("header", [
    ["question", "answer"], ["system", "user", "assistant"], ["Instruction", "Input", "Response"],
    ["user", "assistant", "did it help?"],
])  # fmt: skip
def test_known_columns_are_handed_over(tmp_path: Path, header: list[str]) -> None:
    """As rows with these keys, in lower case."""
    dataset = opened(tmp_path, "a.csv", table([header, ["a", "b", "c"][: len(header)]]))
    assert rows_of(dataset) == [dict(zip(map(str.lower, header), "abc", strict=False))]


def test_a_line_that_cannot_be_read_hides_no_other(home: Path, tmp_path: Path) -> None:
    """Too many cells, text after a quote, a quote that is not closed: each is said with its line,
    and the others are read."""
    raw = (
        "prompt,completion\n"
        "a,b\n"
        "Where?,Past the hall, then left.\n"
        'She,"said "yes" twice\n'
        '"c\nd",e\n'
        'open,"never closed\n'
        "f,g\n"
    )  # fmt: skip
    dataset = opened(tmp_path, "a.csv", raw)
    report = dataset.validate()
    found = {one.code: one.lines for one in report.errors}
    assert found["cells_extra"] == [3] and found["quote_unbalanced"] == [4, 7]
    assert report.rows == 6 and "row_not_object" not in found


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Where?,Past the hall, then left.", "Put the cell into double quotes"),
        ('She,"said "yes" twice', "Write a quote inside"),
        ('"He said \\"no\\", yes",b', "sed 's"),
    ],
)
def test_fix_writes_nothing_where_cells_are_not_known(
    ftg: Ftg, tmp_path: Path, name: str, line: str, words: str
) -> None:
    """A line of a table is no row in JSON: it says what is wrong, where, and what to do there."""
    path, out = tmp_path / name, tmp_path / "out.jsonl"
    path.write_text("prompt,completion\n" + f"a,b\n{line}\n" * 12)
    result = ftg("validate", str(path), "--fix", str(out))
    said = " ".join(result.stderr.split())
    assert result.returncode == DataError.exit_code
    assert "line 3 (12 such lines): " in said and "; nothing was written." in said
    assert words in said
    assert sorted(tmp_path.glob("out*")) == []


def test_a_quote_at_the_top_does_not_read_the_file_for_each_line(
    home: Path, tmp_path: Path
) -> None:
    """Each of 3,000 lines opens a quote that is never closed; all of them are kept."""
    raw = "prompt,completion\n" + "".join(f'"{n} a,b\n' for n in range(3000))
    dataset = opened(tmp_path, "a.csv", raw)
    assert sum(1 for line in dataset.lines() if line.raw) >= 2900
    text = b"".join(line.raw for line in dataset.lines()).decode()
    assert all(f"{n} a,b" in text for n in range(3000))


def test_windows_1252_is_named_and_read_by_fix(home: Path, tmp_path: Path) -> None:
    """In a table, an array and JSON lines: the line, the byte and the word; --fix reads it, and the
    log says so."""
    for name, raw in (
        ("a.csv", table([HEADER, *CELLS], ";")),
        ("a.json", json.dumps(PAIRS, ensure_ascii=False, indent=1)),
        ("a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS)),
        ("b.json", json.dumps({"data": PAIRS}, ensure_ascii=False)),
    ):
        dataset = opened(tmp_path, name, raw.encode("cp1252"))
        report = dataset.validate()
        (finding,) = [one for one in report.errors if one.code == "encoding_not_utf8"]
        assert "0xF9" in finding.message and "--fix" in finding.fix
        with pytest.raises(DataError, match="line"):
            rows_of(dataset)
        fixed = dataset.fix(tmp_path / "out.jsonl", force=True)
        assert (fixed.rows, fixed.report.errors) == (12, [])
        assert "Où est la salle 11" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")
        assert fixed.changes["encoding_not_utf8"] >= 1


@pytest.mark.parametrize("page, text", [
    ("cp1251", "Где мой пакет?"), ("cp1250", "łódź może być"), ("cp1253", "Πού είναι;"),
    ("shift_jis", "荷物はどこですか"), ("gbk", "我的包裹在哪里"), ("mac_roman", "un café"),
    ("cp437", "un café"), ("cp1250", "ěščřžýáíé, dům"),
])  # fmt: skip
def test_other_code_pages_are_not_guessed(tmp_path: Path, page: str, text: str) -> None:
    """Bytes that would be wrong letters are left, and the place is named."""
    assert read_windows_1252(text.encode(page)) is None
    with pytest.raises(DataError, match="line 2: byte .* nor Windows-1252") as caught:
        opened(tmp_path, "a.csv", f"prompt,completion\n{text},b\n".encode(page))
    assert "iconv" in caught.value.hint


def test_cells_without_a_value(home: Path, tmp_path: Path) -> None:
    """What pandas and Excel write for a missing value or an error is no answer to be learned."""
    cells = [["a", "nan"], ["b", "#NAME?"], ["c", "NaN"], ["d", "nan, the bread"], ["e", "#REF!"]]
    dataset = opened(tmp_path, "a.csv", table([HEADER, *cells]))
    found = {(one.code, line) for one in dataset.validate().warnings for line in one.lines}
    assert {
        ("no_value", 2),
        ("spreadsheet_error", 3),
        ("no_value", 4),
        ("spreadsheet_error", 6),
    } <= found
    fixed = dataset.fix(tmp_path / "out.jsonl")
    assert {one.finding.code for one in fixed.unsafe} >= {"no_value", "spreadsheet_error"}


def test_a_cell_that_mysql_or_a_spreadsheet_left_is_no_answer(home: Path, tmp_path: Path) -> None:
    """\\N and a formula as a whole cell; a text about either is one."""
    cells = [
        ["a", r"\N"], ["b", "=VLOOKUP(A2;B:C;2)"], ["c", "#N/A"], ["d", r"\N is NULL."],
        ["e", "=SUM(A1:A3) adds three cells."], ["f", "= 3"],
    ]  # fmt: skip
    warnings = opened(tmp_path, "a.csv", table([HEADER, *cells])).validate().warnings
    found = {(one.code, line) for one in warnings for line in one.lines}
    expected = {("no_value", 2), ("spreadsheet_error", 3), ("spreadsheet_error", 4)}
    assert {one for one in found if one[0] in ("no_value", "spreadsheet_error")} == expected
    assert any("a formula, not its value" in one.message for one in warnings)


def test_quotes_as_mysql_escapes_them_are_said_with_a_command(home: Path, tmp_path: Path) -> None:
    """The command in the finding, run as it stands, makes a file that is read."""
    raw = "".join(f'"{n}. Who said \\"Yes\\"?","Number {n}."\n' for n in range(12))
    report = opened(tmp_path, "old.csv", f'"prompt","completion"\n{raw}').validate()
    finding = next(one for one in report.errors if one.code == "quote_unbalanced")
    assert "as MySQL exports it" in finding.message and finding.count == 12
    command = finding.fix.partition(": ")[2]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    rows = [one.data for one in gateway.Dataset.open(tmp_path / "new.csv").rows()]
    assert rows[3] == {"prompt": '3. Who said "Yes"?', "completion": "Number 3."}


def test_messages_by_line(home: Path, tmp_path: Path) -> None:
    """A column that tells conversations apart, or their system messages; without either it is
    asked, and nothing is joined."""
    by_id = [["Conversation ID", "role", "content"], ["7", "user", "a"], ["7", "assistant", "b"],
             ["8", "user", "c"], ["8", "assistant", "d"]]  # fmt: skip
    dataset = opened(tmp_path, "a.csv", table(by_id))
    assert [(row.line, [one["content"] for one in row.data["messages"]]) for row in dataset.rows()] == [
        (2, ["a", "b"]), (4, ["c", "d"])]  # fmt: skip
    system = [
        ["role", "content"],
        *([role, role] for _ in range(2) for role in ("system", "user", "assistant")),
    ]
    assert len(rows_of(opened(tmp_path, "b.csv", table(system)))) == 2
    bare = opened(
        tmp_path, "c.csv", table([["role", "content"], ["user", "a"], ["assistant", "b"]])
    )
    (finding,) = [one for one in bare.validate().errors if one.code == "conversation_unknown"]
    assert "conversation_id" in finding.fix
    assert bare.fix(tmp_path / "out.jsonl").rows == 2
    again = opened(tmp_path, "d.csv", table([*by_id, ["7", "user", "e"]]))
    found = {one.code: one for one in again.validate().errors}
    assert found["conversation_unknown"].line == 6 and "Sort" in found["conversation_unknown"].fix


# -- workbooks -------------------------------------------------------------------------------------


def test_a_workbook_is_read_by_its_rows(home: Path, tmp_path: Path) -> None:
    """Whatever its name: the rows have the numbers that Excel shows; numbers and truth are texts."""
    pytest.importorskip("python_calamine")
    sheet: list[list[Cell]] = [
        [],
        ["Prompt", "Completion"],
        ["a", 42.0],
        [],
        ["b", True],
        ["c", 1.5],
    ]
    for name in ("a.xlsx", "a.csv", "a"):
        dataset = opened(tmp_path, name, workbook({"Train": sheet, "Notes": [["x"]], "Empty": []}))
        assert dataset.container == "excel" and dataset.reading.place == "Train"
        assert [(row.line, row.data["completion"]) for row in dataset.rows()] == [
            (3, "42"), (5, "TRUE"), (6, "1.5")]  # fmt: skip
        assert "'Notes'" in dataset.reading.observations["sheet_chosen", ""].detail


def test_several_sheets_are_asked_for(tmp_path: Path) -> None:
    """Two sheets with rows are named, not joined; a workbook that is none is said to be damaged."""
    pytest.importorskip("python_calamine")
    with pytest.raises(DataError, match="several sheets: 'A', 'B'"):
        opened(tmp_path, "a.xlsx", workbook({"A": [HEADER, *CELLS], "B": [HEADER, *CELLS]}))
    with pytest.raises(DataError, match="is a workbook, but cannot be read"):
        opened(tmp_path, "a.xlsx", workbook({"A": [HEADER]})[:300])


def test_a_workbook_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(MissingDependency) as caught:
        opened(tmp_path, "a.xlsx", workbook({"A": [HEADER]}))
    assert "finetune-gateway[excel]" in caught.value.hint


# -- Python ----------------------------------------------------------------------------------------


def test_what_python_prints_is_read_by_fix(home: Path, tmp_path: Path) -> None:
    """A dict a line, a list of them, lists as texts in JSON lines."""
    rows = [{**row, "n": n, "ok": True, "none": None} for n, row in enumerate(CHATS)]
    for raw in (
        "".join(f"{row}\n" for row in rows),
        repr(rows),
        pprint.pformat(rows[:3], sort_dicts=False) + "\n" + "".join(f"{row}\n" for row in rows[3:]),
        "".join(json.dumps(json.dumps(row)) + "\n" for row in rows),
        "".join(
            json.dumps({**row, "messages": json.dumps(row["messages"])}) + "\n" for row in rows
        ),
        "".join(json.dumps({**row, "messages": str(row["messages"])}) + "\n" for row in rows),
    ):
        dataset = opened(tmp_path, "a.jsonl", raw)
        assert not dataset.validate().ok
        fixed = dataset.fix(tmp_path / "out.jsonl", force=True)
        assert [
            json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()
        ] == rows
        assert fixed.report.ok


@pytest.mark.parametrize("text", [
    "f()", "{'a': 1, 'a': 2}", "[" * 500, "{1: 2}", "{'a': nan}", "{'a': 1e999}", "{'a': b'x'}", "{'a': {1}}",
    "'\\d'", "{'a': x}", "[{'a': 1} ... {'a': 2}]", "-" * 5000 + "1", "{**{'a': 1}}", "", "{'a': 1j}",
])  # fmt: skip
def test_other_python_is_left_alone(text: str) -> None:
    """No code runs, and no key is lost."""
    with pytest.raises((ValueError, RecursionError)):
        read_literal(text)


# -- the kinds that people have reported ---------------------------------------------------------

FIELD = SHARED_DATA / "field_cases"
FILES = sorted(
    path
    for folder in ("04-txt-with-json-lines", "05-csv-chat-cells")
    for path in FIELD.glob(f"{folder}/*")
)


@pytest.mark.shared
@pytest.mark.skipif(not FILES, reason="the data sets are not beside the checkout")
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_reported_files_have_no_dead_end(
    path: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is read or said with a way out, and a fixed copy holds all its rows."""
    if path.name == "book-as.jsonl":  # not a whole workbook
        assert main(["validate", str(path)]) == 3
        assert "workbook" in capsys.readouterr().out
        return
    assert main(["validate", str(path), "--json"]) in (0, 3)
    report = json.loads(capsys.readouterr().out)
    assert all(one["fix"] for one in report["findings"] if one["severity"] == "error")
    rows = {"one.json": 1, "role-content.csv": 24}.get(path.name, 12)
    assert main(["validate", str(path), "--fix", str(tmp_path / "out.jsonl"), "--quiet"]) in (0, 3)
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == rows
