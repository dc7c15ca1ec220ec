"""Some 600 odd inputs and 160 odd but good ones: outcome, code, line and path, for a hosted
backend through the command line and for training here, each within seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.good_rows import LINES as GOOD_LINES
from support.good_rows import ROWS, TEXTS, VISION
from support.odd_files import FILES, FORMATS, PAIRS, WHOLE, File, many, put
from support.odd_rows import (
    LINES,
    PARTS,
    ROLES,
    SCHEMA,
    TOOLS,
    WEIGHTS,
    A,
    Case,
    Json,
    R,
    W,
    answer,
    chat,
    user,
)
from support.odd_rows import TEXTS as ODD_TEXTS
from support.rule_sets import LOCAL

from finetune_gateway import Dataset
from finetune_gateway.cli import main
from finetune_gateway.findings import Report
from finetune_gateway.validation.dataset import analysis
from finetune_gateway.validation.run import validate

HOSTED = ("--backend", "openai", "--model", "gpt-4.1-mini-2025-04-14")
IN_ROWS: list[Case] = [*LINES, *SCHEMA, *ROLES, *TOOLS, *WEIGHTS, *PARTS, *ODD_TEXTS]
IN_FILES: list[File] = [*FILES, *FORMATS, *PAIRS, *WHOLE]


def as_file(case: Case) -> File:
    """A row as line 6 of a file whose other rows are good."""
    return File(
        case.name, put(case.given), case.outcome, case.code, 6, case.path, "sft", case.local
    )


ODD_ROWS = [as_file(case) for case in IN_ROWS]
CASES = [*ODD_ROWS, *IN_FILES]


def told(case: File, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Json]:
    """Exit code and document of ``ftg validate --json``; for all backends where the method is one
    that no host has."""
    path.write_bytes(case.raw)
    backend = HOSTED if case.method in ("sft", "dpo", "reinforcement") else HOSTED[2:]
    code = main(["validate", str(path), "--json", "--method", case.method, *backend])
    return code, json.loads(capsys.readouterr().out)


def on_local(path: Path, method: str) -> Report:
    """The report of everything, judged for training here. A callback makes every row go the long
    way, which must make no difference."""
    dataset = Dataset.open(path)
    report = validate(dataset, backends=LOCAL, method=method)
    assert report == validate(dataset, backends=LOCAL, method=method, on_row=lambda row, line: None)
    return analysis.with_quality(
        report, dataset, analysis.AnalysisOptions(), backends=LOCAL, method=method
    )


def outcome(findings: list[Json]) -> str:
    """What the gravest of them makes of the file."""
    severities = {found["severity"] for found in findings}
    return R if "error" in severities else W if "warning" in severities else A


def test_no_name_stands_for_two_cases() -> None:
    """Each case has a name of its own, so that a failure points at one."""
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) > 600


@pytest.mark.timeout(30)  # 0.1 s each; a search of quadratic cost takes minutes
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_an_odd_input_is_judged_as_was_decided(
    case: File, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outcome, code, line and path; exit 3 for an error; short messages."""
    path = tmp_path / "rows.jsonl"
    code, report = told(case, path, capsys)
    findings: list[Json] = report["findings"]
    assert (outcome(findings), code) == (case.outcome, 3 if case.outcome == R else 0)
    places = [(found["code"], found["line"], found["path"]) for found in findings]
    assert not case.code or (case.code, case.line, case.path) in places
    assert max((len(found["message"]) for found in findings), default=0) < 700
    assert on_local(path, case.method).outcome == (case.local or case.outcome)
    if case in ODD_ROWS:  # the rows around it are read, and not blamed
        assert {line for found in findings for line in found["lines"]} <= {6}
        assert report["rows"] == 13


MAIL, KEY, CARD = (
    "maria.lopez@example.com",
    "sk-proj-aB3dE5gH7jK9mN1pQ3sT5vX7z",
    "4111 1111 1111 1111",
)
# A private value where a message quotes it: a line, a key, a role, a name, a type, an address.
QUOTED = (
    "Contact {}", '{{"messages": "a {}" b}}', '{{"messages": []}} // {}', '{{"{}": 1, "{}": 2}}',
    '{{"{}": NaN}}', '{{"messages": [], "{}": 1}}', '{{"messages": [{{"role": "{}"}}]}}',
    '{{"messages": [{{"role": "user", "name": "{}!"}}]}}', '{{"messages": [], "tools": "{}"}}',
    '{{"messages": [], "images": ["{}"]}}', '{{"conversations": [{{"from": "{}"}}]}}',
    '{{"messages": [{{"role": "user", "content": [{{"type": "{}"}}]}}]}}',
    '{{"messages": [{{"role": "user", "content": [{{"type": "text", "{}": 1}}]}}]}}',
    '{{"messages": [{{"role": "assistant", "weight": "{}"}}]}}', '{{"n": 1, "{}": 1}}',
    '{{"messages": [{{"role": "assistant", "tool_calls": [{{"function": {{"name": "{}", '
    '"arguments": "[\\"{}\\"]"}}}}]}}]}}',
)  # fmt: skip


@pytest.mark.parametrize("private", [MAIL, KEY, CARD])
def test_nothing_private_is_quoted(
    private: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages, paths and figures show a mask, whatever holds the value and whoever reads it."""
    path = tmp_path / "rows.jsonl"
    lines = [line.format(private, private).encode() for line in QUOTED]
    for raw in (put(*lines), *lines[10:12], lines[-2]):  # together, and where the first row counts
        path.write_bytes(raw)
        for more in (["--json"], []):
            main(["validate", str(path), *more])
            said = capsys.readouterr().out
            assert private[1:] not in said and private[:-1] not in said


GOOD: dict[str, Any] = {
    **ROWS,
    **VISION,
    **{f"line_{name}": raw for name, raw in GOOD_LINES.items()},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_row_that_looks_odd_is_accepted(
    name: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither an error nor a warning, here and there; images are for some hosted models alone."""
    path = tmp_path / "rows.jsonl"
    case = File(name, put(GOOD[name]), A)
    code, report = told(case, path, capsys)
    graver = {found["code"] for found in report["findings"] if found["severity"] != "note"}
    assert graver == ({"image_model"} if name in VISION else set())
    assert (code, report["rows"]) == (0, 13)
    local = on_local(path, "sft")
    assert {found.code for found in (*local.errors, *local.warnings)} <= (
        {"image_local"} if name in VISION else set()
    )


def test_good_texts_together_are_accepted(tmp_path: Path) -> None:
    """A file of all of them, with what a look at the whole adds."""
    path = tmp_path / "rows.jsonl"
    texts = list(TEXTS.values())
    path.write_bytes(many(lambda n: chat(user(texts[n]), answer(texts[n])), len(texts)))
    report = on_local(path, "sft")
    assert (report.outcome, report.rows) == (A, len(texts))
