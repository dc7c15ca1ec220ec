"""How long ``ftg status``, ``list`` and the first screen of ``watch`` take where there is much.

A home with 2,000 jobs, the newest of which has told 100,000 events, against one with a single job
of a few: whole processes in turn. ``watch`` is on a terminal until its first screen is drawn, for
a job that has ended. The bounds: at most 3 times the seconds, and at most 120 MB more at the peak.
"""

from __future__ import annotations

import os
import pty
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from _common import MAXRSS_BYTES, Bench, Process, alternate, arguments, run, say, versions

SECONDS, MEGABYTES = 3.0, 120.0
# In a process of its own: what it imports would count as memory of the measured ones.
MADE = """
import json, sys, time
from pathlib import Path
from finetune_gateway.events import Event, JobStatus, Snapshot
from finetune_gateway.jobs.records import JobRecord, StoredFile, new_job_id
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

home, jobs, events = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store(Settings(home=home))
train = StoredFile(path=str(home / "train.jsonl"), sha256="0" * 64, rows=100, bytes=1000)
spec = TrainingSpec(model="builtin/tiny")

def record(number):
    return JobRecord(
        id=new_job_id(), created_at=time.time(), name="train.jsonl", backend="local",
        backend_options={}, hosted=False, spec=spec, train=train, submit_key=new_job_id(),
        step="sent", step_at=time.time(), provider_id=f"run-{number}", status="succeeded",
        finished_at=time.time(), seconds=60.0,
        result={"kind": "adapter", "model": str(home / "model")},
    )

def event(job, step):
    loss = 4 / (step + 1) ** 0.2
    data = {"step": step, "total_steps": events, "train_loss": loss, "learning_rate": 1e-4,
            "grad_norm": 0.8, "epoch": step / events, "trained_tokens_per_second": 1234.5,
            "memory_bytes": 412345678, "seconds_left": 12.5, "trained_tokens": 100 * step}
    if step % 100 == 0:
        data["valid_loss"] = loss + 0.1
    message = f"Step {step}/{events}: train_loss={loss:.4f}"
    return (job, f"{job}-1-{step}", time.time(), "info", "metrics", message, json.dumps(data))

for number in range(jobs):
    job, _ = store.add(record(number))
with store.transaction() as db:
    db.executemany(
        "INSERT INTO events (job_id, event_id, created_at, level, type, message, data)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event(job.id, step) for step in range(1, events + 1)),
    )
"""


def main() -> int:
    asked = arguments(__doc__, runs=7, jobs=2000, events=100_000)
    bench = Bench("many_jobs", versions("finetune-gateway", "pydantic", "rich"))
    with TemporaryDirectory() as name:
        homes = {"many": (asked.jobs, asked.events), "few": (1, 3)}
        envs = {
            home: {**os.environ, "FTG_HOME": str(Path(name) / home), "TERM": "xterm"}
            for home in homes
        }
        for home, (jobs, events) in homes.items():
            began = time.perf_counter()
            run([sys.executable, "-c", MADE, envs[home]["FTG_HOME"], str(jobs), str(events)])
            say(f"{home}: {jobs} jobs, {events} events in {time.perf_counter() - began:.0f} s")
        commands: dict[str, Callable[[Mapping[str, str]], Process]] = {
            "status": partial(told, ["status", "latest"]),
            "list": partial(told, ["list"]),
            "list_all": partial(told, ["list", "--all"]),
            "watch": on_screen,
        }
        for command, measure in commands.items():
            sides = {home: partial(measure, env) for home, env in envs.items()}
            for side in sides.values():
                side()  # fills the caches
            found = alternate(sides, asked.runs)
            judge(bench, command, found["many"], found["few"])
    return bench.end(asked.out)


def judge(bench: Bench, command: str, many: list[Process], few: list[Process]) -> None:
    """Print the figures of a command; a list of all jobs is as long as they are many."""
    bound = None if command == "list_all" else SECONDS

    def both(value: Callable[[Process], float]) -> tuple[list[float], list[float]]:
        return [value(one) for one in many], [value(one) for one in few]

    ours, theirs = both(lambda one: one.wall)
    bench.figure(f"{command}_wall", ours, theirs, "s", at_most=bound)
    ours, theirs = both(lambda one: one.cpu)
    bench.figure(f"{command}_cpu", ours, theirs, "s")
    ours, theirs = both(lambda one: one.peak_mb)
    bench.figure(f"{command}_peak", ours, theirs, "MB")
    more = median(ours) - median(theirs)
    say(f"{command}: {more:.0f} MB more at the peak, at most {MEGABYTES:.0f}")
    if bound and more > MEGABYTES:
        bench.missed.append(f"{command}_peak")


def told(words: list[str], env: Mapping[str, str]) -> Process:
    return run([sys.executable, "-m", "finetune_gateway", *words], env)


def on_screen(env: Mapping[str, str]) -> Process:
    """``ftg watch`` of the newest job, on a terminal, up to its end."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "finetune_gateway", "watch", "latest"]
        os.execve(sys.executable, command, dict(env))
    out = b""
    while part := _read(terminal):
        out += part
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    os.close(terminal)
    text = out.decode("utf-8", "replace")
    if os.waitstatus_to_exitcode(status) or "train_loss" not in text:
        raise SystemExit(f"ftg watch ended with {status}:\n{text[-2000:]}")
    peak = used.ru_maxrss * MAXRSS_BYTES / 1e6
    return Process(wall, used.ru_utime + used.ru_stime, peak, text, "")


def _read(terminal: int) -> bytes:
    """Return what comes from a terminal; nothing once its other end is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main())
