"""Processes of our own import nothing from the folder that a command runs in: what lies there may
be somebody else's, and would run with the user's keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import finetune_gateway
from finetune_gateway.settings import interpreter
from finetune_gateway.validation import parallel

PACKAGE = Path(finetune_gateway.__file__).parent
ONLY = "settings/interpreter.py"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is written if anything in the current folder is imported."""
    marker = tmp_path / "imported"
    for name in ("finetune_gateway", "pickle", "json", "signal", "pydantic"):
        text = f"open({str(marker)!r}, 'a').write('{name} ')\n"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return marker


def test_parts_of_a_file_are_checked_without_the_folder_of_the_data(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a process cannot be forked: on macOS, and while other threads run."""
    monkeypatch.setattr(parallel, "_can_fork", lambda: False)
    assert list(parallel.each(len, ["a", "bb"])) == [1, 2]
    assert not marker.exists()


def test_so_are_the_programs_of_the_local_backend(marker: Path) -> None:
    """Of the worker, and of what measures this machine."""
    done = subprocess.run(interpreter.module("json.tool"), input="{}", text=True, timeout=30)
    assert done.returncode == 0 and not marker.exists()


def test_one_module_starts_them() -> None:
    """No other one names the interpreter."""
    files = {
        str(path.relative_to(PACKAGE)): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")
    }
    assert [name for name, text in files.items() if "sys.executable" in text] == [ONLY]
    assert sys.executable == interpreter.module("x")[0]
