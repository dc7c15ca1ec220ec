"""``ftg migrate run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_gateway.cli.confirmation import Confirmation
from finetune_gateway.cli.options import (
    AllowHttp,
    AllowSecrets,
    BaseUrl,
    Checks,
    Code,
    DryRun,
    HostName,
    Json,
    KeyName,
    KeyNames,
    Map,
    MaxTokens,
    Yes,
    command_line,
    key_backends,
    on_host_rest,
    parse_amount,
    with_map,
)
from finetune_gateway.cli.watch import follow
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.migration_run_text import (
    migration_text,
    plan_document,
    plan_text,
)
from finetune_gateway.reports.output import (
    print_json,
    print_result,
)

if TYPE_CHECKING:
    from finetune_gateway.migration.running import MigrationPlan

NO_GO = 1  # exit code


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Id of a fine-tune that was fetched, or its job; its last part will do.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="A local model, azure, or HOST:BASE like nebius:NAME.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="recorded:NAME (default: the newest of the model), or live."
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min", metavar="MEASURE=VALUE", help="The new model must reach it; repeatable."
        ),
    ] = None,
    maximum: Annotated[
        list[str] | None,
        typer.Option("--max", metavar="MEASURE=VALUE", help="Of what less is better; repeatable."),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            "--max-drop",
            metavar="MEASURE=VALUE",
            help="How much worse than the old one it may be; repeatable.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Held-out rows, without a recording.", readable=False),
    ] = None,
    columns: Map = None,
    checks: Checks = None,
    code: Code = None,
    max_tokens: MaxTokens = None,
    max_cost: Annotated[
        str | None,
        typer.Option(
            "--max-cost", "--max-cost-usd", metavar="USD", help="For both parts together."
        ),
    ] = None,
    to_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address of the new host.")
    ] = None,
    to_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variable with its key.")
    ] = None,
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    allow_http: AllowHttp = False,
    allow_pii: Annotated[
        bool, typer.Option("--allow-pii", help="Send personal data that was found to hosts.")
    ] = False,
    allow_secrets: AllowSecrets = False,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Train rows of which a template drops a part.")
    ] = False,
    allow_longer: Annotated[
        bool, typer.Option("--allow-longer", help="Train rows longer than the context.")
    ] = False,
    allow_oversize: Annotated[
        bool, typer.Option("--allow-oversize", help="Start what may not fit the memory.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only go, or no-go.")] = False,
) -> int:
    """Train a fetched fine-tune again at another place, compare the new model with the old one, and
    end with go or no-go. Exit code 0 is go, 1 no-go; what cannot be told is a no-go, and says how
    many rows would tell.

    Trained is what 'ftg migrate fetch' has saved, with the settings that 'ftg migrate plan' shows,
    without the rows that are compared. The old model is its recording, if there is one, else it is
    asked as it answers now. Both parts are priced and confirmed once. After whatever has stopped
    it, the same command goes on: nothing is trained or paid twice.

    A threshold holds if the whole 95 % interval is on its good side. Measures are those of
    'ftg compare', like normalized_match, tool_arguments, or check:NAME of a guide.

    Examples:
      ftg migrate run ft:gpt-4.1-mini-2025-04-14:acme:support:9fKq1 \\
          --to Qwen/Qwen3-4B --max-drop normalized_match=0.05
      ftg migrate run 9fKq1 --to azure \\
          --to-url https://NAME.openai.azure.com/openai/v1 \\
          --min check:json=0.95 --checks behaviour.yaml --max-cost 20
    """
    confirmation = Confirmation(yes, dry_run, json, quiet)
    asked = (profile, base_url, api_key_env, key_env)
    hosts = key_backends(*asked, allow_http) if any(asked) else []
    done = Gateway().migrate(
        model,
        to,
        against=against,
        at_least=_pairs("min", minimum),
        at_most=_pairs("max", maximum),
        max_drop=_pairs("max-drop", max_drop),
        data=with_map(data, columns),
        checks=checks,
        code=code or (),
        max_tokens=max_tokens,
        max_cost_usd=parse_amount("max-cost", max_cost),
        to_options={"base_url": to_url, "api_key_env": to_key_env, "allow_http": allow_http},
        backends=hosts,
        allow_pii=allow_pii,
        allow_secrets=allow_secrets,
        allow_loss=allow_loss,
        allow_longer=allow_longer,
        allow_oversize=allow_oversize,
        confirm=lambda plan: confirmation.confirm(
            plan_text(plan), lambda: plan_document(plan), costs=_costs(plan)
        ),
        dry_run=dry_run,
        wait=lambda job: follow(job, quiet=quiet or json),
        on_wait=on_host_rest(quiet=quiet),
        command=command_line(),
    )
    if json:
        print_json(done.document())
    else:
        print_result(done.decision.text if quiet else migration_text(done))
    return 0 if done.go else NO_GO


def _pairs(name: str, given: list[str] | None) -> dict[str, float]:
    """Return the thresholds by measure. Raises SpecError for what is no MEASURE=VALUE, and for one
    measure twice."""
    # Imported here: the rest of this module shows help and reads options.
    from finetune_gateway.evaluation.thresholds import Threshold

    read = [Threshold.read(name, text) for text in given or ()]  # type: ignore[arg-type]
    found = {one.measure: one.value for one in read}
    if len(found) < len(read):
        raise SpecError(
            f"--{name} names {shown(read[-1].measure)} or another measure twice.", hint="Drop one."
        )
    return found


def _costs(plan: MigrationPlan) -> bool:
    """Return True if rows go to a host, to train or to be answered."""
    training = plan.training
    hosted = training is not None and training.estimate.data_leaves_machine
    return hosted or plan.asking_usd is None or plan.asking_usd.high > 0
