"""``ftg migrate record``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_gateway import evaluation
from finetune_gateway.cli.confirmation import Confirmation, capped_budget
from finetune_gateway.cli.options import (
    AllowHttp,
    AllowPii,
    AllowSecrets,
    BaseUrl,
    DrawnRows,
    DryRun,
    HostName,
    Json,
    KeyName,
    KeyNames,
    Map,
    MaxCost,
    MaxTokens,
    Yes,
    key_backends,
    on_host_rest,
    parse_amount,
    parse_temperature,
    with_map,
)
from finetune_gateway.cli.progress import PhaseBar
from finetune_gateway.errors import BudgetError, JobNotFinished, SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
)
from finetune_gateway.reports.recording_text import (
    plan_document,
    plan_text,
    recording_document,
    run_text,
)

if TYPE_CHECKING:
    from finetune_gateway.evaluation import Recording
    from finetune_gateway.evaluation.planning import RecordPlan


def record(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="ft:..., a job, a handle's file, or https://HOST/v1#MODEL.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Held-out rows, or prompts.", readable=False),
    ] = None,
    columns: Map = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the model's suffix and the day.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Answers to each prompt; 1 by default.")
    ] = None,
    rows: DrawnRows = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Within a day, for less: at OpenAI mostly half.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With --batch: until it has ended.")] = False,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    temperature: Annotated[
        str | None,
        typer.Option(metavar="N", help="0 by default; 'host' for the host's own."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Sent along, and draws the rows.")
    ] = None,
    logprobs: Annotated[
        bool | None,
        typer.Option(
            "--logprobs/--no-logprobs", help="Log-probabilities (default).", show_default=False
        ),
    ] = None,
    top_logprobs: Annotated[
        int | None, typer.Option(metavar="N", help="Of so many other tokens too, up to 20.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Let the host keep the answers too.")
    ] = False,
    at_once: Annotated[
        int, typer.Option(metavar="N", help="Requests on their way at once.", min=1, max=256)
    ] = 16,
    yes: Yes = False,
    dry_run: DryRun = False,
    allow_pii: AllowPii = False,
    allow_secrets: AllowSecrets = False,
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    allow_http: AllowHttp = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the name.")] = False,
) -> int:
    """Ask a fine-tune all prompts of a file while it still answers, and keep what it says as
    recorded:NAME: text, calls of tools, finish reason, usage, latency, log-probabilities, each with
    its prompt, tools and parameters. A replacement can be compared with it later.

    Of a row all messages up to its last answer are asked, with its tools; a row of a prompt alone
    is asked as it is. Without --data the held-out rows of the model's training are proposed, if
    they are here (ftg migrate fetch), else a tenth of its training file.

    Priced first; asking stops before --max-cost, or the budget of the month (ftg config), could be
    passed. Each request is on the disk before it is sent: after a kill the same command goes on,
    and asks again what was in flight, no more. Errors are kept apart. Without a terminal --yes is
    required (exit 4). Exit 4 also if a limit ended it, 101 while a batch is under way: the same
    command again collects it.

    Examples:
      ftg migrate record ft:gpt-4.1-mini:org:support:1 --data held_out.jsonl
      ftg migrate record ftg-7kq3 --max-cost 5 --yes
      ftg migrate record ft:gpt-4.1-mini:org:support:1 --batch --name support
    """
    base_url = _address(model, base_url)
    given = any((profile, base_url, api_key_env, key_env))
    confirmation = Confirmation(yes, dry_run, json, quiet)
    with _bar(quiet=quiet or json) as on_progress:
        recording = evaluation.record(
            model,
            with_map(data, columns),
            name=name,
            samples=samples,
            rows=rows,
            seed=seed,
            temperature=parse_temperature(temperature),
            max_tokens=max_tokens,
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            store=store or None,
            batch=batch,
            wait=wait,
            at_once=at_once,
            max_cost_usd=parse_amount("max-cost", max_cost),
            backend=key_backends(profile, base_url, api_key_env, key_env, allow_http)
            if given or allow_http
            else None,
            allow_pii=allow_pii,
            allow_secrets=allow_secrets,
            confirm=lambda plan: _confirm(plan, confirmation),
            dry_run=dry_run,
            on_progress=on_progress,
            on_wait=on_host_rest(quiet=quiet),
        )
    return _end(recording, begun=batch and confirmation.asked and not wait, json=json, quiet=quiet)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what moves a bar of the answers on stderr; None without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    bar = PhaseBar()
    try:
        yield lambda done, total: bar.show(f"{done:,} of {total:,}", done / max(total, 1))
    finally:
        bar.stop()


def _address(model: str, base_url: str | None) -> str | None:
    """Return the address of the host: --base-url, or that in https://HOST/v1#MODEL, to which the
    other options belong then. Raises SpecError for two of them."""
    url, mark, _ = model.partition("#")
    if not mark or not url.lower().startswith(("http://", "https://")):
        return base_url
    if base_url is not None:
        raise SpecError("MODEL names a host already.", hint="Leave out --base-url.")
    return url


def _end(recording: Recording, *, begun: bool, json: bool, quiet: bool) -> int:
    """Say what came of it, and return the exit code."""
    document = recording_document(recording)
    if json:
        print_json(document)
    else:
        print_result(recording.title)
    print_message(run_text(recording, document), quiet=quiet)
    run = recording.run
    if run is None or not run.stopped:
        return 0
    if run.under_way:
        return 0 if begun else JobNotFinished.exit_code
    return BudgetError.exit_code


def _confirm(plan: RecordPlan, confirmation: Confirmation) -> bool:
    budget = capped_budget(Gateway())
    return confirmation.confirm(
        plan_text(plan, budget),
        lambda: plan_document(plan, budget),
        costs=True,
        notes=plan.notes,
        result=plan.work.recording.title,
    )
