"""What a name of a model means: a handle, a job, a checkpoint, a base model, a model of a host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from finetune_gateway.errors import NotFoundError
from finetune_gateway.jobs import added_models, fetched, recordings, results
from finetune_gateway.jobs.handle import FILE_NAME, ModelHandle
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import NEWEST, Store
from finetune_gateway.text.cleaning import visible

NEAR = 3  # names in a message


@dataclass(frozen=True)
class OfJob:
    """The result of a job, or its checkpoint at a step."""

    record: JobRecord
    step: results.StepName | None = None


@dataclass(frozen=True)
class OfHost:
    """A model of OpenAI that no job here has made."""

    model: str


@dataclass(frozen=True)
class Base:
    """A base model of this machine: a folder, ``owner/name`` or ``builtin/tiny``."""

    name: str


Meaning = ModelHandle | OfJob | OfHost | Base


def meaning(name: str, store: Store) -> Meaning:
    """Return what a name means. Raises NotFoundError, with names that are near, for none.

    A file or folder that is there comes first; of models that were added or made here, the newest.
    """
    path = Path(name).expanduser()
    if path.is_file() or (path / FILE_NAME).is_file():
        return ModelHandle.load(path)
    if path.is_dir() or name.startswith("builtin/"):
        return Base(name)
    known = _known(name, store)
    if known is not None:
        return known
    if name.startswith("ft:"):
        return OfHost(name)
    try:
        return OfJob(store.find(name))
    except NotFoundError as exc:
        if "/" in name and not name.startswith((".", "/", "~")):
            return Base(name)
        if name in NEWEST or exc.message.startswith("Several"):
            raise
    model = fetched.model_of(store.settings, name)
    if model != name:
        return _known(model, store) or OfHost(model)
    raise _unknown(name, store)


def _known(name: str, store: Store) -> Meaning | None:
    """Return a model that was added or made here, by its id, or the checkpoint of a job."""
    if added := added_models.find(store.settings, name):
        return added
    if made := store.that_made(name):
        return OfJob(made)
    if saved := results.that_saved(name, store):
        return OfJob(*saved)
    job, step = results.split(name)
    if step is None:
        return None
    return OfJob(store.that_made(job) or store.find(job), step)


def _unknown(name: str, store: Store) -> NotFoundError:
    return NotFoundError(
        f"There is no job, handle or model folder {visible(name)!r}.",
        hint=f"{did_you_mean(name, known_names(store))}See your jobs: ftg list. To try a base "
        "model: ftg chat builtin/tiny. A model of a host: ftg chat MODEL --base-url URL",
    )


def known_names(store: Store) -> list[str]:
    """Return the names of all models of this home: jobs, models that were added, recordings."""
    kept = [f"{recordings.PREFIX}{path.name}" for path in store.settings.recordings.glob("*")]
    added = [handle.model for handle in added_models.every(store.settings)]
    return ["latest", *(record.id for record in store.jobs()), *added, *kept]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names what is near, with a space behind it; empty if nothing is."""
    near = get_close_matches(name, [*known], NEAR, 0.6)
    return f"Did you mean {' or '.join(map(visible, near))}? " if near else ""
