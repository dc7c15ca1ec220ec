"""Is a job of ours at the host? By its tag, else by its file; and whether "not there" is known.

Knows the JSON of listed jobs; sends nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_gateway.backend import JOB_TAG, NOT_SETTLED
from finetune_gateway.backends.openai.request import FILE_PREFIX, file_name
from finetune_gateway.backends.openai.wire import Json, text_of, usable_id
from finetune_gateway.errors import BackendError
from finetune_gateway.settings import files
from finetune_gateway.text.cleaning import moment

if TYPE_CHECKING:
    from pathlib import Path

    from finetune_gateway.backend import DataFile, Intent

JOB = "fine_tuning.job"  # what the contract calls a job
FILE = "file"  # and an upload
CLOCKS = 300.0  # seconds by which the host's clock may differ from ours


class TagMemory:
    """The hosts that were seen to keep our tag on a job: an empty file for each, in one folder."""

    def __init__(self, base_url: str, folder: Path | None) -> None:
        # An address can be longer than the name of a file may be.
        name = hashlib.sha256(base_url.encode()).hexdigest()[:32]
        self._path = folder / name if folder else None
        self._seen = False

    @property
    def seen(self) -> bool:
        """Return True if the host has shown a tag of ours, to this process or an earlier one."""
        return self._seen or (self._path is not None and os.path.exists(self._path))

    def look_at(self, job: Json | None) -> None:
        """Remember the host if this job of its carries a tag of ours; a disk that does not take
        that is no error of the job, which may just have been bought."""
        if job is None or tag_of(job) is None or self.seen:
            return
        self._seen = True
        if self._path is not None:
            with suppress(OSError):
                files.folder(self._path.parent)
                files.make_private(self._path)


@dataclass(frozen=True)
class Host:
    """How to ask a host, and what is known of it."""

    address: str  # in messages
    # Lists the jobs with this metadata, or all; returns them, and True if that is the whole list.
    list_jobs: Callable[[dict[str, str] | None], tuple[list[Json], bool]]
    list_files: Callable[[], tuple[list[Json], bool]]
    tags: TagMemory
    documents_tags: bool  # its documentation says that jobs keep their metadata


def find(intent: Intent, host: Host) -> str | None:
    """Return the id of the job of this intent; None if there certainly is none. Raises BackendError
    with the code ``not_settled`` if the lists do not tell."""
    if found := _tagged(_filtered(intent, host), intent, host):
        return found
    # The filter may be broken, or honoured by a host that drops the tags: only the whole list
    # tells.
    jobs, whole = host.list_jobs(None)
    if found := _tagged(jobs, intent, host):
        return found
    if not intent.same_account:
        raise _not_settled(intent, host)
    keeps_tags = host.documents_tags or host.tags.seen
    dropped = tags_dropped(jobs, intent) or may_be_untagged(jobs, intent)
    if keeps_tags and whole and jobs and not dropped:
        return None
    return _find_by_file(jobs, whole, intent, host)


def _filtered(intent: Intent, host: Host) -> list[Json]:
    """Return the jobs that the host shows with our tag; none where it knows no such filter."""
    try:
        return host.list_jobs({JOB_TAG: intent.job_id})[0]
    except BackendError as exc:
        if exc.status_code not in (400, 422):
            raise
        return []


def is_created(answer: Json, job_id: str, train: DataFile) -> bool:
    """Return False if the answer of a create is about something else than this job, such as one
    that trains on another file."""
    ours = answer.get("object") in (None, JOB) and tag_of(answer) in (None, job_id)
    if not text_of(answer.get("training_file")) or not train.remote_id:
        return ours
    return ours and bool(with_file([answer], (train.remote_id, file_name(train))))


def _tagged(jobs: list[Json], intent: Intent, host: Host) -> str | None:
    for job in jobs:
        host.tags.look_at(job)
    tagged = (job for job in jobs if tag_of(job) == intent.job_id)
    return next((str(job["id"]) for job in tagged), None)


def _find_by_file(jobs: list[Json], whole: bool, intent: Intent, host: Host) -> str | None:
    if not jobs and whole and not intent.others:
        return None
    free = candidates(jobs, intent)
    rest = [job for job in free if not _is_older(job, intent.sent_at)]
    known = intent.train.remote_id
    file_ids = {known} if known else _file_ids(intent.train, host)
    # An older one, too: the host's clock may be more behind ours than is allowed for.
    same_file = with_file(free, {*(file_ids or ()), file_name(intent.train)})
    if len(same_file) == 1 and same_file[0] in rest and not intent.contested:
        [job] = same_file
        if job["training_file"] in (file_ids or ()) and is_ours(job, intent):
            return str(job["id"])
    told_apart = not rest or (file_ids is not None and have_files(rest))
    if whole and jobs and told_apart and not same_file:
        return None
    raise _not_settled(intent, host)


def _file_ids(file: DataFile, host: Host) -> set[str] | None:
    """Return the ids that a file has at the host, none if it was not sent; None if that cannot be
    known: the list was not read to its end, or shows no file by the name that we gave it."""
    files, whole = host.list_files()
    names_kept = any(str(item.get("filename")).startswith(FILE_PREFIX) for item in files)
    return set(uploads(files, file)) if whole and names_kept else None


def uploads(files: list[Json], file: DataFile) -> list[str]:
    """Return the ids of the usable files among these that have this content, by their name."""
    return [
        found
        for item in files
        if item.get("filename") == file_name(file)
        and item.get("status") != "error"
        and (found := usable_id(item))
    ]


def is_uploaded(answer: Json, file: DataFile) -> bool:
    """Return False if the answer of an upload is about something else than this file, such as
    another one that was sent from here."""
    name = text_of(answer.get("filename")) or ""
    ours = name == file_name(file) or not name.startswith(FILE_PREFIX)
    return answer.get("object") in (None, FILE) and ours


def _not_settled(intent: Intent, host: Host) -> BackendError:
    job_id = intent.job_id
    return BackendError(
        f"The list of jobs at {host.address} cannot tell whether it has {job_id}, which trains "
        f"{intent.spec.model}.",
        hint=f"Look there yourself, then run: ftg settle {job_id} --created ID, or: "
        f"ftg settle {job_id} --not-created",
        backend="openai",
        code=NOT_SETTLED,
        maybe_applied=True,
    )


def tag_of(job: Json) -> str | None:
    """Return the id that the gateway has tagged a job with, if the host shows it: in its metadata,
    or in a list of tags."""
    metadata, tags = job.get("metadata"), job.get("tags")
    tag = metadata.get(JOB_TAG) if isinstance(metadata, dict) else None
    if isinstance(tags, list) and tag is None:
        texts = (one.partition(":") for one in tags if isinstance(one, str))
        tag = next((value for key, _, value in texts if key == JOB_TAG), None)
    return tag if isinstance(tag, str) else None


def tags_dropped(jobs: list[Json], intent: Intent) -> bool:
    """Return True if the host shows one of our jobs without its tag."""
    return any(job["id"] in intent.others and tag_of(job) is None for job in jobs)


def may_be_untagged(jobs: list[Json], intent: Intent) -> bool:
    """Return True if the host shows a job without a tag that may be ours: on our file, or on one
    that it does not show. A host may answer a create with the tag, and list the job without."""
    free = candidates(jobs, intent)
    hidden = (
        text_of(job.get("training_file")) is None
        and job.get("model") in (intent.spec.model, None)
        and not _is_older(job, intent.sent_at)
        for job in free
    )
    known = intent.train.remote_id
    return any(hidden) or bool(known and with_file(free, {known}))


def candidates(jobs: list[Json], intent: Intent) -> list[Json]:
    """Return the jobs that may be the one of this intent: held by none of our other jobs, and
    tagged for none."""
    return [job for job in jobs if job["id"] not in intent.others and tag_of(job) is None]


def _is_older(job: Json, sent_at: float) -> bool:
    born = moment(job.get("created_at"))
    return born is not None and born < sent_at - CLOCKS


def have_files(jobs: list[Json]) -> bool:
    """Return True if the host shows which file each of these jobs trains on."""
    return all(isinstance(job.get("training_file"), str) for job in jobs)


def with_file(jobs: list[Json], file_ids: Collection[str]) -> list[Json]:
    """Return the jobs that train on one of these files, or on an address with one of them in it:
    whole, since an id may be the beginning of another one."""
    whole = [re.compile(rf"(?<![\w-]){re.escape(one)}(?![\w-])") for one in file_ids if one]
    named = ((job, text_of(job.get("training_file")) or "") for job in jobs)
    return [job for job, name in named if any(one.search(name) for one in whole)]


def is_ours(job: Json, intent: Intent) -> bool:
    """Return True if a job that trains on our file is the one of this intent, by its model, its
    seed and the fact that it has a time."""
    spec = intent.spec
    other_seed = spec.seed is not None and job.get("seed") not in (None, spec.seed)
    known_time = moment(job.get("created_at")) is not None
    return known_time and job.get("model") == spec.model and not other_seed
