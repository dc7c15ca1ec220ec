"""``ftg compare``."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_gateway.cli.confirmation import Confirmation, capped_budget
from finetune_gateway.cli.options import (
    AllowHttpHosts,
    AllowPii,
    AllowSecrets,
    AtOnce,
    Checks,
    Code,
    DrawnRows,
    DryRun,
    HostKeys,
    Json,
    Map,
    MaxCost,
    MaxTokens,
    Yes,
    command_line,
    on_host_rest,
    parse_amount,
    parse_key_envs,
    parse_map,
    parse_temperature,
    require_writable,
    write_page,
)
from finetune_gateway.cli.progress import answers_bar
from finetune_gateway.errors import BudgetError, SpecError
from finetune_gateway.evaluation import inspect_logs
from finetune_gateway.evaluation.results import AnswerFigures, ComparisonData
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.compare_text import plan_document, plan_text
from finetune_gateway.reports.comparison_markdown import comparison_markdown
from finetune_gateway.reports.comparison_text import comparison_text, judge_is_silent
from finetune_gateway.reports.comparison_view import errors_text
from finetune_gateway.reports.layout import raise_if_foreign
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
    print_warning,
)

if TYPE_CHECKING:
    from finetune_gateway.evaluation.comparison import Comparison

LATEST = re.compile(r"(?<![^:])latest(?=@|$)")  # the newest job, in the name of a model


def compare(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Which models, see below.", show_default=False),
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Held-out rows; those of a job here by default."),
    ] = None,
    columns: Map = None,
    checks: Checks = None,
    code: Code = None,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Says which of two answers is better.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="MEASURE", help="What decides, like exact_match.")
    ] = None,
    rows: DrawnRows = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws rows and examples.")] = 0,
    samples: Annotated[int, typer.Option(metavar="N", help="Answers to each row.")] = 1,
    temperature: Annotated[
        str | None, typer.Option(metavar="T", help="0 by default; 'host' for the host's own.")
    ] = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    monthly_requests: Annotated[
        int | None, typer.Option(metavar="N", help="To price serving for; 10,000 by default.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows for few-shot; a job's training rows by default."),
    ] = None,
    key_env: HostKeys = None,
    allow_http: AllowHttpHosts = False,
    at_once: AtOnce = 16,
    html: Annotated[Path | None, typer.Option(metavar="OUT", help="The report as a page.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="OUT", help="The report as Markdown; '-' is stdout.")
    ] = None,
    inspect: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Logs for inspect-ai, as well.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="All figures as well.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    allow_pii: AllowPii = False,
    allow_secrets: AllowSecrets = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT whatever it is.")] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the id.")] = False,
) -> int:
    """Ask models the same held-out rows, and say which is better, what each costs, and how sure
    that is. A difference is called one only if it is no chance; else it reads "can't tell".

    MODEL is JOB, latest, JOB@STEP (@last, @best), a handle's file or folder, ft:..., a base as it
    is (gpt-4.1-mini-2025-04-14, builtin/tiny, owner/name, ./folder), base:NAME (without the
    training's system prompt), prompt:NAME (with it), few-shot:N:NAME (with N training rows as
    examples), http(s)://HOST/v1#MODEL or recorded:NAME.

    Priced before anything is sent; without a terminal --yes is required where it costs (exit 4).
    Each request is on the disk before it is sent: after a kill the same command goes on, and no
    answer is paid twice. Rows that a model was trained on are not asked.

    Exit 1 if a model has answered nothing, 4 where money stopped it.

    Examples:
      ftg compare latest base:builtin/tiny
      ftg compare ftg-7kq3 few-shot:4:gpt-4.1-mini --data rows.jsonl --max-cost 2
      ftg compare ftg-7kq3 recorded:support --checks behaviour.yaml --html a.html
    """
    gateway = Gateway()
    for page in (html, markdown):
        if page is not None and str(page) != "-":
            _require_writable(page, data, checks, examples, *(code or ()), force=force)
    if inspect is not None:
        inspect_logs.require(inspect)
    confirmation = Confirmation(yes, dry_run, json, quiet)
    with answers_bar(quiet=quiet or json) as on_progress:
        comparison = gateway.compare(
            models,
            data,
            columns=parse_map(columns),
            checks=checks,
            code=code or (),
            judge=judge,
            by=by,
            rows=rows,
            seed=seed,
            samples=samples,
            temperature=parse_temperature(temperature),
            max_tokens=max_tokens,
            at_once=at_once,
            max_cost_usd=parse_amount("max-cost", max_cost),
            monthly_requests=monthly_requests,
            examples=examples,
            key_envs=parse_key_envs(key_env),
            allow_http=allow_http,
            allow_pii=allow_pii,
            allow_secrets=allow_secrets,
            confirm=lambda plan: confirmation.confirm(
                plan_text(plan, capped_budget(gateway)),
                lambda: plan_document(plan),
                costs=plan.sends,
                notes=plan.notes,
                result=plan.id,
            ),
            on_progress=on_progress,
            on_wait=on_host_rest(quiet=quiet),
            command=_command(gateway, {*models, judge or ""}),
        )
    exit_code = _end(comparison, html, markdown, explain, json=json, quiet=quiet, force=force)
    if inspect is not None:
        inspect_logs.write(comparison, inspect)
        print_message(f"Wrote logs into {inspect}.", quiet=quiet)
    return exit_code


def _require_writable(path: Path, *inputs: Path | None, force: bool) -> None:
    require_writable(path, *inputs)
    if path.suffix == ".html":
        raise_if_foreign(path, force=force)
    elif path.exists() and not force:
        raise SpecError(f"{path} exists.", hint="Choose another file, or use --force.")


def _end(
    comparison: Comparison,
    html: Path | None,
    markdown: Path | None,
    explain: bool,
    *,
    json: bool,
    quiet: bool,
    force: bool,
) -> int:
    """Show what came of it, and return the exit code."""
    if json:
        print_json(comparison.data.model_dump(mode="json"))
    elif quiet:
        print_result(comparison.id)
    elif str(markdown) == "-":
        print_result(comparison_markdown(comparison.data))
    else:
        print_result(comparison_text(comparison.data, explain=explain))
    if html is not None:
        comparison.to_html(html, force=force)
        print_message(f"Wrote {html}.", quiet=quiet)
    if markdown is not None and str(markdown) != "-":
        write_page(markdown, comparison_markdown(comparison.data), quiet=quiet)
    if comparison.data.stopped:
        said = f"Not all was asked: {comparison.data.stopped.rstrip('.')}."
        print_message(f"{said} The same command goes on.", quiet=quiet)
        return BudgetError.exit_code
    return 1 if _warn_of_silence(comparison.data, quiet=quiet) else 0


def _warn_of_silence(data: ComparisonData, *, quiet: bool) -> bool:
    """Say which models have answered nothing, and why, and that a judge has; True if there are
    any."""
    if mute := judge_is_silent(data):
        said = "No verdict of the judge can be read: what was asked of it is not known."
        print_warning(f"{said} Why: ftg report {data.id} --explain", quiet=quiet)
    silent = [one for one in data.models if _is_silent(data.answers.get(one.key))]
    for model in silent:
        print_warning(errors_text(model, data.answers[model.key]), quiet=quiet)
    return mute or bool(silent)


def _is_silent(figures: AnswerFigures | None) -> bool:
    return figures is not None and figures.errors > 0 and figures.answers == 0


def _command(gateway: Gateway, models: Collection[str]) -> str:
    """Return the command line that is running, with the id of the newest job where a model is named
    by ``latest``: tomorrow another one is the newest."""
    if not any(LATEST.search(model) for model in models):
        return command_line()
    newest = gateway.job("latest").id
    return command_line(lambda word: LATEST.sub(newest, word) if word in models else word)
