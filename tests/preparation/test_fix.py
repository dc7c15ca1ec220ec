"""--fix: what is fixed, what is left, and that the input stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows
from support.work import assert_linear

from finetune_gateway import Dataset
from finetune_gateway.cli import main
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.preparation import fix as fixing

Json = dict[str, Any]
ROWS = chat_rows(12)
LINES = [json.dumps(row) for row in ROWS]
PLAIN = "\n".join(LINES) + "\n"


def fixed(raw: bytes | str, folder: Path, name: str = "in.jsonl") -> tuple[list[Json], list[Json]]:
    """The rows of the copy and the log."""
    source, out = folder / name, folder / "out.jsonl"
    before = raw.encode() if isinstance(raw, str) else raw
    source.write_bytes(before)
    report = Dataset.open(source, spool=folder / "spool").fix(out)
    assert source.read_bytes() == before
    log = [json.loads(line) for line in Path(report.log).read_text().splitlines()]
    assert sum(report.changes.values()) == len(log)
    assert report.rows == len(out.read_text().splitlines())
    return [json.loads(line) for line in out.read_text().splitlines()], log


WHOLE: dict[str, tuple[bytes | str, list[str]]] = {
    "a mark": (b"\xef\xbb\xbf" + PLAIN.encode(), ["utf8_bom"]),
    "marks inside": ("\n\ufeff".join(LINES), ["bom_inside"] * 11),
    "CRLF": (PLAIN.replace("\n", "\r\n"), ["line_terminator"]),
    "old Mac": (PLAIN.replace("\n", "\r"), ["line_terminator"]),
    "UTF-16": (PLAIN.encode("utf-16"), ["encoding_utf16"]),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-be"), ["encoding_utf16"]),
    "UTF-32": (PLAIN.encode("utf-32"), ["encoding_utf32"]),
    "blank lines": ("\n\n".join(LINES), ["blank_line"] * 11),
    "an array": (json.dumps(ROWS, indent=1), ["json_array_not_jsonl"]),
    "an array with a mark": ("\ufeff" + json.dumps(ROWS), ["utf8_bom", "json_array_not_jsonl"]),
    "arrays": (json.dumps(ROWS[:1]) + "\n" + "\n".join(LINES[1:]), ["json_array_not_jsonl"]),
    "an old Mac array": (
        json.dumps(ROWS, indent=1).replace("\n", "\r"),
        ["json_array_not_jsonl"],
    ),
    "old Mac, pretty": (
        "\r".join(json.dumps(row, indent=2).replace("\n", "\r") for row in ROWS),
        ["line_terminator", *["pretty_printed"] * 12],
    ),
    "pretty": ("\n".join(json.dumps(row, indent=2) for row in ROWS), ["pretty_printed"] * 12),
    "one line": (" ".join(LINES), ["json_extra_data"]),
    "repeated": (PLAIN + LINES[0] + "\n" + LINES[3], ["duplicates"] * 2),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_file_is_mended(case: str, tmp_path: Path) -> None:
    """Marks, encodings, line ends, blank lines, arrays, pretty and joined objects, repeats."""
    raw, codes = WHOLE[case]
    rows, log = fixed(raw, tmp_path)
    assert rows == ROWS
    assert [entry["code"] for entry in log] == codes


def test_repeats_stay_where_a_job_needs_them(tmp_path: Path) -> None:
    """Hosts refuse fewer than 10 rows, and only warn of repeats; where 10 are left they go."""
    rows, log = fixed("\n".join([*LINES[:9], *LINES[:3]]), tmp_path)
    assert (rows, log) == ([*ROWS[:9], *ROWS[:3]], [])
    (tmp_path / "ten").mkdir()
    rows, log = fixed("\n".join([*LINES[:10], *LINES[:10]]), tmp_path / "ten")
    assert (rows, len(log)) == (ROWS[:10], 10)


def test_an_array_by_its_name(tmp_path: Path) -> None:
    """A file named .json is read as an array at once."""
    rows, log = fixed(json.dumps(ROWS), tmp_path, "in.json")
    assert (rows, [entry["code"] for entry in log]) == (ROWS, ["container"])


@pytest.mark.parametrize("raw", [b'[["Who?", "Me."]]\n', b"[[1], {}]\n", b"[[]]\n"])
def test_an_array_of_other_things_is_left_alone(raw: bytes, tmp_path: Path) -> None:
    """Only an array of objects is one of rows; taking another apart would be a guess."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(raw)
    assert Dataset.open(source).fix(out).changes == {}
    assert out.read_bytes() == raw


def call(arguments: Any) -> Json:
    function = {"name": "find", "arguments": arguments}
    return {
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "tool_calls": [
                {"id": "a", "type": "function", "function": function}]},
        ],
        "tools": [{"type": "function", "function": {"name": "find"}}],
    }  # fmt: skip


def roles(one: str, other: str) -> Json:
    return {"messages": [{"role": one, "content": "Hi"}, {"role": other, "content": "Hello"}]}


NULLED = {
    "messages": [
        {"role": "user", "content": "Hi", "name": None},
        {"role": "assistant", "content": "Hello"},
    ],
    "tools": None,
}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_output": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_output": [{"role": "assistant", "content": "No"}],
}
ONE = {
    "object": (call({"x": 1}), call('{"x": 1}'), ["tool_args_type"]),
    "twice": (call(json.dumps('{"x": 1}')), call('{"x": 1}'), ["tool_args_double_encoded"]),
    "thrice": (
        call(json.dumps(json.dumps('{"x": 1}'))),
        call('{"x": 1}'),
        ["tool_args_double_encoded"],
    ),
    "empty": (call(" "), call("{}"), ["tool_args_json"]),
    "broken": (call('{"x": '), call('{"x": '), []),
    "human": (roles("human", "gpt"), roles("user", "assistant"), ["unknown_role"] * 2),
    "case": (roles("User", " assistant "), roles("user", "assistant"), ["unknown_role"] * 2),
    "typing error": (roles("user", "asistant"), roles("user", "asistant"), []),
    "nulls": (NULLED, roles("user", "assistant"), ["null_key"] * 2),
    "alpaca": (
        {"instruction": "Hi", "output": "Hello"},
        roles("user", "assistant"),
        ["format_alpaca"],
    ),
    "prompt": (
        {"prompt": "Hi", "completion": "Hello"},
        roles("user", "assistant"),
        ["format_prompt_completion"],
    ),
    "sharegpt": (
        {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        roles("user", "assistant"),
        ["unknown_role", "format_sharegpt"],
    ),
    "chatbot": (roles("User", "Chatbot"), roles("user", "assistant"), ["format_shape"]),
    "speakers under messages": (
        {"messages": [{"from": "Human", "value": "Hi"}, {"from": "GPT", "value": "Hello"}]},
        roles("user", "assistant"),
        ["unknown_role", "unknown_role", "format_sharegpt"],
    ),
    "a speaker of a side": (
        {"prompt": "Hi", "chosen": {"from": "GPT", "value": "Hello"}, "rejected": "No"},
        PAIR,
        ["unknown_role", "format_trl_preference"],
    ),
    "dolly": (
        {"instruction": "Hi", "context": "", "response": "Hello"},
        roles("user", "assistant"),
        ["format_shape"],
    ),
    "tools as a text": (
        {**roles("user", "assistant"), "tools": json.dumps(call({})["tools"])},
        {**roles("user", "assistant"), "tools": call({})["tools"]},
        ["tools_json"],
    ),
    "blank tools": (
        {**roles("user", "assistant"), "tools": " "},
        roles("user", "assistant"),
        ["tools_json"],
    ),
    "a key that the target has": (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "input": "x"},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "input": "x"},
        [],
    ),
    "rows in a row": (
        {"row_idx": 7, "row": roles("user", "assistant")},
        {**roles("user", "assistant"), "row_idx": 7},
        ["unknown_format"],
    ),
    "a key of a row in it and beside it": (
        {"id": 7, "row": {**roles("user", "assistant"), "id": 8}},
        {"id": 7, "row": {**roles("user", "assistant"), "id": 8}},
        [],
    ),
    "chosen": (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
        PAIR,
        ["format_trl_preference"],
    ),
}


@pytest.mark.parametrize("case", ONE)
def test_a_row_is_mended(case: str, tmp_path: Path) -> None:
    """Arguments, role words, nulls and other formats; what would be a guess stays as it is."""
    row, wanted, codes = ONE[case]
    rows, log = fixed(json.dumps(row) + "\n", tmp_path)
    assert rows == [wanted]
    assert [entry["code"] for entry in log] == codes
    assert {entry["line"] for entry in log} <= {1}


DOLLY: Json = {"instruction": "Hi", "context": "", "response": "Hello"}
SIDES: Json = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}


@pytest.mark.parametrize("other", [
    {**DOLLY, "instruction": "Ho", "category": "qa"}, {"instruction": "Hi", "response": None},
])  # fmt: skip
def test_a_file_of_one_format_is_converted_whole_or_not(other: Json, tmp_path: Path) -> None:
    """Where a row would carry keys that OpenAI is warned of, or stay behind; no repeat is kept."""
    rows = [DOLLY, other, DOLLY]
    read, log = fixed("".join(f"{json.dumps(row)}\n" for row in rows), tmp_path)
    assert (read, [entry["code"] for entry in log]) == ([DOLLY, other], ["duplicates"])


def test_a_file_of_two_formats_becomes_one(tmp_path: Path) -> None:
    """With all its keys: two formats are an error."""
    rows = [PAIR, {**SIDES, "prompt": "Ho", "input": "x"}]
    read, log = fixed("".join(f"{json.dumps(row)}\n" for row in rows), tmp_path)
    asked = {"messages": [{"role": "user", "content": "Ho"}]}
    assert read == [PAIR, {**PAIR, "input": asked, "other_input": "x"}]
    assert [entry["code"] for entry in log] == ["format_trl_preference"]


def test_rows_in_a_row_are_one_a_line(tmp_path: Path) -> None:
    """In the form that their own format has."""
    inside = {"data": [DOLLY, {**DOLLY, "instruction": "Ho"}]}
    read, log = fixed(f"{json.dumps(inside)}\n{PLAIN}", tmp_path)
    assert [row["messages"][0]["content"] for row in read[:2]] == ["Hi", "Ho"]
    assert [entry["code"] for entry in log] == ["unknown_format", "format_shape", "format_shape"]


@pytest.mark.parametrize("messages", [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
])  # fmt: skip
def test_a_bare_list_of_messages_is_wrapped(messages: list[Json], tmp_path: Path) -> None:
    """One conversation a line becomes one row a line."""
    rows, log = fixed(f"{json.dumps(messages)}\n" + "\n".join(LINES) + "\n", tmp_path)
    assert rows[0] == roles("user", "assistant")
    assert (log[0]["code"], log[0]["line"]) == ("row_not_object", 1)


def test_the_log_tells_place_and_values(tmp_path: Path) -> None:
    """A change has its line, path, code, and what was before and after, shortened."""
    row = call({"x": "y" * 1000})
    _, log = fixed("\n" + json.dumps(row), tmp_path)
    assert log[1]["line"] == 2
    assert log[1]["path"] == "messages[1].tool_calls[0].function.arguments"
    assert len(log[1]["before"]) == len(log[1]["after"]) == 200


def test_what_cannot_be_read_stays(tmp_path: Path) -> None:
    """Broken lines are in the copy as they were, listed with their lines in the input."""
    source = tmp_path / "in.jsonl"
    bad = [b'{"messages": [', b'{"a": "\xff"}', b"[1]", b'{"a": NaN}']
    source.write_bytes(b"\n\n".join([*(line.encode() for line in LINES), *bad]))
    report = Dataset.open(source).fix(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes().splitlines()[-4:] == bad
    left = {one.finding.code: (one.finding.lines, one.lines) for one in report.unsafe}
    assert left["encoding_not_utf8"] == ([14], [27])
    assert left["json_nan"] == ([16], [31])
    assert not report.report.ok


def test_untouched_rows_keep_their_bytes(tmp_path: Path) -> None:
    """A row that needs nothing is copied, not written anew: 1.0 and escapes stay."""
    odd = '{"messages":[{"role":"user","content":"\\u00e9"},{"role":"assistant","content":"1"}]}'
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f"\n{odd}\n")
    Dataset.open(source).fix(out)
    assert out.read_text() == f"{odd}\n"


@pytest.mark.parametrize("raw", [b"\x1f\x8b\x08rest", b"PAR1....", b"\xff\xfe\x00"])
def test_what_is_no_text_is_refused(raw: bytes, tmp_path: Path) -> None:
    """Compressed and binary files are not copied, and no file is left."""
    (tmp_path / "in.jsonl").write_bytes(raw)
    with pytest.raises(DataError):
        Dataset.open(tmp_path / "in.jsonl").fix(tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Neither the input nor a file that exists."""
    source = tmp_path / "in.jsonl"
    source.write_text(PLAIN)
    with pytest.raises(SpecError, match="input"):
        Dataset.open(source).fix(source, force=True)
    (tmp_path / "out.jsonl.changes.jsonl").write_text("mine")
    with pytest.raises(SpecError, match="exists"):
        Dataset.open(source).fix(tmp_path / "out.jsonl")


def test_fix_on_the_command_line(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy is checked, and its outcome is the exit code."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(ROWS))
    assert main(["validate", str(source)]) == 3
    capsys.readouterr()
    assert main(["validate", str(source), "--fix", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 12
    assert told["fix"]["changes"] == {"json_array_not_jsonl": 1}
    assert main(["validate", str(source), "--fix", str(out)]) == 2
    source.write_text(PLAIN + "{")
    assert main(["validate", str(source), "--fix", str(out), "--force"]) == 3
    assert main(["validate", str(source), "--fix", str(source), "--force"]) == 2


@pytest.mark.shared
def test_every_bad_input_can_be_given_to_fix(shared: Path, tmp_path: Path) -> None:
    """No input makes it crash: it ends in a copy or in words. A good one stays as it is."""
    folder = shared / "data" / "bad_inputs"
    for case in json.loads((folder / "manifest.json").read_text()):
        source, out = folder / case["file"], tmp_path / f"{case['id']}.jsonl"
        if case["id"] == "b29_huge_line_5mb":
            continue  # 3 s of looking for personal data
        try:
            report = Dataset.open(source).fix(out)
        except DataError:
            continue
        if case["outcome"] == "accept" and not report.changes:
            kept = [line for line in source.read_bytes().split(b"\n") if line.strip()]
            assert out.read_bytes().split(b"\n")[:-1] == [line.strip() for line in kept]


def test_repeats_are_found_in_little_memory(tmp_path: Path) -> None:
    """Of 60,000 rows the ones said twice are left out, each with its line; 26 bytes a row."""
    rows = [json.dumps({"text": f"row {number % 59_990}"}) for number in range(60_000)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(rows))
    run, log = fixing._Fixer(out.open("wb"), (tmp_path / "log").open("wb")), tmp_path / "log"
    with run.rows, run.log:
        run.read(Dataset.open(source))
    assert out.read_text().split("\n")[:-1] == rows[:59_990]
    changes = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(one["line"], one["before"]) for one in changes] == [
        (59_991 + number, f"the row of line {number + 1} again") for number in range(10)
    ]
    kept = [part for one in run.tables for part in (one.keys, one.lines)] + [run.origin]
    assert sum(part.itemsize * len(part) for part in kept) <= 26 * 60_000


def test_lines_of_brackets_take_no_quadratic_work(tmp_path: Path) -> None:
    """A file of nothing but opening brackets is not read to its end from each of its lines, and
    an object spread over lines further on is still put together."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"

    def brackets(lines: int) -> None:
        source.write_text("{\n" * lines)
        fixing.fix(Dataset.open(source), out, force=True)

    assert_linear(brackets, 1000)
    source.write_text("{\n" * 3 + json.dumps(ROWS[0], indent=1) + "\n" + json.dumps(ROWS[1]))
    fixing.fix(Dataset.open(source), out, force=True)
    *broken, one, two = out.read_text().splitlines()
    assert broken == ["{"] * 3 and [json.loads(one), json.loads(two)] == ROWS[:2]
