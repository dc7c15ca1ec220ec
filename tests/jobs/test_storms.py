"""Many kills and many faults: minutes, run by ``make chaos``. Each test prints its figures."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import pytest
from support.chaos import (
    BACKEND,
    CLEAN,
    KEY,
    MODEL,
    SUBMIT,
    SUBMIT_LOCAL,
    ProviderProcess,
    account,
    check_run,
    ctrl_c_at_line,
    data_file,
    end_workers,
    finish,
    ftg,
    kill,
    kill_worker,
    moments,
    nobody_left,
    ready,
    row,
    start,
    until,
    workers,
)
from support.disks import fill, plain_failure, run, submit, whole
from support.saves import SMALL, kill_saves

from finetune_gateway import Gateway, OpenAIBackend

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
Rows = Callable[[int], list[dict[str, Any]]]
FIU = Path("/usr/lib/fiu/fiu_posix_preload.so")


@pytest.fixture(autouse=True)
def _ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CHAOS_KEY", KEY)
    yield
    end_workers(home)


# -- hosted --------------------------------------------------------------------------------


def test_submitters_killed_at_random(home: Path, tmp_path: Path) -> None:
    """40 submits, each killed at its own moment between the first and the last thing it does."""
    with ProviderProcess(tmp_path, "--list-lag", "0.3") as provider:
        process = start(SUBMIT, provider.url, data_file(tmp_path, 0))
        ready(process)
        begun = time.monotonic()
        process.communicate(timeout=60)
        longest = (time.monotonic() - begun) * 1.1
        steps: Counter[str] = Counter()
        for number, moment in enumerate(moments(40, longest, seed=1), 1):
            process = start(SUBMIT, provider.url, data_file(tmp_path, number))
            ready(process)
            time.sleep(moment)
            steps["killed"] += kill(process)
        steps.update(job.record.step for job in Gateway().jobs())
        figures = account(provider)
    print(f"\n{dict(steps)} {figures}")
    assert steps["killed"] >= 20 and figures.items() >= CLEAN.items(), figures


# arguments: url, the folder with the files; what a nightly script does, restarted as often as
# it dies
NIGHTLY = (
    BACKEND
    + """
from pathlib import Path
from finetune_gateway.gateway import Gateway
import finetune_gateway.backends.openai.backend
gateway, hosted = Gateway(), backend(sys.argv[1])
print("ready", flush=True)
known = {job.record.name for job in gateway.jobs()}
for path in sorted(Path(sys.argv[2]).glob("job-*.jsonl")):
    if path.name not in known:
        gateway.submit(path, model="gpt-4.1-mini-2025-04-14", backend=hosted)
for job in gateway.jobs():
    job.wait(timeout=60)
"""
)
FAULTS = "refuse=.05,slow=.05,reset_after=.1,late=.1,error_after=.05"
HOSTS: dict[str, list[object]] = {
    "shows new jobs late": ["--list-lag", 1.0],
    "keeps metadata": [],
    "metadata null": ["--metadata", "null"],
    "metadata null, oldest first": ["--metadata", "null", "--oldest-first"],
    "three at a time": ["--running-limit", 3, "--retry-after", 1, "--pace", 0.02],
}


class Storm:
    """60 jobs through a provider that refuses, resets, answers late or with 500 in a third of the
    creates, sent by a script that is killed 20 times."""

    def __init__(self, provider: ProviderProcess, folder: Path, seed: int) -> None:
        self.provider, self.folder = provider, folder
        self.draw, self.killed = random.Random(seed), 0
        self.waits = {"CHAOS_TIMEOUT": 1, "CHAOS_SETTLE": 3}  # late by 0.5 s + lag of 1 s, and room
        folder.mkdir()
        for number in range(60):
            data_file(folder, number)

    def blow(self, kills: int) -> None:
        """Start the script and kill it, so often."""
        for _ in range(kills):
            process = self._script()
            ready(process)
            time.sleep(self.draw.uniform(0.05, 2.5))
            self.killed += kill(process)

    def calm(self, lost: Set[str] = frozenset()) -> dict[str, int]:
        """Let the script end, print the figures and return them."""
        process = self._script()
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        figures = {"kills": self.killed, **account(self.provider, lost)}
        print(f"\n{figures}, {self.provider.posts('/fine_tuning/jobs')} creates sent")
        assert self.killed >= 12
        return figures

    def _script(self) -> subprocess.Popen[str]:
        return start(NIGHTLY, self.provider.url, self.folder, **self.waits)


def storm_of(seed: int, *more: object) -> list[object]:
    return ["--chaos", FAULTS, "--seed", seed, "--fault-seconds", 1.5, *more]


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_extra_nothing_missing(home: Path, tmp_path: Path, host: str) -> None:
    """R1: 0 extra, 0 missing, 0 unfinished, whatever the host keeps and in which order it lists;
    nothing has failed that was only turned away."""
    seed = [*HOSTS].index(host) + 1
    with ProviderProcess(tmp_path, *storm_of(seed, *HOSTS[host])) as provider:
        storm = Storm(provider, tmp_path / "data", seed)
        storm.blow(20)
        figures = storm.calm()
    assert figures == {"kills": storm.killed, "asked": 60, "bought": 60, **CLEAN}


def test_a_key_that_is_replaced(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-way the account gets another key, and the old one is gone: nothing is bought again."""
    with ProviderProcess(tmp_path, *storm_of(11)) as provider:
        storm = Storm(provider, tmp_path / "data", 11)
        storm.blow(10)
        until(provider.idle)
        provider.swap_keys({"sk-test-replaced": "main"})
        monkeypatch.setenv("CHAOS_KEY", "sk-test-replaced")
        storm.blow(10)
        figures = storm.calm()
    clean = {**CLEAN, "extra_uploads": figures["extra_uploads"]}  # it may be another account's
    assert figures == {"kills": storm.killed, "asked": 60, "bought": 60, **clean}


def test_a_store_that_is_restored(home: Path, tmp_path: Path) -> None:
    """Half-way the home is replaced by a copy taken a while ago: what it knows is bought once; the
    script asks again for what it does not know."""
    with ProviderProcess(tmp_path, *storm_of(12)) as provider:
        storm = Storm(provider, tmp_path / "data", 12)
        storm.blow(6)
        shutil.copytree(home, tmp_path / "copy")
        storm.blow(5)
        known = {job.id for job in Gateway().jobs()}
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "copy", home)
        lost = known - {job.id for job in Gateway().jobs()}
        storm.blow(9)
        figures = storm.calm(lost)
    print(f"{len(lost)} jobs came after the copy")
    clean = {**CLEAN, "extra_uploads": figures["extra_uploads"]}
    assert figures.items() >= clean.items() and figures["bought"] <= figures["asked"]
    assert figures["asked"] == 60 + len(lost)


# It may fall between the making of a socket and its owner.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_ctrl_c_anywhere_in_a_submit(home: Path, tmp_path: Path) -> None:
    """Every third line of jobs/ that a submit runs: there is no job, or it has ended with nothing
    sent, or a look buys nothing and who asks for it gets one. Prints how often its id was said."""
    ended: Counter[str] = Counter()
    with ProviderProcess(tmp_path) as provider:
        hosted: dict[str, Any] = {
            "base_url": provider.url,
            "profile": "custom",
            "api_key_env": "CHAOS_KEY",
        }
        for number in itertools.count(1, 3):
            creates, gateway = provider.posts("/fine_tuning/jobs"), Gateway()
            backend = OpenAIBackend(**hosted, settle_seconds=0.02, poll_seconds=0.01)
            try:
                with ctrl_c_at_line(number):
                    gateway.submit(data_file(tmp_path, number), model=MODEL, backend=backend)
                break
            except KeyboardInterrupt as exc:
                said = " ".join(getattr(exc, "__notes__", []))
            found = [job for job in Gateway().jobs() if job.record.name == f"job-{number}.jsonl"]
            if not found:
                assert provider.posts("/fine_tuning/jobs") == creates
                ended["no job"] += 1
                continue
            [job] = found
            sent = provider.posts("/fine_tuning/jobs")
            time.sleep(0.03)
            job.refresh()
            assert provider.posts("/fine_tuning/jobs") == sent <= creates + 1
            if not job.status.final:
                job.wait(20)
            unsent = "Nothing was sent" in str(job.error)
            assert unsent or job.status == "succeeded", (number, job.error)
            assert provider.bought()[job.id] == (0 if unsent else 1), number
            ended["ended" if unsent else "bought once"] += 1
            ended["told"] += job.id in said
    print(f"\nCtrl-C at {number // 3} lines: {dict(ended)}")
    assert ended["bought once"] > 20 and ended["ended"] > 10


def test_the_command_line_killed_inside_a_create(home: Path, tmp_path: Path) -> None:
    """With the settings everybody has: the doubt is settled after 70 s, and one job was bought."""
    with ProviderProcess(tmp_path) as provider:
        provider.fault("POST /fine_tuning/jobs", "late", seconds=3)
        process = ftg(*submit(provider.url, data_file(tmp_path, 1)))
        until(lambda: provider.posts("/fine_tuning/jobs"))
        assert kill(process)
        waiting = ftg("wait", "latest", "--timeout", "3m")
        out, err = waiting.communicate(timeout=240)
        assert waiting.returncode == 0 and "succeeded" in out, err
        assert list(provider.bought().values()) == [1]


# -- local ---------------------------------------------------------------------------------


def test_local_submitters_killed_at_random(home: Path, tmp_path: Path, tiny_folder: Path) -> None:
    """24 local submits killed over their whole length: each that was written down ends with one
    whole adapter."""
    file, killed = data_file(tmp_path, 1), 0
    process = start(SUBMIT_LOCAL, file, tiny_folder, 99)
    ready(process)
    begun = time.monotonic()
    process.communicate(timeout=60)
    longest = time.monotonic() - begun
    for seed, moment in enumerate(moments(24, longest, seed=3)):
        process = start(SUBMIT_LOCAL, file, tiny_folder, seed)
        ready(process)
        time.sleep(moment)
        killed += kill(process)
    ended: dict[str, Any] = {}
    for _ in range(5):  # finish() waits two minutes for a job; they run one by one
        try:
            ended = finish()
            break
        except subprocess.TimeoutExpired:  # a busy machine
            continue
        except AssertionError as exc:
            assert "still" in str(exc)
    outcomes = Counter(check_run(home, job_id) for job_id in ended)
    print(f"\n{killed} kills, {len(ended)} jobs written down: {dict(outcomes)}")
    assert killed >= 10 and set(outcomes) == {"succeeded"}
    assert {path.name for path in (home / "runs").iterdir()} <= set(ended)
    nobody_left(home)


PHASES = ("importing", "loading", "reading", "training", "saving", "asking", "")


@pytest.mark.parametrize("seed", range(8))
def test_workers_killed_at_random(home: Path, tiny_folder: Path, rows: Rows, seed: int) -> None:
    """Three kills a job, at random moments within every phase: one whole adapter, at once or, where
    no step was saved between them, after a resume; never two writers, nothing left over."""
    draw, killed = random.Random(seed), []
    job = Gateway().submit(
        rows(12),
        model=str(tiny_folder),
        backend="local",
        **{**SMALL, "max_steps": 20},
        save_steps=2,
    )
    for number in range(3):
        phase = PHASES[(3 * seed + number) % len(PHASES)]
        found = until(lambda: _reached(home, job.id, phase), 90)  # noqa: B023
        time.sleep(draw.random() * (0.3 if phase else 4.0))
        if kill_worker(row(home, job.id).pid):
            killed.append(f"{found.phase}/{phase or 'any'}")
        job.refresh()
        assert len(workers(home)) <= 1
    if job.wait(120).status == "failed":
        assert "died 3 times without a later step saved" in str(job.error), job.error
        job.resume().wait(120)
    print(
        f"\nkilled while {killed}: {check_run(home, job.id)}, attempts {row(home, job.id).attempts}"
    )
    assert job.status == "succeeded", job.error
    nobody_left(home)


def _reached(home: Path, run_id: str, phase: str) -> Any:
    found = row(home, run_id)
    return found if found.status.final or (found.pid and found.phase.startswith(phase)) else None


def test_watchers_killed(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """20 watchers of one job are killed; its worker stays the one it was."""
    options = {**SMALL, "max_steps": 3000, "save_steps": 3000}
    job = Gateway().submit(rows(12), model=str(tiny_folder), backend="local", **options)
    first = until(lambda: row(home, job.id).pid)
    draw, killed = random.Random(5), 0
    for _ in range(20):
        watcher = ftg("watch", job.id)
        time.sleep(draw.uniform(0.2, 1.2))
        killed += kill(watcher)
    assert killed == 20 and row(home, job.id).pid == first and row(home, job.id).fence == 1
    assert job.cancel().wait(60).status == "cancelled"
    nobody_left(home)


def test_two_hundred_saves_killed(tmp_path: Path) -> None:
    """R5: the folder is absent, or its manifest is valid, 200 of 200."""
    found = kill_saves(tmp_path, 200, seed=7)
    print(f"\n{found}")
    assert sum(found.values()) == 200 and min(found.values()) > 10


# -- disks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [100_000, 300_000, 600_000, 900_000])
def test_training_on_a_disk_that_fills(
    tiny_disk: Path, tiny_folder: Path, tmp_path: Path, left: int
) -> None:
    """Wherever the room ends: the job ends with a reason or a whole model, or the store says
    that it has no room; with room again it ends."""
    home = tiny_disk / "home"
    words = ["submit", data_file(tmp_path, 1), "--model", tiny_folder, "--backend", "local", "-q"]
    words += ["--training-type", "full", "--set", "max_steps=1"]
    fill(tiny_disk, left)
    done = run(None, *words, home=home)
    if done.returncode:
        assert "space" in plain_failure(done)
    waited = run(None, "wait", "latest", "--timeout", "40s", "-q", home=home)
    subprocess.run(["mount", "-o", "remount,size=16m", str(tiny_disk)], check=True)
    if waited.returncode not in (0, 100):
        plain_failure(waited)
        waited = run(None, "wait", "latest", "--timeout", "50s", "-q", home=home)
    nothing_written = 102 if done.returncode else 0  # refused before there was a job
    assert waited.returncode in (0, 100, nothing_written), waited.stderr
    for job in Gateway(home).jobs():
        print(f"\n{left}: submit {done.returncode}, {check_run(home, job.id)} {job.error or ''}")
    whole(home)


# Fails the n-th call of one kind (libfiu), then runs a command line.
# arguments: failure point, n, errno, then the command line
NTH = """
import ctypes, sys
from finetune_gateway.cli import main
import finetune_gateway.cli.submit, finetune_gateway.backends.openai.backend
fiu = ctypes.CDLL("libfiu.so.0")
fiu.fiu_init(0)
point, number, errno = sys.argv[1].encode(), int(sys.argv[2]), int(sys.argv[3])
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int),
                            ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_uint))
count = 0
def called(name, failnum, failinfo, flags):
    global count
    count += 1
    return int(count == number)
keep = CALLBACK(called)
assert fiu.fiu_enable_external(point, 1, ctypes.c_void_p(errno), 0, keep) == 0
try:
    code = main(sys.argv[4:])
finally:
    fiu.fiu_disable(point)
    print(f"calls={count}", file=sys.stderr)
sys.exit(code)
"""
POINTS = {
    "posix/io/rw/write": 28,
    "posix/io/rw/pwrite": 28,
    "posix/io/sync/fsync": 5,
    "posix/io/sync/fdatasync": 5,
}


@pytest.mark.skipif(not FIU.exists(), reason="libfiu is not installed (apt install fiu-utils)")
@pytest.mark.parametrize("point", POINTS)
def test_the_nth_write_fails(home: Path, tmp_path: Path, point: str) -> None:
    """R4: each write and each fsync of a submit fails once: the store is whole, nothing is half
    there, an exit code and one line tell it, and the same command works after it, once."""
    outcomes: Counter[str] = Counter()
    with ProviderProcess(tmp_path) as provider:
        for number in range(1, 41):
            file, place = data_file(tmp_path, number), tmp_path / f"home-{number}"
            done = _nth(point, number, submit(provider.url, file), place)
            calls = int(done.stderr.rpartition("calls=")[2] or 0)
            if calls < number:
                break
            outcomes["refused" if done.returncode else "survived"] += 1
            if done.returncode:
                plain_failure(done)
            whole(place)
            again = run(None, *submit(provider.url, file), home=place)
            assert again.returncode == 0, again.stderr
            jobs = Gateway(place).jobs()
            assert len(jobs) == 1, jobs
            bought, step = provider.bought()[jobs[0].id], jobs[0].record.step
            assert bought == 1 or (bought == 0 and step != "sent"), step
        assert set(provider.bought().values()) == {1}
    print(f"\n{point}: {dict(outcomes)}")
    assert outcomes


def _nth(point: str, number: int, words: list[object], home: Path) -> Any:
    return subprocess.run(
        [sys.executable, "-c", NTH, point, str(number), str(POINTS[point]), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "LD_PRELOAD": str(FIU),
            "CHAOS_KEY": "sk-test-0123456789abcdef",
            "FTG_HOME": str(home),
        },
    )
