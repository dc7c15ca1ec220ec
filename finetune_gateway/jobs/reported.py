"""What a job has reported, as rows of the store: events and checkpoints, with the fields that this
version does not know. And what is said of a row that cannot be read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from finetune_gateway.errors import StoreError
from finetune_gateway.events import Checkpoint, Event
from finetune_gateway.model import Model
from finetune_gateway.settings.connections import NoJson, with_json
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
    model = row["model"]
    values = {**dict(row), "model": real_path(model) if isinstance(model, str) else model}
    return _read(Checkpoint, values, "metrics", f"checkpoint {row['id']}")


def _more(report: Model) -> str | None:
    return json.dumps(report.model_extra) if report.model_extra else None


def _read(model: type[M], values: dict[str, Any], data: str, what: str) -> M:
    """Return a report; ``data``: its field that is kept as JSON."""
    try:
        values = with_json(values, (data, "more"))
        known = {name: values[name] for name in model.model_fields}
        return model.model_validate({**(values["more"] or {}), **known})
    except (ValueError, TypeError) as exc:  # no JSON, or of another kind
        what = f"{what} of {values['job_id']}"
        raise damaged_row(what, exc, "Restore the file from a copy of yours.") from None


def damaged_row(what: str, error: Exception, hint: str) -> StoreError:
    """Return the error for a row of the store that could not be read: it names the column."""
    where = error.errors()[0]["loc"] if isinstance(error, ValidationError) else ()
    where = error.args if isinstance(error, NoJson) else where
    field = f": {'.'.join(map(str, where))}" if where else ""
    return StoreError(f"What the store has of {visible(what)} is damaged{field}.", hint=hint)
