"""``ftg export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_gateway.cli.chat import open_model
from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.cli.progress import working
from finetune_gateway.reports.output import print_json, print_message, print_result, print_warning
from finetune_gateway.text.cleaning import visible


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="JOB[@STEP], or the folder of a model.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="TOOL",
            help="merged, gguf, ollama, vllm, sglang or transformers.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Not there yet (default: ./NAME-TOOL)."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="adapter or merged (default: what the tool takes best)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="By which the tool is asked (default: the job's)."),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="gguf: llama.cpp's convert_hf_to_gguf.py, if not on the PATH."
        ),
    ] = None,
    outtype: Annotated[
        str, typer.Option(metavar="TYPE", help="gguf: auto, f32, f16, bf16 or q8_0.")
    ] = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model for the tool that is to serve it: a folder with the weights, the
    trained chat template and every token that ends an answer, the commands that serve it, a README
    and a manifest with the sha256 of each file.

    What can be tried here is tried before the folder is at its place: it is there whole, or not at
    all. What the tool cannot do of what was trained is said. A hosted model has no weights here.

    Examples:
      ftg export latest --to ollama
      ftg export latest --to vllm --out ./serve --name support-bot
      ftg export ftg-7kq3@200 --to gguf --outtype q8_0
    """
    handle = open_model(model, quiet=quiet or json)
    place = out or Path(f"{handle.job_id or Path(handle.model).name}-{to}")
    with working("exporting", quiet=quiet or json) as say:
        manifest = handle.export(
            to,
            place,
            weights=weights,
            name=name,
            converter=converter,
            outtype=outtype,
            report=say,
        )
    if json:
        print_json({"folder": str(place.absolute()), **manifest})
        return
    print_result(visible(str(place)))
    _say(manifest, place, quiet=quiet)


def _say(manifest: dict[str, Any], place: Path, *, quiet: bool) -> None:
    for text in manifest["tried"]:
        print_message(f"tried: {text}", quiet=quiet)
    for text in manifest["limits"]:
        print_warning(text, quiet=quiet)
    print_message(f"How it is served: {visible(str(place / 'README.md'))}", quiet=quiet)
