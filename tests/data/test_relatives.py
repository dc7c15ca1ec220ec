"""Rows that are nearly of a known format: what is read of them, what --fix repairs, and that no
advice throws away what is good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as gateway
from finetune_gateway import Dataset, FakeBackend
from finetune_gateway.data.canonical import canonical, read
from finetune_gateway.data.columns import suggested
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report
from finetune_gateway.preparation.fix_row import fix_row
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]

ASKED, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CHAT: Json = {"messages": [ASKED, ANSWER]}
FIND: Json = {"name": "find", "parameters": {"type": "object"}}
TOOL: Json = {"type": "function", "function": FIND}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
NO = {"role": "assistant", "content": "No"}
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
BARE = [CHAT, {"prompt": "Hi", "completion": "Hello"}, {"conversations": [HUMAN, GPT]}]
OF_ANTHROPIC = {"name": "find", "input_schema": {"type": "object"}}


def judged(row: Any, count: int = 12) -> Report:
    text = json.dumps(row)
    rows = [text.replace("Hi", f"Hi {n}").replace("Hello", f"Hello {n}") for n in range(count)]
    path = Path(Settings.load().home) / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return gateway.validate(path, quality=False)


# -- turns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"name": "find", "arguments": {}},
        [{"name": "find", "arguments": {}}],
        json.dumps({"name": "find", "parameters": {}}),
        json.dumps({"type": "function", "name": "find", "arguments": "{}"}),
        json.dumps([CALL]),
    ],
)
@pytest.mark.parametrize(("caller", "result"), [("function_call", "observation"),
                                                ("tool_call", "tool_response")])  # fmt: skip
def test_a_call_is_read_however_it_is_written(value: Any, caller: str, result: str) -> None:
    """As an object, in OpenAI's wrapping, with Llama's parameters; results may be objects too."""
    turns = [HUMAN, {"from": caller, "value": value}, {"from": result, "value": {"on": True}}, GPT]
    sent = read({"conversations": turns, "tools": [FIND]})
    assert sent.errors == []
    assert sent.row["messages"][1] == {"role": "assistant", "tool_calls": [CALL]}
    assert sent.row["messages"][2]["content"] == '{"on": true}'


def test_what_stands_beside_a_turn_is_told_apart() -> None:
    """Null is nothing, loss and train are weights, reasoning is kept, numbers and times are no part
    of the example, and other texts cannot be sent."""
    heard = {**HUMAN, "weight": None, "markdown": None, "text": None, "id": "a", "tokens": 3}
    sent = read({"conversations": [heard, {**GPT, "loss": False}, HUMAN, {**GPT, "train": True}]})
    assert sent.errors == []
    weights = [one.get("weight") for one in sent.row["messages"]]
    assert weights == [None, 0, None, 1]
    assert {*sent.others} == {"conversations[].id", "conversations[].tokens"}
    thinks = read({"conversations": [HUMAN, {**GPT, "reasoning_content": "So."}]})
    assert thinks.row["messages"][1] == {**ANSWER, "reasoning_content": "So."}
    assert thinks.origin("messages[1].reasoning_content") == "conversations[1].reasoning_content"
    (error,) = read({"conversations": [HUMAN, {**GPT, "aside": "(laughs)"}]}).errors
    assert error.path == "conversations[1].aside" and "leave it out" in error.fix


def test_a_result_after_a_call_in_a_text_names_the_call(home: Path) -> None:
    """As Hermes writes them: the way out is about the call, not the result."""
    said = {"from": "gpt", "value": '<tool_call>{"name": "find", "arguments": {}}</tool_call>'}
    report = judged({"conversations": [HUMAN, said, {"from": "tool", "value": "1"}, GPT]})
    (error,) = report.errors
    assert "writes its call as a text" in error.message and "function_call" in error.fix


# -- tools ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [{}, 0, False, {"find": FIND}, 7])
@pytest.mark.parametrize("beside", [*BARE, {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}])
def test_tools_that_are_no_list_have_one_verdict(tools: Any, beside: Json, home: Path) -> None:
    """In every format, also those that are nothing to Python."""
    assert {one.code for one in judged({**beside, "tools": tools}).errors} == {"type_error"}


@pytest.mark.parametrize(
    "tools", [repr([TOOL]), json.dumps([FIND]), [json.dumps(TOOL)], [FIND], [OF_ANTHROPIC]]
)
def test_tools_are_read_in_every_form(tools: Any, home: Path, tmp_path: Path) -> None:
    """As Python prints them, as texts in a list, bare, and as Anthropic has them; --fix writes them
    into a chat row."""
    sent = read({"prompt": "Hi", "completion": "Hello", "tools": tools})
    assert (sent.errors, sent.row["tools"]) == ([], [TOOL])
    if isinstance(tools, str) or isinstance(tools[0], dict):
        rows = [{"messages": [{**ASKED, "content": f"Hi {n}"}, ANSWER], "tools": tools}
                for n in range(12)]  # fmt: skip
        fixed = Dataset.open(rows).fix(tmp_path / "fixed.jsonl")
        assert fixed.report.errors == []
        assert json.loads((tmp_path / "fixed.jsonl").read_text().splitlines()[0])["tools"] == [TOOL]


# -- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [CHAT, {"conversations": [HUMAN, GPT]},
                                    {"instruction": "Hi", "output": "Hello"}])  # fmt: skip
@pytest.mark.parametrize("key", ["kto_tag", "label"])
def test_a_label_beside_a_row_makes_it_one_for_kto(beside: Json, key: str, home: Path) -> None:
    """A bad answer is not trained as a good one."""
    row = {**beside, key: False}
    report = judged(row)
    assert report.errors == [] and report.kind == "unpaired_preference"
    assert read(row).row == {**CHAT, "label": False}
    with pytest.raises(DataError, match="method"):
        gateway.submit([row] * 12, model="gpt-4o", backend=FakeBackend(), method="sft")


def test_a_number_beside_a_row_is_no_label() -> None:
    """It may be the class of a text."""
    row = {"instruction": "Hi", "output": "Hello", "label": 7}
    assert read(row).row == CHAT and read(row).others == ("label",)


def test_labels_as_numbers_or_texts_are_mended(home: Path, tmp_path: Path) -> None:
    """TRL takes true and false alone."""
    rows = [{"prompt": f"Hi {n}", "completion": "Hello", "label": n % 2 if n < 6 else "True"}
            for n in range(12)]  # fmt: skip
    assert {one.code for one in gateway.validate(rows, quality=False).errors} == {"label"}
    assert Dataset.open(rows).fix(tmp_path / "fixed.jsonl").report.errors == []


# -- advice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"Instruction": "Hi", "Input": "", "Output": "Hello"}, "Instruction"),
        ({"question": "Hi", "tools": "[]", "answer": "Hello"}, "question"),
    ],
)
def test_the_map_that_is_offered_keeps_the_question(row: Json, column: str) -> None:
    """No column of tools is an answer, and a blank input is no question."""
    offered = suggested(row)
    assert column in offered and "tools" not in offered
    assert offered[column] in ("prompt", "instruction")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"role": "user", "content": "Hi"}, "one message"),
        ({"dialog": ["Hi", "Hello"]}, "does not say who speaks"),
        ({"dialogue": [ASKED, ANSWER]}, "--map dialogue=messages"),
        ({"turns": [{"speaker": "a", "text": "Hi"}, {"speaker": "b", "text": "Hello"}]}, "speaker"),
        ({"system": "Be brief.", "chat": "USER: Hi ASSISTANT: Hello"}, "messages"),
        (["Hi", "Hello"], "without names"),
    ],
)
def test_what_cannot_be_read_is_named(row: Any, words: str, home: Path, tmp_path: Path) -> None:
    """With a way out that is no guess; --fix does not take it apart."""
    report = judged(row)
    (error,) = report.errors
    assert words in f"{error.message} {error.fix}"
    assert not {"prompt,", "=completion"} & {*error.fix.split()} and "role=prompt" not in error.fix
    path = Path(Settings.load().home) / "rows.jsonl"
    assert Dataset.open(path).fix(tmp_path / "fixed.jsonl").rows == 12


@pytest.mark.parametrize("name", ["value", "text", "content"])
@pytest.mark.parametrize("speaker", ["role", "from"])
def test_a_text_by_another_name_is_mended(
    name: str, speaker: str, home: Path, tmp_path: Path
) -> None:
    """The finding names it, and tells nobody to take it out."""
    right = {"role": "content", "from": "value"}[speaker]
    if name == right:
        return
    roles = {"role": ("user", "assistant"), "from": ("human", "gpt")}[speaker]
    turns = [{speaker: role, name: text} for role, text in zip(roles, ("Hi", "Hello"), strict=True)]
    report = judged({"conversations": turns})
    assert any(f"'{name}'" in one.message and "Rename" in one.fix for one in report.errors)
    path = Path(Settings.load().home) / "rows.jsonl"
    assert Dataset.open(path).fix(tmp_path / "fixed.jsonl").report.errors == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"conversation_a": [ASKED, ANSWER], "conversation_b": [ASKED, NO]}, "two conversations"),
        ({"instruction": "Hi", "answer": "Hello"}, "'answer'"),
        ({"prompt": "Hi", "answer": "Hello"}, "'answer'"),
        ({"context": "Hi", "chosen": "Hello", "rejected": "No"}, "'context'"),
    ],
)
def test_a_part_under_another_name_is_named(row: Json, words: str, home: Path) -> None:
    """What is missing may be there."""
    (error,) = judged(row).errors
    assert words in error.message


def test_texts_in_place_of_a_pairs_lists_are_mended(home: Path, tmp_path: Path) -> None:
    """OpenAI refuses them; what they say is clear."""
    rows = [{"input": f"Hi {n}", "preferred_output": "Hello", "non_preferred_output": {
        "role": "assistant", "content": "No"}} for n in range(12)]  # fmt: skip
    assert gateway.validate(rows, quality=False).errors
    fixed = Dataset.open(rows).fix(tmp_path / "fixed.jsonl")
    assert fixed.report.errors == [] and fixed.report.tokens is not None


def test_an_instruction_of_white_space_is_blank() -> None:
    """Not only spaces, and a history of none is none."""
    for blank in ("\u00a0", "\u3000", "\n", "\u200b", "\ufeff \u2060"):
        assert read({"instruction": blank, "input": "Hi", "output": "Hello"}).row == CHAT
        assert read({"instruction": "Hi", "input": blank, "output": "Hello"}).row == CHAT
        assert read({"system": blank, "prompt": [ASKED], "completion": [ANSWER]}).row == CHAT
        pair = {"prompt": blank, "question": "Hi", "chosen": "Hello", "rejected": "No"}
        assert read(pair).row["input"] == {"messages": [ASKED]}
    assert read({"instruction": "Hi", "input": "", "history": "", "output": "Hello"}).errors == []


@pytest.mark.parametrize("text", [json.dumps, repr])
@pytest.mark.parametrize("sides", [[[ASKED, ANSWER], [ASKED, NO]], [[ANSWER], [NO]], [ANSWER, NO]])
def test_messages_in_a_text_are_named_and_mended(
    text: Any, sides: list[Any], home: Path, tmp_path: Path
) -> None:
    """They would be trained as they are written; an answer in JSON is one."""
    chosen, rejected = (f" {text(side)}" for side in sides)
    report = judged({"prompt": "Hi", "chosen": chosen, "rejected": rejected})
    assert {one.path for one in report.errors if "--fix" in one.fix} == {"chosen", "rejected"}
    path = Path(Settings.load().home) / "rows.jsonl"
    fixed = Dataset.open(path).fix(tmp_path / "fixed.jsonl")
    assert fixed.report.errors == [] and fixed.report.format == "openai-preference"
    assert read({"prompt": "Hi", "completion": '[{"room": "hall"}]'}).errors == []
    asked = {"input": text([ASKED]), "ideal": "Hello"}  # a text there
    assert fix_row(asked)[0]["messages"] == [{**ASKED, "content": text([ASKED])}, ANSWER]


def test_a_question_that_both_answers_repeat_is_named(home: Path) -> None:
    """One answer may begin with it."""
    asked = "Hi, is it on?"
    row = {"prompt": asked, "chosen": f"{asked} Hello", "rejected": f"{asked}\nNo"}
    (warning,) = (one for one in judged(row).warnings)
    assert (warning.code, warning.path) == ("prompt_in_answers", "chosen")
    assert judged({**row, "rejected": "No"}).warnings == []


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({}, "nothing says which"),
        ({"better_response_id": -1}, "names none"),
        ({"better": True}, "names none"),
        ({"better_response_id": 0, "safer_response_id": 1}, "different answers"),
    ],
)
def test_two_answers_of_which_none_is_chosen(choice: Json, words: str, home: Path) -> None:
    """The reason is about the choice; no guess is made."""
    report = judged({"prompt": "Hi", "response_0": "Hello", "response_1": "No", **choice})
    (error,) = report.errors
    assert words in error.message.lower()


# -- what would be lost -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [*BARE, {"instruction": "Hi", "output": "Hello"},
            {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}],
)  # fmt: skip
def test_a_text_that_would_be_lost_is_a_warning(row: Json, home: Path) -> None:
    """Reasoning and system texts beside the conversation, in every format; a blank is nothing."""
    beside = {"Reasoning": "So.", "persona": "Be brief."}
    report = judged({**row, **beside})
    codes = {one.code: one.fix for one in report.warnings}
    assert codes.keys() == {"reasoning_beside", "system_unread"}
    assert "<think>" in codes["reasoning_beside"] and "persona=system" in codes["system_unread"]
    assert {one.code for one in judged({**row, "reasoning": "", "thinking": 3}).warnings} <= {
        "unknown_key"
    }


@pytest.mark.parametrize("key", ["loss", "train", "training"])
def test_what_is_trained_is_said_by_other_keys_too(key: str, home: Path, tmp_path: Path) -> None:
    """In chat rows as in turns: counted, sent and repaired as weights, by every backend."""
    unheard, learned = {**ANSWER, key: False}, {**ANSWER, key: True}
    row = {"messages": [{**ASKED, key: False}, unheard, ASKED, learned]}
    right = {"messages": [ASKED, {**ANSWER, "weight": 0}, ASKED, {**ANSWER, "weight": 1}]}
    sent = read(row)
    assert (sent.errors, sent.row) == ([], right)
    marked, report = judged(row), judged(right)
    assert marked.tokens == report.tokens and marked.outcome == report.outcome
    assert "weight_key" in {one.code for one in marked.findings}
    path = Path(Settings.load().home) / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 12)
    Dataset.open(path).fix(tmp_path / "fixed.jsonl")
    assert json.loads((tmp_path / "fixed.jsonl").read_text().splitlines()[0]) == right
    backend = FakeBackend()
    gateway.submit(path, model="gpt-4o", backend=backend, validation_split=0)
    assert json.loads(backend.started[0][2].path.read_text().splitlines()[0]) == right


@pytest.mark.parametrize(
    "marks", [{"loss": "last"}, {"loss": False, "weight": 1},
              {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}],
)  # fmt: skip
def test_what_no_weight_can_say_is_an_error(marks: Json, home: Path) -> None:
    """Words, contradictions, and parts of an answer."""
    (error,) = judged({"messages": [ASKED, {**ANSWER, **marks}]}).errors
    assert error.code == "not_convertible" and error.fix


def test_both_sides_of_a_pair_are_compared_whatever_their_marks() -> None:
    """A worse answer that is marked as not to be trained is still the worse one."""
    row = {"prompt": [{**ASKED, "loss": False}], "chosen": [{**ANSWER, "loss": True}],
           "rejected": [{**NO, "loss": False}]}  # fmt: skip
    right = {"input": {"messages": [ASKED]}, "preferred_output": [ANSWER],
             "non_preferred_output": [NO]}  # fmt: skip
    assert read(row).row == right
    marked = {**right, "non_preferred_output": [{**NO, "loss": False}]}
    assert canonical(marked) == right


@pytest.mark.parametrize("method", ["pretrain", "dpo", "kto"])
def test_rows_for_another_method_are_all_counted(method: Any, home: Path) -> None:
    """By a host's rule, the first row too; that the method is another is said once."""
    rows = [{"messages": [{**ASKED, "content": f"Hi {n}"}, ANSWER]} for n in range(12)]
    wrong = gateway.validate(rows, method=method, quality=False)
    assert [one.code for one in wrong.errors] == ["method_mismatch"]
    assert wrong.tokens == gateway.validate(rows, method="sft", quality=False).tokens


def test_rows_without_a_token_to_train_have_one_verdict(home: Path) -> None:
    """Validate says of answers in sound alone what submit does."""
    sound = {"role": "assistant", "content": None, "audio": {"id": "a"}}
    rows = [{"messages": [{**ASKED, "content": f"Hi {n}"}, sound]} for n in range(12)]
    (error,) = gateway.validate(rows, backend=FakeBackend(), quality=False).errors
    assert error.code == "nothing_left"
    with pytest.raises(DataError, match="has a token to train"):
        gateway.submit(rows, model="gpt-4o", backend=FakeBackend())


# -- containers -------------------------------------------------------------------------------


def test_a_column_whose_first_cell_is_json(home: Path, tmp_path: Path) -> None:
    """Its other cells are texts, so that it is a column; broken JSON is still a line of JSON."""
    path = tmp_path / "rows.csv"
    path.write_text('note\n"{""a"": 1}"\nHi\n')
    assert [row.data for row in Dataset.open(path).rows()] == [{"note": '{"a": 1}'}, {"note": "Hi"}]
    path.write_text('note\n"{""text"": ""Hi""}"\n"{""text"":"\n')
    assert "rows_in_cells" in {one.code for one in gateway.validate(path).findings}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows.json", "rows"])
def test_wide_json_lines_are_read_by_any_other_name(
    name: str, encoding: str, home: Path, tmp_path: Path
) -> None:
    """As arrays and tables are; a broken line has its number."""
    path = tmp_path / name
    path.write_bytes(f"{json.dumps(CHAT)}\n\n{json.dumps(CHAT)[:-1]}\n".encode(encoding))
    report = gateway.validate(path, quality=False)
    assert "encoding_converted" in {one.code for one in report.findings}
    (broken,) = (one for one in report.errors if one.code != "too_few_examples")
    assert broken.lines == [3]


def test_the_index_of_a_table_of_pandas_is_not_read(home: Path, tmp_path: Path) -> None:
    """A column of the user's own with numbers in it is."""
    path = tmp_path / "rows.json"
    held = {"schema": {"primaryKey": ["index"], "pandas_version": "1.4.0"},
            "data": [{"index": n, **CHAT} for n in range(2)]}  # fmt: skip
    path.write_text(json.dumps(held))
    assert [row.data for row in Dataset.open(path).rows()] == [CHAT, CHAT]
    path.write_text(json.dumps({"data": held["data"]}))
    assert [row.data.get("index") for row in Dataset.open(path).rows()] == [0, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.json", '[\n{"prompt": "Hi", "completion": "Hello"},\n]'),
        ("rows.csv", ",prompt,completion\n0,Hi,Hello\n"),
        ("rows.csv", "Unnamed: 0,prompt,completion\n0,Hi,Hello\n"),
        ("rows.csv", '"sep=;"\nprompt;completion\nHi;Hello\n'),
        ("rows.csv", "sep=\\t\nprompt\tcompletion\nHi\tHello\n"),
    ],
)
def test_a_container_is_read_with_what_exports_add(
    name: str, text: str, home: Path, tmp_path: Path
) -> None:
    """A comma after the last item, pandas' numbers, a quoted line for Excel, its tab in two
    characters."""
    path = tmp_path / name
    path.write_text(text)
    assert [row.data for row in Dataset.open(path).rows()] == [
        {"prompt": "Hi", "completion": "Hello"}
    ]


def test_a_comma_after_each_object_is_mended(home: Path, tmp_path: Path) -> None:
    """As the lines of an array have it."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Hi {n}", "completion": "Hello"}) + ",\n"
                            for n in range(12)))  # fmt: skip
    fixed = Dataset.open(path).fix(tmp_path / "fixed.jsonl")
    assert fixed.report.errors == [] and fixed.rows == 12


def test_a_system_text_beside_any_row_is_part_of_it() -> None:
    """Also where the format has none: a trace of LangChain, a log of requests."""
    system = {"role": "system", "content": "Be brief."}
    rows: list[Json] = [
        {"request": {"messages": [ASKED]}, "response": {"choices": [{"message": ANSWER}]}},
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]},
                      {"role": "model", "parts": [{"text": "Hello"}]}]},
        {"input": [ASKED], "output": [{"type": "message", **ANSWER}]},
    ]  # fmt: skip
    for row in rows:
        assert read(row).errors == []
        sent = read({**row, "system": "Be brief."})
        assert (sent.errors, sent.others) == ([], ())
        assert sent.row["messages"] == [system, ASKED, ANSWER]
        assert canonical({**row, "system": "Be brief."}) == sent.row


def test_mending_makes_no_pair_worse(home: Path, tmp_path: Path) -> None:
    """A pair with a system text beside it, and a key that is not part of it: that is not sent, so
    it is not written into the copy as a part of the pair."""
    sides = {"preferred_output": [ANSWER], "non_preferred_output": [NO]}
    marked = {"messages": [ASKED, {**ANSWER, "loss": True}], "mood": "calm"}
    pair = {"system": "Be brief.", "input": {"messages": [ASKED]}, **sides, "mood": "calm"}
    for row in (pair, marked):
        before = judged(row)
        path = Path(Settings.load().home) / "rows.jsonl"
        after = Dataset.open(path).fix(tmp_path / "fixed.jsonl", force=True).report
        assert before.warnings == [] == after.warnings
