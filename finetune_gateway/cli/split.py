"""``ftg split``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.convert import Force
from finetune_gateway.cli.options import Data, Json, Map, Quiet, parse_map
from finetune_gateway.cli.progress import progress_bar, spread_over
from finetune_gateway.data.column_names import as_argument
from finetune_gateway.data.columns import offer
from finetune_gateway.data.formats import format_of
from finetune_gateway.errors import SpecError, StoreError
from finetune_gateway.gateway import Gateway
from finetune_gateway.preparation.split import write
from finetune_gateway.reports.output import print_json, print_message, print_result, wrap_text
from finetune_gateway.reports.preparation_text import (
    PARTS,
    split_document,
    split_notes,
    split_text,
)
from finetune_gateway.validation.dataset import near_duplicates


def split(
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.", show_default=False),
    ],
    ratio: Annotated[
        str, typer.Option(metavar="SHARES", help="Train/validation, or train/validation/test.")
    ] = "0.9/0.1",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the split.")] = 0,
    stratify: Annotated[
        bool,
        typer.Option(
            "--stratify", help="Keep the shares of each short final answer or system prompt."
        ),
    ] = False,
    near: Annotated[
        bool,
        typer.Option(
            "--near/--no-near",
            help="Keep rows together that are near-duplicates or ask the same.",
        ),
    ] = True,
    columns: Map = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Split a dataset into DIR/DATA.train.jsonl and DIR/DATA.validation.jsonl.

    A row is placed by its content and the seed: the same file gives the same parts, and adding
    rows moves none of the others. Rows that are equal except for case and spaces stay on one
    side. With the extra [dedup], so do near-duplicates; then a row can move when a new one joins
    it to another.

    Examples:
      ftg split train.jsonl -o parts
      ftg split train.jsonl --ratio 0.8/0.1/0.1 --seed 7 -o parts
      ftg split labels.jsonl --stratify -o parts
    """
    ratios = _parse_shares(ratio)
    dataset = Gateway().open(data, parse_map(columns))
    paths = [out / f"{data.stem}.{part}.jsonl" for part in PARTS[: len(ratios)]]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        why = f"The folder {out} cannot be created: {exc.strerror}."
        raise StoreError(why, hint="Choose another with -o.") from None
    with progress_bar(quiet=quiet) as on_progress:
        passes = 3 if near and near_duplicates.available() else 2
        dataset.on_progress = spread_over(on_progress, passes)
        assignment = write(
            dataset, ratios, paths, seed=seed, stratify=stratify, near=near, force=force
        )
    if json:
        print_json(split_document(assignment, paths, seed, stratify))
        return 0
    print_result("\n".join(map(str, paths)) if quiet else split_text(assignment, paths))
    for note in split_notes(assignment, near=near):
        print_message(wrap_text(note), quiet=quiet)
    first = next(iter(dataset.rows()), None)
    if first is not None and format_of(first.data) is None and (offered := offer(first.data)):
        note = f"No format has these columns, so rows are compared as a whole. {offered} --force."
        print_message(wrap_text(note), quiet=quiet)
    print_message(f"Next: ftg validate {as_argument(paths[0])}", quiet=quiet)
    return 0


def _parse_shares(text: str) -> list[float]:
    """Return shares that add up to 1, from 0.9/0.1 or 90/10. Raises SpecError."""
    hint = "Like: --ratio 0.9/0.1, or 0.8/0.1/0.1 with a test part."
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        raise SpecError(f"--ratio {text!r} is not numbers separated by /.", hint=hint) from None
    total = sum(shares)
    if not 2 <= len(shares) <= len(PARTS) or not all(share > 0 for share in shares):
        raise SpecError(f"--ratio {text!r} is not two or three shares.", hint=hint)
    if abs(total - 1) > 1e-9 and abs(total - 100) > 1e-9:
        raise SpecError(f"--ratio {text!r} adds up to {total:g}, not to 1 or 100.", hint=hint)
    return [share / total for share in shares]
