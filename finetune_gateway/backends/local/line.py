"""The line of local jobs: which begins next, and when.

By priority, larger first; then in the order of their submits (``seq``), which no clock decides. Who
waits for a time or for other jobs, or whose devices are all busy, is passed over. Imports nothing
heavy: the dispatcher lives for as long as anything waits.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.backends.local import run_folder
from finetune_gateway.text.cleaning import encodable

LIVE = "status IN ('queued', 'running')"  # as the index of the table has it
MAX_STARTS = 30  # workers of a run in all, those that died before they started to train included
# What ends a worker from outside is no death of it: neither its start nor its attempt counts.
TAKE_BACK = (
    "UPDATE runs SET first_fence = first_fence + 1, attempts = max(0, attempts - 1) WHERE id = ?"
)
HIGHEST = 253_402_300_800  # of numbers; as a moment the year 10000, which no calendar has
INTERRUPTED = "interrupted; goes on by itself"  # the phase of a run whose worker was shut down
IN_LINE = "ORDER BY priority DESC, seq"
# Of runs by their ids (a JSON list): how each has ended, also of one whose texts were removed.
STATUSES = (
    "SELECT value AS id, coalesce((SELECT status FROM runs WHERE id = value),"
    " (SELECT status FROM jobs WHERE id = value), '') AS status FROM json_each(?)"
)
# What the columns of a run may hold: numbers from these on, texts, and lists of names as JSON.
COUNTS = (
    *("seq", "fence", "attempts", "resumes", "first_fence", "step", "trained_tokens", "peak_bytes"),
)
WHOLE = {**dict.fromkeys(COUNTS, 0), "max_attempts": 1, "pid": 1, "saved_step": -1}
WHOLE["priority"] = -HIGHEST
MOMENTS = (
    *("heartbeat_at", "cancel_at", "pause_at", "start_at", "finished_at"),
    *("seconds", "seconds_left", "progress_at", "step_seconds", "hang_seconds"),
)
LOWEST = {**WHOLE, **dict.fromkeys(MOMENTS, 0)}
LISTS = ("after", "devices")
TEXTS = ("id", "status", "phase", "slot", "error", "result", "pid_start", "death", *LISTS)
NULLABLE = (
    *("pid", "pid_start", "slot", "heartbeat_at", "cancel_at", "pause_at", "start_at", "devices"),
    *("error", "result", "trained_tokens", "seconds_left", "finished_at", "death", "step"),
    *("progress_at", "step_seconds", "peak_bytes", "hang_seconds"),
)
SUCCEEDED, ENDED_OTHERWISE = "succeeded", ("failed", "cancelled", "")


@dataclass(frozen=True)
class Waiting:
    """A run in line: the slots that it may take (None: any), and for how long it is expected to
    have one, in seconds."""

    id: str
    devices: tuple[str, ...] | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a run is in line, 1 for the next one, and in how many seconds it is expected to begin;
    None where that is not known."""

    number: int
    start_in: float | None


def defect(row: sqlite3.Row) -> str:
    """Return the first column, of those that were selected, with what only somebody else can have
    written; empty for a row that can be used. A damaged one holds up no other."""
    columns = zip(row.keys(), row, strict=True)
    return next((name for name, value in columns if not _is_sound(name, value)), "")


def _is_sound(name: str, value: object) -> bool:
    if value is None:
        return name in NULLABLE or name not in LOWEST and name not in TEXTS
    if name in LISTS:
        return isinstance(value, str) and _are_names(value)
    if isinstance(value, str) and encodable(value) != value:  # bytes that are no UTF-8
        return False
    if name in TEXTS:
        return isinstance(value, str) and (name != "id" or _is_name(value))
    if name in LOWEST:
        kinds = (int,) if name in WHOLE else (int, float)
        return isinstance(value, kinds) and LOWEST[name] <= value < HIGHEST
    return True


def _are_names(text: str) -> bool:
    """Return True for a JSON list of names. Of files, a job and a device have one each."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, list) and all(isinstance(one, str) and _is_name(one) for one in found)


def _is_name(text: str) -> bool:
    return 0 < len(text) < 200 and text.isprintable() and "/" not in text and text[0] != "."


def has_often_died(row: sqlite3.Row) -> bool:
    """Return True for a run that may have had all the workers that it gets."""
    from_here: int = row["fence"] - row["first_fence"]
    often: bool = row["attempts"] >= row["max_attempts"]
    return often or from_here >= MAX_STARTS


def without_taken(
    slots: Iterable[str], rows: Iterable[sqlite3.Row], runs: Path, besides: str = ""
) -> list[str]:
    """Return those slots on which none of these runs has a living worker. A slot is a lock too, but
    the file of that may have been removed."""
    taken = {
        row["slot"]
        for row in rows
        if row["id"] != besides
        and not defect(row)
        and run_folder.has_worker(runs / row["id"], row["pid"], row["pid_start"])
    }
    return [one for one in slots if one not in taken]


def unmet(after: Iterable[str], statuses: Mapping[str, str]) -> list[str]:
    """Return which of these runs have not succeeded."""
    return [one for one in after if statuses.get(one) != SUCCEEDED]


def never_met(after: Iterable[str], statuses: Mapping[str, str]) -> list[str]:
    """Return which of these runs have ended otherwise: who waits for them would wait for ever."""
    return [one for one in after if statuses.get(one, "") in ENDED_OTHERWISE]


def places(
    waiting: Sequence[Waiting], running: Mapping[str, float | None], slots: Sequence[str]
) -> dict[str, Place]:
    """Return the places of runs that could begin, which are given in order.

    ``running``: for how many seconds each slot that is taken will be, None where that is not known.
    Each run is laid on the slot that is free first, as the dispatcher does it.
    """
    free = dict.fromkeys([*slots, *running], 0.0)
    free |= {name: math.inf if left is None else max(0.0, left) for name, left in running.items()}
    found = {}
    for number, one in enumerate(waiting, 1):
        own = [name for name in one.devices or slots if name in free]
        first = min(own, key=lambda name: free[name], default=None)
        start = math.inf if first is None else free[first]
        found[one.id] = Place(number, None if start == math.inf else start)
        if first is not None:
            free[first] = start + (math.inf if one.seconds is None else one.seconds)
    return found
