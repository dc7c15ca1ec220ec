"""``ftg deploy``."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_gateway.backend import LIST_LAG
from finetune_gateway.cli.deploy_by_plugin import deploy_by_plugin, tell_end
from finetune_gateway.cli.options import Json, Quiet, require_yes
from finetune_gateway.cli.progress import working
from finetune_gateway.errors import (
    MissingDependency,
    NotFoundError,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.estimation.price_table import find_price
from finetune_gateway.estimation.profiles import load_profile
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import deployments
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.deployment_text import deploy_command, deployment_text
from finetune_gateway.reports.output import print_json, print_message, print_result, print_warning
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.management import Account, Deployment, Management


def deploy(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Job, or the id of a model tuned at Azure.")
    ],
    subscription: Annotated[
        str | None, typer.Option(metavar="ID", help="Your subscription: az account show.")
    ] = None,
    resource_group: Annotated[
        str | None, typer.Option(metavar="NAME", help="The group that the account is in.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="NAME", help="The resource (default: the job's).")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the deployment (default: the job's id).")
    ] = None,
    sku: Annotated[
        str | None, typer.Option(metavar="NAME", help="standard (default), global or developer.")
    ] = None,
    capacity: Annotated[
        int, typer.Option(metavar="N", min=1, help="Thousands of tokens a minute.")
    ] = 1,
    delete: Annotated[bool, typer.Option("--delete", help="End the deployment.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Deploy a model that was tuned at Azure, or by a plug-in whose host needs it, so that it
    answers, and wait until it does; or end its deployment with --delete.

    It costs by the hour, used or not: how much is said before anything is made. After that 'ftg
    chat JOB' asks the deployment. Azure itself deletes one that nobody calls for 15 days
    (developer: each one after 24 hours); the model stays, and can be deployed again.

    It signs in as you: with azure-identity (pip install 'finetune-gateway[azure]'), else with
    Azure's own command (az login). Without either the command that does the same is printed. A
    plug-in needs the job and at most --name; what its deployment costs is in 'ftg costs'.

    Examples:
      ftg deploy latest --subscription ID --resource-group my-group
      ftg deploy latest --sku developer --name trial --resource-group my-group
      ftg deploy latest --delete
      ftg deploy JOB --name support-bot      (of a plug-in)
    """
    where = {"subscription": subscription, "resource_group": resource_group, "account": account}
    made = _job(model)
    if made is not None and deployments.by_backend(made.backend):
        of_azure = {**where, "sku": sku, "capacity": None if capacity == 1 else capacity}
        _refuse_options(made, of_azure)
        return deploy_by_plugin(made, name, delete=delete, yes=yes, json=json, quiet=quiet)
    target = Target.of(model, {key: value for key, value in where.items() if value})
    wanted = Wanted(name, sku, capacity)
    try:
        management = plane()
    except MissingDependency:
        if not delete:
            print_result(target.command(wanted))
        raise
    if delete:
        return _delete(management, target, name, yes, json, quiet)
    return _make(management, target, wanted, yes, json, quiet)


def _refuse_options(job: Job, options: dict[str, Any]) -> None:
    """Raise SpecError for an option that only a deployment at Azure has."""
    for name, value in options.items():
        if value is not None:
            raise SpecError(
                f"--{name.replace('_', '-')} is of deployments at Azure; {job.id} is of "
                f"{job.record.display_name}.",
                hint="Leave it out.",
            )


def plane() -> Management:
    """Return the management plane, for whoever is signed in. Raises MissingDependency."""
    # Imported here, as below: help needs no client of a host.
    from finetune_gateway.backends.openai import azure_token
    from finetune_gateway.backends.openai.management import Management

    azure_token.require()
    return Management()


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the name, the kind and the capacity of a deployment."""

    name: str | None
    sku: str | None
    capacity: int

    @property
    def kind(self) -> Any:
        """Return the kind of deployment. Raises SpecError for one that there is not."""
        kinds = load_profile("azure").deployments
        chosen = self.sku or next(iter(kinds))
        if chosen not in kinds:
            raise SpecError(
                f"--sku {visible(chosen)!r} is none.", hint=f"Use one of: {', '.join(kinds)}."
            )
        return kinds[chosen]


@dataclass(frozen=True)
class Target:
    """The model to deploy, and the job that made it, if it is one of ours."""

    model: str
    job: Job | None
    where: dict[str, str] = field(default_factory=dict)  # as given, else as kept of the job

    @classmethod
    def of(cls, name: str, given: dict[str, str]) -> Target:
        """Return the target that a name stands for. Raises UnsupportedError for a job that is not
        at Azure."""
        from finetune_gateway.backends.openai import endpoint
        from finetune_gateway.backends.openai.backend import OpenAIBackend

        job = _job(name)
        if job is None:
            return cls(name, None, given)
        backend = job.backend
        if not isinstance(backend, OpenAIBackend) or not backend.profile.deployments:
            raise UnsupportedError(
                f"ftg deploy makes deployments at Azure, and at hosts of plug-ins that need them; "
                f"{job.id} is of {backend.display_name}.",
                hint=f"Ask it as it is: ftg chat {job.id}",
                backend=backend.name,
                option="deploy",
            )
        resource = endpoint.resource(backend.base_url, backend.profile)
        known = {"account": resource} if resource != "RESOURCE" else {}
        kept = deployments.details(job)
        stored = {key: str(kept[key]) for key in ("subscription", "resource_group", "account")
                  if key in kept}  # fmt: skip
        return cls(deployments.model_of(job), job, known | stored | given)

    @property
    def account(self) -> Account:
        """Return the account. Raises SpecError for what is not given."""
        from finetune_gateway.backends.openai.management import Account

        names = ("subscription", "resource_group", "account")
        if missing := [name for name in names if name not in self.where]:
            options = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise SpecError(
                f"{options}: needed to know which resource of Azure is meant.",
                hint="See: az account show; az cognitiveservices account list --output table",
            )
        return Account(*(self.where[name] for name in names))

    def name(self, given: str | None) -> str:
        """Return the name of the deployment: as given, as kept, else one made from the job."""
        kept = deployments.details(self.job).get("name") if self.job else None
        made = re.sub(r"[^A-Za-z0-9-]+", "-", self.model)[-64:].strip("-")
        return given or kept or (self.job.id if self.job else made)

    def command(self, wanted: Wanted) -> str:
        """Return the command that deploys it, filled as far as it is known."""
        return deploy_command(
            self.model,
            wanted.kind,
            wanted.capacity,
            account=self.where.get("account"),
            name=self.name(wanted.name),
            group=self.where.get("resource_group"),
            subscription=self.where.get("subscription"),
        )


def _job(name: str) -> Job | None:
    """Return the job of this name, or the one that made this model; None if there is none."""
    gateway = Gateway()
    try:
        return gateway.job(name)
    except NotFoundError as exc:
        if exc.message.startswith("Several"):
            raise
        return None


def _make(
    plane: Management, target: Target, wanted: Wanted, yes: bool, json: bool, quiet: bool
) -> int:
    kind, account, name = wanted.kind, target.account, target.name(wanted.name)
    deployments.check_name(name)
    if target.job is not None:
        target.job.result()  # raises, before anything costs, if it has no model or no key
    price = find_price("azure", "standard deployment", "hosting_hour", extra=Settings.load().prices)
    text = deployment_text(name, target.model, account.name, kind, wanted.capacity, price)
    print_message(text, quiet=quiet and yes)
    if target.job is None and kind.hosted_by_hour:
        print_warning(
            f"No job here has made {visible(target.model)}: what this costs is in no budget, and "
            "not in ftg costs.",
            quiet=quiet and yes,
        )
    _warn_of_another(target, {**_place(account), "name": name}, quiet=quiet and yes)
    if not yes:
        require_yes("Make this deployment?", "Nothing was done")
    place = {**_place(account), "name": name, "sku": kind.sku}
    with ExitStack() as stack:
        answer: dict[str, Any] = {}
        if target.job is not None:
            stack.enter_context(deployments.alone(target.job))
            by_the_hour, cap = kind.hosted_by_hour, Gateway().monthly_usd
            making = deployments.making(
                target.job, place, price, cap, title=name, by_the_hour=by_the_hour
            )
            answer = stack.enter_context(making)
        made = plane.deploy(account, name, target.model, sku=kind.sku, capacity=wanted.capacity)
        answer.update(_details(account, made))
    try:
        with working(f"Deploying {name}", quiet=quiet) as say:
            made = plane.wait(account, name, target.model, on_state=say)
        ready = target.job is not None and deployments.answers(target.job, name)
    except KeyboardInterrupt as exc:
        exc.add_note(f"The deployment goes on, and costs. {_end_command(target, name)}")
        raise
    if json:
        print_json({"deployment": _details(account, made), "ready": ready})
    else:
        print_result(name)
    print_message(_next(target, name, ready), quiet=quiet)
    return 0


def _warn_of_another(target: Target, place: dict[str, str], *, quiet: bool) -> None:
    """Say of the job's deployment elsewhere, or of another name, that it goes on; it is not kept
    any more once there is this one."""
    if target.job is None or deployments.is_kept(target.job, place):
        return
    kept = deployments.details(target.job)
    if "sku" in kept:
        where = " ".join(
            f"--{key.replace('_', '-')} {shlex.quote(str(kept[key]))}" for key in deployments.PLACE
        )
        print_warning(
            f"{target.job.id} has the deployment {visible(str(kept['name']))} already: it goes on, "
            f"and costs. End it: ftg deploy {target.job.id} --delete {where}",
            quiet=quiet,
        )


def _delete(
    plane: Management, target: Target, name: str | None, yes: bool, json: bool, quiet: bool
) -> int:
    account, named = target.account, target.name(name)
    if not yes:
        question = f"Delete the deployment {named} at {account.name}? Its model stays."
        require_yes(question, "Nothing was done")
    if target.job is None:
        there = plane.delete(account, named, target.model)
    else:
        there = _end(plane, target, target.job, named)
    tell_end(named, there, counted=target.job is not None, json=json, quiet=quiet)
    return 0


def _end(plane: Management, target: Target, job: Job, name: str) -> bool:
    """End a deployment of a job's model; return False if there was none."""
    from finetune_gateway.backends.openai.management import TIMEOUT

    account = target.account
    with deployments.alone(job):
        there = plane.delete(account, name, target.model)
        settling = TIMEOUT + LIST_LAG
        deployments.close(job, name, there, title=name, settle_seconds=settling)
        place = {**_place(account), "name": name}
        if job.record.handle is not None and deployments.is_kept(job, place):
            deployments.forget(job, target.command(Wanted(None, None, 1)))
    return there


def _details(account: Account, made: Deployment) -> dict[str, Any]:
    """Return what a deployment is known by, for the handle."""
    known = {"name": made.name, "sku": made.sku, "capacity": made.capacity}
    return {**_place(account), **known}


def _place(account: Account) -> dict[str, str]:
    """Return where deployments of an account are."""
    place = {**asdict(account), "account": account.name}
    del place["name"]
    return place


def _next(target: Target, name: str, ready: bool) -> str:
    """Return what to do now."""
    if target.job is None:
        ask = f"ftg chat {name} --base-url https://{target.where['account']}.openai.azure.com/openai/v1/"
        return f"Ask it: {ask}\n{_end_command(target, name)}"
    job = target.job.id
    if not ready:
        return f"It is made, and does not answer yet: ftg chat {job} --model {name}"
    return f"It answers: ftg chat {job}\n{_end_command(target, name)}"


def _end_command(target: Target, name: str) -> str:
    """Return how the deployment is ended."""
    job = target.job.id if target.job else f"{visible(target.model)} --name {name}"
    return f"End it: ftg deploy {job} --delete"
