"""Prune: remove data that no job needs any more, here and at the hosts where this home has sent it.

Here go the copies, the rows and checkpoints of local jobs that ended long ago, and what killed
processes have left. A model never goes, and no job loses its history: that is ``removal``.

At a host go the uploads of these jobs, and all models of jobs that were removed. Only what this
home has sent or made there is asked for, by the ids that it has kept; an upload whose answer was
lost by its name, which is made from its content, and its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from finetune_gateway.backend import Backend, DataFile
from finetune_gateway.errors import BackendError, GatewayError, SpecError
from finetune_gateway.jobs import (
    accounts,
    compared,
    deletion,
    fetched,
    recordings,
    removal,
    uploads,
)
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.jobs.removal import ENDED_AT, Load
from finetune_gateway.jobs.store import LIVE, Store
from finetune_gateway.model import Model
from finetune_gateway.settings.sizes import bytes_of

Kind = Literal["copies", "leftovers", "run", "fetched", "recording", "compared", "file", "model"]

DEFAULT_DAYS = 30.0
DAY = 24 * 3600.0
SPREAD = 300.0  # seconds by which the host's clock may differ from ours


class Item(Model):
    """Something that is pruned. ``name``: of a run its job, of a file or a model its id at the
    ``host``. ``jobs``: those that it is of; of what was fetched, their ids at the host.
    ``set_aside``: checkpoints of a run among it that were damaged."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    kind: Kind
    name: str
    bytes: int = 0
    count: int = 1
    jobs: tuple[str, ...] = ()
    host: str = ""
    sha256: str = ""
    set_aside: int = 0


class Failed(Model):
    """Something that could not be removed, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    item: Item
    reason: str


class Pruned(Model):
    """What a prune has removed, what was kept because ``confirm`` said so, and what could not be
    removed. ``unknown``: hosts that could not be asked, and why."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    removed: tuple[Item, ...] = ()
    kept: tuple[Item, ...] = ()
    failed: tuple[Failed, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What was freed on this machine."""
        return sum(item.bytes for item in self.removed if not item.host)


Confirm = Callable[[list[Item]], bool]


class Pruner:
    """Prunes the data of one home. ``load``: returns the backend of a stored job. ``days``: for how
    long data stay after their job has ended. ``with_fetched``: what was fetched from hosts too, and
    recordings, so long after that: they may be in no other place, so an age has to be named."""

    def __init__(
        self, store: Store, load: Load, days: float, *, with_fetched: bool = False
    ) -> None:
        self.store = store
        self._load = load
        self._with_fetched = with_fetched
        self.before = time.time() - days * DAY

    # -- on this machine -----------------------------------------------------------------

    def here(self) -> list[Item]:
        """Return what would go on this machine."""
        copies = removal.unneeded_copies(self.store, self.before)
        left = [path for path in removal.leftovers(self.store.settings) if path.exists()]
        groups: list[tuple[Kind, list[Path]]] = [("copies", copies), ("leftovers", left)]
        items = [
            Item(kind=kind, name=kind, bytes=_bytes(paths), count=len(paths))
            for kind, paths in groups
            if paths
        ]
        named = (*self._old_fetched(), *self._old_recordings(), *self._old_compared())
        return [*items, *self._runs(), *named]

    def remove(self, item: Item) -> None:
        """Remove something on this machine. Raises StoreError."""
        if item.kind == "copies":
            removal.remove_copies(self.store, self.before)
        elif item.kind == "leftovers":
            removal.remove_leftovers(self.store.settings)
        elif item.kind == "fetched":
            settings = self.store.settings
            old = [one for one in fetched.manifests(settings) if one.job_id in item.jobs]
            removal.remove_fetched(settings, old)
        elif item.kind in ("recording", "compared"):
            self._remove_asked(item)
        else:
            for path in self._run_files(self.store.get(item.name)):
                deletion.delete(path)
            with self.store.transaction() as db:
                db.execute("DELETE FROM checkpoints WHERE job_id = ?", (item.name,))

    def _remove_asked(self, item: Item) -> None:
        """Remove what models were asked, unless somebody has gone on with it while the question was
        open."""
        if item.kind == "recording":
            for folder in recordings.old(self.store, self.before):
                if folder.name == item.name:
                    recordings.remove(self.store, folder)
            return
        for folder in compared.old(self.store, self.before):
            if compared.name_of(folder) == item.name:
                compared.remove(self.store, folder)

    def _runs(self) -> Iterator[Item]:
        """Yield the runs of old local jobs that have more than their model."""
        for record in self.store.select(
            "NOT hosted AND removed_at IS NULL AND provider_id IS NOT NULL"
            f" AND NOT ({LIVE}) AND {ENDED_AT} < ?",
            (self.before,),
        ):
            if paths := self._run_files(record):
                yield Item(
                    kind="run",
                    name=record.id,
                    bytes=_bytes(paths),
                    jobs=(record.id,),
                    set_aside=sum(map(_set_aside, paths)),
                )

    def _old_fetched(self) -> Iterator[Item]:
        """Yield what was fetched long ago, all of it as one."""
        settings = self.store.settings
        every = fetched.manifests(settings) if self._with_fetched else ()
        if old := [one for one in every if one.updated_at < self.before]:
            size = bytes_of(fetched.doomed(settings, old))
            jobs = tuple(one.job_id for one in old)
            yield Item(kind="fetched", name="fetched", bytes=size, count=len(old), jobs=jobs)

    def _old_recordings(self) -> Iterator[Item]:
        """Yield the recordings that nothing was added to for long, under the same condition."""
        for folder in recordings.old(self.store, self.before) if self._with_fetched else ():
            yield Item(kind="recording", name=folder.name, bytes=deletion.size(folder))

    def _old_compared(self) -> Iterator[Item]:
        """Yield the comparisons and kept answers of old, under the same condition."""
        for folder in compared.old(self.store, self.before) if self._with_fetched else ():
            yield Item(kind="compared", name=compared.name_of(folder), bytes=deletion.size(folder))

    def _run_files(self, record: JobRecord) -> list[Path]:
        if removal.trained_from(self.store, record, needing_it=True):  # perhaps a checkpoint
            return []
        try:
            return self._load(record).kept_files(record.provider_id or record.id, model=False)
        except GatewayError:  # its plug-in is gone, or its worker still writes
            return []

    # -- at hosts ------------------------------------------------------------------------

    def at_hosts(self) -> Iterator[Remote]:
        """Yield what this home has at hosts and no job needs, thing by thing."""
        records = self.store.select(
            "hosted AND NOT gone AND (provider_id IS NOT NULL OR tries > 0)"
            f" AND (removed_at IS NOT NULL OR (NOT ({LIVE}) AND {ENDED_AT} < ?))",
            (self.before,),
        )
        # Answered before the first of them is deleted, and its file forgotten.
        doubts = [self._may_have_lost(record) for record in records]
        for record, lost in zip(records, doubts, strict=True):
            yield Remote(record, self._load, self.store, lost)

    def _may_have_lost(self, record: JobRecord) -> bool:
        """Return True if a host may have an upload of this job whose answer was lost: its requests
        were not its create and, once each, the files that are known to be sent for it."""
        contents = {file.sha256 for file in record.given}
        try:
            backend = self._load(record)
            scope = uploads.scope_of(record, backend)
        except GatewayError:  # its plug-in is gone
            return True
        if type(backend).upload is Backend.upload:  # its rows went with the create
            return False
        times = [uploads.sent_at(self.store, scope, sha256) for sha256 in contents]
        sent = sum(at is not None and at >= record.created_at for at in times)
        return record.tries > 0 and (None in times or record.tries != sent + 1)


@dataclass(frozen=True)
class Remote:
    """What one job has at its host. ``lost``: perhaps an upload whose answer was lost."""

    record: JobRecord
    load: Load
    store: Store
    lost: bool

    def known(self) -> list[Item]:
        """Return what can be deleted, by the ids that this home has: uploads that no live job
        needs, and of a job that was removed its models. Asks no host."""
        return [*self._models(), *self._uploads()]

    def sought(self) -> list[Item]:
        """Return what the host has besides: uploads whose answers were lost, and checkpoints that
        it did not show while the job ran. Raises BackendError if it cannot be asked, and for the
        key of another account, to which it shows nothing."""
        backend = self.load(self.record)
        deletes = backend.capabilities().deletes
        wanted = [*self._models_seen(backend)] if "model" in deletes else []
        if not self.lost:
            return wanted
        if "file" not in deletes:
            raise backend.cannot_delete("uploaded files")
        self._require_account(backend)
        since, until = self.record.created_at - SPREAD, self.record.step_at + SPREAD
        for file in self._unneeded():
            data = DataFile(Path(file.path), file.sha256, file.rows, file.bytes)
            names = backend.find_uploads(data, since, until)
            wanted += [self._file(file, name) for name in names]
        return wanted

    def delete(self, item: Item) -> None:
        """Delete one of these. Raises BackendError, UnsupportedError; and AuthenticationError for
        the key of another account."""
        backend = self.load(self.record)
        if item.kind not in backend.capabilities().deletes:
            what = "uploaded files" if item.kind == "file" else "models"
            raise backend.cannot_delete(what)
        self._require_account(backend)
        if item.kind == "model":
            backend.delete_model(item.name)
            self._forget_model(item.name)
            return
        # First forgotten: an equal submit sends the file again, whenever it comes.
        with self.store.transaction() as db:
            if self._needed(item.sha256):
                raise SpecError(f"{item.name} is needed by a job that was submitted just now.")
            db.execute("DELETE FROM files WHERE remote_id = ?", (item.name,))
        backend.delete_file(item.name)
        with self.store.transaction() as db:
            change = "UPDATE jobs SET train_file_id = NULL WHERE train_file_id = ?"
            db.execute(f"{change} AND NOT ({LIVE})", (item.name,))

    def waits(self) -> bool:
        """Return True if an upload of the job stays for a while, for a job that has not ended."""
        return any(self._needed(file.sha256) for file in self.record.given)

    def mark_gone(self) -> None:
        """Commit that the host has nothing more of the job, by what is known here."""
        with self.store.transaction() as db:
            db.execute("UPDATE jobs SET gone = 1 WHERE id = ?", (self.record.id,))

    def _models(self) -> Iterator[Item]:
        if not self.record.removed:
            return
        names = [point.model for point in self.store.checkpoints(self.record.id)]
        if self.record.result is not None:
            names.append(self.record.result.model)  # last: while it is there, so may they be
        for name in dict.fromkeys(names):
            yield self._item("model", name)

    def _models_seen(self, backend: Backend) -> Iterator[Item]:
        """Yield the checkpoints of a job that was removed, as the host shows them now."""
        if not (self.record.removed and self.record.provider_id):
            return
        self._require_account(backend)
        try:
            snapshot = accounts.poll(self.record, backend)
        except BackendError as exc:
            if not exc.not_there:
                raise
            return
        for point in snapshot.checkpoints:
            yield self._item("model", point.model)

    def _uploads(self) -> Iterator[Item]:
        scope = uploads.scope_of(self.record, self.load(self.record))
        for file in self._unneeded():
            known = {uploads.find(self.store, scope, file.sha256, lasting=False)}
            if file is self.record.train:
                known.add(self.record.train_file_id)
            for name in sorted(filter(None, known)):
                yield self._file(file, name)

    def _unneeded(self) -> list[StoredFile]:
        """Return the files of the job that no live job needs."""
        return [file for file in self.record.given if not self._needed(file.sha256)]

    def _require_account(self, backend: Backend) -> None:
        """Raise AuthenticationError, or BackendError, unless the key is of the job's account."""
        if not accounts.proven(self.store, self.record, backend):
            raise accounts.not_proven(self.record, backend)

    def _file(self, file: StoredFile, name: str) -> Item:
        return self._item("file", name, bytes=file.bytes, sha256=file.sha256)

    def _item(self, kind: Kind, name: str, **more: Any) -> Item:
        return Item(kind=kind, name=name, jobs=(self.record.id,), host=self.record.host, **more)

    def _needed(self, sha256: str) -> bool:
        """Return True if a job that has not ended may train on this content at the same host."""
        content = "IN (json_extract(train, '$.sha256'), json_extract(validation, '$.sha256'))"
        place = "json_extract(backend_options, '$.base_url') IS ?"
        options = self.record.backend_options
        return bool(
            self.store.select(
                f"removed_at IS NULL AND {LIVE} AND backend = ? AND {place} AND ? {content}",
                (self.record.backend, options.get("base_url"), sha256),
            )
        )

    def _forget_model(self, name: str) -> None:
        """Drop the name of a model that is gone: it may have a suffix in it."""
        with self.store.transaction() as db:
            db.execute(
                "DELETE FROM checkpoints WHERE job_id = ? AND model = ?", (self.record.id, name)
            )
            db.execute(
                "UPDATE jobs SET result = NULL WHERE id = ?"
                " AND json_extract(result, '$.model') = ?",
                (self.record.id, name),
            )


def _set_aside(path: Path) -> int:
    """Return how many checkpoints below a path were set aside: see ``local/checkpoints.py``."""
    return sum(one.is_dir() for one in path.rglob("damaged-checkpoint-*"))


def _bytes(paths: Iterable[Path]) -> int:
    return sum(map(deletion.size, paths))


def prune(pruner: Pruner, confirm: Confirm, *, remote: bool) -> Pruned:
    """Remove what is old. ``confirm`` is called with all that is here at once, then with each thing
    at a host; what it says no to stays. Raises StoreError."""
    outcome = _Outcome()
    here = pruner.here()
    if here:
        agreed = confirm(here)
        (outcome.removed if agreed else outcome.kept).extend(here)
    for item in outcome.removed:
        pruner.remove(item)
    for one in pruner.at_hosts() if remote else ():
        _prune_host(one, confirm, outcome)
    if any(item.kind == "model" for item in outcome.removed):
        removal.erase(pruner.store.settings.database)  # their names may have a suffix in them
    return Pruned(
        removed=tuple(outcome.removed),
        kept=tuple(outcome.kept),
        failed=tuple(outcome.failed),
        unknown=tuple(outcome.unknown),
    )


@dataclass
class _Outcome:
    removed: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    done: dict[tuple[str, str], bool] = field(default_factory=dict)  # by host and id


def _prune_host(one: Remote, confirm: Confirm, outcome: _Outcome) -> None:
    """Delete what one job has at its host; what two jobs have in common once."""
    gone = True
    for look in (one.known, one.sought):
        try:
            items = look()
        except GatewayError as exc:
            reason = f"{one.record.host}: {exc}"
            outcome.unknown.extend([] if reason in outcome.unknown else [reason])
            gone = False
            continue
        for item in items:
            place = (item.host, item.name)
            if place not in outcome.done:
                outcome.done[place] = _delete(one, item, confirm, outcome)
            gone = gone and outcome.done[place]
    if gone and not one.waits():
        one.mark_gone()


def _delete(one: Remote, item: Item, confirm: Confirm, outcome: _Outcome) -> bool:
    if not confirm([item]):
        outcome.kept.append(item)
        return False
    try:
        one.delete(item)
    except GatewayError as exc:
        outcome.failed.append(Failed(item=item, reason=str(exc)))
        return False
    outcome.removed.append(item)
    return True
