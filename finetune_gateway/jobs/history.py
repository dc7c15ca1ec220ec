"""What a job has reported, read from the store by range: of a long one never all is in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.events import Event, Metric, metrics_by_step, metrics_of
from finetune_gateway.jobs.overfitting import Loss
from finetune_gateway.jobs.reported import event_of
from finetune_gateway.jobs.store import Store

PAGE = 1000  # events that are read at once
TAIL = 200  # steps at the end among which the latest value of each metric is looked for


def read_events(store: Store, job_id: str, after: int = 0, limit: int | None = None) -> list[Event]:
    """Return numbered events in the order they were stored; those after number ``after``, at most
    ``limit``."""
    rows = store.query(
        "SELECT * FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        (job_id, after, -1 if limit is None else limit),
    )
    return [event_of(row) for row in rows]


def each_event(store: Store, job_id: str, after: int = 0) -> Iterator[Event]:
    """Yield the events after number ``after``, and read a page at a time."""
    while page := read_events(store, job_id, after, PAGE):
        yield from page
        after = page[-1].number or after


def last_events(store: Store, job_id: str, count: int) -> list[Event]:
    """Return the last events, oldest first."""
    rows = store.query(
        "SELECT * FROM events WHERE job_id = ? ORDER BY seq DESC LIMIT ?", (job_id, count)
    ).fetchall()
    return [event_of(row) for row in reversed(rows)]


def changed_versions(store: Store, job_id: str) -> str:
    """Return what a job has said last of versions that have changed since its submit; empty if
    nothing has."""
    row = store.query(
        "SELECT message FROM events WHERE job_id = ? AND type = 'message' AND level = 'warn'"
        " AND instr(data, '\"changed_versions\"') ORDER BY seq DESC LIMIT 1",
        (job_id,),
    ).fetchone()
    return row["message"] if row else ""


def read_metrics(store: Store, job_id: str) -> list[Metric]:
    """Return all metrics by step."""
    return metrics_by_step(each_event(store, job_id))


@dataclass(frozen=True)
class Curves:
    """The losses of a job by step, and what it has said last.

    ``last``: the metrics of its last step; ``values``: the latest value of each metric. ``began``
    and ``at``: the first and the last step with the time of each. ``number``: of the last event.
    """

    train: Sequence[Loss] = ()
    valid: Sequence[Loss] = ()
    last: Metric | None = None
    values: dict[str, Any] = field(default_factory=dict)
    began: tuple[int, float] | None = None
    at: tuple[int, float] | None = None
    number: int = 0
    message: str = ""  # of the last event that is no metrics


def curves(store: Store, job_id: str) -> Curves:
    """Return the losses of a job, and its last metrics: by one pass over its rows that makes no
    event of them."""
    said = store.query(
        "SELECT seq, message FROM events WHERE job_id = ? AND type != 'metrics'"
        " ORDER BY seq DESC LIMIT 1",
        (job_id,),
    ).fetchone()
    rows = store.query(
        "SELECT seq, created_at, json_extract(data, '$.step') AS step,"
        " json_extract(data, '$.train_loss') AS train, json_extract(data, '$.valid_loss') AS valid"
        " FROM events WHERE job_id = ? AND type = 'metrics' AND json_valid(data) ORDER BY seq",
        (job_id,),
    )
    times: dict[int, float] = {}
    train: dict[int, float] = {}
    valid: dict[int, float] = {}
    numbers: dict[int, list[int]] = {}
    number = said["seq"] if said else 0
    for seq, at, step, train_loss, valid_loss in map(tuple, rows):
        number = max(number, seq)
        if not isinstance(step, int):
            continue
        times[step] = at
        numbers.setdefault(step, []).append(seq)
        if _is_loss(train_loss):
            train[step] = train_loss
        if _is_loss(valid_loss):
            valid[step] = valid_loss
    message = said["message"] if said else ""
    if not times:
        return Curves(number=number, message=message)
    steps = sorted(times)
    tail = {*steps[-TAIL:], *(sorted(valid)[-1:])}
    known = _latest(store, [seq for step in tail for seq in numbers[step]])
    return Curves(
        train=sorted(train.items()),
        valid=sorted(valid.items()),
        last=Metric.model_validate(metrics_of(known[steps[-1]])),
        values={name: value for step in sorted(known) for name, value in known[step].items()},
        began=(steps[0], times[steps[0]]),
        at=(steps[-1], times[steps[-1]]),
        number=number,
        message=message,
    )


def _latest(store: Store, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the metrics in the events of these numbers, by step; the later of two counts."""
    rows = store.query(
        "SELECT data FROM events WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
        (json.dumps([*numbers]),),
    )
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        data = json.loads(row["data"])
        known = {name: value for name, value in data.items() if value is not None}
        found.setdefault(data["step"], {}).update(known)
    return found


def _is_loss(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
