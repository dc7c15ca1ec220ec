"""Two accounts at one home, each in processes of its own, with keys by value: whatever the order of
submit, kill and look, no job is in the wrong account and none that is paid "was never created"."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.forks import fork
from support.provider import CREATE, Provider

from finetune_gateway import Gateway, GatewayError, Job, JobStatus, OpenAIBackend
from finetune_gateway.jobs.budget import never_created

MODEL = "gpt-4.1-mini-2025-04-14"
MINE = "sk-test-0123456789abcdef"
THEIRS = "sk-test-other-6789abcdef"  # of another account
SETTLE = 0.3  # seconds
UPLOAD = "POST /files"

# Where a submitter is held, or what it meets there.
MOMENTS: dict[str, tuple[str, str]] = {
    "the file is sent": (UPLOAD, "late"),
    "the create is on its way": (CREATE, "slow"),
    "the job is there": (CREATE, "late"),
    "the answer is lost": (CREATE, "reset_after"),
    "it is turned away": (CREATE, "busy"),
}
LOOKS: dict[str, Callable[[Gateway, Job], object]] = {
    "status": lambda gateway, job: job.refresh(),
    "list": lambda gateway, job: gateway.refresh(gateway.jobs()),
    "wait": lambda gateway, job: job.wait(timeout=0.05),
    "resume": lambda gateway, job: job.resume(),
}
STEPS = ("submit", "kill", "look")
ORDERS = [("submit", *order) for order in itertools.product(STEPS, repeat=3)]


def side(provider: Provider, home: Path, key: str, form: str) -> tuple[Gateway, OpenAIBackend]:
    """A Gateway and a backend with this key by value: the backend has it, or the Gateway."""
    place: dict[str, Any] = {"base_url": provider.url, "profile": "custom"}
    timing: dict[str, Any] = {
        "request_timeout": 5.0,
        "settle_seconds": SETTLE,
        "poll_seconds": 0.005,
    }
    if form == "of the backend":
        return Gateway(home), OpenAIBackend(**place, **timing, api_key=key)
    host = provider.url.split("/")[2]
    return Gateway(home, keys={host: key}), OpenAIBackend(**place, **timing)


class Home:
    """A home folder that processes of two accounts share; ``moment``: where submitters are held."""

    def __init__(self, provider: Provider, folder: Path, file: Path, form: str) -> None:
        self.provider, self.folder, self.file, self.form = provider, folder, file, form
        self.submitters: list[int] = []
        self.before = len(provider.jobs)

    def jobs(self) -> list[Job]:
        return Gateway(self.folder).jobs() if self.folder.exists() else []

    def submit(self, moment: str) -> None:
        """Begin a process of the own account, and let it come to its moment, or to its end."""
        endpoint, kind = MOMENTS[moment]
        self.provider.faults.clear()
        self.provider.fault(endpoint, kind, seconds=0.2)

        def work() -> None:
            gateway, backend = side(self.provider, self.folder, MINE, self.form)
            gateway.submit(self.file, model=MODEL, backend=backend)

        submitter = os.fork()
        if submitter == 0:
            with suppress(BaseException):
                signal.alarm(60)
                work()
            os._exit(0)
        self.submitters.append(submitter)
        until(lambda: not self.provider.faults.get(endpoint) or self.ended(submitter))

    def ended(self, submitter: int) -> bool:
        """Return True for one that has ended, and is not waited for yet."""
        return bool(os.waitid(os.P_PID, submitter, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def kill(self) -> None:
        """kill -9 of the submitter that began first."""
        if self.submitters:
            submitter = self.submitters.pop(0)
            os.kill(submitter, signal.SIGKILL)
            os.waitpid(submitter, 0)

    def look(self, name: str) -> None:
        """Let a process of the other account do this with every job."""

        def work() -> None:
            gateway, backend = side(self.provider, self.folder, THEIRS, self.form)
            for known in gateway.jobs():
                job = gateway.job(known.id, backend=backend)
                with suppress(GatewayError):
                    LOOKS[name](gateway, job)

        fork(work)()

    def require_whole(self, said: object) -> None:
        """Each job is at the host at most once, in the account it was submitted for; one that is
        there has not ended here as one that never was."""
        bought: dict[str, str] = {}
        for job in self.provider.jobs[self.before :]:
            tag = job["request"]["metadata"]["ftg_job_id"]
            assert tag not in bought, (said, "bought twice")
            bought[tag] = job["account"]
        known = {job.id: job for job in self.jobs()}
        assert bought.keys() <= known.keys() and {*bought.values()} <= {"main"}, said
        for tag in bought:
            record = known[tag].record
            assert record.status is not JobStatus.FAILED, (said, record.error)
            assert not never_created(record), (said, record.step)

    def finish(self, said: object) -> None:
        """The own account comes back, and each of its jobs ends well, once."""
        for submitter in self.submitters:
            os.waitpid(submitter, 0)
        self.provider.faults.clear()

        def work() -> None:
            gateway, backend = side(self.provider, self.folder, MINE, self.form)
            gateway.submit(self.file, model=MODEL, backend=backend)
            for known in gateway.jobs():
                if known.status is not JobStatus.CANCELLED:
                    job = gateway.job(known.id, backend=backend)
                    assert job.wait(30).status is JobStatus.SUCCEEDED, job.error

        fork(work)()
        self.require_whole(said)
        assert Gateway(self.folder).budget().reserved_usd == 0, said


def follow(folder: Path, file: Path, cases: Iterable[tuple[tuple[str, ...], str, str]]) -> None:
    """Let each case happen in a home of its own: an order, a moment, and what the other does."""
    with Provider(steps=1, begins=1, keys={THEIRS: "other"}) as provider:
        gateway, backend = side(provider, folder / "first", MINE, FORMS[0])
        gateway.submit(file, model=MODEL, backend=backend).wait(30)  # imports what forks need
        gateway.close()
        for number, case in enumerate(cases):
            order, moment, look = case
            form = FORMS[number % len(FORMS)]
            home = Home(provider, folder / f"home-{number}", file, form)
            for step in order:
                if step == "submit":
                    home.submit(moment)
                elif step == "kill":
                    home.kill()
                else:
                    home.look(look)
                home.require_whole((case, form, step))
            home.finish((case, form))
        assert {job["account"] for job in provider.jobs} == {"main"}


FORMS = ("of the backend", "of the Gateway")


def test_some_orders_of_two_processes(tmp_path: Path, train_file: Path) -> None:
    """A submitter that is killed before and after the other account looks, while its create is on
    its way, and once it is there."""
    orders = [("submit", "look", "kill", "look"), ("submit", "kill", "look", "submit")]
    moments = ("the create is on its way", "the job is there")
    follow(tmp_path, train_file, zip(orders, moments, ("wait", "resume"), strict=True))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("moment", MOMENTS)
def test_all_orders_of_two_processes(tmp_path: Path, train_file: Path, moment: str) -> None:
    """All orders of three after a first submit, with every look."""
    orders = [order for order in ORDERS if "look" in order]
    follow(tmp_path, train_file, itertools.product(orders, [moment], LOOKS))
