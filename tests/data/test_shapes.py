"""Popular shapes of rows are read into the canonical row, or named with the way out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support.forms import ASK, BAD, CHOSEN, COUNTS, GOOD, PAIR, REJECTED, SYSTEM, TOOL, USER
from support.services import ROWS as SERVICES
from support.shapes import ASKED, CHAT, FUNCTION, LED, SHAPES, TURNS, hh, moss

import finetune_gateway as gateway
from finetune_gateway import FakeBackend
from finetune_gateway.cli import main
from finetune_gateway.data.canonical import as_sent, canonical, read
from finetune_gateway.data.formats import FORMATS, format_of
from finetune_gateway.preparation.convert import TARGETS, convert_row
from finetune_gateway.validation.dataset.row_text import extract_row_text

Json = dict[str, Any]


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read(name: str) -> None:
    """Into the canonical row, by its own format; and the survey reads the same."""
    form, row, wanted = SHAPES[name]
    row_format, sent = format_of(row), read(row)
    assert row_format is not None and row_format.name == form
    assert (sent.row, sent.errors) == (wanted, [])
    text, same = extract_row_text(row), extract_row_text(wanted)
    assert text is not None and text == same


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_converted_with_all_its_keys(name: str) -> None:
    """Every target says the same, with the keys that are not part of the example."""
    _, row, wanted = SHAPES[name]
    own = canonical(row)
    for to in TARGETS:
        if to == "together":
            own = {key: value for key, value in own.items() if key in wanted}
        back = canonical(convert_row(own, to))
        assert back == own and wanted.items() <= back.items()


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_accepted_and_sent_as_it_was_judged(name: str, home: Path) -> None:
    """By the method of its format; the rows that are sent have the same tokens."""
    _, row, wanted = SHAPES[name]
    rows = [json.loads(json.dumps(row).replace("Hi", f"Hi {n}")) for n in range(12)]
    report = gateway.validate(rows, quality=False)
    assert report.errors == [] and report.tokens is not None
    backend = FakeBackend()
    method: Any = "dpo" if "preferred_output" in wanted else "sft"
    gateway.submit(rows, model="gpt-4o", backend=backend, method=method, again=True)
    lines = backend.started[0][2].path.read_text("utf-8").splitlines()
    sent = [json.loads(line) for line in lines]
    assert sent == [as_sent(row) for row in rows]
    assert gateway.validate(sent, quality=False).tokens == report.tokens
    if wanted == PAIR:
        assert (report.tokens["total"], report.tokens["trained"]) == tuple(12 * n for n in COUNTS)


@pytest.mark.parametrize("name", SHAPES)
def test_a_fixed_copy_says_the_same(name: str, home: Path, tmp_path: Path) -> None:
    """No error, and the same tokens."""
    _, row, _ = SHAPES[name]
    rows = []
    for n in range(12):
        text = json.dumps(row).replace("Hi", f"Hi {n}").replace(ASK, f"{ASK} {n}")
        rows.append({**json.loads(text.replace("Once", f"Once {n}")), "n": n})
    dataset = gateway.Dataset.open(rows)
    fixed = dataset.fix(tmp_path / "fixed.jsonl")
    assert fixed.report.errors == [] and fixed.rows == 12
    own = gateway.validate(rows, quality=False).tokens
    assert gateway.validate(tmp_path / "fixed.jsonl", quality=False).tokens == own


# A row, the code of its error, its path, and a word of what is said.
REFUSED: dict[str, tuple[Json, str, str, str]] = {
    "several instances": (
        {"instruction": "Hi", "instances": [{"output": "a"}, {"output": "b"}]},
        "not_convertible", "instances", "2 examples",
    ),
    "an instance without output": (
        {"instruction": "Hi", "instances": [{"input": ""}]},
        "missing_output", "instances[0].output", "without 'output'",
    ),
    "a round without an answer": (
        {"conversation": [{"human": "Hi", "assistant": None}]},
        "missing_completion", "conversation[0].assistant", "without 'assistant'",
    ),
    "a tool of moss": (
        moss(Commands="<|Commands|>: Search(x)<eoc>\n"), "not_convertible",
        "chat.turn_1.Commands", "no such key",
    ),
    "one side as a dialogue": (
        {"chosen": hh(GOOD), "rejected": [REJECTED]}, "type_error", "rejected", "dialogue",
    ),
    "dialogues of two questions": (
        {"chosen": hh(GOOD), "rejected": hh(BAD).replace("heat", "gas")},
        "preference_prompt_differs", "rejected", "differ from message 0",
    ),
    "a response that is null": (
        {"instruction": "Hi", "response": None}, "missing_completion", "response", "'response'",
    ),
    "a tree": (
        {"message_tree_id": "1", "prompt": {"text": "Hi", "replies": []}},
        "unknown_format", "", "tree of messages",
    ),
    "a message of a tree": (
        {"message_id": "1", "parent_id": None, "role": "prompter", "text": "Hi"},
        "unknown_format", "", "tree",
    ),
    "scored answers": (
        {"instruction": "Hi", "completions": [{"response": "a"}]}, "unknown_format", "", "scored",
    ),
    "rows in a row": (
        {"data": [CHAT, CHAT]}, "unknown_format", "", "'data' holds 2 rows in the format openai",
    ),
    "a row in a row": ({"row_idx": 1, "row": CHAT}, "unknown_format", "", "'row' holds a row"),
    "questions of MT-bench": (
        {"question_id": 81, "category": "writing", "turns": ["Hi"]},
        "unknown_format", "", "questions without answers",
    ),
    "answers of MT-bench": (
        {"question_id": 81, "choices": [{"index": 0, "turns": ["Hello"]}]},
        "unknown_format", "", "answers without their questions",
    ),
    "moss as one text": (
        {"plain_text": "[Human]: Hi<eoh> [MOSS]: Hello<eoa>", "num_turns": 1},
        "unknown_format", "", "MOSS",
    ),
    "a reference beside a question": (
        {"prompt": [ASKED], "ground_truth": "4"}, "unknown_format", "", "looks like reinforcement",
    ),
    "a reference beside messages": (
        {"messages": [ASKED], "reference_answer": "4"},
        "no_assistant", "messages", "looks like reinforcement",
    ),
    "a reference beside a text": (
        {"prompt": "Hi", "ground_truth": "4"},
        "missing_completion", "completion", "looks like reinforcement",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(name: str, home: Path) -> None:
    """The code, the user's own field, what it is, and a way out that removes no row."""
    row, code, path, words = REFUSED[name]
    (error,) = gateway.validate([row] * 12, quality=False).errors
    assert (error.code, error.path) == (code, path)
    assert words in error.message and "Remove the row" not in error.fix
    assert error.fix.rstrip(".").lower() not in error.message.lower()  # a way, not the fault again


TABLES = {
    name: (form, row)
    for name, (form, row, _) in {**SHAPES, **SERVICES}.items()
    if len(row) > 1 and all(isinstance(value, str) for value in row.values())
}


@pytest.mark.parametrize("name", TABLES)
def test_a_shape_of_texts_is_read_from_a_table(name: str, tmp_path: Path) -> None:
    """Its columns are known, as they are and in capitals, in a file that is not named after what it
    holds; so they are in columns of JSON."""
    form, row = TABLES[name]
    for keys in ([*row], [key.title() for key in row if key.islower()]):
        path = tmp_path / f"{keys[0]}.txt"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([keys, *[row.values()] * 2])
        dataset = gateway.Dataset.open(path, spool=tmp_path)
        names = [one and one.name for one in (format_of(line.data) for line in dataset.rows())]
        assert (dataset.container, names) == ("csv", [form] * 2)
        assert "header_unknown" not in {code for code, *_ in dataset.reading.observations}
    path = tmp_path / "columns.json"
    path.write_text(json.dumps({key: [value] * 2 for key, value in row.items()}))
    assert [line.data for line in gateway.Dataset.open(path, spool=tmp_path).rows()] == [row] * 2


def test_names_of_formats_differ() -> None:
    """A report names one format."""
    names = [one.name for one in FORMATS]
    assert len(names) == len(set(names))


CALL: Json = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
RESULT: Json = {"role": "tool", "tool_call_id": "c", "content": "1"}


@pytest.mark.parametrize("tool", [
    {"type": "function", **FUNCTION},
    {"name": "find", "input_schema": {"type": "object"}},
])  # fmt: skip
def test_a_tool_of_another_api_is_one_error(tool: Json, home: Path) -> None:
    """Its call is not said to be undeclared."""
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}], "tools": [tool]}
    (error,) = gateway.validate([row] * 12, quality=False).errors
    assert (error.code, error.path) == ("type_error", "tools[0]") and "function" in error.fix


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_a_call_without_arguments_has_one_verdict(key: str, home: Path) -> None:
    """In rows of OpenAI's and of others: a warning here, an error there; both are written."""
    call = {**CALL, "function": {"name": "find"}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, RESULT, CHOSEN]
    row = {key: messages, "tools": [TOOL]}
    for backend, outcome in (("local", "warned"), ("openai", "rejected")):
        report = gateway.validate([row] * 12, backend=backend, quality=False)
        found = {(one.code, one.path) for one in report.errors + report.warnings}
        assert report.outcome == outcome
        assert ("tool_args_type", f"{key}[1].tool_calls[0].function.arguments") in found
    assert convert_row(canonical(row), "openai")["messages"] == messages


def test_the_result_of_a_call_that_cannot_be_read_is_no_error_too(home: Path) -> None:
    """One error, at the call."""
    call = {"from": "function_call", "value": "{'name': 'find', 'arguments': {}}"}
    turns = [TURNS[0], call, {"from": "observation", "value": "1"}, TURNS[1]]
    (error,) = gateway.validate([{"conversations": turns}] * 12, quality=False).errors
    assert (error.code, error.path) == ("not_convertible", "conversations[1].value")
    assert "as JSON" in error.fix


LISTED: Json = {**CHAT, "tools": [TOOL]}
ASKED_TOOL: Json = {"messages": [USER], "tools": [TOOL]}
# Rows with tools as a text, and what is sent of them.
AS_TEXT: dict[str, tuple[Json, Json]] = {
    "chat": ({**CHAT, "tools": json.dumps([TOOL])}, LISTED),
    "bare functions": ({**CHAT, "tools": json.dumps([FUNCTION])}, LISTED),
    "blank": ({**CHAT, "tools": " "}, CHAT),
    "null": ({**CHAT, "tools": "null"}, CHAT),
    "a pair": (
        {**PAIR, "input": {"messages": [USER], "tools": json.dumps([TOOL])}},
        {**PAIR, "input": ASKED_TOOL},
    ),
}


@pytest.mark.parametrize("name", AS_TEXT)
def test_tools_as_a_text_have_one_verdict(name: str, home: Path, tmp_path: Path) -> None:
    """OpenAI refuses them; elsewhere the list is read, counted and sent, and a fixed copy and a
    converted one have it."""
    row, wanted = AS_TEXT[name]
    rows = [row] * 12
    assert {one.code for one in gateway.validate(rows, backend="openai").errors} == {"tools_json"}
    report = gateway.validate(rows, quality=False)
    assert (report.outcome, read(row).row) == ("warned", wanted)
    assert report.tokens == gateway.validate([wanted] * 12, quality=False).tokens
    backend = FakeBackend()
    method: Any = "dpo" if "input" in row else "sft"
    gateway.submit(rows, model="m", backend=backend, method=method, again=True)
    lines = backend.started[0][2].path.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [wanted] * 12
    dataset = gateway.Dataset.open([{**row, "n": 1}])
    dataset.fix(tmp_path / "fixed.jsonl")
    dataset.convert("openai", tmp_path / "converted.jsonl")
    for path in (tmp_path / "fixed.jsonl", tmp_path / "converted.jsonl"):
        assert json.loads(path.read_text("utf-8")) == {**wanted, "n": 1}


@pytest.mark.parametrize("tools", ["find", '{"name": "find"}', {"name": "find"}, 7])
def test_tools_that_are_no_list_are_an_error(tools: Any, home: Path) -> None:
    """In a text too."""
    errors = gateway.validate([{**CHAT, "tools": tools}] * 12, quality=False).errors
    assert [(one.code, one.path) for one in errors] == [("type_error", "tools")]


def test_a_system_text_beside_some_rows_is_sent(home: Path) -> None:
    """As the first message of these rows; the others stay as they are."""
    rows: list[Json] = [{**CHAT, "n": n} | ({"system": SYSTEM} if n % 2 else {}) for n in range(12)]
    backend = FakeBackend()
    gateway.submit(rows, model="m", backend=backend, again=True)
    lines = backend.started[0][2].path.read_text("utf-8").splitlines()
    sent = [json.loads(line) for line in lines]
    assert [row["messages"] for row in sent] == [
        LED["messages"] if n % 2 else CHAT["messages"] for n in range(12)
    ]
    (note,) = [one for one in gateway.validate(rows).findings if one.code == "system_beside"]
    assert (note.severity, note.count, note.path) == ("note", 6, "system")


@pytest.mark.parametrize("name", [name for name, (_, _, sent) in SHAPES.items() if sent == CHAT])
def test_a_system_text_beside_any_shape_is_sent(name: str, home: Path) -> None:
    """As the first message; a blank one is none."""
    _, row, _ = SHAPES[name]
    assert read({**row, "system": SYSTEM}).row == LED
    assert read({"system_prompt": " ", **row, "system": None}).row == CHAT


TOOLED: Json = {"name": "find me", "parameters": {"type": "objekt"}}
BAD_TOOL: Json = {"type": "function", "function": TOOLED}
# Where the name and the type of a bad tool are in a row.
BESIDE: dict[str, tuple[Json, str, str]] = {
    "a list of tools": (
        {"prompt": "Hi", "completion": "Hello", "tools": [BAD_TOOL]},
        "tools[0].function.name", "tools[0].function.parameters.type",
    ),
    "bare functions": (
        {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "tools": [TOOLED]},
        "tools[0].name", "tools[0].parameters.type",
    ),
    "a text": ({"conversations": TURNS, "tools": json.dumps([TOOLED])}, "tools", "tools"),
    "the input of a pair": (
        {**PAIR, "input": {"messages": [USER], "tools": [BAD_TOOL]}},
        "input.tools[0].function.name", "input.tools[0].function.parameters.type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_tools_of_every_format_are_judged_at_their_place(name: str, home: Path) -> None:
    """By the same rules, and at the user's own field."""
    row, own_name, own_type = BESIDE[name]
    errors = gateway.validate([row] * 12, quality=False).errors
    places = {(one.code, one.path) for one in errors}
    assert places == {("tool_name", own_name), ("tool_schema", own_type)}


@pytest.mark.parametrize("row", [
    {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "images": ["a.png"]},
    {"instruction": "Hi", "response": "Hello", "image": "a.png"},
    {"text": "Once.", "images": ["a.png"]},
])  # fmt: skip
def test_images_beside_a_row_of_any_format_are_an_error(row: Json, home: Path) -> None:
    """They would be left behind, and the answer speaks of them."""
    codes = {one.code for one in gateway.validate([row] * 12, quality=False).errors}
    assert codes == {"image_path"}


def test_unknown_keys_are_named_in_every_format(home: Path) -> None:
    """Beside the example, in the input of a pair, in a message."""
    odd = {**USER, "mood": "calm"}
    rows: list[Json] = [
        {"messages": [USER, CHOSEN], "mood": "calm"},
        {**PAIR, "mood": "calm"},
        {**PAIR, "input": {"messages": [USER], "mood": "calm"}},
        {**PAIR, "input": {"messages": [odd]}},
        {"prompt": [odd], "chosen": GOOD, "rejected": BAD},
        *({**row, "mood": "calm"} for _, row, _ in SHAPES.values()),
    ]
    for row in rows:
        findings = gateway.validate([row] * 12, quality=False).findings
        assert any(
            one.code in ("unknown_key", "not_sent") and "mood'" in one.message for one in findings
        ), row


WILD: Json = {"hashed_ip": "f00", "header": {"accept": "en"}, "toxic": False, "state": None}


@pytest.mark.parametrize("key", ["conversation", "conversations", "request"])
def test_keys_of_messages_that_are_read_from_another_format_stay_here(
    key: str, home: Path, tmp_path: Path
) -> None:
    """As those of rows do (WildChat): submit sends and convert writes the messages alone, and both
    say what is left out. A key that may be part of what is said is kept, and warned of."""
    said = [{**USER, **WILD}, {**CHOSEN, **WILD}]
    row: Json = {key: said} if key != "request" else {
        "request": {"messages": said[:1]}, "response": {"choices": [{"message": CHOSEN}]}
    }  # fmt: skip
    backend = FakeBackend()
    gateway.submit([row] * 12, model="gpt-4o", backend=backend, again=True)
    sent = json.loads(backend.started[0][2].path.read_text("utf-8").splitlines()[0])
    assert sent == {"messages": [USER, CHOSEN]}
    report = gateway.validate([row] * 12, quality=False)
    (note,) = (one for one in report.findings if one.code == "not_sent")
    assert "[].hashed_ip'" in note.message and "[].state'" not in note.message
    done = gateway.Dataset.open([row] * 12).convert("openai", tmp_path / "out.jsonl")
    assert "f00" not in (tmp_path / "out.jsonl").read_text()
    assert any("[].header' of 12 rows was left out" in one for one in done.notes)
    said[-1]["thought"] = "So."
    if key != "request":
        warned = gateway.validate([row] * 12, quality=False).warnings
        assert [one.path for one in warned if one.code == "unknown_key"] == [f"{key}[1].thought"]


def asked(n: int, **more: Any) -> Json:
    return {"prompt": f"Is parcel {n} late?", "completion": f"No, {n} is not.", **more}


@pytest.mark.parametrize("key", ["chosen", "rejected"])
@pytest.mark.parametrize("mark", [True, 0, "yes"], ids=str)
@pytest.mark.parametrize("form", ["jsonl", "csv", "messages"])
def test_a_mark_beside_an_answer_is_no_pair(key: str, mark: Any, form: str, tmp_path: Path) -> None:
    """True, false, a number or a word under chosen or rejected alone is a key like others; a text,
    or one without an answer beside it, is a side of a pair."""
    rows = [asked(n, **{key: mark}) for n in range(12)]
    path = tmp_path / f"rows.{'csv' if form == 'csv' else 'jsonl'}"
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        made = [{**CHAT, key: mark} for _ in rows] if form == "messages" else rows
        path.write_text("".join(json.dumps(row) + "\n" for row in made))
    report = gateway.validate(path)
    assert report.format == ("openai-chat" if form == "messages" else "prompt-completion")
    assert not report.errors and report.tokens and report.tokens["trained"]
    if key == "chosen" and form != "messages":
        labelled = gateway.validate(path, columns={"chosen": "label"})
        assert "--map chosen=label" in str([one.fix for one in report.findings])
        assert labelled.format == "unpaired-preference"
    said = format_of(asked(1, **{key: "It is late."})), format_of({"prompt": "?", key: "yes"})
    assert all(one is not None and one.kind == "preference" for one in said)


def test_labels_of_a_file_are_classes_or_none_is(tmp_path: Path) -> None:
    """convert has one answer for all rows of a file: 0 and 1 among other numbers are kept as they
    are, and a file of 0 and 1 alone, which may be KTO, is refused with the way out."""
    for classes in (3, 2):
        path, out = tmp_path / f"{classes}.jsonl", tmp_path / f"out{classes}.jsonl"
        given = [asked(n, label=n % classes) for n in range(12)]
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        dataset = gateway.Dataset.open(path)
        if classes == 2:
            with pytest.raises(gateway.DataError, match="no labels"):
                dataset.convert("openai", out)
            continue
        done = dataset.convert("openai", out)
        written = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["label"] for row in written] == [row["label"] for row in given]
        assert done.formats == ("prompt-completion",) and "'label' of 12 rows" in done.notes[0]
        with pytest.raises(gateway.DataError, match="no key 'label'"):
            dataset.convert("together", tmp_path / "together.jsonl")


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [("feedback", "thumbs_down", "thumbs_up"), ("liked", False, True), ("vote", "Down", "up")],
)
def test_what_a_person_said_of_an_answer_can_be_its_label(
    key: str, bad: Any, good: Any, home: Path, tmp_path: Path
) -> None:
    """Answers that were marked bad are trained like the others; the note says how they are not, and
    --fix makes true and false of the words."""
    path, fixed = tmp_path / "log.jsonl", tmp_path / "fixed.jsonl"
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}, of {n * 7}.",
             key: (bad, good)[n % 2]} for n in range(12)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = gateway.validate(path)
    assert f"--map {key}=label" in str([one.fix for one in report.findings])
    main(["validate", str(path), "--map", f"{key}=label", "--fix", str(fixed), "--quiet"])
    labelled = gateway.validate(fixed)
    assert labelled.format == "unpaired-preference" and not labelled.errors
    labels = [json.loads(line)["label"] for line in fixed.read_text().splitlines()]
    assert labels == [bool(n % 2) for n in range(12)]
    counted = [{**row, key: 4} for row in rows]  # how many stars, or how often
    path.write_text("".join(json.dumps(row) + "\n" for row in counted))
    assert "=label" not in str([one.fix for one in gateway.validate(path).findings])
