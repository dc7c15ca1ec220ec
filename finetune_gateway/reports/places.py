"""Where in a row its findings are: a finding names the path in its first row alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.findings import Defect, Finding
from finetune_gateway.text.quoting import MAX_PATH, shortened
from finetune_gateway.validation.detectors import text_defects
from finetune_gateway.validation.json.parsing import (
    MAX_DEPTH,
    BadLine,
    depth,
    escape_defects,
    parse,
)
from finetune_gateway.validation.rows.row import row_defects

MAX_LOOKED = 256 << 10  # bytes; in a longer row only the path that a finding names is known
MARKS = 10  # of one row

_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Place:
    """A finding and a path it has in this row; "": the row as a whole."""

    finding: Finding
    path: str


def places(raw: bytes, number: int, findings: Sequence[Finding]) -> list[Place]:
    """Where these findings are in the row of a line, found by the checks that made them."""
    defects = [*_defects(raw)] if len(raw) <= MAX_LOOKED else []
    found: list[Place] = []
    for finding in findings:
        paths = [
            one.path
            for one in defects
            if one.code == finding.code and _alike(one.path, finding.path)
        ]
        if not paths:
            paths = [finding.path if number == finding.line else ""]
        found += [Place(finding, path) for path in dict.fromkeys(paths[:MARKS])]
    return found


def read(raw: bytes) -> Any:
    """The value of a line that is JSON, if loosely. Raises ValueError when it is none, or when an
    object would not show all of it."""
    text = raw.decode()
    if depth(text) > MAX_DEPTH:
        raise ValueError("too deep to show")
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key comes twice")
    return value


def _alike(path: str, other: str) -> bool:
    return _INDEX.sub("[*]", shortened(path, MAX_PATH)) == _INDEX.sub("[*]", other)


def _defects(raw: bytes) -> Iterator[Defect]:
    try:
        text = raw.decode()
        row = parse(text)
    except BadLine as exc:
        yield exc.defect
        return
    except UnicodeDecodeError:
        return
    if not isinstance(row, dict):
        return
    yield from escape_defects(text, row)
    known = formats.format_of(row)
    if known is not None:
        yield from row_defects(row, known, "sft")
    yield from text_defects(text, row)
