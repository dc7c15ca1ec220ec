"""What a host tells each key: one list of jobs, of models and of files, all at once; then, several
at a time, the checkpoints of each fine-tune and each model that no list shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from finetune_gateway.backends.openai import inventory, wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.inventory import RequestCount, again
from finetune_gateway.errors import AuthenticationError, BackendError, MissingScopeError
from finetune_gateway.migration.inventory import KeyView
from finetune_gateway.migration.names import fine_tune_of
from finetune_gateway.tokens.encodings import base_model

SIDE_BY_SIDE = 8  # requests

LISTS: dict[str, Callable[[OpenAIBackend, RequestCount], inventory.List]] = {
    "jobs": inventory.jobs,
    "models": inventory.models,
    "files": inventory.files,
}


@dataclass
class KeyLists:
    """What a host tells one key. None: it was refused, or the host did not answer; ``refused`` says
    why."""

    host: OpenAIBackend
    jobs: list[wire.Json] | None = None
    models: dict[str, wire.Json] | None = None
    files: dict[str, wire.Json] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    scopes: list[str] = field(default_factory=list)
    no_jobs: BackendError | None = None  # why it was not shown them
    cut: set[str] = field(default_factory=set)  # lists that were not read to their end

    @property
    def variable(self) -> str:
        """Return the variable that holds the key."""
        return self.host.api_key_env

    def refuse(self, what: str, error: BackendError) -> None:
        """Keep what was not told, and why."""
        self.refused[what] = error.message
        self.no_jobs = error if what == "jobs" else self.no_jobs
        if isinstance(error, MissingScopeError) and error.scope not in ("", *self.scopes):
            self.scopes.append(error.scope)

    def view(self) -> KeyView:
        """Return it as data."""
        return KeyView(
            variable=self.variable,
            host=self.host.host,
            jobs=_count(self.jobs),
            models=_count(self.models),
            files=_count(self.files),
            refused=self.refused,
            missing_scopes=tuple(self.scopes),
            cut=tuple(sorted(self.cut)),
        )


@dataclass
class Seen:
    """A fine-tune as these keys see it. ``listed``: its row in a list of models. ``unlisted``: what
    the host says of a model that no list shows; ``is_forbidden``: that the key may not see it."""

    job: wire.Json
    keys: list[KeyLists] = field(default_factory=list)
    name: str | None = None  # of a model without a job
    listed: wire.Json | None = None
    unlisted: wire.Json | None = None
    is_forbidden: bool = False
    checkpoints: list[wire.Json] | None = None

    @property
    def model(self) -> str | None:
        """Return the id of the model; None while there is none."""
        return self.name or wire.text_of(self.job.get("fine_tuned_model"))

    @property
    def has_no_model(self) -> bool:
        """Return True for a job that has ended without a model."""
        ended = wire.status_of(self.job).final and self.job.get("status") != "succeeded"
        return ended and self.model is None


def is_tuned(model: str) -> bool:
    """Return True for the id of a fine-tune, not for that of a base."""
    return base_model(model) != model


def read_lists(hosts: Sequence[OpenAIBackend], asked: RequestCount) -> list[KeyLists]:
    """Return what each key is shown. Raises BackendError if none was shown any job or model."""
    keys = [KeyLists(host) for host in hosts]
    in_parallel(partial(_read, asked=asked), [(key, what) for key in keys for what in LISTS])
    if all(key.jobs is None and key.models is None for key in keys):
        raise _nothing(keys)
    return keys


def _read(question: tuple[KeyLists, str], asked: RequestCount) -> None:
    key, what = question
    try:
        found, whole = again(lambda: LISTS[what](key.host, asked))
    except BackendError as exc:
        key.refuse(what, exc)
        return
    if not whole:
        key.cut.add(what)
    named = {str(one["id"]): one for one in found if isinstance(one.get("id"), str)}
    setattr(key, what, found if what == "jobs" else named)


def _nothing(keys: Sequence[KeyLists]) -> BackendError:
    """Return why the first key was not shown its jobs, with what to do about all of them."""
    error = keys[0].no_jobs or BackendError(keys[0].refused["jobs"], backend="openai")
    named = " and ".join(key.variable for key in keys)
    scopes = " and ".join(dict.fromkeys(scope for key in keys for scope in key.scopes))
    if scopes:
        error.hint = f"Give {named} {scopes}."
    elif isinstance(error, AuthenticationError):
        error.hint = f"Check what is in {named}, and whether it is a key of this host."
    return error


def in_parallel(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do this for each item, several at a time. Raises what the first one raises."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for _ in pool.map(work, items):
            pass


def _count(items: Sequence[object] | dict[str, wire.Json] | None) -> int | None:
    return None if items is None else len(items)


# -- what the keys see together ----------------------------------------------------------------


def merged(keys: Sequence[KeyLists]) -> list[Seen]:
    """Return each fine-tune once, with the keys that see it: the jobs, and the models of which no
    list of jobs has one."""
    found: dict[str, Seen] = {}
    for key in keys:
        for job in key.jobs or []:
            seen = found.setdefault(wire.usable_id(job) or wire.key_of(job), Seen(job={}))
            # What one key is shown of a job, and another is not, is kept.
            seen.job = {**job, **{k: v for k, v in seen.job.items() if v is not None}}
            seen.keys.append(key)
    known = {seen.model for seen in found.values()}
    listed = {name for key in keys for name in key.models or {}}
    for key in keys:
        for name in key.models or {}:
            # A checkpoint beside its final model is none by itself.
            of_another = {fine_tune_of(name)} & (listed - {name})
            if is_tuned(name) and not of_another and not {name, fine_tune_of(name)} & known:
                found.setdefault(name, Seen(job={}, name=name)).keys.append(key)
    for seen in found.values():
        rows = ((key.models or {}).get(seen.model or "") for key in keys)
        seen.listed = next((row for row in rows if row is not None), None)
    return [*found.values()]


def look_closer(found: Sequence[Seen], asked: RequestCount, *, checkpoints: bool) -> None:
    """Ask for the checkpoints of each job that has ended, and for each model that no list shows."""
    ended = [one for one in found if wire.status_of(one.job).final] if checkpoints else []
    unlisted = [one for one in found if one.model and one.listed is None]
    questions = [partial(_ask_checkpoints, one, asked) for one in ended]
    questions += [partial(_ask_model, one, one.model or "", asked) for one in unlisted]
    in_parallel(lambda question: question(), questions)


def _ask_checkpoints(seen: Seen, asked: RequestCount) -> None:
    job_id = wire.usable_id(seen.job)
    for key in seen.keys if job_id else ():
        try:
            host, name = key.host, job_id or ""
            seen.checkpoints, _ = again(partial(inventory.checkpoints, host, name, asked))
            return
        except BackendError as exc:
            key.refuse("checkpoints", exc)


def _ask_model(seen: Seen, name: str, asked: RequestCount) -> None:
    """Find out whether a model is there that no list shows."""
    for key in seen.keys:
        if key.models is None:  # it may not ask
            continue
        try:
            seen.unlisted = again(partial(inventory.model, key.host, name, asked))
            return
        except BackendError as exc:
            seen.is_forbidden = seen.is_forbidden or exc.status_code == 403
