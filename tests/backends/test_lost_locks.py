"""The files of locks are removed while processes hold them: there is still one of each."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chaos import dispatchers, end_workers, until
from support.sleepers import Home, Sleeping

from finetune_gateway.backends.local import messages, run_folder
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.settings import files


@pytest.fixture
def one(home: Path) -> Iterator[Home]:
    found = Home(home)
    yield found
    found.close()


def other_of(one: Home) -> Sleeping:
    """Another dispatcher of the same home."""
    made = one.queue.settings
    return Sleeping(made.home, made.database, made.locks, made.runs)


@pytest.mark.parametrize("removed", ["folder", "slot", "both"])
def test_a_device_has_one_job_whatever_becomes_of_its_lock(one: Home, removed: str) -> None:
    """The store and the process of the worker say that it is taken."""
    one.look()
    one.add("b")
    locks = one.queue.settings.locks
    if removed == "slot":
        (locks / "slot-gpu-0").unlink()
    else:
        shutil.rmtree(locks)
    if removed == "both":
        (one.queue.folder("a") / run_folder.LOCK).unlink()
    other = other_of(one)
    for dispatcher in (other, one.dispatcher):
        assert dispatcher.look() and "b" not in dispatcher.workers
    assert not other.workers and one.queue.get("a").fence == 1
    assert one.queue.alive("a") and not one.queue.needs_worker("a")
    one.kill()
    one.dispatcher.workers["a"].wait()
    other.not_before.clear()
    assert other.look() and [*other.workers] == ["a"]
    other.workers["a"].kill()
    other.workers["a"].wait()


def test_a_worker_locks_its_files_again(one: Home) -> None:
    """With its heartbeat; not in a folder that is not its own."""
    run = one.begin()
    run_lock, slot = run.folder / run_folder.LOCK, run.settings.locks / "slot-gpu-0"
    one.kill()
    run.locks = {path: held for path in (run_lock, slot) if (held := files.try_lock(path))}
    run_lock.unlink()
    shutil.rmtree(run.settings.locks)
    run._beat()
    assert files.is_locked(run_lock) and files.is_locked(slot)
    shutil.move(run.folder, run.folder.with_name("elsewhere"))
    run._hold_locks()
    assert not run.folder.exists()


def test_one_dispatcher_is_left_after_its_lock_was_removed(home: Path) -> None:
    """Who looks starts another at once; the one before ends, and a lone one takes the new lock."""
    one = Home(home)
    assert one.alone is not None
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    files.unlock(one.alone)
    queue = Queue(one.queue.settings)
    locks = queue.settings.locks
    try:
        with files.try_locking(locks / "slot-gpu-0"):  # nothing begins yet
            queue.ensure_dispatcher()
            [first] = dispatchers(home)
            shutil.rmtree(locks)
            until(lambda: files.is_locked(locks / LOCK), 10)
            # A child that has not become its program yet looks like its parent.
            assert until(lambda: dispatchers(home) == [first], 10)
            told = {"run": "a", "command": command, "environment": dict(os.environ)}
            assert until(lambda: messages.tell(locks / LOCK, told), 10)
            shutil.rmtree(locks)
            queue.ensure_dispatcher()
            until(lambda: len(dispatchers(home)) == 1, 10)
    finally:
        end_workers(home)


def test_who_waits_for_a_lock_gets_the_file_that_lies_there(tmp_path: Path) -> None:
    """Not one that its last holder removed: a third process would lock the new one beside it."""
    path, got = tmp_path / "lock", []
    held = files.try_lock(path)
    assert held is not None

    def wait() -> None:
        with files.locking(path) as descriptor:
            got.append(files.is_in_place(descriptor, path) and files.is_locked(path))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    path.unlink()
    files.unlock(held)
    thread.join(10)
    assert got == [True]
    assert not files.is_in_place(os.open(tmp_path, os.O_RDONLY), path / "x")
