"""``ftg deploy`` of a job whose backend makes the deployments itself."""

from __future__ import annotations

from finetune_gateway.cli.options import require_yes
from finetune_gateway.cli.progress import working
from finetune_gateway.errors import NotFoundError
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import deployments
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.deployment_text import hourly_text
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.text.cleaning import visible


def deploy_by_plugin(
    job: Job, name: str | None, *, delete: bool, yes: bool, json: bool, quiet: bool
) -> int:
    """Make the deployment of a job and wait until it answers, or end it; return the exit code."""
    known = deployments.details(job)
    if delete:
        if name not in (None, known.get("name")):
            raise NotFoundError(
                f"{job.id} has no deployment {visible(str(name))!r} that was made here.",
                hint="Leave --name out.",
            )
        return _end(job, str(known.get("name", job.id)), yes=yes, json=json, quiet=quiet)
    deployments.require_needed(job)
    if name is not None:
        deployments.check_name(name)
    named = name or str(known.get("name", job.id))
    text = hourly_text(named, job.record, deployments.price(job))
    print_message(text, quiet=quiet and yes)
    if not yes:
        require_yes("Make this deployment?", "Nothing was done")
    made = deployments.make(job, name, cap=Gateway().monthly_usd)
    try:
        with working(f"Deploying {named}", quiet=quiet):
            ready = deployments.answers(job, made)
    except KeyboardInterrupt as exc:
        exc.add_note(f"The deployment goes on, and costs. End it: ftg deploy {job.id} --delete")
        raise
    if json:
        print_json({"deployment": deployments.details(job), "ready": ready})
    else:
        print_result(named)
    says = "It answers" if ready else "It is made, and does not answer yet"
    end = f"End it: ftg deploy {job.id} --delete"
    print_message(f"{says}: ftg chat {job.id}\n{end}", quiet=quiet)
    return 0


def _end(job: Job, name: str, *, yes: bool, json: bool, quiet: bool) -> int:
    if not yes:
        question = f"End the deployment {visible(name)} at {job.record.host}? Its model stays."
        require_yes(question, "Nothing was done")
    tell_end(name, deployments.end(job), counted=True, json=json, quiet=quiet)
    return 0


def tell_end(name: str, there: bool, *, counted: bool, json: bool, quiet: bool) -> None:
    """Say that a deployment has ended, and where what it has cost is shown, if that is
    ``counted``."""
    if json:
        print_json({"deployment": name, "deleted": there})
    else:
        print_result(name)
    gone = "is deleted; its model stays." if there else "was gone already."
    cost = " What it has cost: ftg costs" if counted else ""
    print_message(f"{visible(name)} {gone}{cost}", quiet=quiet)
