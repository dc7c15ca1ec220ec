"""Why a worker died: its signal, its log, the kernel's word. How often it may, without progress."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import end_workers, ended, kill_worker, row, slots_taken, until
from support.cli import Ftg
from support.saves import SMALL
from support.sleepers import Home

from finetune_gateway import Gateway, JobFailed, JobStatus
from finetune_gateway.backends.local import deaths
from finetune_gateway.backends.local.deaths import Kernel
from finetune_gateway.backends.local.queue import MAX_ATTEMPTS
from finetune_gateway.settings import processes

PYTHON = (sys.executable, "-I", "-S", "-c")
Rows = Callable[[int], list[dict[str, Any]]]


# -- what shows it, of real processes and a kernel's files ------------------------------------


class Died:
    """A run folder, the files of a kernel, and a process that is started there and dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.kernel = Kernel(folder / "vmstat", folder / "own", folder / "groups", folder / "kmsg")
        self.group = folder / "groups" / "jobs" / "memory.events"
        self.count(3)

    def count(self, kills: int) -> None:
        self.kernel.vmstat.write_text(f"pgfault 9\noom_kill {kills}\n")

    def count_group(self, kills: int) -> None:
        self.kernel.own_group.write_text("0::/jobs\n")
        self.group.parent.mkdir(parents=True, exist_ok=True)
        self.group.write_text(f"low 0\noom 1\noom_kill {kills}\noom_group_kill 0\n")

    def start(self, script: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
        deaths.begin(self.folder, self.kernel)
        with (self.folder / deaths.LOG).open("ab") as log:
            return subprocess.Popen([*PYTHON, script], stderr=log, stdout=log)

    def find(self, process: subprocess.Popen[bytes], number: int = 0) -> deaths.Death:
        if number:
            process.send_signal(number)
        return deaths.find(self.folder, process.wait(30), process.pid, self.kernel)


@pytest.fixture
def died(tmp_path: Path) -> Died:
    return Died(tmp_path)


def test_a_kill_by_somebody_is_no_lack_of_memory(died: Died) -> None:
    """Whatever the log has said before, and although the kernel has killed others before."""
    (died.folder / deaths.LOG).write_text("numpy: Unable to allocate 3 GiB\n")
    found = died.find(died.start("print('out of memory', flush=1); input()"), signal.SIGKILL)
    assert (found.code, found.memory) == (-signal.SIGKILL, "")
    said = deaths.sentence(found)
    assert "killed by SIGKILL. Nothing here shows that memory ran out." in said
    assert "Somebody, or a limit of this machine" in deaths.advice(found)


def test_the_kernels_count_shows_that_memory_ran_out(died: Died) -> None:
    """That of the worker's control group, where it has one: others on the machine do not count."""
    process = died.start()
    died.count(4)
    assert died.find(process, signal.SIGKILL).memory.endswith(
        "the kernel has killed processes for that."
    )
    died.count_group(7)
    process = died.start()
    died.count(5)
    assert died.find(process, signal.SIGKILL).memory == ""
    process = died.start()
    died.count_group(8)
    assert "of its control group for that" in died.find(process, signal.SIGKILL).memory
    process = died.start()
    died.count_group(9)
    assert died.find(process, signal.SIGTERM).memory == ""  # the kernel kills by SIGKILL


def test_the_first_version_of_control_groups_is_read_too(died: Died) -> None:
    """There the count is in ``memory.oom_control`` of a tree of its own."""
    died.kernel.own_group.write_text("9:name=systemd:/\n4:memory:/box/one\n0::/\n")
    path = died.kernel.groups / "memory" / "box" / "one" / "memory.oom_control"
    path.parent.mkdir(parents=True)
    path.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert deaths.group_file(died.kernel) == path
    assert deaths.kills(path) == 0 and deaths.kills(died.kernel.vmstat) == 3
    assert deaths.kills(died.folder / "none") is None


def test_the_kernels_log_names_the_process(died: Died) -> None:
    """This one, or others: then it is no reason here, although the count has grown."""
    now = int(time.monotonic() * 1e6) + 1_000_000
    for other in (0, 1):
        process = died.start()
        died.count(5 + other)
        died.kernel.log.write_text(
            "6,1,1000,-;Memory cgroup out of memory: Killed process 1 (old)\n SUBSYSTEM=memory\n"
            f"3,2,{now},-;Out of memory: Killed process {process.pid + other} (python) rss:9kB\n"
        )
        found = died.find(process, signal.SIGKILL)
        if other:
            assert found.memory == "" or not deaths._in_first_namespace()
        else:
            assert f"Out of memory: Killed process {process.pid} (python)" in found.memory


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("x = bytearray(1 << 50)", "Memory ran out: MemoryError"),
        ("import os, sys; print('bad_alloc', file=sys.stderr, flush=1); os.abort()", "bad_alloc"),
        ("import os; os.kill(os.getpid(), 11)", ""),
        ("import sys; sys.exit(3)", ""),
    ],
    ids=["python", "c++", "crash", "exit"],
)
def test_a_process_that_ends_by_itself_says_why(died: Died, script: str, said: str) -> None:
    """With a real lack of memory (a limit of its address space), a crash, an exit code."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    deaths.begin(died.folder, died.kernel)
    with (died.folder / deaths.LOG).open("ab") as log:
        process = subprocess.Popen([*PYTHON, script], stderr=log, preexec_fn=limited)
    found = died.find(process)
    assert bool(found.memory) is bool(said) and said in found.memory
    words = deaths.how(found), deaths.advice(found)
    expected = {
        -signal.SIGSEGV: ("killed by SIGSEGV", "A library has crashed"),
        -signal.SIGABRT: ("killed by SIGABRT", "A library has crashed"),
        3: ("ended with exit code 3", "Its log says more"),
        1: ("ended with exit code 1", "Its log says more"),
    }[found.code or 0]
    assert all(word.startswith(part) for word, part in zip(words, expected, strict=True))
    if said:
        assert said.rpartition(" ")[2] in " ".join(deaths.last_lines(died.folder, found))


def test_what_is_stored_of_a_death_comes_back(died: Died) -> None:
    """And what somebody has written there is none."""
    death = deaths.Death(-9, phase="training", step=12, peak_bytes=812_000_000)
    assert deaths.load(death.dump()) == death
    assert deaths.sentence(death).startswith("while training, after step 12: killed by SIGKILL.")
    assert deaths.sentence(death).endswith("It had 812 MB of memory at most.")
    assert deaths.load(None) is None and deaths.load("[1]") is None and deaths.load("{") is None
    assert "nobody saw how" in deaths.how(deaths.Death())


# -- what the dispatcher makes of it ----------------------------------------------------------


@pytest.fixture
def one(home: Path) -> Iterator[Home]:
    found = Home(home)
    yield found
    found.close()


def test_deaths_without_progress_end_a_job(one: Home) -> None:
    """Three; but they are counted from the last step that was saved, as often as that moves on."""
    for step in (1, 2, 3, 4):
        one.begin().saved(step)
        one.kill()
    for number in range(MAX_ATTEMPTS - 1):
        run = one.begin()
        run.saved(3)  # again, by one that had to go back
        assert one.queue.get("a").attempts == number + 2
        one.kill()
    one.look()
    found = one.queue.get("a")
    assert found.status is JobStatus.FAILED and found.error
    for said in (
        "Its worker died 3 times without a later step saved, the last time while training, after "
        "step 7: killed by SIGKILL. Nothing here shows that memory ran out.",
        "MB of memory at most",
        "ftg resume lets it go on",
        "worker.log",
    ):
        assert said in found.error
    assert not one.dispatcher.workers
    one.queue.resume("a", 1)
    found = one.queue.get("a")
    assert (found.attempts, found.death, found.saved_step) == (0, None, -1)


def test_a_worker_is_known_before_it_says_a_word(one: Home) -> None:
    """Its number and its start are in the row once it is there; its death, by whatever signal,
    is in the row, the log and the list once it is gone, and counted once."""
    with slots_taken(one.queue.settings.home):
        one.look()
        worker = one.dispatcher.workers["a"]
        found = one.queue.get("a")
        assert (found.pid, found.pid_start) == (worker.pid, processes.start_of(worker.pid))
        one.kill(signal.SIGBUS)
        one.dispatcher.not_before["a"] = time.monotonic() + 60
        for _ in range(3):
            one.dispatcher.look()
        death = deaths.load(one.queue.get("a").death)
        assert death and death.code == -signal.SIGBUS and death.peak_bytes
        log = (one.queue.folder("a") / deaths.LOG).read_text()
        assert log.count("the worker died while starting: killed by SIGBUS") == 1
        one.queue.claim("a", found.fence, status="running")
        assert "its worker died while starting (killed by SIGBUS)" in one.phase


def test_a_worker_of_a_dispatcher_that_is_gone_died_somehow(one: Home) -> None:
    """Nobody has its signal: that is said, not guessed."""
    one.begin()
    worker = one.dispatcher.workers.pop("a")
    worker.kill()
    worker.wait()
    one.dispatcher.not_before["a"] = time.monotonic() + 60
    one.dispatcher.look()
    death = deaths.load(one.queue.get("a").death)
    assert death and death.code is None and "nobody saw how" in one.phase


# -- a job that trains ------------------------------------------------------------------------


def test_a_job_says_how_its_worker_died(
    home: Path, tiny_folder: Path, rows: Rows, ftg: Ftg
) -> None:
    """In an event, in its log, and at last in its error, with the end of the log, masked."""
    job = Gateway().submit(rows(12), model=str(tiny_folder), backend="local", **SMALL)
    try:
        for number in range(MAX_ATTEMPTS):
            pid = until(lambda: _pid(home, job.id, number + 1), 60)  # noqa: B023
            log = home / "runs" / job.id / deaths.LOG
            if number == MAX_ATTEMPTS - 1:
                os.kill(pid, signal.SIGSTOP)
                with log.open("a") as file:
                    file.write("who writes to anna.schmidt@example.com is\n")
            assert kill_worker(pid)
        assert ended(job) is JobStatus.FAILED
    finally:
        end_workers(home)
    with pytest.raises(JobFailed, match="died 3 times .* killed by SIGKILL") as raised:
        job.result(timeout=20)
    assert "who writes to" in str(raised.value) and "anna.schmidt@" not in str(raised.value)
    told = [event.message for event in job.events() if "The worker died" in event.message]
    assert len(told) == MAX_ATTEMPTS - 1 and all("killed by SIGKILL" in text for text in told)
    assert "finetune-gateway: the worker died" in ftg("logs", job.id).stdout
    assert "killed by SIGKILL" in ftg("status", job.id).stdout


def _pid(home: Path, run_id: str, attempts: int) -> int | None:
    found = row(home, run_id)
    return found.pid if found.attempts == attempts and found.phase == "importing torch" else None
