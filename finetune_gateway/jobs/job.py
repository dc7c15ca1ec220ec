"""A job: refresh it, watch it, wait for it, take its result, cancel it.

Each answer of the backend is stored at once, so another process can continue from there. How a job
is waited for is in ``waiting``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetune_gateway.backend import NOT_DEPLOYED, Backend
from finetune_gateway.errors import BackendError, GatewayError, JobNotFinished, NotFoundError
from finetune_gateway.events import Checkpoint, Event, JobStatus, Metric
from finetune_gateway.jobs import accounts, removal, results, resumption, settling, turns, waiting
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs.budget import Actual
from finetune_gateway.jobs.handle import PROBE_TOKENS, ModelHandle
from finetune_gateway.jobs.history import each_event, read_events, read_metrics
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.jobs.submission import Submitter
from finetune_gateway.jobs.withdrawal import withdraw
from finetune_gateway.model import exact_methods, lazy_property
from finetune_gateway.renderers import Pictured, renderer
from finetune_gateway.settings.arguments import require_function, whole_number
from finetune_gateway.settings.deadlines import Call, Deadline, DeadlinePassed, Stop
from finetune_gateway.text.cleaning import visible

Load = Callable[[], Backend]
PARTS = 1000  # of what a backend has to report, that one refresh stores
OnEvent = Callable[["Job", Event], object]


@exact_methods
class Job(Pictured):
    """One training run, on any backend. Any process can open it by its id.

    >>> job = gateway.submit("train.jsonl", model="gpt-4.1-mini-2025-04-14")
    >>> job.wait().status
    >>> job.result().chat("Where is my parcel?").text
    """

    def __init__(self, record: JobRecord, store: Store, load: Load, submitter: Submitter) -> None:
        self.record = record
        self._store = store
        self._load = load
        self._submitter = submitter
        self.trouble: GatewayError | None = None  # why the last poll of a wait told nothing
        self.running: Call[Any] | None = None  # a call of a wait that had ended before it

    @lazy_property
    def backend(self) -> Backend:
        """Its backend, loaded when first used: a job whose plug-in is gone can still be listed."""
        return self._load()

    @property
    def store(self) -> Store:
        """Where it is kept."""
        return self._store

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def provider_id(self) -> str | None:
        """The provider's id; None until the provider has confirmed the job."""
        return self.record.provider_id

    @property
    def status(self) -> JobStatus:
        """The stored status; ``refresh`` asks the backend for the current one."""
        return self.record.status

    @property
    def phase(self) -> str:
        return self.record.phase

    @property
    def error(self) -> str | None:
        """Why the job failed."""
        return self.record.error

    @property
    def metadata(self) -> dict[str, str]:
        """Your own pairs of key and value, as they were submitted."""
        return dict(self.record.metadata)

    @property
    def actual(self) -> Actual | None:
        """Tokens, time and cost of an ended job, by the price it was submitted at; None while it is
        running."""
        return budgets.actual(self.record)

    def to_dict(self) -> dict[str, Any]:
        """Return the stored job as JSON, as ``ftg status --json`` prints it."""
        document: dict[str, Any] = renderer("Job.to_dict")(self)
        return document

    # -- one poll ------------------------------------------------------------------------

    def refresh(self, *, send: bool = False) -> Job:
        """Ask the backend once, store what is new, and return self. Raises BackendError, and
        StoreError where nothing can be stored.

        A job that is not known to be there is looked for, and sent only with ``send``, as ``wait``
        and ``result`` do.
        """
        self.record = self._store.get(self.id)
        if not self.status.final:
            self._store.settings.require_writable()
        if self.record.unsent:
            settle = self._submitter.advance_or_end if send else self._submitter.look
            self.record = settle(self.record, self.backend)
        if self.record.provider_id is None or self.status.final or self.record.removed:
            return self
        self._tell_of_resume()
        for _ in range(PARTS):
            record = self.record
            with accounts.reading(self._store, record, self.backend):
                snapshot = accounts.poll(record, self.backend)
            self.record = self._store.apply(self.id, snapshot, record.cursor, record.resumes)
            if not snapshot.more or self.record.cursor == record.cursor:
                return self
        return self

    def reload(self) -> Job:
        """Read the stored job again, without asking its backend, and return self."""
        self.record = self._store.get(self.id)
        return self

    def _tell_of_resume(self) -> None:
        """Tell the backend of a resume whose process died before it could."""
        if self.record.step == "resuming":
            self.record = resumption.go_on(self.record, self._store, self.backend)

    def events(self, after: int = 0, limit: int | None = None) -> list[Event]:
        """Return the stored events, oldest first; those after number ``after``, at most ``limit``.
        Each has its ``number``, which is greater than those of all events before it."""
        most = None if limit is None else whole_number(limit, "limit")
        return read_events(self._store, self.id, whole_number(after, "after"), most)

    def metrics(self) -> list[Metric]:
        """Return the metrics by step. A step that ran again after a restart counts once, with its
        latest values."""
        return read_metrics(self._store, self.id)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the models saved in training that are there, with losses: ``result(step=)``."""
        return results.with_losses(results.checkpoints(self.record, self._store), self.metrics())

    def log_path(self) -> Path | None:
        """Return the file with the raw log, if the backend keeps one."""
        return self.backend.log_path(self.provider_id) if self.provider_id else None

    # -- many polls ----------------------------------------------------------------------

    def watch(
        self,
        timeout: float | None = None,
        *,
        send: bool = False,
        after: int = 0,
        stop: Stop | None = None,
        on_poll: Callable[[Job], object] | None = None,
    ) -> Iterator[Event]:
        """Yield events, those that are stored first, until the job has ended, ``timeout`` seconds
        have passed, or ``stop``, a ``threading.Event()``, is set.

        ``after``: the ``number`` of an event: only those after it. ``send``: send a job that has
        not been sent, as ``wait`` does; else raise JobNotFinished
        for such a job. ``on_poll`` is called with the job after each poll, also when there is no
        event. If the provider cannot be reached, keep trying for 10 minutes.
        """
        require_function(on_poll, "on_poll", "the job")
        last = whole_number(after, "after")
        return self._watch(Deadline(timeout, stop), send, last, on_poll)

    def _watch(
        self, deadline: Deadline, send: bool, last: int, on_poll: Callable[[Job], object] | None
    ) -> Iterator[Event]:
        for _ in waiting.polls(self, deadline, send=send):
            if on_poll:
                on_poll(self)
            for event in each_event(self._store, self.id, last):
                last = event.number or last
                yield event

    def wait(
        self,
        timeout: float | None = None,
        *,
        stop: Stop | None = None,
        on_event: OnEvent | None = None,
    ) -> Job:
        """Block until the job has ended, whatever its status, and return self. A job that is
        certainly not at its backend is sent.

        Raises JobNotFinished after ``timeout`` seconds, also where the provider does not answer;
        within a second after ``stop``, a ``threading.Event()``, was set; and if the provider says
        that the job has ended but with a status that is not known here. The job continues.

        ``on_event`` is called with the job and each of its events, those that are stored first; an
        error that it raises is logged, and ends nothing.
        """
        return self._wait(Deadline(timeout, stop), waiting.hook_of(on_event))

    def _wait(self, deadline: Deadline, hook: waiting.Hook[Job]) -> Job:
        for _ in waiting.polls(self, deadline, send=True):
            hook.call(self)
        if self.record.ended_otherwise:
            raise waiting.ended_otherwise(self)
        if not self.status.final:
            raise waiting.not_finished(self, deadline)
        return self

    def require_on_its_way(self) -> None:
        """Raise JobNotFinished for a job that only a command would send now."""
        if self.record.unsent and not self._submitter.may_come(self.record, self.backend):
            raise JobNotFinished(self.record.outlook, job_id=self.id)

    def longest_wait(self) -> float:
        """Return how long its host may let us wait, in seconds."""
        return turns.longest_wait(self._store, self.backend.capabilities())

    # -- the end -------------------------------------------------------------------------

    def result(
        self,
        timeout: float | None = None,
        *,
        stop: Stop | None = None,
        on_event: OnEvent | None = None,
        model: str | None = None,
        step: results.StepName | None = None,
    ) -> ModelHandle:
        """Wait for the model and return it once it has answered a chat. One that must be deployed
        first is returned as it is: its ``deploy`` says how, and it is not ``ready``.

        ``timeout``, ``stop``: the end of all of that, as for ``wait``; ``on_event`` is as there.
        ``model``: its name, for a job that has succeeded at a host that does not give it; or the
        name of its deployment, which is kept once it has answered.
        ``step``: a checkpoint instead, of a job that may still run or have failed: its step, "last"
        or "best" (by the loss on held-out rows). It is not waited for, and was not asked yet.
        Raises JobFailed or JobCancelled if there will be no model, JobNotFinished after
        ``timeout`` seconds, NotFoundError for a deployment or a step that is not there.
        """
        deadline, hook = Deadline(timeout, stop), waiting.hook_of(on_event)
        if step is None and self.status.final:
            hook.call(self)
        elif step is None:
            self._wait(deadline, hook)
        return self.result_by(deadline, model, step)

    def result_by(
        self, deadline: Deadline, model: str | None, step: results.StepName | None
    ) -> ModelHandle:
        """Return the model of a job that has ended, or its checkpoint, as ``result`` does."""
        try:
            if step is not None:
                return waiting.in_time(self, deadline, lambda job: job._at_step(step))
            self._require_model()
            return waiting.in_time(self, deadline, lambda job: job._answering(model, deadline))
        except DeadlinePassed:
            raise waiting.no_answer(self, deadline) from None

    def handle(self, step: results.StepName | None = None) -> ModelHandle:
        """Return the handle of its model, or of a checkpoint, as ``result``; it is neither waited
        for nor asked, so it may not be ready. Raises as ``result`` does."""
        if step is not None:
            return self._at_step(step)
        if not self.reload().status.final:
            raise waiting.not_ended(self)
        self._require_model()
        handle = self._handle(None)
        results.attach(handle, self.record, self._store, self.backend)
        return handle

    def _require_model(self) -> None:
        """Raise JobFailed, JobCancelled or JobRemoved if there will be no model."""
        removal.require_kept(self.reload().record)
        if self.status in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise waiting.no_model(self)

    def cancel(self, *, on_wait: Callable[[str], object] = lambda reason: None) -> Job:
        """Ask the job to stop and return self. An ended job stays as it is.

        A job that is not known to be there is looked for first, and never sent: it ends here if it
        is not there. Raises JobNotFinished while that cannot be known yet. One that its host has
        just refused is looked for up to ten seconds; ``on_wait`` is called with the reason first.
        """
        require_function(on_wait, "on_wait", "the reason")
        self.record = self._store.get(self.id)
        if self.record.unsent:
            self.record = withdraw(self._submitter, self.id, lambda: self.backend, on_wait)
        if self.record.provider_id is None or self.status.final:
            return self
        self._tell_of_resume()
        with accounts.reading(self._store, self.record, self.backend):
            self.backend.cancel(self.record.provider_id)
        self.record = self._store.set_cancelling(self.id)
        try:
            return self.refresh()
        except GatewayError:  # it was asked to stop, whatever else can be read of it
            return self

    def pause(self) -> Job:
        """Ask the job to stop until ``resume``, and return self; it loses nothing that it has
        trained. Raises SpecError for one that has ended or was not sent, UnsupportedError where its
        backend cannot."""
        with accounts.reading(self._store, self.reload().record, self.backend):
            self.record = resumption.pause(self.record, self.backend)
        return self.refresh()

    @property
    def resumable(self) -> bool:
        """True if ``resume`` lets it go on: its backend can do that in its present state."""
        try:
            return self.record.unsent or resumption.can_resume(self.record, self.backend)
        except GatewayError:  # its plug-in is gone
            return False

    def resume(
        self, *, step: results.StepName | None = None, allow_changed_versions: bool = False
    ) -> Job:
        """Let the job go on as the same job, and return self.

        ``step``: of the checkpoint that a local job goes on from, or "best"; by default its last.
        Later checkpoints are deleted, and their steps are trained again.
        ``allow_changed_versions``: a local job goes on although torch, another package that decides
        the bits, the device or its threads changed since its checkpoint was saved.

        A job that was not sent is looked for, and sent if it is not there; a paused one is resumed
        at its host; a local one that has failed or was cancelled goes on from its last complete
        checkpoint. Raises SpecError for any other, with what to do instead, BudgetError if there
        is no room for its cost, and NotFoundError for a step that is not there.
        """
        removal.require_kept(self.reload().record)
        if self.record.unsent:
            resumption.require_default(self.record, self._store, step, allow_changed_versions)
            self.record = self._submitter.advance(self.record, self.backend)
            return self
        self.refresh()
        reserve = self._submitter.reserve
        self.record = resumption.resume(
            self.record,
            self._store,
            self.backend,
            reserve,
            step,
            allow_changed_versions=allow_changed_versions,
        )
        try:
            return self.refresh()
        except BackendError:  # it goes on, whatever can be read of it now
            return self

    def remove(self) -> removal.Removed:
        """Remove every text of the job from this machine: data, prompts, answers, events, errors,
        metadata, a local model. What it cost stays. Raises SpecError unless it has ended."""
        return removal.Remover(self._store, self._submitter.load).remove([self.reload().record])[0]

    def settle(self, created: str | None) -> Job:
        """Say what became of a job in doubt, and return self. For hosts whose lists cannot tell.

        Arguments:
            created: The provider's id of the job; None if you know that it was not created. Then
                ``wait`` sends it, and ``cancel`` ends it. A job that its provider has lost ends as
                failed.

        Raises SpecError for a job that is not in doubt and for the id of another job, also one of
        another store, BackendError if the provider has no job with this id.
        """
        self.record = settling.settle(self._store, self.id, created, lambda: self.backend)
        return self

    def _answering(self, model: str | None, deadline: Deadline) -> ModelHandle:
        """Return the handle of an ended job, once its model has answered."""
        try:
            return self._ready(self._handle(model), deadline)
        except BackendError:
            if deadline.over:  # it has cut off the answer
                raise DeadlinePassed from None
            raise

    def _handle(self, model: str | None) -> ModelHandle:
        record = self.record = self._store.get(self.id)  # another process may have a handle by now
        if record.handle is not None:
            return self._deployed(ModelHandle.model_validate(record.handle), model)
        result = record.result or results.late_result(record, self._store, self.backend, model)
        return self._deployed(results.handle_of(record, result, self.backend), model)

    def _at_step(self, step: results.StepName) -> ModelHandle:
        removal.require_kept(self.reload().record)
        if not self.status.final:
            self.refresh()
        _, handle = results.at_step(self.record, step, self._store, self.backend)
        results.attach(handle, self.record, self._store, self.backend)
        return handle

    def _deployed(self, handle: ModelHandle, deployment: str | None) -> ModelHandle:
        """Return the handle; of a model that needs a deployment, with the one that is named, once
        it has answered. Raises NotFoundError if the host has no deployment of this name."""
        result = self.record.result
        needed = handle.deploy or (result and result.deploy)
        if not needed or deployment is None or (handle.ready and deployment == handle.model):
            return handle
        named = handle.model_copy(
            update={"model": deployment, "deploy": None, "ready_at": None, "first_answer": None}
        )
        results.attach(named, self.record, self._store, self.backend)
        try:
            reply = named.chat("Hello.", max_tokens=PROBE_TOKENS)
        except BackendError as exc:
            if exc.status_code != 404:
                raise
            raise NotFoundError(
                f"{self.record.display_name} has no deployment {visible(deployment)!r}.",
                hint=f"A new one may take some minutes to start. To create one: {needed}",
            ) from None
        named.first_answer, named.ready_at = reply.said, time.time()
        self._store.set_handle(self.id, named.model_dump(mode="json"))
        return named

    def _ready(self, handle: ModelHandle, deadline: Deadline) -> ModelHandle:
        """Return the handle once its model has answered; the backend may have an answer already."""
        results.attach(handle, self.record, self._store, self.backend)
        if not handle.ready and handle.deploy is None:
            try:
                # Imported here: only a job that has succeeded needs tenacity.
                from finetune_gateway.jobs.first_answer import first_answer

                reply = first_answer(handle, self.backend, self.longest_wait, deadline)
                handle.first_answer, handle.ready_at = reply.said, time.time()
            except BackendError as exc:
                if exc.code != NOT_DEPLOYED:
                    raise
                handle.deploy = "see the documentation of the host."
        if self.record.handle is None and not self._store.read_only:
            self._store.set_handle(self.id, handle.model_dump(mode="json"))
            if handle.kind != "hosted":
                handle.save(handle.model, private=True)
        return handle
