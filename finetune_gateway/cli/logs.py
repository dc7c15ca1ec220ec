"""``ftg logs``, ``events``, ``metrics`` and ``checkpoints``."""

from __future__ import annotations

import csv
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any, BinaryIO

import typer

from finetune_gateway.cli.options import JobName, Json, looked_at, refresh
from finetune_gateway.cli.watch import end_code, event_line
from finetune_gateway.events import Metric
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports import output
from finetune_gateway.reports.output import format_table, print_message, print_result

FOLLOW_SECONDS = 0.5  # between two looks at a growing log
FIRST = ("step", "total_steps", "train_loss", "valid_loss", "learning_rate")


def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until its end.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="The last N lines.")
    ] = 100,
    json: Json = False,
) -> int:
    """The raw log of a local job; of a hosted one, its events. With -f the exit code tells how
    the job ended, as 'ftg wait' does.

    Examples:
      ftg logs latest
      ftg logs ftg-7kq3 -f -n 20
    """
    found = looked_at(job)
    path = found.log_path()
    write = _line_writer(json)
    if path is None or not path.exists():
        return _event_log(found, follow, lines, write)
    with path.open("rb") as file:
        for line in deque(_whole(file), maxlen=lines):
            write(line)
        if follow:
            _follow(found, file, write)
    return end_code(found) if follow else 0


def _line_writer(json: bool) -> Callable[[str], None]:
    return (lambda line: output.print_json_line({"line": line})) if json else print_result


def _whole(file: BinaryIO) -> Iterator[str]:
    """The lines from here on, as text."""
    for raw in file:
        yield raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace")


def _follow(job: Job, file: BinaryIO, write: Callable[[str], None]) -> None:
    while True:
        refresh(job)
        final = job.status.final  # read before the last lines, so that none is missed
        for line in _whole(file):
            write(line)
        sys.stdout.flush()
        if final:
            return
        time.sleep(FOLLOW_SECONDS)


def _event_log(job: Job, follow: bool, lines: int, write: Callable[[str], None]) -> int:
    known = job.events()
    for event in known[max(0, len(known) - lines) :]:
        write(event_line(event))
    if not follow:
        return 0
    for event in job.watch():
        if event not in known:
            write(event_line(event))
            sys.stdout.flush()
    return end_code(job)


def events(job: JobName, json: Json = False) -> None:
    """What a job has said, oldest first.

    Examples:
      ftg events latest
      ftg events ftg-7kq3 --json | jq .message
    """
    found = looked_at(job).events()
    for event in found:
        if json:
            output.print_json_line(event.model_dump(mode="json"))
        else:
            print_result(event_line(event))
    if not found:
        print_message("No events yet.")


def metrics(
    job: JobName,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    json: Json = False,
) -> None:
    """Losses and rates by step. A step that was run again after a restart counts once.

    Examples:
      ftg metrics latest
      ftg metrics ftg-7kq3 --csv > curve.csv
    """
    found = looked_at(job).metrics()
    rows = [metric.model_dump(mode="json", exclude_none=True) for metric in found]
    if json:
        output.print_json(rows)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, _columns(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif rows:
        print_result(_metrics_table(found, rows))
    else:
        print_message("No figures yet.")


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every name that occurs, the usual ones first."""
    seen = {name: None for row in rows for name in row}
    return [name for name in FIRST if name in seen or name == "step"] + [
        name for name in seen if name not in FIRST
    ]


def _metrics_table(found: list[Metric], rows: list[dict[str, Any]]) -> str:
    """The usual columns, then as many others as the terminal is wide for."""
    columns = [name for name in _columns(rows) if name != "total_steps"]
    cells = [[_figure(row.get(name)) for name in columns] for row in rows]
    while True:
        text = format_table(columns, cells, right=" ".join(columns))
        if len(text.partition("\n")[0]) <= output.terminal_width() or len(columns) <= 2:
            return text
        columns = columns[:-1]
        cells = [row[:-1] for row in cells]


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def checkpoints(job: JobName, json: Json = False) -> None:
    """Models saved during training: the path of a local one, the id of a hosted one.

    Examples:
      ftg checkpoints latest
      ftg checkpoints ftg-7kq3 --json
    """
    found = looked_at(job).checkpoints()
    if json:
        output.print_json([point.model_dump(mode="json") for point in found])
    elif found:
        rows = [(str(point.step), point.id, point.model) for point in found]
        print_result(format_table(("STEP", "CHECKPOINT", "MODEL"), rows, right="STEP"))
    else:
        print_message("No checkpoints yet.")
