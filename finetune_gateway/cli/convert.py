"""``ftg convert``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Data, Json, Map, Quiet, parse_map
from finetune_gateway.cli.progress import progress_bar
from finetune_gateway.gateway import Gateway
from finetune_gateway.preparation import convert as converting
from finetune_gateway.preparation.convert import TARGETS
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.reports.preparation_text import conversion_document, conversion_text

Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help="File to write.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]


def convert(
    data: Data,
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"{', '.join(TARGETS)}.", show_default=False)
    ],
    out: Out,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Leave out this key of the rows; repeatable."),
    ] = None,
    columns: Map = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a dataset in another format, without losing anything.

    DATA may be JSONL, a JSON array (.json), CSV, Parquet, plain text (.txt) or a folder of the
    datasets library, with rows in any format that validate knows. If FORMAT cannot hold a row,
    its line and field are reported, and nothing is written.

    Examples:
      ftg convert alpaca.json --to openai -o train.jsonl
      ftg convert faq.csv --map q=prompt,a=completion --to openai -o faq.jsonl
      ftg convert train.jsonl --to trl -o train-trl.jsonl
      ftg convert chats.json --to together --drop id -o train.jsonl
    """
    dataset = Gateway().open(data, parse_map(columns))
    with progress_bar(quiet=quiet) as dataset.on_progress:
        conversion = converting.convert(dataset, to, out, force=force, drop=drop or ())
    if json:
        print_json(conversion_document(dataset, conversion))
        return 0
    print_result(str(out) if quiet else conversion_text(dataset, conversion))
    for note in conversion.notes:
        print_message(f"note: {note}", quiet=quiet)
    print_message(f"Next: ftg validate {shlex.quote(str(out))}", quiet=quiet)
    return 0
