"""What each call of a backend may return: a check for each, which gives the answer as we use it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import date
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_gateway.backend.capabilities import REFUSABLE, Capabilities
from finetune_gateway.backend.health import Health
from finetune_gateway.backend.plain_json import plain
from finetune_gateway.errors import shown, validation_error_text
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.events import Artifact, Checkpoint, Event, JobStatus, Result, Snapshot
from finetune_gateway.model import MOST, Model
from finetune_gateway.settings.money import MOST_USD
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.text.redaction import redact
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.tokens.masks.preview import PreviewRenderer

Arguments = tuple[Any, ...]
Check = Callable[[Any, Any, Arguments, dict[str, Any]], Any]

MAX_EVENTS = 10_000  # of one poll; the rest comes with the next ones
LONGEST_ID = 1000  # characters; names of resources at clouds have up to 300
LONGEST_JSON = 1_000_000  # characters of options
LONGEST_SETTLE = 7 * 24 * 3600.0  # seconds; a job in doubt keeps its share of the budget so long
NO_FILES = "Its files cannot be downloaded"  # begins the warning about them
# Of a snapshot, with their bounds: what is none of these is left out.
FIGURES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("trained_tokens", "seconds", "finished_at", "expected_start_at"), (0, MOST)),
    "cost_usd": (0, int(MOST_USD)),
    "progress": (0, 1),
    "place_in_line": (1, MOST),
}
COUNTS = ("trained_tokens", "place_in_line")  # of these, those that are whole
# Of capabilities: sets of names, and what else the rest of the package reads without a look.
SETS = ("methods", "priced", "training_types", "options", "refuses", "resumes", "deletes")
KINDS: dict[str, Any] = {
    "rules": str | Mapping,
    "notes": tuple | list,
    "fixed": Mapping,
    "life_cycle": LifeCycle | None,
    "no_new_jobs_after": date | None,
    "unknown_model_reason": str,
    **dict.fromkeys(("pauses", "takes_metadata"), bool),
}
PART = "ftg-events:"  # begins a cursor of ours: so many events of the backend's own are taken


class Wrong(Exception):
    """An answer breaks the contract; says how."""


def _or_none(check: Check) -> Check:
    return lambda value, *args: None if value is None else check(value, *args)


# -- ids ---------------------------------------------------------------------------------


def _identifier(value: Any, *_: Any) -> str:
    if not isinstance(value, str):
        raise Wrong(f"must return the provider's id as a text, not {shown(value)}")
    if not value.strip() or not value.isprintable() or len(value) > LONGEST_ID:
        raise Wrong(
            f"returned {shown(value)}, which is no id: a line of 1 to {LONGEST_ID} characters"
        )
    return value


def _identifiers(value: Any, *_: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise Wrong(f"must return a list of ids, not {shown(value)}")
    return [_identifier(one) for one in value]


def _text(value: Any, *_: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_ID:
        raise Wrong(f"must be a short text, not {shown(value)}")
    return encodable(value)


# -- what it can do ----------------------------------------------------------------------


def _capabilities(value: Any, *_: Any) -> Capabilities:
    if not isinstance(value, Capabilities):
        raise Wrong(f"must return a Capabilities, not {shown(value)}")
    if not isinstance(value.hosted, bool):
        raise Wrong(f"must say with hosted=True or False where data go, not {shown(value.hosted)}")
    for name, kind in KINDS.items():
        if not isinstance(given := getattr(value, name), kind):
            raise Wrong(f"gives {name} as {shown(given)}, which it cannot be")
    _check_names(value)
    _check_refuses(value)
    _check_seconds(value)
    for name in ("min_rows", "max_file_bytes", "max_context", "chats_at_once"):
        limit, least = getattr(value, name), int(name == "chats_at_once")
        if limit is None and name != "min_rows":
            continue
        if not (is_number(limit) and isinstance(limit, int) and limit >= least):
            raise Wrong(f"must give {name} as a whole number from {least}, not {shown(limit)}")
    return value


def _check_names(value: Capabilities) -> None:
    for name in (*SETS, "schedules"):
        given = getattr(value, name)
        if not isinstance(given, Set) or not all(isinstance(one, str) for one in given):
            raise Wrong(f"must give {name} as a frozenset of texts, not {shown(given)}")
    if unknown := sorted(map(shown, value.fixed.keys() - TrainingSpec.model_fields.keys())):
        raise Wrong(f"must name settings in fixed, not {', '.join(unknown)}")
    if not all(isinstance(note, str) for note in value.notes):
        raise Wrong(f"must give notes as a tuple of texts, not {shown(value.notes)}")


def _check_refuses(value: Capabilities) -> None:
    if unknown := sorted(map(shown, value.refuses - REFUSABLE)):
        can = ", ".join(sorted(REFUSABLE))
        raise Wrong(f"must refuse one of {can} in refuses, not {', '.join(unknown)}")
    if value.takes_metadata and "metadata" in value.refuses:
        raise Wrong("says both that it takes metadata and that it refuses them")


def _check_seconds(value: Capabilities) -> None:
    _seconds("settle_seconds", value.settle_seconds, LONGEST_SETTLE)
    if value.longest_wait is not None:
        _seconds("longest_wait", value.longest_wait, MOST)
    if not isinstance(value.poll_seconds, tuple | list) or len(value.poll_seconds) != 2:
        raise Wrong(f"must give poll_seconds as two numbers, not {shown(value.poll_seconds)}")
    for number in value.poll_seconds:
        _seconds("poll_seconds", number, LONGEST_SETTLE)


def _seconds(name: str, value: Any, most: float) -> None:
    if not is_number(value) or not 0 <= value <= most:
        raise Wrong(f"must give {name} in seconds from 0 to {most:,.0f}, not {shown(value)}")


def _lifetime(value: Any, *_: Any) -> Any:
    _seconds("the lifetime", value, MOST)
    return value


def is_number(value: Any) -> bool:
    """Return True for a number that is a finite float too; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return False
    try:
        return isfinite(value)
    except (OverflowError, ValueError):  # 10**400; a signalling NaN
        return False


def _names(value: Any, *_: Any) -> list[str]:
    return list(dict.fromkeys(_identifiers(value)))


def _health(value: Any, *_: Any) -> Health:
    """Return a sentence without what looks like a key, and a time that can be."""
    if not isinstance(value, Health):
        raise Wrong(f"must return a Health, not {shown(value)}")
    detail, latency = value.detail, value.latency_s
    if not isinstance(value.ok, bool) or not isinstance(detail, str) or not detail.strip():
        raise Wrong("must say with ok=True or False and a sentence in detail how it is")
    detail = redact(" ".join(detail.split()))[:LONGEST_ID]
    known = latency if is_number(latency) and 0 <= (latency or 0) <= MOST else None
    return value.model_copy(update={"detail": detail, "latency_s": known})


def _quote(value: Any, *_: Any) -> Decimal:
    if not is_number(value) or not 0 <= value <= MOST_USD:
        raise Wrong(f"must return an amount of USD from 0 to {MOST_USD:,}, not {shown(value)}")
    return Decimal(str(value))  # never by way of a float


def _json(value: Any, *_: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Wrong(f"must return a dict with texts as keys, not {shown(value)}")
    try:
        if (size := len(json.dumps(value, allow_nan=False))) > LONGEST_JSON:
            raise Wrong(f"must return at most {LONGEST_JSON:,} characters of JSON, not {size:,}")
    except (TypeError, ValueError, RecursionError) as exc:
        raise Wrong(f"must return plain JSON: {exc}") from None
    return value


# -- before a job ------------------------------------------------------------------------


def _instance(wanted: type) -> Check:
    def check(value: Any, *_: Any) -> Any:
        if not isinstance(value, wanted):
            raise Wrong(f"must return a {wanted.__name__}, not {shown(value)}")
        return value

    return check


def _estimate(value: Any, backend: Any, args: Arguments, kwargs: dict[str, Any]) -> Estimate:
    """Return an estimate with finite amounts that are not negative. The capabilities say whether
    the data leave the machine, whatever it says."""
    if not isinstance(value, Estimate):
        raise Wrong(f"must return an Estimate, not {shown(value)}")
    for path, amount in _amounts("", value):
        if not is_number(amount) or amount < 0:
            raise Wrong(f"gives {path} as {shown(amount)}: an amount is a finite number from 0")
    if not isinstance(leaves := value.data_leaves_machine, bool):
        raise Wrong(f"must give data_leaves_machine as True or False, not {shown(leaves)}")
    found: Estimate = _validated(Estimate, _fields(value))
    model = getattr(kwargs.get("spec", args[0] if args else None), "model", None)
    hosted = backend.capabilities().hosted or backend.capabilities(model).hosted
    if hosted and not found.data_leaves_machine:
        return found.model_copy(update={"data_leaves_machine": True})
    return found


def _amounts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every number of an estimate with its name; of a range all three, whatever they are."""
    if isinstance(value, Range):
        yield from (
            (f"{path}.{name}", getattr(value, name)) for name in ("low", "expected", "high")
        )
    elif isinstance(value, Model):
        for name in type(value).model_fields:
            yield from _amounts(f"{path}.{name}".lstrip("."), getattr(value, name, None))
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield path, value


# -- the job -----------------------------------------------------------------------------


def given_cursor(cursor: str | None) -> str | None:
    """Return the backend's own cursor: ours says too how many of its events are taken."""
    return _parts(cursor)[1]


def _parts(cursor: str | None) -> tuple[int, str | None]:
    if cursor is None or not cursor.startswith(PART):
        return 0, cursor
    taken, _, own = cursor.removeprefix(PART).partition(":")
    return int(taken), own.removeprefix("=") if own else None


def _poll(value: Any, backend: Any, args: Arguments, kwargs: dict[str, Any]) -> Snapshot:
    """Return the next ``MAX_EVENTS`` events of a snapshot, and what else it says. While there are
    more, the job has not ended: an ended one is not polled again."""
    taken, own = _parts(args[1])
    end = taken + MAX_EVENTS
    whole = _snapshot(value, taken, end)
    if len(value.events) <= end:
        return whole
    changes: dict[str, Any] = {"cursor": f"{PART}{end}:{_marked(own)}", "finished_at": None}
    if whole.status.final:
        changes |= {"status": JobStatus.RUNNING, "result": None, "error": None}
    return whole.model_copy(update=changes)


def _marked(cursor: str | None) -> str:
    return "" if cursor is None else f"={cursor}"


def _snapshot(value: Any, taken: int = 0, end: int | None = None) -> Snapshot:
    """Return a snapshot that can be stored, with figures that can be, and its events from ``taken``
    to ``end``: no other is read, so that a million of them costs no million a poll."""
    if not isinstance(value, Snapshot):
        raise Wrong(f"must return a Snapshot, not {shown(value)}")
    fields = dict(value.__dict__)
    status = fields.get("status")
    if isinstance(status, str) and JobStatus.parse(status) is JobStatus.UNKNOWN:
        fields |= {"status": JobStatus.UNKNOWN, "raw_status": fields.get("raw_status") or status}
    fields |= {name: _figure(name, fields.get(name)) for name in FIGURES}
    for name, model in (("events", Event), ("checkpoints", Checkpoint)):
        given = fields.get(name)
        if isinstance(given, list) and name == "events":
            given = fields[name] = given[taken:end]
        if not isinstance(given, list) or not all(isinstance(one, model) for one in given):
            raise Wrong(f"must give {name} as a list of {model.__name__}")
    fields["events"] = [_event(one) for one in fields["events"]]
    fields["checkpoints"] = [_checkpoint(one) for one in fields["checkpoints"]]
    if isinstance(cursor := fields.get("cursor"), str) and cursor.startswith(PART):
        raise Wrong(f"returned the cursor {shown(cursor)}: {PART!r} begins ours alone")
    if isinstance(result := fields.get("result"), Result):
        fields["result"] = _result(result)
    try:
        return Snapshot.model_validate(fields)
    except ValidationError as exc:
        raise Wrong(f"returned a Snapshot that is none: {validation_error_text(exc)}") from None


def _figure(name: str, value: Any) -> Any:
    """Return a figure of a snapshot, None for what it cannot be."""
    least, most = FIGURES[name]
    if not is_number(value) or not least <= value <= most:
        return None
    return None if name in COUNTS and value != int(value) else value


def _event(event: Event) -> Any:
    """Return an event whose data are plain JSON: what is not is left out."""
    fields = _fields(event)
    if not is_number(fields.get("created_at")):
        fields.pop("created_at", None)
    if isinstance(data := fields.get("data"), dict):
        fields["data"] = plain(data)
    return _validated(Event, fields)


def _checkpoint(point: Checkpoint) -> Any:
    fields = _fields(point)
    if isinstance(metrics := fields.get("metrics"), dict):
        fields["metrics"] = plain(metrics)
    return _validated(Checkpoint, fields)


def _result(value: Any, *_: Any) -> Result:
    if not isinstance(value, Result):
        raise Wrong(f"must return a Result, not {shown(value)}")
    fields = _fields(value)
    if isinstance(metrics := fields.get("metrics"), dict):
        fields["metrics"] = plain(metrics)
    try:
        fields["artifacts"] = _artifacts(fields.get("artifacts"))
    except Wrong as exc:  # the model is paid, and answers without them
        known = fields.get("warnings") or []
        fields |= {"artifacts": [], "warnings": [*known, f"{NO_FILES}: the backend {exc}."]}
    result: Result = _validated(Result, fields)
    if not result.model.strip():
        raise Wrong("returned a Result without the name of a model")
    return result


def _artifacts(given: Any, most: int = 1_000) -> list[Artifact]:
    """Return the files of a model: at most ``most``; the largest public ones have some hundred."""
    listed = isinstance(given, list) and all(isinstance(one, Artifact) for one in given)
    if not listed or len(given) > most:
        raise Wrong(f"must give artifacts as a list of Artifact, {most:,} at most")
    found: list[Artifact] = [_validated(Artifact, _fields(one)) for one in given]
    if len({(one.kind, one.name.lower()) for one in found}) < len(found):
        raise Wrong("names two artifacts of one kind alike: each is a file of its own")
    return found


def _fields(value: Model) -> dict[str, Any]:
    """Return the fields of a model, with those of a later version as far as they are JSON."""
    return {**plain(value.model_extra or {}), **value.__dict__}


def _validated(model: type[Any], fields: dict[str, Any]) -> Any:
    """Read the fields of a model again: one that was made without checks may hold anything."""
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        wrong = validation_error_text(exc)
        raise Wrong(f"returned a {model.__name__} that is none: {wrong}") from None


def _statuses(value: Any, backend: Any, args: Arguments, kwargs: Any) -> dict[str, Snapshot]:
    """Return the snapshots of the jobs that were asked for. What is none says nothing of its
    job, which is polled then."""
    if not isinstance(value, dict):
        raise Wrong(f"must return a dict of ids and snapshots, not {shown(value)}")
    asked = {*(args[0] if args else kwargs["provider_ids"])}
    found = {}
    for provider_id, snapshot in value.items():
        if provider_id in asked and isinstance(snapshot, Snapshot):
            try:
                found[provider_id] = _snapshot(snapshot)
            except Exception:  # Wrong, or what its own objects raise
                continue
    return found


# -- the model, and files ----------------------------------------------------------------


def _chat_model(value: Any, *_: Any) -> Any:
    if not any(callable(getattr(value, name, None)) for name in ("chat", "scores")):
        raise Wrong(f"must return an object with chat and stream, not {shown(value)}")
    return value


def _price(value: Any, *_: Any) -> Any:
    if not isinstance(value, Price) or not getattr(value, "unit", "").endswith("_hour"):
        raise Wrong(f"must return the Price of an hour or None, not {shown(value)}")
    return _validated(Price, dict(value.__dict__))


def _path(value: Any, *_: Any) -> Path:
    if not isinstance(value, os.PathLike):
        raise Wrong(f"must give a Path, not {shown(value)}")
    return Path(value)


def _files(value: Any, *_: Any) -> list[Path]:
    """Return files that are deleted with a job: never a folder that holds the user's own."""
    if not isinstance(value, list | tuple):
        raise Wrong(f"must return a list of paths, not {shown(value)}")
    paths = [_path(one) for one in value]
    home = Path.home().resolve()
    for path in paths:
        whole = path.resolve()
        if not path.is_absolute() or whole == home or whole in home.parents:
            raise Wrong(f"names {str(path)!r}, which holds more than one job: it is not deleted")
    return paths


CHECKS: dict[str, Check] = {
    "capabilities": _capabilities,
    "options": _json,
    "identity": _json,
    "place": _json,
    "account": _or_none(_text),
    "display_name": _text,
    "resolve": _instance(TrainingSpec),
    "counter": _instance(TokenCounter),
    "preview_renderer": _or_none(_instance(PreviewRenderer)),
    "estimate": _estimate,
    "models": _names,
    "health": _or_none(_health),
    "upload": _or_none(_identifier),
    "upload_lifetime": _or_none(_lifetime),
    "find_upload": _or_none(_identifier),
    "find_uploads": _identifiers,
    "quote": _or_none(_quote),
    "start": _identifier,
    "find": _or_none(_identifier),
    "poll": _poll,
    "statuses": _statuses,
    "checkpoint": _result,
    "deploy": _identifier,
    "deployment_price": _or_none(_price),
    "end_deployment": _instance(bool),
    "open": _chat_model,
    "log_path": _or_none(_path),
    "kept_files": _files,
}
