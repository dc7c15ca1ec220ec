"""Where in a row its findings are: a finding names the path in its first row alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_gateway.data import formats
from finetune_gateway.data.canonical import read_as
from finetune_gateway.findings import Defect, Finding
from finetune_gateway.settings import config
from finetune_gateway.text.quoting import MAX_PATH, shortened
from finetune_gateway.validation.detectors import text_defects
from finetune_gateway.validation.json.parsing import BadLine, escape_defects, parse
from finetune_gateway.validation.rows.formats import row_defects

MAX_CHECKED = 256 << 10  # bytes; in a longer row only the path that a finding names is known
PER_FINDING = 10  # paths

_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class FindingPath:
    """A finding and a path it has in this row; "": the row as a whole."""

    finding: Finding
    path: str


def finding_paths(raw: bytes, number: int, findings: Sequence[Finding]) -> list[FindingPath]:
    """Return where these findings are in the row of a line, by the checks that report them."""
    defects = [*_defects(raw)] if len(raw) <= MAX_CHECKED else []
    paths: list[FindingPath] = []
    for finding in findings:
        own = [one.path for one in defects if _is_of(one, finding)]
        if not own:
            own = [finding.path if number == finding.line else ""]
        paths += [FindingPath(finding, path) for path in dict.fromkeys(own[:PER_FINDING])]
    return paths


def _is_of(defect: Defect, finding: Finding) -> bool:
    """Return True if a defect has the code of a finding, and its path apart from indexes."""
    return defect.code == finding.code and _any_index(defect.path) == _any_index(finding.path)


def _any_index(path: str) -> str:
    return _INDEX.sub("[*]", shortened(path, MAX_PATH))


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
    row_format = formats.format_of(row)
    if row_format is not None:
        yield from row_defects(row, row_format, read_as(row, row_format))
    yield from text_defects(text, row, config.pii_regions())
