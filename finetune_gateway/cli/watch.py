"""``ftg watch`` and ``ftg wait``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from finetune_gateway.cli.options import JobName, Json, Quiet
from finetune_gateway.cli.progress import PhaseBar
from finetune_gateway.errors import JobCancelled, JobFailed, JobNotFinished, SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.groups import Failure
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.job_history_text import event_line
from finetune_gateway.reports.job_text import (
    job_document,
    job_share,
    name_jobs,
    next_step,
    place_text,
    status_line,
)
from finetune_gateway.reports.output import (
    print_json,
    print_json_line,
    print_message,
    print_result,
    print_warning,
)
from finetune_gateway.text.cleaning import visible

EXIT_CODES = {
    JobStatus.SUCCEEDED: 0,
    JobStatus.FAILED: JobFailed.exit_code,
    JobStatus.CANCELLED: JobCancelled.exit_code,
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def watch(job: JobName, json: Json = False, quiet: Quiet = False) -> int:
    """Follow a job on a live screen: status, progress, losses, time left. Ctrl-C leaves the job
    running. Without a terminal, prints one line per event; --quiet prints how the job ended, and
    nothing before.

    The exit code says how the job ended: 0 succeeded, 100 failed, 103 cancelled; 0 after Ctrl-C;
    101 for a job that has not been sent: watching sends nothing.

    Examples:
      ftg watch latest
      ftg watch ftg-7kq3 --json
    """
    return watch_job(Gateway().job(job), json=json, quiet=quiet)


def watch_job(opened: Job, *, json: bool = False, quiet: bool = False) -> int:
    """Follow a job on the screen and return its exit code; 0 after Ctrl-C."""
    try:
        if json:
            _print_events_as_json(opened)
        elif quiet:
            for _ in opened.watch():
                pass
        elif sys.stdout.isatty():
            # Imported here: rich takes 0.1 s, and only this screen needs it.
            from finetune_gateway.reports.live import follow_on_screen

            follow_on_screen(opened)
        else:
            _print_events(opened)
    except KeyboardInterrupt:
        still = f"Job {opened.id} is still running. Back to it: ftg watch {opened.id}"
        print_message(f"\n{opened.record.outlook or still}")
        return 0
    if quiet and not json:
        print_result(str(opened.status))
    print_message(status_line(opened), quiet=quiet)
    if hint := next_step(opened):
        print_message(hint, quiet=quiet)
    return exit_code(opened)


def _print_events_as_json(job: Job) -> None:
    for event in job.watch():
        print_json_line(event.model_dump(mode="json"))


def _print_events(job: Job) -> None:
    for event in job.watch(on_poll=PhasePrinter()):
        print_result(event_line(event))
        sys.stdout.flush()


class PhasePrinter:
    """Prints on stderr what a job does before its first event, such as building a model, and why
    nothing is heard of it. ``bar``: with a bar, on a terminal, for what says how far it is."""

    def __init__(self, *, quiet: bool = False, bar: bool = False) -> None:
        self.quiet = quiet
        self.last = ""
        self.bar = PhaseBar() if bar and not quiet and sys.stderr.isatty() else None

    def __call__(self, job: Job) -> None:
        """Print the phase of the job if it is another one, not each step of the same."""
        phase = "" if job.status.final else _doing(job)
        counted = job_share(job.record) if job.trouble is None else None
        name = phase.partition(":")[0]
        if self.bar and counted:
            self.bar.show(f"{job.id}  {counted[0]}", counted[1])
        elif self.bar:
            self.bar.stop()
        if phase and name != self.last and not (self.bar and counted):
            print_message(f"{job.id}  {job.status}: {visible(phase)}", quiet=self.quiet)
        self.last = name

    def stop(self) -> None:
        """Remove the bar."""
        if self.bar:
            self.bar.stop()


def _doing(job: Job) -> str:
    """Return the phase of a job, or why it does not move."""
    if job.trouble is not None and not job.record.unsent:
        return f"as last seen, for {job.trouble.message}"
    if job.status is JobStatus.PAUSED and not job.phase:
        return f"it goes on when it is resumed, here with ftg resume {job.id}"
    return ", ".join(filter(None, (job.phase, place_text(job.record))))


def exit_code(job: Job) -> int:
    """Return the exit code for a job: 0, 100, 103, or 101 while it has not ended."""
    return EXIT_CODES.get(job.status, JobNotFinished.exit_code)


def follow(job: Job, timeout: float | None = None, *, quiet: bool = False) -> None:
    """Wait until the job ends, and print its events on stderr."""
    printer = PhasePrinter(quiet=quiet, bar=True)
    try:
        for event in job.watch(timeout, send=True, on_poll=printer):
            print_message(f"{job.id}  {event_line(event)}", quiet=quiet)
    except KeyboardInterrupt:
        still = f"Job {job.id} is still running. Back to it: ftg watch {job.id}"
        printer.stop()
        print_message(f"\n{job.record.outlook or still}")
        raise
    finally:
        printer.stop()


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
    """Block until jobs end, whether they succeed or not. A job that has not been sent is sent.

    The events of one job are printed as they come. Of several, each change of status is: their
    hosts are asked once for all of them.

    Exit code: 0 if all succeeded, 100 if one failed, 101 if one has not finished in time (it
    keeps running), 103 if one was cancelled.

    Examples:
      ftg wait latest
      ftg wait ftg-7kq3 ftg-9xm2 --timeout 2h && echo done
    """
    seconds = None if timeout is None else parse_seconds(timeout)
    gateway = Gateway()
    opened = [*{(job := gateway.job(name)).id: job for name in jobs}.values()]
    failures: list[Failure] = []
    if len(opened) == 1:
        follow(opened[0], seconds, quiet=quiet)
    else:
        failures = follow_all(gateway, opened, seconds, quiet=quiet)
    if json:
        print_json([job_document(job) for job in opened])
    else:
        for job in opened:
            alone = quiet and len(opened) == 1
            print_result(str(job.status) if alone else status_line(job))
    _raise_first(failures)
    return combine_exit_codes([exit_code(job) for job in opened])


def follow_all(
    gateway: Gateway, jobs: list[Job], timeout: float | None = None, *, quiet: bool = False
) -> list[Failure]:
    """Wait until these jobs end, and print on stderr when one moves; return those that have not
    ended, and why."""
    printers = {job.id: PhasePrinter(quiet=quiet) for job in jobs}

    def show(job: Job) -> None:
        if job.status.final:
            print_message(status_line(job), quiet=quiet)
        printers[job.id](job)

    for job in jobs:
        printers[job.id](job)
    try:
        return gateway.wait(jobs, timeout, on_change=show)
    except KeyboardInterrupt:
        rest = [job for job in jobs if not job.status.final]
        unsent = [job.record.outlook for job in rest if job.record.unsent]
        going_on = [job for job in rest if not job.record.unsent]
        back = (
            [f"{name_jobs(going_on)} still running. Back to them: ftg wait, ftg list"]
            if going_on
            else []
        )
        print_message("\n".join(["", *back, *unsent]))
        raise


def _raise_first(failures: list[Failure]) -> None:
    """Print the errors that kept jobs from being followed, and raise the first of them."""
    errors = [one for one in failures if not isinstance(one.error, JobNotFinished)]
    for failure in errors[1:]:
        print_warning(f"{name_jobs(failure.jobs)}: {failure.error.message}")
    if errors:
        raise errors[0].error


def combine_exit_codes(codes: Sequence[int]) -> int:
    """Return the worst code: failed, then not finished, then cancelled, then 0."""
    order = (JobFailed.exit_code, JobNotFinished.exit_code, JobCancelled.exit_code)
    return next((code for code in order if code in codes), 0)


def parse_seconds(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``10m``, ``2h`` or ``1h30m``. Raises SpecError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise SpecError(f"{text!r} is not a duration.", hint="Like 90s, 10m, 2h or 1h30m.")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)
