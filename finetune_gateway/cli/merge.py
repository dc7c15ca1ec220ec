"""``ftg merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.chat import open_model
from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.cli.progress import working
from finetune_gateway.errors import SpecError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import print_json, print_message, print_result, print_warning
from finetune_gateway.text.cleaning import visible

SUM = (
    "Nobody has trained the sum of {count} adapters: each may undo what another has learned. "
    "Compare it before you use it: ftg compare {folder} --data HELD_OUT"
)


def merge(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="JOB[@STEP], or the folder of an adapter."),
    ],
    to: Annotated[
        Path,
        typer.Option("--to", "-o", metavar="FOLDER", help="Not there yet.", show_default=False),
    ],
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="NUMBER", help="How much of each adapter is added (default: 1)."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="float32, bfloat16 or float16 (default: that of the base)."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge an adapter of this machine into its base, in full precision: a whole model in a folder,
    which transformers, vLLM and others load without PEFT.

    The base is loaded as it is stored, also where the adapter was trained on it in 4 bits. The
    logits of what was written are compared with those of the adapter on its base before the folder
    is at its place: it is there whole and right, or not at all. Memory: the base, and 1 GB.

    Several adapters on one base are added up, each by its --weight. Nobody has trained their sum.

    Examples:
      ftg merge latest --to ./support-model
      ftg merge ftg-7kq3@200 --to ./at-200 --dtype float32
      ftg merge ftg-7kq3 ftg-9x2m --weight 0.7 --weight 0.3 --to ./both
    """
    weights = weight or [1.0] * len(models)
    if len(weights) != len(models):
        raise SpecError(
            f"There are {len(models)} adapters and {len(weights)} weights.",
            hint="Give --weight once for each adapter, in their order, or not at all.",
        )
    first, *others = [open_model(name, quiet=quiet or json) for name in models]
    with working("merging", quiet=quiet or json) as say:
        found = first.merge(
            to,
            weight=weights[0],
            others=list(zip(others, weights[1:], strict=True)),
            dtype=dtype,
            report=say,
        )
    if json:
        print_json(found.model_dump(mode="json"))
        return
    print_result(found.model)
    if others:
        folder = visible(found.model)
        print_warning(SUM.format(count=len(models), folder=folder), quiet=quiet)
    print_message(_ask(found), quiet=quiet)


def _ask(handle: ModelHandle) -> str:
    return f"Ask it here: ftg chat {visible(handle.model)}"
