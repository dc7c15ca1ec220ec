"""Findings about several rows: one for each of the first lines, and how many more there are."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator

from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.statistics import CountedDefect

SHOWN = 10  # lines named in one finding


def numbered(code: str, detail: str, lines: Collection[int]) -> Iterator[CountedDefect]:
    """Yield one defect for each of the first lines, and one that counts the others."""
    first = heapq.nsmallest(SHOWN, lines)
    for line in first:
        yield Defect(code, detail=detail), line, 1
    if len(lines) > len(first):
        yield Defect(code, detail=detail), None, len(lines) - len(first)


def rows_have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"
