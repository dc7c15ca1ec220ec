"""Saves what hosts keep of fine-tunes: jobs, files, events, metrics, checkpoints.

One request at a time, so that at most one is on its way when the process is killed. What is saved
of a job that has ended is never asked for again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from finetune_gateway.backend import Backend
from finetune_gateway.backends.openai import archive, inventory, wire
from finetune_gateway.backends.openai.pacing import OnWait
from finetune_gateway.errors import BackendError, MissingScopeError
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs import fetched
from finetune_gateway.jobs.fetched import Manifest, Piece
from finetune_gateway.migration.archived import Archive, ArchivedJob, KeyRefusal
from finetune_gateway.migration.keys import HostFails, Key
from finetune_gateway.migration.listing import hosts_of
from finetune_gateway.migration.names import fine_tune_of, one_named
from finetune_gateway.migration.pieces import FILES, JobPieces
from finetune_gateway.settings.home import Settings

OnProgress = Callable[[int, int, str], object]  # jobs done, jobs in all, and what is fetched

Place = tuple[str, str]  # a host, and the id of a job there


@dataclass
class ListedJob:
    """A job as the host lists it, and the keys that see it."""

    host: str
    job: wire.Json
    keys: list[Key] = field(default_factory=list)

    @property
    def place(self) -> Place:
        return self.host, str(self.job["id"])

    @property
    def model(self) -> str | None:
        return wire.text_of(self.job.get("fine_tuned_model"))


def fetch(
    models: str | Iterable[str] | None,
    backends: str | Backend | Sequence[str | Backend],
    home: str | os.PathLike[str] | None,
    *,
    stored: bool = False,
    on_progress: OnProgress | None = None,
    on_wait: OnWait | None = None,
) -> Archive:
    """Fetch fine-tunes. See ``migration.fetch``."""
    settings = Settings.load(home).create()
    keys = [Key(host, settings, on_wait) for host in hosts_of(backends, settings)]
    names = [models] if isinstance(models, str) else None if models is None else [*models]
    with fetched.writing(settings):
        fetched.tidy(settings)
        return _Fetching(settings, keys, stored, on_progress).run(names)


class _Fetching:
    """One run. ``refused``: by variable, why a key was shown no job."""

    def __init__(
        self, settings: Settings, keys: list[Key], stored: bool, on_progress: OnProgress | None
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._stored = stored
        self._on_progress = on_progress or (lambda done, total, doing: None)
        self._kept = {(one.host, one.job_id): one for one in fetched.manifests(settings)}
        self._saved: dict[str, dict[str, Piece]] = {}  # by host and id: files that are kept
        for manifest in self._kept.values():
            self._remember(manifest)
        self._whole = True  # all lists of jobs were read to their end

    def run(self, names: list[str] | None) -> Archive:
        """Fetch these, or all that have a model. Raises NotFoundError for a name that no key sees,
        BackendError if no key is shown any job, StoreError."""
        if names is not None and (known := self._all_kept(names)):
            return self._archive([ArchivedJob.of(self._settings, one, 0) for one in known])
        chosen = self._choose(self._list(), names)
        done: list[ArchivedJob] = []
        for number, seen in enumerate(chosen):
            self._on_progress(number, len(chosen), seen.model or str(seen.job["id"]))
            try:
                done.append(self._fetch(seen))
            except HostFails as fails:
                done.append(ArchivedJob.of(self._settings, self._kept[seen.place], 0))
                return self._archive(done, str(fails.error), len(chosen) - number - 1)
        self._on_progress(len(chosen), len(chosen), "")
        return self._archive(done)

    def _archive(self, jobs: list[ArchivedJob], stopped: str = "", left: int = 0) -> Archive:
        return Archive(
            jobs=tuple(jobs),
            folder=str(self._settings.fetched),
            refused=tuple(refusal for key in self._keys for refusal in _refusals(key)),
            stopped=stopped,
            left=left,
            whole_list=self._whole,
            requests=sum(key.pace.answers for key in self._keys),
        )

    # -- which ---------------------------------------------------------------------------

    def _all_kept(self, names: list[str]) -> list[Manifest] | None:
        """Return what is kept of these, if nothing is left to ask for: then no request is sent."""
        found = []
        for name in names:
            kept = [one for one in self._kept.values() if name in one.names]
            if not kept or not all(map(self._is_complete, kept)):
                return None
            found += kept
        return list({(one.host, one.job_id): one for one in found}.values())

    def _is_complete(self, manifest: Manifest) -> bool:
        return self._pieces(manifest, {}, []).complete(with_stored=self._stored)

    def _list(self) -> list[ListedJob]:
        """Return the jobs that any key sees, each once, in the order of the hosts' lists."""
        seen: dict[Place, ListedJob] = {}
        errors: list[BackendError] = []
        for key in self._keys:
            try:
                jobs, whole = key.ask("jobs", partial(inventory.jobs, key.host))
            except BackendError as exc:
                errors.append(exc)
                key.refused["jobs"] = exc
                continue
            except HostFails as fails:
                raise fails.error from None
            self._whole = self._whole and whole
            for job in jobs:
                if wire.usable_id(job):
                    one = ListedJob(key.host.host, job)
                    seen.setdefault(one.place, one).keys.append(key)
        if len(errors) == len(self._keys):
            raise errors[0]
        return [*seen.values()]

    def _choose(self, seen: list[ListedJob], names: list[str] | None) -> list[ListedJob]:
        if names is None:
            return [one for one in seen if one.model or not _ended(one.job)]
        chosen: dict[Place, ListedJob] = {}
        for name in names:
            one = one_named(fine_tune_of(name), seen, lambda one: (one.model, one.place[1]))
            chosen[one.place] = one
        return [*chosen.values()]

    # -- one job -------------------------------------------------------------------------

    def _fetch(self, seen: ListedJob) -> ArchivedJob:
        manifest = self._manifest(seen)
        work = self._pieces(manifest, seen.job, seen.keys)
        if work.complete(with_stored=self._stored):
            return ArchivedJob.of(self._settings, manifest, 0)
        try:
            work.fetch(with_stored=self._stored)
        finally:
            self._kept[seen.place] = work.manifest
            self._remember(work.manifest)
        return ArchivedJob.of(self._settings, work.manifest, work.changed)

    def _pieces(self, manifest: Manifest, job: wire.Json, keys: list[Key]) -> JobPieces:
        saved = self._saved.setdefault(manifest.host, {})
        host = [key for key in self._keys if key.host.host == manifest.host]
        others = [key for key in host if key not in keys]
        return JobPieces(self._settings, manifest, job, keys, others, saved)

    def _manifest(self, seen: ListedJob) -> Manifest:
        """Return what is kept of a job, with what its host says of it now."""
        host, base = seen.keys[0].host, wire.text_of(seen.job.get("model"))
        now = {
            "base_url": host.base_url,
            "profile": host.profile_name,
            "model": seen.model,
            "base_model": base,
            "status": str(wire.status_of(seen.job)),
            "keys": tuple(key.variable for key in seen.keys),
        }
        kept = self._kept.get(seen.place)
        new = Manifest(host=seen.host, job_id=seen.place[1])
        return (kept or new).model_copy(update=now)

    def _remember(self, manifest: Manifest) -> None:
        """Know the files that are kept, for other jobs that were trained on them."""
        saved = self._saved.setdefault(manifest.host, {})
        for piece in manifest.pieces:
            is_file = piece.kind in FILES and piece.id is not None
            if is_file and fetched.path_of(self._settings, manifest, piece):
                saved[str(piece.id)] = piece


def _ended(job: wire.Json) -> bool:
    return JobStatus(wire.status_of(job)).final


def _refusals(key: Key) -> Iterator[KeyRefusal]:
    """Yield what a key was refused as such, each reason once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for what, error in key.refused.items():
        scope = error.scope if isinstance(error, MissingScopeError) else ""
        groups.setdefault((archive.refusal_of(error) or "other", scope), []).append(what)
    for (why, scope), kinds in groups.items():
        reason = str(key.refused[kinds[0]])
        fields = {"key": key.variable, "kinds": kinds, "why": why, "scope": scope}
        yield KeyRefusal.model_validate({**fields, "reason": reason})
