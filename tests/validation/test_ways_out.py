"""What a finding advises names what the file has, and its commands do what they say."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg

from finetune_gateway import Dataset, Finding, Report
from finetune_gateway.data.canonical import read
from finetune_gateway.errors import DataError
from finetune_gateway.preparation.fix_row import fix_row
from finetune_gateway.reports.output import fold
from finetune_gateway.reports.validation_text import report_text
from finetune_gateway.validation.rows.leftovers import leftover_defects

Json = dict[str, Any]
NUMBERS = range(12)


def chat(n: int, **more: Any) -> Json:
    asked, answered = f"Is shop {n} open?", f"Yes, until {n}."
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"messages": messages, **more}


def pair(n: int, rejected: Any) -> Json:
    return {"prompt": f"Is shop {n} open?", "chosen": f"Yes, until {n}.", "rejected": rejected}


def rows(made: list[Json]) -> str:
    return "".join(json.dumps(row) + "\n" for row in made)


def checked(path: Path, text: str) -> Report:
    path.write_text(text)
    return Dataset.open(path).validate(quality=False)


def found(report: Report, code: str) -> list[Finding]:
    return [one for one in report.findings if one.code == code]


MIXED = [
    chat(n) if n % 2 else {"prompt": f"Is {n} it?", "completion": f"No, {n}."} for n in NUMBERS
]
# A file, the finding that names a command, and the rows that the command writes.
COMMANDS: dict[str, tuple[list[Json], str, int]] = {
    "two formats of chats": (MIXED, "mixed_formats", 12),
    "two formats of pairs": (
        [pair(n, f"No, {n}.") if n % 2 else {
            "input": {"messages": [{"role": "user", "content": f"Is {n} it?"}]},
            "preferred_output": [{"role": "assistant", "content": f"Yes, {n}."}],
            "non_preferred_output": [{"role": "assistant", "content": f"No, {n}."}],
        } for n in NUMBERS],
        "mixed_formats", 12,
    ),
    "worse answers in a list": ([pair(n, ["No.", f"Not {n}."]) for n in NUMBERS],
                                "not_convertible", 24),
    "labels as words": (
        [{"prompt": f"Is {n} it?", "completion": f"Yes, {n}.", "label": ("good", "bad")[n % 2]}
         for n in NUMBERS],
        "label", 12,
    ),
    "further keys": ([chat(n, id=n, **{"my source": "crm"}) for n in NUMBERS], "unknown_key", 12),
}  # fmt: skip


TRACK = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}


def hermes(n: int, **more: Any) -> Json:
    call = {"name": "track", "arguments": {"id": n}}
    system = f"You call functions within <tools> </tools>. <tools>[{json.dumps(TRACK)}]</tools>"
    said = {
        "system": system,
        "human": f"Where are {n} and {n}?",
        "gpt": f"<tool_call>\n{json.dumps(call)}\n</tool_call>\n" * 2,
        "tool": f"<tool_response>\nat {n}\n</tool_response>" * 2,
        **more,
    }
    turns = [{"from": speaker, "value": value} for speaker, value in said.items()]
    return {"conversations": [*turns, {"from": "gpt", "value": f"On their way, {n}."}]}


COMMANDS["calls in texts"] = ([hermes(n) for n in NUMBERS], "not_convertible", 12)


def hermes_messages(n: int, *, by: str = "tool", words: str = "", **more: Any) -> Json:
    """The same as OpenAI's messages: only the last message calls, or one that has its results."""
    call = {"name": "track", "arguments": {"id": n}}
    asked = [{"role": "user", "content": f"Where are {n} and {n}?"}]
    calls = {"role": "assistant", "content": f"{words}<tool_call>{json.dumps(call)}</tool_call>"}
    result = {"role": by, "content": f"<tool_response>\nat {n}\n</tool_response>"}
    end = {"role": "assistant", "content": f"On their way, {n}."}
    return {"messages": [*asked, calls, *([result, end] if by else [])], "tools": [TRACK], **more}


def hermes_pair(n: int) -> Json:
    asked, call = hermes_messages(n, by="")["messages"]
    worse = {"role": "assistant", "content": f"Anywhere, {n}."}
    return {"prompt": [asked], "chosen": [call], "rejected": [worse], "tools": [TRACK]}


Q = "Is parcel {} late?"


def logged(n: int, answer: Any = None, **more: Any) -> Json:
    """A request with its answer; every fourth one has failed."""
    failed = {"error": {"message": "Rate limit reached", "code": 429}}
    said = {"choices": [{"message": {"role": "assistant", "content": f"No, not {n}."}}]}
    asked = {"model": "m", "messages": [{"role": "user", "content": Q.format(n)}]}
    return {"request": asked, "response": answer or (said if n % 4 else failed), **more}


COMMANDS["failed requests"] = ([logged(n) for n in range(16)], "missing_completion", 12)
COMMANDS |= {
    "classes": ([{"prompt": Q.format(n), "completion": n} for n in NUMBERS], "type_error", 12),
    "numbers asked": (
        [{"prompt": n / 8, "completion": f"It is {n}."} for n in NUMBERS],
        "type_error",
        12,
    ),
    "numbers of Alpaca": (
        [{"instruction": Q.format(n), "output": n} for n in NUMBERS],
        "type_error",
        12,
    ),
    "numbers of turns": (
        [
            {
                "conversations": [
                    {"from": "human", "value": Q.format(n)},
                    {"from": "gpt", "value": n},
                ]
            }
            for n in NUMBERS
        ],
        "type_error",
        12,
    ),
    "numbers of messages": (
        [
            {"messages": [chat(n)["messages"][0], {"role": "assistant", "content": n}]}
            for n in NUMBERS
        ],
        "type_error",
        12,
    ),
    "numbers of pairs": (
        [{"prompt": Q.format(n), "chosen": n, "rejected": n + 1} for n in NUMBERS],
        "type_error",
        12,
    ),
    "numbers of rounds": (
        [{"conversation": [{"human": Q.format(n), "assistant": n}]} for n in NUMBERS],
        "type_error",
        12,
    ),
    "calls in messages": ([hermes_messages(n) for n in NUMBERS], "call_as_text", 12),
    "results of the user": ([hermes_messages(n, by="user") for n in NUMBERS], "call_as_text", 12),
    "calls after words": (
        [hermes_messages(n, words="Wait. ") for n in NUMBERS],
        "call_as_text",
        12,
    ),
    "calls at the end": ([hermes_messages(n, by="") for n in NUMBERS], "call_as_text", 12),
    "calls in pairs": ([hermes_pair(n) for n in NUMBERS], "call_as_text", 12),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_of_a_finding_makes_the_file_good(
    name: str, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file; what it writes has all rows, and nothing is left to say of it."""
    monkeypatch.chdir(tmp_path)
    given, code, count = COMMANDS[name]
    report = checked(Path("my rows.jsonl"), rows(given))
    one = found(report, code)[0]
    command = re.search(r"ftg .*", one.fix)
    assert command and "'my rows.jsonl'" in command[0], one.fix
    done = ftg(*shlex.split(command[0])[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    mended = Dataset.open(Path("new.jsonl")).validate(quality=False)
    assert mended.rows == count and not mended.errors and not mended.warnings, mended.findings


def test_formats_of_two_methods_are_split_by_hand(tmp_path: Path) -> None:
    """A text and a chat are no rows of one job: --fix is not offered."""
    report = checked(tmp_path / "a.jsonl", rows([chat(0), {"text": "A lighthouse."}] * 6))
    [one] = found(report, "mixed_formats")
    assert one.fix == "Split the file by format; each part is a job of its own."


def test_answers_in_lists_on_both_sides_are_not_paired_by_fix(tmp_path: Path) -> None:
    """Which of them belong together is not known: both are named, and --fix leaves the row."""
    given = [{**pair(n, ["No.", "Never."]), "chosen": ["Yes.", "Of course."]} for n in NUMBERS]
    report = checked(tmp_path / "a.jsonl", rows(given))
    both = found(report, "not_convertible")
    assert [one.path for one in both] == ["chosen", "rejected"]
    assert not any("--fix" in one.fix for one in both)
    assert Dataset.open(tmp_path / "a.jsonl").fix(tmp_path / "b.jsonl").changed == 0


def test_a_map_offers_the_columns_that_are_there(tmp_path: Path) -> None:
    """And none where there are no texts: the lists are named to their depth."""
    comments = [{"author_id": 1, "body": "Is it open?"}, {"author_id": 2, "body": "Yes."}]
    tickets = {"tickets": [{"id": n, "comments": comments} for n in NUMBERS], "next_page": None}
    [one] = found(checked(tmp_path / "a.json", json.dumps(tickets)), "unknown_format")
    assert "--map" not in one.fix
    assert "'tickets' holds 12 objects with the keys 'id', 'comments'" in one.message
    assert "'comments' in them holds 2 objects with the keys 'author_id', 'body'" in one.message
    [one] = found(checked(tmp_path / "b.jsonl", rows([{"a": 1}])), "unknown_format")
    assert "--map" not in one.fix and "keys 'a'" in one.message


TALK = "12.03.24, 09:0{n} - Anna: Is shop {n} open?\n12.03.24, 09:0{n} - Ben: Yes.\n"
SLACK = "help,17{n}.1,17{n}.1,U01,Is shop {n} open?\nhelp,17{n}.1,17{n}.9,U02,No, not {n}.\n"
TALKS = {
    "WhatsApp on Android": ("a.txt", TALK),
    "WhatsApp on an iPhone": ("a.txt", "\u200e[3/12/24, 9:0{n}:10\u202fPM] Anna: Is {n} it?\n"),
    "Slack": ("a.csv", SLACK),
    "questions and answers": ("a.txt", "Q: Is shop {n} open?\nA: Yes.\n"),
    "Telegram": (
        "a.jsonl",
        '{{"id": {n}, "type": "message", "from": "Anna", "text": "Is shop {n} open?"}}\n',
    ),
}


@pytest.mark.parametrize("name", TALKS)
def test_messages_of_chats_are_not_taken_for_texts_in_silence(name: str, tmp_path: Path) -> None:
    """They can be trained on as texts; that nobody speaks in them is a warning."""
    file, line = TALKS[name]
    head = "channel,thread_ts,ts,user,text\n" if file == "a.csv" else ""
    report = checked(tmp_path / file, head + "".join(line.format(n=n) for n in range(9)))
    [one] = found(report, "chat_as_text")
    assert report.format == "text" and one.severity == "warning" and "conversation_id" in one.fix
    assert not found(report, "format_text")


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-12 09:00:01 - INFO: started",
        "On 3/12/24, 9:00 the ship left.",
        "Q: Is it open?\nA: Yes.",
        "Question 5 is whether it is open.",
    ],
)
def test_other_texts_are_texts(text: str, tmp_path: Path) -> None:
    """A log, a sentence with a date, a question with its answer."""
    report = checked(tmp_path / "a.jsonl", rows([{"text": f"{text}", "user": "a"}] * 12))
    assert not found(report, "chat_as_text") and found(report, "format_text")


def test_the_advice_to_make_a_table_of_messages_works(tmp_path: Path) -> None:
    """Of three columns, a line a message."""
    lines = (f"{n},user,Is shop {n} open?\n{n},assistant,Yes until {n}.\n" for n in NUMBERS)
    report = checked(tmp_path / "a.csv", "conversation_id,role,content\n" + "".join(lines))
    assert report.rows == 12 and report.format == "openai-chat" and not report.errors


def test_questions_and_answers_are_no_yaml(tmp_path: Path) -> None:
    """And their blank lines are removed from this very file."""
    text = "".join(f"Q: Is shop {n} open?\nA: Yes.\n\n" for n in NUMBERS)
    report = checked(tmp_path / "a.md", text)
    [one] = found(report, "not_json")
    assert "a question or an answer" in one.message and "YAML" not in one.message
    assert "columns prompt and completion" in one.fix
    [blank] = found(report, "blank_line")
    assert f"ftg validate {tmp_path / 'a.md'} --fix new.jsonl" in blank.fix
    assert "YAML" in found(checked(tmp_path / "b.md", "name: a\n"), "not_json")[0].message


def test_half_a_batch_is_not_said_to_be_read(tmp_path: Path) -> None:
    """Beside the error that it is half, nothing says that its rows are sent."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    report = checked(tmp_path / "a.jsonl", rows([{"custom_id": "1", "body": body}] * 12))
    assert report.errors and not found(report, "format_shape")


def test_not_sent_says_nothing_of_conversations(tmp_path: Path) -> None:
    """Of a text there is none."""
    given = [{"text": f"A ship {n}.", "source": "log"} for n in NUMBERS]
    [one] = found(checked(tmp_path / "a.jsonl", rows(given)), "not_sent")
    assert "conversation" not in one.message


def test_a_sheet_that_cannot_be_opened_is_named_as_one(tmp_path: Path) -> None:
    """The reader's words are the name alone."""
    pytest.importorskip("python_calamine")
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
    part = f'<Relationships {package}><Relationship Id="r" Type="{office}/%s" Target="%s"/>'
    parts = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": f"{part % ('officeDocument', 'xl/workbook.xml')}</Relationships>",
        "xl/workbook.xml": f'<workbook {space} xmlns:r="{office}"><sheets><sheet name="FAQ" '
        'sheetId="1" r:id="r"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f"{part % ('worksheet', 'worksheets/1.xml')}</Relationships>",
    }
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as book:
        for name, text in parts.items():
            book.writestr(name, f'<?xml version="1.0"?>{text}')
    with pytest.raises(DataError, match="The sheet 'FAQ' of .*a.xlsx cannot be read: it is listed"):
        Dataset.open(tmp_path / "a.xlsx").validate()


def test_convert_says_how_a_kept_key_is_left_out(ftg: Ftg, tmp_path: Path) -> None:
    """Its note has the option."""
    (tmp_path / "a.jsonl").write_text(rows([chat(n, id=n) for n in NUMBERS]))
    done = ftg("convert", str(tmp_path / "a.jsonl"), "--to", "openai", "-o", str(tmp_path / "b"))
    assert "--drop id leaves it out" in done.stderr


def legacy(n: int) -> Json:
    call = {"name": "track", "arguments": json.dumps({"id": n})}
    return {
        "functions": [{"name": "track", "parameters": {"type": "object", "properties": {}}}],
        "messages": [
            {"role": "user", "content": f"Where is parcel {n}?"},
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "track", "content": "ok"},
            {"role": "assistant", "content": f"On its way, {n}."},
        ],
    }


def test_the_deprecated_form_is_said_once_and_fixed(tmp_path: Path) -> None:
    """Each result gets the id of the call before it; nothing else changes."""
    report = checked(tmp_path / "a.jsonl", rows([legacy(n) for n in NUMBERS]))
    [one] = found(report, "deprecated_functions")
    assert one.count == 12 and one.path == "functions" and "--fix does" in one.fix
    mended = Dataset.open(tmp_path / "a.jsonl").fix(tmp_path / "b.jsonl")
    assert mended.changes == {"deprecated_functions": 12}
    assert not mended.report.errors and not mended.report.warnings
    row = next(Dataset.open(tmp_path / "b.jsonl").rows()).data
    [_, asked, result, _] = row["messages"]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"] and "function_call" not in asked
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
    assert row["tools"] == [{"type": "function", "function": legacy(0)["functions"][0]}]


def test_a_result_of_another_call_keeps_the_deprecated_form(tmp_path: Path) -> None:
    """Whose result it is would be a guess: it is left, and no command is named."""
    given = [legacy(n) for n in NUMBERS]
    for row in given:
        row["messages"][2]["name"] = "find"
    [one] = found(checked(tmp_path / "a.jsonl", rows(given)), "deprecated_functions")
    assert "--fix" not in one.fix
    assert Dataset.open(tmp_path / "a.jsonl").fix(tmp_path / "b.jsonl").changed == 0


def test_a_report_fits_sixty_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of findings name fewer lines, the outcome takes two; a command stays on one line."""
    monkeypatch.setenv("COLUMNS", "60")
    given = [{**chat(n, id=n), "messages": chat(n)["messages"][:1]} for n in range(1000, 1400)]
    path = tmp_path / "a.jsonl"
    shown = report_text(path, checked(path, rows(given)))
    wide = [line for line in shown.splitlines() if len(line) > 60]
    assert [line.strip().split()[:2] for line in wide] == [["ftg", "convert"]]
    assert "--drop id -o new.jsonl" in wide[0] and "\nNothing was sent anywhere." in shown
    assert fold(wide[0], 60) == wide[0]
    assert "400 times, lines 1, 2, 3, " in shown


def test_calls_in_texts_become_calls_with_their_results() -> None:
    """In their order; the tools are those that the system text lists, which stays."""
    row, changes = fix_row(hermes(3))
    assert [one.code for one in changes] == ["call_as_text", "format_sharegpt"]
    system, _, asked, *results, _ = row["messages"]
    assert "<tools>" in system["content"] and row["tools"] == [TRACK]
    assert [one["tool_call_id"] for one in results] == [one["id"] for one in asked["tool_calls"]]
    assert [one["content"] for one in results] == ["at 3", "at 3"]


@pytest.mark.parametrize(
    "more",
    [
        {"tool": "<tool_response>at 3</tool_response>"},
        {"gpt": "<tool_call>{'name': 'track'}</tool_call>"},
        {"gpt": 'I look. <tool_call>{"name": "track", "arguments": {}}</tool_call>'},
    ],
    ids=["one result of two", "no JSON", "words before"],
)
def test_calls_in_texts_stay_where_they_would_be_a_guess(more: Json) -> None:
    """Of two calls and one result, of a call that is no JSON, of words beside a call."""
    given = hermes(3, **more)
    assert fix_row(given) == (given, [])


@pytest.mark.parametrize(
    "row",
    [
        hermes_messages(3, tools=[]),
        hermes_messages(3, by="", tools=[]),
        hermes_messages(3, by="user", tools=[{**TRACK, "function": {"name": "trace"}}]),
        {**hermes_messages(3), "messages": hermes_messages(3)["messages"][:2] * 2},
        hermes_messages(3, words="<tool_call>{}</tool_call>"),
        {"messages": [chat(3)["messages"][0], {"role": "assistant", "content": '{"name": "Ada"}'}]},
    ],
    ids=["results", "no tool", "another tool", "no result", "no call", "JSON"],
)
def test_texts_become_calls_of_messages_only_where_they_are(row: Json) -> None:
    """Of a tool that the row offers, or with a result of a tool, and with all of their results."""
    fixed, changes = fix_row(row)
    is_answered = row["tools"] == [] and len(row["messages"]) > 2 if "tools" in row else False
    assert [one.code for one in changes] == (["call_as_text"] if is_answered else [])
    assert is_answered or fixed == row
    assert is_answered or not any(
        "--fix" in one.fix for one in leftover_defects(json.dumps(row), row, read(row))
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "track", "arguments": {"id": 3}}',
        '<functioncall> {"name": "track", "arguments": \'{"id": 3}\'} <|endoftext|>',
        "<tool_call>{'name': 'track', 'arguments': {'id': 3}}</tool_call>",
        "<think>Track.</think>\n"
        '<tool_call>{"name": "track", "arguments": "{\\"id\\": 3}"}</tool_call>',
    ],
    ids=["bare", "Glaive", "Python", "thought"],
)
def test_calls_of_messages_in_other_texts(text: str) -> None:
    """A bare object, Glaive's mark, Python's quotes, and after a think block, which is kept."""
    row = hermes_messages(3, by="")
    row["messages"][1]["content"] = text
    said = fix_row(row)[0]["messages"][1]
    assert said["tool_calls"][0]["function"]["name"] == "track"
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"id": 3}
    assert said.get("content") == ("<think>Track.</think>" if "think" in text else None)


@pytest.mark.parametrize("value", [True, {"late": True}])
def test_what_is_no_number_is_not_written_as_a_text(value: Any, tmp_path: Path) -> None:
    """Which word stands for true, and what the text of an object is, is not known; it is said."""
    given = [{"prompt": f"Is parcel {n} late?", "completion": value} for n in NUMBERS]
    [one] = found(checked(tmp_path / "a.jsonl", rows(given)), "type_error")
    assert one.fix and "--fix" not in one.fix
    assert Dataset.open(tmp_path / "a.jsonl").fix(tmp_path / "b.jsonl").changed == 0


def test_a_map_is_offered_for_answers_that_are_numbers(tmp_path: Path) -> None:
    """As for texts, and it reads them."""
    text = rows([{"question": f"How much is {n} and {n}?", "answer": 2 * n} for n in NUMBERS])
    [one] = found(checked(tmp_path / "a.jsonl", text), "unknown_format")
    assert "--map question=prompt,answer=completion" in one.fix
    columns = {"question": "prompt", "answer": "completion"}
    assert not Dataset.open(tmp_path / "a.jsonl", columns=columns).validate().errors


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (
            logged(0, error="slow"),
            "there is nothing to learn from a request that failed; --fix does",
        ),
        (logged(1, error="slow"), "If it failed, leave the line out; if not"),
        (logged(0, {"choices": []}), "Write the answer there"),
    ],
    ids=["failed", "an answer", "no answer"],
)
def test_a_request_is_left_out_only_if_it_has_failed(
    row: Json, advice: str, tmp_path: Path
) -> None:
    """One with an answer beside its error, or that has lost its answer, is left for the user."""
    text = rows([row, *(logged(4 * n + 1) for n in NUMBERS)])
    [one] = found(checked(tmp_path / "a.jsonl", text), "missing_completion")
    assert advice in one.fix
    fixed = Dataset.open(tmp_path / "a.jsonl").fix(tmp_path / "b.jsonl")
    assert fixed.changed == ("--fix" in advice) and fixed.rows == 13 - fixed.changed


def test_fix_says_why_logs_stay_and_how_they_become_chat_rows(
    ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys beside the example are named; the command that leaves them out works on the copy."""
    monkeypatch.chdir(tmp_path)
    given = [logged(n, url="/v1", **{"took ms": n}) for n in range(16)]
    Path("log.jsonl").write_text(rows(given))
    done = ftg("validate", "log.jsonl", "--fix", "better.jsonl")
    said = done.stdout + done.stderr
    assert "stay in the format request-log" in said and "'url', 'took ms', 'request.model'" in said
    command = re.search(r"ftg convert better.jsonl .*", said)
    assert command and ftg(*shlex.split(command[0])[1:]).returncode == 0, said
    report = Dataset.open(Path("new.jsonl")).validate(quality=False)
    assert report.format == "openai-chat" and report.rows == 12
    assert not report.errors and not report.warnings
    again = ftg("validate", "new.jsonl", "--fix", "same.jsonl")
    assert "Nothing to change: same.jsonl has the same rows." in again.stdout
    assert "stay in the format" not in again.stdout
