"""Bars of commands that read large files: on a terminal alone, and only when it takes a while."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.rows import chat_rows

from finetune_gateway.cli.progress import spread_over

# The command in a process of its own, with no second of patience before there is a bar.
COMMAND = (
    "import sys; from finetune_gateway.cli import main, progress; "
    "progress.PATIENCE = {patience}; sys.exit(main(sys.argv[1:]))"
)


def seen(*argv: str, patience: float = 0) -> tuple[str, str]:
    """(what stdout got, what the terminal of stderr showed)."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", COMMAND.format(patience=patience), *argv]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # the terminal is closed when its last user ends
            pass
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return out.decode(), shown.decode()


@pytest.fixture
def large(tmp_path: Path, home: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12_000)))
    return path


def test_split_convert_and_fix_show_how_far_they_are(large: Path, tmp_path: Path) -> None:
    """A bar on stderr, nothing of it on stdout; none with --quiet, nor where it is quick."""
    commands = [
        ["split", str(large), "-o", str(tmp_path / "parts"), "--no-near", "--force"],
        ["convert", str(large), "--to", "trl", "-o", str(tmp_path / "trl.jsonl"), "--force"],
        ["validate", str(large), "--fix", str(tmp_path / "out.jsonl"), "--force", "--no-quality"],
    ]
    for argv in commands:
        out, shown = seen(*argv)
        assert "Reading" in shown and "%" in shown, argv
        assert "Reading" not in out and "\x1b[?25l" not in out
    for argv in ([*commands[1], "--quiet"], commands[1]):
        assert "Reading" not in seen(*argv, patience=0 if "--quiet" in argv else 600)[1]


def test_several_passes_are_one_bar() -> None:
    """A file that is read three times is a third done after the first."""
    told: list[tuple[int, int]] = []
    move = spread_over(lambda done, total: told.append((done, total)), 3)
    assert move is not None
    for done in (50, 100, 50, 100, 50, 100):
        move(done, 100)
    assert told == [(50, 300), (100, 300), (150, 300), (200, 300), (250, 300), (300, 300)]
    assert spread_over(None, 3) is None
