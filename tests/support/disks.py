"""Disks that are full: limits on file sizes and a tiny file system."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.chaos import KEY, MODEL, end_workers
from support.cli import Done, unmeasured

# arguments: the longest file in bytes, then a command line
LIMITED = """
import resource, sys
from finetune_gateway.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def run(limit: int | None, *words: object, home: Path) -> subprocess.CompletedProcess[str]:
    """``ftg`` in a process that can write no file longer than ``limit`` bytes."""
    command = [sys.executable, "-c", LIMITED, str(-1 if limit is None else limit)]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=unmeasured({**os.environ, "CHAOS_KEY": KEY, "FTG_HOME": str(home)}),
    )


@contextmanager
def short_files(limit: int) -> Iterator[None]:
    """Let this process write no file longer than ``limit`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def submit(url: str, file: Path) -> list[object]:
    words: list[object] = ["submit", file, "--model", MODEL, "--backend", "openai", "--yes", "-q"]
    return [*words, "--base-url", url, "--api-key-env", "CHAOS_KEY"]


def plain_failure(done: subprocess.CompletedProcess[str] | Done) -> str:
    """An exit code, one line of cause and one of advice: no traceback, no "bug"."""
    assert done.returncode not in (0, None) and done.returncode > 0, done
    assert "Traceback" not in done.stderr and "bug" not in done.stderr, done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    return done.stderr


def whole(home: Path) -> None:
    """The store passes SQLite's own check, and no half-written copy lies about."""
    if (home / "gateway.sqlite3").exists():
        db = sqlite3.connect(home / "gateway.sqlite3")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
    assert not [path for path in home.rglob("*.tmp.*")], list(home.rglob("*.tmp.*"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; skipped where one may not be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not Path("/usr/bin/mount").exists() or subprocess.run(command, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        end_workers(folder / "home")
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Leave about ``left`` bytes free."""
    found = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - left)))
    return ballast
