"""The tables of the store, and the migrations that build them.

A migration is a numbered step. Old files are brought up to date when they are opened; a step that
was released never changes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import files
from finetune_gateway.settings.connections import Connection

MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = []

# In SQL: another job of the same host and account has the provider's id ``?2``.
HELD = (
    "EXISTS (SELECT 1 FROM jobs AS other WHERE other.provider_id = ?2 AND other.id != jobs.id"
    " AND other.backend = jobs.backend AND json_extract(other.backend_options, '$.base_url')"
    " IS json_extract(jobs.backend_options, '$.base_url')"
    " AND coalesce(other.account = jobs.account, TRUE))"
)


def migration(
    function: Callable[[sqlite3.Connection], None],
) -> Callable[[sqlite3.Connection], None]:
    """Add a migration; its number is its position in the list."""
    MIGRATIONS.append(function)
    return function


@migration
def m001_jobs(db: sqlite3.Connection) -> None:
    db.execute(
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY, created_at REAL NOT NULL, name TEXT NOT NULL,
            backend TEXT NOT NULL, backend_options TEXT NOT NULL, hosted INTEGER NOT NULL,
            spec TEXT NOT NULL, train TEXT NOT NULL, validation TEXT, system_prompt TEXT,
            estimate TEXT, submit_key TEXT NOT NULL,
            step TEXT NOT NULL, step_at REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
            provider_id TEXT, status TEXT NOT NULL, raw_status TEXT NOT NULL DEFAULT '',
            phase TEXT NOT NULL DEFAULT '', error TEXT, cursor TEXT, polled_at REAL,
            trained_tokens INTEGER, finished_at REAL, result TEXT, handle TEXT)"""
    )
    # One live job per submit key: two submitters in the same millisecond get the same job.
    db.execute(
        """CREATE UNIQUE INDEX jobs_live ON jobs (submit_key)
            WHERE status NOT IN ('succeeded', 'failed', 'cancelled')"""
    )
    db.execute(
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL REFERENCES jobs (id),
            event_id TEXT NOT NULL, created_at REAL NOT NULL, level TEXT NOT NULL,
            type TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL,
            UNIQUE (job_id, event_id))"""
    )
    db.execute(
        """CREATE TABLE checkpoints (
            job_id TEXT NOT NULL REFERENCES jobs (id), id TEXT NOT NULL, step INTEGER NOT NULL,
            model TEXT NOT NULL, metrics TEXT NOT NULL, PRIMARY KEY (job_id, id))"""
    )
    db.execute(
        """CREATE TABLE files (
            scope TEXT NOT NULL, sha256 TEXT NOT NULL, remote_id TEXT NOT NULL,
            uploaded_at REAL NOT NULL, PRIMARY KEY (scope, sha256))"""
    )


@migration
def m002_runs(db: sqlite3.Connection) -> None:
    # The queue of local jobs; see backends/local/queue.py. `fence` counts workers: one
    # may only write while its number is the newest. `attempts` counts those that began to train.
    db.execute(
        """CREATE TABLE runs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL, phase TEXT NOT NULL DEFAULT '',
            fence INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
            max_attempts INTEGER NOT NULL, pid INTEGER, slot TEXT, heartbeat_at REAL,
            cancel_at REAL, error TEXT, result TEXT, trained_tokens INTEGER,
            queued_at REAL NOT NULL, finished_at REAL)"""
    )


@migration
def m003_costs(db: sqlite3.Connection) -> None:
    # How long a job took, for its bill, and the jobs of a month, for the budget.
    db.execute("ALTER TABLE jobs ADD COLUMN seconds REAL")
    db.execute("ALTER TABLE runs ADD COLUMN seconds REAL NOT NULL DEFAULT 0")
    db.execute("CREATE INDEX jobs_created ON jobs (created_at)")
    # A job that failed in the step 'creating' is now one that may have been created; until here
    # the step was left behind by refusals too. Only 10 doubtful tries (MAX_TRIES) are a doubt.
    db.execute(
        "UPDATE jobs SET step = 'intent' WHERE status IN ('failed', 'cancelled')"
        " AND provider_id IS NULL AND tries < 10"
    )


@migration
def m004_doubts(db: sqlite3.Connection) -> None:
    # What a job that may have been created is recognised by: the time of its first create and the
    # provider's id of its file. `settled`: a person said that it was not created.
    db.execute("ALTER TABLE jobs ADD COLUMN sent_at REAL")
    db.execute("ALTER TABLE jobs ADD COLUMN train_file_id TEXT")
    db.execute("ALTER TABLE jobs ADD COLUMN settled INTEGER NOT NULL DEFAULT 0")


@migration
def m005_metadata(db: sqlite3.Connection) -> None:
    # The user's own pairs of key and value: a JSON object of texts.
    db.execute("ALTER TABLE jobs ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'")


@migration
def m006_turns(db: sqlite3.Connection) -> None:
    # Until when a job that was turned away waits here, and how often it was turned away.
    db.execute("ALTER TABLE jobs ADD COLUMN not_before REAL")
    db.execute("ALTER TABLE jobs ADD COLUMN turned_away INTEGER NOT NULL DEFAULT 0")


@migration
def m007_accounts(db: sqlite3.Connection) -> None:
    # `account`: the fingerprint of the first key that was seen of it. `keys` has the others, and
    # those that are certainly of an account of their own. Of old jobs the account is not known.
    db.execute("ALTER TABLE jobs ADD COLUMN account TEXT")
    db.execute("CREATE TABLE keys (fingerprint TEXT PRIMARY KEY, account TEXT NOT NULL)")
    # The same submit with the key of another account is another job.
    db.execute("DROP INDEX jobs_live")
    db.execute(
        """CREATE UNIQUE INDEX jobs_live ON jobs (submit_key, coalesce(account, ''))
            WHERE status NOT IN ('succeeded', 'failed', 'cancelled')"""
    )
    # The scope of a file was [backend, identity] with the name of the key's variable in it.
    rows = db.execute("SELECT * FROM files ORDER BY uploaded_at").fetchall()
    for scope, sha256, remote_id, at in rows:
        backend, identity = json.loads(scope)
        identity.pop("api_key_env", None)
        db.execute("DELETE FROM files WHERE scope = ? AND sha256 = ?", (scope, sha256))
        db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (json.dumps([backend, identity, None], sort_keys=True), sha256, remote_id, at),
        )


@migration
def m008_clocks(db: sqlite3.Connection) -> None:
    # The time of day can be set; `step_clock` is the same moment by a clock that cannot.
    db.execute("ALTER TABLE jobs ADD COLUMN step_clock TEXT")


@migration
def m009_resumes(db: sqlite3.Connection) -> None:
    # How often a job was led out of failed or cancelled. A run acts on each number once; its
    # `first_fence` is where the count of workers of this attempt begins.
    db.execute("ALTER TABLE jobs ADD COLUMN resumes INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE runs ADD COLUMN resumes INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE runs ADD COLUMN first_fence INTEGER NOT NULL DEFAULT 0")


@migration
def m010_allowed(db: sqlite3.Connection) -> None:
    # The private data that a job may send: a JSON object of kinds, and how often each was found.
    db.execute("ALTER TABLE jobs ADD COLUMN allowed TEXT NOT NULL DEFAULT '{}'")


@migration
def m011_removed(db: sqlite3.Connection) -> None:
    # When the texts of a job were removed; `erased` once nothing of them is left in any file.
    # `gone`: of its uploads, and of its model if that is to go, the host has nothing more.
    db.execute("ALTER TABLE jobs ADD COLUMN removed_at REAL")
    db.execute("ALTER TABLE jobs ADD COLUMN erased INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE jobs ADD COLUMN gone INTEGER NOT NULL DEFAULT 0")
    # Until when a host keeps an upload; of one that it keeps until it is deleted, nothing.
    db.execute("ALTER TABLE files ADD COLUMN expires_at REAL")


@migration
def m012_charges(db: sqlite3.Connection) -> None:
    # Money that is spent without a job; see charges.py. `reserved_usd` is what one may take of its
    # month until it has ended, then `spent_usd`; texts, because they are exact.
    db.execute(
        """CREATE TABLE charges (
            id TEXT PRIMARY KEY, created_at REAL NOT NULL, name TEXT NOT NULL,
            backend TEXT NOT NULL, host TEXT NOT NULL, model TEXT NOT NULL,
            cost TEXT, prices TEXT NOT NULL, reserved_usd TEXT NOT NULL,
            spent_usd TEXT, basis TEXT NOT NULL DEFAULT '', ended_at REAL)"""
    )
    db.execute("CREATE INDEX charges_created ON charges (created_at)")


@migration
def m013_azure_training(db: sqlite3.Connection) -> None:
    # How Azure trains was no choice: each create was sent with trainingType GlobalStandard.
    db.execute(
        "UPDATE jobs SET backend_options = json_set(backend_options, '$.azure_training', 'global')"
        " WHERE backend = 'openai' AND json_extract(backend_options, '$.profile') = 'azure'"
        " AND json_extract(backend_options, '$.azure_training') IS NULL"
    )


@migration
def m014_held_out(db: sqlite3.Connection) -> None:
    # The rows that a job holds out and keeps here: a file as `train` is. And which share they are.
    db.execute("ALTER TABLE jobs ADD COLUMN held_out TEXT")
    db.execute("ALTER TABLE jobs ADD COLUMN held_out_share REAL")


@migration
def m015_columns(db: sqlite3.Connection) -> None:
    # Columns of the user's data: a JSON object of names, and the keys that they were read as.
    db.execute("ALTER TABLE jobs ADD COLUMN columns TEXT NOT NULL DEFAULT '{}'")


@migration
def m016_figures(db: sqlite3.Connection) -> None:
    # What the host says of a job: its cost so far (a text, because it is exact), how much of it is
    # done (0 to 1), and its place in line.
    db.execute("ALTER TABLE jobs ADD COLUMN cost_usd TEXT")
    db.execute("ALTER TABLE jobs ADD COLUMN progress REAL")
    db.execute("ALTER TABLE jobs ADD COLUMN place_in_line INTEGER")


@migration
def m017_quote(db: sqlite3.Connection) -> None:
    # USD, as text: the limit of the submit, and what the host has asked before it was created.
    db.execute("ALTER TABLE jobs ADD COLUMN max_cost_usd TEXT")
    db.execute("ALTER TABLE jobs ADD COLUMN quote_usd TEXT")


@migration
def m018_events(db: sqlite3.Connection) -> None:
    # Those of one job in their order, from any place on; SQLite adds `seq` to each index.
    db.execute("CREATE INDEX events_of_job ON events (job_id)")


@migration
def m019_line(db: sqlite3.Connection) -> None:
    # When a local job begins: see backends/local/line.py. `after`: a JSON list of runs that must
    # have succeeded; `devices`: one of the slots that it may take, NULL for any. `pid_start`: what
    # its worker has beside its number; `seconds_left`: of its training, as it says itself.
    for column in (
        "priority INTEGER NOT NULL DEFAULT 0",
        "after TEXT NOT NULL DEFAULT '[]'",
        "start_at REAL",
        "devices TEXT",
        "pause_at REAL",
        "pid_start TEXT",
        "seconds_left REAL",
    ):
        db.execute(f"ALTER TABLE runs ADD COLUMN {column}")
    db.execute("CREATE INDEX runs_live ON runs (status) WHERE status IN ('queued', 'running')")
    # As they were submitted, and when it is expected to begin.
    db.execute("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE jobs ADD COLUMN after TEXT NOT NULL DEFAULT '[]'")
    db.execute("ALTER TABLE jobs ADD COLUMN start_at REAL")
    db.execute("ALTER TABLE jobs ADD COLUMN expected_start_at REAL")


@migration
def m020_deaths(db: sqlite3.Connection) -> None:
    # Of a local job. `death`: how its last worker died, as JSON (backends/local/deaths.py);
    # `saved_step`: of the last checkpoint since the deaths are counted. What its worker says of its
    # progress: the step, when it made some (on the clock of this run of the machine), how long a
    # step takes, the most memory it had, and after how long without progress it is killed.
    for column in (
        "death TEXT",
        "saved_step INTEGER NOT NULL DEFAULT -1",
        "step INTEGER",
        "progress_at REAL",
        "step_seconds REAL",
        "peak_bytes INTEGER",
        "hang_seconds REAL",
    ):
        db.execute(f"ALTER TABLE runs ADD COLUMN {column}")


@migration
def m021_more(db: sqlite3.Connection) -> None:
    # Fields of an event or a checkpoint that this version does not know, as JSON; NULL for none.
    db.execute("ALTER TABLE events ADD COLUMN more TEXT")
    db.execute("ALTER TABLE checkpoints ADD COLUMN more TEXT")


def connect(path: Path) -> Connection:
    """Open the database, with the newest tables. Raises StoreError if it is newer than we are."""
    with suppress(OSError):  # SQLite says why it cannot be opened
        files.make_private(path)  # its -wal and -shm get the mode of the database
    db = _open(str(path))
    with _closed_on_error(db):
        db.execute("PRAGMA busy_timeout = 30000")
        _write_ahead(db, path)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        _migrate(db)
    return db


def connect_read_only(path: Path) -> Connection:
    """Open the database of a home that cannot be written, and write nothing beside it either. One
    of an earlier version is copied into memory, where it gets the newest tables. Raises StoreError
    if it is newer than we are, or if there are commits in a -wal that cannot be read."""
    shared, log = (path.with_name(f"{path.name}-{end}") for end in ("shm", "wal"))
    if shared.exists():
        # Of processes that have it open, or had until they died. SQLite would make it otherwise.
        mode = "mode=ro&readonly_shm=1"
    elif log.exists() and log.stat().st_size:
        raise StoreError(
            f"The last changes of the store are in {log}, which cannot be read without writing.",
            hint="Copy the home folder to where you may write, and set FTG_HOME to the copy.",
        )
    else:
        # All is in the one file. Without a -shm, mode=ro alone cannot open it.
        mode = "mode=ro&immutable=1"
    db = _open(f"{path.absolute().as_uri()}?{mode}")
    with _closed_on_error(db):
        if _version(db) < len(MIGRATIONS):
            stored, db = db, _open(":memory:")
            stored.backup(db)
            stored.close()
        _migrate(db)
        db.execute("PRAGMA query_only = ON")
    return db


@contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[None]:
    """Close a connection that cannot be used, for Ctrl-C too: a transaction of a held traceback
    would lock others out."""
    try:
        yield
    except BaseException:
        db.close()
        raise


def _open(name: str) -> Connection:
    """Open a database by its path or its URI. ``Connections`` lends it to one thread at a time."""
    db = sqlite3.connect(
        name,
        timeout=30,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
        uri=name.startswith("file:"),
    )
    db.row_factory = sqlite3.Row
    return db


def _version(db: sqlite3.Connection) -> int:
    number: int = db.execute("PRAGMA user_version").fetchone()[0]
    return number


def _write_ahead(db: sqlite3.Connection, path: Path) -> None:
    """Switch a new database to WAL, one connection at a time: of two that switch at once, SQLite
    refuses one without waiting for its busy_timeout. The file remembers the mode."""
    if db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    with files.locking(path.with_name(f"{path.name}-create")):
        db.execute("PRAGMA journal_mode = WAL")


def _migrate(db: sqlite3.Connection) -> None:
    """Run the migrations that this file lacks, all in one transaction: each commit waits for the
    disk, and a new file lacks all of them."""
    if _version(db) < len(MIGRATIONS):
        db.execute("BEGIN IMMEDIATE")
        # Read again with the write lock: another process may have been faster.
        if missing := MIGRATIONS[_version(db) :]:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for step in missing:
                    step(db)
            else:
                for statement in _newest_tables():
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    if _version(db) > len(MIGRATIONS):
        raise StoreError(
            "The store was written by a newer finetune-gateway.",
            hint="Upgrade, or set another FTG_HOME.",
        )


@cache
def _newest_tables() -> list[str]:
    """Return what makes the tables and indexes of today in an empty file, as the migrations leave
    them. One after another they take 3 ms of each new home."""
    with closing(sqlite3.connect(":memory:")) as db:
        for step in MIGRATIONS:
            step(db)
        made = "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY rowid"
        return [sql for (sql,) in db.execute(made)]


def advice(text: str) -> str:
    """Return what to do about an error of SQLite."""
    if "full" in text or "I/O" in text:
        return "Free some space on that disk; nothing that was committed is lost."
    if "locked" in text:
        return (
            "Another process has held it for 30 s; is FTG_HOME on a network disk? Use a local one."
        )
    if "readonly" in text or "unable to open" in text:
        return "Check that you may write there, or set FTG_HOME to another folder."
    return "Move the file away to start again, and keep it: jobs may be read from it."
