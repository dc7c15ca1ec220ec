"""A bar for a file that takes more than a second to check; on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 1.0  # seconds before there is a bar


@contextmanager
def bar(*, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """What to call with (bytes done, bytes in all), now and then; None where nobody would see.

    The bar is on stderr and is gone at the end, so that the result stands alone.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    shown = _Bar()
    try:
        yield shown.move
    finally:
        shown.end()


def over(move: Callable[[int, int], None] | None, passes: int) -> Callable[[int, int], None] | None:
    """The same for a file that is read several times."""
    before, last = 0, 0

    def moved(done: int, total: int) -> None:
        nonlocal before, last
        if done < last and before < passes - 1:
            before += 1
        last = done
        if move is not None:
            move(before * total + done, passes * total)

    return moved if move is not None else None


class _Bar:
    def __init__(self) -> None:
        self.since = time.monotonic()
        self.progress: Progress | None = None

    def move(self, done: int, total: int) -> None:
        """Draw it, if the file takes long enough."""
        if self.progress is None:
            if time.monotonic() - self.since < PATIENCE:
                return
            self.progress = _begun(total)
        if done < total:
            # Drawn each time, some 500 times for 1 GB: else a quick pass would show nothing.
            self.progress.update(self.progress.task_ids[0], completed=done, refresh=True)
        else:
            _compare(self.progress)

    def end(self) -> None:
        if self.progress is not None:
            self.progress.stop()


def _begun(total: int) -> Progress:
    # Imported here: rich takes 50 ms, and most files are checked before a bar is worth it.
    from rich import progress
    from rich.console import Console

    begun = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    begun.add_task("Reading", total=total)
    begun.start()
    return begun


def _compare(begun: Progress) -> None:
    """All is read; repeated rows and what only the whole shows come next, which have no measure."""
    from rich.progress import TimeElapsedColumn

    begun.columns = (*begun.columns[:2], TimeElapsedColumn())
    begun.update(begun.task_ids[0], total=None, description="Comparing rows")
