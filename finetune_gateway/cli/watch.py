"""``ftg watch`` and ``ftg wait``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from finetune_gateway.cli.jobs import document
from finetune_gateway.cli.options import JobName, Json, Quiet
from finetune_gateway.errors import JobCancelled, JobFailed, JobNotFinished, SpecError
from finetune_gateway.events import Event, JobStatus
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports import output
from finetune_gateway.reports.output import format_timestamp, print_message, print_result

END_CODES = {
    JobStatus.SUCCEEDED: 0,
    JobStatus.FAILED: JobFailed.exit_code,
    JobStatus.CANCELLED: JobCancelled.exit_code,
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def watch(job: JobName, json: Json = False) -> int:
    """Follow a job on a live screen: status, progress, losses, time left. Ctrl-C leaves the job
    running. Without a terminal, one line per event.

    Ends as the job does: 0 succeeded, 100 failed, 103 cancelled; 0 after Ctrl-C.

    Examples:
      ftg watch latest
      ftg watch ftg-7kq3 --json
    """
    found = Gateway().job(job)
    try:
        if json:
            _stream(found)
        elif sys.stdout.isatty():
            # Imported here: rich takes 0.1 s, and only this screen needs it.
            from finetune_gateway.reports.live import screen

            screen(found)
        else:
            _lines(found)
    except KeyboardInterrupt:
        print_message(f"\nJob {found.id} goes on. Back to it: ftg watch {found.id}")
        return 0
    _said_end(found)
    return end_code(found)


def _stream(job: Job) -> None:
    for event in job.watch():
        output.print_json_line(event.model_dump(mode="json"))


def _lines(job: Job) -> None:
    for event in job.watch():
        print_result(event_line(event))
        sys.stdout.flush()


def event_line(event: Event) -> str:
    """Time, level where it matters, message."""
    level = "" if event.level == "info" else f"{event.level}: "
    return f"{format_timestamp(event.created_at)}  {level}{' '.join(event.message.split())}"


def _said_end(job: Job) -> None:
    print_message(f"{job.id} {job.status}{': ' + job.error if job.error else ''}")
    if job.status is JobStatus.SUCCEEDED:
        print_message(f'Next: ftg chat {job.id} "Hello"')
    elif job.status is JobStatus.FAILED:
        print_message(f"Next: ftg logs {job.id}")


def end_code(job: Job) -> int:
    """The exit code of a job: 0, 100, 103, or 101 while it goes on."""
    return END_CODES.get(job.status, JobNotFinished.exit_code)


def follow(job: Job, timeout: float | None = None, *, quiet: bool = False) -> None:
    """Wait for the end, with the events on stderr."""
    try:
        for event in job.watch(timeout):
            print_message(f"{job.id}  {event_line(event)}", quiet=quiet)
    except KeyboardInterrupt:
        print_message(f"\nJob {job.id} goes on. Back to it: ftg watch {job.id}")
        raise


def wait(
    jobs: Annotated[
        list[str],
        typer.Argument(metavar="JOB", help="Ids, their beginnings, or 'latest'."),
    ],
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after 90s, 10m, 2h.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Block until jobs have ended, however they ended.

    Exit code: 0 all succeeded, 100 one failed, 101 not finished in time (it goes on),
    103 one was cancelled.

    Examples:
      ftg wait latest
      ftg wait ftg-7kq3 ftg-9xm2 --timeout 2h && echo done
    """
    deadline = None if timeout is None else time.monotonic() + seconds(timeout)
    gateway = Gateway()
    found = [gateway.job(name) for name in dict.fromkeys(jobs)]
    for job in found:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        follow(job, left, quiet=quiet)
        if not json:
            print_result(f"{job.id} {job.status}{': ' + job.error if job.error else ''}")
    if json:
        output.print_json([document(job) for job in found])
    return worst([end_code(job) for job in found])


def worst(codes: Sequence[int]) -> int:
    """One code for several ends: failed, then not finished, then cancelled, then 0."""
    order = (JobFailed.exit_code, JobNotFinished.exit_code, JobCancelled.exit_code)
    return next((code for code in order if code in codes), 0)


def seconds(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m``, ``2h``, ``1d`` or ``1h30m``. Raises SpecError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise SpecError(f"{text!r} is not a time.", hint="Like 90s, 10m, 2h or 1h30m.")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)
