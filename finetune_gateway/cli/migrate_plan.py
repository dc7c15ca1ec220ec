"""``ftg migrate plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from finetune_gateway import migration
from finetune_gateway.cli.deploy import plane
from finetune_gateway.cli.options import (
    AllowHttp,
    BaseUrl,
    HostName,
    Json,
    KeyName,
    KeyNames,
    key_backends,
)
from finetune_gateway.errors import SpecError
from finetune_gateway.reports.move_text import brief_text, commands, move_text
from finetune_gateway.reports.output import print_json, print_result

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.management import ModelFacts


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Id of a fine-tune or its job; its last part will do.",
            show_default=False,
        ),
    ],
    local_model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A base to propose for this machine; repeatable."),
    ] = None,
    azure_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address of your resource at Azure.")
    ] = None,
    azure_subscription: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Ask Azure, signed in, what this subscription may train."),
    ] = None,
    azure_region: Annotated[
        str | None, typer.Option(metavar="NAME", help="With it: the region, like eastus2.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Sources, notes, and what is not known, too.")
    ] = False,
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    allow_http: AllowHttp = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the commands.")] = False,
) -> None:
    """Show where a fine-tune could go: Azure with the same base while it takes jobs, other hosts,
    and this machine. For each: price, time, does it fit, until when, where the data go, do the
    weights come out, what becomes of each setting, and the exact command.

    Another base than its own is proposed, and never called equal. The figures are from the training
    file that 'ftg migrate fetch' has saved; without it, from the tokens that were trained. A
    fine-tune that was fetched needs no key and no network. Sends nothing but questions.

    Azure closes its older models to new customers: --azure-subscription and --azure-region ask its
    list for yours, as 'ftg deploy' signs in.

    Examples:
      ftg migrate plan ft:gpt-4.1-mini-2025-04-14:acme:support:9fKq1
      ftg migrate plan ftjob-abc --local-model Qwen/Qwen3-0.6B --json
    """
    shown = _shown_by_azure(azure_subscription, azure_region)
    planned = migration.plan(
        model,
        key_backends(profile, base_url, api_key_env, key_env, allow_http),
        local_models=local_model,
        azure_url=azure_url,
        azure_models=shown,
    )
    if json:
        print_json(planned.model_dump(mode="json"))
    elif quiet:
        lines = [line for place in planned.places for line in commands(place)]
        print_result("\n".join(dict.fromkeys(lines)))
    else:
        print_result(move_text(planned) if explain else brief_text(planned))


def _shown_by_azure(subscription: str | None, region: str | None) -> list[ModelFacts] | None:
    """Return the models that a subscription is shown in a region; None if nobody asks. Raises
    SpecError for one without the other."""
    if subscription is None and region is None:
        return None
    if subscription is None or region is None:
        raise SpecError(
            "--azure-subscription and --azure-region belong together.", hint="Give both."
        )
    return plane().models(subscription, region)
