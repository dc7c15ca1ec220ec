"""The commands that screens name work when they are pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from support.cli import Done, Ftg

from finetune_gateway.data.columns import suggested

ROWS = [(f"Wie groß ist {n}?", f"So groß wie {n} und {n + n}.") for n in range(10)]


def table(*header: str) -> str:
    cells = [";".join(header), *(f"{asked};;{answer}" for asked, answer in ROWS)]
    return "\r\n".join(cells) + "\r\n"


def json_lines(*keys: str) -> str:
    rows = (dict(zip(keys, (asked, answer, "Nein."), strict=False)) for asked, answer in ROWS)
    return "".join(json.dumps(row) + "\n" for row in rows)


def pasted(ftg: Ftg, shown: str, start: str) -> Done:
    """Run the command of a line that begins so."""
    [line] = [line for line in shown.splitlines() if line.startswith(start)]
    words = shlex.split(line.removeprefix(start))
    assert words[0] == "ftg"
    return ftg(*words[1:])


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("Meine Daten.csv", table("instruction", "input", "output").encode("cp1252")),
        ("de.csv", table("Anweisung", "Eingabe", "Ausgabe").encode("cp1252")),
        ("table.jsonl", table("instruction", "input", "output").encode()),
        ("utf16.jsonl", json_lines("prompt", "completion").encode("utf-16")),
        ("pasted.jsonl", json_lines("prompt", "completion").replace("\n", "").encode()),
        ("cr.jsonl", json_lines("prompt", "completion").replace("\n", "\r").encode()),
        ("faq.jsonl", json_lines("Frage", "Antwort").encode()),
    ],
)
def test_one_command_makes_a_refused_file_usable(
    name: str, raw: bytes, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file in its folder; the next one prices what has come out."""
    monkeypatch.chdir(tmp_path)
    data = Path("some folder", name)
    data.parent.mkdir()
    data.write_bytes(raw)
    refused = ftg("validate", str(data))
    assert refused.returncode == 3
    done = pasted(ftg, refused.stderr, "Next: ")
    assert done.returncode == 0, done.stdout
    assert pasted(ftg, done.stderr, "Next: ").returncode == 0


@pytest.mark.parametrize("keys", [("prompt", "chosen", "rejected"), ("text",)])
def test_the_estimate_that_comes_next_is_by_the_method_of_the_rows(
    keys: tuple[str, ...], ftg: Ftg, tmp_path: Path
) -> None:
    """And names a model that can be trained by it."""
    data = tmp_path / "rows.jsonl"
    data.write_text(json_lines(*keys))
    done = pasted(ftg, ftg("validate", str(data)).stderr, "Next: ")
    assert done.returncode == 0, done.stderr


def test_a_refused_submit_names_the_check_of_its_own_options(ftg: Ftg, tmp_path: Path) -> None:
    """Its file, backend, model, method and map."""
    data = tmp_path / "my rows.jsonl"
    data.write_text(json_lines("q", "a").replace("So gro", "  ") + '{"q": "Who?"}\n')
    how = ("--backend", "fake", "--model", "builtin/tiny", "--map", "q=prompt,a=completion")
    refused = ftg("submit", str(data), *how, "--yes")
    assert refused.returncode == 3
    done = pasted(ftg, refused.stderr, "hint:  All findings: ")
    assert done.returncode == 3 and "line 11" in done.stdout


def test_results_of_a_batch_are_all_said_at_once(ftg: Ftg, tmp_path: Path) -> None:
    """Convert says the reason once, with the command that joins the files; validate says nothing of
    keys that stay here, where nothing is sent."""
    data = tmp_path / "results.jsonl"
    body = {"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}
    result = {"custom_id": "1", "response": {"status_code": 200, "body": body}, "error": None}
    data.write_text(f"{json.dumps(result)}\n" * 12)
    shown = ftg("convert", str(data), "--to", "trl", "-o", str(tmp_path / "out.jsonl")).stderr
    assert shown.count("results of a batch") == 1 and "... and 7 more rows" in shown
    assert "jq -cs 'group_by(.custom_id)[]|add'" in shown and "--drop" not in shown
    assert "[not_sent]" not in ftg("validate", str(data)).stdout


def test_columns_in_other_languages_are_offered() -> None:
    """By the words that spreadsheets have at the top."""
    for asked, answer in (("Pregunta", "Respuesta"), ("问题", "答案"), ("Вопрос", "Ответ")):
        row = {"ID": "1", answer: "b", asked: "a"}
        assert suggested(row) == {asked: "prompt", answer: "completion"}
