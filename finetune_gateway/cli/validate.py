"""``ftg validate``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_gateway import registry
from finetune_gateway.cli.options import (
    ChatTemplate,
    Data,
    Json,
    Map,
    NoRows,
    Quiet,
    TrainOn,
    parse_map,
    parse_settings,
    refuse_foreign_page,
    require_page,
)
from finetune_gateway.cli.progress import progress_bar
from finetune_gateway.data.column_names import as_argument
from finetune_gateway.data.containers import read_from
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Report
from finetune_gateway.methods import usual_method
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.reports.validation_text import fix_text, report_document, report_text
from finetune_gateway.settings.home import Settings
from finetune_gateway.validation import pipeline
from finetune_gateway.validation.collector import ignorable
from finetune_gateway.validation.dataset import analysis

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend
    from finetune_gateway.preparation.fix_report import FixReport

Check = Callable[[Dataset], Report]
LOCAL_EXAMPLE_MODEL = "builtin/tiny"  # for methods that are trained here alone
EXAMPLE_MODEL = "gpt-4.1-mini-2025-04-14"  # of the hint, when no model is given


def _print_schema(requested: bool) -> None:
    """Answer --schema before arguments are parsed: it needs no DATA."""
    if requested:
        # Imported here: only this option needs it.
        from finetune_gateway.reports.validation_schema import schema

        print_json(schema())
        raise typer.Exit


def validate(
    data: Data,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Count tokens as this model does; its limit holds."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Check for this backend only.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the rows are for: sft, dpo, orpo, kto, pretrain, reward (default: the "
            "usual one of their format).",
            show_default=False,
        ),
    ] = None,
    columns: Map = None,
    train_on: TrainOn = None,
    chat_template: ChatTemplate = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="max_length, call_format; repeatable."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a fixed copy, and check that.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Also write the report as one HTML page, with the rows in question.",
            show_default=False,
        ),
    ] = None,
    no_rows: NoRows = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --fix and --html: replace OUT whatever it is.")
    ] = False,
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Check the dataset as a whole too (default: up to 4 MB).",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Validation or test data that must share no row.", readable=False
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts from production that the data should resemble.",
            readable=False,
        ),
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

    Exit code 3 if there is an error, else 0. Without --backend, the data is checked for all
    known backends, and each error names those that would refuse it; with a local --model, for
    this machine, by its template and its limit of tokens. 'ftg rules CODE' explains a
    rule. --map says which column is which, where their names are your own. DATA is read as what
    it holds, whatever its name: JSON lines, a JSON array or object, CSV, a workbook, Parquet,
    text. --ignore leaves rules out, and reports how often
    they occurred; submit always applies all rules. --fix fixes, in a copy, what can be fixed
    without guessing, logs each change in OUT.changes.jsonl, and checks the copy.

    Examples:
      ftg validate train.jsonl
      ftg validate train.jsonl --backend openai --model gpt-4.1-mini-2025-04-14
      ftg validate pairs.jsonl --method dpo --json
      ftg validate export.json --fix train.jsonl
      ftg validate train.csv --map question=prompt,answer=completion
      ftg validate train.jsonl --html report.html --no-rows
      ftg validate train.jsonl --against validation.jsonl --like prompts.jsonl
      ftg validate train.jsonl --strict --ignore pii,unknown_key
    """
    require_page(html, no_rows)
    ignored = ignorable(ignore or ())  # refuse an unknown code before reading a large file
    open_dataset, mapping = partial(Dataset.open, spool=Settings.load().spool), parse_map(columns)
    dataset = _mapped(open_dataset(data), mapping)
    refuse_foreign_page(html, force, dataset.path, dataset.source or data)
    runner = pipeline.place_of(model, backend or None, _load_backend)
    options = analysis.AnalysisOptions(
        quality,
        _mapped(open_dataset(against), mapping, required=False) if against else None,
        _mapped(open_dataset(like), mapping, required=False) if like else None,
    )

    training = parse_settings(settings, train_on=train_on, chat_template=chat_template)

    def check(checked: Dataset) -> Report:
        with progress_bar(quiet=quiet) as on_progress:
            return pipeline.validate(
                checked,
                model=model,
                runner=runner,
                method=method,
                training=training,
                options=options,
                ignored=ignored,
                on_progress=on_progress,
            )

    fixed = _fix(dataset, fix, force, check, quiet) if fix else None
    report = fixed.report if fixed else check(dataset)
    if html:
        checked = open_dataset(fix) if fix else dataset.given or dataset
        limit = _token_limit(model, runner)
        report.to_html(html, checked, model=model, limit=limit, no_rows=no_rows, force=force)
        print_message(f"Wrote {html}.", quiet=quiet)
    if json:
        print_json(report_document(report, fixed))
    elif quiet:
        print_result(report.outcome)
    else:
        if fixed:
            print_result(fix_text(fixed))
        print_result(report_text(fix or data, report, submit=True))
        given = _model_and_method(model, method, report.kind)
        if model and backend:
            given += f" --backend {shlex.quote(backend)}"
        if mapping and not fix:
            given += f" {_as_option(mapping)}"
        _print_hints(fix or data, report, None if fixed else dataset.reading, given)
        if not (report.ok or fixed) and data.is_file():  # a pipe can't be read again
            _print_way_out(data, dataset, report, mapping)
    refused = not report.ok or (strict and bool(report.warnings))
    return DataError.exit_code if refused else 0


def _model_and_method(model: str | None, method: str | None, kind: str) -> str:
    """Return what an estimate of these rows needs beside the file, by default for the usual method
    of their kind, with a model that can be trained by it."""
    used = method or usual_method(kind)
    hosted = used in ("sft", "dpo")
    named = model or (EXAMPLE_MODEL if hosted else LOCAL_EXAMPLE_MODEL)
    return named + (f" --method {used}" if method or used != "sft" else "")


def _print_hints(data: Path, report: Report, reading: Reading | None, model: str) -> None:
    """Print what lines are, and what comes next. ``model``: with the method, if one was named."""
    if reading is not None and reading.container != "jsonl":
        print_message(f"Read from {read_from(reading)}.")
    if report.ok:
        # Of rows that a submit refuses, the next thing to see is what of them is left.
        lost = any(one.code == "template_drops" and one.kind for one in report.findings)
        verb = "preview" if lost else "estimate"
        print_message(f"Next: ftg {verb} {as_argument(data)} --model {model}")


def _print_way_out(
    data: Path, dataset: Dataset, report: Report, columns: dict[str, str] | None
) -> None:
    """Print the command that makes these rows usable, where --map or --fix does; on one line, to be
    pasted."""
    from finetune_gateway.data.columns import suggested

    options = []
    if mapped := columns or _of_first_row(dataset, report, suggested):
        options.append(_as_option(mapped))
    if any("--fix new.jsonl" in one.fix for one in report.errors):
        options.append("--fix new.jsonl")
    if options and not (columns and len(options) == 1):
        print_message(f"Next: ftg validate {as_argument(data)} {' '.join(options)}")


def _of_first_row(
    dataset: Dataset, report: Report, suggested: Callable[[dict[str, Any]], dict[str, str]]
) -> dict[str, str]:
    """Return the map that the names of the columns suggest, if the rows are of no format."""
    if report.format != "unknown" or "unknown_format" not in {one.code for one in report.errors}:
        return {}
    if dataset.reading.header:
        return suggested(dict.fromkeys(dataset.reading.header, ""))
    with suppress(DataError, ValueError, RecursionError):
        lines = (line.raw for line in dataset.lines() if line.raw.strip())
        row = loads_strict(next(lines, b"null").decode())
        return suggested(row) if isinstance(row, dict) else {}
    return {}


# Imported inside functions: what only some options need. These imports would be a fifth of the
# time that a file of 1,000 rows takes (bench/help_time.py).


def _mapped(dataset: Dataset, columns: dict[str, str] | None, *, required: bool = True) -> Dataset:
    if columns is None:
        return dataset
    from finetune_gateway.data.columns import mapped

    return mapped(dataset, columns, required=required)


def _as_option(columns: dict[str, str]) -> str:
    from finetune_gateway.data.column_names import as_option

    return as_option(columns)


def _load_backend(name: str | Backend) -> Backend:
    from finetune_gateway.gateway import Gateway

    return Gateway().backend(name)


def _fix(dataset: Dataset, out: Path, force: bool, check: Check, quiet: bool) -> FixReport:
    from finetune_gateway.preparation import fix as fixing

    with ExitStack() as bar:

        def check_copy(checked: Dataset) -> Report:
            bar.close()  # one bar at a time
            return check(checked)

        dataset.on_progress = bar.enter_context(progress_bar(quiet=quiet))
        return fixing.fix(dataset, out, force=force, check=check_copy)


def _token_limit(model: str | None, runner: Backend | None) -> int | None:
    """Return the tokens that an example may have, if the model is known."""
    if model is None:
        return None
    runner = runner or _load_backend(registry.default_backend(model))
    return runner.capabilities(model).max_context
