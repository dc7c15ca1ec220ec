"""Jobs by what can be asked for them at once: a host and an account, or one backend.

Which that is, a backend says: of a plug-in that takes calls which may hang.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from finetune_gateway import registry
from finetune_gateway.backend import NOT_SETTLED, Backend, Capabilities
from finetune_gateway.errors import BackendError, GatewayError, StoreError
from finetune_gateway.jobs import turns
from finetune_gateway.jobs.job import Job

SHOWN = 8  # unsent jobs of a host that keep their place before those of other processes


@dataclass
class Failure:
    """Jobs that are as they were last seen, and why."""

    jobs: list[Job]
    error: GatewayError


@dataclass(eq=False)
class Group:
    """The jobs of one host and account, or of one other backend."""

    backend: Backend
    limits: Capabilities
    jobs: list[Job] = field(default_factory=list)
    pause: float = 0.0  # seconds before the last pass
    asked: set[str] = field(default_factory=set)  # of those that its list does not tell of
    failing: dict[str, float] = field(default_factory=dict)  # since when, by job
    shown: dict[str, ExitStack] = field(default_factory=dict)  # unsent jobs, see show_waiting
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    @property
    def hosted(self) -> bool:
        return self.limits.hosted

    def show_waiting(self, unsent: list[Job]) -> None:
        """Let other processes see that we wait for the first of these jobs, and for no other."""
        with self._lock:
            self._show([] if self._ended else unsent[:SHOWN])

    def end(self) -> None:
        """Show that we wait for none, whatever a pass does that has not ended."""
        with self._lock:
            self._ended = True
            self._show([])

    def _show(self, unsent: list[Job]) -> None:
        first = {job.id: job for job in unsent}
        for one in self.shown.keys() - first.keys():
            self.shown.pop(one).close()
        for one in first.keys() - self.shown.keys():
            self.shown[one] = ExitStack()
            self.shown[one].enter_context(turns.awaiting(first[one].store, one))()


@dataclass(eq=False)
class Unsorted:
    """Jobs of one plug-in, whose groups are not known yet."""

    jobs: list[Job]

    @property
    def hosted(self) -> bool:
        return True  # asked beside the others


def of_plugins(jobs: Iterable[Job]) -> list[Unsorted]:
    """Return the jobs of plug-ins, by their names."""
    found: dict[str, Unsorted] = {}
    for job in jobs:
        if not is_ours(job):
            found.setdefault(job.record.backend, Unsorted([])).jobs.append(job)
    return [*found.values()]


def is_ours(job: Job) -> bool:
    """Return True for a job whose backend is in this package: its groups are known at once."""
    return job.record.backend in registry.BUILTIN


def grouped(jobs: Iterable[Job]) -> tuple[list[Group], list[Failure]]:
    """Return the jobs by host and account, without those that have ended; a job whose backend
    cannot be loaded is a failure, and so is one whose news cannot be stored."""
    groups: dict[Hashable, Group] = {}
    failed: list[tuple[Job, GatewayError]] = []
    silent: dict[Hashable, GatewayError] = {}  # hosts that have not answered: not asked again
    for job in jobs:
        if job.status.final or job.record.removed:
            continue
        if error := silent.get(job.record.lane):
            failed.append((job, error))
            continue
        try:
            job.store.settings.require_writable()
            place = place_of(job.backend)
            if place not in groups:
                groups[place] = Group(job.backend, job.backend.capabilities())
        except GatewayError as exc:
            failed.append((job, exc))
            if is_of_host(exc):
                silent[job.record.lane] = exc
            continue
        groups[place].jobs.append(job)
    return [*groups.values()], failures_of(failed)


def place_of(backend: Backend) -> Hashable:
    """Return what is equal for jobs that one list can tell of: a host and an account, or one
    backend object."""
    account = backend.account()
    if account is None:
        return id(backend)
    return backend.name, json.dumps(backend.place(), sort_keys=True), account


def failures_of(failed: Iterable[tuple[Job, GatewayError]]) -> list[Failure]:
    """Return each kind of error once, with all its jobs."""
    kinds: dict[Hashable, Failure] = {}
    for job, error in failed:
        codes = (getattr(error, "status_code", None), getattr(error, "code", None))
        # What is wrong with a job of this machine, or with its row, is of this job alone.
        own = isinstance(error, StoreError) or not job.record.hosted
        text = error.message if own else ""
        kind = (job.record.backend, type(error), *codes, text)
        kinds.setdefault(kind, Failure([], error)).jobs.append(job)
    return [*kinds.values()]


def is_of_host(error: GatewayError) -> bool:
    """Return True for an error that is about the host or the key, not about one job."""
    if not isinstance(error, BackendError) or error.code == NOT_SETTLED:
        return False
    if error.status_code is None:
        return error.retryable or error.maybe_applied
    return error.status_code in (401, 408, 429) or error.status_code >= 500
