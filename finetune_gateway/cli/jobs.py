"""``ftg list``, ``status``, ``cancel``, ``pause``, ``resume`` and ``settle``."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import typer

from finetune_gateway import registry
from finetune_gateway.cli.options import (
    JobName,
    Json,
    Quiet,
    open_job,
    parse_metadata,
    require_yes,
)
from finetune_gateway.errors import SpecError
from finetune_gateway.events import JobStatus
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import results
from finetune_gateway.jobs.charges import CHECK, COMPARE
from finetune_gateway.jobs.conditions import wanted
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.recordings import PREFIX
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.reports.job_text import (
    as_last_seen,
    job_costs_text,
    job_document,
    job_list_text,
    job_text,
    next_step,
    record_document,
)
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
    print_warning,
)
from finetune_gateway.settings.money import format_usd

NEWEST = 20  # jobs listed unless --all or --limit


def list_jobs(
    status: Annotated[
        str | None, typer.Option(metavar="WORD", help="queued, running, succeeded, failed, ...")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this backend or host.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs submitted with it; repeatable."),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="All jobs, not only the newest 20.")
    ] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N jobs.")] = None,
    ask: Annotated[bool, typer.Option("--refresh", help="Ask hosted backends too.")] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help="Show estimated and actual cost of each job.")
    ] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the ids.")] = False,
) -> None:
    """List jobs, newest first. The state of local jobs is up to date; hosted backends are asked
    only with --refresh, so that the list needs no network and no key.

    Examples:
      ftg list
      ftg list --status running --refresh
      ftg list --costs
      ftg list --metadata team=support
      ftg list -q --limit 1
    """
    if status is not None and status not in list(JobStatus):
        known = ", ".join(JobStatus)
        raise SpecError(f"There is no status {status!r}.", hint=f"Use one of: {known}.")
    gateway, tags = Gateway(), parse_metadata(metadata)
    tell = partial(print_warning, quiet=quiet)
    for failure in gateway.refresh(_going_on(gateway, backend, tags, hosted=ask)):
        tell(f"{as_last_seen(failure.jobs)}: {failure.error.message}")
    most = None if all_ and limit is None else limit or NEWEST
    jobs = gateway.jobs(status=status, backend=backend, metadata=tags, limit=most)
    newest = [job.record for job in jobs]
    if backend is not None and not newest and not gateway.jobs(backend=backend, limit=1):
        registry.require_known(backend)
    for error in gateway.store.damaged.values():
        tell(f"Not in this list: {error.message}")
    if json:
        print_json([record_document(record) for record in newest])
    elif quiet:
        for record in newest:
            print_result(record.id)
    elif newest:
        print_result(job_costs_text(newest) if costs else job_list_text(newest))
        older = gateway.store.count(*wanted(status, backend, tags)) - len(jobs)
        if most == len(jobs) and older > 0:
            print_message(f"{older} older jobs: ftg list -a")
    else:
        print_message(_no_jobs(matching=bool(status or backend or metadata)))


def _no_jobs(*, matching: bool) -> str:
    """Return what to do where the list is empty: of all jobs, or of those that match."""
    if matching:
        return "No matching jobs.\nAll jobs: ftg list -a"
    return "No jobs.\nStart one: ftg submit train.jsonl --model builtin/tiny"


def _going_on(
    gateway: Gateway, backend: str | None, metadata: dict[str, str], *, hosted: bool
) -> list[Job]:
    """Return the jobs that have not ended, of this backend and metadata; those of hosts only if
    they are to be asked."""
    return [
        job
        for word in JobStatus
        if not word.final
        for job in gateway.jobs(status=word, backend=backend, metadata=metadata)
        if hosted or not job.record.hosted
    ]


def status(job: JobName, json: Json = False, quiet: Quiet = False) -> None:
    """Show one job: its status, last metrics, cost, and the resulting model. Its backend is
    asked once; if that fails, the job is shown as last seen.

    Examples:
      ftg status latest
      ftg status ftg-7kq3 --json
    """
    opened = open_job(job, quiet=quiet)
    if json:
        print_json(job_document(opened))
        return
    print_result(str(opened.status) if quiet else job_text(opened))
    if hint := next_step(opened):
        print_message(hint, quiet=quiet)


def cancel(
    job: JobName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stop a job. Costs so far are still charged; saved checkpoints stay usable. A job that has
    ended stays as it is. Without a terminal, --yes is required. One that its host has just refused
    may be there all the same: it is looked for first, ten seconds at most.

    Examples:
      ftg cancel latest
      ftg cancel ftg-7kq3 --yes
    """
    opened = Gateway().job(job)
    ended = opened.status.final
    if not ended and not yes:
        _require_yes(opened, "Stop", "stopped")
    opened.cancel(on_wait=lambda reason: print_message(reason, quiet=quiet))
    if json:
        print_json(job_document(opened))
    else:
        print_result(str(opened.status) if quiet else f"{opened.id} {opened.status}")
    if ended:
        print_message("The job had already ended.", quiet=quiet)
    elif not opened.status.final:
        print_message(f"The job stops as soon as it can: ftg wait {opened.id}", quiet=quiet)


def pause(job: JobName, json: Json = False, quiet: Quiet = False) -> None:
    """Let a job save a checkpoint, give its GPU or CPU to the next one, and wait until 'ftg resume'
    lets it go on: nothing that it has trained is lost. One that waits is passed over until then.
    Only jobs of this machine can be paused.

    Examples:
      ftg pause latest
      ftg resume latest
    """
    opened = Gateway().job(job).pause()
    if json:
        print_json(job_document(opened))
    else:
        print_result(str(opened.status) if quiet else f"{opened.id} {opened.status}")
    if opened.status.final:
        print_message("It ended before it could be paused.", quiet=quiet)
    elif opened.status is not JobStatus.PAUSED:
        print_message(f"It pauses after its step: ftg status {opened.id}", quiet=quiet)
    else:
        print_message(next_step(opened), quiet=quiet)


def resume(
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB[@STEP]", help="Job id, a unique start of one, or 'latest'."),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="All jobs of this machine that wait or were interrupted.")
    ] = False,
    allow_changed_versions: Annotated[
        bool,
        typer.Option(
            "--allow-changed-versions",
            help="Go on though torch, another package, the device or its threads changed: the rest "
            "is not equal, bit for bit, to a job without a break.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Let a job that has stopped go on, as the same job. One that was not sent is looked for, and
    sent if it is not there. One that is paused here waits in line again; at a host it is resumed
    after a yes: it costs again; without a terminal, --yes is required. A local one that has failed
    or was cancelled goes on from its last complete checkpoint; JOB@STEP (also @best) goes on from
    that one, after a yes: later ones are deleted, and their steps are trained again. Any other is
    refused (exit 2).

    --all brings the line of local jobs back after a restart of the machine, in its order, as
    any look such as 'ftg list' does. Paused and failed jobs stay as they are, hosted ones are not
    asked. 'ftg doctor --service' prints a unit that runs it at the start of the machine.

    Examples:
      ftg resume latest
      ftg resume --all
      ftg resume ftg-7kq3@200
      ftg resume ftg-7kq3 --yes --json
    """
    if (job is None) is not all_:
        raise SpecError("Say which job is to go on.", hint="Give its id or 'latest', or --all.")
    if all_ and allow_changed_versions:
        raise SpecError(
            "What has changed is allowed job by job.",
            hint="Name one: ftg resume JOB --allow-changed-versions",
        )
    if job is None:
        return _resume_all(json=json, quiet=quiet)
    name, step = results.split(job)
    opened = open_job(name, quiet=quiet)
    if opened.status is JobStatus.PAUSED and opened.record.hosted and not yes:
        _require_yes(opened, "Resume", "resumed")
    if step is not None and not yes:
        _require_rewind(opened, step)
    opened.resume(step=step, allow_changed_versions=allow_changed_versions)
    if json:
        print_json(job_document(opened))
    else:
        print_result(str(opened.status) if quiet else f"{opened.id} {opened.status}")
    if hint := next_step(opened):
        print_message(hint, quiet=quiet)
    return 0


def _resume_all(*, json: bool, quiet: bool) -> int:
    gateway = Gateway()
    failures = gateway.resume_all()
    for failure in failures:
        names = ", ".join(job.id for job in failure.jobs)
        print_warning(f"{names}: {failure.error.message}", quiet=quiet)
    local = [job.record for job in gateway.jobs() if not job.record.hosted]
    live = [one for one in local if not one.status.final and one.status is not JobStatus.PAUSED]
    in_line = sorted(live[::-1], key=_turn)
    if json:
        print_json([record_document(record) for record in in_line])
    elif quiet:
        for record in in_line:
            print_result(record.id)
    elif in_line:
        print_result(job_list_text(in_line))
    else:
        print_message("No job of this machine waits.")
    paused = [one.id for one in local if one.status is JobStatus.PAUSED]
    if paused:
        print_message(f"Still paused: {', '.join(paused)}. ftg resume JOB", quiet=quiet)
    return 1 if failures else 0


def _turn(record: JobRecord) -> tuple[bool, float]:
    """Return what sorts jobs by their turn: those that run, those in line, the others."""
    place = record.place_in_line
    return record.status is not JobStatus.RUNNING, math.inf if place is None else place


def _require_rewind(job: Job, step: results.StepName) -> None:
    """Ask before the checkpoints after a step are deleted; where there are none, nothing is lost.
    Raises NotFoundError for a step that is not there, BudgetError without a yes."""
    there = job.checkpoints()
    at = results.chosen(job.record, step, job.store).step
    later = [f"{one.step:,}" for one in there if one.step > at]
    if later and job.resumable:
        steps = ", ".join(later)
        question = f"Resume {job.id} from step {at:,}, and delete its later checkpoints ({steps})?"
        require_yes(question, f"Job {job.id} was not resumed")


def settle(
    job: JobName,
    created: Annotated[
        str | None, typer.Option(metavar="ID", help="The provider's id: the job is there.")
    ] = None,
    not_created: Annotated[
        bool,
        typer.Option(
            "--not-created",
            help="The job is not there: 'ftg wait' sends it; one that its host has lost ends.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what became of a job in doubt: its answer was lost, and the list of its host cannot
    tell whether it was created; or its host has lost it, or has its id for another job. Look at
    the host first. Sends nothing.

    recorded:NAME settles what a recording that was killed has reserved, from the requests that it
    wrote down; one without an answer counts at the most that it can cost. With --not-created also
    its batches that the host has lost: their rows can then be asked anew. compare:cmp-ID does so
    for a comparison that was killed, check:chk-ID for a check.

    Examples:
      ftg settle latest --created ftjob-abc123
      ftg settle ftg-7kq3 --not-created
      ftg settle recorded:support-2026-12-01
      ftg settle recorded:support-2026-12-01 --not-created
      ftg settle compare:cmp-3f9a2c1d
    """
    if job.startswith(PREFIX) and created is None:
        _settle_recording(job, lost=not_created, json=json, quiet=quiet)
        return
    if job.startswith((COMPARE, CHECK)) and created is None and not not_created:
        _settle_comparison(job, json=json, quiet=quiet)
        return
    if (created is not None) == not_created:
        raise SpecError(
            "Say whether the host has the job.", hint="Either --created ID, or --not-created."
        )
    opened = Gateway().job(job).settle(created)
    if json:
        print_json(job_document(opened))
    else:
        became = opened.provider_id or "has not been created"
        became = str(opened.status) if opened.status.final else became
        print_result(became if quiet else f"{opened.id} {became}")
        print_message(next_step(opened), quiet=quiet)


def _settle_recording(name: str, *, lost: bool, json: bool, quiet: bool) -> None:
    # Imported here: most of what is settled are jobs.
    from finetune_gateway import evaluation

    spent = evaluation.settle(name, lost=lost)
    if json:
        print_json({"recording": name, "spent_usd": f"{spent:f}"})
    else:
        print_result(name if quiet else f"{name}: {format_usd(spent)} settled")


def _settle_comparison(name: str, *, json: bool, quiet: bool) -> None:
    from finetune_gateway.evaluation import answers

    spent = answers.settle(Gateway().settings, name)
    if json:
        kind = "check" if name.startswith(CHECK) else "comparison"
        print_json({kind: name, "spent_usd": f"{spent:f}"})
    else:
        print_result(name if quiet else f"{name}: {format_usd(spent)} settled")


def _require_yes(job: Job, verb: str, done: str) -> None:
    """Ask before stopping or resuming a job. Raises BudgetError without a yes."""
    question = f"{verb} {job.id} ({job.record.display_name}, {job.record.spec.model})?"
    require_yes(question, f"Job {job.id} was not {done}")
