"""Columns of the user's own names, on the command line, in Python, and in what is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg

import finetune_gateway as gateway
from finetune_gateway import FakeBackend, Gateway, SpecError
from finetune_gateway.cli import main
from finetune_gateway.cli.options import parse_map
from finetune_gateway.data.columns import mapped, suggested
from finetune_gateway.errors import DataError

COLUMNS = {"question": "prompt", "answer": "completion"}
MAP = ["--map", "question=prompt,answer=completion"]


def rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {"question": f"What comes after the number {n}?", "answer": f"It is {n + 1}."}
        for n in range(count)
    ]


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data), "utf-8")
    return path


def sent(backend: FakeBackend) -> list[Any]:
    return [*map(json.loads, backend.started[-1][2].path.read_text("utf-8").splitlines())]


def test_a_finding_offers_the_map_that_makes_the_file_right(home: Path, tmp_path: Path) -> None:
    """The option in the advice, taken as it stands, has the rows accepted."""
    data = write(tmp_path / "faq.jsonl", rows())
    (finding,) = gateway.validate(data).errors
    assert finding.code == "unknown_format"
    assert "--map question=prompt,answer=completion" in finding.fix
    report = gateway.validate(data, columns=COLUMNS)
    assert report.ok and report.format == "prompt-completion"
    note = next(one for one in report.findings if one.code == "columns_mapped")
    assert "'question' is read as 'prompt'" in note.message


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": "a", "sql": "b"}, {"question": "prompt", "sql": "completion"}),
        (
            {"question": "a", "context": "b", "answer": "c"},
            {"question": "instruction", "context": "input", "answer": "output"},
        ),
        ({"Document": "a", "Summary": "b"}, {"Document": "prompt", "Summary": "completion"}),
        ({"question": "a", "sql": "b", "answer": "c"}, {}),
        ({"name": "a", "town": "b"}, {}),
    ],
)
def test_a_guess_is_made_of_clear_names_alone(row: Any, columns: dict[str, str]) -> None:
    """Where two columns may be the answer, or none, nothing is guessed."""
    assert suggested(row) == columns


def test_findings_speak_of_the_users_columns(home: Path, tmp_path: Path) -> None:
    """Line, field and words are those of the user's file, whose other lines stay in place."""
    data = tmp_path / "faq.jsonl"
    bad: list[dict[str, Any]] = [
        {"question": "What?", "answer": ""},
        {"question": False, "answer": "x"},
        {"question": "Q"},
    ]
    write(data, [*rows(), *bad])
    text = data.read_text("utf-8") + "{'question': 1}\n"
    data.write_text(text, "utf-8")
    found = {
        (one.line, one.path) for one in gateway.validate(data, columns=COLUMNS).errors if one.path
    }
    assert {(13, "answer"), (14, "question"), (15, "answer")} <= found
    for one in gateway.validate(data, columns=COLUMNS).errors:
        assert "'prompt'" not in one.message and "'completion'" not in one.message
    assert any(one.line == 16 for one in gateway.validate(data, columns=COLUMNS).errors)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"question": "promt"}, "Did you mean prompt?"),
        ({"question": "prompt", "anwser": "completion"}, "'question', 'answer'"),
        ({"question": "prompt", "answer": "prompt"}, "instruction and input"),
        ({}, "--map"),
        ({"question": 1}, "--map"),
    ],
)
def test_a_wrong_map_is_refused_with_the_way_out(home: Path, columns: Any, named: str) -> None:
    """Unknown keys, missing columns and two columns for one key, with what there is."""
    with pytest.raises(SpecError) as raised:
        gateway.validate(rows(), columns=columns)
    assert named in (raised.value.hint or "")


def test_a_key_that_the_row_has_already_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    """The line is named; a key that is mapped away itself is free, and so is one that is null."""
    both = [{**row, "prompt": "P"} for row in rows()]
    with pytest.raises(SpecError, match="line 1 has a 'prompt' already"):
        gateway.validate(write(tmp_path / "both.jsonl", both), columns=COLUMNS)
    assert gateway.validate(both, columns={**COLUMNS, "prompt": "system"}).ok
    assert gateway.validate([{**row, "prompt": None} for row in rows()], columns=COLUMNS).ok


def test_what_is_sent_is_the_canonical_row_and_the_map_stays_with_the_job(
    home: Path, tmp_path: Path
) -> None:
    """The same data and map are one job, other rows by another map another; a CSV sends the same
    rows."""
    data, backend = write(tmp_path / "faq.jsonl", rows()), FakeBackend()
    here = Gateway()
    job = here.submit(data, model="any", backend=backend, columns=COLUMNS)
    assert sent(backend)[0] == {
        "messages": [
            {"role": "user", "content": "What comes after the number 0?"},
            {"role": "assistant", "content": "It is 1."},
        ]
    }
    assert here.job(job.id).record.columns == COLUMNS
    assert here.submit(data, model="any", backend=backend, columns=COLUMNS).id == job.id
    swapped = {"answer": "prompt", "question": "completion"}
    other = here.submit(data, model="any", backend=backend, columns=swapped)
    assert other.id != job.id and other.record.columns == swapped
    table = tmp_path / "faq.csv"
    lines = ["Question ,ANSWER", *(f"{row['question']},{row['answer']}" for row in rows())]
    table.write_text("\n".join(lines), "utf-8")
    assert here.submit(table, model="any", backend=backend, columns=COLUMNS).id == job.id
    here.remove([here.submit(data, model="any", backend=backend, columns=COLUMNS).wait()])
    assert here.job(job.id).record.columns == {}


def test_columns_of_lists_in_a_table_are_read_as_lists(home: Path, tmp_path: Path) -> None:
    """A cell with messages in JSON is messages once its column is said to be."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    table = tmp_path / "chats.csv"
    cell = json.dumps(turns).replace('"', '""')
    table.write_text("Chat Log\n" + f'"{cell}"\n' * 10, "utf-8")
    report = gateway.validate(table, columns={"chat log": "messages"})
    assert report.ok and report.format == "openai-chat"


def test_every_verb_takes_the_map(ftg: Ftg, tmp_path: Path) -> None:
    """--fix, preview, estimate, submit, convert, split and compare, and a Dataset."""
    data = str(write(tmp_path / "faq.jsonl", rows(60)))
    fixed, chats = tmp_path / "fixed.jsonl", tmp_path / "chats.jsonl"
    assert ftg("validate", data, *MAP, "--fix", str(fixed)).returncode == 0
    assert json.loads(fixed.read_text("utf-8").splitlines()[0])["messages"]
    assert ftg("convert", data, *MAP, "--to", "openai", "-o", str(chats)).returncode == 0
    assert chats.read_text("utf-8") == fixed.read_text("utf-8")
    assert ftg("split", data, *MAP, "-o", str(tmp_path / "parts")).returncode == 0
    assert gateway.validate(tmp_path / "parts" / "faq.train.jsonl").ok
    preview = ftg("preview", data, *MAP, "--model", "gpt-4.1-mini-2025-04-14")
    assert preview.returncode == 0 and "is␣3." in preview.stdout
    estimate = ["estimate", data, "--model", "gpt-4.1-mini-2025-04-14", "--backend", "openai"]
    assert ftg(*estimate, *MAP).returncode == 0
    assert ftg(*estimate).returncode != 0
    compare = ["compare", "base:gpt-4.1-mini", "--data", data, "--rows", "10", "--dry-run"]
    assert ftg(*compare, *MAP).returncode == 0
    assert "nothing to ask" in ftg(*compare).stderr
    submit = ftg("submit", data, *MAP, "--model", "any", "--backend", "fake")
    assert "'question' is read as 'prompt'" in submit.stderr
    assert "'question' is read as 'prompt'" in ftg("status", submit.stdout.strip()).stdout
    dataset = gateway.Dataset.open(data, columns=COLUMNS)
    assert dataset.validate().ok
    assert dataset.convert("trl", tmp_path / "trl.jsonl").rows == 60


def test_so_do_commands_that_ask_models(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """advise and check; those that name a file of rows beside need it for a map."""
    data = str(write(tmp_path / "faq.jsonl", rows(60)))
    guide = tmp_path / "guide.yaml"
    assert main(["check", "--init", data, "-o", str(guide)]) == 3
    assert "--map question=prompt,answer=completion" in capsys.readouterr().err
    assert main(["check", "--init", data, *MAP, "-o", str(guide)]) == 0 and guide.is_file()
    assert main(["advise", data, *MAP]) == 0
    assert "cannot be read" not in capsys.readouterr().out
    for asked in (
        ["migrate", "record", "m"], ["migrate", "run", "m", "--to", "azure"], ["check", "m", "g"],
    ):  # fmt: skip
        assert main([*asked, *MAP]) == 2
        assert "--map is for the columns of a file" in capsys.readouterr().err


def test_what_cannot_be_read_offers_the_map(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write(tmp_path / "faq.jsonl", rows(12)))
    for command in (
        ["convert", data, "--to", "openai", "-o", str(tmp_path / "chats.jsonl")],
        ["split", data, "-o", str(tmp_path / "parts")],
        ["validate", data, "--fix", str(tmp_path / "fixed.jsonl")],
        ["estimate", data, "--model", "gpt-4.1-mini-2025-04-14", "--backend", "openai"],
        ["submit", data, "--model", "any", "--backend", "fake"],
        ["preview", data, "--model", "gpt-4.1-mini-2025-04-14"],
    ):
        main(command)
        shown = " ".join("".join(capsys.readouterr()).split())
        assert "--map question=prompt,answer=completion" in shown, command[0]
    with pytest.raises(DataError) as refused:
        gateway.Dataset.open(data).convert("openai", tmp_path / "chats.jsonl")
    assert "--map question=prompt,answer=completion" in (refused.value.hint or "")


def test_a_file_that_needs_mending_is_mended_first(home: Path, tmp_path: Path) -> None:
    """Lines that are no JSON until they are fixed have their columns renamed after that."""
    data = tmp_path / "faq.jsonl"
    data.write_text("".join(f"{row}\n" for row in rows()), "utf-8")  # as Python prints them
    fixed = gateway.Dataset.open(data, columns=COLUMNS).fix(tmp_path / "fixed.jsonl")
    assert fixed.report.ok and fixed.rows == 12
    with pytest.raises(SpecError, match="no column 'reply'"):
        gateway.Dataset.open(data, columns={"reply": "completion"}).fix(tmp_path / "other.jsonl")
    assert not (tmp_path / "other.jsonl").exists()


def test_held_out_rows_may_have_the_keys_already(home: Path, tmp_path: Path) -> None:
    """The map is for the files that have its columns."""
    held_out = [{"prompt": f"Say {n}.", "completion": str(n)} for n in range(10)]
    plan = Gateway().plan(rows(), model="any", backend="fake", columns=COLUMNS, validation=held_out)
    assert plan.validation is not None and plan.tokens.rows == 12


def test_the_option_is_read_as_people_write_it(home: Path) -> None:
    """Spaces, repetition, and a column with a comma or an equals sign in its name."""
    assert parse_map([" a = prompt ", "b=completion"]) == {"a": "prompt", "b": "completion"}
    assert parse_map(['"a, b"=prompt,x=y=text']) == {"a, b": "prompt", "x=y": "text"}
    for wrong in ("question", "=prompt", "a=prompt,a=text"):
        with pytest.raises(SpecError):
            parse_map([wrong])


def test_columns_that_differ_in_case_are_two(tmp_path: Path) -> None:
    """One that is named as the file writes it is not meant by the other name, too."""
    dataset = gateway.Dataset.open([{"q": "Hi", "Q": "Hello"}], spool=tmp_path)
    both = mapped(dataset, {"q": "prompt", "Q ": "completion"}, spool=tmp_path)
    assert [row.data for row in both.rows()] == [{"prompt": "Hi", "completion": "Hello"}]


NESTED = ["--map", "translation.en=prompt,translation.de=completion"]


def translations(count: int = 12) -> list[dict[str, Any]]:
    return [
        {"translation": {"en": f"I have {n} small boats.", "de": f"Ich habe {n} kleine Boote."}}
        for n in range(count)
    ]


def test_texts_inside_an_object_are_named_and_mapped(ftg: Ftg, tmp_path: Path) -> None:
    """The finding names the keys inside and offers the map; the verbs take it as it stands."""
    data = str(write(tmp_path / "wmt.jsonl", translations()))
    (finding,) = gateway.validate(data).errors
    assert "'translation', which holds an object with the keys 'en', 'de'" in finding.message
    assert " ".join(NESTED) in finding.fix
    fixed, chats = tmp_path / "fixed.jsonl", tmp_path / "chats.jsonl"
    assert ftg("validate", data, *NESTED, "--fix", str(fixed)).returncode == 0
    messages = json.loads(fixed.read_text("utf-8").splitlines()[3])["messages"]
    assert [one["content"] for one in messages] == [*translations()[3]["translation"].values()]
    assert ftg("convert", data, *NESTED, "--to", "openai", "-o", str(chats)).returncode == 0
    assert chats.read_text("utf-8") == fixed.read_text("utf-8")
    submit = ftg("submit", data, *NESTED, "--model", "any", "--backend", "fake")
    assert "'translation.en' is read as 'prompt'" in submit.stderr


def test_a_column_with_a_dot_in_its_name_comes_first(tmp_path: Path) -> None:
    """Values that are not mapped stay where they are; a key that no object has is no column."""
    row = {"a.b": "own", "a": {"b": "inside", "c": {"d": "deep", "e": 1}}}
    dataset = gateway.Dataset.open([row], spool=tmp_path)
    both = mapped(dataset, {"a.b": "prompt", "a.c.d": "completion"}, spool=tmp_path)
    left = {"a": {"b": "inside", "c": {"e": 1}}}
    assert [one.data for one in both.rows()] == [{"prompt": "own", "completion": "deep"} | left]
    with pytest.raises(SpecError, match=r"no column 'a\.x'") as refused:
        mapped(dataset, {"a.x": "prompt"}, spool=tmp_path)
    assert "'a.c.d'" in (refused.value.hint or "")


def test_findings_name_the_key_inside(home: Path, tmp_path: Path) -> None:
    data = translations()
    data[4]["translation"]["de"] = ""
    columns = {"translation.en": "prompt", "translation.de": "completion"}
    found = gateway.validate(data, columns=columns).findings
    assert [one.line for one in found if one.path == "translation.de"] == [5]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (
            {"data": {"Question": "a", "answer": "b"}},
            {"data.Question": "prompt", "data.answer": "completion"},
        ),
        (
            {"question": "a", "answer": {"value": "b"}},
            {},
        ),
        (
            {"question": "a", "reply": {"answer": "b"}},
            {"question": "prompt", "reply.answer": "completion"},
        ),
        ({"question": "a", "metadata": {"source": "b", "output": "c"}}, {}),
        ({"left": {"question": "a", "answer": "b"}, "right": {"question": "c", "answer": "d"}}, {}),
    ],
)
def test_names_inside_an_object_suggest_a_map(row: dict[str, Any], columns: dict[str, str]) -> None:
    assert suggested(row) == columns
