"""From the intent to a provider's id: a share of the budget, the files once, the job once.

Knows the store and the calls of a backend. What is said here of doubts, and why, is in
docs/decisions/0002-exactly-once.md; of the budget in docs/decisions/0005-budget.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from finetune_gateway.backend import Backend, DataFile
from finetune_gateway.errors import BackendError, BudgetError, GatewayError
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs.records import JobRecord, StoredFile
from finetune_gateway.jobs.store import Store

MAX_TRIES = 10  # requests that may change something, per job, before we give up


class Submitter:
    """Sends jobs of one store, each once. ``cap``: what all jobs of a month may cost, in USD."""

    def __init__(
        self,
        store: Store,
        cap: Callable[[], Decimal | None],
        load: Callable[[JobRecord], Backend],
    ) -> None:
        self.store = store
        self._cap = cap
        self._load = load

    def submit(self, intent: JobRecord, backend: Backend) -> JobRecord:
        """Commit the intent, with its share of the budget, and send it; the live job with the
        same key is returned instead, if there is one. Raises BudgetError, BackendError."""
        # Held from before the intent is there: only a dead submitter leaves its job unlocked.
        with self.store.lock(intent.id):
            record, added = self._insert_within_budget(intent, backend)
            if added:
                return self._send(record, backend, first=True)
        if record.step == "intent":  # its submitter may have died before it sent anything
            return self.advance(record, backend)
        return record

    def advance(self, record: JobRecord, backend: Backend) -> JobRecord:
        """Go on with a job that has no provider's id, unless another process is at it."""
        with self.store.lock(record.id) as mine:
            record = self.store.get(record.id)
            return self._send(record, backend, first=False) if mine else record

    def resume(self, record: JobRecord, backend: Backend) -> JobRecord:
        """The same for someone who looks at the job: when it is refused, the reason is stored."""
        try:
            return self.advance(record, backend)
        except (BackendError, BudgetError):
            if not self.store.get(record.id).status.final:
                raise
            return self.store.get(record.id)

    # -- money ---------------------------------------------------------------------------

    def budget(self, moment: float, without: str = "") -> budgets.Budget:
        """The month of ``moment`` as all jobs leave it, or all but the one named."""
        month, start, end = budgets.month_of(moment)
        records = (one for one in self.store.created(start, end) if one.id != without)
        return budgets.budget(records, month, self._cap(), self.store.is_being_sent)

    def _insert_within_budget(self, intent: JobRecord, backend: Backend) -> tuple[JobRecord, bool]:
        """Commit the intent if its month has room for it, both in one transaction."""
        added = False
        try:
            record, added = self._insert(intent, backend)
        finally:
            if not added:
                self.store.drop_lock(intent.id)
        return record, added

    def _insert(self, intent: JobRecord, backend: Backend) -> tuple[JobRecord, bool]:
        try:
            return self.store.add(intent, lambda: self._reserve(intent))
        except BudgetError:
            if not self._reconcile_orphans(intent, backend):
                raise
        return self.store.add(intent, lambda: self._reserve(intent))

    def _reserve(self, record: JobRecord) -> None:
        """Raises BudgetError. Inside a transaction nobody else can take the same room."""
        if self._cap() is not None:
            budgets.admit(record, self.budget(record.created_at, without=record.id))

    def _reconcile_orphans(self, intent: JobRecord, backend: Backend) -> bool:
        """Look up jobs of the month whose submitters died while they created them; True when one
        was not there and has given its share back."""
        _, start, end = budgets.month_of(intent.created_at)
        doubtful = [
            one
            for one in self.store.created(start, end)
            if one.step == "creating" and one.provider_id is None and not one.status.final
        ]
        return any([self._reconcile(one, backend) for one in doubtful])

    def _reconcile(self, record: JobRecord, backend: Backend) -> bool:
        with self.store.lock(record.id) as mine:
            record = self.store.get(record.id)
            if not mine or record.step != "creating" or record.provider_id is not None:
                return False
            try:
                same = (record.backend, record.backend_options) == (backend.name, backend.options())
                runner = backend if same else self._load(record)
                if self._seconds_left(record, runner) > 0:
                    return False
                found = runner.find(record.id)
            except GatewayError:  # a look that failed says nothing about the job
                return False
            if found is not None:
                self.store.set_sent(record.id, found)
                return False
            self.store.set_step(record.id, "intent", sending=False)
            self.store.set_phase(record.id, "")
            return True

    # -- sending -------------------------------------------------------------------------

    def _send(self, record: JobRecord, backend: Backend, *, first: bool) -> JobRecord:
        """Take a job from its intent to a provider's id, sending nothing twice.

        Each request that changes something is announced in the store before it is sent. A job
        found in such a step was interrupted: wait until a sent request can no longer take
        effect, look whether it did, and only then send it again. The caller holds its lock.
        """
        if record.provider_id or record.status.final:
            return record
        left = self._seconds_left(record, backend)
        if record.step in ("uploading", "creating") and left > 0:
            phase = f"interrupted while {record.step}; asking {backend.name} in {left:.0f} s"
            return self.store.set_phase(record.id, phase)
        with self._classify_failure(record, backend, first):
            # Before a file may be sent again: that would overwrite the doubt about the job.
            found = backend.find(record.id) if record.step == "creating" else None
            if found is None and not first:
                self._reserve_again(record)
            self.store.set_sent(record.id, found or self._created(record, backend))
        return self.store.get(record.id)

    def _seconds_left(self, record: JobRecord, backend: Backend) -> float:
        """Until a request that was sent in the job's step can no longer take effect."""
        return record.step_at + backend.capabilities().settle_seconds - time.time()

    def _reserve_again(self, record: JobRecord) -> None:
        """A job whose submitter died held nothing in the meantime: others may have taken its
        room. Then it ends here. Raises BudgetError."""
        try:
            with self.store.transaction():
                self._reserve(record)
        except BudgetError as exc:
            self.store.fail(record.id, f"Not sent: {exc.message}", created=False)
            raise

    def _created(self, record: JobRecord, backend: Backend) -> str:
        train = self._sent_file(record, backend, record.train)
        validation = None
        if record.validation is not None:
            validation = self._sent_file(record, backend, record.validation)
        self.store.set_step(record.id, "creating")
        return backend.start(record.id, record.spec, train, validation)

    def _sent_file(self, record: JobRecord, backend: Backend, file: StoredFile) -> DataFile:
        """The file with the provider's id for it, uploaded unless it already was."""
        data = DataFile(Path(file.path), file.sha256, file.rows, file.bytes)
        if not backend.capabilities().hosted:
            return data
        scope = _scope(backend)
        remote = self.store.remote_file(scope, file.sha256)
        if remote is None and record.step == "uploading":
            remote = backend.find_upload(data)
        if remote is None:
            self.store.set_step(record.id, "uploading")
            remote = backend.upload(data)
        if remote is not None:
            self.store.remember_file(scope, file.sha256, remote)
        return DataFile(data.path, data.sha256, data.rows, data.bytes, remote)

    @contextmanager
    def _classify_failure(self, record: JobRecord, backend: Backend, first: bool) -> Iterator[None]:
        """Sort out a failed request: it may have been applied (stay in that step), it was
        turned away for now (go back to the intent), or it was refused (the job has failed)."""
        try:
            yield
        except BackendError as exc:
            now = self.store.get(record.id)
            unreachable = exc.status_code is None and not exc.maybe_applied
            refused = not (exc.maybe_applied or exc.retryable)
            worn_out = now.tries >= MAX_TRIES and not unreachable
            if now.tries == record.tries:
                # Nothing was sent this time: a look that failed says nothing about the job.
                self.store.set_phase(record.id, f"not confirmed: {exc.message}")
                raise
            if refused or worn_out or (first and unreachable):
                self.store.fail(record.id, str(exc), created=exc.maybe_applied)
                # The host may have deleted a file we remember: the next submit sends it again.
                self.store.forget_files(_scope(backend), record.train, record.validation)
                raise
            self.store.set_step(
                record.id, now.step if exc.maybe_applied else "intent", sending=False
            )
            self.store.set_phase(record.id, f"not confirmed: {exc.message}")


def _scope(backend: Backend) -> str:
    """Where an uploaded file is known: one host, through one key."""
    return json.dumps([backend.name, backend.identity()], sort_keys=True)
