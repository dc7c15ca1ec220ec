"""``ftg split``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli import output
from finetune_gateway.cli.convert import Force
from finetune_gateway.cli.options import Data, Json, Quiet
from finetune_gateway.cli.output import say, show, table
from finetune_gateway.errors import SpecError, StoreError
from finetune_gateway.gateway import Gateway
from finetune_gateway.splitting import write

PARTS = ("train", "validation", "test")


def split(
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.", show_default=False),
    ],
    ratio: Annotated[
        str, typer.Option(metavar="SHARES", help="Train/validation, or train/validation/test.")
    ] = "0.9/0.1",
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed, another split.")] = 0,
    stratify: Annotated[
        bool,
        typer.Option(
            "--stratify", help="The same shares of each short final answer or system prompt."
        ),
    ] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Cut a dataset into DIR/DATA.train.jsonl and DIR/DATA.validation.jsonl.

    Each row is placed by its own content and the seed: the same file gives the same parts, rows
    that are added move none of the others, and rows that are equal but for case and spaces stay
    on one side.

    Examples:
      ftg split train.jsonl -o parts
      ftg split train.jsonl --ratio 0.8/0.1/0.1 --seed 7 -o parts
      ftg split labels.jsonl --stratify -o parts
    """
    ratios = _shares(ratio)
    dataset = Gateway().open(data)
    paths = [out / f"{data.stem}.{part}.jsonl" for part in PARTS[: len(ratios)]]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        why = f"The folder {out} cannot be made: {exc.strerror}."
        raise StoreError(why, hint="Name another with -o.") from None
    rows = write(dataset, ratios, paths, seed=seed, stratify=stratify, force=force)
    if json:
        parts = zip(PARTS, paths, rows, strict=False)
        told = [{"part": part, "path": str(path), "rows": count} for part, path, count in parts]
        output.emit({"seed": seed, "stratified": stratify, "parts": told})
        return 0
    total = sum(rows)
    lines = [
        (str(path), f"{count:,}", f"{count / total:.1%}")
        for path, count in zip(paths, rows, strict=True)
    ]
    show(table(("file", "rows", "share"), lines, right="rows share"))
    say(f"Next: ftg validate {shlex.quote(str(paths[0]))}", quiet=quiet)
    return 0


def _shares(text: str) -> list[float]:
    """Shares that add up to 1, from 0.9/0.1 or 90/10. Raises SpecError for anything else."""
    hint = "Like: --ratio 0.9/0.1, or 0.8/0.1/0.1 with a test part."
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        raise SpecError(f"--ratio {text!r} is not numbers with / between.", hint=hint) from None
    total = sum(shares)
    if not 2 <= len(shares) <= len(PARTS) or not all(share > 0 for share in shares):
        raise SpecError(f"--ratio {text!r} is not two or three shares.", hint=hint)
    if abs(total - 1) > 1e-9 and abs(total - 100) > 1e-9:
        raise SpecError(f"--ratio {text!r} adds up to {total:g}, not to 1 or 100.", hint=hint)
    return [share / total for share in shares]
