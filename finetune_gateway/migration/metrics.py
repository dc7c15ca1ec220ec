"""The metrics of a job by step, from its events and its result files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune_gateway.backends.openai.reports import event_of
from finetune_gateway.text.cleaning import clean

Step = dict[str, Any]


def by_step(events: Path | None, results: Iterable[Path]) -> Iterator[bytes]:
    """Yield one JSON line for each step, in order. Where both tell a figure, the result file's
    counts: events round it."""
    steps: dict[int, Step] = {}
    for data in _of_events(events):
        steps.setdefault(data["step"], {}).update(data)
    for path in results:
        for data in _of_result(path):
            steps.setdefault(data["step"], {}).update(data)
    for number in sorted(steps):
        yield json.dumps(steps[number]).encode() + b"\n"


def _of_events(path: Path | None) -> Iterator[Step]:
    if path is None:
        return
    with path.open("rb") as file:
        for line in file:
            event = event_of(json.loads(line), 0.0)
            if event.type == "metrics" and isinstance(event.data.get("step"), int):
                yield dict(event.data)


def _of_result(path: Path) -> Iterator[Step]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file)
        while (row := _next(rows)) is not None:
            step = (row.pop("step", None) or "").strip()
            if step.isascii() and step.isdigit() and len(step) < 16:
                yield {"step": int(step), **_figures(row)}


def _next(rows: csv.DictReader[str]) -> dict[str, Any] | None:
    """Return the next row; None at the end, and before what is no table any more."""
    try:
        return next(rows, None)
    except csv.Error:
        return None


def _figures(row: dict[str, Any]) -> Step:
    """Return the cells that are numbers; those of steps without a validation are empty."""
    found: Step = {}
    for name, cell in row.items():
        try:
            value = float(cell)
        except (TypeError, ValueError):
            continue
        if math.isfinite(value):
            found[str(clean(name))] = value
    return found
