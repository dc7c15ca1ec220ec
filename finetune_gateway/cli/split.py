"""``ftg split``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.convert import Force
from finetune_gateway.cli.options import Data, Json, Quiet
from finetune_gateway.cli.progress import progress_bar, spread_over
from finetune_gateway.errors import SpecError, StoreError
from finetune_gateway.gateway import Gateway
from finetune_gateway.preparation.split import Cut, write
from finetune_gateway.reports import output
from finetune_gateway.reports.output import format_table, print_message, print_result, wrap_text
from finetune_gateway.validation.dataset import near_duplicates

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
    near: Annotated[
        bool,
        typer.Option(
            "--near/--no-near",
            help="Keep rows together that nearly repeat each other, or ask the same.",
        ),
    ] = True,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Cut a dataset into DIR/DATA.train.jsonl and DIR/DATA.validation.jsonl.

    Each row is placed by its own content and the seed: the same file gives the same parts, and
    rows that are added move none of the others. Rows that are equal but for case and spaces stay
    on one side, with the extra [dedup] also rows that nearly repeat each other: a row moves when
    one is added that joins it to another.

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
    with progress_bar(quiet=quiet) as move:
        dataset.watch = spread_over(move, 3 if near and near_duplicates.available() else 2)
        cut = write(dataset, ratios, paths, seed=seed, stratify=stratify, near=near, force=force)
    if json:
        parts = zip(PARTS, paths, cut.rows, strict=False)
        told = [{"part": part, "path": str(path), "rows": count} for part, path, count in parts]
        joined = {"near_duplicates": cut.joined, "loosened": cut.loosened}
        output.print_json({"seed": seed, "stratified": stratify, **joined, "parts": told})
        return 0
    total = sum(cut.rows)
    lines = [
        (str(path), f"{count:,}", f"{count / total:.1%}")
        for path, count in zip(paths, cut.rows, strict=True)
    ]
    print_result(format_table(("file", "rows", "share"), lines, right="rows share"))
    for line in _told(cut, near):
        print_message(wrap_text(line), quiet=quiet)
    print_message(f"Next: ftg validate {shlex.quote(str(paths[0]))}", quiet=quiet)
    return 0


def _told(cut: Cut, near: bool) -> Iterator[str]:
    """What was kept together, and what was not looked for."""
    if cut.joined:
        yield f"{cut.joined:,} rows nearly repeat others and are on one side with them."
    if cut.loosened:
        yield (
            f"{cut.loosened:,} rows nearly repeat each other, too many to be kept together: they "
            f"were placed one by one."
        )
    if near and cut.joined is None:
        yield (
            "Near-duplicates were not looked for, only rows equal but for case and spaces were "
            "kept together. Run: pip install 'finetune-gateway[dedup]'"
        )
    if cut.joined is not None and sum(cut.rows) > near_duplicates.MAX_ROWS:
        yield f"Near-duplicates were looked for in the first {near_duplicates.MAX_ROWS:,} rows."


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
