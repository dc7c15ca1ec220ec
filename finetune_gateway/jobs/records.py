"""A job as the store keeps it, and the row it is kept in."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from finetune_gateway.backend import BY_FTG, NOT_SETTLED
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import BackendError, DataError, NotFoundError, StoreError
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.events import JobStatus, Result, Snapshot
from finetune_gateway.jobs.reported import damaged_row
from finetune_gateway.model import Model
from finetune_gateway.settings.connections import with_json
from finetune_gateway.settings.money import MOST_USD
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import LATEST, clean, moment, visible, whole

# The progress of a submit. "uploading" and "creating" are committed before the request is sent:
# the provider may or may not have received a job that is found in such a step. "resuming": an ended
# job goes on, and its backend may not know it yet.
Step = Literal["intent", "uploading", "creating", "sent", "resuming"]


Moment = Annotated[float, Field(gt=-LATEST, lt=LATEST)]  # that a calendar has
Usd = Annotated[Decimal, Field(ge=0, le=MOST_USD)]
MOST_ESTIMATED = 10**6 * MOST_USD  # of a file at the limits of all hosts far less


def _within(cost: Range[Decimal]) -> Range[Decimal]:
    """Raise ValueError for an estimate that nothing costs."""
    if not (cost.low >= 0 and cost.high <= MOST_ESTIMATED):
        raise ValueError("no amount of USD")
    return cost


class StoredFile(Model):
    """A dataset of a job: a copy in the home folder, named by its content."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    path: str
    sha256: str
    rows: int
    bytes: int

    def require_unchanged(self) -> None:
        """Raise DataError unless the copy is what was checked."""
        path = Path(self.path)
        if path.exists() and Dataset(path).fingerprint == self.sha256:
            return
        state = "is no longer what was checked" if path.exists() else "is gone"
        raise DataError(
            f"The copy of the data {state}: {path}.",
            hint="Submit the same data again: it is copied and checked anew.",
        )


class _CountedRows(Model):
    """What is used again of the tokens of an estimate."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore")

    images: int = 0


class StoredEstimate(Model):
    """The parts of a job's stored estimate that are used again."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore")

    cost_usd: Annotated[Range[Decimal], AfterValidator(_within)] | None = None
    billed_tokens: Range[int] | None = None
    counted: _CountedRows | None = Field(default=None, alias="tokens")
    trained_tokens: Range[int] | None = None
    seconds: Range[float] | None = None
    prices: tuple[Price, ...] = ()


class JobRecord(BaseModel):
    """One row of ``jobs``."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    created_at: Moment
    name: str  # the dataset's file name, for people
    backend: str
    backend_options: dict[str, Any]
    hosted: bool
    spec: TrainingSpec
    train: StoredFile
    validation: StoredFile | None = None  # given to its backend
    held_out: StoredFile | None = None  # kept here alone
    # The share of the rows that was held out; 0 if all were to be trained. None: there was nothing
    # to hold out, or an earlier version submitted it, which held out only what was asked for.
    held_out_share: float | None = None
    columns: dict[str, str] = {}  # of the user's data, and the keys they were read as
    system_prompt: str | None = None
    estimate: dict[str, Any] | None = None
    max_cost_usd: Usd | None = None  # the limit of its submit
    quote_usd: Usd | None = None  # what its host has named as its price: see ``quotes``
    metadata: dict[str, str] = {}  # the user's own
    allowed: dict[str, int] = {}  # private data that it may send: kinds, and how often found
    submit_key: str
    old_submit_key: str = Field(default="", exclude=True)  # as stores without accounts have it
    # Of an equal submit by an earlier version, which held out only what was asked for.
    earlier_keys: tuple[str, ...] = Field(default=(), exclude=True)
    account: str | None = None  # see ``accounts``; None is not known
    step: Step = "intent"
    step_at: Moment
    step_clock: str | None = None  # the same moment by the ``stopwatch``
    tries: int = 0
    sent_at: Moment | None = None  # when its first create was announced
    train_file_id: str | None = None  # the provider's id of the file in its last create
    settled: bool = False  # a person said that it was not created
    not_before: float | None = None  # it waits here until then: its host takes no more jobs now
    turned_away: int = 0  # how often that was so
    resumes: int = 0  # how often it was led out of failed or cancelled
    provider_id: str | None = None
    status: JobStatus = JobStatus.VALIDATING_FILES
    raw_status: str = ""
    phase: str = ""
    error: str | None = None
    cursor: str | None = None
    polled_at: Moment | None = None
    trained_tokens: int | None = None
    seconds: float | None = None  # of work, by the backend's own clock
    cost_usd: Usd | None = None  # as its host bills it, so far or in all
    progress: float | None = None  # from 0 to 1, as its host says
    place_in_line: int | None = None  # at its host, while it waits there
    expected_start_at: Moment | None = None  # while it waits, as its host expects it
    priority: int = 0  # as it was submitted: the larger one begins first
    after: tuple[str, ...] = ()  # jobs that must have succeeded before it begins
    start_at: Moment | None = None  # it begins no earlier
    finished_at: Moment | None = None
    result: Result | None = None
    handle: dict[str, Any] | None = None
    removed_at: Moment | None = None  # its texts were removed then: see ``removal``
    erased: bool = False  # and no file has anything left of them
    gone: bool = False  # its host has nothing more of it that is to be deleted: see ``pruning``

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Its data in the home folder."""
        return tuple(filter(None, (self.train, self.validation, self.held_out)))

    @property
    def given(self) -> tuple[StoredFile, ...]:
        """The files of it that its backend gets."""
        return tuple(filter(None, (self.train, self.validation)))

    @property
    def removed(self) -> bool:
        return self.removed_at is not None

    @property
    def display_name(self) -> str:
        """Its backend's name in messages."""
        return display_name(self.backend, self.backend_options)

    @property
    def host(self) -> str:
        """Where it is sent: the host in its address, where it has one."""
        url = self.backend_options.get("base_url")
        return urlsplit(str(url)).netloc if url else self.display_name

    @property
    def ended_otherwise(self) -> bool:
        """True if the provider says when the job has ended, but with a status that we do not
        know."""
        return self.finished_at is not None and not self.status.final

    @property
    def deploy(self) -> str:
        """How to deploy its model, if it has succeeded at a host where the model answers only
        then, and no deployment has answered yet; else empty."""
        known = self.handle or (self.result.model_dump() if self.result else {})
        deploy = known.get("deploy") or ""
        return f"{BY_FTG} {self.id}" if deploy == BY_FTG else deploy

    @property
    def deployed_by_us(self) -> bool:
        """True if its backend makes the deployments of its model when asked."""
        return self.result is not None and self.result.deploy == BY_FTG

    @property
    def unsent(self) -> bool:
        """Return True if it goes on, and no provider's id is known."""
        return self.provider_id is None and not self.status.final

    @property
    def first_sent_at(self) -> float:
        """Return a moment before which none of its creates was sent, by the clock as it is set now;
        0 if nothing is known of the clock that it was sent by."""
        sent_at = self.sent_at or self.created_at
        passed = seconds_since(self.step_at, self.step_clock)
        if passed < 0:
            return 0.0
        return min(sent_at, time.time() - passed - max(0.0, self.step_at - sent_at))

    @property
    def waits_here(self) -> bool:
        """Return True if its host takes no more jobs now: it is queued here, and not there."""
        return self.unsent and self.step == "intent" and self.not_before is not None

    @property
    def refused(self) -> bool:
        """Return True if its host has refused its create for now, and nobody has said since that it
        is not there: a host may create a job and refuse all the same."""
        return self.waits_here and self.sent_at is not None and not self.settled

    @property
    def seconds_to_wait(self) -> float:
        """Return how long it still waits before it is sent, whatever the clock was set to."""
        if self.not_before is None or not self.unsent:
            return 0.0
        passed = seconds_since(self.step_at, self.step_clock)
        # Of a clock that was set back nothing is known: to ask again costs nothing.
        return max(0.0, self.not_before - self.step_at - passed) if passed >= 0 else 0.0

    @property
    def lane(self) -> tuple[str, str, str]:
        """Return the host and account where it is sent: jobs with the same one wait in order."""
        options = self.backend_options
        if options.get("base_url") is None:
            return self.backend, json.dumps(options, sort_keys=True), ""
        return (
            self.backend,
            str(options["base_url"]),
            self.account or str(options.get("api_key_env")),
        )

    @property
    def outlook(self) -> str:
        """What will become of an unsent job, and which command does it; empty for others."""
        if not self.unsent:
            return ""
        end = f"ftg cancel {self.id} ends it."
        if self.step == "creating":
            return (
                f"It is not known whether {self.display_name} has {self.id}. ftg wait {self.id} "
                f"looks, and sends it only if it is not there; {end} If you know: "
                f"ftg settle {self.id} --created ID, or --not-created"
            )
        if self.waits_here:
            reason = self.phase.removeprefix("waiting: ") or "its turn has not come"
            return (
                f"{self.id} is queued here: {reason}. ftg wait {self.id} sends it when there is "
                f"room; {end}"
            )
        return f"{self.id} has not been sent. ftg wait {self.id} sends it; {end}"


def display_name(backend: str, options: dict[str, Any]) -> str:
    """Return the name of a backend in messages: ``azure`` rather than ``openai``, if these options
    have its profile."""
    profile = options.get("profile") if backend == "openai" else None
    return str(profile or backend)


JSON_COLUMNS = frozenset(
    {
        "backend_options",
        "spec",
        "train",
        "validation",
        "held_out",
        "columns",
        "after",
        "estimate",
        "metadata",
        "allowed",
        "result",
        "handle",
    }
)
# Where a row may have the path of a file in the home folder, which may move.
PATHS = (
    ("spec", "model"),
    ("train", "path"),
    ("validation", "path"),
    ("held_out", "path"),
    ("result", "model"),
    ("handle", "model"),
    ("handle", "base_model"),
)
SAME: Callable[[str], str] = str


def new_job_id() -> str:
    """Return ``ftg-`` and ten characters without look-alikes (about 47 random bits)."""
    alphabet = "23456789abcdefghjkmnpqrstuvwxyz"
    return "ftg-" + "".join(secrets.choice(alphabet) for _ in range(10))


def row_of(record: JobRecord, stored_path: Callable[[str], str] = SAME) -> dict[str, Any]:
    """Return the columns of a record. ``stored_path``: what the store keeps for a path."""
    values = record.model_dump(mode="json")
    _replace_paths(values, stored_path)
    for name in JSON_COLUMNS:
        values[name] = None if values[name] is None else json.dumps(values[name])
    return values


def handle_text(handle: dict[str, Any], stored_path: Callable[[str], str]) -> str:
    """Return a handle as the store keeps it."""
    names = [name for column, name in PATHS if column == "handle"]
    return json.dumps(clean({**handle, **{name: stored_path(handle[name]) for name in names}}))


def record_of(row: sqlite3.Row, real_path: Callable[[str], str] = SAME) -> JobRecord:
    """Return the record in a row. ``real_path``: the path that the store keeps as this. Raises
    StoreError for a row that somebody else has written to."""
    try:
        return _read(row, real_path)
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise damaged_row(
            str(row["id"]),
            exc,
            "Restore the file from a copy of yours; or move it away to start again, and keep it: "
            "other jobs may be read from it.",
        ) from exc


def _read(row: sqlite3.Row, real_path: Callable[[str], str]) -> JobRecord:
    values = with_json(row, JSON_COLUMNS)
    _replace_paths(values, real_path)
    if "chosen" not in values["spec"]:  # stored before that was kept
        values["spec"]["chosen"] = _not_default(values["spec"])
    StoredEstimate.model_validate(values["estimate"] or {})
    return JobRecord.model_validate(values)


def _not_default(spec: dict[str, Any]) -> list[str]:
    """Return the fields of a stored spec that differ from their default."""
    fields = TrainingSpec.model_fields
    return [name for name, value in spec.items() if value != fields[name].default]


def _replace_paths(values: dict[str, Any], change: Callable[[str], str]) -> None:
    for column, field in PATHS:
        if values[column] is not None and values[column].get(field) is not None:
            values[column][field] = change(values[column][field])


@cache
def _boot() -> str:
    """Return what names this run of the machine; where it has no such name, this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return secrets.token_hex(8)


def stopwatch() -> str:
    """Return this moment by the clock that nobody can set, as text for ``seconds_since``."""
    return f"{_boot()} {time.monotonic():.3f}"


def seconds_since(moment: float, clock: str | None) -> float:
    """Return the seconds since a stored moment. By its ``stopwatch``, if the machine has run since:
    the time of day may have been set in between. Negative only for a moment without one."""
    boot, _, started = (clock or "").partition(" ")
    if boot == _boot():
        return max(0.0, time.monotonic() - float(started))  # the text may be rounded up
    return time.time() - moment


def storable(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot with only what SQLite, JSON and the reports can hold, whatever the
    backend has put into it."""
    values = clean(snapshot.model_dump())
    for event in values["events"]:
        event["created_at"] = moment(event["created_at"]) or time.time()
    points = values["checkpoints"]
    values["checkpoints"] = [point for point in points if whole(point["step"]) is not None]
    values["finished_at"] = moment(values["finished_at"])
    if values["seconds"] is not None and not 0 <= values["seconds"] < LATEST:
        values["seconds"] = None
    return Snapshot.model_validate(values)


def figures(
    snapshot: Snapshot, status: JobStatus
) -> tuple[str | None, float | None, int | None, float | None]:
    """Return the cost, the progress, the place in line and the expected start of a snapshot as the
    store keeps them; ``status``: of the job after it."""
    cost = None if snapshot.cost_usd is None else f"{snapshot.cost_usd:f}"
    place = (snapshot.place_in_line, snapshot.expected_start_at)
    return cost, snapshot.progress, *((None, None) if status.final else place)


def logged(record: JobRecord, before: JobRecord | None = None) -> JobRecord:
    """Write in the log what has become of a job, and return it; at DEBUG if its status is that of
    ``before``."""
    level = logging.DEBUG if before and before.status is record.status else logging.INFO
    at = visible(record.provider_id or "") or "not sent"
    logs.jobs.log(level, "%s is %s at %s (%s)", record.id, record.status, record.display_name, at)
    return record


def held_by_another(record: JobRecord, provider_id: str) -> BackendError:
    """Return the error for a provider's id that another job has."""
    return BackendError(
        f"{record.host} names {visible(provider_id)} for {record.id}, but another of your jobs has "
        "this id.",
        hint=f"ftg wait {record.id} looks again. If you know: ftg settle {record.id} --created ID, "
        "or --not-created",
        backend=record.backend,
        code=NOT_SETTLED,
        maybe_applied=True,
    )


def sent_by_another(job_id: str, locks: Path) -> StoreError:
    """Return the error for a job that two processes send, as a lock was removed."""
    return StoreError(
        f"Another process has begun to send {job_id}: our lock was removed from {locks} "
        "while it was held. Nothing was sent here.",
        hint=f"Follow it: ftg wait {job_id}",
    )


def several(name: str, found: list[JobRecord]) -> NotFoundError:
    """Return the error for a name of several jobs: two accounts may give the same id."""
    if any(one.provider_id == name for one in found):
        ids = ", ".join(f"{one.id} ({one.host})" for one in found)
        said, hint = f"Several jobs have the id {name!r} at their hosts", "Name one of these."
    else:
        ids = ", ".join(one.id for one in found)
        said, hint = f"Several jobs begin with {name!r}", "Give more of the id."
    return NotFoundError(f"{said}: {ids}.", hint=hint)
