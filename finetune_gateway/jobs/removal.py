"""Remove jobs: every text of theirs goes, and what they cost stays.

In this order, so that a removal that is killed anywhere can be finished by the next one:

1. The rows of the store lose their texts, in one transaction.
2. The copies of the data that no other job needs, and what the backend has kept, are deleted.
3. The database is written anew, without free pages, and its write-ahead log is emptied.
4. The job is marked as ``erased``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ConfigDict

from finetune_gateway.backend import Backend
from finetune_gateway.errors import GatewayError, JobRemoved, SpecError, StoreError
from finetune_gateway.events import Result
from finetune_gateway.jobs import added_models, charges, compared, downloads, fetched, schema
from finetune_gateway.jobs.budget import Quote
from finetune_gateway.jobs.deletion import delete, size
from finetune_gateway.jobs.fetched import Manifest
from finetune_gateway.jobs.records import JobRecord, StoredFile, row_of
from finetune_gateway.jobs.store import LIVE, Store
from finetune_gateway.model import Model
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.sizes import bytes_of
from finetune_gateway.spec import TrainingSpec

Load = Callable[[JobRecord], Backend]

# In SQL: the contents of the copies of a job.
_HASHES = [f"json_extract({name}, '$.sha256')" for name in ("train", "validation", "held_out")]
ENDED_AT = "coalesce(finished_at, step_at)"  # in SQL: when a job that has ended did so


class Removed(Model):
    """What is removed of one job. ``bytes``: of files on this machine. ``shared_with``: jobs that
    need the same copy of the data, which stays. ``left``: what is not removed, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    job_id: str
    bytes: int = 0
    events: int = 0
    shared_with: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Remover:
    """Removes jobs of one store. ``load``: returns the backend of a stored job."""

    def __init__(self, store: Store, load: Load) -> None:
        self.store = store
        self._load = load

    def plan(self, records: Sequence[JobRecord]) -> list[Removed]:
        """Return what ``remove`` would remove, and change nothing. Raises SpecError for a job that
        has not ended, or whose model another job was trained from."""
        going = {record.id for record in records}
        for record in records:
            self._require_removable(record, going)
        return [self._look(record, going) for record in records]

    def remove(self, records: Sequence[JobRecord]) -> list[Removed]:
        """Remove the texts of these jobs, and what an earlier removal has left; return what went.

        Raises as ``plan`` does, and StoreError for what could not be deleted: calling it again
        finishes.
        """
        removed = self.plan(records)
        going = {record.id for record in records}
        with self.store.transaction():
            for name in going:
                self._strip(name, going)
        self._finish()
        return removed

    # -- before ----------------------------------------------------------------------------

    def _require_removable(self, record: JobRecord, going: set[str]) -> None:
        if record.removed:
            return
        if not (record.status.final or record.ended_otherwise):
            raise SpecError(
                f"{record.id} has not ended (it is {record.status}), so it is not removed.",
                hint=f"Cancel it first: ftg cancel {record.id}",
            )
        made = ((record.handle or {}).get("deployment") or {}).get("made_at")
        if made or charges.of_deployments(self.store, record.id):
            raise SpecError(
                f"{record.id} is not removed: its deployment goes on, and costs.",
                hint=f"End it first: ftg deploy {record.id} --delete",
            )
        if others := [one for one in trained_from(self.store, record) if one not in going]:
            raise SpecError(
                f"{record.id} is not removed: {', '.join(others)} was trained from its model.",
                hint=f"Remove them together: ftg rm {record.id} {' '.join(others)}",
            )

    def _look(self, record: JobRecord, going: set[str]) -> Removed:
        if record.removed:
            return Removed(job_id=record.id)
        shared = {file.sha256: self._needing(file, going) for file in record.files}
        own = [
            path
            for file in record.files
            if not shared[file.sha256]
            for path in (Path(file.path), *encoded(self.store.settings, file.sha256))
        ]
        left: list[str] = []
        kept = [*self._kept(record, left), *self._archived(record)]
        kept += compared.of_job(self.store, record)
        left += self._of_nobody()
        count = self.store.query("SELECT count(*) FROM events WHERE job_id = ?", (record.id,))
        if record.hosted and not record.gone and (record.provider_id or record.tries):
            left.append(f"its data and its model at {record.host}: ftg prune --remote")
        return Removed(
            job_id=record.id,
            bytes=bytes_of({*own, *kept}),
            events=count.fetchone()[0],
            shared_with=tuple(sorted({job for jobs in shared.values() for job in jobs})),
            left=tuple(left),
        )

    def _needing(self, file: StoredFile, going: set[str]) -> list[str]:
        """Return the jobs besides those that go which need a copy of this content."""
        columns = ", ".join(_HASHES)
        records = self.store.select(f"removed_at IS NULL AND ? IN ({columns})", (file.sha256,))
        return [record.id for record in records if record.id not in going]

    def _kept(self, record: JobRecord, left: list[str]) -> list[Path]:
        """Return what the backend has kept of a job on this machine; add to ``left`` why that is
        not known."""
        if record.hosted:
            return []
        try:
            backend = self._load(record)
        except GatewayError as exc:  # its plug-in is gone
            left.append(f"what backend {record.backend!r} has kept itself: {exc.message}")
            return []
        return backend.kept_files(record.provider_id or record.id)

    def _of_nobody(self) -> list[str]:
        """Return what may be of any job: nobody can tell, so only its name removes it."""
        names = map(compared.name_of, compared.of_nobody(self.store.settings))
        return [
            f"{name}, if it is of its model: that cannot be read there. To remove it: ftg rm {name}"
            for name in names
        ]

    def _archived(self, record: JobRecord) -> list[Path]:
        """Return what was fetched of a job, and what was added of its model."""
        settings = self.store.settings
        names = [record.result.model] if record.result else []
        added = [path for name in names if (path := added_models.path(settings, name)).exists()]
        found = fetched.of_job(settings, record.host, record.provider_id or "")
        added += downloads.of_job(settings, record.id)
        return [*added, *(fetched.doomed(settings, [found]) if found else ())]

    # -- the rows ----------------------------------------------------------------------------

    def _strip(self, job_id: str, going: set[str]) -> None:
        """Take all texts out of the rows of a job. Inside a transaction."""
        record = self.store.get(job_id)
        if record.removed:
            return
        self._require_removable(record, going)  # another process may have resumed it
        row = row_of(without_texts(record), self.store.settings.stored_path)
        columns = ", ".join(f"{name} = ?" for name in row)
        query = self.store.query
        query(f"UPDATE jobs SET {columns} WHERE id = ?", (*row.values(), job_id))
        query("DELETE FROM events WHERE job_id = ?", (job_id,))
        if record.hosted:  # by these names their models can be deleted at the host
            query("UPDATE checkpoints SET metrics = '{}', more = NULL WHERE job_id = ?", (job_id,))
        else:
            query("DELETE FROM checkpoints WHERE job_id = ?", (job_id,))
        query("DELETE FROM runs WHERE id IN (?, ?)", (job_id, record.provider_id))

    # -- the files ---------------------------------------------------------------------------

    def _finish(self) -> None:
        """Delete the files of all jobs whose rows have no texts any more, and erase what the
        database has left of them."""
        stripped = self.store.select("removed_at IS NOT NULL AND NOT erased", ())
        whole = []
        for record in stripped:
            unknown: list[str] = []
            for path in (*self._kept(record, unknown), *self._archived(record)):
                delete(path)
            for folder in compared.of_job(self.store, record):
                compared.remove(self.store, folder)
            if not unknown:
                whole.append(record.id)
        remove_copies(self.store)
        remove_leftovers(self.store.settings)
        if not stripped:
            return
        erase(self.store.settings.database)
        with self.store.transaction() as db:
            db.executemany("UPDATE jobs SET erased = 1 WHERE id = ?", [(one,) for one in whole])


def without_texts(record: JobRecord) -> JobRecord:
    """Return what stays of a job: when and where it ran, on which model, with which hashes, and all
    that its cost is made of."""
    quote = None if record.estimate is None else Quote.of(record).model_dump(mode="json")
    spec = TrainingSpec(model=record.spec.model, method=record.spec.method)
    result = record.result if record.hosted else None
    return record.model_copy(
        update={
            "name": "",
            "columns": {},
            # What a plug-in for this machine keeps there may be texts, such as scripted answers.
            "backend_options": record.backend_options if record.hosted else {},
            "spec": spec,
            "system_prompt": None,
            "estimate": quote,
            "metadata": {},
            "submit_key": f"removed {record.id}",  # an equal submit is a new job
            "raw_status": "",
            "phase": "",
            "error": None,
            "cursor": None,
            "result": result and Result(kind="hosted", model=result.model),
            "handle": None,
            "removed_at": time.time(),
            "gone": False,  # until its model is gone too
        }
    )


def trained_from(store: Store, record: JobRecord, *, needing_it: bool = False) -> list[str]:
    """Return the jobs that were trained from the model of a local job; ``needing_it``: those whose
    base it is, and those that have no copy of its adapter yet."""
    records = store.select(
        "removed_at IS NULL AND NOT hosted AND id != ?1"
        " AND (instr(json_extract(spec, '$.model'), ?1)"
        " OR (instr(coalesce(json_extract(spec, '$.continue_from'), ''), ?1) = 1"
        f" AND (?2 OR (provider_id IS NULL AND {LIVE}))))",
        (record.id, not needing_it),
    )
    return [one.id for one in records]


def require_kept(record: JobRecord) -> None:
    """Raise JobRemoved for a job that was removed."""
    if record.removed_at is not None:
        day = time.strftime("%Y-%m-%d", time.gmtime(record.removed_at))
        raise JobRemoved(
            f"Job {record.id} was removed on {day}: only what it cost is kept.",
            hint="See: ftg list --costs",
            job_id=record.id,
        )


# -- what was fetched --------------------------------------------------------------------------


class Forgotten(Model):
    """What is removed of a fine-tune that was fetched or added: it stays at its host."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    host: str = ""
    bytes: int = 0
    model: str | None = None


def forgettable(settings: Settings, name: str) -> list[Forgotten]:
    """Return what ``forget`` would remove: of a model of a host, a checkpoint, or a job there."""
    going = fetched.find(settings, name)
    models = {name, *(one.model for one in going if one.model)}
    added = [path for one in models if (path := added_models.path(settings, one)).exists()]
    found = [
        Forgotten(
            name=one.job_id,
            host=one.host,
            model=one.model,
            bytes=bytes_of(fetched.doomed(settings, [one])),
        )
        for one in going
    ]
    if added and not found:
        return [Forgotten(name=name, model=name, bytes=bytes_of(added))]
    return found


def forget(settings: Settings, name: str) -> list[Forgotten]:
    """Remove what was fetched and added of a model of a host, a checkpoint, or a job there; return
    what went. Raises StoreError for what cannot be deleted, and while a process fetches: calling it
    again finishes."""
    removed = forgettable(settings, name)
    going = fetched.find(settings, name)
    for model in {name, *(one.model for one in going if one.model)}:
        if (path := added_models.path(settings, model)).exists():
            delete(path)
    remove_fetched(settings, going)
    return removed


def remove_fetched(settings: Settings, going: Sequence[Manifest]) -> None:
    """Remove what was fetched of these jobs of hosts. Raises StoreError as ``forget`` does."""
    if not settings.fetched.is_dir():
        return
    with fetched.writing(settings):
        for path in fetched.doomed(settings, going):
            delete(path)
        fetched.tidy(settings)


# -- copies and what dead processes have left --------------------------------------------------


def remove_copies(store: Store, before: float = 0.0) -> int:
    """Remove the copies of data that no job needs: a job that was removed needs none, and one that
    ended ``before`` a moment neither. Return their bytes."""
    # Nobody can store a job in the meantime that names one of them.
    with store.transaction():
        going = unneeded_copies(store, before)
        freed = sum(map(size, going))
        for path in going:
            delete(path)
    return freed


def unneeded_copies(store: Store, before: float = 0.0) -> list[Path]:
    """Return the copies that ``remove_copies`` would remove, rows as token ids among them."""
    rows = store.query(
        f"SELECT {', '.join(_HASHES)} FROM jobs"
        f" WHERE removed_at IS NULL AND ({LIVE} OR {ENDED_AT} >= ?)",
        (before,),
    )
    needed = {sha256 for row in rows for sha256 in row}
    copies = (*store.settings.files.glob("*.jsonl"), *encoded(store.settings))
    return [path for path in copies if _content(path) not in needed]


def encoded(settings: Settings, content: str = "*") -> list[Path]:
    """Return what is kept of data as token ids: of a content by its sha256, else of all."""
    return [*settings.encoded.glob(f"{content}-*.arrow")]


def _content(copy: Path) -> str:
    """Return the sha256 of the data that a copy has: its name begins with it."""
    return copy.stem.partition("-")[0]


def overdue(store: Store, before: float) -> int:
    """Return how many jobs ended ``before`` a moment and still have rows here."""
    copies = {_content(path) for path in unneeded_copies(store, before)}
    old = store.select(f"removed_at IS NULL AND NOT ({LIVE}) AND {ENDED_AT} < ?", (before,))
    runs = store.settings.runs
    return sum(
        any(file.sha256 in copies for file in record.files)
        or (runs / (record.provider_id or record.id) / "data").exists()
        for record in old
    )


def leftovers(settings: Settings) -> list[Path]:
    """Return what killed processes and earlier versions have left of rows."""
    copies = files.left_folders(settings.files, settings.locks, "submit")
    spooled = files.left_folders(settings.spool, settings.spool, "rows")
    return [
        *settings.files.glob(".*.tmp.*"),
        *settings.encoded.glob(".*.tmp.*"),
        *settings.spool.glob("*.jsonl"),
        *copies,
        *spooled,
        *(files.lock_of(folder, settings.locks) for folder in copies),
        *(files.lock_of(folder, settings.spool) for folder in spooled),
        *fetched.leftovers(settings),
    ]


def remove_leftovers(settings: Settings) -> int:
    """Remove these; return their bytes."""
    going = leftovers(settings)
    freed = sum(map(size, going))
    for path in going:
        delete(path)
    return freed


# -- the database ------------------------------------------------------------------------------


def erase(path: Path) -> None:
    """Write the database anew, so that its file and its log have nothing of what was deleted.

    A row that is deleted or changed leaves its old text in free pages, in gaps between rows and in
    the write-ahead log: VACUUM copies the rows into pages that are zero elsewhere
    (``secure_delete``), by way of memory and not of a file in /tmp, and a checkpoint puts these
    into the file and cuts the log to nothing. Raises StoreError while another process reads.
    """
    db = schema.connect(path)
    try:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("VACUUM")
        busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as exc:
        raise _not_erased(path, str(exc)) from exc
    finally:
        db.close()
    if busy:
        raise _not_erased(path, "another process is reading it")


def _not_erased(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path} still has what was deleted from it: it cannot be written anew ({reason}).",
        hint="Run the same command again when that has changed: it goes on from there.",
    )
