"""The store: one truth for many processes, and plain words when the disk says no."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.chaos import ctrl_c_at_line
from support.records import record

from finetune_gateway.errors import NotFoundError, StoreError
from finetune_gateway.events import Event, JobStatus, Result, Snapshot, later
from finetune_gateway.jobs import history, schema
from finetune_gateway.jobs.records import JobRecord, new_job_id, row_of
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings


@pytest.fixture
def store(home: Path) -> Store:
    return Store(Settings(home))


def test_a_job_comes_back_as_it_was_stored(store: Store) -> None:
    """Every field survives, in this process and in another connection."""
    added, new = store.add(record(system_prompt="s", estimate={"cost": "1.20"}))
    assert new and store.get(added.id) == added
    assert Store(store.settings).get(added.id) == added


def test_one_live_job_per_submit_key(store: Store) -> None:
    """Fifty submitters at once get one job; when it has ended the next submit is a new one."""
    first = record()
    got: list[str] = []

    def submit() -> None:
        got.append(store.add(first.model_copy(update={"id": new_job_id()}))[0].id)
        store.close()

    threads = [threading.Thread(target=submit) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1 and len(store.jobs()) == 1
    store.fail(got[0], "no")
    assert store.add(first)[1]


def test_a_new_store_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Switching a new file to WAL waits for its turn, as all else does."""
    errors: list[Exception] = []

    def open_one(path: Path) -> None:
        try:
            schema.connect(path).close()
        except sqlite3.OperationalError as exc:
            errors.append(exc)

    for number in range(15):
        path = tmp_path / f"{number}.sqlite3"
        threads = [threading.Thread(target=open_one, args=(path,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_new_store_has_what_the_migrations_leave(tmp_path: Path) -> None:
    """It is made at once; one of an old version goes through the steps."""

    def tables(db: sqlite3.Connection) -> list[tuple[object, ...]]:
        found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid")
        columns = "SELECT * FROM pragma_table_info(?)"
        return [(*row, *map(tuple, db.execute(columns, (row[1],)))) for row in found]

    with closing(sqlite3.connect(":memory:")) as old:
        for step in schema.MIGRATIONS:
            step(old)
        with closing(schema.connect(tmp_path / "new.sqlite3")) as new:
            assert tables(new) == tables(old)
            assert new.execute("PRAGMA user_version").fetchone()[0] == len(schema.MIGRATIONS)


def test_a_job_is_found_by_id_beginning_provider_id_and_latest(store: Store) -> None:
    """Any unambiguous way to name it works; an ambiguous one lists the candidates."""
    old, _ = store.add(record(id="ftg-aaa2345678"))
    new, _ = store.add(record(id="ftg-aab2345678", created_at=time.time() + 1))
    store.set_sent(old.id, "ftjob-1")
    for name in ("ftg-aaa2345678", "ftg-aaa", "aaa", "ftjob-1"):
        assert store.find(name).id == old.id
    assert store.find("latest").id == new.id
    with pytest.raises(NotFoundError, match="Several"):
        store.find("aa")
    with pytest.raises(NotFoundError, match="no job '%'"):
        store.find("%")


def test_reports_are_stored_once_and_status_never_goes_back(store: Store) -> None:
    """Replaying a poll changes nothing; a late answer to an old cursor is dropped."""
    job, _ = store.add(record())
    running = Snapshot(
        status=JobStatus.RUNNING, cursor="2", events=[Event(id="e1"), Event(id="e2")]
    )
    store.apply(job.id, running, None)
    store.apply(job.id, Snapshot(status=JobStatus.QUEUED, cursor="1"), None)
    assert store.get(job.id).cursor == "2"
    repeated = running.model_copy(update={"status": JobStatus.QUEUED})
    assert store.apply(job.id, repeated, "2").status is JobStatus.RUNNING
    assert len(history.read_events(store, job.id)) == 2
    done = Snapshot(
        status=JobStatus.SUCCEEDED, cursor="3", result=Result(kind="hosted", model="ft:m")
    )
    assert store.apply(job.id, done, "2").finished_at is not None
    assert store.apply(job.id, running, "3").status is JobStatus.SUCCEEDED
    assert store.fail(job.id, "too late").error is None


def test_an_unknown_status_is_neither_final_nor_a_step_back() -> None:
    """A provider's new word never replaces one we know."""
    unknown = JobStatus.parse("paused_by_moon")
    assert unknown is JobStatus.UNKNOWN and not unknown.final
    assert later(JobStatus.RUNNING, unknown) is JobStatus.RUNNING
    assert later(JobStatus.SUCCEEDED, JobStatus.FAILED) is JobStatus.SUCCEEDED


def test_steps_are_counted(store: Store) -> None:
    """``tries`` counts requests sent, not the notes made about them."""
    job, _ = store.add(record())
    store.set_step(job.id, "uploading")
    store.set_step(job.id, "creating")
    assert store.set_step(job.id, "creating", sending=False).tries == 2


def old_file(settings: Settings, version: int, *records: JobRecord) -> None:
    """The store as this version of it was written."""
    db = sqlite3.connect(settings.create().database)
    for step in schema.MIGRATIONS[:version]:
        step(db)
    db.execute(f"PRAGMA user_version = {version}")
    columns = [row[1] for row in db.execute("PRAGMA table_info(jobs)")]
    for one in records:
        values = [row_of(one)[name] for name in columns]
        marks = ", ".join("?" * len(columns))
        db.execute(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})", values)
    db.commit()
    db.close()


def test_ctrl_c_leaves_the_store_usable(store: Store) -> None:
    """At any line of a transaction, and while its exception is still handled."""
    job, _ = store.add(record())
    other = Store(store.settings)
    for number in itertools.count(1):
        try:
            with ctrl_c_at_line(number):
                store.set_phase(job.id, str(number))
            break
        except KeyboardInterrupt:
            try:
                store.set_phase(job.id, "after it")
            except StoreError as exc:
                pytest.fail(f"Ctrl-C at line {number}: {exc}")
        assert other.set_phase(job.id, "from elsewhere").phase == "from elsewhere"
    assert number > 10


def test_ctrl_c_in_a_new_home_locks_nobody_out(tmp_path: Path) -> None:
    """While the tables are made, and while its exception is still held, as in a notebook."""
    held = []
    for number in itertools.count(25, 40):
        home = tmp_path / str(number)
        try:
            with ctrl_c_at_line(number):
                Store(Settings(home)).add(record())
            break
        except KeyboardInterrupt as exc:
            held.append(exc)
        db = sqlite3.connect(home / "gateway.sqlite3", timeout=0)
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            pytest.fail(f"Ctrl-C at line {number}: {exc}")
        db.close()
    assert held


def test_an_old_file_is_brought_up_to_date(home: Path) -> None:
    """A file written by the first version gains what came later and keeps its jobs."""
    settings = Settings(home)
    old_file(settings, 1, record(id="ftg-old"))
    store = Store(settings)
    assert store.get("ftg-old").name == "train.jsonl"
    assert store.query("SELECT count(*) FROM runs").fetchone()[0] == 0


def test_refusals_of_an_old_file_are_no_doubts(home: Path) -> None:
    """Version 2 left the step 'creating' behind a refusal; only a job that was tried ten times
    may be with its provider. How long jobs took is not known of them."""
    shared: dict[str, Any] = {"step": "creating", "status": "failed"}
    refused = record(id="ftg-refused", tries=2, **shared)
    doubtful = record(id="ftg-doubtful", tries=10, **shared)
    running = record(id="ftg-running", tries=1, step="creating")
    settings = Settings(home)
    old_file(settings, 2, refused, doubtful, running)
    db = sqlite3.connect(settings.database)
    db.execute(
        "INSERT INTO runs (id, status, max_attempts, queued_at) VALUES ('r', 'queued', 5, 0)"
    )
    db.commit()
    db.close()
    store = Store(settings)
    steps = {job.id: job.step for job in store.jobs()}
    assert steps == {"ftg-refused": "intent", "ftg-doubtful": "creating", "ftg-running": "creating"}
    assert store.get("ftg-refused").seconds is None
    assert store.query("SELECT seconds FROM runs").fetchone()[0] == 0


def test_a_file_of_a_newer_version_is_left_alone(home: Path) -> None:
    """It says to upgrade instead of guessing."""
    settings = Settings(home).create()
    db = sqlite3.connect(settings.database)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="newer"):
        Store(settings).jobs()


def test_a_full_disk_and_a_broken_file_are_said_plainly(store: Store) -> None:
    """SQLite's errors come with the next step, and nothing half-written stays."""
    store.add(record())
    pages = store.query("PRAGMA page_count").fetchone()[0]
    store.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full.*Free some space"):
        for _ in range(100):
            store.add(record(estimate={"text": "x" * 4000}))
    assert store.query("PRAGMA integrity_check").fetchone()[0] == "ok"
    store.close()
    store.settings.database.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        store.jobs()


@pytest.mark.parametrize("damage", ["spec='5'", "spec='{'", "status='?', quote_usd='much'"])
def test_a_damaged_row_is_an_error_of_the_store(store: Store, damage: str) -> None:
    """In words that name the job, where it is read; a list goes on without it, and keeps why."""
    job, _ = store.add(record())
    with store.transaction() as db:
        db.execute(f"UPDATE jobs SET {damage}")
    for read in (lambda: store.get(job.id), lambda: store.select("TRUE", ())):
        with pytest.raises(StoreError, match=f"What the store has of {job.id} is damaged"):
            read()
    other, _ = store.add(record())
    assert [one.id for one in store.jobs()] == [other.id] and [*store.damaged] == [job.id]


def test_a_home_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError, match="is a file, where a folder has to be.*FTG_HOME"):
        Store(Settings(tmp_path / "home" / "deeper"))
