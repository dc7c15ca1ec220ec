"""Following jobs: watch, wait, logs, cancel, with backends of an installed plug-in that are slow,
that fail, and that overfit."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import DEMO_TRAIN

from finetune_gateway.cli.watch import combine_exit_codes, parse_seconds
from finetune_gateway.errors import SpecError
from finetune_gateway.reports.live import sparkline

DATA = DEMO_TRAIN
PLUGIN = '''
import time
from dataclasses import replace
from finetune_gateway import FakeBackend
from finetune_gateway.backend import NEUTRAL
from finetune_gateway.events import Event, JobStatus, Snapshot

class Slow(FakeBackend):
    """Never ends by itself; its valid_loss rises."""
    name = "slow"

    def capabilities(self, model=None):
        return replace(super().capabilities(model), poll_seconds=(0.05, 0.05))

    def poll(self, provider_id, cursor):
        if provider_id in self._cancelled:
            return Snapshot(status=JobStatus.CANCELLED, cursor=cursor)
        step = int(cursor or 0) + 1
        data = {"step": step, "total_steps": 100000, "train_loss": 2 / step,
                "valid_loss": 1 + step / 100, "epoch": step / 100}
        event = Event(id=f"{provider_id}-{step}", created_at=time.time(), type="metrics",
                      message=f"Step {step}", data=data)
        said = Event(id=f"{provider_id}-s{step}", created_at=time.time(), message="\\x1b[2Jwiped")
        return Snapshot(status=JobStatus.RUNNING, phase="training", events=[event, said],
                        cursor=str(step))

class Failing(Slow):
    """Fails at its second look."""
    name = "failing"

    def poll(self, provider_id, cursor):
        if cursor is None:
            return Snapshot(status=JobStatus.RUNNING, cursor="1")
        return Snapshot(status=JobStatus.FAILED, error="the loss is not finite", cursor="2")
'''


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own, and a plug-in distribution on the path."""
    site = tmp_path / "site"
    about = site / "ftg_slow-0.1.dist-info"
    about.mkdir(parents=True)
    (site / "ftg_slow.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ftg-slow\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(
        "[finetune_gateway.backends]\nslow = ftg_slow:Slow\nfailing = ftg_slow:Failing\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "NO_COLOR")}
    return kept | {
        "FTG_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(site),
        "COLUMNS": "80",
        "TERM": "xterm",
    }


def ftg(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune_gateway", *args]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def submitted(env: dict[str, str], backend: str) -> str:
    done = ftg(env, "submit", str(DATA), "--model", "m", "--backend", backend, "-q")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_detaching_from_the_live_screen_leaves_the_job_running(env: dict[str, str]) -> None:
    """On a terminal watch draws progress, curves and a note on overfitting; Ctrl-C ends it with
    0 and the way back, and the job goes on."""
    job = submitted(env, "slow")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "finetune_gateway", "watch", job]
    process = subprocess.Popen(
        command, env=env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    screen = "".join(_until(leader, "overfitting from step", 30))
    os.killpg(process.pid, signal.SIGINT)
    screen += "".join(_until(leader, "Back to it", 30))
    assert process.wait(timeout=30) == 0, screen
    os.close(leader)
    for text in (job, "train_loss", "valid_loss", "elapsed", "left ", "Ctrl-C leaves", "epoch"):
        assert text in screen
    assert f"ftg watch {job}" in screen
    assert "\x1b[2J" not in screen, "a message of the provider must not steer the terminal"
    assert json.loads(ftg(env, "status", job, "--json").stdout)["status"] == "running"


def _until(fd: int, text: str, limit: float) -> Iterator[str]:
    """What comes from a terminal until ``text`` was in it."""
    seen, end = "", time.monotonic() + limit
    while text not in seen and time.monotonic() < end:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                piece = os.read(fd, 65536).decode("utf-8", "replace")
            except OSError:
                return
            seen += piece
            yield piece
    assert text in seen, seen[-3000:]


def _ended(process: subprocess.Popen[bytes], leader: int, key: bytes) -> int:
    """The exit code once the key has ended the process. The key is pressed again when nothing
    happens, as people do: one pressed before the prompt is there is lost to the terminal."""
    for _ in range(30):
        os.write(leader, key)
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the process does not end")


def test_a_conversation_at_the_terminal(env: dict[str, str]) -> None:
    """Without a prompt chat answers line by line until Ctrl-D."""
    job = submitted(env, "fake")
    assert ftg(env, "wait", job).returncode == 0
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "finetune_gateway", "chat", job]
    process = subprocess.Popen(
        command, env=env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    "".join(_until(leader, "you> ", 30))
    os.write(leader, b"How are you?\n")
    "".join(_until(leader, "You said: How are you?", 30))
    assert _ended(process, leader, b"\x04") == 0
    os.close(leader)


def test_watch_and_wait_end_as_the_job_does(env: dict[str, str]) -> None:
    """0 succeeded, 100 failed with the reason, 101 not finished in time, 103 cancelled."""
    good, bad, slow = (submitted(env, name) for name in ("fake", "failing", "slow"))
    watched = ftg(env, "watch", good)
    assert watched.returncode == 0
    assert "Step 5/5" in watched.stdout and "succeeded" in watched.stderr
    failed = ftg(env, "wait", bad)
    assert failed.returncode == 100
    assert "the loss is not finite" in failed.stdout
    assert ftg(env, "wait", good, slow, "--timeout", "0.2s", "-q").returncode == 101
    assert ftg(env, "chat", slow, "hi").returncode == 101
    assert ftg(env, "chat", bad, "hi").returncode == 100
    assert ftg(env, "cancel", slow).returncode == 4, "no terminal and no --yes"
    assert ftg(env, "cancel", slow, "--yes").stdout == f"{slow} cancelled\n"
    ended = ftg(env, "wait", good, slow, "--json")
    assert ended.returncode == 103
    assert [one["status"] for one in json.loads(ended.stdout)] == ["succeeded", "cancelled"]


def test_interrupting_wait_is_130_and_says_that_the_job_goes_on(env: dict[str, str]) -> None:
    """Ctrl-C while waiting: no traceback, and the way back."""
    job = submitted(env, "slow")
    command = [sys.executable, "-m", "finetune_gateway", "wait", job]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert job in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"ftg watch {job}" in said and "Traceback" not in said


def test_streams_are_one_json_a_line(env: dict[str, str]) -> None:
    """watch, events and logs with --json print one document a line."""
    job = submitted(env, "fake")
    for command in (("watch", job), ("events", job), ("logs", job), ("logs", job, "-f")):
        done = ftg(env, *command, "--json")
        assert done.returncode == 0, done.stderr
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == 8


def test_seconds_reads_what_people_write() -> None:
    """90, 90s, 10m, 2h, 1h30m; anything else is a SpecError."""
    assert [parse_seconds(text) for text in ("90", "90s", "10m", "2h", "1h30m", "0.5m")] == [
        90,
        90,
        600,
        7200,
        5400,
        30,
    ]
    for text in ("", "soon", "2x", "-5", "1 h"):
        with pytest.raises(SpecError):
            parse_seconds(text)


def test_one_code_for_several_ends() -> None:
    """A failure goes before an unfinished job, that before a cancelled one."""
    assert combine_exit_codes([0, 103, 101, 100]) == 100
    assert combine_exit_codes([0, 103, 101]) == 101
    assert combine_exit_codes([0, 103]) == 103
    assert combine_exit_codes([0, 0]) == combine_exit_codes([]) == 0


def test_sparkline_keeps_the_shape() -> None:
    """Lowest and highest reach the ends; a constant is flat; many values are averaged."""
    assert sparkline([3, 2, 1], 10) == "█▅▁" or sparkline([3, 2, 1], 10) == "█▄▁"
    assert sparkline([5, 5], 10) == "▁▁"
    many = sparkline([float(n) for n in range(1000)], 24)
    assert len(many) == 24 and many[0] == "▁" and many[-1] == "█"
