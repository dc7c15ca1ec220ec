"""Signals from outside: a shutdown, a logout, Ctrl-C. Only a cancel that was asked for is one: what
can be saved is saved, the job goes on to the same model, bit for bit, and no worker has died."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import (
    check_run,
    dispatchers,
    end_workers,
    ended,
    has_losses,
    hold_worker,
    lives,
    nobody_left,
    row,
    until,
    workers,
)
from support.saves import SMALL

from finetune_gateway import Gateway, Job, JobStatus
from finetune_gateway.backends.local import line, spawning
from finetune_gateway.backends.local.dispatcher import Dispatcher
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.settings import files, processes
from finetune_gateway.settings.home import Settings

Rows = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def submit(data: Any, folder: Path, **options: Any) -> Job:
    given = {**SMALL, "max_steps": 6, "seed": 5, **options}
    return Gateway().submit(data, model=str(folder), backend="local", again=True, **given)


def weights(home: Path, job: Job) -> bytes:
    return (home / "runs" / job.id / "model" / "adapter_model.safetensors").read_bytes()


def held(home: Path, job: Job, phase: str) -> int:
    """The pid of the worker of a job, stopped (SIGSTOP) in this phase, or after it."""

    def there() -> int | None:
        found = row(home, job.id)
        assert not found.status.final, found
        is_there = found.pid and lives(found.pid) and found.phase.startswith(phase)
        return found.pid if is_there else None

    pid: int = until(there, 120)
    os.kill(pid, signal.SIGSTOP)
    return pid


def end(*pids: int, number: int = signal.SIGTERM) -> None:
    """Send all of them a signal, let go on who was stopped, and wait until they are gone."""
    for pid in pids:
        os.kill(pid, number)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    until(lambda: not any(map(lives, pids)), 60, 0.02)


def interrupted(home: Path, job: Job) -> None:
    found = row(home, job.id)
    assert (found.status, found.phase) == (JobStatus.QUEUED, line.INTERRUPTED)
    assert (found.attempts, found.pid, found.slot) == (0, None, None)
    assert found.fence == found.first_fence


@pytest.mark.parametrize("to_its_end", [False, pytest.param(True, marks=pytest.mark.chaos)])
def test_a_shutdown_lets_a_job_go_on(
    home: Path, tiny_folder: Path, rows: Rows, to_its_end: bool
) -> None:
    """While it imports and while it trains, with all processes or with the worker alone: nobody
    starts it again before somebody looks. (That the model is the same: below, in all phases.)"""
    job = submit(rows(12), tiny_folder)
    end(held(home, job, "importing"), *dispatchers(home))
    interrupted(home, job)
    assert not workers(home) and not dispatchers(home)
    job.refresh()
    end(hold_worker(home, job.id, has_losses(home, job.id, 2)), number=signal.SIGHUP)
    interrupted(home, job)
    assert [*(home / "runs" / job.id / "checkpoints").glob("*/progress.json")]
    assert len(dispatchers(home)) == 1
    time.sleep(0.7)  # in which the dispatcher has looked
    interrupted(home, job)
    if not to_its_end:
        job.refresh()
        until(lambda: row(home, job.id).pid, 30)
        return
    assert ended(job) is JobStatus.SUCCEEDED
    assert row(home, job.id).attempts == 1
    told = [event.message for event in job.events()]
    assert told.count("Interrupted.") == 2 and not [one for one in told if "died" in one]
    nobody_left(home)


TARGETS = ("worker", "dispatcher", "both", "group")
PHASES = ("importing", "loading", "hashing", "reading", "training", "training", "saving", "asking")


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shutdowns_at_any_moment(home: Path, tiny_folder: Path, rows: Rows, seed: int) -> None:
    """SIGTERM, SIGHUP and SIGINT to the worker, the dispatcher, both, or the worker's session, in
    each phase: each job has the model of an unbroken one, and no death is counted."""
    data, draw = rows(60), random.Random(seed)
    options: dict[str, Any] = {"max_steps": 12, "eval_steps": 2, "save_steps": 3}
    whole = submit(data, tiny_folder, **options)
    assert ended(whole, 240) is JobStatus.SUCCEEDED
    phases: Counter[str] = Counter()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        job = submit(data, tiny_folder, **options)
        for phase in sorted(draw.sample(PHASES, 5), key=PHASES.index):
            job.refresh()
            until(lambda: _reached(home, job, phase), 120, 0.002)  # noqa: B023
            if row(home, job.id).status.final:
                break
            time.sleep(draw.random() * (1.0 if phase in ("importing", "training") else 0.02))
            found, target = row(home, job.id), draw.choice(TARGETS)
            aims = [found.pid] if target != "dispatcher" and found.pid else []
            aims += dispatchers(home) if target in ("dispatcher", "both") else []
            for aim in filter(lives, aims):
                (os.killpg if target == "group" else os.kill)(aim, number)
            phases[f"{number.name} to {target} in {found.phase or found.status}"] += 1
            if number != signal.SIGINT:
                until(lambda: not any(map(lives, aims)), 120, 0.02)  # noqa: B023
        assert ended(job, 240) is JobStatus.SUCCEEDED, job.error
        assert row(home, job.id).attempts in (0, 1)  # 0: it had ended before it could stop
        assert weights(home, job) == weights(home, whole)
        assert not [event for event in job.events() if "died" in event.message]
        check_run(home, job.id)
        nobody_left(home)
    print(f"seed {seed}: {dict(phases)}")


def _reached(home: Path, job: Job, phase: str) -> bool:
    """Is the worker of a job in this phase or beyond it, or has the job ended?"""
    found = row(home, job.id)
    if found.status.final:
        return True
    at = [place for place, one in enumerate(PHASES) if found.phase.startswith(one)]
    there = found.pid and lives(found.pid) and at and at[-1] >= PHASES.index(phase)
    return bool(there)


@pytest.fixture
def locks(home: Path) -> Path:
    return Settings(home).create().locks


def ensure(home: Path, *, by_user: bool) -> bool:
    """Is there a dispatcher after this?"""
    made = Settings(home)
    paths = made.home, made.database, made.locks, made.runs
    spawning.ensure(*paths, os.environ, by_user=by_user)
    return bool(dispatchers(home))


def test_after_a_shutdown_a_worker_starts_no_dispatcher(
    home: Path, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment: it would start everything again in the midst of it. Whoever looks does; and
    what an earlier run of the machine has left counts for nothing."""
    lock = files.try_lock(locks / LOCK)
    assert lock is not None
    with Gateway(home).store.transaction() as db:
        db.execute("INSERT INTO runs (id, status, max_attempts, queued_at, start_at)"
                   " VALUES ('a', 'queued', 5, 0, 4e9)")  # fmt: skip
    spawning.note_shutdown(lock)
    files.unlock(lock)
    assert not ensure(home, by_user=False)
    assert ensure(home, by_user=True)
    [dispatcher] = dispatchers(home)
    end(dispatcher)
    assert not ensure(home, by_user=False)
    noted = (locks / LOCK).read_text()
    assert noted.startswith(f"{spawning.STOPPED} {processes.boot()} ")
    (locks / LOCK).write_text(noted.replace(processes.boot(), "another"))
    assert ensure(home, by_user=False)
    [dispatcher] = dispatchers(home)
    os.kill(dispatcher, signal.SIGINT)  # for the terminal of who has started it
    time.sleep(0.3)
    assert dispatchers(home) == [dispatcher]
    monkeypatch.setattr(spawning, "REST_SECONDS", 0.0)
    end(dispatcher)
    assert ensure(home, by_user=False)


def test_what_ended_with_its_machine_has_not_died(home: Path, tmp_path: Path) -> None:
    """A power cut, or a container that was killed, counts as no attempt; kill -9 does."""
    made = Settings(home).create()
    dispatcher = Dispatcher(made.home, made.database, made.locks, made.runs)
    mine = processes.start_of(os.getpid())
    assert mine is not None and mine.startswith(f"{processes.boot()} ")
    before = mine.replace(processes.boot(), f"{processes.boot()}0")
    for start, attempts in ((before, 1), (mine, 2), ("", 2)):
        with dispatcher.queue.store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs (id, status, max_attempts, queued_at, fence,"
                " attempts, pid_start) VALUES ('a', 'running', 5, 0, 7, 2, ?)",
                (start,),
            )
        fence = dispatcher._next_fence("a", "cpu")
        found = dispatcher.queue.get("a")
        assert (fence, found.attempts, found.first_fence) == (8, attempts, 2 - attempts)


def test_a_signal_waits_until_a_process_can_answer_it(tmp_path: Path) -> None:
    """One that comes while modules are imported kills nothing."""
    script = (
        "import os, signal, sys\n"
        "print('imports', flush=True); sys.stdin.readline()\n"
        "from finetune_gateway.settings import processes\n"
        "signals = processes.take_signals([signal.SIGTERM, signal.SIGHUP])\n"
        "print(sorted(os.read(signals, 9)))\n"
    )
    with processes.holding_signals():
        child = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "imports\n"
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        child.send_signal(number)
    out, _ = child.communicate("\n", timeout=30)
    assert child.returncode == 0 and out == f"{[int(signal.SIGHUP), int(signal.SIGTERM)]}\n"
