"""``ftg validate``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_gateway import registry
from finetune_gateway.cli import progress
from finetune_gateway.cli.options import Data, Json, Method, Quiet
from finetune_gateway.data.containers import NAMES
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report
from finetune_gateway.reports import output
from finetune_gateway.reports.output import print_message, print_result
from finetune_gateway.reports.validation_text import mended_text, screen
from finetune_gateway.settings.home import Settings
from finetune_gateway.validation import pipeline
from finetune_gateway.validation.collector import ignorable
from finetune_gateway.validation.dataset import analysis

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend
    from finetune_gateway.preparation.fix import FixReport

Check = Callable[[Dataset], Report]


def _print_schema(wanted: bool) -> None:
    """--schema needs no DATA, so it answers before arguments are looked for."""
    if wanted:
        # Imported here: only this option needs it.
        from finetune_gateway.reports.validation_schema import schema

        output.print_json(schema())
        raise typer.Exit


def validate(
    data: Data,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Count tokens as this model does.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge for this backend alone.")
    ] = None,
    method: Method = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Write a mended copy, and check that.", show_default=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Write the report as one HTML page too, with the rows in question.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --fix and --html: replace OUT.")
    ] = False,
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Look at the data as a whole too; by default up to 4 MB.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Validation or test data that must share no row."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts from production the data should resemble."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Do not count this rule; repeatable, or with commas."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too (exit 3).")] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Print the JSON Schema of what --json prints.",
            is_eager=True,
            callback=_print_schema,
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check a dataset, line by line. Needs no key and no network; nothing is sent anywhere.

    Ends with 3 when there is an error, 0 otherwise. Without --backend all known backends are
    judged, and each finding names those that would refuse; 'ftg rules CODE' says all about one.
    What --ignore leaves out is counted and said, and submit judges by all rules. --fix mends what
    needs no guess in a copy, logs each change in OUT.changes.jsonl and checks the copy.

    Examples:
      ftg validate train.jsonl
      ftg validate train.jsonl --backend openai --model gpt-4.1-mini-2025-04-14
      ftg validate pairs.jsonl --method dpo --json
      ftg validate export.json --fix train.jsonl
      ftg validate train.jsonl --html report.html
      ftg validate train.jsonl --against validation.jsonl --like prompts.jsonl
      ftg validate train.jsonl --strict --ignore pii,unknown_key
    """
    ignored = ignorable(ignore or ())  # an unknown code is told before a large file is read
    opened = partial(Dataset.open, spool=Settings.load().home / "spool")
    dataset = opened(data)
    if html:
        _free(html, dataset, force)  # before a large file is read
    runner = _runner(backend) if backend else None

    def check(checked: Dataset) -> Report:
        with progress.progress_bar(quiet=quiet) as moved:
            return pipeline.validate(
                checked,
                model=model,
                runner=runner,
                method=method or "sft",
                options=analysis.AnalysisOptions(
                    quality, opened(against) if against else None, opened(like) if like else None
                ),
                ignored=ignored,
                on_progress=moved,
            )

    mended = _fixed(dataset, fix, force, check, quiet) if fix else None
    report = mended.report if mended else check(dataset)
    if html:
        checked = opened(fix) if fix else dataset
        limit = _limit(model, runner)
        report.to_html(html, checked, model=model, limit=limit, force=force)
        print_message(f"Wrote {html}.", quiet=quiet)
    if json:
        output.print_json(_document(report, mended))
    else:
        if mended:
            print_result(mended_text(mended))
        print_result(screen(fix or data, report))
        if not mended and dataset.container != "jsonl":
            print_message(
                f"Read from {NAMES[dataset.container]}: a line above is a row.", quiet=quiet
            )
        if report.ok and not quiet:
            name = model or "gpt-4.1-mini-2025-04-14"
            print_message(f"Next: ftg estimate {shlex.quote(str(fix or data))} --model {name}")
    refused = not report.ok or (strict and bool(report.warnings))
    return DataError.exit_code if refused else 0


# What only some options need is imported where it is used: these imports would be a fifth of the
# time that a file of 1,000 rows takes (bench/help_time.py).


def _runner(name: str) -> Backend:
    from finetune_gateway.gateway import Gateway

    return Gateway().backend(name)


def _free(html: Path, dataset: Dataset, force: bool) -> None:
    from finetune_gateway.preparation import convert as converting

    converting.free(html, dataset, force)


def _fixed(dataset: Dataset, out: Path, force: bool, check: Check, quiet: bool) -> FixReport:
    from finetune_gateway.preparation import fix as fixing

    with ExitStack() as mending:

        def after(checked: Dataset) -> Report:
            mending.close()  # one bar at a time
            return check(checked)

        dataset.on_progress = mending.enter_context(progress.progress_bar(quiet=quiet))
        return fixing.fix(dataset, out, force=force, check=after)


def _limit(model: str | None, runner: Backend | None) -> int | None:
    """Tokens that an example may have, where it is known for whom."""
    if model is None:
        return None
    runner = runner or _runner(registry.default_backend(model))
    return runner.capabilities(model).max_context


def _document(report: Report, mended: FixReport | None) -> dict[str, Any]:
    """What --json prints; ``cli.schema`` describes it."""
    told = report.model_dump(mode="json")
    return {**told, "fix": mended.model_dump(exclude={"report"})} if mended else told
