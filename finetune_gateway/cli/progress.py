"""A progress bar for files that take more than a second, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

OnProgress = Callable[[int, int], None]  # called with bytes done and bytes in total
PATIENCE = 1.0  # seconds before the bar appears


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[OnProgress | None]:
    """Yield a callback that moves the bar; None without a terminal.

    The bar is on stderr and disappears at the end.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar()
    try:
        yield bar.move
    finally:
        bar.stop()


def spread_over(on_progress: OnProgress | None, passes: int) -> OnProgress | None:
    """Scale the progress of one pass to a file that is read several times."""
    if on_progress is None:
        return None
    before, last = 0, 0

    def move(done: int, total: int) -> None:
        nonlocal before, last
        if done < last and before < passes - 1:
            before += 1
        last = done
        on_progress(before * total + done, passes * total)

    return move


class _Bar:
    def __init__(self) -> None:
        self.started = time.monotonic()
        self.progress: Progress | None = None

    def move(self, done: int, total: int) -> None:
        """Draw the bar, if the file takes long enough."""
        if self.progress is None:
            if time.monotonic() - self.started < PATIENCE:
                return
            self.progress = _start(total)
        if done < total:
            # Drawn each time, about 500 times for 1 GB: else a quick pass would show nothing.
            self.progress.update(self.progress.task_ids[0], completed=done, refresh=True)
        else:
            _show_comparing(self.progress)

    def stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()


@contextmanager
def working(doing: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that something takes time, until the block ends. Yield what is called with
    another text, such as ``building builtin/tiny: step 25 of 600``; without a terminal the first of
    these is printed."""
    # Imported here: most bars are those of files.
    from finetune_gateway.reports.job_text import phase_share
    from finetune_gateway.reports.output import print_message

    said: list[str] = []
    bar = PhaseBar() if sys.stderr.isatty() and not quiet else None

    def say(text: str) -> None:
        name, share = phase_share(text) or (text, None)
        if bar:
            bar.show(name, share)
        elif not said:
            said.append(name)
            print_message(f"{name} ...", quiet=quiet)

    try:
        if bar:
            bar.show(doing, None)
        yield say
    finally:
        if bar:
            bar.stop()


class PhaseBar:
    """How much is done of what takes time before the first step: one bar on stderr."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def show(self, name: str, share: float | None) -> None:
        """Draw the bar, or move it. ``share``: None where nobody knows how long it takes."""
        # Imported here: rich takes 50 ms, and few jobs have to build or fetch their base.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        if self.progress is None:
            self.progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TaskProgressColumn(show_speed=False),
                console=Console(stderr=True, highlight=False),
                transient=True,
            )
            self.progress.add_task(name, total=None)
            self.progress.start()
        total = None if share is None else 1.0
        self.progress.update(
            self.progress.task_ids[0], description=name, completed=share or 0, total=total
        )

    def stop(self) -> None:
        """Remove the bar, if there is one."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def _start(total: int) -> Progress:
    # Imported here: rich takes 50 ms, and most files are checked before a bar is worth it.
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    bar.add_task("Reading", total=total)
    bar.start()
    return bar


def _show_comparing(bar: Progress) -> None:
    """Replace the bar: the file is read, and comparing rows has no known length."""
    from rich.progress import TimeElapsedColumn

    bar.columns = (*bar.columns[:2], TimeElapsedColumn())
    bar.update(bar.task_ids[0], total=None, description="Comparing rows")


@contextmanager
def answers_bar(*, quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Yield what moves a bar of the answers on stderr; None without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    bar = PhaseBar()
    try:
        yield lambda done, total, title: bar.show(
            f"{done:,} of {total:,}  {title}", done / max(total, 1)
        )
    finally:
        bar.stop()
