"""Submit a job once: reserve its share of the budget, upload its files, create it.

Why it is done this way is in docs/decisions/0002-exactly-once.md, and for the budget in
docs/decisions/0005-budget.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backend import NOT_SETTLED, Backend, DataFile, Intent
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    GatewayError,
    StoreError,
)
from finetune_gateway.jobs import (
    accounts,
    charges,
    copied_home,
    quotes,
    scheduling,
    sending,
    settling,
    turns,
    uploads,
)
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs.records import JobRecord, StoredFile, seconds_since
from finetune_gateway.jobs.store import Store

MAX_TRIES = 10  # requests per job that may have taken effect, before it has failed


class Submitter:
    """Submits the jobs of one store, each once.

    ``cap``: returns what all jobs of a month may cost, in USD; None is no limit. ``load``: returns
    the backend of a stored job.
    """

    def __init__(
        self,
        store: Store,
        cap: Callable[[], Decimal | None],
        load: Callable[[JobRecord], Backend],
    ) -> None:
        self.store = store
        self._cap = cap
        self.load = load

    def submit(
        self, intent: JobRecord, backend: Backend, keep: Callable[[], None] = lambda: None
    ) -> JobRecord:
        """Commit the intent with its share of the budget, send it, and return the job; if there is
        a job with the same key that is live or has succeeded, return that. ``keep`` puts the copies
        of its files in their place, once it has its share. Raises BudgetError, BackendError."""
        if backend.account() is not None:
            intent = accounts.of_intent(self.store, intent, backend, self.look)
        # Locked before the intent is committed: only a dead submitter leaves its job unlocked.
        with sending.locked(self.store, intent.id):
            record, added = self._insert_within_budget(intent, backend, keep)
            if added:
                return self._send(record, backend, first=True)
        return self.rejoin(record, intent, backend, keep)

    def equal(self, intent: JobRecord, backend: Backend) -> JobRecord | None:
        """Return the job of an equal submit, live or succeeded, as far as that is known here."""
        if backend.account() is None:
            return self.store.equal(intent)
        return accounts.equal(self.store, intent, backend)

    def rejoin(
        self, record: JobRecord, intent: JobRecord, backend: Backend, keep: Callable[[], None]
    ) -> JobRecord:
        """Return the job of an equal submit, which may have died before it was sent."""
        if intent.metadata and intent.metadata != record.metadata:
            text = "It was submitted again with other metadata; those of the first submit stay."
            self.store.note(record.id, "other-metadata", text)
        if record.submit_key in intent.earlier_keys:
            text = "It was submitted again. It was made before a tenth was held out by default."
            self.store.note(record.id, "held-out", text)
        if not record.unsent:
            return record
        quotes.set_limit(self.store, record, intent.max_cost_usd)
        keep()  # equal files: what has become of the copies since does not matter
        return self.advance(record, backend)

    def advance(self, record: JobRecord, backend: Backend) -> JobRecord:
        """Continue a job that has no provider's id yet, unless another process is sending it."""
        with sending.locked(self.store, record.id) as mine:
            record = self.store.get(record.id)
            if mine:
                return self._send(record, backend, first=False)
            sending.require_returned(record)
            return record

    def advance_or_end(self, record: JobRecord, backend: Backend) -> JobRecord:
        """Like ``advance``, but store a refusal as the job's error instead of raising it."""
        try:
            return self.advance(record, backend)
        except (BackendError, BudgetError):
            if not self.store.get(record.id).status.final:
                raise
            return self.store.get(record.id)

    def look(self, record: JobRecord, backend: Backend) -> JobRecord:
        """Adopt a job without a provider's id if the provider shows it; send nothing."""
        with self.store.lock(record.id) as mine:
            record = self.store.get(record.id)
            return self.adopt(record, backend) if mine else record

    def may_come(self, record: JobRecord, backend: Backend) -> bool:
        """Return True if a job without a provider's id may get one by waiting: a process is sending
        it, or a sent create may still take effect."""
        in_doubt = record.step == "creating" and self.seconds_left(record, backend) > 0
        return in_doubt or self.store.is_being_sent(record.id)

    # -- money ---------------------------------------------------------------------------

    def budget(self, moment: float, without: str = "") -> budgets.Budget:
        """Return the budget of the month of ``moment`` after all jobs, ``without`` one of them."""
        return charges.month(self.store, moment, self._cap(), without)

    def _insert_within_budget(
        self, intent: JobRecord, backend: Backend, keep: Callable[[], None]
    ) -> tuple[JobRecord, bool]:
        """Commit the intent if its month has room for it, in one transaction; return the job, and
        True if it was added."""
        added = False
        try:
            record, added = self._insert(intent, backend, keep)
        finally:
            if not added:
                self.store.drop_lock(intent.id)
        return record, added

    def _insert(
        self, intent: JobRecord, backend: Backend, keep: Callable[[], None]
    ) -> tuple[JobRecord, bool]:
        def admit() -> None:
            self.reserve(intent, backend)
            keep()

        try:
            return self.store.add(intent, admit)
        except BudgetError:
            if not self._reconcile_orphans(intent, backend):
                raise
        return self.store.add(intent, admit)

    def reserve(self, record: JobRecord, backend: Backend | None = None) -> None:
        """Raise BudgetError if the month has no room for the job. Inside a transaction no other
        process can take the same room. One whose ``backend`` will name its price takes it then."""
        later = backend is not None and backend.gives_quotes and quotes.is_unpriced(record)
        if self._cap() is not None and not later:
            budgets.admit(record, self.budget(record.created_at, without=record.id))

    def _reconcile_orphans(self, intent: JobRecord, backend: Backend) -> bool:
        """Look up jobs of the month whose submitters died while creating them. Return True if one
        was never created, so that its share is free again."""
        _, start, end = budgets.month_of(intent.created_at)
        orphans = [
            record
            for record in self.store.created(start, end)
            if record.step == "creating" and record.provider_id is None and not record.status.final
        ]
        return any([self._reconcile(orphan, backend) for orphan in orphans])

    def _reconcile(self, record: JobRecord, backend: Backend) -> bool:
        with self.store.lock(record.id) as mine:
            record = self.store.get(record.id)
            if not mine or record.step != "creating" or record.provider_id is not None:
                return False
            try:
                runner = backend if self._runs_at(record, backend) else self.load(record)
                if self.seconds_left(record, runner) > 0:
                    return False
                provider_id = self._find(record, runner)
                if provider_id is not None:
                    self.store.set_sent(record.id, provider_id)
                    return False
                settling.note_not_found(self.store, record, runner)
            except GatewayError:  # a search that failed says nothing about the job
                return False
            self.store.set_step(record.id, "intent", sending=False)
            self.store.set_phase(record.id, "")
            return True

    def _runs_at(self, record: JobRecord, backend: Backend) -> bool:
        """Return True if this is the backend of a job, with a key of its account."""
        same = (record.backend, record.backend_options) == (backend.name, backend.options())
        return same and record.account in (None, accounts.of(self.store, backend))

    # -- sending -------------------------------------------------------------------------

    def _send(self, record: JobRecord, backend: Backend, *, first: bool) -> JobRecord:
        """Take a job from its intent to a provider's id; send nothing twice.

        Each request that changes something is recorded in the store before it is sent. A job that
        is found in such a step was interrupted: wait until a sent request can no longer take
        effect, look if it did, and only then send it again. The caller holds the job's lock.
        """
        if not record.unsent:
            return record
        if record.step == "intent":
            # Nothing is in doubt, so nothing has to be asked before its turn.
            waiting = self.store.waiting(record.backend)
            if waiting and (held := turns.hold(self.store, record, waiting)):
                return held
        with self._classify_failure(record, backend, first):
            if not first:
                # Before the look: what it does not find at the last moment is still in doubt.
                waits = (record.seconds_to_wait, self._pause(record, backend))
                left = max(self.seconds_left(record, backend), *waits)
                record = self.adopt(record, backend)
                if not record.unsent:
                    return record
                if record.step in ("uploading", "creating") and left > 0:
                    phase = (
                        f"interrupted while {record.step}; asking {backend.name} in {left:.0f} s"
                    )
                    return self.store.set_phase(record.id, phase)
                copied_home.require_original(self.store.settings, record.id, self.store.query)
                if record.tries >= MAX_TRIES:
                    reason = f"Sent {record.tries} times without an answer, and it is not there."
                    return self.store.fail(record.id, reason)
                self._reserve_again(record, backend)
                if record.account is None:
                    account = accounts.of(self.store, backend)
                    accounts.require_only(self.store, record, account)
                    record = self.store.set_account(record.id, account)
                accounts.require_key_of(self.store, record, backend)
                settling.note_not_found(self.store, record, backend)
            backend.connect()
            self._commit_sent(record, self._create(record, backend))
        return self.store.get(record.id)

    def _commit_sent(self, record: JobRecord, provider_id: str) -> None:
        try:
            self.store.set_sent(record.id, provider_id)
        except StoreError as exc:
            exc.add_note(f"{record.display_name} has created {record.id} as {provider_id}.")
            raise

    def adopt(self, record: JobRecord, backend: Backend) -> JobRecord:
        """Store the provider's id if the provider shows the job. Raises BackendError if that cannot
        be known, unless a sent request may still take effect: then a later look tells; or a person
        said that it is not there. What that person saw may be older than the job: the home may
        have been restored from a copy."""
        if not record.unsent:
            return record
        try:
            provider_id = self._find(record, backend)
        except BackendError as exc:
            waiting = record.step == "creating" and self.seconds_left(record, backend) > 0
            if exc.code != NOT_SETTLED or not (waiting or record.settled):
                raise
            return record
        return self.store.set_sent(record.id, provider_id) if provider_id else record

    def _find(self, record: JobRecord, backend: Backend) -> str | None:
        """Return the provider's id of an unsent job; None only if it can be known that its account
        does not have it. Raises BackendError."""
        proven = record.account is None or accounts.proven(self.store, record, backend)
        try:
            provider_id = backend.find(self._intent(record, backend, proven))
        except BackendError as exc:
            if proven or exc.code != NOT_SETTLED:
                raise
            raise accounts.not_proven(record, backend) from exc
        if provider_id is not None:
            accounts.adopt(self.store, record, backend)
        elif not proven:
            raise accounts.not_proven(record, backend)
        else:
            settling.require_found(self.store, record, backend)
        return provider_id

    def _intent(self, record: JobRecord, backend: Backend, same_account: bool) -> Intent:
        """Return what a job that may have been created is recognised by."""
        train, held_out = self._data_file(record, record.train, backend), record.validation
        return Intent(
            job_id=record.id,
            spec=record.spec,
            train=replace(train, remote_id=record.train_file_id or train.remote_id),
            validation=self._data_file(record, held_out, backend) if held_out else None,
            sent_at=record.first_sent_at,
            others=accounts.other_provider_ids(self.store, record),
            contested=accounts.is_contested(self.store, record),
            same_account=same_account,
        )

    def _data_file(self, record: JobRecord, file: StoredFile, backend: Backend) -> DataFile:
        """Return a file of a job, with the id that its account is known to have it under."""
        remote_id = None
        if record.hosted:
            remote_id = uploads.find(self.store, uploads.scope_of(record, backend), file.sha256)
        return DataFile(Path(file.path), file.sha256, file.rows, file.bytes, remote_id)

    def seconds_left(self, record: JobRecord, backend: Backend) -> float:
        """Return how long a request of the job's step may still take effect, whatever the clock was
        set to."""
        passed = seconds_since(record.step_at, record.step_clock)
        if passed < 0:
            self.store.begin_step_again(record.id)
        return backend.capabilities().settle_seconds - max(0.0, passed)

    def _pause(self, record: JobRecord, backend: Backend) -> float:
        """Return how long a job still waits before its next try. Each try doubles it: a backend
        that answers with nonsense at once, and finds nothing, is not asked again at once."""
        first, longest = backend.capabilities().poll_seconds
        pause = min(first * (2 ** (record.tries - 1) - 1), turns.LONGEST_PAUSE * longest)
        passed = seconds_since(record.step_at, record.step_clock)
        return pause - passed if record.tries and passed >= 0 else 0.0

    def _reserve_again(self, record: JobRecord, backend: Backend) -> None:
        """Reserve the share of a job whose submitter died: other jobs may have taken it in the
        meantime. Then the job has failed. Raises BudgetError."""
        try:
            with self.store.transaction():
                self.reserve(record, backend)
        except BudgetError as exc:
            self.store.fail(record.id, f"Not sent: {exc.message}")
            raise

    def _create(self, record: JobRecord, backend: Backend) -> str:
        hosted = backend.capabilities().hosted
        for file in record.given:
            if not hosted or self._data_file(record, file, backend).remote_id is None:
                file.require_unchanged()  # before any of them leaves, or is trained
        train, record = self._upload(record, backend, record.train)
        validation = None
        if record.validation is not None:
            validation, record = self._upload(record, backend, record.validation)
        if backend.gives_quotes:
            quotes.take(self.store, record, backend, (train, validation), self.reserve)
        self.store.set_step(record.id, "creating", file_id=train.remote_id, after=record.tries)
        return self._start(record, backend, train, validation)

    def _start(
        self, record: JobRecord, backend: Backend, train: DataFile, validation: DataFile | None
    ) -> str:
        """Create the job: with the user's metadata where the backend takes them, and with what it
        waits for."""
        more: dict[str, Any] = {}
        if record.metadata and backend.capabilities().takes_metadata:
            more["metadata"] = record.metadata
        elif record.metadata:
            text = (
                f"{record.display_name} takes no metadata: those of this job are kept here alone."
            )
            self.store.note(record.id, "metadata", text)
        if record.priority or record.after or record.start_at is not None:
            more["schedule"] = scheduling.of(record, self.store)
        begin: Callable[..., str] = backend.start
        return begin(record.id, record.spec, train, validation, **more)

    def _upload(
        self, record: JobRecord, backend: Backend, file: StoredFile
    ) -> tuple[DataFile, JobRecord]:
        """Return the file with the provider's id, and the job as it is then; upload the file if the
        provider does not have it."""
        data = self._data_file(record, file, backend)
        if data.remote_id is not None or not backend.capabilities().hosted:
            return data, record
        scope = uploads.scope_of(record, backend)
        with uploads.alone(self.store, scope, file.sha256):
            data = self._data_file(record, file, backend)  # by now another job may have sent it
            remote_id, sent_at = data.remote_id, record.step_at
            if remote_id is None and record.step == "uploading":
                remote_id = backend.find_upload(data)
            if remote_id is None:
                record = self.store.set_step(record.id, "uploading", after=record.tries)
                sent_at = record.step_at
                remote_id = backend.upload(data)
            if remote_id is not None and data.remote_id is None:
                lifetime = backend.upload_lifetime()
                expires_at = None if lifetime is None else sent_at + lifetime
                uploads.remember(self.store, scope, file.sha256, remote_id, expires_at)
        return replace(data, remote_id=remote_id), record

    @contextmanager
    def _classify_failure(self, record: JobRecord, backend: Backend, first: bool) -> Iterator[None]:
        """Store what a failed request means: it may have been applied (the step stays), it was
        rejected for now (back to the intent), or it was refused (the job has failed). A job of
        which nothing was sent ends here, unless its host asks to wait."""
        try:
            yield
        except StoreError:
            raise
        except BackendError as exc:
            now = self.store.get(record.id)
            unreachable = exc.status_code is None and not (exc.maybe_applied or exc.turned_away)
            refused = not (exc.maybe_applied or exc.retryable)
            if now.tries == record.tries and not (first and exc.turned_away):  # nothing was sent
                if first:
                    self.store.fail(record.id, str(exc))
                else:  # a search that failed says nothing about the job
                    self.store.set_phase(record.id, f"not confirmed: {exc.message}")
                raise
            if refused or (first and unreachable):
                self.store.fail(record.id, str(exc))
                if now.step == "creating":
                    # The host may have deleted a file that we remember: upload it again next time.
                    scope = uploads.scope_of(now, backend)
                    uploads.forget(self.store, scope, now.train, now.validation)
                raise
            self._go_on_later(now, exc, backend)
        except BaseException as exc:
            now = self.store.get(record.id)
            if first and now.tries == record.tries:
                why = str(exc) if isinstance(exc, GatewayError) else type(exc).__name__
                self.store.fail(record.id, f"Nothing was sent: {why}")
            raise

    def _go_on_later(self, record: JobRecord, exc: BackendError, backend: Backend) -> None:
        """Commit that a request failed for now, and what is known of it."""
        phase = f"not confirmed: {exc.message}"
        if exc.turned_away:
            turns.turn_away(self.store, record, exc, backend.capabilities())
        elif not exc.maybe_applied:
            turns.set_not_applied(self.store, record.id, phase)
        else:
            self.store.set_step(record.id, record.step, sending=False)
            self.store.set_phase(record.id, phase)
            if exc.retry_after is not None:
                turns.set_waiting(self.store, record.id, time.time() + exc.retry_after, phase)
