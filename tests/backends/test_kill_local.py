"""kill -9 of everything a local job consists of: one whole adapter in the end, one worker at
a time, nothing left over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import (
    SUBMIT_LOCAL,
    check_run,
    data_file,
    dispatchers,
    end_workers,
    ended,
    finish,
    kill,
    kill_worker,
    lives,
    nobody_left,
    queue,
    ready,
    row,
    slots_taken,
    start,
    until,
    workers,
)
from support.saves import SMALL, kill_saves

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local.dispatcher import Dispatcher
from finetune_gateway.backends.local.event_log import read_events
from finetune_gateway.backends.local.line import MAX_STARTS
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Cancelled, Fenced, Run, write_json
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.settings.files import try_lock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Rows = Callable[[int], list[dict[str, Any]]]

# arguments: run, the moment at which all pollers look; prints how early it was ready
POLL = """
import sys, time
from finetune_gateway.backends.local.backend import LocalBackend
backend = LocalBackend()
backend.queue.get(sys.argv[1])
early = float(sys.argv[2]) - time.time()
time.sleep(max(0.0, early))
backend.poll(sys.argv[1], None)
print(early)
"""


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def queued(home: Path, data: Any, folder: Path, **options: Any) -> str:
    """A job that waits for a slot (hold them all while you ask)."""
    job = Gateway().submit(data, model=str(folder), backend="local", **{**SMALL, **options})
    assert row(home, job.id).pid is None
    return job.id


def dispatch(home: Path) -> Dispatcher:
    """A dispatcher in this process."""
    made = Settings(home).create()
    return Dispatcher(made.home, made.database, made.locks, made.runs)


def test_submitters_killed_at_any_moment(home: Path, tmp_path: Path, tiny_folder: Path) -> None:
    """Whatever was written down by then is found by the next process and trained to the end,
    once; a dispatcher that has started neither needs nor notices its parent."""
    file = data_file(tmp_path, 1)
    with slots_taken(home):
        for seed, written in enumerate(("runs/*/run.json", "locks/dispatcher.log")):
            before = set(home.glob(written))
            process = start(SUBMIT_LOCAL, file, tiny_folder, seed)
            ready(process)
            until(lambda: set(home.glob(written)) - before)  # noqa: B023
            kill(process)
            end_workers(home)
            (home / "locks" / "dispatcher.log").unlink(missing_ok=True)
    ended = finish()
    assert {status for status, _ in ended.values()} == {"succeeded"}, ended
    assert {path.name for path in (home / "runs").iterdir()} == set(ended)
    for job_id in ended:
        assert check_run(home, job_id) == "succeeded"
    nobody_left(home)


def test_a_worker_killed_in_every_phase(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """While importing and saving, and after the rename: the dispatcher starts the next one; where
    it is killed too, the next look starts both. There is one whole adapter. (While training: in
    test_local.)"""
    job = Gateway().submit(rows(12), model=str(tiny_folder), backend="local", **SMALL)
    for phase in ("importing", "saving", "asking"):
        run = until(lambda: _in_phase(home, job.id, phase), 60)  # noqa: B023
        # Held where it is: killing the dispatcher takes longer than some phases do.
        os.kill(run.pid, signal.SIGSTOP)
        if phase == "saving":
            [dispatcher] = dispatchers(home)
            assert kill_worker(dispatcher) and not dispatchers(home)
        assert kill_worker(run.pid)
        if phase == "saving":
            job.refresh()
        until(lambda: row(home, job.id).fence > run.fence, 30)  # noqa: B023
    assert ended(job) is JobStatus.SUCCEEDED, job.error
    assert row(home, job.id).fence == 4
    assert check_run(home, job.id) == "succeeded"
    nobody_left(home)


def _in_phase(home: Path, run_id: str, phase: str) -> Any:
    found = row(home, run_id)
    assert not found.status.final, found
    # The row of a killed worker keeps its last phase until the next one starts.
    there = found.pid and lives(found.pid) and found.phase.startswith(phase)
    return found if there else None


def test_many_pollers_start_one_dispatcher(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """Four processes notice in the same moment that it is dead: one new one, twice."""
    with slots_taken(home):
        run_id = queued(home, rows(12), tiny_folder)
        for _ in range(2):
            [before] = until(lambda: dispatchers(home), 30)
            starting = time.time() + 2.0
            pollers = [start(POLL, run_id, starting) for _ in range(4)]
            assert kill_worker(before)
            for poller in pollers:
                out, err = poller.communicate(timeout=30)
                assert poller.returncode == 0 and out, err
            [now] = dispatchers(home)
            assert now != before and not workers(home)
        queue(home).cancel(run_id)
        assert Gateway().job(run_id).wait(30).status is JobStatus.CANCELLED
    nobody_left(home)


def test_a_worker_that_cannot_begin_ends_the_job(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """One that dies before it trains is not started for ever."""
    with slots_taken(home):
        run_id = queued(home, rows(12), tiny_folder)
        with queue(home).store.transaction() as db:
            db.execute("UPDATE runs SET fence = ? WHERE id = ?", (MAX_STARTS, run_id))
        job = Gateway().job(run_id).wait(30)
    assert job.status is JobStatus.FAILED and "worker.log" in str(job.error)
    nobody_left(home)


# -- the fence and the lock, with the real queue -------------------------------------------


@pytest.fixture
def folder(home: Path) -> Path:
    """The folder of a queued run that has no worker, in a home whose dispatcher seems to live."""
    made = home / "runs" / "ftg-run"
    made.mkdir(parents=True)
    about = RunFile(
        job_id=made.name, spec=TrainingSpec(model="m"), train_sha256="0", versions={}, created_at=0
    )
    write_json(made / "run.json", about.model_dump(mode="json"))
    queue(home).add(made.name)
    assert try_lock(Settings(home).create().locks / LOCK) is not None
    return made


def test_a_worker_that_was_replaced_writes_nothing(home: Path, folder: Path) -> None:
    """With an old number no row, no event and no end is written, and it stops by itself."""
    runs, dispatcher = Queue(Settings(home)), dispatch(home)
    old = Run(Settings(home), folder.name, dispatcher._next_fence(folder.name, "cpu") or 0)
    old.claim(phase="training")
    old.event("mine")
    new = Run(Settings(home), folder.name, dispatcher._next_fence(folder.name, "cpu") or 0)
    new.claim(phase="loading the model")
    before = (runs.get(folder.name), (folder / "events.jsonl").read_bytes())
    writes: list[Callable[[], object]] = [
        lambda: old.claim(status=JobStatus.SUCCEEDED),
        lambda: old.phase("saving"),
        lambda: old.event("late"),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            write()
    old._beat()
    assert old.stop.is_set()
    with pytest.raises(Fenced):
        old.check()
    assert (runs.get(folder.name), (folder / "events.jsonl").read_bytes()) == before
    new.event("still mine")
    runs.cancel(folder.name)
    assert runs.get(folder.name).status is JobStatus.CANCELLED
    with pytest.raises(Fenced):
        new.claim(status=JobStatus.SUCCEEDED)


def test_a_lease_is_seen_and_a_wish_to_stop_heard(home: Path, folder: Path) -> None:
    """The heartbeat is in the row; the flag in the row stops the run."""
    runs = Queue(Settings(home))
    run = Run(Settings(home), folder.name, 0)
    began = time.time()
    with run.heartbeat():
        first = runs.get(folder.name).heartbeat_at
        assert first is not None and first >= began
    with runs.store.transaction() as db:
        db.execute("UPDATE runs SET cancel_at = 1.0 WHERE id = ?", (folder.name,))
    run._beat()
    assert runs.get(folder.name).heartbeat_at != first
    with pytest.raises(Cancelled):
        run.check()


def test_a_heartbeat_rides_out_a_store_that_cannot_be_written(
    home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk for a moment does not end it."""
    runs = Queue(Settings(home))
    run = Run(Settings(home), folder.name, 0)
    run.queue.store.query("PRAGMA query_only = ON")
    run._beat()
    assert "no heartbeat" in capsys.readouterr().err and not run.stop.is_set()
    run.queue.store.query("PRAGMA query_only = OFF")
    run._beat()
    assert runs.get(folder.name).heartbeat_at is not None


def test_what_a_dead_worker_left_is_swept(home: Path, folder: Path) -> None:
    """Half an event, half a model and half a file go; whole events stay."""
    Run(Settings(home), folder.name, 0).event("whole")
    with (folder / "events.jsonl").open("a") as events:
        events.write('{"id": "torn')
    (folder / "model.tmp.7").mkdir()
    (folder / "model.tmp.7" / "half.safetensors").write_bytes(b"x")
    (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    for half in (".base.json.tmp.7", "checkpoints/checkpoint-2/.progress.json.tmp.7"):
        (folder / half).write_bytes(b"{")
    Run(Settings(home), folder.name, 0).event("next")
    assert not list(folder.rglob("*.tmp.*"))
    read = read_events(folder / "events.jsonl", None)
    assert [event.message for event in read.events][-2:] == ["whole", "next"]
    assert read.cursor == f"{(folder / 'events.jsonl').stat().st_size}:0-2"


def test_a_lock_dies_with_its_holder_alone(home: Path, folder: Path) -> None:
    """A file locked by a living process counts, the file alone does not."""
    runs = Queue(Settings(home))
    (folder / "worker.lock").touch()
    assert not runs.alive(folder.name)
    script = (
        "import sys, time; from finetune_gateway.settings import files; from pathlib import Path\n"
    )
    script += "held = files.try_lock(Path(sys.argv[1])); print('ready', flush=True); time.sleep(60)"
    holder = start(script, folder / "worker.lock")
    ready(holder)
    assert runs.alive(folder.name)
    fence = runs.get(folder.name).fence
    assert dispatch(home).look()
    assert runs.get(folder.name).fence == fence
    kill(holder)
    assert not runs.alive(folder.name)


def test_saves_killed_at_random_are_whole_or_absent(tmp_path: Path) -> None:
    """A folder with the name of the result has a manifest, and every hash in it is right."""
    found = kill_saves(tmp_path, 12, seed=1)
    assert sum(found.values()) == 12 and found["absent"], found


def test_a_checkpoint_without_its_last_file_does_not_count(tmp_path: Path) -> None:
    """A kill between the trainer's files and ours: training goes on from the one before."""
    import torch
    from safetensors.torch import save_file

    from finetune_gateway.backends.local import checkpoints

    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        checkpoints.begin(folder)
        for name in checkpoints.STATE_FILES:
            if name.endswith(".json"):
                (folder / name).write_text('{"trained_tokens": 1, "global_step": 1}')
            else:
                torch.save({}, folder / name)
        save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
        if step == 5:
            checkpoints.finish(folder, {})
    assert checkpoints.newest(tmp_path) == (tmp_path / "checkpoint-5", [])
    assert not (tmp_path / "checkpoint-10").exists()
