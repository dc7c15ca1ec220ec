"""``ftg convert``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Data, Json, Quiet
from finetune_gateway.cli.progress import progress_bar
from finetune_gateway.data.containers import NAMES
from finetune_gateway.gateway import Gateway
from finetune_gateway.preparation import convert as converting
from finetune_gateway.preparation.convert import TARGETS
from finetune_gateway.reports import output
from finetune_gateway.reports.output import print_message, print_result

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help="File to write.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


def convert(
    data: Data,
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"{', '.join(TARGETS)}.", show_default=False)
    ],
    out: Out,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Leave this key of the rows out; repeatable."),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a dataset in another format; nothing is lost on the way.

    DATA may be JSONL, a JSON array (.json), CSV, Parquet, plain text (.txt) or a folder of the
    datasets library, with rows in any format that validate knows. A row that FORMAT cannot hold
    is refused with its line and field, and nothing is written.

    Examples:
      ftg convert alpaca.json --to openai -o train.jsonl
      ftg convert train.jsonl --to trl -o train-trl.jsonl
      ftg convert chats.json --to together --drop id -o train.jsonl
    """
    dataset = Gateway().open(data)
    with progress_bar(quiet=quiet) as dataset.watch:
        done = converting.convert(dataset, to, out, force=force, drop=drop or ())
    if json:
        told = {"out": str(out), "to": to, "rows": done.rows, "container": dataset.container}
        output.print_json({**told, "formats": list(done.formats), "notes": list(done.notes)})
        return 0
    rows = "1 row" if done.rows == 1 else f"{done.rows:,} rows"
    read = f"{' and '.join(done.formats)} in {NAMES[dataset.container]}"
    print_result(f"{data.name}: {rows} of {read} written as {to} to {out}.")
    for note in done.notes:
        print_message(f"note: {note}", quiet=quiet)
    print_message(f"Next: ftg validate {shlex.quote(str(out))}", quiet=quiet)
    return 0
