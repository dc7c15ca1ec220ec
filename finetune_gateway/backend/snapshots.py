"""What a backend may say of a job: its snapshots and its result, as they are stored."""

from __future__ import annotations

from typing import Any

from finetune_gateway.backend.plain_json import exact, plain
from finetune_gateway.backend.rebuilt import Wrong, built, fields_of, is_number, rebuilt, wrong
from finetune_gateway.errors import shown
from finetune_gateway.events import Artifact, Checkpoint, Event, JobStatus, Result, Snapshot
from finetune_gateway.model import MOST
from finetune_gateway.settings.money import MOST_USD

Arguments = tuple[Any, ...]

MAX_EVENTS = 10_000  # of one poll; the rest comes with the next ones
MAX_FILES = 1_000  # of a model; the largest public ones have some hundred
NO_FILES = "Its files cannot be downloaded"  # begins the warning about them
# Of a snapshot, with their bounds: what is none of these is left out.
FIGURES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("trained_tokens", "seconds", "finished_at", "expected_start_at"), (0, MOST)),
    "cost_usd": (0, int(MOST_USD)),
    "progress": (0, 1),
    "place_in_line": (1, MOST),
}
COUNTS = ("trained_tokens", "place_in_line")  # of these, those that are whole
PART = "ftg-events:"  # begins a cursor of ours: so many events of the backend's own are taken


# -- cursors -----------------------------------------------------------------------------


def given_cursor(cursor: str | None) -> str | None:
    """Return the backend's own cursor: ours says too how many of its events are taken."""
    return _parts(cursor)[1]


def _parts(cursor: str | None) -> tuple[int, str | None]:
    if cursor is None or not cursor.startswith(PART):
        return 0, cursor
    taken, _, own = cursor.removeprefix(PART).partition(":")
    return int(taken), own.removeprefix("=") if own else None


def _marked(cursor: str | None) -> str:
    return "" if cursor is None else f"={cursor}"


# -- snapshots ---------------------------------------------------------------------------


def check_poll(value: Any, backend: Any, args: Arguments, kwargs: dict[str, Any]) -> Snapshot:
    """Return the next ``MAX_EVENTS`` events of a snapshot, and what else it says. While there are
    more, the job has not ended: an ended one is not polled again."""
    taken, own = _parts(args[1])
    end = taken + MAX_EVENTS
    whole, count = _snapshot(value, taken, end)
    if count <= end:
        return whole
    changes: dict[str, Any] = {"cursor": f"{PART}{end}:{_marked(own)}", "finished_at": None}
    if whole.status.final:
        changes |= {"status": JobStatus.RUNNING, "result": None, "error": None}
    return whole.model_copy(update=changes)


def check_statuses(value: Any, backend: Any, args: Arguments, kwargs: Any) -> dict[str, Snapshot]:
    """Return the snapshots of the jobs that were asked for. What is none says nothing of its
    job, which is polled then."""
    if not issubclass(type(value), dict):
        raise Wrong(f"must return a dict of ids and snapshots, not {shown(value)}")
    asked = {*(args[0] if args else kwargs["provider_ids"])}
    found = {}
    for provider_id, snapshot in value.items():
        try:
            if (known := rebuilt(str, provider_id)) in asked:
                found[known] = _snapshot(snapshot)[0]
        except Exception:  # Wrong, or what its own objects raise
            continue
    return found


def _snapshot(value: Any, taken: int = 0, end: int | None = None) -> tuple[Snapshot, int]:
    """Return a snapshot that can be stored, with figures that can be, and its events from ``taken``
    to ``end``: no other is read, so that a million of them costs no million a poll. And how many
    it has."""
    fields = fields_of(Snapshot, _require(Snapshot, value))
    if issubclass(type(status := fields.get("status")), str):
        word = str.__str__(status)
        fields["status"] = JobStatus.parse(word)
        if fields["status"] is JobStatus.UNKNOWN:
            raw = rebuilt(str, fields.get("raw_status", ""), "raw_status")
            fields["raw_status"] = raw or word
    fields |= {name: _figure(name, fields.get(name)) for name in FIGURES}
    given = _listed(Event, "events", fields.get("events", []))
    points = _listed(Checkpoint, "checkpoints", fields.get("checkpoints", []))
    ready: dict[str, Any] = {
        "events": [_event(one, f"events[{taken + at}]") for at, one in enumerate(given[taken:end])],
        "checkpoints": [_checkpoint(one, f"checkpoints[{at}]") for at, one in enumerate(points)],
    }
    result = fields.get("result")
    if issubclass(type(result), Result):
        ready["result"] = check_result(result, path="result")
    found: Snapshot = built(Snapshot, fields, **ready)
    if found.cursor is not None and found.cursor.startswith(PART):
        raise Wrong(f"returned the cursor {shown(found.cursor)}: {PART!r} begins ours alone")
    return found, len(given)


def _require(cls: type, value: Any, path: str = "") -> Any:
    if not issubclass(type(value), cls):
        article = "an" if cls.__name__[0] in "AEIOU" else "a"
        raise wrong(path, f"{article} {cls.__name__}", value)
    return value


def _listed(cls: type, name: str, given: Any) -> list[Any]:
    """Return what should be a list of these as one; its items are not read."""
    if not issubclass(type(given), list):
        raise wrong(name, f"a list of {cls.__name__}", given)
    return list(given)


def _figure(name: str, value: Any) -> Any:
    """Return a figure of a snapshot, None for what it cannot be."""
    if not is_number(value):
        return None
    (least, most), number = FIGURES[name], exact(value)
    if not least <= number <= most or (name in COUNTS and number != int(number)):
        return None
    return int(number) if name in COUNTS else number


def _event(event: Any, path: str) -> Any:
    """Return an event whose data are plain JSON: what is not is left out."""
    fields = _with_plain("data", fields_of(Event, _require(Event, event, path), path), path)
    if not is_number(fields.get("created_at")):
        fields.pop("created_at", None)
    return built(Event, fields, path)


def _checkpoint(point: Any, path: str) -> Any:
    fields = fields_of(Checkpoint, _require(Checkpoint, point, path), path)
    return built(Checkpoint, _with_plain("metrics", fields, path), path)


def _with_plain(name: str, fields: dict[str, Any], path: str) -> dict[str, Any]:
    """Return fields of which one holds what can be stored of its JSON."""
    if issubclass(type(data := fields.get(name)), dict):
        try:
            fields[name] = plain(data)
        except Exception as exc:  # whatever an object of others raises
            where = f"{path}.{name}".lstrip(".")
            raise Wrong(f"gives {where}, which cannot be read: {type(exc).__name__}") from None
    return fields


# -- results -----------------------------------------------------------------------------


def check_result(value: Any, *_: Any, path: str = "") -> Result:
    """Return a result that can be stored, and warns of files that cannot be downloaded."""
    fields = _with_plain("metrics", fields_of(Result, _require(Result, value, path), path), path)
    ready: dict[str, Any] = {}
    try:
        ready["artifacts"] = _artifacts(fields.get("artifacts", []), path)
    except Wrong as exc:  # the model is paid, and answers without them
        known = rebuilt(list[str], fields.get("warnings", []), f"{path}.warnings".lstrip("."))
        ready = {"artifacts": [], "warnings": [*known, f"{NO_FILES}: the backend {exc}."]}
    result: Result = built(Result, fields, path, **ready)
    if not result.model.strip():
        raise Wrong("returned a Result without the name of a model")
    return result


def _artifacts(given: Any, path: str) -> list[Artifact]:
    where = f"{path}.artifacts".lstrip(".")
    if not issubclass(type(given), list) or len(given) > MAX_FILES:
        raise Wrong(f"must give {where} as a list of Artifact, {MAX_FILES:,} at most")
    found: list[Artifact] = rebuilt(list[Artifact], given, where)
    if len({(one.kind, one.name.lower()) for one in found}) < len(found):
        raise Wrong("names two artifacts of one kind alike: each is a file of its own")
    return found
