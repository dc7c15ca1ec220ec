"""What ``ftg convert`` and ``ftg split`` have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.data.containers import NAMES
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.preparation.convert import Conversion
from finetune_gateway.preparation.split import Assignment
from finetune_gateway.reports.output import format_count, format_table
from finetune_gateway.text.cleaning import visible
from finetune_gateway.validation.dataset import near_duplicates

PARTS = ("train", "validation", "test")


def conversion_document(dataset: Dataset, conversion: Conversion) -> dict[str, Any]:
    """Return a conversion as JSON."""
    return {
        "out": str(conversion.out),
        "to": conversion.to,
        "rows": conversion.rows,
        "container": dataset.container,
        "formats": list(conversion.formats),
        "notes": list(conversion.notes),
    }


def conversion_text(dataset: Dataset, conversion: Conversion) -> str:
    """Return a conversion on one line."""
    formats = f"{' and '.join(conversion.formats)} in {NAMES[dataset.container]}"
    rows = format_count(conversion.rows, "row")
    name, out = visible(dataset.name), visible(str(conversion.out))
    return f"{name}: converted {rows} from {formats} to {conversion.to}: {out}"


def split_document(
    assignment: Assignment, paths: Sequence[Path], seed: int, stratify: bool
) -> dict[str, Any]:
    """Return a split as JSON."""
    parts = zip(PARTS, paths, assignment.rows, strict=False)
    return {
        "seed": seed,
        "stratified": stratify,
        "near_duplicates": assignment.joined,
        "loosened": assignment.loosened,
        "parts": [{"part": part, "path": str(path), "rows": rows} for part, path, rows in parts],
    }


def split_text(assignment: Assignment, paths: Sequence[Path]) -> str:
    """Return a table of the files that were written."""
    total = sum(assignment.rows)
    rows = [
        (str(path), f"{count:,}", f"{count / total:.1%}")
        for path, count in zip(paths, assignment.rows, strict=True)
    ]
    return format_table(("file", "rows", "share"), rows, right="rows share")


def split_notes(assignment: Assignment, *, near: bool) -> Iterator[str]:
    """Yield which rows were kept together, and what was not checked."""
    if assignment.joined:
        yield f"{assignment.joined:,} rows are near-duplicates of others and were kept on one side."
    if assignment.loosened:
        yield (
            f"{assignment.loosened:,} rows are near-duplicates of each other, too many to keep on "
            "one side: they were placed one by one."
        )
    if near and assignment.joined is None:
        yield (
            "Near-duplicates were not searched for; only rows that are equal except for case and "
            "spaces were kept together. Run: pip install 'finetune-gateway[dedup]'"
        )
    if assignment.joined is not None and sum(assignment.rows) > near_duplicates.MAX_ROWS:
        limit = f"{near_duplicates.MAX_ROWS:,}"
        yield f"Near-duplicates were searched for only in the first {limit} rows."
