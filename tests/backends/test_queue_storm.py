"""The storm over the line of local jobs: 40 jobs, 60 things that happen to a machine, and in the
end each job has ended as it should, in order, once, and with the bytes of one that nothing met.

``FTG_STORM_SEED`` (0) draws another storm, ``FTG_STORM_FAULTS`` (60) and ``FTG_STORM_JOBS`` (40)
a shorter one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.chaos import DISPATCHER, WORKER, data_file, lives, until
from support.machine import CLOCK, Machine, machine

__all__ = ["machine"]

SEED = int(os.environ.get("FTG_STORM_SEED", "0"))
FAULTS = int(os.environ.get("FTG_STORM_FAULTS", "60"))
JOBS = int(os.environ.get("FTG_STORM_JOBS", "40"))
STEPS = {"short": 2, "middle": 20, "long": 60}  # of the jobs, by their size
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Wanted:
    """A job, and how it should end."""

    id: str
    size: str
    after: str | None = None
    ends: str = "succeeded"


@dataclass
class Storm:
    """The jobs of a machine, and who is to be paused, resumed and cancelled."""

    machine: Machine
    draw: random.Random
    file: Path
    model: Path
    jobs: dict[str, Wanted] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)

    # -- jobs ------------------------------------------------------------------------------

    def submit(self, size: str, *more: object, after: str | None = None) -> Wanted:
        words: list[object] = ["submit", self.file, "--model", self.model, "--again", "-q"]
        words += ["--backend", "local", "--seed", 1, "--set", f"max_steps={STEPS[size]}"]
        words += ["--set", "lora_r=4", "--set", "batch_size=4", "--set", "save_steps=5"]
        words += ["--after", after] if after else []
        found = Wanted(self.machine.ftg(*words, *more).stdout.strip(), size, after)
        self.jobs[found.id] = found
        return found

    def submit_one(self) -> None:
        """A job of any kind; some begin after another one, and inherit its end."""
        size = self.draw.choice(["short", "short", "short", "middle", "middle", "long"])
        priority = self.draw.choice([-1, 0, 0, 0, 5])
        after = None
        if self.draw.random() < 0.2:  # one that has failed, or was cancelled, is refused
            ended = {"failed", "cancelled"}
            names = [row["id"] for row in self.machine.rows() if row["status"] not in ended]
            after = self.draw.choice(names) if names else None
        self.submit(size, "--priority", priority, after=after)

    def cancel_one(self) -> None:
        name = self.live()
        if name and self.machine.ftg("cancel", "--yes", name, check=False).returncode == 0:
            self.jobs[name].ends = "cancelled"

    def pause_one(self) -> None:
        name = self.live()
        if name:
            self.machine.ftg("pause", name, check=False)

    def resume_one(self) -> None:
        names = [row["id"] for row in self.machine.rows() if row["status"] == "paused"]
        if names:
            self.machine.ftg("resume", self.draw.choice(names), check=False)

    def live(self) -> str | None:
        """One of the jobs that has not ended, the running one as often as the others together."""
        rows = [row for row in self.machine.rows() if row["status"] in ("queued", "running")]
        running = [row["id"] for row in rows if row["status"] == "running"]
        waiting = [row["id"] for row in rows if row["status"] == "queued"]
        kinds = [names for names in (running, waiting) if names]
        return self.draw.choice(self.draw.choice(kinds)) if kinds else None

    # -- what happens ----------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], object]]:
        machine = self.machine
        found: dict[str, Callable[[], object]] = {
            "SIGTERM to all": lambda: machine.signal(signal.SIGTERM),
            "SIGHUP to all": lambda: machine.signal(signal.SIGHUP),
            "kill -9 of all": machine.kill,
            "kill -9 of the worker": lambda: machine.kill(WORKER),
            "kill -9 of the dispatcher": lambda: machine.kill(DISPATCHER),
            "SIGSTOP of all": lambda: self.stop(WORKER, DISPATCHER),
            "SIGSTOP of the worker": lambda: self.stop(WORKER),
            "reboot": machine.reboot,
            "disk full": self.full,
            "home moved": lambda: machine.move(sum(self.happened.values())),
            "cancel": self.cancel_one,
            "pause": self.pause_one,
            "resume": self.resume_one,
        }
        if CLOCK.exists():
            found["clock moved"] = lambda: machine.set_clock(self.draw.randint(-30, 30))
        return found

    def stop(self, *modules: str) -> None:
        self.machine.signal(signal.SIGSTOP, *modules)
        time.sleep(self.draw.uniform(0, 4))
        self.machine.signal(signal.SIGCONT, *modules)

    def full(self) -> None:
        with self.machine.full():
            time.sleep(self.draw.uniform(0, 4))
            self.machine.ftg("list", check=False)

    def one(self) -> None:
        faults = self.faults()
        name = self.draw.choice([*faults])
        print(f"{time.monotonic():.1f} {name}", flush=True)
        faults[name]()
        self.happened[name] += 1
        time.sleep(self.draw.uniform(0, 6))
        self.machine.ftg("resume", "--all", check=False)

    # -- the end ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Nothing happens any more: what a user does then, until every job has ended."""
        self.machine.set_clock(0)
        self.machine.ftg("list")
        deadline = time.monotonic() + 600 + 30 * len(self.jobs)
        while left := [row for row in self.machine.rows() if self.is_left(row)]:
            found = [(row["id"], row["status"], row["phase"], row["error"]) for row in left]
            assert time.monotonic() < deadline, found
            for row in left:
                if row["status"] == "failed":
                    print(f"{row['id']}: {row['error'][:200]}", flush=True)
                if row["status"] in ("paused", "failed"):
                    self.machine.ftg("resume", row["id"])
            self.machine.ftg("list")
            time.sleep(1)

    def is_left(self, row: dict[str, Any]) -> bool:
        """Return True for a job that has not ended, or of which the error says that it can go on:
        the disk was full, or its workers were killed again and again. Who has waited for it is
        resumed after it."""
        job = self.jobs.get(row["id"])
        if row["status"] not in ENDED or job is None or row["status"] != "failed":
            return row["status"] not in ENDED
        if job.after is not None and row["fence"] == 0:
            return self.end_of(job.after) == "succeeded"
        return job.ends == "succeeded" and "ftg resume" in (row["error"] or "")

    def end_of(self, name: str) -> str:
        """How a job should end: who waits for one that ends otherwise fails."""
        job = self.jobs[name]
        if job.ends == "succeeded" and job.after and self.end_of(job.after) != "succeeded":
            return "failed"
        return job.ends

    def bytes_of(self, name: str) -> bytes:
        model = self.machine.home / "runs" / name / "model" / "adapter_model.safetensors"
        return model.read_bytes()


class Order(threading.Thread):
    """Looks who begins, and whether somebody else was before it in line; and whether two train."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self.machine, self.ended = machine, threading.Event()
        self.begun: list[str] = []
        self.passed_over: list[tuple[str, str]] = []
        self.together: list[list[str]] = []
        self.ready: dict[str, float] = {}  # since when nothing but a slot is missing

    def run(self) -> None:
        before: set[str] = set()
        while not self.ended.wait(0.15):
            rows = {row["id"]: row for row in self.machine.rows()}
            for name, row in rows.items():
                if _has_begun(row) and name not in before:
                    self._first(rows, name)
                    before.add(name)
            self._ready(rows)
            pids = {name: row["pid"] for name, row in rows.items() if row["pid"]}
            both = [name for name, pid in pids.items() if lives(pid) and _is_worker(pid, name)]
            if len(both) > 1:
                self.together.append(both)

    def _first(self, rows: dict[str, dict[str, Any]], name: str) -> None:
        """A run has its first worker: who was ready for two seconds, and is before it in line?"""
        self.begun.append(name)
        since = time.monotonic() - 2
        mine = -rows[name]["priority"], rows[name]["seq"]
        for other, moment in self.ready.items():
            row = rows.get(other)
            if (
                row
                and not _has_begun(row)
                and moment < since
                and (-row["priority"], row["seq"]) < mine
            ):
                self.passed_over.append((name, other))

    def _ready(self, rows: dict[str, dict[str, Any]]) -> None:
        status = {name: row["status"] for name, row in rows.items()}
        now = {
            name
            for name, row in rows.items()
            if row["status"] == "queued"
            and not (_has_begun(row) or row["pause_at"] or row["cancel_at"] or row["start_at"])
            and all(status.get(one) == "succeeded" for one in json.loads(row["after"] or "[]"))
        }
        for name in [name for name in self.ready if name not in now]:
            del self.ready[name]
        for name in now:
            self.ready.setdefault(name, time.monotonic())


def _has_begun(row: dict[str, Any]) -> bool:
    """Return True for a run that has or had a worker; a resume has a new fence without one."""
    return bool(row["pid"] or row["attempts"] or row["slot"])


def _is_worker(pid: int, run_id: str) -> bool:
    with suppress(psutil.Error):
        return run_id in psutil.Process(pid).cmdline()
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, bytes]:
    """The bytes of a job of each size that nothing has met."""
    disk = tmp_path_factory.mktemp("undisturbed")
    storm = Storm(Machine(disk), random.Random(0), data_file(disk, 1), tiny_folder)
    for size in STEPS:
        storm.submit(size)
    storm.settle()
    found = {job.size: storm.bytes_of(job.id) for job in storm.jobs.values()}
    storm.machine.kill()
    return found


@pytest.mark.chaos
@pytest.mark.timeout(5400)
def test_a_storm_over_the_line(
    machine: Machine, tiny_folder: Path, undisturbed: dict[str, bytes]
) -> None:
    """Whatever happens: each job ends as it should, in order, once, with the bytes of one that
    nothing met, and no command ends in a traceback."""
    print(f"FTG_STORM_SEED={SEED}, {JOBS} jobs, {FAULTS} faults", flush=True)
    draw = random.Random(SEED)
    storm = Storm(machine, draw, data_file(machine.disk, 1), tiny_folder)
    order = Order(machine)
    order.start()
    for _ in range(JOBS // 4):
        storm.submit_one()
    for number in range(FAULTS):
        storm.one()
        while len(storm.jobs) - JOBS // 4 < (JOBS - JOBS // 4) * (number + 1) / FAULTS:
            storm.submit_one()
    storm.settle()
    order.ended.set()
    order.join()

    rows = {row["id"]: row for row in machine.rows()}
    ends = {name: storm.end_of(name) for name in storm.jobs}
    wrong = {
        name: (ends[name], row["status"], row["error"])
        for name, row in rows.items()
        if row["status"] != ends[name]
    }
    unequal = [
        name
        for name, job in storm.jobs.items()
        if rows[name]["status"] == "succeeded" and storm.bytes_of(name) != undisturbed[job.size]
    ]
    print(dict(storm.happened), Counter(row["status"] for row in rows.values()))
    print(f"workers: {sum(row['fence'] for row in rows.values())}, unequal: {len(unequal)}")
    assert rows.keys() == storm.jobs.keys()
    assert not wrong and not unequal, (wrong, unequal)
    assert not order.passed_over and not order.together, (order.passed_over, order.together)
    assert len(order.begun) == len({*order.begun})
    until(lambda: not machine.processes(), 30, 0.1)
