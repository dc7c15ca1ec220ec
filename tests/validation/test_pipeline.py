"""What is judged for which backend: without a model, with a method that a host has not, and against
data that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.cli import main
from finetune_gateway.errors import DataError, UnsupportedError
from finetune_gateway.spec import AnyMethod

Json = dict[str, Any]
KTO = [{"prompt": f"{n}?", "completion": f"{n}.", "label": n % 2 == 0} for n in range(12)]
BROKEN = '{"messages": [{"role": '


def written(path: Path, *rows: Json | str) -> Path:
    path.write_text(
        "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows)
    )
    return path


def told(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, Json]:
    """Exit code and document of a command."""
    code = main([*map(str, args), "--json"])
    document: Json = json.loads(capsys.readouterr().out)
    return code, document


# -- without a model ---------------------------------------------------------------------------


def test_local_rules_need_no_model(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report by the local rules, with the tokens that are counted for no backend."""
    path = written(tmp_path / "a.jsonl", *chat_rows(12))
    code, local = told(capsys, "validate", path, "--backend", "local")
    assert (code, local["ok"]) == (0, True)
    assert local["tokens"] == told(capsys, "validate", path)[1]["tokens"]
    report = gateway.validate(path, backend="local")
    assert report.ok and Dataset.open(path).validate(backend="local") == report


def test_a_bad_file_is_refused_by_local_rules_alone(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3 and the findings of that backend, for methods that no host has too."""
    odd = {**KTO[0], "label": 1}
    path = written(tmp_path / "a.jsonl", *KTO, odd)
    code, report = told(capsys, "validate", path, "--backend", "local", "--method", "kto")
    assert code == 3
    assert [(one["code"], one["line"], one["backends"]) for one in report["findings"][:1]] == [
        ("label", 13, ["local"])
    ]


# -- a model without a backend -----------------------------------------------------------------


def test_the_limit_of_a_model_counts_without_a_backend(tmp_path: Path, home: Path) -> None:
    """A row that is longer than the model takes is the same error as with a backend and in an
    estimate; it names the backends that have the model. A model that none has is given no limit."""
    rows = [*chat_rows(11), chat_rows(1)[0]]
    rows[11]["messages"][0]["content"] = "dog " * 17_000
    path = written(tmp_path / "a.jsonl", *rows)
    found = gateway.validate(path, model="gpt-3.5-turbo").errors
    assert [(one.code, one.line, one.backends) for one in found] == [
        ("example_too_long", 12, ["openai"])
    ]
    assert "gpt-3.5-turbo takes 16,385" in found[0].message
    assert gateway.validate(path, model="gpt-3.5-turbo", backend="openai").errors == found
    assert gateway.validate(path, model="gpt-4.1-mini").ok  # takes 65,536
    assert gateway.validate(path).ok and gateway.validate(path, model="no-such-model").ok
    rows[11]["messages"][0]["content"] = "dog " * 66_000
    written(path, *rows)
    [found_by_both] = gateway.validate(path, model="gpt-4.1-mini").errors
    assert (found_by_both.code, found_by_both.backends) == ("example_too_long", ["openai", "azure"])
    with pytest.raises(DataError, match="66,0"):
        gateway.estimate(path, model="gpt-4.1-mini")


# -- methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["openai", "azure"])
@pytest.mark.parametrize("method", ["kto", "orpo", "pretrain"])
def test_a_method_that_no_host_has_is_refused(
    backend: str, method: AnyMethod, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of usage which names what the host has, and where else to look."""
    path = written(tmp_path / "a.jsonl", *KTO)
    assert main(["validate", str(path), "--backend", backend, "--method", method]) == 2
    error = capsys.readouterr().err
    assert f"{backend} has no method '{method}'; it has dpo, reinforcement, sft" in error
    assert "--backend local" in error
    with pytest.raises(UnsupportedError, match="has no method"):
        gateway.validate(path, backend=backend, method=method)


# -- other data --------------------------------------------------------------------------------


def test_data_that_cannot_be_read_is_not_called_free_of_leaks(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that names the file and the line, and no figure of what was not compared."""
    train = written(tmp_path / "a.jsonl", *chat_rows(12))
    other = written(tmp_path / "val.jsonl", BROKEN)
    code, report = told(capsys, "validate", train, "--against", other)
    found = report["findings"][0]
    assert (code, found["code"], found["severity"]) == (3, "against_unread", "error")
    assert "'val.jsonl', line 1: not readable as a row; nothing was compared" in found["message"]
    assert "leaks" not in report["quality"]
    assert main(["validate", str(train), "--against", str(other)]) == 3
    assert "shared" not in capsys.readouterr().out


def test_what_was_compared_is_said_when_some_lines_are_broken(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The broken lines, the rows that were compared, and what they share."""
    rows = chat_rows(12)
    train = written(tmp_path / "a.jsonl", *rows)
    other = written(tmp_path / "val.jsonl", rows[3], BROKEN, "", "[]", rows[4])
    code, report = told(capsys, "validate", train, "--against", other)
    found = next(one for one in report["findings"] if one["code"] == "against_unread")
    assert code == 3
    assert "lines 2, 4: not readable as a row; 2 of 4 rows were compared" in found["message"]
    assert report["quality"]["leaks"]["val.jsonl"]["exact"] == 2


def test_an_empty_file_holds_nothing_to_compare(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blank lines are no rows; good data raise no word."""
    train = written(tmp_path / "a.jsonl", *chat_rows(12))
    code, report = told(
        capsys, "validate", train, "--against", written(tmp_path / "val.jsonl", "", "")
    )
    assert code == 3
    assert "holds no rows, so nothing was compared" in report["findings"][0]["message"]
    good = written(tmp_path / "good.jsonl", *chat_rows(2), "")
    _, report = told(capsys, "validate", train, "--against", good)
    assert "against_unread" not in {one["code"] for one in report["findings"]}


# -- rows and files ----------------------------------------------------------------------------


def test_the_pair_of_openais_guide_is_accepted(tmp_path: Path, home: Path) -> None:
    """An empty list of tools with parallel_tool_calls, inside the input of a pair alone."""
    offered: Json = {"tools": [], "parallel_tool_calls": True}
    pairs = [
        {
            "input": offered | {"messages": [{"role": "user", "content": f"{n}?"}]},
            "preferred_output": [{"role": "assistant", "content": f"{n}."}],
            "non_preferred_output": [{"role": "assistant", "content": "No."}],
        }
        for n in range(12)
    ]
    report = gateway.validate(
        written(tmp_path / "a.jsonl", *pairs), backend="openai", method="dpo", quality=False
    )
    assert report.outcome == "accepted"
    chats = [{**row, **offered} for row in chat_rows(12)]
    report = gateway.validate(written(tmp_path / "b.jsonl", *chats), backend="openai")
    assert {one.code for one in report.warnings} == {"tools_empty", "parallel_without_tools"}


@pytest.mark.parametrize("key", ["videos", "video", "audios", "audio"])
def test_sound_and_video_beside_the_messages_are_refused(key: str, tmp_path: Path) -> None:
    """As images given as paths are, here and there; a key that holds nothing is only unknown."""
    for value in ("a.mp4", ["a.mp4"]):
        path = written(tmp_path / "a.jsonl", *chat_rows(11), {**chat_rows(1)[0], key: value})
        (found,) = gateway.validate(path, quality=False).errors
        assert (found.code, found.path, found.line) == ("media_beside", key, 12)
        assert found.backends == ["openai", "azure", "local"]
    path = written(tmp_path / "a.jsonl", *chat_rows(11), {**chat_rows(1)[0], key: None})
    assert gateway.validate(path, quality=False).ok


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x9a\0\0\0\0\0\0\0abcd" + b'{"messages": []}' * 9, "not_text"),  # TFRecord
        (b"\x16\0\0\0\x02hello\0\x06\0\0\0world\0\0", "not_text"),  # BSON
        (b"\0\0\0\x01Bud1\0\0\x10\0" + bytes(range(32, 99)), "not_text"),  # .DS_Store
        (b"\xff\x06\0\0sNaPpY" + b"\0" * 40, "compressed"),
        (b"MSCF\0\0\0\0" + b"\0" * 40, "compressed"),
        ('{"messages": []}\n'.encode("utf-32-le"), "encoding_utf32"),
        ('{"messages": []}\n'.encode("utf-32-be") * 200, "encoding_utf32"),
    ],
)
def test_binary_files_are_not_called_utf_32(raw: bytes, code: str, tmp_path: Path) -> None:
    """Only what can be read as UTF-32 is; then --fix can write it as UTF-8."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(raw)
    assert [one.code for one in gateway.validate(path).errors] == [code]
