"""``ftg report``: the page of a job or of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet, open_job, write_page
from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation.comparison import PREFIX, Comparison
from finetune_gateway.jobs.removal import require_kept
from finetune_gateway.reports.comparison_markdown import comparison_markdown
from finetune_gateway.reports.comparison_text import comparison_text
from finetune_gateway.reports.job_text import job_document, status_line
from finetune_gateway.reports.layout import raise_if_foreign
from finetune_gateway.reports.output import print_json, print_result


def report(
    name: Annotated[
        str,
        typer.Argument(
            metavar="JOB|COMPARISON",
            help="A job, or a comparison: cmp-..., 'cmp-latest'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page; by default NAME.html here, for you alone."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print all figures of a comparison.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a comparison to paste into a pull request.")
    ] = False,
    no_rows: Annotated[
        bool, typer.Option("--no-rows", help="No text of the rows and the answers on the page.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the page's file whatever it is.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page: of a job (losses, answers before and after, estimate and actual, data,
    settings), or of a comparison (verdict, figures with intervals, checks, cost, every row with
    all answers). It loads nothing, and works from a disk or a mail.

    Of a comparison the answer is printed too. With --json, --markdown or --explain a page is
    written only if --out names it. What jobs cost: ftg costs

    Examples:
      ftg report latest
      ftg report cmp-3f9a2c1d --out report.html
      ftg report cmp-latest --markdown
    """
    if sum((explain, markdown, json)) > 1:
        raise SpecError("--explain, --markdown and --json exclude each other.", hint="Give one.")
    if no_rows and out is None and (explain or markdown or json):
        raise SpecError("--no-rows is about a page.", hint="Give --out FILE too.")
    if name.startswith(PREFIX):
        _comparison(name, out, (explain, markdown, json), no_rows, force=force, quiet=quiet)
    elif explain or markdown:
        raise SpecError(
            "--explain and --markdown are about comparisons.", hint=f"Of a job: ftg status {name}"
        )
    else:
        _job(name, out, json, no_rows, force=force, quiet=quiet)


def _comparison(
    name: str,
    out: Path | None,
    wanted: tuple[bool, bool, bool],
    no_rows: bool,
    *,
    force: bool,
    quiet: bool,
) -> None:
    explain, markdown, json = wanted
    found = Comparison.load(name)
    path = out or (None if any(wanted) else Path(f"{found.id}.html"))
    if path is not None:
        # Imported here: text alone needs no templates.
        from finetune_gateway.reports.comparison_page import page

        raise_if_foreign(path, force=force)
        write_page(path, page(found, no_rows=no_rows), quiet=quiet, private=out is None)
    if json:
        print_json(found.data.model_dump(mode="json"))
    elif markdown:
        print_result(comparison_markdown(found.data).rstrip())
    elif not quiet or explain:
        print_result(comparison_text(found.data, explain=explain))
    else:
        print_result(f"{path}")


def _job(
    name: str, out: Path | None, json: bool, no_rows: bool, *, force: bool, quiet: bool
) -> None:
    job = open_job(name, quiet=quiet)
    require_kept(job.record)
    path = out or (None if json else Path(f"{job.id}.html"))
    if path is not None:
        # Imported here: text alone needs no templates.
        from finetune_gateway.reports.job_page import page

        raise_if_foreign(path, force=force)
        write_page(path, page(job, no_rows=no_rows), quiet=quiet, private=out is None)
    if json:
        print_json(job_document(job))
    else:
        print_result(f"{path}" if quiet else status_line(job))
