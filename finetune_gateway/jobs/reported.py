"""What a job has reported, as rows of the store: events and checkpoints, with the fields that this
version does not know."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from finetune_gateway.errors import StoreError
from finetune_gateway.events import Checkpoint, Event
from finetune_gateway.model import Model
from finetune_gateway.text.cleaning import visible

M = TypeVar("M", bound=Model)


def event_row(event: Event) -> dict[str, Any]:
    """Return an event by column."""
    return {
        "event_id": event.id,
        "created_at": event.created_at,
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": json.dumps(event.data),
        "more": _more(event),
    }


def event_of(row: sqlite3.Row) -> Event:
    """Return the event in a row. Raises StoreError for a row that somebody else has written to."""
    values = {**dict(row), "id": row["event_id"], "number": row["seq"]}
    return _read(Event, values, "data", f"event {row['seq']}")


def checkpoint_row(point: Checkpoint, stored_path: Callable[[str], str]) -> dict[str, Any]:
    """Return a checkpoint by column."""
    return {
        "id": point.id,
        "step": point.step,
        "model": stored_path(point.model),
        "metrics": json.dumps(point.metrics),
        "more": _more(point),
    }


def checkpoint_of(row: sqlite3.Row, real_path: Callable[[str], str]) -> Checkpoint:
    """Return the checkpoint in a row. Raises StoreError for a row that somebody else has written
    to."""
    values = {**dict(row), "model": real_path(row["model"])}
    return _read(Checkpoint, values, "metrics", f"checkpoint {visible(str(row['id']))}")


def _more(report: Model) -> str | None:
    return json.dumps(report.model_extra) if report.model_extra else None


def _read(model: type[M], values: dict[str, Any], data: str, what: str) -> M:
    """Return a report; ``data``: its field that is kept as JSON."""
    try:
        known = {name: values[name] for name in model.model_fields}
        known[data] = json.loads(known[data])
        more = json.loads(values["more"] or "{}")
        return model.model_validate({**more, **known})
    except (ValueError, TypeError):  # no JSON, or of another kind
        raise StoreError(
            f"What the store has of {what} of {visible(str(values['job_id']))} is damaged.",
            hint="Restore the file from a copy of yours.",
        ) from None
