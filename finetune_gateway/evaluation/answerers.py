"""Who answers for a model that is to be compared: a host, this machine, a recording, an object."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend, HandleData
from finetune_gateway.backends.local import contents, models
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.endpoint import checked
from finetune_gateway.errors import GatewayError, JobNotFinished, SpecError, UnboundKeyError
from finetune_gateway.estimation import profiles
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.evaluation.results import Variant
from finetune_gateway.evaluation.stored_data import training_files
from finetune_gateway.evaluation.subjects import seeing
from finetune_gateway.jobs import accounts, removal, results
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.results import StepName
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.network import matches, origin
from finetune_gateway.text.cleaning import visible
from finetune_gateway.tokens.encodings import base_model

Say = Callable[[str], None]
BackendOf = Callable[[JobRecord], Backend]
NEW = ""  # a key or title that is not given yet


@dataclass
class Places:
    """Where models are asked, and with which keys.

    ``backends``: given by the user, of one host each. ``key_envs``: for a host the name of the
    variable that holds its key. ``own``: returns the backend of a job as its Gateway asks it, with
    the keys of that; by default it is built from the store. ``say`` is called with what takes time.
    """

    store: Store
    backends: Sequence[OpenAIBackend] = ()
    key_envs: Mapping[str, str] = field(default_factory=dict)
    allow_http: bool = False
    own: BackendOf | None = None
    say: Say = lambda text: None

    def __post_init__(self) -> None:
        self.backends = [registry.bound(one, self.store.settings) for one in self.backends]

    # -- hosts -------------------------------------------------------------------------------

    def at_url(self, url: str) -> OpenAIBackend:
        """Return the host at an address: a backend of the user's, else one with the variable that
        is given or kept for it. Raises SpecError for what is no address."""
        url = checked(url)
        given = next((one for one in self.backends if one.base_url == url), None)
        if given is not None:
            return given
        profile = _profile_of(url)
        kept = None if profile else self._kept_variable(url)
        return self._built({"base_url": url, "profile": profile, "api_key_env": kept})

    def of_host(self, model: str) -> OpenAIBackend:
        """Return the host of a model that no job here has made: of the user's the first whose key
        sees it, else OpenAI."""
        if self.backends:
            return seeing(self.backends, model)
        return self._built({"profile": "openai"})

    def of_record(self, record: JobRecord, known: Backend | None = None) -> Backend:
        """Return the backend of a job, with the user's key for its host: of several that of the
        job's account. ``known``: one that asks it already."""
        if known is None and self.own is not None:
            known = self.own(record)
        return self._with_key(known or self._restored(record), record)

    def of_stored(self, handle: ModelHandle) -> Backend:
        """Return the backend of a handle of no job here, with the user's key for its host."""
        return self._with_key(self._restored(handle))

    def _restored(self, stored: JobRecord | ModelHandle) -> Backend:
        return registry.restore(stored.backend, stored.backend_options, self.store.settings)

    def _with_key(self, backend: Backend, record: JobRecord | None = None) -> Backend:
        if not isinstance(backend, OpenAIBackend):
            return backend
        there = origin(backend.base_url)
        own = self._built(backend.options()) if self._variable(backend.base_url) else backend
        given = [*(one for one in self.backends if origin(one.base_url) == there), own]
        if record is not None and len(given) > 1:
            given.sort(key=lambda one: not accounts.is_own(self.store, record, one))
        return given[0]

    def _built(self, options: dict[str, Any]) -> OpenAIBackend:
        """Return a host with the user's key for it; ``allow_http`` is the user's too."""
        options = {**options, "allow_http": self.allow_http}
        if variable := self._variable(OpenAIBackend(**options).base_url):
            options["api_key_env"] = variable
        backend = OpenAIBackend(**options)
        backend.bind(self.store.settings)
        return backend

    def _variable(self, url: str) -> str | None:
        """Return the variable that is given for the host of an address."""
        found = (variable for host, variable in self.key_envs.items() if matches(host, url))
        return next(found, None)

    def _kept_variable(self, url: str) -> str | None:
        """Return the variable that an earlier call has given with an address; one that is set."""
        pairs = Bindings(self.store.settings).kept()
        kept = [name for name, place in pairs if place == origin(url)]
        return next((name for name in kept if os.environ.get(name)), next(iter(kept), None))

    # -- models ------------------------------------------------------------------------------

    def hosted(
        self, name: str, variant: Variant, model: str, backend: OpenAIBackend, **more: Any
    ) -> EvaluatedModel:
        """Return a model of a host. ``more``: other fields; ``handle``: on it, if there is one."""
        handle = more.pop("handle", None) or ModelHandle(
            kind="hosted",
            model=model,
            base_model=base_model(model),
            backend=backend.name,
            backend_options=backend.options(),
            base_url=backend.base_url,
        )
        handle.require_deployed()
        _require_bound(backend)
        handle.attach(backend)
        made: dict[str, Any] = {
            "host": backend.host,
            "account": backend.account(),
            "backend": backend,
            "base_model": base_model(model),
            "training_data": training_files(model, more.get("job"), self.store),
        }
        return EvaluatedModel(
            NEW, name, NEW, "hosted", variant, model, **{**made, "handle": handle, **more}
        )

    def of_handle(self, name: str, handle: ModelHandle, **more: Any) -> EvaluatedModel:
        """Return the model of a handle, by the backend that made it. Raises UnsupportedError for a
        reward model."""
        handle.require_answers()
        job = more.pop("job", None) or self._job(handle.job_id)
        known = more.pop("known", None)
        backend = self.of_record(job, known) if job else self.of_stored(handle)
        more |= {"handle": handle, "job": job, "step": handle.step}
        if isinstance(backend, OpenAIBackend):
            more["base_model"] = base_model(handle.base_model)
            return self.hosted(name, "tuned", handle.model, backend, **more)
        more["base_model"] = handle.base_model
        handle.require_deployed()
        require = accounts.required(self.store, job, backend) if job else None
        handle.attach(backend, self.store.settings, require)
        more["training_data"] = training_files(handle.model, job, self.store)
        if not isinstance(backend, LocalBackend):  # of a plug-in
            can = backend.capabilities()
            place = backend.display_name if can.hosted else None
            made = f"{job.id} {handle.model} {handle.step}" if job else ""
            more |= {"answers_to": handle, "host": place, "base_content": made}
            more["chats_at_once"] = can.chats_at_once
            return EvaluatedModel(NEW, name, NEW, "object", "tuned", handle.model, **more)
        more["base_content"] = contents.content_of(handle, self.store.settings)
        return EvaluatedModel(NEW, name, NEW, "local", "tuned", handle.model, **more)

    def _job(self, job_id: str | None) -> JobRecord | None:
        found = self.store.select("id = ? AND removed_at IS NULL", (job_id or "",), limit=1)
        return found[0] if found else None

    def of_job(
        self, name: str, record: JobRecord, step: StepName | None, known: Backend | None = None
    ) -> EvaluatedModel:
        """Return the result of a job, or its checkpoint at a step. ``known``: the backend that asks
        it already. Raises JobNotFinished, JobRemoved, NotFoundError, and SpecError for a job that
        has no model."""
        removal.require_kept(record)
        backend = self.of_record(record, known)
        record = self._looked_at(record, backend)
        if step is not None:
            _, handle = results.at_step(record, step, self.store, backend)
            return self.of_handle(name, handle, job=record, known=backend)
        handle = self.handle_of(record, backend)
        return self.of_handle(name, handle, job=record, known=backend)

    def handle_of(self, record: JobRecord, backend: Backend) -> ModelHandle:
        """Return the handle of a job that has a result. Raises as ``of_job``."""
        if not record.status.final:
            raise JobNotFinished(
                f"Job {record.id} is still {record.status}; there is no model yet.",
                hint=f"Run: ftg wait {record.id}.{self._saved(record)}",
                job_id=record.id,
            )
        if record.handle is not None:
            return ModelHandle.model_validate(record.handle)
        if record.result is None:
            raise SpecError(
                f"{record.id} has no model: it is {record.status}.",
                hint=f"See: ftg status {record.id}.{self._saved(record)}",
            )
        return results.handle_of(record, record.result, backend)

    def _saved(self, record: JobRecord) -> str:
        """Return the part of a hint that names the last checkpoint of a job; "" if it has none."""
        there = results.checkpoints(record, self.store)
        return f" One that it has saved: {record.id}@last" if there else ""

    def _looked_at(self, record: JobRecord, backend: Backend) -> JobRecord:
        """Return a job as it is now: one that runs may have ended since."""
        if record.status.final or record.provider_id is None:
            return record
        with accounts.reading(self.store, record, backend):
            snapshot = accounts.poll(record, backend)
        return self.store.apply(record.id, snapshot, record.cursor, record.resumes)

    def base_here(self, name: str, model: str, variant: Variant) -> EvaluatedModel:
        """Return a base model of this machine; its weights are built or downloaded if they are
        missing."""
        return self._untuned(name, self._local().base(model, self.say), variant)

    def base_of(self, name: str, tuned: HandleData, variant: Variant) -> EvaluatedModel:
        """Return the base that a local model was trained on, with the switches of its training.
        Raises GatewayError if its weights have changed since."""
        folder = models.base_of(tuned, self.store.settings, self.say)
        handle = ModelHandle(
            kind="merged",
            model=str(folder),
            base_model=tuned.base_model,
            backend="local",
            chat_template_kwargs=tuned.chat_template_kwargs,
        )
        handle.attach(self._local())
        return self._untuned(name, handle, variant)

    def _untuned(self, name: str, handle: ModelHandle, variant: Variant) -> EvaluatedModel:
        content = contents.content_of(handle, self.store.settings)
        base = handle.base_model
        # Two names of a base of the hub, in two revisions, have two contents.
        return EvaluatedModel(
            NEW,
            name,
            NEW,
            "local",
            variant,
            handle.model,
            base,
            base_content=content,
            handle=handle,
        )

    def _local(self) -> LocalBackend:
        backend = LocalBackend()
        backend.bind(self.store.settings)
        return backend

    def recorded(self, name: str, recording: Recording) -> EvaluatedModel:
        """Return what a model of a host has answered once."""
        about = recording.about
        job = self._job(about.job_id) or self.store.that_made(about.model)
        tuned = base_model(about.model) != about.model or job is not None
        return EvaluatedModel(
            NEW,
            name,
            NEW,
            "recorded",
            "tuned" if tuned else "other",
            about.model,
            base_model(about.base_model),
            host=about.host,
            base_content=f"{recording.title} {about.rows_sha256} {about.created_at}",
            job=job,
            recording=recording,
            training_data=training_files(about.model, job, self.store),
        )

    def thing(self, given: Any) -> EvaluatedModel:
        """Return an object of the user's that answers: nobody else knows which model it is, so its
        answers are not kept, and no other object's comparison is taken for its own."""
        name = visible(_own_name(given)) or type(given).__name__
        return replace(
            EvaluatedModel(NEW, name, NEW, "object", "other", name, name),
            answers_to=given,
            base_content=secrets.token_hex(16),
        )


def _own_name(given: Any) -> str:
    """Return what an object of the user's says that it is called, "" for nothing."""
    for attribute in ("model", "name"):
        try:
            said = getattr(given, attribute, None)
        except Exception:  # a property of others
            continue
        if isinstance(said, str) and said:
            return said
    return ""


def _require_bound(backend: OpenAIBackend) -> None:
    """Raise UnboundKeyError for a key that nothing binds to its host: before anything is priced. A
    key that is missing is said when the model is asked."""
    try:
        backend.connect()
    except UnboundKeyError as exc:
        exc.hint = (
            f"If it is the key of this host: --key-env {backend.host}={exc.variable} (key_envs= in "
            "Python), or the variable that holds it."
        )
        raise
    except GatewayError:
        return


def _profile_of(url: str) -> str | None:
    """Return the profile whose host has this address; None for any other."""
    known = ((name, profiles.load_profile(name)) for name in profiles.profile_names())
    found = (name for name, one in known if any(matches(host, url) for host in one.key_hosts))
    return next(found, None)
