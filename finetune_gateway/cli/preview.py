"""``ftg preview``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway import registry
from finetune_gateway.cli.options import (
    ChatTemplate,
    Data,
    Force,
    Json,
    Map,
    NoRows,
    Quiet,
    TrainOn,
    parse_map,
    parse_settings,
    refuse_foreign_page,
    require_page,
    write_page,
)
from finetune_gateway.errors import DataError
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.reports.preview_text import preview_document, preview_legend, preview_text


def preview(
    data: Data,
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Model whose tokens to show.", show_default=False),
    ],
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Default: chosen by the model.", show_default=False),
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, help="Line of the file; repeatable (default: the first three)."
        ),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="One token per line: id, trained, role, text.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write one HTML page.", show_default=False),
    ] = None,
    no_rows: NoRows = False,
    force: Force = False,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Default: by the first row.", show_default=False),
    ] = None,
    columns: Map = None,
    train_on: TrainOn = None,
    chat_template: ChatTemplate = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="max_length, call_format; repeatable."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show rows as the model will see them, token by token: trained tokens marked, truncated ones
    struck out.

    Offline, without a key. For a local model, the tokens come from the function that training
    uses; for a hosted one, from the documented rules, with a note on what is inferred.
    Whitespace, control characters and incomplete bytes are shown as symbols. Exit code 3 if a
    row has an error.

    Examples:
      ftg preview train.jsonl --model gpt-4.1-mini-2025-04-14
      ftg preview train.jsonl --model builtin/tiny --row 7 --tokens
      ftg preview pairs.jsonl --model gpt-4.1-mini-2025-04-14 --html pairs.html
    """
    require_page(html, no_rows)
    refuse_foreign_page(html, force, data)
    fields = parse_settings(settings, method=method, train_on=train_on, chat_template=chat_template)
    where = backend or registry.default_backend(model)
    rows = Gateway().preview(
        data, model=model, backend=where, rows=row, columns=parse_map(columns), **fields
    )
    if html is not None:
        # Imported here: only this option needs it.
        from finetune_gateway.reports.preview_page import page

        write_page(html, page(data.name, rows, no_rows=no_rows), quiet=quiet)
    if json:
        print_json(preview_document(data, model, where, rows))
    elif quiet and html is not None:
        print_result(str(html))
    elif tokens or html is None:
        print_result(preview_text(data.name, rows, listed=tokens))
        if not tokens and not quiet and any(one.ok for one in rows):
            print_message(preview_legend())
    return 0 if all(one.ok for one in rows) else DataError.exit_code
