"""The rows that findings name, as HTML: conversations with roles, the fields in question marked.

Read from the dataset in one pass. What is shown of a row is bounded, and masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.findings import Finding
from finetune_gateway.reports import html_text
from finetune_gateway.reports.places import Place, places
from finetune_gateway.reports.row_view import MAX_PARSED, RAW_CHARS, drawn
from finetune_gateway.validation.json.file_type import BOM

Named = Sequence[tuple[str, Finding]]  # findings that name a row, each with its anchor

FOLLOWING = 3  # lines shown below one that goes on in the next

_GOES_ON = frozenset({"pretty_printed", "json_control_char", "json_truncated"})


def articles(dataset: Dataset, wanted: Mapping[int, Named]) -> dict[int, str]:
    """The rows of these lines. One that is not there is left out."""
    found: dict[int, str] = {}
    word = "Line" if dataset.container == "jsonl" else "Row"
    last, until = max(wanted, default=0), 0
    for line in dataset.lines():
        if line.number in wanted:
            raw = line.raw.removeprefix(BOM) if line.number == 1 else line.raw
            found[line.number] = _row(f"{word} {line.number:,}", line.number, raw, wanted)
            goes_on = any(finding.code in _GOES_ON for _, finding in wanted[line.number])
            until = line.number + FOLLOWING if goes_on else 0
        elif line.number <= until:
            found[until - FOLLOWING] += _next(line.number, line.raw)
        if line.number >= max(last, until):
            break
    return {number: f"{row}</article>" for number, row in found.items()}


def _row(title: str, number: int, raw: bytes, wanted: Mapping[int, Named]) -> str:
    """All of an article but its end."""
    named = wanted[number]
    where = places(raw, number, [finding for _, finding in named])
    tags = [_tag(anchor, finding, where) for anchor, finding in named]
    size = f' <span class="soft">{len(raw):,} bytes, cut</span>' if len(raw) > MAX_PARSED else ""
    return (
        f'<article class="row" id="row-{number}"><h3>{title}{size}</h3>'
        f'<ul class="tags">{"".join(tags)}</ul>'
        f"{drawn(raw, [place.path for place in where if place.path])}"
    )


def _tag(anchor: str, finding: Finding, where: Sequence[Place]) -> str:
    """A link back to a finding, and the paths it has here."""
    paths = [place.path for place in where if place.finding is finding and place.path]
    codes = "".join(f" <code>{html_text.line(path)}</code>" for path in paths[:3])
    more = f" and {len(paths) - 3} more places" if len(paths) > 3 else ""
    link = f'<a href="#{anchor}">{escape(finding.code)}</a>'
    word = f'<span class="unseen">{finding.severity}: </span>'
    return f'<li class="{finding.severity}">{word}{link}{codes}{more}</li>'


def _next(number: int, raw: bytes) -> str:
    text = raw[: 2 * RAW_CHARS].decode("utf-8", "replace")
    return (
        f'<pre class="raw"><span class="soft">{number:,}</span> {html_text.shown(text, 300)}</pre>'
    )
