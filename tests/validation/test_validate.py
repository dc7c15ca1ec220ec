"""``ftg validate``: what is ignored, the published schema, the figures, the bar."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.paths import ROOT
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway.cli import main
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.reports.validation_schema import schema
from finetune_gateway.validation.collector import MAX_GROUPS
from finetune_gateway.validation.examples import example
from finetune_gateway.validation.rules import RULES

Json = dict[str, Any]
PUBLISHED = ROOT / "docs" / "schemas" / "validate.json"


def rows_file(folder: Path, *more: Json | str) -> Path:
    """Twelve good rows and these."""
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (*chat_rows(12), *more)]
    path.write_text("\n".join(lines) + "\n")
    return path


def odd(content: str, answer: str = "Yes.", **more: Any) -> Json:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


SILENT = odd("Say nothing.", "")
EMAIL = odd("Write to ada@analytical.org")


# -- --ignore --------------------------------------------------------------------------------


def test_what_is_ignored_does_not_count_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for the exit code nor for --strict; by repeating the option or with commas."""
    path = rows_file(tmp_path, SILENT, EMAIL, EMAIL, odd("Hi", source="crm"))
    assert main(["validate", str(path), "--strict"]) == 3
    given = ["--ignore", "empty_assistant,PII", "--ignore", "duplicates", "--ignore", "unknown-key"]
    capsys.readouterr()
    assert main(["validate", str(path), "--strict", *given, "--ignore", "mojibake"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "Ignored: duplicates (1 time), empty_assistant (1 time), mojibake (not found), "
        "pii (2 times), unknown_key (1 time)."
    ) in out
    assert "Accepted" in out
    assert main(["validate", str(path), *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ignored"] == {"duplicates": 1, "empty_assistant": 1, "pii": 2, "unknown_key": 1}
    assert told["ok"] and not {one["code"] for one in told["findings"]} & told["ignored"].keys()


def test_ignoring_an_error_changes_no_figure(tmp_path: Path) -> None:
    """A row with an ignored error is a row, but its tokens are still not counted."""
    path = rows_file(tmp_path, SILENT)
    plain, eased = gateway.validate(path), gateway.validate(path, ignore="empty_assistant")
    assert not plain.ok and eased.ok
    assert (plain.rows, plain.tokens, plain.quality) == (eased.rows, eased.tokens, eased.quality)
    assert gateway.Dataset.open(path).validate(ignore=["empty_assistant"]) == eased


@pytest.mark.parametrize(
    "name", ["duplicate", "Nonsense!", "emtpy_assistant", "empty_asistant,pii"]
)
def test_an_unknown_code_is_an_error_of_usage(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 2 and names the codes near it, or where all of them are."""
    assert main(["validate", str(rows_file(tmp_path)), "--ignore", name]) == 2
    err = capsys.readouterr().err
    assert "There is no rule" in err
    assert "Did you mean" in err or "ftg rules" in err
    with pytest.raises(SpecError):
        gateway.validate(rows_file(tmp_path), ignore=[name])


@pytest.mark.parametrize("code", [code for code in RULES if RULES[code].unread])
def test_what_hides_other_rows_cannot_be_ignored(code: str, tmp_path: Path) -> None:
    """A file that was not read must not be called good."""
    with pytest.raises(SpecError, match="cannot be ignored"):
        gateway.validate(rows_file(tmp_path), ignore=[code])


def test_submit_refuses_what_validate_was_told_to_ignore(tmp_path: Path, home: Path) -> None:
    """It judges by all rules and takes no such option."""
    path = rows_file(tmp_path, SILENT)
    assert gateway.validate(path, backend="openai", ignore=["empty_assistant"]).ok
    with pytest.raises(DataError, match="give no answer"):
        gateway.submit(path, model="gpt-4.1-mini-2025-04-14", backend="openai")
    with pytest.raises(SpecError, match="ignore"):
        wrong: Any = {"ignore": ["empty_assistant"]}
        gateway.submit(path, model="gpt-4.1-mini-2025-04-14", **wrong)
    assert not gateway.list_jobs()


def test_a_mended_copy_is_judged_with_what_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is ignored is not among what --fix has left."""
    path, out = rows_file(tmp_path, SILENT), tmp_path / "out.jsonl"
    assert main(["validate", str(path), "--fix", str(out)]) == 3
    given = ["--force", "--ignore", "empty_assistant", "--json"]
    capsys.readouterr()
    assert main(["validate", str(path), "--fix", str(out), *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["fix"]["unsafe"], told["ignored"]) == ([], {"empty_assistant": 1})


def test_a_thousand_odd_keys_hide_no_error(tmp_path: Path) -> None:
    """The first of each code is kept, however many findings there are before it."""
    keys = [odd(f"Question {n}?") | {f"key{n}": 1} for n in range(MAX_GROUPS + 5)]
    report = gateway.validate(rows_file(tmp_path, *keys, SILENT))
    assert [one.code for one in report.errors] == ["empty_assistant"]
    assert "too_many_findings" in {one.code for one in report.warnings}


# -- the schema ------------------------------------------------------------------------------


def closed(node: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(node, list):
        return [closed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    inner = {key: closed(value) for key, value in node.items()}
    return {"additionalProperties": False, **inner} if "properties" in node else inner


def properties(node: Any) -> Iterator[tuple[str, Json]]:
    """Every field of a schema."""
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict):
            yield from (inner.get("properties") or {}).items()
        if isinstance(inner, dict | list):
            yield from properties(inner)


def test_the_schema_is_published_and_describes_every_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/schemas/validate.json is what --schema prints; else make it anew:
    python -m finetune_gateway.reports.validation_schema > docs/schemas/validate.json"""
    assert main(["validate", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema() == json.loads(PUBLISHED.read_text())
    Draft202012Validator.check_schema(schema())
    for name, field in properties(schema()):
        assert field.get("description") or "$ref" in field, name


OUTPUTS = {
    "good": [],
    "without figures": ["--no-quality"],
    "everything": ["--quality", "--against", "AGAINST", "--like", "LIKE"],
    "a local model": ["--backend", "local", "--model", "builtin/tiny"],
    "ignoring": ["--ignore", "pii,few_examples"],
    "fixed": ["--fix", "OUT"],
    "an unknown backend": ["--backend", "nowhere"],
}
KINDS = ("duplicates", "unknown_role", "compressed", "no_examples", "nul_byte", "format_preference",
         "format_unpaired_preference", "format_text", "json_array_not_jsonl", "class_balance",
         "system_prompt_mix", "tool_args_type", "unknown_format")  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_real_output_keeps_the_schema(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every option, no field is missing and none is left unsaid."""
    like = tmp_path / "like.jsonl"
    like.write_text("".join(json.dumps({"prompt": f"Where is it, {n}?"}) + "\n" for n in range(12)))
    places = {"AGAINST": str(like), "LIKE": str(like), "OUT": str(tmp_path / "out.jsonl")}
    path = rows_file(tmp_path, EMAIL, SILENT, {"messages": [{"role": "bot"}]}, "{oops")
    main(["validate", str(path), "--json", *(places.get(word, word) for word in OUTPUTS[name])])
    Draft202012Validator(closed(schema())).validate(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("code", KINDS)
def test_output_on_every_kind_of_file_keeps_the_schema(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chats, pairs, texts, classes, and files that are none of these."""
    path, one = tmp_path / "rows.jsonl", example(code)
    path.write_bytes(one.file())
    given = ["--method", one.row_method] if one.row_method else []
    main(["validate", str(path), "--json", "--quality", *given])
    Draft202012Validator(closed(schema())).validate(json.loads(capsys.readouterr().out))


def test_a_missing_file_keeps_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """The error in place of a report is part of it."""
    assert main(["validate", "no-such-file.jsonl", "--json"]) == 102
    Draft202012Validator(closed(schema())).validate(json.loads(capsys.readouterr().out))


# -- the figures -----------------------------------------------------------------------------


def test_the_figures_fit_and_say_what_was_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens by role, repeats, prompts, lengths, classes, shared rows and drift in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    good, labelled = tmp_path / "held_out.jsonl", tmp_path / "labelled.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)))
    labelled.write_bytes(example("class_balance").file())
    path = rows_file(tmp_path, EMAIL, EMAIL, odd("Hi", "Yes."), odd("HI", "Yes."))
    main(["validate", str(path), "--quality", "--against", str(good), "--like", str(good)])
    main(["validate", str(labelled)])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for text in (
        "tokens   total ",
        "         user ",
        "         assistant ",
        "quality  duplicates      1 equal, 1 equal except for case and spaces",
        "         system prompts  none in 16 rows",
        "         characters      min ",
        "         leaks           12 rows",
        "also in held_out.jsonl",
        "         production      0% of 12 prompts",
        "         classes         2 short answers, in 100, 10 rows",
    ):
        assert text in out, text


# -- the bar ---------------------------------------------------------------------------------

# The bar is drawn at once, so that the test need not take a second.
RUN = """
import sys
from finetune_gateway.cli import main, progress
progress.PATIENCE = 0
sys.exit(main(sys.argv[1:]))
"""


def large_file(folder: Path, size: int) -> Path:
    """A file of good rows, none like another."""
    path, line = folder / "large.jsonl", json.dumps(odd("Where is number {n}?", "In {n}. " * 40))
    rows = (line.replace("{n}", str(number)) for number in range(size // 400))
    path.write_text("\n".join(rows))
    return path


def on_terminal(*args: str) -> tuple[str, str]:
    """What a command line prints on stdout, a pipe, and on stderr, a terminal."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-c", RUN, *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env) as started:
        os.close(theirs)
        drawn = b"".join(iter(lambda: _read(ours), b""))
        out = (started.stdout or sys.stdin.buffer).read()
    os.close(ours)
    return out.decode(), drawn.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.parametrize("size", [3_000_000, 25_000_000])
def test_a_large_file_has_a_bar(size: int, tmp_path: Path) -> None:
    """By bytes, in one process and in several; it is gone at the end and not on stdout."""
    path = large_file(tmp_path, size)
    out, drawn = on_terminal("validate", str(path), "--no-quality", "--json")
    assert json.loads(out)["ok"]
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    shares = [int(found) for found in re.findall(r"(\d+)%", plain)]
    assert "Reading" in plain and re.search(r"[\d.]+/[\d.]+ MB", plain)
    assert shares == sorted(shares) and shares[-1] > 50
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80
    assert drawn.rstrip("\r\n").endswith("\x1b[2K")


def test_no_bar_where_nobody_looks(tmp_path: Path) -> None:
    """Neither with --quiet nor without a terminal."""
    path = large_file(tmp_path, 3_000_000)
    assert on_terminal("validate", str(path), "--no-quality", "--quiet")[1] == ""
    command = [sys.executable, "-c", RUN, "validate", str(path), "--no-quality", "--json"]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


def test_progress_is_told_in_python(tmp_path: Path) -> None:
    """Bytes read, and of how many; never more, never less than before."""
    path, told = large_file(tmp_path, 3_000_000), list[tuple[int, int]]()
    gateway.validate(path, quality=False, on_progress=lambda done, size: told.append((done, size)))
    assert told and told == sorted(told)
    assert {size for _, size in told} == {path.stat().st_size}
    assert told[-1][0] <= path.stat().st_size
