"""The files of locks are removed while a process pays for answers: no other buys them again,
settles what it reserves, or removes what it writes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.asked import RUN, ask_all
from support.chaos import ProviderProcess, until
from support.provider import Provider
from support.recordings import recorded, rows

from finetune_gateway import Gateway, JobNotFinished
from finetune_gateway.errors import StoreError
from finetune_gateway.evaluation import keeping
from finetune_gateway.evaluation.answers import settle
from finetune_gateway.evaluation.work import writing
from finetune_gateway.jobs import compared, journal, recordings

CHATS = "/chat/completions"
ROWS = 12


def test_answers_are_bought_once_though_their_locks_are_removed(home: Path, tmp_path: Path) -> None:
    """Another process is refused, until the first has ended; then it goes on."""
    with ProviderProcess(tmp_path, "--set", "latency=[0.15, 0.2]") as p:
        child = os.fork()
        if child == 0:
            ask_all(p.url, ROWS)
            os._exit(1)  # it was not killed
        store = Gateway(home).store
        try:
            until(lambda: p.posts(CHATS) >= 4)
            shutil.rmtree(home / "locks")
            before = Gateway(home).budget().reserved_usd
            refused: list[Callable[[], object]] = [
                lambda: ask_all(p.url, ROWS),
                lambda: settle(store.settings, RUN),
            ]
            for act in refused:
                with pytest.raises(JobNotFinished):
                    act()
            for folder in compared.answer_folders(store.settings):
                with pytest.raises(StoreError, match="A process is asking"):
                    compared.remove(store, folder)
                assert folder.is_dir()
            assert compared.old(store, 1e12) == []
            assert before > 0 and Gateway(home).budget().reserved_usd == before
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        until(p.idle)
        sold = sum(p.report()["asked"].values())
        done = ask_all(p.url, ROWS)
        assert len(done.answers) == 2 * ROWS and Gateway(home).budget().reserved_usd == 0
        assert sum(p.report()["asked"].values()) <= 2 * ROWS + sold


def test_a_recording_is_written_by_one_though_its_lock_is_removed(home: Path) -> None:
    """Neither collected, settled nor removed by another process meanwhile."""
    with Provider() as provider:
        found = recorded(provider, rows(2), name="r")
        store = Gateway(home).store
        refused: list[Callable[[], object]] = [
            lambda: recorded(provider, rows(2), name="r"),
            lambda: keeping.settle(store.settings, "r"),
            lambda: keeping.remove(store.settings, "r"),
        ]
        with writing(store, found):
            shutil.rmtree(home / "locks")
            for act in refused:
                with pytest.raises(JobNotFinished):
                    act()
            assert recordings.old(store, 1e12) == []
    assert recordings.old(store, 1e12) == [found.folder]
    keeping.remove(store.settings, "r")
    assert not found.folder.exists()


def test_a_folder_in_which_nothing_was_kept_does_not_stay(home: Path) -> None:
    """It is made to be locked."""
    settings = Gateway(home).store.settings
    folder = settings.recordings / "new"
    lock = recordings.lock_of(settings, "new")
    with journal.writing_alone(lock, folder) as ours:
        assert ours and folder.is_dir() and journal.is_written(lock, folder)
        with journal.writing_alone(lock, folder) as other:
            assert not other
    assert not folder.exists() and not journal.is_written(lock, folder)
