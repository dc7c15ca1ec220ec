"""How many jobs a process sends at once, and that none waits for its turn for good."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.chaos import ctrl_c_at_line
from support.forks import fork

from finetune_gateway import FakeBackend, Gateway, TrainingSpec
from finetune_gateway.backend import DataFile
from finetune_gateway.jobs import sending

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks, threads

MOST = 2


class Slow(FakeBackend):
    """Counts how many creates are on their way at once; ``meanwhile`` is called by each."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: time.sleep(0.03)) -> None:
        super().__init__()
        self.counted = threading.Lock()
        self.now = self.most = self.creates = 0
        self.meanwhile = meanwhile

    def start(
        self,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        with self.counted:
            self.now += 1
            self.creates += 1
            self.most = max(self.most, self.now)
        self.meanwhile()
        with self.counted:
            self.now -= 1
        return super().start(job_id, spec, train, validation, metadata=metadata)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, and patience without an end."""
    monkeypatch.setattr(sending, "MOST_AT_ONCE", MOST, raising=False)
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 100.0, raising=False)


def test_threads_send_a_few_jobs_at_once(home: Path, train_file: Path) -> None:
    """The others wait, without a lock or a connection, and each is sent."""
    gateway, backend = Gateway(), Slow()
    with ThreadPoolExecutor(6) as pool:
        jobs = pool.map(
            lambda seed: gateway.submit(train_file, model="m", backend=backend, seed=seed), range(6)
        )
        assert len({job.id for job in jobs}) == backend.creates == 6
    assert backend.most <= MOST


def test_a_submit_within_a_submit_has_its_turn(home: Path, train_file: Path) -> None:
    """Each of those that are sending submits another job before it goes on."""
    gateway, both = Gateway(), threading.Barrier(MOST)

    def another() -> None:
        both.wait(60)
        gateway.submit(train_file, model="m", backend="fake", again=True)

    backend = Slow(another)
    with ThreadPoolExecutor(MOST) as pool:
        submits = [
            pool.submit(gateway.submit, train_file, model="m", backend=backend, seed=seed)
            for seed in range(MOST)
        ]
        assert {one.result(60).status.final for one in submits} == {False}
    assert len(gateway.jobs()) == 2 * MOST


def test_what_waits_for_a_thread_in_the_line_is_no_deadlock(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing is sent, one more begins now and then."""
    monkeypatch.setattr(sending, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.05)
    gateway = Gateway()
    given: Any = {"model": "m", "backend": "fake", "again": True}

    def elsewhere() -> None:
        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(gateway.submit, train_file, **given) for _ in range(2)]
            assert len({one.result(60).id for one in others}) == 2

    gateway.submit(train_file, model="m", backend=Slow(elsewhere))
    assert len(gateway.jobs()) == 3


def test_a_fork_waits_for_no_turn_of_its_parent(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was sending at the moment of the fork is not there."""
    monkeypatch.setattr(sending, "MOST_AT_ONCE", 1)
    gateway, begun, finish = Gateway(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        finish.wait(60)

    backend = Slow(wait)
    with ThreadPoolExecutor(1) as pool:
        sender = pool.submit(gateway.submit, train_file, model="m", backend=backend)
        begun.wait(60)
        fork(lambda: Gateway().submit(train_file, model="m", backend="fake", seed=3))()
        finish.set()
        sender.result(60)
    assert len(gateway.jobs()) == 2


def test_ctrl_c_at_any_line_of_a_turn_keeps_no_turn() -> None:
    """Also as it ends, and for what its thread sends next: with as many turns that nobody has as
    there are, each submit waited until the patience ended."""
    limit = sending.SendingLimit()
    ended = False
    for number in itertools.count(1):
        with suppress(KeyboardInterrupt), ctrl_c_at_line(number):
            with limit.turn():
                assert len(limit._begun) == 1
            ended = True
        assert not limit._begun and not limit._waiting, number
        if ended:
            break
    assert number > 15  # lines
