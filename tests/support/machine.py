"""A machine of its own for a home: a small disk, a clock that can be set, and everything that can
happen to the processes that live there. They are found by the disk's path or their run's id."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.chaos import DISPATCHER, WORKER, lives

CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
DAY = 86_400


class Machine:
    """What runs here sees its disk and its clock. ``home`` is where the home is now."""

    def __init__(self, disk: Path) -> None:
        self.disk, self.home = disk, disk / "home"
        self.clock = disk.parent / "clock"
        self.set_clock(0)

    def environment(self) -> dict[str, str]:
        """What its processes are started with."""
        found = {**os.environ, "FTG_HOME": str(self.home), "CUDA_VISIBLE_DEVICES": ""}
        if CLOCK.exists():
            found |= {
                "LD_PRELOAD": str(CLOCK),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_RESET": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        return found

    def ftg(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the user. None ends in a traceback, whatever has happened."""
        command = [sys.executable, "-m", "finetune_gateway", *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(), check=False
        )
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert not check or done.returncode == 0, (words, done.returncode, done.stderr)
        return done

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the runs; none while the store cannot be read."""
        with suppress(sqlite3.Error):
            db = sqlite3.connect(f"file:{self.home}/gateway.sqlite3?mode=ro", uri=True, timeout=5)
            db.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in db.execute("SELECT * FROM runs ORDER BY seq")]
            finally:
                db.close()
        return []

    # -- processes -------------------------------------------------------------------------

    def processes(self, *modules: str) -> list[int]:
        """The pids of the workers and dispatchers of this disk, those of a home of before too."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            words = process.info["cmdline"] or []
            ours = any(str(self.disk) in word for word in words)
            kind = any(module in words for module in modules or (WORKER, DISPATCHER))
            if ours and kind and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["pid"])
        return found

    def signal(self, number: int, *modules: str) -> list[int]:
        """Send a signal to all of them; return whom."""
        sent = self.processes(*modules)
        for pid in sent:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return sent

    def kill(self, *modules: str) -> None:
        """kill -9 until nobody is left."""
        while pids := self.signal(signal.SIGKILL, *modules):
            for pid in pids:
                _gone(pid)

    # -- what happens to machines ----------------------------------------------------------

    def reboot(self) -> None:
        """Everything is dead, and what only lives as long as the machine is gone."""
        self.kill()
        for path in (self.home / "locks").iterdir():
            if path.suffix != ".log":
                path.unlink(missing_ok=True)

    def set_clock(self, days: int) -> None:
        self.clock.write_text(f"{days * DAY:+d}")

    @contextmanager
    def full(self) -> Iterator[None]:
        """No byte is left on the disk."""
        ballast = self.disk / "ballast"
        with open(ballast, "wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(65_536)):
                pass
        try:
            yield
        finally:
            ballast.unlink()

    def move(self, number: int) -> None:
        """Rename the home, whoever works in it."""
        new = self.disk / f"home {number} é"
        self.home.rename(new)
        self.home = new


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while lives(pid):
        assert time.monotonic() < deadline, f"{pid} cannot be killed"
        time.sleep(0.01)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A disk of 600 MB in memory; skipped where one may not be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(disk)]
    if not Path("/usr/bin/mount").exists() or subprocess.run(command, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    found = Machine(disk)
    try:
        yield found
    finally:
        found.kill()
        subprocess.run(["umount", "-l", str(disk)], check=True)
