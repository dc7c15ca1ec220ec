"""`make trust`: which rows it reads, and which tests it believes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trust
from support.endings import FAILS
from support.missing import tolerant

import finetune_gateway

HEAD = "| number | test | before | what it shows |\n|---|---|---|---|\n"
TESTS = """
from product import answer

def test_mended():
    assert answer() == 42

def test_always_so():
    assert isinstance(answer(), int)

def test_of_a_new_name():
    from product import question
    assert question() == "6 x 7"
"""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("| 1 | `test_mended` | what it shows |", "3 cells"),
        ("| 1 | test_mended | new | what it shows |", "names no test"),
        ("| 1 | `test_mended` | soon | what it shows |", "'soon': a commit, or new"),
        ("| 1 | `test_gone` | new | what it shows |", "0 tests are called test_gone"),
        ("", "no rows"),
    ],
)
def test_lines_that_are_no_row(tmp_path: Path, line: str, complaint: str) -> None:
    """Each is named with its line."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text(TESTS)
    (tmp_path / "docs/trust.md").write_text(HEAD + line)
    [found] = trust.complaints(tmp_path)
    assert complaint in found and (not line or "docs/trust.md:3:" in found)


@pytest.mark.chaos
def test_a_row_holds_by_its_assertion_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a test that passed before too, nor one that ended because a name was not there."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # seconds of imports

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *who, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    for folder in ("docs", "tests"):
        (tmp_path / folder).mkdir()
    os.symlink(Path(__file__).parent / "support", tmp_path / "tests/support")
    (tmp_path / "tests/test_it.py").write_text(TESTS)
    (tmp_path / "product.py").write_text("def answer():\n    return 41\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "before")
    before = git("rev-parse", "HEAD")
    (tmp_path / "product.py").write_text(
        "def answer():\n    return 42\n\ndef question():\n    return '6 x 7'\n"
    )
    (tmp_path / "docs/trust.md").write_text(
        f"{HEAD}| 1 | `test_mended` | `{before}` | a |\n"
        f"| 2 | `test_always_so`, `test_of_a_new_name` | {before} | b |\n"
        "| 3 | `test_of_a_new_name` | new | c |\n"
    )
    assert trust.main([], tmp_path) == 1
    [_, first, second, third, fourth, end] = capfd.readouterr().out.splitlines()
    assert first.endswith("1 fail by assertion | 1 pass")
    assert second.endswith("1 pass | 1 pass  <- DOES NOT HOLD")
    assert "ends with ImportError" in third and third.endswith("DOES NOT HOLD")
    assert fourth == "3 | test_of_a_new_name | new | 1 pass" and end == "4 tests, 2 do not hold"
    assert git("worktree", "list").count("\n") == 0


@pytest.mark.chaos
def test_a_name_that_came_later_keeps_no_other_test_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that uses the name ends with NameError, which shows nothing; it has no cases of it."""
    source = """
from finetune_gateway.spec import (
    TrainingSpec,
    COMES_LATER as LATER,
)
from finetune_gateway.comes_later import other
import pytest

@pytest.mark.parametrize("one", LATER)
def test_each(one): assert one

def test_without_it(): assert TrainingSpec(model="m").model == "n"
def test_with_it(): assert "x" in LATER
def test_calls_it(): assert not [*LATER] or other()
"""
    rewritten = tolerant(source)
    assert rewritten.count("\n") == source.count("\n")
    (tmp_path / "test_it.py").write_text(rewritten)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    nodes = [f"test_it.py::test_{name}" for name in ("without_it", "with_it", "calls_it")]
    shutil.copytree(Path(__file__).parent / "support", tmp_path / "tests/support")
    (tmp_path / "finetune_gateway").symlink_to(Path(finetune_gateway.__file__).parent)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # of this process: that one collects first
    ended = trust.run(tmp_path, nodes)
    assert {name: [*found] for name, found in ended.items()} == {
        "test_without_it": [FAILS],
        "test_with_it": ["ends with NameError in its call"],
        "test_calls_it": ["ends with NameError in its call"],
    }
