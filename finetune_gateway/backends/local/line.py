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
from typing import Any

LIVE = "status IN ('queued', 'running')"  # as the index of the table has it
MAX_STARTS = 30  # workers of a run in all, those that died before they started to train included
# What ends a worker from outside is no death of it: neither its start nor its attempt counts.
TAKE_BACK = (
    "UPDATE runs SET first_fence = first_fence + 1, attempts = max(0, attempts - 1) WHERE id = ?"
)
INTERRUPTED = "interrupted; goes on by itself"  # the phase of a run whose worker was shut down
IN_LINE = "ORDER BY priority DESC, seq"
# Of runs by their ids (a JSON list): how each has ended, also of one whose texts were removed.
STATUSES = (
    "SELECT value AS id, coalesce((SELECT status FROM runs WHERE id = value),"
    " (SELECT status FROM jobs WHERE id = value), '') AS status FROM json_each(?)"
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


def is_readable(row: Mapping[str, Any] | sqlite3.Row) -> bool:
    """Return False for a row that somebody else has written to: it holds up no other."""
    try:
        return all(isinstance(json.loads(row[name] or "[]"), list) for name in ("after", "devices"))
    except (ValueError, TypeError):
        return False


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
