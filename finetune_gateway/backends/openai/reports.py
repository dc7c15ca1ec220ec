"""What hosted jobs report: their status, and events and checkpoints as far as they can be had."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import openai

from finetune_gateway.backends.openai import bounds, finding, wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import BackendError, NotFoundError
from finetune_gateway.events import (
    Checkpoint,
    Event,
    JobStatus,
    Result,
    Snapshot,
    later,
    metrics_of,
)
from finetune_gateway.text.cleaning import clean, encodable, moment, visible, whole
from finetune_gateway.text.redaction import redact

EVENT_PAGES = 200  # of 100
MODEL_ID_SECONDS = 300.0  # from success until a host that names no model is believed
REPORTS_TIMEOUT = 10.0  # seconds without any answer, for events and checkpoints
REPORTS_READS = 3  # so many times as long may all of the events take, and all of the checkpoints
LONGEST_TEXT = 10_000  # characters of one event that are stored
NEW_JOB_STATES = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED)


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    request_timeout: float

    @property
    def host(self) -> str: ...

    def deploy_command(self, model: str) -> str | None: ...

    def calling(self, what: str) -> AbstractContextManager[tuple[openai.OpenAI, wire.Call]]: ...


def poll(host: Host, provider_id: str, cursor: str | None) -> Snapshot:
    """Return the job as it is now, with its events since ``cursor`` (an event's id).

    The status depends on the job alone: if its events or checkpoints cannot be read, a note
    among the events says so, and the cursor stays. A job that has succeeded is running until
    the host names its model, at most five minutes; that time is kept in the cursor.
    """
    if wire.usable_id({"id": provider_id}) is None:  # a person has named it
        named = visible(encodable(provider_id[: wire.SHOWN]))
        raise NotFoundError(
            f"{host.host} has no job {named!r}: that is no id.",
            hint="They look like ftjob-abc123.",
        )
    with host.calling("read the job") as (client, call):
        job = wire.read(
            retried(client.fine_tuning.jobs.with_raw_response.retrieve, provider_id), call
        )
        raw_status = wire.text_of(job.get("status"))
        if raw_status is None or job.get("id") != provider_id:
            raise wire.undecodable(call, wire.error_of(job) or "")
    status = wire.status_of(job)
    born = moment(job.get("created_at")) or 0.0
    last, since = split_cursor(cursor)
    items, notes = _list(host, "events", provider_id, last)
    points: list[wire.Json] = []
    if status not in NEW_JOB_STATES:
        points, more = _list(host, "checkpoints", provider_id)
        notes += more
    events = [event_of(item, born) for item in items]
    last = events[-1].id if events else last
    notes += notes_on(items, events, points)
    ended = moment(job.get("finished_at"))
    model = wire.text_of(job.get("fine_tuned_model")) if status is JobStatus.SUCCEEDED else None
    unnamed = status is JobStatus.SUCCEEDED and model is None
    if unnamed:
        now = time.time()
        since = min(now, ended or now, since or now)  # neither clock may stop the other
        unnamed = now - since < MODEL_ID_SECONDS
        last = joined_cursor(last, since)
        if not unnamed:
            text = f"The job has succeeded, but {host.host} gives no name of a model for it."
            notes.append(note("model", text))
    result = None
    if model:
        result = Result(kind="hosted", model=model, deploy=host.deploy_command(model))
    return Snapshot(
        status=JobStatus.RUNNING if unnamed else status,
        job_id=finding.tag_of(job),
        raw_status=raw_status[: wire.SHOWN],
        phase="waiting for the model id" if unnamed else "",
        events=[*events, *notes],
        checkpoints=[point for item in points if (point := checkpoint_of(item))],
        cursor=last,
        result=result,
        trained_tokens=whole(job.get("trained_tokens")),
        seconds=max(0.0, ended - born) if ended and born else None,
        finished_at=ended,
        error=wire.error_of(job),
    )


def statuses(host: Host, provider_ids: Collection[str]) -> dict[str, Snapshot]:
    """Return the status of those of these jobs that the host's list of jobs shows.

    The list is read until all are seen, or a job is asked for as cheaply by itself: when the pages
    that showed none are as many as the jobs still missing. A list that is refused or cannot be read
    tells nothing. Raises BackendError if the host cannot be reached, or refuses the key.
    """
    told: dict[str, Snapshot] = {}
    missing, fruitless = set(provider_ids), 0
    if not missing:
        return told
    with host.calling("list the jobs") as (client, call), bounds.within():
        listed = client.fine_tuning.jobs.with_raw_response.list

        def fetch(after: str | None) -> wire.Answer:
            answer: wire.Answer = retried(listed, limit=100, after=after or openai.omit)
            return answer

        most = max(wire.MAX_PAGES, len(missing))
        try:
            for page in wire.Pages(fetch, call, most, _id_and_status):
                before = len(missing)
                for job in page:
                    _take(job, provider_ids, told)
                missing -= told.keys()
                fruitless += len(missing) == before
                if fruitless >= len(missing):
                    break
        except BackendError:  # no list
            return told
        except openai.APIStatusError as exc:
            if exc.status_code in (401, 429):
                raise
    return told


def _id_and_status(job: wire.Json) -> str:
    return f"{wire.key_of(job)} {job.get('status')}"


def _take(job: wire.Json, wanted: Collection[str], told: dict[str, Snapshot]) -> None:
    """Add the status of a listed job; of one that is listed twice, the later status."""
    provider_id, raw_status = wire.usable_id(job), wire.text_of(job.get("status"))
    if provider_id is None or provider_id not in wanted or raw_status is None:
        return
    status = wire.status_of(job)
    if provider_id in told and later(told[provider_id].status, status) is not status:
        return
    told[provider_id] = Snapshot(
        status=status,
        job_id=finding.tag_of(job),
        raw_status=raw_status[: wire.SHOWN],
        finished_at=moment(job.get("finished_at")),
    )


def _list(
    host: Host, what: str, provider_id: str, cursor: str | None = None
) -> tuple[list[wire.Json], list[Event]]:
    """Return the events after ``cursor`` or the checkpoints of a job, oldest first; nothing and
    a note if the host does not give them."""
    try:
        # Not as long as for the job: this must not delay its status, however many pages there are.
        seconds = min(host.request_timeout, REPORTS_TIMEOUT)
        whole_list = bounds.within(REPORTS_READS * seconds)
        with host.calling(f"list the {what}") as (client, call), whole_list:
            jobs = client.fine_tuning.jobs
            listed: Any = {
                "events": jobs.with_raw_response.list_events,
                "checkpoints": jobs.checkpoints.with_raw_response.list,
            }[what]

            def fetch(after: str | None) -> wire.Answer:
                answer: wire.Answer = retried(
                    listed, provider_id, limit=100, after=after or openai.omit, timeout=seconds
                )
                return answer

            found = wire.Pages(fetch, call, EVENT_PAGES)
            if what == "events":
                return events_after(found, cursor), []
            items = [item for page in found for item in page]
            return sorted(items, key=lambda item: whole(item.get("step_number")) or 0), []
    except BackendError as exc:
        if exc.status_code == 404:  # a host without this part of the contract
            return [], []
        text = f"The {what} of this job could not be read; its status is up to date. {exc}"
        return [], [note(what, text)]


# -- cursor, events, checkpoints ----------------------------------------------------------

NO_MODEL_SINCE = " no-model-since="  # in a cursor: when a job had first succeeded without a model


def split_cursor(cursor: str | None) -> tuple[str | None, float | None]:
    """Return the event's id of a cursor, and the time since which the job lacks its model."""
    event, mark, since = (cursor or "").rpartition(NO_MODEL_SINCE)
    if mark and since.isascii() and since.isdigit():
        return event or None, moment(int(since[: wire.LONGEST_INTEGER]))
    return cursor or None, None


def joined_cursor(event: str | None, since: float) -> str:
    """Return the cursor that ``split_cursor`` reads."""
    return f"{event or ''}{NO_MODEL_SINCE}{since:.0f}"


def events_after(pages: Iterable[list[wire.Json]], cursor: str | None) -> list[wire.Json]:
    """Return the events after the one with the id ``cursor``, oldest first.

    The contract lists the newest first, so reading stops at the cursor. A host that lists the
    oldest first is recognised by its times and read to the end.
    """
    items: list[wire.Json] = []
    ascending = False
    for number, page in enumerate(pages):
        ascending = _ascends(page) if number == 0 else ascending
        items += page
        if not ascending and any(wire.key_of(item) == cursor for item in page):
            break
    ordered = items if ascending else items[::-1]
    ids = [wire.key_of(item) for item in ordered]
    return ordered[ids.index(cursor) + 1 :] if cursor in ids else ordered


def _ascends(page: list[wire.Json]) -> bool:
    first, last = page[0].get("created_at"), page[-1].get("created_at")
    if not isinstance(first, int | float) or not isinstance(last, int | float):
        return False
    return first < last


def event_of(item: wire.Json, born: float) -> Event:
    """Return one event; its metrics are read from the text if ``data`` is empty.

    ``born``: seconds since the epoch, for an event without a time.
    """
    message = _cut(redact(wire.text_of(item.get("message")) or ""))
    data = wire.object_of(item.get("data"))
    parsed = {} if data else figures(message)
    if len(json.dumps(data)) > LONGEST_TEXT:
        data, message = {}, f"{message} (its data were left out: they are too long)"
    kind = "metrics" if parsed else wire.text_of(item.get("type")) or "message"
    return Event(
        id=wire.key_of(item),
        created_at=moment(item.get("created_at")) or born,
        level=_level(item.get("level")),
        type=kind,
        message=message,
        data=metrics_of(data) if kind == "metrics" and data else data or parsed,
    )


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}... (cut off: the host sent {len(text):,} characters)"


def note(what: str, message: str) -> Event:
    """Return a note of ours among a job's events; there is one for each ``what``."""
    return Event(id=f"ftg-note-{what}", level="warn", message=message)


def notes_on(items: list[wire.Json], events: list[Event], points: list[wire.Json]) -> list[Event]:
    """Return notes on what was left out of these events and checkpoints."""
    metrics = [pair for pair in zip(items, events, strict=True) if pair[1].type == "metrics"]
    wrong = {name for item, event in metrics for name in wire.object_of(item.get("data"))} - {
        name for _, event in metrics for name in event.data
    }
    notes = []
    if wrong:
        names = wire.one_line(", ".join(sorted(wrong)))
        notes.append(note("figures", f"Left out of the metrics, because it is no number: {names}."))
    if any(checkpoint_of(point) is None for point in points):
        text = "A checkpoint was left out, because the host gives no model or no step for it."
        notes.append(note("points", text))
    return notes


def _level(word: object) -> Literal["info", "warn", "error"]:
    if word == "error":
        return "error"
    return "warn" if word in ("warn", "warning") else "info"


NAMES = {
    "training loss": "train_loss",
    "validation loss": "valid_loss",
    "full validation loss": "full_valid_loss",
}


# Bounded, or a long text without an equals sign takes the square of its length.
FIGURE = r"([a-z][a-z ]{0,40})=(\d{1,20}(?:\.\d{1,20})?(?:e-?\d{1,3})?)"


def figures(message: str) -> wire.Json:
    """Return ``Step 300/300: training loss=0.15, validation loss=0.27`` as data."""
    message = message[: wire.SHOWN]
    step = re.match(r"Step ([0-9]{1,18})(?:/([0-9]{1,18}))?: ", message)
    if not step:
        return {}
    data: wire.Json = {"step": int(step[1])}
    if step[2]:
        data["total_steps"] = int(step[2])
    for name, value in re.findall(FIGURE, message):
        if name in NAMES:
            data[NAMES[name]] = float(value)
    return wire.object_of(clean(data))


def checkpoint_of(item: wire.Json) -> Checkpoint | None:
    """Return one checkpoint; None if the host does not give its model or step."""
    model = wire.text_of(item.get("fine_tuned_model_checkpoint"))
    step = whole(item.get("step_number"))
    if model is None or step is None:
        return None
    metrics = wire.object_of(item.get("metrics"))
    known = {name: value for name, value in metrics.items() if value is not None}
    return Checkpoint(id=wire.key_of(item), step=step, model=model, metrics=known)
