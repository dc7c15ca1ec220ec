"""A page says what it masks; with --no-rows no word of the data is on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg

import finetune_gateway as gateway

MODEL = "gpt-4.1-mini-2025-04-14"


def row(**changes: Any) -> dict[str, Any]:
    user = {"role": "user", "content": "Where is zebra 7?", "name": "Zebra_Lopez"}
    return {"messages": [user, {"role": "assistant", "content": "Zebra is here."}], **changes}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def zebras(folder: Path) -> Path:
    """Rows with the word zebra in every place that a finding or a figure names."""
    odd = [
        row(zebra_key="zebra"),
        row(tools=[{"type": "zebra", "function": {"name": "zebra()", "parameters": {"zebra": 1}}}]),
        {"messages": [{"role": "zebra", "content": "a"}, says("zebra")]},
        {"messages": [{"role": "user", "content": [{"type": "zebra"}], "zebra x": 1}]},
        {"messages": [{"role": "user", "content": "zebra@zebra-mail.com"}, {"role": "zebra b"}]},
        {"messages": [{"role": "user", "content": "zebra <|zebra|> \u200b"}, says("")]},
        {"prompt": "zebra", "completion": "zebra"},
        {"zebra": 1},
    ]  # fmt: skip
    path = folder / "rows.jsonl"
    lines = [*map(json.dumps, [*[row() for _ in range(30)], *odd]), '{"zebra": zebra}', "zebra"]
    path.write_text("\n".join(lines))
    return path


def test_no_word_of_the_data_is_on_a_page_without_rows(
    ftg: Ftg, tmp_path: Path, home: Path
) -> None:
    """Neither in findings, paths, roles and figures, nor in tokens; what is wrong still is."""
    data, out = zebras(tmp_path), tmp_path / "page.html"
    assert ftg("validate", str(data), "--html", str(out), "--quality", "-q").returncode == 3
    assert "zebra" in out.read_text().lower()
    assert ftg("validate", str(data), "--html", str(out), "--no-rows", "--quality").returncode == 3
    page = out.read_text(encoding="utf-8")
    assert "zebra" not in page.lower() and "without any text of the rows" in page
    report = gateway.validate(data, quality=True)
    assert all(f'id="rule-{one.code}"' in page for one in report.findings)
    assert "An e-mail address" in page and "A name" in page

    command = ("preview", str(data), "--model", MODEL, "--html", str(out), "--row", "1")
    assert ftg(*command, "--row", "36").returncode == 3
    assert "Nothing is masked." in out.read_text() and "ebra" in out.read_text()
    assert ftg(*command, "--row", "36", "--no-rows").returncode == 3
    page = out.read_text(encoding="utf-8")
    assert "ebra" not in page and "assistant" in page and "trained" in page


@pytest.mark.parametrize("command", ["validate", "preview"])
def test_no_rows_is_about_a_page(ftg: Ftg, train_file: Path, command: str) -> None:
    """Without one it would do nothing."""
    model = ("--model", MODEL) if command == "preview" else ()
    done = ftg(command, str(train_file), *model, "--no-rows")
    assert done.returncode == 2 and "--html" in done.stderr


def test_a_page_says_what_is_masked_and_what_is_not(ftg: Ftg, tmp_path: Path) -> None:
    """Beside the rows; what it says is masked is so."""
    data, out = tmp_path / "rows.jsonl", tmp_path / "page.html"
    text = "maria@acme-shop.com, +49 30 901820, 4111 2222 3333 4448, my pwd: hunter2isG8!; Ann Lee"
    data.write_text(json.dumps(row(messages=[{"role": "user", "content": text}])))
    ftg("validate", str(data), "--html", str(out), "-q")
    page = out.read_text(encoding="utf-8")
    assert "Masked, where they are found: e-mail addresses, telephone numbers" in page
    assert "Not masked: names of people, postal addresses" in page and "--no-rows" in page
    assert "Ann Lee" in page
    for value in ("maria@acme", "901820", "3333 4448", "hunter2"):
        assert value not in page
