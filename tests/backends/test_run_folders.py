"""Run folders that are gone, moved, replaced, read-only or damaged: the job ends with that reason,
and every other job and command goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import Ftg
from support.modes import read_only
from support.records import record
from support.storm import ForkingDispatcher

from finetune_gateway import JobStatus
from finetune_gateway.backends.local import run_folder
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.run_file import RunFile, base_of, read_run_file
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.backends.local.worker import work
from finetune_gateway.errors import StoreError
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import sealed
from finetune_gateway.settings.files import try_lock, unlock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Break = Callable[[Path], object]


@pytest.fixture
def settings(env: dict[str, str]) -> Iterator[Settings]:
    """A home whose dispatcher seems to live: the test is the dispatcher."""
    made = Settings(Path(env["FTG_HOME"])).create()
    lock = try_lock(made.locks / LOCK)
    assert lock is not None
    yield made
    unlock(lock)


def a_job(settings: Settings) -> str:
    """A job of this machine that waits; its base is not there, so that it fails at once."""
    store = Store(settings)
    job = record(backend="local", status=JobStatus.QUEUED, step="sent")
    job = job.model_copy(update={"provider_id": job.id})
    store.add(job)
    folder = settings.runs / job.id
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text("{}\n")
    spec = TrainingSpec(model="/no/base")
    file = RunFile(job_id=job.id, spec=spec, train_sha256="0", versions={}, created_at=0)
    sealed.write(folder / "run.json", file.model_dump(mode="json"))
    Queue(settings).add(job.id)
    return job.id


def dispatched(settings: Settings, looks: int = 20) -> None:
    """Look as a dispatcher does, until nothing is left."""
    dispatcher = ForkingDispatcher(settings.home, settings.database, settings.locks, settings.runs)
    for _ in range(looks):
        if not dispatcher.look():
            return
        dispatcher.not_before.clear()
        for run_id in list(os.listdir(settings.runs)):
            queue = Queue(settings)
            while queue.alive(run_id):
                pass
    raise AssertionError("something is left")


def a_folder(name: str) -> Break:
    def broken(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return broken


def as_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("no folder")


def as_link(run: Path) -> None:
    shutil.rmtree(run)
    run.symlink_to(run.with_name("elsewhere"))


def other_rank(run: Path) -> None:
    text = (run / "run.json").read_text()
    assert '"lora_r": 16' in text
    (run / "run.json").write_text(text.replace('"lora_r": 16', '"lora_r": 18'))


BROKEN: dict[str, tuple[Break, str]] = {
    "gone": (shutil.rmtree, "is gone: it was deleted, or moved."),
    "a file": (as_file, "is no folder any more, but a file."),
    "a link": (as_link, "/elsewhere, where no folder is."),
    "no run.json": (lambda run: (run / "run.json").unlink(), "has lost run.json"),
    "lock a folder": (a_folder("worker.lock"), "worker.lock: Is a directory"),
    "log a folder": (a_folder("worker.log"), "worker.log: Is a directory"),
    "attempt.json a folder": (a_folder("attempt.json"), "attempt.json: Is a directory"),
    "run.json a folder": (a_folder("run.json"), "run.json is damaged: Is a directory"),
    "run.json empty": (lambda run: (run / "run.json").write_text(""), "run.json is damaged: it is"),
    "another rank": (other_rank, "run.json is damaged: its content is not what was written"),
    "no spec": (lambda run: (run / "run.json").write_text("{}"), "run.json is damaged: job_id"),
}
COMMANDS = (
    ("list", "--refresh"), ("list", "--json"), ("status",), ("logs",), ("events",), ("metrics",),
    ("checkpoints",), ("wait", "--quiet"), ("watch", "--quiet"), ("chat", "Hello."), ("resume",),
    ("report",), ("costs",), ("deploy", "--yes"), ("cancel", "--yes"), ("download",),
    ("prune", "--older-than", "0d", "--yes"), ("rm", "--yes"),
)  # fmt: skip
ASKED = ("gone", "a link", "lock a folder", "run.json empty")  # by all commands
OF_ALL = ("list", "costs", "prune")


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_ends_its_job_with_that_reason(
    settings: Settings,
    ftg: Ftg,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Before it is trained; the job behind it goes on, and every command has words for it."""
    monkeypatch.chdir(tmp_path)
    broken, other = a_job(settings), a_job(settings)
    change, reason = BROKEN[how]
    change(settings.runs / broken)
    dispatched(settings)
    row = Queue(settings).get(broken)
    assert row.status is JobStatus.FAILED and row.error and reason in row.error
    assert "ubmit it again" in row.error and "\n" not in row.error
    assert "There is no model folder" in (Queue(settings).get(other).error or "")
    capfd.readouterr()  # of its worker
    for name, *more in COMMANDS if how in ASKED else COMMANDS[:4]:
        words = [name, *more] if name in OF_ALL else [name, broken, *more]
        done = ftg(*words)
        assert "bug" not in done.stderr and "Traceback" not in done.stderr, (words, done.stderr)
    assert ftg("status", other, "--json").returncode == 0


def test_a_cancel_ends_a_job_whose_folder_is_gone(settings: Settings, ftg: Ftg) -> None:
    """As cancelled: that was asked for."""
    job = a_job(settings)
    shutil.rmtree(settings.runs / job)
    assert ftg("cancel", job, "--yes").returncode == 0
    assert Queue(settings).get(job).status is JobStatus.CANCELLED


def test_a_folder_that_cannot_be_written_ends_its_job(settings: Settings) -> None:
    job = a_job(settings)
    with read_only(settings.runs / job):
        dispatched(settings)
    error = Queue(settings).get(job).error or ""
    assert "cannot be used" in error and "Permission denied" in error and "ftg resume" in error


def test_a_full_disk_ends_no_job_that_waits() -> None:
    """It passes: the folder is looked at again."""
    assert run_folder.fault(Path("/"), OSError(28, "No space left on device")) == ""
    assert run_folder.fault(Path("/"), OSError(24, "Too many open files")) == ""


def test_a_folder_that_is_moved_while_it_trains_is_named(settings: Settings) -> None:
    """Nothing is written to where it was."""
    job = a_job(settings)
    run = Run(settings, job, 0)
    run.claim(status="running")
    run.folder.rename(run.folder.with_name("moved"))
    work(run, "cpu")
    row = run.queue.get(job)
    assert row.status is JobStatus.FAILED and "is gone: it was deleted, or moved." in str(row.error)
    assert not run.folder.exists()


def test_a_home_that_is_moved_while_it_trains_is_left_alone(settings: Settings) -> None:
    """The worker ends and makes nothing where it was; where the home is now the job goes on."""
    job = a_job(settings)
    run = Run(settings, job, 0)
    run.claim(status="running")
    settings.home.rename(settings.home.with_name("moved home %41 é"))
    with pytest.raises(StoreError):
        work(run, "cpu")
    assert not settings.home.exists()
    there = Settings(settings.home.with_name("moved home %41 é"))
    assert Queue(there).get(job).status is JobStatus.RUNNING
    dispatched(there)
    assert Queue(there).get(job).attempts == 1


def test_what_was_changed_in_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    """Any bit of it; a file of an earlier version has no seal, and is taken as it is."""
    path = tmp_path / "base.json"
    about = {"revision": None, "sha256": "ab" * 32, "files": {"config.json": "é"}, "n": 1.5}
    sealed.write(path, about)
    raw = path.read_bytes()
    assert base_of(tmp_path) == about
    for at in range(len(raw)):
        for bit in range(8):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
            try:
                found = base_of(tmp_path)
            except StoreError as exc:
                assert "base.json is damaged" in exc.message
                continue
            assert {**found, **about} == found, (at, bit)
    path.write_text(json.dumps(about))
    assert base_of(tmp_path) == about
    path.unlink()
    assert base_of(tmp_path) == {}
    with pytest.raises(StoreError, match=r"run\.json is gone"):
        read_run_file(tmp_path)
