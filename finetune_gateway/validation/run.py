"""``validate``: every rule against every row of a dataset, in one pass.

Streams: what it keeps does not grow with the rows, but for 20 bytes each to find repeated
ones. Never raises for what a file holds; everything said is a ``Finding`` in the ``Report``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.findings import Finding, Report
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.tokens.stats import TokenTotals
from finetune_gateway.validation import parallel
from finetune_gateway.validation.chunks import Lines, Range, cut
from finetune_gateway.validation.fast_path import Screen
from finetune_gateway.validation.scan import Alone, Json, RowCounter, Scan, Task

__all__ = ["Finding", "Report", "RowCounter", "validate"]


MIN_ROWS = 10  # OpenAI's guide on supervised fine-tuning
_ALONE = 20_000_000  # bytes; below, another process costs more than it saves
_ALONE_LOCAL = 1_000_000  # the same with a local template, which takes 30 times as long
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
    near_duplicates: bool = True,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a dataset and report what is wrong, where, why, and what to do.

    ``backends``: whose rules count (default: openai, azure and local). ``counter`` and
    ``on_row`` are given each row that has no error, ``on_row`` with its line.
    ``max_context``: tokens an example may have; needs a ``counter``. ``min_rows``: examples a
    job needs (default 10). ``near_duplicates``: look for rows that are equal but for case and
    spaces, not only for equal ones. ``workers``: processes for a large file (default: as many as
    there are processors, at most 4); what they find is what one finds. ``on_progress`` is told now
    and then how many bytes were read and how many there are; with several processes the first is
    taken for all.
    """
    words = f"{model} takes" if model else "the limit is"
    task = Task(dataset.path, method, tuple(backends or ()), max_context, words)
    task = replace(task, near_duplicates=near_duplicates)
    _make_ready(task, counter)
    check = None
    if on_row is None and (counter is None or isinstance(counter, TokenCounter)):
        count = min(parallel.processors(), MAX_WORKERS) if workers is None else workers
        check = _in_parallel(task, counter, count, on_progress)
    if check is None:
        check = Scan(task, counter, on_row, _share(task, 1, on_progress))
        check.read()
    if isinstance(counter, HostedCounter):
        counter.text.note_bytes_read(task.path.stat().st_size)
    return check.report(MIN_ROWS if min_rows is None else min_rows)


def _make_ready(task: Task, counter: RowCounter | None) -> None:
    if isinstance(counter, HostedCounter):
        counter.text.choose_engine(task.path.stat().st_size)


def _share(
    task: Task, parts: int, on_progress: Callable[[int, int], None] | None
) -> Callable[[int], None] | None:
    """Tells the progress of one of several equal parts as that of the whole."""
    if on_progress is None:
        return None
    size = task.path.stat().st_size
    return lambda read: on_progress(min(read * parts, size), size)


def _in_parallel(
    task: Task,
    counter: TokenCounter | None,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> Scan | None:
    """The file checked in parts, by several processes; None where one has to do it."""
    size = task.path.stat().st_size
    worth = _ALONE_LOCAL if isinstance(counter, LocalCounter) else _ALONE
    if workers < 2 or size < worth or not _begins_plainly(task):
        return None
    with task.path.open("rb") as file:
        parts = cut(file.fileno(), size, workers)
    tasks = [
        replace(task, counter=counter and counter.fresh(), part=part, last=part is parts[-1])
        for part in parts
    ]
    here = partial(_check_part, on_read=_share(task, len(parts), on_progress))
    with closing(parallel.each(_check_part, tasks, here)) as done:
        try:
            # Not one more is asked for: the processes are waited for when all else is done.
            check, tallies = _joined(list(islice(done, len(tasks))))
        except (Alone, parallel.WorkerDied):
            return None
        check.counter = counter
        for tally in tallies:
            if counter:
                counter.totals().extend(tally)
        check.ended()
    return check


def _begins_plainly(task: Task) -> bool:
    """Whether the first row is a usual one, so that the format is known in every part."""
    with task.path.open("rb") as file:
        first = next(Lines(file.fileno(), Range(0, sys.maxsize)), None)
    return first is not None and bool(Screen(task.method).clean([first.raw]).roles)


def _check_part(
    task: Task, on_read: Callable[[int], None] | None = None
) -> tuple[Scan, TokenTotals]:
    """What one process does. What it gives back can be pickled."""
    counter = task.counter
    _make_ready(task, counter)
    check = Scan(task, counter, None, on_read)
    check.read()
    check.counter = check.screen = check.on_read = None
    check.task = replace(task, counter=None)
    return check, counter.totals() if counter else TokenTotals()


def _joined(parts: list[tuple[Scan, TokenTotals]]) -> tuple[Scan, list[TokenTotals]]:
    whole, tallies = parts[0][0], [parts[0][1]]
    for later, tally in parts[1:]:
        if whole.stopped:
            break
        whole.join(later)
        tallies.append(tally)
    return whole, tallies
