"""``ftg migrate list``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_gateway import migration
from finetune_gateway.cli.options import (
    AllowHttp,
    BaseUrl,
    Force,
    HostName,
    Json,
    KeyName,
    KeyNames,
    key_backends,
    refuse_foreign_page,
    write_page,
)
from finetune_gateway.errors import SpecError
from finetune_gateway.reports.inventory_table import table_text
from finetune_gateway.reports.inventory_text import inventory_csv, inventory_text, totals_text
from finetune_gateway.reports.inventory_view import shortfalls
from finetune_gateway.reports.output import print_json, print_message, print_result, print_warning

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.backend import OpenAIBackend

FORMATS = ("table", "csv", "json")


def list_fine_tunes(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="These alone; the last part of an id will do."),
    ] = None,
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    admin_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Variable of an admin key: what was billed, last use."),
    ] = None,
    allow_http: AllowHttp = False,
    checkpoints: Annotated[
        bool | None,
        typer.Option(
            "--checkpoints/--no-checkpoints",
            help="Ask for checkpoints, a request each; by default where they are shown.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="All that is known of each, in place of a table.")
    ] = False,
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="Jobs that ended without a model, too.")
    ] = False,
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="table, csv or json.")
    ] = "table",
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write it as an HTML page, too.")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the models.")] = False,
) -> None:
    """List the fine-tunes that your keys see at a host, the one that is lost first at the top:
    until when it answers, whether its model and files are there, what it cost. With MODEL, or
    --explain, also checkpoints, settings, tokens and the names of files.

    A key sees its own project. With several keys of a host (--key-env) each fine-tune is listed
    once, with the keys that see it. What a key may not see is named, and the rest is listed. Each
    key is asked for its jobs, models and files; nothing is changed or spent.

    Examples:
      ftg migrate list
      ftg migrate list 9fKq1abC
      ftg migrate list --key-env SHOP_KEY --key-env HELP_KEY --html list.html
      ftg migrate list --profile azure --base-url URL
      ftg migrate list --format csv > fine-tunes.csv
    """
    if form not in FORMATS:
        raise SpecError(f"There is no format {form!r}.", hint=f"Use one of: {', '.join(FORMATS)}.")
    refuse_foreign_page(html, force)
    backends = key_backends(profile, base_url, api_key_env, key_env, allow_http)
    admins = key_backends(profile, base_url, admin_key_env, None, allow_http)
    # The table and the ids show no checkpoints: no reason to ask for those of 300 fine-tunes.
    as_table = not (json or html or explain or models) and form == "table"
    inventory = migration.list_fine_tunes(
        backends,
        models or None,
        admin=admins[0] if admin_key_env else None,
        checkpoints=not as_table if checkpoints is None else checkpoints,
        every=all_,
        on_progress=lambda text: print_message(text, quiet=quiet or json),
    )
    if html is not None:
        # Imported here: only --html needs it.
        from finetune_gateway.reports.inventory_page import page

        write_page(html, page(inventory), quiet=quiet)
    if json or form == "json":
        print_json(inventory.model_dump(mode="json"))
    elif form == "csv":
        sys.stdout.write(inventory_csv(inventory))
        for lack in shortfalls(inventory):  # the rows do not show what is not among them
            print_warning(lack, quiet=quiet)
    elif quiet:
        print_result("\n".join(one.name for one in inventory.fine_tunes))
    else:
        print_result(table_text(inventory) if as_table else inventory_text(inventory))
    print_message(totals_text(inventory, _host(backends)), quiet=quiet or json)


def _host(backends: list[OpenAIBackend]) -> str:
    # Imported here: the SDK of hosted backends is needed first, and not for --help.
    from finetune_gateway.migration.listing import options_of

    return "".join(f" {word}" for word in options_of(backends))
