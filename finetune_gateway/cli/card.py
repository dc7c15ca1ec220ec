"""``ftg card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.chat import open_model
from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import SpecError
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.reports.output import print_json, print_message, print_result


def card(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="JOB[@STEP], or the folder of a model.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write it there (default: print it)."),
    ] = None,
    checks: Annotated[
        Path | None,
        typer.Option(metavar="GUIDE", help="A behaviour guide, whose words are in the card."),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Where the model will be, on the Hub."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the model card of a trained model in Markdown, with the head that the Hugging Face Hub
    reads: base and its licence, data (size and fingerprint), method, settings, losses, the newest
    comparison that it was in, intended use, limits, and how to load it.

    It has no text of a row, no path and no key. What is not known here it says so. Nothing is sent.

    Examples:
      ftg card latest
      ftg card latest -o README.md --checks behaviour.yaml --repo acme/support
    """
    if out is not None and out.exists() and not (force and out.is_file()):
        raise SpecError(f"{out} is there already.", hint="Choose another file, or use --force.")
    text = open_model(model, quiet=True).card(checks=checks, repo=repo)
    if out is not None:
        with whole_file(out) as file:
            file.write(text.encode())
        print_message(f"Wrote {out}.", quiet=quiet)
    if json:
        print_json({"card": text, "file": None if out is None else str(out)})
    elif out is None:
        print_result(text.rstrip())
