"""Formats in and out: what is read, what is written, and that nothing is lost on the way."""

from __future__ import annotations

import csv
import json
import string
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_gateway import Dataset
from finetune_gateway.cli import main
from finetune_gateway.data.canonical import as_sent, canonical
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.sharegpt import ConversionError
from finetune_gateway.errors import DataError, NotFoundError, SpecError
from finetune_gateway.preparation.convert import TARGETS, convert_row

Json = dict[str, Any]

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
GPT = {"from": "gpt", "value": "Hello"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALLS: Json = {
    "messages": [
        USER,
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "find", "arguments": "{}"}},
                {
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "find", "arguments": '{"x": 1, "y": {"z": null}}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
        {**ANSWER, "weight": 0},
    ],
    "tools": [TOOL],
    "parallel_tool_calls": True,
}
PAIR: Json = {
    "input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": False},
    "preferred_output": [ANSWER],
    "non_preferred_output": [{"role": "assistant", "content": "Go away"}],
}

IN: dict[str, tuple[Json, Json]] = {
    "prompt-completion": ({"prompt": "Hi", "completion": "Hello"}, {"messages": [USER, ANSWER]}),
    "trl prompt of messages": (
        {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
    ),
    "alpaca with history": (
        {
            "instruction": "Hi",
            "input": "",
            "output": "Hello",
            "system": "Be kind.",
            "history": [["Who?", "Me."]],
        },
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "Me."},
                USER,
                ANSWER,
            ]
        },
    ),
    "sharegpt with an id": (
        {"id": "7", "conversations": [{"from": "human", "value": "Hi"}, GPT]},
        {"messages": [USER, ANSWER], "id": "7"},
    ),
    "trl pair": (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {**PAIR, "input": {"messages": [USER]}},
    ),
    "trl pair, implicit prompt": (
        {"chosen": [USER, ANSWER], "rejected": [USER, PAIR["non_preferred_output"][0]]},
        {**PAIR, "input": {"messages": [USER]}},
    ),
    "trl pair, prompt given twice": (
        {
            "prompt": "Hi",
            "chosen": [USER, ANSWER],
            "rejected": [USER, PAIR["non_preferred_output"][0]],
            "score": 3,
        },
        {**PAIR, "input": {"messages": [USER]}, "score": 3},
    ),
    "kto": (
        {"prompt": [USER], "completion": [ANSWER], "label": False},
        {"messages": [USER, ANSWER], "label": False},
    ),
    "outdated keys": (
        {"input": {"messages": [USER]}, "preferred_completion": [ANSWER],
         "non_preferred_completion": PAIR["non_preferred_output"]},
        {**PAIR, "input": {"messages": [USER]}},
    ),
    "text": ({"text": "Once."}, {"text": "Once."}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unpaired-preference", [True, False, None, 1, 0, -1, 1.0, " Bad", "yes", "", [1]]),
        ("openai-chat", ["spam", "2", 2, -2, 0.5]),
    ],
)
def test_what_is_a_label(name: str, values: list[Any]) -> None:
    """What says good or bad makes a row one of KTO, as does a wrong type; a category does not."""
    for value in values:
        row_format = format_of({"messages": [USER, ANSWER], "label": value})
        assert row_format and row_format.name == name, value


@pytest.mark.parametrize("case", IN)
def test_every_format_has_one_canonical_form(case: str) -> None:
    """Each format is read into OpenAI's chat, OpenAI's pair or a text, all its keys kept."""
    row, wanted = IN[case]
    assert canonical(row) == wanted
    assert canonical(wanted) == wanted


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("row", [CALLS, PAIR], ids=["calls", "pair"])
def test_nothing_is_lost_between_formats(row: Json, to: str) -> None:
    """Calls, ids, tools, weights and parallel_tool_calls come back from every format that holds
    them; Together has no parallel_tool_calls and says so."""
    if to == "together":
        with pytest.raises(ConversionError, match="parallel_tool_calls"):
            convert_row(row, to)
        row = json.loads(json.dumps(row))
        row.get("input", row).pop("parallel_tool_calls")
    assert plain(canonical(convert_row(row, to))) == plain(row)


def test_trl_gets_arguments_as_objects() -> None:
    """A chat template wants an object where the wire wants a string."""
    calls = convert_row(CALLS, "trl")["messages"][1]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [{}, {"x": 1, "y": {"z": None}}]


REFUSED: dict[str, tuple[str, Json, str]] = {
    "a name": ("sharegpt", {"messages": [{**USER, "name": "jo"}, ANSWER]}, "messages[0].name"),
    "a developer": (
        "sharegpt",
        {"messages": [{"role": "developer", "content": "x"}, USER, ANSWER]},
        "messages[0].role",
    ),
    "parts": (
        "sharegpt",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, ANSWER]},
        "messages[0].content",
    ),
    "text beside calls": (
        "sharegpt",
        {"messages": [USER, {**CALLS["messages"][1], "content": "Wait."}]},
        "messages[1].content",
    ),
    "results in another order": (
        "sharegpt",
        {"messages": [CALLS["messages"][i] for i in (0, 1, 3, 2, 4)]},
        "messages[2].tool_call_id",
    ),
    "arguments that are no JSON": (
        "trl",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
                    ],
                },
            ]
        },
        "messages[1].tool_calls[0].function.arguments",
    ),
    "a label": ("openai", {"messages": [USER, ANSWER], "label": True}, "label"),
    "a plain text": ("openai", {"text": "Once."}, "text"),
    "two users": ("together", {"messages": [USER, USER, ANSWER]}, "messages[1]"),
    "an extra key": ("together", {"messages": [USER, ANSWER], "id": 3}, "id"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_format_cannot_hold_is_refused(case: str) -> None:
    """The field is named, and nothing is dropped."""
    to, row, path = REFUSED[case]
    with pytest.raises(ConversionError) as caught:
        convert_row(row, to)
    assert caught.value.path == path


def test_the_first_of_several_reasons_is_named() -> None:
    """A row that cannot be read for two reasons is refused for the first in the row."""
    turns = [{"from": "human", "value": 1}, {"from": "gpt", "value": 2}]
    with pytest.raises(ConversionError) as caught:
        canonical({"conversations": turns})
    assert caught.value.path == "conversations[0].value"


# -- properties --------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
NAMES = st.text(string.ascii_letters, min_size=1, max_size=6)


def call(name: str, own: str, arguments: Json) -> Json:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": own, "type": "function", "function": function}


CALL = st.builds(call, NAMES, NAMES, st.dictionaries(TEXTS, VALUES, max_size=3))


@st.composite
def chats(draw: st.DrawFn) -> Json:
    """Conversations with calls and results, weights, names, tools."""
    messages: list[Json] = []
    if draw(st.booleans()):
        messages.append({"role": draw(st.sampled_from(["system", "developer"])), "content": "S"})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        if draw(st.booleans()):
            messages[-1]["name"] = draw(NAMES)
        calls = draw(st.lists(CALL, max_size=2))
        if calls:
            messages.append({"role": "assistant", "tool_calls": calls})
            if draw(st.booleans()):
                messages[-1]["content"] = draw(st.none() | TEXTS)
            messages += [
                {"role": "tool", "tool_call_id": one["id"], "content": draw(TEXTS)} for one in calls
            ]
        messages.append({"role": "assistant", "content": draw(TEXTS)})
        if draw(st.booleans()):
            messages[-1]["weight"] = draw(st.sampled_from([0, 1]))
    row: Json = {"messages": messages}
    if draw(st.booleans()):
        row["tools"] = [TOOL]
        row["parallel_tool_calls"] = draw(st.booleans())
    return row


@st.composite
def pairs(draw: st.DrawFn) -> Json:
    """Preference pairs."""
    given_row = draw(chats())
    sides = [[{"role": "assistant", "content": draw(TEXTS)}] for _ in range(2)]
    return {"input": given_row, "preferred_output": sides[0], "non_preferred_output": sides[1]}


@given(chats() | pairs(), st.sampled_from([*TARGETS]))
@settings(max_examples=120, deadline=None)
def test_a_round_trip_loses_nothing(row: Json, to: str) -> None:
    """A row comes back from a format as it was, or the format refuses it by a field."""
    try:
        made = convert_row(row, to)
    except ConversionError as exc:
        assert to in ("together", "sharegpt"), exc
        return
    assert plain(canonical(json.loads(json.dumps(made)))) == plain(row)


@given(st.dictionaries(
    st.sampled_from([
        "messages", "prompt", "completion", "chosen", "rejected", "input", "label", "text", "tools",
        "conversations", "instruction", "output", "history", "system", "preferred_output", "id",
    ]),
    VALUES | st.lists(st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "tool_calls", "weight"]), VALUES,
        max_size=3,
    ), max_size=3),
))  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_any_row_is_read_or_refused(row: Json) -> None:
    """Reading any row returns a row or raises ConversionError, and as_sent never raises."""
    if format_of(row):
        as_sent(row)
    try:
        made = canonical(row)
    except ConversionError:
        return
    assert canonical(made) == made
    for to in TARGETS:
        try:
            convert_row(made, to)
        except ConversionError:
            continue


def plain(row: Json) -> str:
    """A row as text, arguments parsed and null content left out."""
    row = json.loads(json.dumps(row))
    given_row = row.get("input", row)
    for message in given_row["messages"]:
        if message.get("content", "") is None:
            del message["content"]
        for one in message.get("tool_calls", []):
            one["function"]["arguments"] = json.loads(one["function"]["arguments"])
    return json.dumps(row, sort_keys=True)


# -- containers --------------------------------------------------------------------------------

ROWS = [{"messages": [USER, {"role": "assistant", "content": f"Line\u2028 {n}"}]} for n in range(3)]


def read(source: Any, spool: Path) -> tuple[str, list[Json]]:
    dataset = Dataset.open(source, spool=spool)
    return dataset.container, [row.data for row in dataset.rows()]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read(tmp_path: Path, indent: int | None) -> None:
    """A file named .json that holds an array is read as rows, numbers kept as written."""
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + json.dumps([*ROWS, {"n": 1.0}], indent=indent), encoding="utf-8")
    assert read(path, tmp_path / "spool") == ("json-array", [*ROWS, {"n": 1.0}])


def test_json_lines_named_json(tmp_path: Path) -> None:
    """Rows in a file named .json are JSON lines all the same."""
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    assert read(path, tmp_path / "spool") == ("jsonl", ROWS)


@pytest.mark.parametrize("text", ['[{"a": 1},,]', '[{"a": 1}, x', '[{"a": 1} {"a": 2}]', '[{"a"}]',
                                  '[{"a": 1}] x', "[" * 9000])  # fmt: skip
def test_a_broken_array_is_refused(tmp_path: Path, text: str) -> None:
    """The row and the line are named."""
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1|row 2|array"):
        Dataset.open(path, spool=tmp_path / "spool")


def test_a_large_array_is_read_in_windows(tmp_path: Path) -> None:
    """Rows that cross the window's edge, and one larger than it, come out whole."""
    rows = [{"text": f"{n} " + "é\\" * (n * 40_000 % 700_000)} for n in range(12)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    assert read(path, tmp_path / "spool")[1] == rows


def test_csv_is_read(tmp_path: Path) -> None:
    """Cells with line breaks, JSON cells, labels and empty cells."""
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["prompt", "completion", "label", "system"])
        table.writerow(["a\nb", json.dumps([ANSWER]), "True", ""])
    wanted = [{"prompt": "a\nb", "completion": [ANSWER], "label": True}]
    assert read(path, tmp_path / "spool") == ("csv", wanted)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_answers_that_are_json_stay_texts(tmp_path: Path, mark: str) -> None:
    """A completion of a CSV is often JSON to be learnt; messages are recognised by their keys."""
    path = tmp_path / "rows.csv"
    cells = ["[1, 2]", '{"intent": "refund", "n": 1}', '{"role": "x"}']
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=mark)
        table.writerows([["prompt", "completion", f"more{mark} or less"], cells])
    wanted = [dict(zip(("prompt", "completion", f"more{mark} or less"), cells, strict=True))]
    assert read(path, tmp_path / "spool") == ("csv", wanted)


def test_what_spreadsheets_add_is_no_fault(tmp_path: Path) -> None:
    """Rows and columns of empty cells, and the numbers of rows in a column without a name."""
    path = tmp_path / "rows.csv"
    path.write_text(",prompt,completion,,\n0,a,b,,\n,,,,\n\n1,c,d,,,\n")
    wanted = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert read(path, tmp_path / "spool") == ("csv", wanted)


@pytest.mark.parametrize("name", ["rows.csv", "rows.txt", "rows.json"])
def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path, name: str) -> None:
    """The line and the byte, whatever the rows come in."""
    path = tmp_path / name
    path.write_bytes(b'["prompt"\n, "caf\xe9"]\n')
    dataset = Dataset.open(path, spool=tmp_path / "spool")
    with pytest.raises(DataError, match="line 2: byte 6 is 0xE9, which is not UTF-8"):
        list(dataset.rows())


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """One would replace the other."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,prompt\na,b,c\n")
    with pytest.raises(DataError, match="two of its columns are named 'prompt'"):
        Dataset.open(path, spool=tmp_path / "spool")


def test_a_csv_row_with_too_many_cells_is_refused(tmp_path: Path) -> None:
    """The line is named."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na,b\nc,d,e\n")
    with pytest.raises(DataError, match="line 3"):
        list(Dataset.open(path, spool=tmp_path / "spool").rows())


def test_arrow_is_read_without_what_it_pads(tmp_path: Path) -> None:
    """Parquet, a datasets folder, a datasets.Dataset and a frame give the rows without the null
    keys that Arrow adds to objects of different shapes."""
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    rows = [{"prompt": "a", "completion": "b", "extra": {"x": 1}},
            {"prompt": "c", "completion": "d", "extra": {"y": "2"}}]  # fmt: skip
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "rows.parquet")
    table.save_to_disk(tmp_path / "folder")
    spool = tmp_path / "spool"
    assert read(tmp_path / "rows.parquet", spool) == ("parquet", rows)
    assert read(tmp_path / "folder", spool) == ("datasets-folder", rows)
    assert read(table, spool) == ("datasets", rows)
    flat = [{"prompt": "a", "label": True}, {"prompt": "c"}]
    assert read(pandas.DataFrame(flat), spool) == ("pandas", flat)


def test_rows_in_memory(tmp_path: Path, home: Path) -> None:
    """Any iterable of dicts is read, below the home folder when nobody says where; what is not
    one is refused by its place."""
    assert read(iter(ROWS), tmp_path / "spool") == ("rows", ROWS)
    assert Dataset.open(ROWS).path.is_relative_to(home)
    with pytest.raises(DataError, match="row 2 is a str"):
        Dataset.open(cast(Any, [ROWS[0], "x"]), spool=tmp_path)
    with pytest.raises(DataError, match="a dataset in parts: 'train'"):
        Dataset.open(cast(Any, {"train": ROWS}), spool=tmp_path)
    with pytest.raises(NotFoundError):
        Dataset.open(tmp_path / "none.csv")
    with pytest.raises(DataError, match="folder"):
        Dataset.open(tmp_path)


# -- whole files -------------------------------------------------------------------------------


def test_a_refused_file_is_not_written(tmp_path: Path) -> None:
    """All refused rows are reported with their lines, and no file is left."""
    source = tmp_path / "rows.jsonl"
    rows = [ROWS[0], {"messages": [{**USER, "name": "jo"}, ANSWER]}, ROWS[1]]
    source.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"line 2: messages\[0\]\.name"):
        Dataset.open(source).convert("sharegpt", tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    """An existing file needs --force, and the input is never written."""
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, ROWS)))
    out.write_text("mine")
    with pytest.raises(SpecError, match="exists"):
        Dataset.open(source).convert("trl", out)
    with pytest.raises(SpecError, match="input"):
        Dataset.open(source).convert("trl", source, force=True)
    assert Dataset.open(source).convert("openai-bom", out, force=True).rows == 3
    assert out.read_bytes().startswith(b"\xef\xbb\xbf{")
    assert [row.data for row in Dataset.open(out).rows()] == ROWS


def test_convert_on_the_command_line(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result is printed with what the input was; a refusal ends with 3, a wrong name with 2."""
    source = tmp_path / "chats.json"
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    source.write_text(json.dumps([{"id": 1, "conversations": turns}]))
    argv = ["convert", str(source), "-o", str(tmp_path / "out.jsonl")]
    assert main([*argv, "--to", "openai", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["container"], told["formats"], told["rows"]) == ("json-array", ["sharegpt"], 1)
    assert "'id'" in told["notes"][0]
    assert main([*argv, "--to", "together", "--force"]) == 3
    assert "line 1: id" in capsys.readouterr().err
    assert main([*argv, "--to", "together", "--force", "--drop", "id"]) == 0
    assert main([*argv, "--to", "klingon"]) == 2


@pytest.mark.parametrize(
    "line", ['{"text": "a", "text": "b"}', '{"text": "a", "n": NaN}', '{"text": "a", "n": 1e999}']
)
def test_what_would_change_silently_is_refused(tmp_path: Path, line: str) -> None:
    """json keeps one of two equal keys and writes NaN and Infinity, which are no JSON."""
    source = tmp_path / "rows.jsonl"
    source.write_text(f'{{"text": "x"}}\n{line}\n')
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        Dataset.open(source).convert("trl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("arguments", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}'])
@pytest.mark.parametrize("to", ["trl", "sharegpt"])
def test_arguments_that_would_change_silently_are_refused(arguments: str, to: str) -> None:
    """The same in the arguments of a call, where a format wants an object."""
    one = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [one]}]}
    with pytest.raises(ConversionError, match="arguments"):
        convert_row(row, to)
    value = f'{{"name": "f", "arguments": {arguments}}}'
    with pytest.raises(ConversionError, match="not JSON"):
        canonical({"conversations": [{"from": "function_call", "value": value}]})


# -- real data ---------------------------------------------------------------------------------

SETS = {
    "llamafactory_glaive_toolcall_en/glaive_toolcall_en_demo.json": (300, "sharegpt"),
    "llamafactory_dpo_en/dpo_en_demo.json": (300, "trl-preference"),
    "llamafactory_kto_en/kto_en_demo.json": (300, "unpaired-preference"),
    "llamafactory_plain_text/wiki_demo.txt": (30, "text"),
    "fastchat_sharegpt/dummy_conversation.json": (500, "sharegpt"),
    "foundry_stock_toolcall/stock_toolcall_training.jsonl": (86, "openai-chat"),
    "foundry_orca_dpo/validation.jsonl": (284, "openai-preference"),
    "self_instruct_seed/quoref_Find_Answer.jsonl": (200, "prompt-completion"),
    "mlx_wikisql_text/train.jsonl": (1000, "text"),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SETS)
def test_real_sets_come_through_whole(name: str, shared: Path, tmp_path: Path) -> None:
    """As many rows come out as went in, and say the same when read again."""
    rows, found = SETS[name]
    dataset = Dataset.open(shared / "data" / name, spool=tmp_path)
    done = dataset.convert("trl", tmp_path / "trl.jsonl")
    assert (done.rows, done.formats) == (rows, (found,))
    again = Dataset.open(tmp_path / "trl.jsonl").rows()
    for one, other in zip(dataset.rows(), again, strict=True):
        first, second = canonical(one.data), canonical(other.data)
        if "text" in first:
            assert first == second
        else:
            assert plain(first) == plain(second)


@pytest.mark.shared
def test_calls_of_a_real_sharegpt_set_survive(shared: Path, tmp_path: Path) -> None:
    """Its 211 calls and 211 results are calls and results in OpenAI's form, and written back the
    rows are those of the source."""
    name = "llamafactory_glaive_toolcall_en/glaive_toolcall_en_demo.json"
    source = Dataset.open(shared / "data" / name, spool=tmp_path)
    source.convert("openai", tmp_path / "openai.jsonl")
    chats_found = [row.data for row in Dataset.open(tmp_path / "openai.jsonl").rows()]
    messages = [message for row in chats_found for message in row["messages"]]
    assert sum(len(message.get("tool_calls", [])) for message in messages) == 211
    assert sum(message["role"] == "tool" for message in messages) == 211
    Dataset.open(tmp_path / "openai.jsonl").convert("sharegpt", tmp_path / "back.jsonl")
    back = [row.data for row in Dataset.open(tmp_path / "back.jsonl").rows()]
    wanted = [{**row.data, "tools": row.data["tools"]} for row in source.rows()]
    for row in wanted:
        if row["tools"] == "[]":  # no tools are no key
            del row["tools"]
    assert back == wanted


def test_what_is_said_of_rows_is_bounded_and_masked(tmp_path: Path) -> None:
    """Keys that are carried along and rows that are refused: a few are named, nothing private."""
    message = {"role": "user", "content": "Hi"}
    answer = {"role": "assistant", "content": "Hello."}
    mail = "jane.roe@gmail.com"
    rows = [{"messages": [message, answer], f"key{number}": 1} for number in range(500)]
    rows.append({"messages": [message, answer], mail: "x" * 5000})
    rows.insert(0, {"messages": [message, answer], mail: 1})
    out = tmp_path / "out.jsonl"
    notes = Dataset.open(rows, spool=tmp_path).convert("openai", out).notes
    assert len(notes) == 20 and mail not in " ".join(notes)
    turns = [{"from": mail * 40, "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    with pytest.raises(DataError) as caught:
        Dataset.open([{"conversations": turns}], spool=tmp_path).convert("trl", out, force=True)
    assert mail not in caught.value.message and len(caught.value.message) < 600
