"""The backends of one Gateway: by name, built by the user, of a stored job.

A backend is bound to one Gateway. A user's object that another one has already gets a copy here:
else the jobs and the data of one home would go to the other.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend, gateway_options
from finetune_gateway.backend.seam import time_limit
from finetune_gateway.errors import GatewayError, NotFoundError, SpecError, shown
from finetune_gateway.jobs import accounts
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import visible

Configured = Mapping[str, Backend | Mapping[str, Any]]


class HomeBackends:
    """``configured``: those of the user, by name: an object, or what a backend of that name is
    built with. Raises SpecError for what is neither, NotFoundError for a name that no backend
    has."""

    def __init__(self, settings: Settings, configured: Configured | None = None) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        # By the id of an object that another Gateway has, and the name that it has here.
        self._copies: dict[tuple[int, str], Backend] = {}
        self._built: dict[str, Backend] = {}  # by name, and of stored jobs: by all their options
        self._submitted: dict[str, Backend] = {}  # those with an account, by what they are
        self.configured = dict(configured or {})
        self._by_name = {name: self._of_user(name) for name in self.configured}

    def get(self, backend: str | Backend) -> Backend:
        """Return a backend by its name, or the user's own, bound to this Gateway."""
        self.settings.client.require_open()
        if not isinstance(backend, str):
            return self._here(backend) or self._bound(backend, self.settings)
        if backend in self._by_name:
            return self._by_name[backend]
        # Built each time: its address may be that of a variable which was set since.
        fresh = self._load(backend, {})
        return self._kept([fresh.name, fresh.options()], lambda: self._at_home(fresh))

    def of(self, record: JobRecord, store: Store) -> Backend:
        """Return the backend of a stored job: one of the user's with a key of the job's account,
        else one that is built from what the store says."""
        self.settings.client.require_open()
        restored = self.restored(record)
        own = [one for one in self._by_name.values() if _goes_there(one, restored)]
        given = [one for one in self._submitted.values() if _goes_there(one, restored)]
        for one in own + given if record.account else []:
            with suppress(GatewayError):  # a key that can't be had is none of the job's
                if accounts.is_own(store, record, one):
                    return one
        # A key of another account is refused, in words, before anything is sent.
        return own[0] if own else restored

    def keep(self, backend: Backend) -> None:
        """Keep the backend of a submitted job for all jobs of its account: its key may be nowhere
        else."""
        account = backend.account()
        if account is not None:
            where = json.dumps([backend.name, backend.options(), account], sort_keys=True)
            self._submitted[where] = backend

    def named(self) -> list[Backend]:
        """Return those that the user has named."""
        return [*self._by_name.values()]

    def close(self) -> None:
        """Let go of all connections. Objects of the user's plug-ins stay as they are."""
        for one in self._all():
            try:
                with time_limit():
                    one.close()
            except GatewayError as exc:  # of a plug-in: all else is closed
                logs.jobs.warning("%s", exc.message)
        gateway_options.close(self.settings.client)

    def _all(self) -> Iterator[Backend]:
        yield from self._built.values()
        for one in (*self._by_name.values(), *self._submitted.values(), *self._copies.values()):
            if one.name in registry.BUILTIN:
                yield one

    def _of_user(self, name: str) -> Backend:
        given = self.configured[name]
        settings = self.settings.named(name)
        if isinstance(given, Backend):
            return self._bound(given, settings)
        if not isinstance(given, Mapping):
            raise SpecError(
                f"backends[{name!r}] is a backend object or its options, not {shown(given)}.",
                hint="Like backends={'gpu': OpenAIBackend(base_url=...)}.",
            )
        built = self._load(name, given)
        built.bind(settings)
        return built

    def _load(self, name: str, options: Mapping[str, Any]) -> Backend:
        """Return a new backend by name, with the time-out of this Gateway where it takes one."""
        given, seconds = dict(options), self.settings.client.timeout
        if seconds is not None and registry.takes(name, "request_timeout"):
            given.setdefault("request_timeout", seconds)
        return registry.load(name, given)

    def restored(self, record: JobRecord, given: Backend | None = None) -> Backend:
        """Return what the store says of a job's backend: one for all with the same options. Its
        class is that of its name, or where none is installed that of an object of the user's.
        Raises NotFoundError for a job of neither. ``given``: an object for this job alone."""
        said = (record.backend, record.backend_options)
        kind = self._kind_of(record.backend, given)
        return self._kept(["restored", *said], lambda: registry.restore(*said, self.settings, kind))

    def _kind_of(self, name: str, given: Backend | None) -> type[Backend] | None:
        """Return the class of the user's object with a name that no installed backend has."""
        if name in registry.names():
            return None
        objects = [given, *self._by_name.values(), *self._submitted.values()]
        kinds = [type(one) for one in objects if one is not None and one.name == name]
        if kinds:
            return kinds[0]
        try:
            registry.require_known(name)
        except NotFoundError as exc:
            exc.hint = (
                "Install its package; or give its object: Gateway(backends={NAME: object}), or for "
                "one job gateway.job(ID, backend=object)."
            )
            raise
        return None

    def _kept(self, what: list[Any], build: Callable[[], Backend]) -> Backend:
        """Return the one backend of which this is said; ``build`` makes it, for this home."""
        name = json.dumps(what, sort_keys=True, default=repr)
        found = self._built.get(name)
        if found is None:
            found = self._built.setdefault(name, build())
        return found

    def _at_home(self, backend: Backend) -> Backend:
        backend.bind(self.settings)
        return backend

    def _here(self, backend: Backend) -> Backend | None:
        """Return the backend with a name of its own here that this object is, or was given for."""
        for name, one in self._by_name.items():
            if backend is one or backend is self.configured[name]:
                return one
        return None

    def _bound(self, backend: Backend, settings: Settings) -> Backend:
        """Return the user's object, or its copy if it is bound to another Gateway."""
        which = id(backend), settings.client.name
        with self._lock:
            if which not in self._copies:
                found = registry.bound(backend, settings)
                if found is backend:
                    return backend
                self._copies[which] = found
                # Weakly: an object may be there for longer than the Gateways that have copies.
                weakref.finalize(backend, _drop, weakref.ref(self), which)
            return self._copies[which]


def _drop(backends: weakref.ref[HomeBackends], which: tuple[int, str]) -> None:
    """Forget the copy of an object that is gone: another one may get its id."""
    if (here := backends()) is not None:
        here._copies.pop(which, None)


def require_same(backend: Backend, restored: Backend, record: JobRecord) -> None:
    """Raise SpecError for a backend that another place than a job's is asked by."""
    if not _goes_there(backend, restored):
        where = getattr(backend, "base_url", None) or backend.display_name
        there = record.backend_options.get("base_url") or record.display_name
        raise SpecError(
            f"Job {record.id} is at {visible(str(there))}, not at {visible(str(where))}.",
            hint="Leave backend out, or build one of the same host.",
        )


def _goes_there(backend: Backend, restored: Backend) -> bool:
    """Return True for a backend whose jobs go where those of the restored one go."""
    same = backend.name == restored.name and backend.display_name == restored.display_name
    return same and backend.identity() == restored.identity()
