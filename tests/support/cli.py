"""Command lines: in this process (``ftg``) or in one of their own (``process``)."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.paths import ROOT

from finetune_gateway.cli import main


@dataclass
class Done:
    """How a command line ended."""

    returncode: int
    stdout: str
    stderr: str


Ftg = Callable[..., Done]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own, no keys, 80 columns."""
    secret = ("KEY", "TOKEN", "OPENAI", "FTG_", "NO_COLOR")
    kept = {k: v for k, v in os.environ.items() if not any(word in k for word in secret)}
    told = {"FTG_HOME": str(tmp_path / "home"), "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    return kept | told | {"FTG_TODAY": os.environ["FTG_TODAY"]}


@pytest.fixture
def ftg(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ftg:
    """Runs a command line in this process; its stdin is no terminal."""
    for name in os.environ.keys() - env.keys():
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def run(*args: str, text: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        monkeypatch.setenv("FTG_HOME", env["FTG_HOME"])  # --home sets it for child processes
        code = main([*args])
        return Done(code, *capfd.readouterr())

    return run


class Terminal(io.StringIO):
    """A stream that says it is a terminal; at the end of its keys is Ctrl-D, or Ctrl-C."""

    ctrl_c = False

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # as StringIO's own
        line = super().readline(size)
        if self.ctrl_c and not line:
            raise KeyboardInterrupt
        return line


def at_terminal(
    monkeypatch: pytest.MonkeyPatch, keys: str, *args: str, ctrl_c: bool = False
) -> Done:
    """Run a command line in this process with a terminal for its three streams."""
    typed, out, err = Terminal(keys), Terminal(), Terminal()
    typed.ctrl_c = ctrl_c
    with monkeypatch.context() as patch:
        for name, stream in (("stdin", typed), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        patch.setenv("TERM", "xterm")
        code = main([*args])
    return Done(code, out.getvalue(), err.getvalue())


def process(env: dict[str, str], *args: str) -> Done:
    """Runs ``python -m finetune_gateway``; its stdin is no terminal."""
    command = [sys.executable, "-m", "finetune_gateway", *args]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return Done(done.returncode, done.stdout, done.stderr)


def unmeasured(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process that ``make cover`` leaves alone: measuring imports
    modules and writes files of its own."""
    return {name: value for name, value in env.items() if name != "COVERAGE_PROCESS_CONFIG"}


def loaded_after(env: dict[str, str], *args: str) -> set[str]:
    """The modules that one command line imports."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['ftg', *{list(args)!r}]\n"
        "try:\n    runpy.run_module('finetune_gateway', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=unmeasured(env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(done.stderr.splitlines()[-1].split())
