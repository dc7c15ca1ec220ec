"""Random sequences of what people do, at a host that fails: what must hold after each of them.

A sequence is made from its seed. If one fails, the message has all that happened in it, and
``SEQUENCE=17 pytest tests/jobs/test_sequences.py -k one`` runs that one again.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.chaos import MODEL
from support.interrupts import press_ctrl_c
from support.provider import CREATE, Fault, Provider
from typer.testing import CliRunner

from finetune_gateway import Gateway, JobStatus, OpenAIBackend
from finetune_gateway.cli.run import build_app
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import RANK
from finetune_gateway.jobs.job import Job

# Ctrl-C at any moment may fall into a callback, whose exceptions Python only reports, or between
# the making of a socket and its owner.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
JOBS = "/fine_tuning/jobs"
ONCE = {"x-should-retry": "false"}  # else a read waits before it is repeated
WORLDS: list[dict[str, Any]] = [
    {},
    {"metadata": "null"},
    {"metadata": "empty", "honours_filter": False},
    {"metadata": "null", "hides": ("training_file",)},
    {"metadata": "null", "jobs_newest_first": False},
    {"jobs_newest_first": False, "honours_after": False, "honours_filter": False, "page_size": 2},
    {"honours_filter": False, "page_size": 1},
    {"list_lag": 0.1},
    {"running_limit": 1, "retry_after": "0", "pace": 0.02},
    {"running_limit": 2, "pace": 0.02},
]
SENDING = ["POST /files", CREATE, CREATE, CREATE]
READING = [
    "GET /files", f"GET {JOBS}", f"GET {JOBS}", f"GET {JOBS}/*", f"GET {JOBS}/*/events",
    f"POST {JOBS}/*/cancel",
]  # fmt: skip
KINDS = [
    Fault("status", status=503, headers=ONCE), Fault("status", status=500, headers=ONCE),
    Fault("status", status=429, headers={**ONCE, "Retry-After": "0"}), Fault("html_ok"),
    Fault("truncated"), Fault("error_after", headers=ONCE),
]  # fmt: skip
LOST = [Fault("reset_before"), Fault("reset_after"), Fault("late", seconds=0.35)]
SETTLE = 0.5  # longer than any request here can take effect


class Interrupting(Provider):
    """A provider that presses Ctrl-C here as it receives its n-th request from now."""

    interrupt_at = 0

    def count(self, method: str, path: str, headers: dict[str, str]) -> None:
        super().count(method, path, headers)
        with self.lock:
            self.interrupt_at -= 1
            now = self.interrupt_at == 0
        if now:
            press_ctrl_c()


class Sequence:
    """One home, its copies and a host; what was done so far, and what is known to be so."""

    def __init__(self, seed: int, folder: Path, train_file: Path, provider: Interrupting) -> None:
        self.draw = random.Random(seed)
        self.folder, self.train_file, self.provider = folder, train_file, provider
        self.home = folder / "home"
        self.gateways = [Gateway(self.home), Gateway(self.home)]
        self.copies = 0
        self.lost: dict[str, object] = {}  # jobs that a restored store does not know, by their kind
        self.ours: set[str] = set()  # jobs that we have cancelled
        self.seen: dict[str, tuple[JobStatus, str | None]] = {}
        self.told: list[str] = []

    # -- what people do ----------------------------------------------------------------------

    def submit(self, **options: Any) -> None:
        """Submit one of three jobs, so that most are submitted more than once."""
        hosted = OpenAIBackend(
            base_url=self.provider.url,
            profile="custom",
            api_key_env="SEQUENCE_KEY",
            request_timeout=0.3,
            settle_seconds=SETTLE,
            poll_seconds=0.01,
        )
        given = {"model": MODEL, "backend": hosted, "seed": self.draw.randrange(3), **options}
        self._gateway().submit(self.train_file, **given)

    def again(self) -> None:
        """Ask for another job of the same kind."""
        self.submit(again=True)

    def wait(self) -> None:
        self._job().wait(timeout=self.draw.choice((0.0, 0.2)))

    def result(self) -> None:
        self._job().result(timeout=0.2)

    def refresh(self) -> None:
        self._job().refresh()

    def watch(self) -> None:
        list(self._job().watch(0.1))

    def read(self) -> None:
        """What looks at the store alone."""
        job = self._job()
        assert job.events() is not None and job.metrics() is not None
        job.checkpoints()

    def command(self) -> None:
        """One of the commands that look."""
        name = self._job().id
        words = {"status": [name], "list": ["--refresh"], "events": [name], "metrics": [name]}
        command = self.draw.choice([*words])
        done = CliRunner().invoke(build_app(command), words[command])
        if isinstance(done.exception, KeyboardInterrupt):
            raise done.exception
        crashed = done.exception and not isinstance(done.exception, SystemExit | GatewayError)
        assert not crashed, (command, done.exception)

    def cancel(self) -> None:
        job = self._job()
        job.cancel()
        self.ours.add(job.id)

    def settle(self) -> None:
        """A person who has looked at the host says what is there."""
        self.settle_job(self._job())

    def settle_job(self, job: Job) -> None:
        """Say what the host has of a job."""
        taken = {other.provider_id for other in Gateway(self.home).jobs()}
        ours = [one["id"] for one in self.provider.jobs if tag_of(one) == job.id]
        bought = [name for name in ours if name not in taken]
        job.settle(created=bought[0] if bought else None)

    def restart(self) -> None:
        """Other processes on the same home."""
        self.gateways = [Gateway(self.home), Gateway(self.home)]

    def copy(self) -> None:
        """Make a copy of the home."""
        self._close()
        self.copies += 1
        shutil.copytree(self.home, self.folder / f"copy-{self.copies}")
        self.restart()

    def restore(self) -> None:
        """Put a copy in the place of the home; what came after it is unknown now."""
        if self.copies:
            # What was created after the copy is in the host's lists by now; before that, nobody
            # could know of it (docs/jobs.md).
            time.sleep(self.provider.world.list_lag)
            known = {job.id: self.kind_of(job) for job in self.gateways[0].jobs()}
            self._close()
            shutil.rmtree(self.home)
            number = self.draw.randrange(self.copies) + 1
            shutil.copytree(self.folder / f"copy-{number}", self.home)
            self.restart()
            self.lost |= known
            for job in self.gateways[0].jobs():
                self.lost.pop(job.id, None)
            self.seen.clear()
            self.ours.clear()

    def pause(self) -> None:
        """Do something else for a while."""
        time.sleep(self.draw.choice((0.1, SETTLE)))

    def _gateway(self) -> Gateway:
        return self.draw.choice(self.gateways)

    def _job(self) -> Job:
        """Return a job that is known, the latest ones more often."""
        jobs = self._gateway().jobs()
        if not jobs:
            raise GatewayError("There is no job yet.")
        return jobs[min(self.draw.randrange(4), len(jobs) - 1)]

    def _close(self) -> None:
        for gateway in self.gateways:
            gateway.store.close()

    # -- what must hold ----------------------------------------------------------------------

    def step(self, *, timed: bool) -> None:
        """Do one thing, now and then with faults or Ctrl-C, and check what must hold."""
        name = self.draw.choices([*ACTIONS], [*ACTIONS.values()])[0]
        faults = self._faults()
        stop = self.draw.choice(("request", "moment")) if self.draw.random() < 0.15 else ""
        stop = "" if name in ("copy", "restore") else stop  # half a copy is no copy
        creates, late = self.provider.posts[JOBS], self.provider.given_up[JOBS]
        told = f"{name} {faults} {stop}"
        try:
            with self._interrupted(stop if timed else stop and "request"):
                getattr(self, name)()
        except (GatewayError, KeyboardInterrupt) as exc:
            told += f" -> {type(exc).__name__}: {exc}"
        self.provider.faults.clear()
        sent = self.provider.posts[JOBS] - creates
        # On a busy machine a host may read only now what an earlier action sent and gave up.
        late = self.provider.given_up[JOBS] - late
        self.told.append(f"{told} [{sent} creates, {late} of them given up]")
        assert sent <= late or name in ASKING, f"{name} bought a job"
        self.check()

    def _faults(self) -> str:
        found = []
        if self.draw.random() < 0.5:
            for _ in range(self.draw.choice((1, 1, 2, 3))):
                place = self.draw.choice(SENDING + READING)
                fault = self.draw.choice(KINDS + LOST if place in SENDING else KINDS)
                self.provider.fault(place, fault)
                found.append(f"{place} {fault.kind} {fault.status}")
        return str(found) if found else ""

    @contextmanager
    def _interrupted(self, how: str) -> Iterator[None]:
        """Press Ctrl-C in the middle of a block, at a request or at any moment."""
        timer = threading.Timer(self.draw.uniform(0.001, 0.15), press_ctrl_c)
        if how == "request":
            self.provider.interrupt_at = self.draw.randrange(1, 5)
        if how == "moment":
            timer.start()
        try:
            yield
        finally:
            self.provider.interrupt_at = 0
            timer.cancel()
            if how == "moment":
                timer.join()

    def check(self) -> None:
        """Hold the store against the host."""
        jobs = {job.id: job for job in Gateway(self.home).jobs()}
        records = {name: job.record for name, job in jobs.items()}
        asked = Counter(map(self.kind_of, jobs.values())) + Counter(self.lost.values())
        bought = Counter(map(self.kind_at, self.provider.jobs))
        assert bought <= asked, f"bought more than was asked for: {bought}, {asked}"
        held = {job.provider_id: job for job in jobs.values() if job.provider_id}
        assert len(held) == sum(job.provider_id is not None for job in jobs.values())
        for there in self.provider.jobs:
            kind, holder = self.kind_at(there), held.get(there["id"])
            if holder is not None:
                assert self.kind_of(holder) == kind, f"{holder.id} is another's job"
                continue
            open_ones = [job for job in jobs.values() if self.kind_of(job) == kind]
            told = [
                job for job in open_ones if not job.status.final and "ftg" in job.record.outlook
            ]
            assert told or kind in self.lost.values(), f"{there['id']} is paid and out of reach"
        for record in records.values():
            status, provider_id = self.seen.get(record.id, (record.status, None))
            assert RANK[record.status] >= RANK[status] and not (
                status.final and record.status != status
            ), f"{record.id} went from {status} to {record.status}"
            assert provider_id in (None, record.provider_id), f"{record.id} changed its job"
            self.seen[record.id] = (record.status, record.provider_id)
            if record.status is JobStatus.FAILED:
                assert "Nothing was sent" in str(record.error), f"it has failed: {record.error}"

    def kind_of(self, job: Job) -> object:
        """What tells a job of ours from others: its id; its seed where hosts keep no tags, for
        there one of two equal jobs may be taken for the other."""
        return job.record.spec.seed if self.tagless else job.id

    def kind_at(self, job: dict[str, Any]) -> object:
        """Return the kind of a job of the provider."""
        return job["request"]["seed"] if self.tagless else tag_of(job)

    @property
    def tagless(self) -> bool:
        return self.provider.world.metadata != "kept"

    def end(self) -> None:
        """With a host that works again, each job ends as it should, or a person settles it."""
        self.provider.faults.clear()
        self.told.append("the end")
        time.sleep(SETTLE)
        for job in reversed(Gateway(self.home).jobs()):
            for _ in range(4):
                try:
                    job.wait(timeout=5)
                    break
                except GatewayError as exc:
                    self.told.append(f"wait for {job.id} -> {type(exc).__name__}: {exc}")
                    if f"ftg settle {job.id}" in str(exc):
                        self.settle_job(job)
            self.check()
            expected = {JobStatus.SUCCEEDED}
            if job.id in self.ours:
                expected.add(JobStatus.CANCELLED)
            ended = job.status in expected or "Nothing was sent" in str(job.error)
            assert ended or job.status is JobStatus.CANCELLED, f"{job.id} is {job.status}"

    def story(self) -> str:
        """Return what was done, line by line."""
        return "\n".join(f"{number:3}. {line}" for number, line in enumerate(self.told, 1))


# What is done, and how often.
ACTIONS = {
    "submit": 6, "again": 1, "wait": 4, "result": 1, "refresh": 3, "watch": 2, "read": 1,
    "command": 2, "cancel": 1, "settle": 1, "restart": 1, "copy": 1, "restore": 1, "pause": 2,
}  # fmt: skip
ASKING = {"submit", "again", "wait", "result"}


def tag_of(job: dict[str, Any]) -> str:
    """The id that we gave a job, whether or not the host shows it."""
    return str(job["request"]["metadata"]["ftg_job_id"])


@pytest.fixture
def run(
    tmp_path: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Sequence]:
    """``run(seed, steps)``: one sequence to its end."""

    def run(seed: int, steps: int, *, timed: bool = False) -> Sequence:
        folder = tmp_path / str(seed)
        folder.mkdir()
        monkeypatch.setenv("FTG_HOME", str(folder / "home"))
        world = WORLDS[seed % len(WORLDS)]
        with Interrupting(steps=2, **world) as provider:
            monkeypatch.setenv("SEQUENCE_KEY", provider.api_key)
            sequence = Sequence(seed, folder, train_file, provider)
            try:
                for _ in range(steps):
                    sequence.step(timed=timed)
                sequence.end()
            except AssertionError as exc:
                what = f"sequence {seed}, a host with {world}:\n{sequence.story()}"
                raise AssertionError(f"{exc}\nin {what}") from exc
        shutil.rmtree(folder)
        return sequence

    return run


def test_nothing_is_bought_unasked_or_twice(run: Callable[..., Sequence]) -> None:
    """A short sequence at each of two kinds of hosts."""
    for seed in (3, 9):
        run(seed, 6)


def test_what_a_busy_host_reads_late_is_no_later_action() -> None:
    """A sequence may not blame the next action for it."""
    with Interrupting() as provider:
        split = urlsplit(provider.url)
        head = f"POST /v1{JOBS} HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{{}}"
        with provider.lock, socket.create_connection((split.hostname, split.port)) as gone:
            gone.sendall(head.encode())
        with pytest.raises(httpx.HTTPStatusError):
            httpx.post(f"{provider.url}{JOBS}", json={}).raise_for_status()
        while provider.posts[JOBS] < 2:
            time.sleep(0.01)
        assert provider.given_up[JOBS] == 1


@pytest.mark.skipif("SEQUENCE" not in os.environ, reason="SEQUENCE names none")
def test_one_sequence(run: Callable[..., Sequence]) -> None:
    """The one with the seed in SEQUENCE, of SEQUENCE_STEPS steps."""
    steps = int(os.environ.get("SEQUENCE_STEPS", "20"))
    print(run(int(os.environ["SEQUENCE"]), steps, timed=steps > 6).story())


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_two_hundred_sequences(run: Callable[..., Sequence], first: int) -> None:
    """Longer ones, and Ctrl-C at any moment: 0 jobs bought by a look, a cancel or an abort."""
    figures: Counter[str] = Counter()
    for seed in range(first, first + 50):
        sequence = run(seed, 20, timed=True)
        figures["actions"] += len(sequence.told)
        figures["aborts"] += sum("KeyboardInterrupt" in line for line in sequence.told)
        figures["doubts"] += sum("ftg settle" in line for line in sequence.told)
        figures["creates"] += sequence.provider.posts[JOBS]
        figures["bought"] += len(sequence.provider.jobs)
    print(f"\n50 sequences: {dict(figures)}, 0 of them bought unasked or twice")
