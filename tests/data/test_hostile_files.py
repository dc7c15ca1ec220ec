"""Files that lie: bombs, cells out of reach, columns of one name, names that are no words."""

import bz2
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as gateway
from finetune_gateway.data import compression, csv_file, json_reader
from finetune_gateway.data.columns import offer
from finetune_gateway.data.python_literals import read_literal
from finetune_gateway.errors import DataError

ROW = {"prompt": "Where is it?", "completion": "On its way."}
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def _workbook(path: Path, rows: str) -> Path:
    """Write a workbook of one sheet with these rows."""
    types, office = "application/vnd.openxmlformats-", "officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
        f'content-types"><Default Extension="rels" ContentType="{types}package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/><Override PartName='
        f'"/xl/workbook.xml" ContentType="{types}{office}.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="r1" Type="{_REL}/'
        'officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_REL}"><sheets>'
        '<sheet name="Rows" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}"><Relationship Id="r1" '
        f'Type="{_REL}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData>'
        "</worksheet>",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, text in parts.items():
            file.writestr(name, text)
    return path


def _cell(place: str, text: str) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def test_a_cell_in_the_last_row_and_column_ends_no_process(tmp_path: Path) -> None:
    """The reader makes place for every cell up to the last one: 400 GB for a file of 2 kB."""
    pytest.importorskip("python_calamine")
    head = f'<row r="1">{_cell("A1", "prompt")}{_cell("B1", "completion")}</row>'
    near = f'<row r="2">{_cell("A2", "Hi")}{_cell("B2", "Hello")}</row>'
    far = f'<row r="1048576">{_cell("XFD1048576", "x")}</row>'
    good = gateway.Dataset.open(_workbook(tmp_path / "good.xlsx", head + near))
    assert [row.data for row in good.rows()] == [{"prompt": "Hi", "completion": "Hello"}]
    assert good.reading.place == "Rows"
    with pytest.raises(DataError, match="more than 4 GB of memory"):
        gateway.Dataset.open(_workbook(tmp_path / "far.xlsx", head + near + far))


def test_what_unpacks_without_end_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    """A small file that holds gigabytes is refused, and one endless line ends the reading."""
    monkeypatch.setattr(compression, "_MOST", 1 << 20)
    path = tmp_path / "lines.jsonl.bz2"
    path.write_bytes(bz2.compress(b"\n" * (8 << 20)))
    with pytest.raises(DataError, match="no training file"):
        gateway.Dataset.open(path).fix(tmp_path / "better.jsonl")
    monkeypatch.setattr(compression, "MAX_LINE", 1 << 20)
    path.write_bytes(bz2.compress(b"x" * (8 << 20)))
    dataset = compression.decompressed(gateway.Dataset.open(path))
    assert dataset.size <= 3 << 20


@pytest.mark.parametrize("name", ["prose.txt", "table.csv"])
def test_a_line_without_an_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    """Only as much of a line is read as a row may have."""
    for module in (json_reader, csv_file):
        monkeypatch.setattr(module, "MAX_ROW", 100)
    path = tmp_path / name
    path.write_text("prompt,completion\n" + "x" * 1000 + "\n")
    longest = max(len(line.raw) for line in gateway.Dataset.open(path).lines())
    assert 100 < longest < 200


def test_a_literal_of_millions_of_values_is_not_parsed() -> None:
    """Python's parser takes 400 bytes for each value."""
    with pytest.raises(ValueError, match="too large"):
        read_literal("[" + "1," * 600_000 + "]")
    prose = "word " * 400_000 + "[" * 200
    assert read_literal(str([{"role": "user", "content": prose}]))[0]["content"] == prose


@pytest.mark.parametrize("name", ["\x1b]0;own\x07q", "sk-proj-" + "Ab1xZ9" * 8, "q\u202e"])
def test_an_offered_map_shows_no_escape_and_no_key(name: str) -> None:
    """A command that is offered has the names of columns as they are: only plain ones."""
    shown = offer({name: "Where?", "b": "There.", "c": "Yes."})
    assert name not in shown
    assert "b=prompt,c=completion" in shown
    assert offer({name: "Where?", "b": "There."}) == ""


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    """In Parquet as in a table: one of them would be lost."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [pa.array(["a"])] * 3
    table = pa.Table.from_arrays(texts, names=["prompt", "prompt", "completion"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="two columns are named 'prompt'"):
        gateway.Dataset.open(tmp_path / "rows.parquet")


def test_columns_of_dates_and_gaps_do_not_refuse_a_table(tmp_path: Path) -> None:
    """A date, a decimal and a NaN beside the example are values, and a gap; a date that Python
    does not know, and bytes that are no text, are an error in words."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def opened(**columns: Any) -> gateway.Dataset:
        table = pa.table({**{key: [value] for key, value in ROW.items()}, **columns})
        parquet.write_table(table, tmp_path / "rows.parquet")
        return gateway.Dataset.open(tmp_path / "rows.parquet")

    made = pa.array([0], pa.timestamp("us"))
    (row,) = opened(made=made, price=pa.array([Decimal("1.00")]), gap=[float("nan")]).rows()
    assert row.data == {**ROW, "made": "1970-01-01T00:00:00", "price": "1.00"}
    with pytest.raises(DataError, match="out of range"):
        opened(made=pa.array([2**62], pa.timestamp("us")))
    wrong = pa.py_buffer(b"\xff\xfe")
    ends = pa.py_buffer(b"\0\0\0\0\2\0\0\0")
    with pytest.raises(DataError, match="utf-8"):
        opened(text=pa.StringArray.from_buffers(1, ends, wrong))


def test_no_column_of_many_is_lost(tmp_path: Path) -> None:
    """Pandas' columns beyond the 64th were left out in silence."""
    columns = {f"c{n}": ["x", "y"] for n in range(70)} | {key: [t, t] for key, t in ROW.items()}
    path = tmp_path / "rows.json"
    for many in (columns, {key: dict(enumerate(cells)) for key, cells in columns.items()}):
        path.write_text(json.dumps(many))
        with pytest.raises(DataError, match="more than 64 columns"):
            gateway.Dataset.open(path)
    path.write_text(json.dumps({f"row {n}": ROW for n in range(70)}))
    assert sum(1 for _ in gateway.Dataset.open(path).rows()) == 70


def test_rows_under_one_key_twice_are_not_dropped(tmp_path: Path) -> None:
    """An object with a key twice has two values, of which readers keep one."""
    rows = json.dumps([ROW])
    path = tmp_path / "rows.json"
    path.write_text(f'{{"data": {rows}, "data": {rows}}}')
    assert [one.code for one in gateway.validate(path).errors][-1] == "json_duplicate_key"


def test_a_letter_with_an_accent_is_found_in_either_form() -> None:
    """A name that a person types and one that a file has may differ in their code points alone."""
    rows = [{"re\u0301ponse": "There.", "q": "Where?"}]
    columns = {"r\u00e9ponse": "completion", "q": "prompt"}
    dataset = gateway.Dataset.open(rows, columns=columns)
    assert [row.data for row in dataset.rows()] == [{"completion": "There.", "prompt": "Where?"}]


@pytest.mark.parametrize(
    "row",
    [
        {
            "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Where?"}]},
                {"role": "model", "parts": [{"text": "There."}]},
            ],
        },
        {
            "modelInput": {"messages": [{"role": "user", "content": [{"text": "Where?"}]}]},
            "modelOutput": {
                "output": {"message": {"role": "assistant", "content": [{"text": "There."}]}}
            },
        },
        {"conversation": [{"human": "Where?", "assistant": "There."}] * 2},
    ],
)
def test_a_file_of_one_row_is_that_row(tmp_path: Path, row: dict[str, Any]) -> None:
    """Its parts were read as rows, and the rest of it was not."""
    path = tmp_path / "row.json"
    path.write_text(json.dumps(row, indent=1))
    fixed = gateway.Dataset.open(path).fix(tmp_path / "rows.jsonl")
    (one,) = gateway.Dataset.open(fixed.out).rows()
    assert [message["content"] for message in one.data["messages"]][-2:] == ["Where?", "There."]
    assert fixed.rows == 1
