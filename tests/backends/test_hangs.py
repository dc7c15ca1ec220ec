"""Workers and dispatchers that hang or are stopped: that is said, and they hold up nobody for long.
What works is left alone, however long it takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import (
    dispatchers,
    end_workers,
    ended,
    has_losses,
    hold_worker,
    lives,
    nobody_left,
    row,
    slots_taken,
    until,
)
from support.cli import Ftg
from support.saves import SMALL
from support.sleepers import Home

from finetune_gateway import Gateway, JobStatus, SpecError
from finetune_gateway.backends.local import deaths, hangs, heartbeat, worker
from finetune_gateway.settings import processes
from finetune_gateway.settings.home import Settings

Rows = Callable[[int], list[dict[str, Any]]]
BUSY = (sys.executable, "-I", "-S", "-c", "while True: pass")
BOUND = 0.5  # seconds, of these tests


@pytest.fixture
def one(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(hangs, "SAMPLE_SECONDS", 0.05)
    monkeypatch.setattr(hangs, "LAST_WORDS_SECONDS", 0.0)
    monkeypatch.setenv("FTG_HANG_SECONDS", str(BOUND))
    found = Home(home)
    yield found
    found.close()


def gone(one: Home, pid: int) -> bool:
    """Whether a worker is gone after a look, which starts no other one for its run."""
    one.dispatcher.not_before["a"] = time.monotonic() + 60
    one.dispatcher.look()
    return not lives(pid)


# -- which ones hang --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent", "idle", "step", "phase", "hung"),
    [
        (99, 99, None, "loading the model", False),
        (100, 100, None, "loading the model", True),
        (1100, 50, None, "loading the model", False),  # it works
        (1200, 0, None, "loading the model", True),  # and for how long
        (1100, 1100, None, "downloading Qwen/Qwen3-4B", False),
        (1200, 1200, None, "downloading Qwen/Qwen3-4B", True),
        (99, 99, 1.0, "training", False),
        (100, 0, 1.0, "training", True),  # a step that takes a hundred times as long, busy or not
        (1100, 1100, 120.0, "training", False),
        (1200, 0, 120.0, "training", True),
    ],
)
def test_when_a_worker_hangs(
    silent: float, idle: float, step: float | None, phase: str, hung: bool
) -> None:
    """By a bound of 100 s: what is idle, what works for long, a step by what steps take."""
    assert hangs.is_hung(silent, idle, 100, step, phase) is hung
    assert not hangs.is_hung(silent, idle, 0, step, phase)


def test_what_is_slow_is_said_once() -> None:
    """A step that takes ten times as long as others, at least a minute; a phase after five. Parts
    of a step are progress as long as nobody knows how long one takes."""
    assert hangs.slowness(59, 0.1) == "" and "a step takes 0.1 s" in hangs.slowness(60, 0.1)
    assert hangs.slowness(999, 100) == "" and hangs.slowness(1000, 100)
    assert hangs.slowness(299, None) == "" and hangs.slowness(300, None)
    pulse = hangs.Pulse()
    pulse.begin_phase("training")
    pulse.step_begins()
    began = pulse.at
    pulse.advance()
    assert pulse.at > began and not pulse.step_seconds
    pulse.step_ends(1)
    assert pulse.step == 1 and not pulse.step_seconds  # none is being made
    pulse.step_begins()
    began = pulse.at
    pulse.advance()
    assert pulse.at == began and pulse.step_seconds
    assert pulse.news() == ""
    pulse.at -= 61
    assert "While training: no progress for 61 s, where a step takes" in pulse.news()
    assert pulse.news() == ""
    pulse._seen -= 90
    assert pulse.news() == "The worker was stopped, or got no time, for 90 s."


def test_steps_that_took_long_are_in_the_median() -> None:
    """Of the last twenty; one that was interrupted by another phase is none."""
    pulse = hangs.Pulse()
    for number in range(25):
        pulse.step_begins()
        pulse._began = time.monotonic() - (100 if number < 14 else 1)
        pulse.step_ends(number)
    pulse.step_begins()
    assert pulse.step_seconds == pytest.approx(1, abs=0.5)
    pulse.begin_phase("saving")
    assert pulse.step_seconds is None


# -- what the dispatcher does -----------------------------------------------------------------


def test_a_stopped_worker_is_named_and_killed(one: Home, home: Path) -> None:
    """It holds up nobody on another device; the next worker has its slot."""
    one.begin()
    worker = one.dispatcher.workers["a"]
    os.kill(worker.pid, signal.SIGSTOP)
    until(lambda: processes.is_stopped(worker.pid, processes.start_of(worker.pid)), 10)
    assert f"is stopped: kill -CONT {worker.pid}" in one.phase
    one.add("b", "gpu-1")
    one.look()
    assert "b" in one.dispatcher.workers
    until(lambda: gone(one, worker.pid), 30)
    found = until(lambda: _death(one), 10)
    assert found.reason.startswith("it was stopped (SIGSTOP) and made no progress for ")
    assert found.phase == "training" and found.step == 7
    log = (home / "runs" / "a" / deaths.LOG).read_text()
    assert "killed here, because it was stopped (SIGSTOP)" in log
    one.look()
    assert one.dispatcher.workers["a"].pid != worker.pid


def _death(one: Home) -> deaths.Death | None:
    one.dispatcher.not_before["a"] = time.monotonic() + 60
    one.dispatcher.look()
    found = one.queue.get("a")
    return deaths.load(found.death) if found.pid is None else None


def test_a_worker_that_works_is_left_alone(one: Home) -> None:
    """By the time that its process uses, although it says nothing for twice the bound; and one
    that says that it makes progress."""
    one.dispatcher.command = BUSY
    one.begin()
    busy = one.dispatcher.workers["a"].pid
    one.dispatcher.command = ("sleep", "600")
    one.add("b", "gpu-1")
    one.look()
    telling = one.dispatcher.workers["b"].pid
    fence, end = one.queue.get("b").fence, time.monotonic() + 4 * BOUND
    while time.monotonic() < end:
        one.queue.claim("b", fence, progress_at=time.monotonic())
        one.dispatcher.look()
        time.sleep(0.02)
    assert lives(busy) and lives(telling)
    one.queue.claim("a", 1, step_seconds=0.01)  # a step, of which it is known how long one takes
    until(lambda: gone(one, busy), 30)


def test_a_worker_is_never_killed_if_nobody_wants_that(
    one: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0; and what is no number is refused before there is a job."""
    monkeypatch.setenv("FTG_HANG_SECONDS", "0")
    one.add("b", "gpu-1")
    one.look()
    quiet, other = one.dispatcher.workers["b"].pid, one.dispatcher.workers["a"].pid
    until(lambda: gone(one, other), 30)
    assert lives(quiet) and one.queue.get("b").hang_seconds == 0
    monkeypatch.setenv("FTG_HANG_SECONDS", "soon")
    with pytest.raises(SpecError, match="FTG_HANG_SECONDS cannot be 'soon'"):
        one.queue.resume("b", 0)


# -- the dispatcher ---------------------------------------------------------------------------


@pytest.fixture
def tidy(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


@pytest.mark.usefixtures("tidy")
def test_a_stopped_dispatcher_is_replaced(
    home: Path, tiny_folder: Path, rows: Rows, ftg: Ftg
) -> None:
    """By the next look, after a while: the job begins, and there are never two."""
    locks = Settings(home).locks
    with slots_taken(home):
        job = Gateway().submit(rows(12), model=str(tiny_folder), backend="local", **SMALL)
        [first] = until(lambda: dispatchers(home), 20)
        beat = until(lambda: heartbeat.read(locks), 20)
        assert beat.pid == first and not beat.silence
        os.kill(first, signal.SIGSTOP)
        until(lambda: processes.is_stopped(first, beat.start), 10)
        assert job.refresh().phase == "waiting for a free slot" and dispatchers(home) == [first]
        old = beat.at - heartbeat.STOPPED_SECONDS  # as if it were stopped for so long
        (locks / heartbeat.FILE).write_text(f"{first} {old} {beat.start}\n")
        assert f"process {first}, does not answer" in heartbeat.silence_text(locks)
        listed = ftg("list", "--json")
        assert json.loads(listed.stdout)[0]["status"] == "queued"
        [second] = until(lambda: dispatchers(home), 20)
        assert second != first and not lives(first)
        assert f"process {first}, was silent" in (locks / "dispatcher.log").read_text()
        until(lambda: (beat := heartbeat.read(locks)) and beat.pid == second, 20)
    job.cancel()


def test_a_dispatcher_that_is_not_ours_to_judge_stays(home: Path) -> None:
    """One of another container has another start; a live one that only is slow has time."""
    locks = Settings(home).create().locks
    child = subprocess.Popen(["sleep", "60"])
    start, long_ago = processes.start_of(child.pid), time.monotonic() - 60
    for at, known, silent in (
        (long_ago, f"{start}0", False),
        (long_ago, start, False),
        (long_ago - 60, start, True),
    ):
        (locks / heartbeat.FILE).write_text(f"{child.pid} {at} {known}\n")
        assert bool(heartbeat.end_silent(locks)) is silent
    assert child.wait(10) == -signal.SIGKILL
    (locks / heartbeat.FILE).write_text("nonsense\n")
    assert heartbeat.read(locks) is None and heartbeat.end_silent(locks) == ""


# -- a job that trains ------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.usefixtures("tidy")
def test_a_job_whose_worker_is_stopped_goes_on(
    home: Path, tiny_folder: Path, rows: Rows, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its checkpoint, to the same end; the event says why, and the status meanwhile."""
    monkeypatch.setenv("FTG_HANG_SECONDS", "20")
    job = Gateway().submit(
        rows(12), model=str(tiny_folder), backend="local", **{**SMALL, "max_steps": 6}
    )
    pid = hold_worker(home, job.id, has_losses(home, job.id, 3))
    assert f"process {pid} is stopped" in ftg("status", job.id).stdout
    until(lambda: not lives(pid), 120)
    assert ended(job, 240) is JobStatus.SUCCEEDED, job.error
    [told] = [event.message for event in job.events() if "The worker died" in event.message]
    assert "killed here, because it was stopped (SIGSTOP) and made no progress for 2" in told
    assert row(home, job.id).attempts <= 2
    nobody_left(home)


def test_a_worker_says_where_it_hangs(tmp_path: Path) -> None:
    """The stacks of its threads are in its log, whatever it does."""
    script = (
        "import faulthandler, time\n"
        "from finetune_gateway.backends.local import hangs\n"
        "faulthandler.register(hangs.SAY_WHERE)\n"
        "def deadlock():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "deadlock()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(hangs.SAY_WHERE)
    assert child.stderr is not None
    assert "Current thread" in child.stderr.readline()
    assert "in deadlock" in child.stderr.readline()
    child.kill()
    child.communicate()
    assert "faulthandler.register(hangs.SAY_WHERE)" in Path(worker.__file__).read_text()
