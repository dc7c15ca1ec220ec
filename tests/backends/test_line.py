"""The line of local jobs: who begins next, who is passed over, and what is said meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.chaos import (
    dispatchers,
    end_workers,
    kill_worker,
    nobody_left,
    ready,
    row,
    slots_taken,
    start,
    until,
    workers,
)
from support.cli import Ftg

from finetune_gateway import FakeBackend, Gateway, Job, JobStatus, SpecError, UnsupportedError
from finetune_gateway.backend import Schedule
from finetune_gateway.backends.local import line, messages, nvidia, states, worker
from finetune_gateway.backends.local.dispatcher import Dispatcher
from finetune_gateway.backends.local.line import Place, Waiting
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.backends.local.spawning import LOCK, fault
from finetune_gateway.settings import processes
from finetune_gateway.settings.files import is_locked, try_lock, unlock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Rows = Callable[[int], list[dict[str, Any]]]
HOUR = 3600.0


# -- the order, by a real queue and workers that only hold their locks -----------------------


class Holding(Dispatcher):
    """A dispatcher of this process, whose workers do nothing until they are killed."""

    def spawn(self, run_id: str, fence: int, run_lock: int, slot: str, slot_lock: int) -> None:
        self.workers[run_id] = subprocess.Popen(
            ["sleep", "600"], pass_fds=(run_lock, slot_lock), start_new_session=True
        )


class Line:
    """A home with runs in line."""

    def __init__(self, home: Path) -> None:
        made = Settings(home).create()
        self.queue = Queue(made)
        self.alone = try_lock(made.locks / LOCK)
        self.dispatcher = Holding(made.home, made.database, made.locks, made.runs)

    def add(
        self, *names: str, devices: tuple[str, ...] | None = ("gpu-0",), **schedule: Any
    ) -> None:
        for name in names:
            folder = self.queue.folder(name)
            folder.mkdir(parents=True)
            (folder / "run.json").write_text("{}")
            self.queue.add(name, Schedule(**schedule), devices)

    def look(self) -> list[str]:
        """The runs that have a worker after a look."""
        self.dispatcher.look()
        return sorted(self.dispatcher.workers)

    def end(self, name: str, status: str = "succeeded") -> None:
        """Let a worker store how its run ended, and end."""
        with self.queue.store.transaction() as db:
            db.execute("UPDATE runs SET status = ? WHERE id = ?", (status, name))
        self.kill(name)

    def kill(self, name: str) -> None:
        worker = self.dispatcher.workers[name]
        worker.kill()
        worker.wait()

    def order(self, count: int) -> list[str]:
        """The runs as they begin, one after the other."""
        begun = []
        for _ in range(count):
            [name] = self.look()
            begun.append(name)
            self.end(name)
        return begun


@pytest.fixture
def in_line(home: Path) -> Iterator[Line]:
    found = Line(home)
    yield found
    for name in [*found.dispatcher.workers]:
        found.kill(name)


def test_the_larger_priority_begins_first_then_the_earlier_submit(in_line: Line) -> None:
    """Whatever the clock says: it decides nothing."""
    in_line.add("a", "b")
    in_line.add("urgent", priority=5)
    in_line.add("later", priority=-1)
    in_line.add("c")
    with in_line.queue.store.transaction() as db:
        db.execute("UPDATE runs SET queued_at = -seq")
    assert in_line.order(5) == ["urgent", "a", "b", "c", "later"]
    assert in_line.look() == [] and not in_line.dispatcher.has_runs()


def test_who_waits_for_something_is_passed_over(in_line: Line) -> None:
    """For a time, for a job, until it is resumed, or for a device that is busy: the others go on.
    One job at a time has a device."""
    in_line.add("timed", start_at=time.time() + HOUR, priority=9)
    in_line.add("a")
    in_line.add("behind", after=("a",), priority=9)
    in_line.add("paused", priority=9)
    in_line.add("pinned", priority=1)
    in_line.add("elsewhere", devices=("gpu-1",))
    in_line.queue.pause("paused")
    assert in_line.look() == ["elsewhere", "pinned"]
    assert in_line.look() == ["elsewhere", "pinned"]
    in_line.end("pinned")
    assert in_line.look() == ["a", "elsewhere"]
    in_line.end("a")
    assert in_line.look() == ["behind", "elsewhere"]
    in_line.end("behind")
    assert in_line.look() == ["elsewhere"]
    in_line.queue.resume("paused", 0)
    assert in_line.look() == ["elsewhere", "paused"]
    in_line.end("paused")
    with in_line.queue.store.transaction() as db:
        db.execute("UPDATE runs SET start_at = ? WHERE id = 'timed'", (time.time() - 1,))
    assert in_line.look() == ["elsewhere", "timed"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_after_a_job_that_has_not_succeeded_it_ends_too(in_line: Line, status: str) -> None:
    """It would wait for ever: it fails, names the job, and a resume lets it begin at once."""
    in_line.add("a")
    in_line.add("b", after=("a",))
    in_line.add("c", after=("b",))
    assert in_line.look() == ["a"]
    in_line.end("a", status)
    for _ in range(3):
        in_line.look()
    ended = in_line.queue.get("b")
    assert ended.status is JobStatus.FAILED and "after a, which" in str(ended.error)
    assert in_line.queue.get("c").status is JobStatus.FAILED
    in_line.queue.resume("b", 1)
    assert in_line.look() == ["b"]


def test_a_worker_that_dies_has_another_one_in_its_turn(in_line: Line) -> None:
    """At once; one that dies again and again before it trains waits longer each time."""
    in_line.add("a")
    in_line.look()
    in_line.kill("a")
    assert in_line.look() == ["a"] and in_line.queue.get("a").fence == 2
    in_line.kill("a")
    assert in_line.look() == []
    until(lambda: in_line.look() == ["a"], 5, 0.02)
    assert in_line.queue.get("a").fence == 3


def test_a_dispatcher_that_was_killed_finds_its_workers(in_line: Line) -> None:
    """Those that have not said their number yet, too: each job keeps one worker."""
    in_line.add("a", "b")
    assert in_line.look() == ["a"]
    made = in_line.queue.settings
    other = Holding(made.home, made.database, made.locks, made.runs)
    assert other.look() and not other.workers
    in_line.kill("a")
    other.look()
    assert [*other.workers] == ["a"] and in_line.queue.get("a").fence == 2
    other.workers["a"].kill()
    other.workers["a"].wait()


def test_a_cancel_and_a_pause_without_a_worker_count_at_once(in_line: Line) -> None:
    """A paused one can be cancelled; one that has ended cannot be paused."""
    in_line.add("a", "b")
    for name in ("a", "b"):
        in_line.queue.pause(name)
        assert in_line.queue.get(name).status is JobStatus.PAUSED
    in_line.queue.cancel("a")
    assert in_line.queue.get("a").status is JobStatus.CANCELLED
    in_line.queue.pause("a")
    in_line.queue.resume("a", 0)
    assert in_line.queue.get("a").status is JobStatus.CANCELLED
    in_line.queue.resume("b", 0)
    assert in_line.queue.get("b").status is JobStatus.QUEUED


def test_a_pause_of_a_run_whose_worker_died_leaves_nothing_of_it(in_line: Line) -> None:
    """Neither its number nor its slot: resumed, it has its place in line."""
    in_line.add("a", "b")
    in_line.look()
    in_line.queue.claim("a", 1, status="running", pid=os.getpid(), slot="gpu-0")
    in_line.kill("a")
    in_line.queue.pause("a")
    row = in_line.queue.get("a")
    assert (row.status, row.pid, row.slot) == (JobStatus.PAUSED, None, None)
    in_line.queue.resume("a", 0)
    placed = states.places(in_line.queue, time.time())
    assert [placed[name].number for name in ("a", "b")] == [1, 2]


def write_run_file(in_line: Line, name: str) -> None:
    spec = TrainingSpec.build(model="builtin/tiny")
    file = RunFile(job_id=name, spec=spec, train_sha256="", versions={}, created_at=0.0)
    (in_line.queue.folder(name) / "run.json").write_text(file.model_dump_json(), "utf-8")


def test_what_was_interrupted_has_not_died(in_line: Line) -> None:
    """However often a machine is shut down, a job goes on, once somebody looks; an end before the
    attempt began takes back none of the earlier ones."""
    in_line.add("a")
    settings = in_line.queue.settings
    write_run_file(in_line, "a")
    for number in range(1, line.MAX_STARTS + 3):
        assert in_line.look() == ["a"]
        run = Run(settings, "a", number)
        if number > 2:
            run.begin_attempt("gpu-0")
        else:
            in_line.queue.claim("a", number, attempts=1)  # as of one that has died
        worker.leave(run, JobStatus.QUEUED, line.INTERRUPTED)
        in_line.kill("a")
        assert in_line.queue.get("a").attempts == 1
        assert in_line.look() == []  # it would be started in the midst of a shutdown
        in_line.dispatcher.hear({})
    assert in_line.look() == ["a"]


def test_a_pause_that_is_taken_back_does_not_rest(in_line: Line) -> None:
    """Its worker has heard of it, and stops; the job goes on at once."""
    in_line.add("a")
    write_run_file(in_line, "a")
    in_line.look()
    run = Run(in_line.queue.settings, "a", 1)
    run.begin_attempt("gpu-0")
    in_line.queue.pause("a")
    run._beat()
    assert run.stop.is_set()
    in_line.queue.resume("a", 0)
    worker.stopped(run)
    row = in_line.queue.get("a")
    assert (row.status, row.phase, row.attempts) == (JobStatus.QUEUED, "resuming", 0)
    in_line.kill("a")
    assert in_line.look() == ["a"]


@pytest.fixture
def slow_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that answers once ``go`` is there; ``asked`` has a line for each call."""
    folder = tmp_path / "smi"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\necho >> {folder}/asked\n"
        f"while [ ! -e {folder}/go ]; do sleep 0.05; done\necho 'No devices were found'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(nvidia, "_answers", {})
    return folder


def test_a_slow_nvidia_smi_holds_up_nobody_else(in_line: Line, slow_smi: Path) -> None:
    """Who knows its device begins, and the dispatcher looks again; the others begin with the
    answer. Looks at the line ask no more than once a minute."""
    in_line.add("any", devices=None)
    in_line.add("pinned")
    assert in_line.look() == ["pinned"] and in_line.look() == ["pinned"]
    (slow_smi / "go").touch()
    until(lambda: in_line.look() == ["any", "pinned"], 20, 0.02)
    in_line.add("later")
    nvidia._answers.clear()
    for _ in range(3):
        assert states.places(in_line.queue, time.time())["later"].number == 1
        nvidia._answers.clear()
    assert len((slow_smi / "asked").read_text().splitlines()) == 2


def test_names_of_backends_ask_no_device(slow_smi: Path, ftg: Ftg) -> None:
    """Nor is a backend loaded for them."""
    done = ftg("backends", "-q")
    assert "local" in done.stdout.split() and not (slow_smi / "asked").exists()


def test_a_run_without_its_folder_ends_with_that_reason(in_line: Line) -> None:
    """And holds up nobody."""
    in_line.add("a", "b")
    (in_line.queue.folder("a") / "run.json").unlink()
    assert in_line.look() == ["b"]
    assert "has lost run.json" in str(in_line.queue.get("a").error)


def test_no_signal_reaches_another_process_with_the_number(in_line: Line) -> None:
    """A number without the moment at which its process started is nobody's."""
    child = subprocess.Popen(["sleep", "60"])
    began = processes.start_of(child.pid)
    assert began and processes.start_of(os.getpid()) != began
    assert not processes.send(child.pid, f"{began}0", signal.SIGTERM)
    assert not processes.send(child.pid, None, signal.SIGTERM) and child.poll() is None
    assert processes.send(child.pid, began, signal.SIGTERM) and child.wait(10) == -signal.SIGTERM
    assert processes.start_of(child.pid) is None
    assert not processes.send(child.pid, began, signal.SIGTERM)


def test_places_are_laid_on_the_slot_that_is_free_first() -> None:
    """What is not known of one job is not known of those behind it."""
    waiting = [
        Waiting("a", None, 100.0),
        Waiting("b", None, 10.0),
        Waiting("c", ("gpu-1",), 5.0),
        Waiting("d", None, None),
        Waiting("e", ("gpu-1",), 1.0),
        Waiting("f", ("gpu-7",), 1.0),
    ]
    found = line.places(waiting, {"gpu-0": 30.0, "gpu-1": 50.0}, ["gpu-0", "gpu-1"])
    assert found == {
        "a": Place(1, 30.0),
        "b": Place(2, 50.0),
        "c": Place(3, 60.0),
        "d": Place(4, 65.0),
        "e": Place(5, None),
        "f": Place(6, None),
    }
    assert line.places(waiting[:1], {"cpu": None}, ["cpu"]) == {"a": Place(1, None)}


# -- messages to the dispatcher --------------------------------------------------------------


def test_an_environment_goes_from_memory_to_memory(tmp_path: Path) -> None:
    """Whole, however long; what is no message is left, and a stale name leads nowhere."""
    lock = tmp_path / "lock"
    descriptor = try_lock(lock)
    assert descriptor is not None
    listener = messages.Listener(descriptor)
    long = {"run": "a", "environment": {"KEY": "x" * 500_000, "ODD": "\udcff"}}
    told: list[bool] = []
    teller = threading.Thread(target=lambda: told.append(messages.tell(lock, long)))
    teller.start()
    heard: list[dict[str, Any]] = until(lambda: [*listener.messages()], 10)
    teller.join()
    assert heard == [long] and told == [True]
    assert "x" not in lock.read_text()
    assert listener.socket is not None
    listener.socket.close()
    assert not messages.tell(lock, {})
    lock.write_text("")
    assert not messages.tell(lock, {}) and not messages.tell(tmp_path / "none", {})
    unlock(descriptor)


# -- the whole way, with jobs that wait ------------------------------------------------------


@pytest.fixture
def tidy(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def submit(folder: Path, data: Any, **options: Any) -> Job:
    given: dict[str, Any] = {"lora_r": 4, "max_steps": 2, "seed": 3, **options}
    return Gateway().submit(data, model=str(folder), backend="local", again=True, **given)


@pytest.mark.usefixtures("tidy")
def test_jobs_that_wait_say_for_what(home: Path, tiny_folder: Path, rows: Rows, ftg: Ftg) -> None:
    """Their place, when they begin, a time, a job, a pause: in Python, on the screen, as JSON. No
    process but one lives for them, and none at the end."""
    data = rows(12)
    with slots_taken(home):
        first = submit(tiny_folder, data)
        tomorrow = datetime.now() + timedelta(days=1)
        timed = submit(tiny_folder, data, at=tomorrow)
        behind = submit(tiny_folder, data, after=first.id)
        urgent = submit(tiny_folder, data, priority=5)
        assert len(dispatchers(home)) == 1 and workers(home) == []
        jobs = [job.refresh() for job in (first, timed, behind, urgent)]
        assert [job.record.place_in_line for job in jobs] == [2, None, None, 1]
        assert [job.status for job in jobs] == [JobStatus.QUEUED] * 4
        assert first.phase == "waiting for a free slot"
        assert timed.phase.startswith("waiting until 2") and first.id in behind.phase
        shown = ftg("list")
        assert shown.returncode == 0 and "place 1 in line" in shown.stdout
        shown = ftg("status", behind.id)
        assert "after " + first.id in shown.stdout and "running for" not in shown.stdout
        assert first.pause().status is JobStatus.PAUSED
        assert f"ftg resume {first.id}" in ftg("status", first.id).stderr
        listed = {one["id"]: one for one in json.loads(ftg("list", "--json").stdout)}
        assert listed[first.id]["status"] == "paused" and listed[urgent.id]["priority"] == 5
        assert listed[timed.id]["start_at"] == pytest.approx(tomorrow.timestamp())
        assert ftg("resume", first.id, "-q").stdout == "queued\n"
        assert first.refresh().status is JobStatus.QUEUED
        assert ftg("pause", first.id, "--json").returncode == 0
        with pytest.raises(SpecError, match="would never begin"):
            first.cancel()
            submit(tiny_folder, data, after=first.id)
        until(lambda: behind.refresh().status is JobStatus.FAILED, 20, 0.05)
        assert first.id in str(behind.error)
        for job in (timed, urgent):
            assert job.cancel().status is JobStatus.CANCELLED
        with pytest.raises(SpecError, match="nothing to pause"):
            urgent.pause()
    nobody_left(home)


@pytest.mark.usefixtures("tidy")
def test_a_worker_has_the_environment_of_its_submit(
    home: Path, tiny_folder: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that another shell has set, too, although the dispatcher was there before; nothing of
    it is on the disk."""
    with slots_taken(home):
        first = submit(tiny_folder, rows(12))
        until(lambda: dispatchers(home), 20)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_second_shell")
        second = submit(tiny_folder, rows(12), priority=1)
    pid = until(lambda: row(home, second.id).pid, 30)
    assert b"HF_TOKEN=hf_of_the_second_shell" in Path(f"/proc/{pid}/environ").read_bytes()
    [dispatcher] = dispatchers(home)
    assert b"hf_of_the_second" not in Path(f"/proc/{dispatcher}/environ").read_bytes()
    first.cancel(), second.cancel()
    end_workers(home)
    kept = json.loads((home / "runs" / second.id / "run.json").read_text())["shell"]
    assert kept["tokens"] == ["HF_TOKEN"]  # the name alone
    written = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hf_of_the_second" in path.read_bytes()]


@pytest.mark.usefixtures("tidy")
def test_a_dispatcher_that_fails_is_no_secret(
    home: Path, tiny_folder: Path, rows: Rows, ftg: Ftg
) -> None:
    """Jobs that wait say what it has died of, and where that is written; doctor does too. A pause
    that is under way can be taken back."""
    with slots_taken(home):
        job = submit(tiny_folder, rows(12))
        log = home / "locks" / f"{LOCK}.log"
        assert not fault(home / "locks")
        assert kill_worker(until(lambda: dispatchers(home), 20)[0])
        log.write_text('Traceback (most recent call last):\n  File "x", line 1\nKeyError: 5\n')
        checks = json.loads(ftg("doctor", "--json").stdout)["checks"]
        [found] = [one for one in checks if one["name"] == "dispatcher"]
        assert found["state"] == "warning" and "KeyError: 5" in found["found"]
        assert "fails: KeyError: 5" in job.refresh().phase and str(log) in job.phase
        assert job.refresh().phase == states.WAITING  # another one lives, and is well
        held = try_lock(home / "runs" / job.id / "worker.lock")
        assert held is not None
        with Gateway().store.transaction() as db:
            db.execute("UPDATE runs SET status = 'running', pid = 1 WHERE id = ?", (job.id,))
        assert job.pause().phase == "pausing" and job.status is JobStatus.RUNNING
        assert job.resume().phase != "pausing" and row(home, job.id).pause_at is None
        unlock(held)
        job.cancel()


# arguments: file, model folder. Its fork lives on, as one of the user's own would.
FORKING = """
import os, sys, time
from finetune_gateway.gateway import Gateway
gateway = Gateway()
gateway.submit(sys.argv[1], model=sys.argv[2], backend="local", max_steps=1, lora_r=4)
if os.fork() == 0:
    print("ready", flush=True)
    time.sleep(600)
os.wait()
"""


@pytest.mark.usefixtures("tidy")
def test_a_fork_of_the_submitter_holds_no_lock(
    home: Path, tiny_folder: Path, train_file: Path
) -> None:
    """A job would seem to live for as long as it does."""
    with slots_taken(home):
        process = start(FORKING, train_file, tiny_folder)
        ready(process)
        [dispatcher] = until(lambda: dispatchers(home), 20)
        os.kill(dispatcher, signal.SIGKILL)
        until(lambda: not dispatchers(home), 10)
        assert not [lock for lock in home.rglob("*lock*") if lock.is_file() and is_locked(lock)]
        assert not is_locked(home / "locks" / LOCK)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


# -- what a submit may say -------------------------------------------------------------------


def test_what_is_no_priority_no_time_and_no_job_is_refused(
    home: Path, train_file: Path, ftg: Ftg
) -> None:
    """In words, before anything is stored."""
    past = datetime.now() - timedelta(days=1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"priority": "high"}, "priority cannot be 'high'"),
        ({"priority": True}, "priority cannot be True"),
        ({"priority": 10**9}, "priority cannot be 1000000000"),
        ({"at": "soon"}, "'soon' is no time"),
        ({"at": "25:00"}, "'25:00' is no time"),
        ({"at": float("nan")}, "is no time"),
        ({"at": past}, "is in the past"),
        ({"after": "ftg-none"}, "no job 'ftg-none'"),
        ({"after": 5}, "after is a list"),
    ]
    for options, said in wrong:
        with pytest.raises(Exception, match=said):
            Gateway().submit(train_file, model="builtin/tiny", backend="local", **options)
    failed = ftg("submit", str(train_file), "--model", "builtin/tiny", "--at", "soon")
    assert failed.returncode == 2 and "is no time" in failed.stderr and "18:30" in failed.stderr
    assert Gateway().jobs() == []


def test_a_place_without_a_line_refuses_what_it_cannot_do(home: Path, train_file: Path) -> None:
    """Before anything is stored; nor can a job be paused there."""
    later = datetime.now() + timedelta(hours=2)
    options: list[tuple[str, Any]] = [("priority", 1), ("at", later), ("at", "18:30")]
    for option, value in options:
        with pytest.raises(UnsupportedError, match=f"has no {option}"):
            Gateway().submit(train_file, model="m", backend="fake", **{option: value})
    hosted = Gateway().submit(train_file, model="m", backend="fake")
    with pytest.raises(SpecError, match="nobody here is told"):
        Gateway().submit(train_file, model="builtin/tiny", backend="local", after=hosted.id)


def test_a_job_is_paused_and_goes_on(home: Path, train_file: Path) -> None:
    """A paused job waits until it is resumed; then it waits in line again, and ends."""
    job = Gateway().submit(train_file, model="m", backend=FakeBackend())
    assert job.pause().status is JobStatus.PAUSED and job.resumable
    assert job.pause().status is JobStatus.PAUSED and job.refresh().status is JobStatus.PAUSED
    assert job.resume().status is JobStatus.QUEUED
    assert job.wait(20).status is JobStatus.SUCCEEDED


def test_a_time_of_day_is_the_next_one(home: Path, train_file: Path) -> None:
    """Of today, or of tomorrow."""
    from finetune_gateway.jobs.scheduling import schedule_of

    store = Gateway().store
    for minutes in (-2, 2):
        then = datetime.now() + timedelta(minutes=minutes)
        found = schedule_of(store, None, None, f"{then:%H:%M:%S}").start_at
        assert found is not None and 0 < found - time.time() <= 24 * HOUR
    zoned = schedule_of(store, 3, None, "2099-12-24T18:30+01:00")
    assert (zoned.priority, zoned.start_at) == (3, 4101816600.0)
