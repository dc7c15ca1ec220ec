"""``ftg logs``, ``events``, ``metrics`` and ``checkpoints``."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from finetune_gateway.cli.options import (
    Force,
    JobName,
    Json,
    Quiet,
    open_job,
    refresh_or_warn,
    refuse_foreign_page,
    write_page,
)
from finetune_gateway.cli.watch import exit_code
from finetune_gateway.errors import SpecError
from finetune_gateway.events import Metric
from finetune_gateway.jobs import history
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.removal import require_kept
from finetune_gateway.reports.job_history_text import (
    checkpoints_text,
    event_line,
    metrics_csv,
    metrics_document,
    metrics_text,
    plot_text,
)
from finetune_gateway.reports.output import (
    print_json,
    print_json_line,
    print_message,
    print_result,
)

FOLLOW_SECONDS = 0.5  # between two reads of a growing log


def logs(
    job: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until the job ends.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="The last N lines.")
    ] = 100,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Print the raw log of a local job, or the events of a hosted one. With -f, the exit code
    says how the job ended, as for 'ftg wait'.

    Examples:
      ftg logs latest
      ftg logs ftg-7kq3 -f -n 20
    """
    opened = _open_kept(job, quiet=quiet)
    if follow and not opened.status.final:
        opened.store.settings.require_writable()
    path = opened.log_path()
    write = _line_writer(json)
    if path is None or not path.exists():
        return _print_events(opened, follow, lines, write)
    with path.open("rb") as file:
        for line in deque(_read_lines(file), maxlen=lines):
            write(line)
        if follow:
            _follow(opened, file, write, quiet)
    return exit_code(opened) if follow else 0


def _open_kept(name: str, *, quiet: bool) -> Job:
    """Return a job, refreshed. Raises JobRemoved for one that was removed."""
    job = open_job(name, quiet=quiet)
    require_kept(job.record)
    return job


def _line_writer(json: bool) -> Callable[[str], None]:
    return (lambda line: print_json_line({"line": line})) if json else print_result


def _read_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines from here on, as text."""
    for raw in file:
        yield raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace")


def _follow(job: Job, file: BinaryIO, write: Callable[[str], None], quiet: bool) -> None:
    while True:
        refresh_or_warn(job, quiet=quiet)
        final = job.status.final  # read before the last lines, so that none is missed
        for line in _read_lines(file):
            write(line)
        sys.stdout.flush()
        if final:
            return
        time.sleep(FOLLOW_SECONDS)


def _print_events(job: Job, follow: bool, lines: int, write: Callable[[str], None]) -> int:
    known = history.last_events(job.store, job.id, max(1, lines))
    for event in known[len(known) - min(lines, len(known)) :]:
        write(event_line(event))
    if not follow:
        return 0
    for event in job.watch(after=(known[-1].number or 0) if known else 0):
        write(event_line(event))
        sys.stdout.flush()
    return exit_code(job)


def events(job: JobName, json: Json = False, quiet: Quiet = False) -> None:
    """Print the events of a job, oldest first.

    Examples:
      ftg events latest
      ftg events ftg-7kq3 --json | jq .message
    """
    opened = _open_kept(job, quiet=quiet)
    event = None
    for event in history.each_event(opened.store, opened.id):
        if json:
            print_json_line(event.model_dump(mode="json"))
        else:
            print_result(event_line(event))
    if event is None:
        print_message(_none(opened, "events"), quiet=quiet)


def metrics(
    job: JobName,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the losses as a chart in the terminal.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Write one HTML page: losses, facts, events.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print losses and learning rates by step. A step that was repeated after a restart is
    listed once.

    --plot draws training and validation loss at the width of the terminal, without color, and in
    plain ASCII where the terminal has nothing else. The scale is logarithmic where losses fall
    far; the chart says so.

    Examples:
      ftg metrics latest
      ftg metrics latest --plot
      ftg metrics ftg-7kq3 --html job.html
      ftg metrics ftg-7kq3 --csv > curve.csv
    """
    if sum((plot, as_csv, json)) > 1:
        raise SpecError("--plot, --csv and --json exclude each other.", hint="Give one of them.")
    refuse_foreign_page(html, force)
    opened = _open_kept(job, quiet=quiet)
    metrics = opened.metrics()
    if html is not None:
        # Imported here: only this option needs it.
        from finetune_gateway.reports.job_page import page

        write_page(html, page(opened), quiet=quiet)
        if not (plot or as_csv or json):
            return
    if json:
        print_json(metrics_document(metrics))
    elif as_csv:
        sys.stdout.write(metrics_csv(metrics))
    elif text := _metrics_text(opened.id, metrics, plot):
        print_result(text)
    else:
        missing = "losses" if plot and metrics else "metrics"
        print_message(_none(opened, missing), quiet=quiet)


def _none(job: Job, what: str) -> str:
    """Return that a job has none of these: yet, as long as some may come."""
    return f"No {what}." if job.status.final else f"No {what} yet."


def _metrics_text(job_id: str, metrics: Sequence[Metric], plot: bool) -> str:
    """Return a table or a chart; empty if there is nothing to show."""
    if plot:
        return plot_text(job_id, metrics, sys.stdout.encoding)
    return metrics_text(metrics) if metrics else ""


def checkpoints(job: JobName, json: Json = False, quiet: Quiet = False) -> None:
    """List models saved during training: the path of a local one, the id of a hosted one.

    Examples:
      ftg checkpoints latest
      ftg checkpoints ftg-7kq3 --json
    """
    opened = _open_kept(job, quiet=quiet)
    checkpoints = opened.checkpoints()
    if json:
        print_json([point.model_dump(mode="json") for point in checkpoints])
    elif checkpoints:
        print_result(checkpoints_text(checkpoints))
    else:
        print_message(_none(opened, "checkpoints"), quiet=quiet)
