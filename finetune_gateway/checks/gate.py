"""``validate``: every rule against every row of a dataset, in one pass.

Streams: what it keeps does not grow with the rows, but for 20 bytes each to find repeated
ones. Never raises for what a file holds; everything said is a ``Finding`` in the ``Report``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from finetune_gateway.checks import parallel
from finetune_gateway.checks.findings import Finding, Report
from finetune_gateway.checks.ranges import Lines, Range, cut
from finetune_gateway.checks.scan import Alone, Json, RowCounter, Scan, Task
from finetune_gateway.checks.screening import Screen
from finetune_gateway.dataset import Dataset
from finetune_gateway.tokens import HostedCounter, Tally

__all__ = ["Finding", "Report", "RowCounter", "validate"]


MIN_ROWS = 10  # OpenAI's guide on supervised fine-tuning
_ALONE = 20_000_000  # bytes; below, another process costs more than it saves
MAX_WORKERS = 4  # each takes some 60 MB


def validate(
    dataset: Dataset,
    *,
    model: str | None = None,
    backends: Sequence[str] | None = None,
    method: str = "sft",
    counter: RowCounter | None = None,
    max_context: int | None = None,
    min_rows: int | None = None,
    on_row: Callable[[Json, int], None] | None = None,
    workers: int | None = None,
) -> Report:
    """Check a dataset and report what is wrong, where, why, and what to do.

    ``backends``: whose rules count (default: openai, azure and local). ``counter`` and
    ``on_row`` are given each row that has no error, ``on_row`` with its line.
    ``max_context``: tokens an example may have; needs a ``counter``. ``min_rows``: examples a
    job needs (default 10). ``workers``: processes for a large file (default: as many as there
    are processors, at most 4); what they find is what one finds.
    """
    words = f"{model} takes" if model else "the limit is"
    task = Task(dataset.path, method, tuple(backends or ()), max_context, words)
    check = None
    if on_row is None and (counter is None or type(counter) is HostedCounter):
        count = min(parallel.processors(), MAX_WORKERS) if workers is None else workers
        check = _in_parallel(task, counter, count)
    if check is None:
        check = Scan(task, counter, on_row)
        check.read()
    return check.report(MIN_ROWS if min_rows is None else min_rows)


def _in_parallel(task: Task, counter: HostedCounter | None, workers: int) -> Scan | None:
    """The file checked in parts, by several processes; None where one has to do it."""
    size = task.path.stat().st_size
    if workers < 2 or size < _ALONE or not _begins_plainly(task):
        return None
    with task.path.open("rb") as file:
        parts = cut(file.fileno(), size, workers)
    hosted = (counter.model, counter.max_context) if counter else None
    tasks = [replace(task, hosted=hosted, part=part, last=part is parts[-1]) for part in parts]
    try:
        check, tallies = _joined(list(parallel.each(_check_part, tasks)))
    except (Alone, parallel.WorkerDied):
        return None
    check.counter = counter
    for tally in tallies:
        if counter:
            counter.tally.extend(tally)
    check.ended()
    return check


def _begins_plainly(task: Task) -> bool:
    """Whether the first row is a usual one, so that the format is known in every part."""
    with task.path.open("rb") as file:
        first = next(Lines(file.fileno(), Range(0, sys.maxsize)), None)
    return first is not None and Screen(task.method).take(first.raw) is not None


def _check_part(task: Task) -> tuple[Scan, Tally]:
    """What one process does. What it gives back can be pickled."""
    counter = HostedCounter(*task.hosted) if task.hosted else None
    check = Scan(task, counter, None)
    check.read()
    check.counter = check.screen = None
    return check, counter.tally if counter else Tally()


def _joined(parts: list[tuple[Scan, Tally]]) -> tuple[Scan, list[Tally]]:
    whole, tallies = parts[0][0], [parts[0][1]]
    for later, tally in parts[1:]:
        if whole.stopped:
            break
        whole.join(later)
        tallies.append(tally)
    return whole, tallies
