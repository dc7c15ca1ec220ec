"""``ftg check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_gateway import evaluation
from finetune_gateway.cli.confirmation import Confirmation, capped_budget
from finetune_gateway.cli.options import (
    AllowHttpHosts,
    AllowPii,
    AllowSecrets,
    AtOnce,
    DrawnRows,
    DryRun,
    HostKeys,
    Json,
    Map,
    MaxCost,
    MaxTokens,
    Yes,
    on_host_rest,
    parse_amount,
    parse_key_envs,
    require_writable,
    with_map,
)
from finetune_gateway.cli.progress import answers_bar
from finetune_gateway.data.column_names import as_argument
from finetune_gateway.errors import BudgetError, SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.check_text import (
    check_document,
    check_text,
    plan_document,
    plan_text,
)
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
)

if TYPE_CHECKING:
    from finetune_gateway.data.dataset import Source
    from finetune_gateway.evaluation.checks.outcome import CheckReport

GUIDE = "behaviour.yaml"


def check(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Which model, see below.", show_default=False),
    ] = None,
    guide: Annotated[
        Path | None,
        typer.Argument(metavar="GUIDE", help="The guide, a YAML file.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows for checks without prompts.", readable=False),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a guide to begin with, from these rows."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help=f"With --init; {GUIDE} by default."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    columns: Map = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JUnit XML as well, for a CI server.")
    ] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Python that the guide may run; repeatable."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Decides the rubrics of the guide.")
    ] = None,
    rows: DrawnRows = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws the rows.")] = 0,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    key_env: HostKeys = None,
    allow_http: AllowHttpHosts = False,
    at_once: AtOnce = 16,
    yes: Yes = False,
    dry_run: DryRun = False,
    allow_pii: AllowPii = False,
    allow_secrets: AllowSecrets = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print passed or failed.")] = False,
) -> int:
    """Ask a model what a behaviour guide asks, and say which checks its answers pass: JSON and its
    schema, patterns, length, language, refusals, the format over many turns, its role under
    attacks, functions of your own. The unit test of a model.

    MODEL is JOB, latest, JOB@STEP (@last, @best), a handle's file or folder, ft:..., a base as it
    is (gpt-4.1-mini-2025-04-14, builtin/tiny, owner/name, ./folder), base:NAME (without the
    training's system prompt), prompt:NAME (with it), few-shot:N:NAME (with N training rows as
    examples), http(s)://HOST/v1#MODEL or recorded:NAME. Without --data the rows that its training
    has held out are asked.

    Exit 0 if each check has passed or was skipped, 1 if one has failed or could not be judged, 4
    where money stopped it. What no check can decide is not judged, and never passed.

    --init writes a guide from the system prompt, format, lengths and languages of your rows; its
    checks pass on the answers in them. Then add what the model should refuse. All keys:
    docs/check.md

    Examples:
      ftg check --init train.jsonl
      ftg check latest behaviour.yaml --data held_out.jsonl
      ftg check ftg-7kq3 behaviour.yaml --max-cost 1 --yes --junit checks.xml
    """
    if init is not None:
        if model is not None:
            raise SpecError(
                "--init writes a guide and asks no model.", hint="Leave MODEL out, or --init."
            )
        return _init(init, with_map(init, columns), out, force=force, json=json, quiet=quiet)
    if model is None or guide is None:
        raise SpecError(
            "ftg check takes a model and a guide.",
            hint=f"Like: ftg check latest {GUIDE}. For a guide: ftg check --init DATA",
        )
    if model.endswith((".yaml", ".yml")):
        raise SpecError(
            f"{model} is a guide, where the model belongs.",
            hint=f"The model comes first: ftg check {guide} {model}",
        )
    _require_writable(junit, out, (data, guide, *(code or ())))
    confirmation, gateway = Confirmation(yes, dry_run, json, quiet), Gateway()
    with answers_bar(quiet=quiet or json) as on_progress:
        report = evaluation.check(
            model,
            guide,
            with_map(data, columns),
            code=code or (),
            judge=judge,
            rows=rows,
            seed=seed,
            max_tokens=max_tokens,
            at_once=at_once,
            max_cost_usd=parse_amount("max-cost", max_cost),
            key_envs=parse_key_envs(key_env),
            allow_http=allow_http,
            allow_pii=allow_pii,
            allow_secrets=allow_secrets,
            confirm=lambda plan: confirmation.confirm(
                plan_text(plan, capped_budget(gateway)),
                lambda: plan_document(plan),
                costs=plan.sends,
                notes=plan.notes,
            ),
            on_progress=on_progress,
            on_wait=on_host_rest(quiet=quiet),
        )
    return _end(report, junit, json=json, quiet=quiet)


def _require_writable(junit: Path | None, out: Path | None, inputs: Sequence[Path | None]) -> None:
    if out is not None:
        raise SpecError("--out is for --init.", hint="For results: --junit FILE, or --json.")
    if junit is None:
        return
    require_writable(junit, *inputs)
    if junit.is_file() and junit.stat().st_size and not _is_xml(junit):
        raise SpecError(f"{junit} exists, and is no XML.", hint="Choose another file.")


def _is_xml(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(100).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<")


def _init(
    data: Path, rows: Source | None, out: Path | None, *, force: bool, json: bool, quiet: bool
) -> int:
    """Write a guide to begin with, and return the exit code."""
    path = (out or Path(GUIDE)).expanduser()
    require_writable(path, data)
    if path.exists() and not force:
        raise SpecError(f"{path} exists.", hint="Choose another with -o, or use --force.")
    text = evaluation.starter(rows or data, path)
    # Imported here: a check of a model writes no guide.
    from finetune_gateway.evaluation.checks import Guide
    from finetune_gateway.preparation.convert import whole_file

    checks = [check.name for check in Guide.loads(text, str(path)).checks]
    with whole_file(path) as file:
        file.write(text.encode())
    if json:
        print_json({"guide": str(path), "checks": checks})
        return 0
    print_result(str(path) if quiet else f"Wrote {path}: {', '.join(checks)}.")
    next_one = f"ftg check MODEL {as_argument(path)} --data HELD_OUT"
    print_message(f"Read it, add what is to be refused, then: {next_one}", quiet=quiet)
    return 0


def _end(report: CheckReport, junit: Path | None, *, json: bool, quiet: bool) -> int:
    """Show what came of it, and return the exit code."""
    if junit is not None:
        # Imported here: only --junit needs them.
        from finetune_gateway.preparation.convert import whole_file
        from finetune_gateway.reports.junit import junit_xml

        with whole_file(junit) as file:
            file.write(junit_xml(report).encode())
    if json:
        print_json(check_document(report))
    else:
        word = "passed" if report.ok else "failed"
        print_result(word if quiet else check_text(report))
    if junit is not None:
        print_message(f"Wrote {junit}.", quiet=quiet)
    if report.stopped:
        return BudgetError.exit_code
    return 0 if report.ok else 1
