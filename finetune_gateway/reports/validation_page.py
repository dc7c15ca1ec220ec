"""The page of ``ftg validate --html``: verdict, findings, pictures of the figures, and the rows
that findings name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_gateway.data.containers import NAMES
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.findings import Finding, Report, Severity
from finetune_gateway.preparation.convert import free, whole_file
from finetune_gateway.reports import html_text
from finetune_gateway.reports.layout import document, facts, table, tiles
from finetune_gateway.reports.pictures import pictures
from finetune_gateway.reports.rows import articles
from finetune_gateway.reports.style import STYLE
from finetune_gateway.tokens.token_text import visible
from finetune_gateway.validation.collector import RULES

FINDINGS = 300  # kinds on the page; the JSON report has all
ROWS = 500
ROW_BYTES = 3_500_000  # of HTML, all rows together

_GROUPS: tuple[tuple[Severity, str], ...] = (
    ("error", "Errors"),
    ("warning", "Warnings"),
    ("note", "Notes"),
)
_VERDICTS = {
    "accepted": ("\u2713", "Accepted", "Nothing stands in the way of training."),
    "warned": ("!", "Accepted, with warnings", "Training would go; look at these first."),
    "rejected": ("\u2717", "Rejected", "Training would fail or go wrong."),
}


def write(
    report: Report,
    path: Path,
    dataset: Dataset,
    *,
    model: str | None = None,
    limit: int | None = None,
    force: bool = False,
) -> None:
    """Write the page. Raises SpecError when the file exists and ``force`` is not set or is the
    data, StoreError when it cannot be written."""
    free(path, dataset, force)
    with whole_file(path) as file:
        file.write(page(report, dataset, model=model, limit=limit).encode())


def page(
    report: Report, dataset: Dataset, *, model: str | None = None, limit: int | None = None
) -> str:
    """The whole file, of a few megabytes at most. ``limit``: tokens an example may have."""
    listed = list(enumerate(report.findings[:FINDINGS], 1))
    rows = _rows(dataset, listed)
    name = visible(dataset.name)
    body = [
        _head(report, name),
        _facts(report, dataset, model),
        _contents(report, rows),
        _findings(report, listed, rows),
        f'<section id="figures"><h2>Figures</h2>{pictures(report, limit, model)}</section>',
        _shown(rows),
        _rules([finding for _, finding in listed]),
    ]
    return document(f"{name}: {_VERDICTS[report.outcome][1]}", STYLE, "\n".join(body))


# -- the head ------------------------------------------------------------------------------


def _head(report: Report, name: str) -> str:
    sign, word, meaning = _VERDICTS[report.outcome]
    figures = [(f"{report.rows:,}", "row" if report.rows == 1 else "rows")]
    for severity, title in _GROUPS:
        counts = [one.count for one in report.findings if one.severity == severity]
        if counts:
            kinds = "1 kind" if len(counts) == 1 else f"{len(counts):,} kinds"
            figures.append((f"{sum(counts):,}", f"{title.lower()} of {kinds}"))
    if report.tokens:
        figures.append((f"{report.tokens['total']:,}", "tokens in all"))
        figures.append((f"{report.tokens['trained']:,}", "of them trained"))
    return (
        f'<header><h1 dir="auto">{escape(name)}</h1>'
        f'<p class="verdict {report.outcome}"><span class="sign" aria-hidden="true">{sign}</span> '
        f"<b>{word}.</b> {meaning}</p></header>{tiles(figures)}"
    )


def _facts(report: Report, dataset: Dataset, model: str | None) -> str:
    version = metadata.version("finetune-gateway")
    known = [("Format", report.format)]
    if dataset.container != "jsonl":
        known.append(("Read from", f"{NAMES[dataset.container]}; a row is numbered as it comes"))
    if report.tokens:
        how = "exact" if report.tokens.get("exact") else "not exact"
        known.append(("Counted with", f"{report.tokens['encoding']}, {how}"))
    if model:
        known.append(("Model", visible(model)))
    if report.ignored:
        told = ", ".join(f"{code} ({count:,} times)" for code, count in report.ignored.items())
        known.append(("Ignored", told))
    known.append(("Checked", time.strftime("%Y-%m-%d %H:%M %z")))
    known.append(("By", f"finetune-gateway {version}, on this machine; nothing was sent anywhere"))
    return facts(known)


def _contents(report: Report, rows: dict[int, str]) -> str:
    links = [
        f'<a href="#{severity}s">{title}</a>'
        for severity, title in _GROUPS
        if any(one.severity == severity for one in report.findings)
    ]
    links.append('<a href="#figures">Figures</a>')
    links += ['<a href="#rows">Rows</a>'] if rows else []
    links += ['<a href="#rules">Rules</a>'] if report.findings else []
    return f'<nav aria-label="On this page">{" ".join(links)}</nav>'


# -- findings ------------------------------------------------------------------------------


def _findings(report: Report, listed: list[tuple[int, Finding]], rows: dict[int, str]) -> str:
    if not report.findings:
        return "<p>No findings.</p>"
    parts = []
    for severity, title in _GROUPS:
        group = [(place, one) for place, one in listed if one.severity == severity]
        if group:
            inner = "".join(_finding(place, one, rows) for place, one in group)
            parts.append(f'<section id="{severity}s"><h2>{title}</h2>{inner}</section>')
    if len(report.findings) > len(listed):
        more = len(report.findings) - len(listed)
        parts.append(f"<p>{more:,} more kinds of findings are in the JSON report.</p>")
    return "".join(parts)


def _finding(place: int, finding: Finding, rows: dict[int, str]) -> str:
    told = [f"<p>{html_text.line(finding.message, 800)}</p>"]
    if finding.fix:
        told.append(f"<p><b>Fix:</b> {html_text.line(finding.fix, 800)}</p>")
    path = f" <code>{html_text.line(finding.path)}</code>" if finding.path else ""
    count = f'<span class="soft">{finding.count:,} times</span>' if finding.count > 1 else ""
    return (
        f'<article class="finding {finding.severity}" id="finding-{place}">'
        f'<h3><a href="#rule-{finding.code}">{finding.code}</a>{path} {count}</h3>'
        f"{''.join(told)}{_lines(finding, rows)}</article>"
    )


def _lines(finding: Finding, rows: dict[int, str]) -> str:
    refused = f"Refused by {escape(', '.join(finding.backends))}." if finding.backends else ""
    links = [
        f'<a href="#row-{line}">{line:,}</a>' if line in rows else f"{line:,}"
        for line in finding.lines
    ]
    word = "Line" if len(links) == 1 else "Lines"
    more = " and more" if finding.count > len(links) > 1 else ""
    where = f"{word} {' '.join(links)}{more}" if links else ""
    said = f'<span class="soft">{refused}</span>' if refused else ""
    return f'<p class="lines">{" ".join(part for part in (where, said) if part)}</p>'


# -- rows and rules ------------------------------------------------------------------------


def _rows(dataset: Dataset, listed: Sequence[tuple[int, Finding]]) -> dict[int, str]:
    """The rows that findings name, by line; those of the gravest as far as there is room."""
    named: dict[int, list[tuple[str, Finding]]] = {}
    for place, finding in listed:
        for line in finding.lines:
            if line in named or len(named) < ROWS:
                named.setdefault(line, []).append((f"finding-{place}", finding))
    drawn, size = articles(dataset, named), 0
    kept: dict[int, str] = {}
    for line in named:  # the listed ones are in the order of their gravity
        size += len(drawn.get(line, "").encode())
        if line in drawn and size <= ROW_BYTES:
            kept[line] = drawn[line]
    return dict(sorted(kept.items()))


def _shown(rows: dict[int, str]) -> str:
    if not rows:
        return ""
    return (
        '<section id="rows"><h2>Rows</h2><p class="soft">Those that findings name, shortened. '
        "What a finding is about is framed. Personal data and keys are masked.</p>"
        f"{''.join(rows.values())}</section>"
    )


def _rules(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    codes = sorted({finding.code for finding in findings})
    rows = [[*_rule(code)] for code in codes]
    head = ("code", "what it says", "hosted", "local")
    listed = table(
        "rules stack", head, rows, "Those that have a finding here. More about one: ftg rules CODE"
    )
    return f'<section id="rules"><h2>Rules</h2>{listed}</section>'


def _rule(code: str) -> Iterator[str]:
    rule: Any = RULES[code]
    yield f'<code id="rule-{code}">{code}</code>'
    yield escape(f"{rule.title[:1].upper()}{rule.title[1:]}. {rule.why} {rule.fix}", quote=False)
    yield rule.hosted or "-"
    yield rule.local or "-"
