"""The page of ``ftg validate --html``: verdict, findings, charts of the figures, and the rows that
findings name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.data.containers import read_from
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.findings import Finding, Report, Severity
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.reports import html_text, withheld
from finetune_gateway.reports.charts import (
    Axis,
    BarTable,
    Bin,
    Bins,
    Chart,
    Marker,
    bar_table,
    short,
)
from finetune_gateway.reports.html_text import Piece, short_text
from finetune_gateway.reports.layout import fragment, raise_if_foreign, render
from finetune_gateway.reports.output import format_count
from finetune_gateway.reports.row_view import row_views
from finetune_gateway.reports.validation_text import not_analyzed_text, sample_text
from finetune_gateway.reports.withheld import without_texts
from finetune_gateway.tokens.token_text import visible
from finetune_gateway.validation.rules import RULES

if TYPE_CHECKING:
    from markupsafe import Markup

Json = dict[str, Any]
Pairs = list[tuple[str, str]]

FINDINGS = 300  # kinds on the page; the JSON report has all
ROWS = 500
ROW_BYTES = 3_500_000  # of HTML, all rows together
FEWEST_COLUMNS = 8  # of a chart; fewer are bars in a table
BARS = 24  # roles, languages and other files that get a bar of their own

_GROUPS: tuple[tuple[Severity, str], ...] = (
    ("error", "Errors"),
    ("warning", "Warnings"),
    ("note", "Notes"),
)
_VERDICTS = {
    "accepted": ("\u2713", "Accepted", "Nothing stands in the way of training."),
    "warned": ("!", "Accepted, with warnings", "Training would run; look at these first."),
    "rejected": ("\u2717", "Rejected", "Training would fail or go wrong."),
}


@dataclass(frozen=True)
class FindingView:
    """A finding with its texts masked, and its lines with whether they are on the page."""

    place: int
    finding: Finding
    path: list[Piece]
    message: list[Piece]
    fix: list[Piece]
    lines: list[tuple[int, bool]]

    @property
    def has_more(self) -> bool:
        """True if there are more lines than are listed."""
        return self.finding.count > len(self.lines) > 1


@dataclass(frozen=True)
class Figure:
    """One figure of the report: words, a chart, tables, as far as it has them."""

    title: str
    words: str = ""
    chart: Chart | None = None
    bars: BarTable | None = None
    folded: BarTable | None = None  # the chart as a table
    facts: Pairs | None = None


@dataclass(frozen=True)
class RuleView:
    """What a rule says, and how severe it is."""

    code: str
    text: str
    openai: str
    trl: str


@dataclass(frozen=True)
class ValidationPage:
    """Everything the page shows."""

    name: str
    outcome: str
    tiles: Pairs
    facts: Pairs
    groups: list[tuple[Severity, str, list[FindingView]]]
    hidden: int  # kinds of findings that are not on the page
    figures: list[Figure]
    not_analyzed: str
    rows: list[Markup]
    rules: list[RuleView]
    about_texts: str  # what is masked, or that no row is on the page

    @property
    def verdict(self) -> tuple[str, str, str]:
        """The sign, the word, and what it means."""
        return _VERDICTS[self.outcome]

    @property
    def title(self) -> str:
        return f"{self.name}: {self.verdict[1]}"


def write(
    report: Report,
    path: Path,
    dataset: Dataset,
    *,
    model: str | None = None,
    limit: int | None = None,
    no_rows: bool = False,
    force: bool = False,
) -> None:
    """Write the page. Raises SpecError when the file is the data, or exists and is not a page of
    ours, unless ``force``; StoreError when it cannot be written."""
    raise_if_foreign(path, force=force, inputs=files_of(dataset))
    with whole_file(path) as file:
        html = page(report, dataset, model=model, limit=limit, no_rows=no_rows)
        file.write(html.encode())


def files_of(dataset: Dataset) -> tuple[Path, ...]:
    """Return the files that hold the rows: the one that is read, and the one it was made from."""
    return tuple(one for one in (dataset.path, dataset.source) if one is not None)


def page(
    report: Report,
    dataset: Dataset | None,
    *,
    model: str | None = None,
    limit: int | None = None,
    no_rows: bool = False,
) -> str:
    """Return the whole page, of a few megabytes at most. ``dataset``: what was judged, if it is at
    hand. ``limit``: tokens an example may have. ``no_rows``: no text of the rows is on it, in
    findings and figures neither."""
    report = without_texts(report) if no_rows else report
    listed = list(enumerate(report.findings[:FINDINGS], 1))
    rows = {} if no_rows or dataset is None else _rows(dataset, listed)
    groups = [
        (
            severity,
            title,
            [_finding(place, one, rows) for place, one in listed if one.severity == severity],
        )
        for severity, title in _GROUPS
    ]
    view = ValidationPage(
        name=visible(dataset.name) if dataset else "data",
        outcome=report.outcome,
        tiles=[*_tiles(report)],
        facts=[*_facts(report, dataset, model)],
        groups=[group for group in groups if group[2]],
        hidden=len(report.findings) - len(listed),
        figures=[*_figures(report, limit, model)],
        not_analyzed=not_analyzed_text(report),
        rows=[*rows.values()],
        rules=[_rule(code) for code in sorted({finding.code for _, finding in listed})],
        about_texts=withheld.NO_TEXTS if no_rows else withheld.MASKED,
    )
    return render("validation.html", view)


# -- the head ------------------------------------------------------------------------------


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    yield f"{report.rows:,}", "row" if report.rows == 1 else "rows"
    for severity, title in _GROUPS:
        counts = [one.count for one in report.findings if one.severity == severity]
        if counts:
            kinds = "1 kind" if len(counts) == 1 else f"{len(counts):,} kinds"
            yield f"{sum(counts):,}", f"{title.lower()} of {kinds}"
    if report.tokens:
        yield f"{report.tokens['total']:,}", "tokens"
        yield f"{report.tokens['trained']:,}", "trained tokens"


def _facts(report: Report, dataset: Dataset | None, model: str | None) -> Iterator[tuple[str, str]]:
    yield "Format", report.format
    if dataset and dataset.container != "jsonl":
        yield "Read from", read_from(dataset.reading)
    if report.tokens:
        how = "exact" if report.tokens.get("exact") else "not exact"
        yield "Counted with", f"{report.tokens['encoding']}, {how}"
    if model:
        yield "Model", visible(model)
    if report.ignored:
        times = (f"{code} ({count:,} times)" for code, count in report.ignored.items())
        yield "Ignored", ", ".join(times)
    yield "Checked", time.strftime("%Y-%m-%d %H:%M %z")
    version = metadata.version("finetune-gateway")
    yield "By", f"finetune-gateway {version}, on this machine; nothing was sent anywhere"


# -- findings, rows, rules -----------------------------------------------------------------


def _finding(place: int, finding: Finding, rows: dict[int, Markup]) -> FindingView:
    return FindingView(
        place,
        finding,
        path=short_text(finding.path),
        message=short_text(finding.message, 800),
        fix=short_text(finding.fix, 800),
        lines=[(line, line in rows) for line in finding.lines],
    )


def _rows(dataset: Dataset, listed: Sequence[tuple[int, Finding]]) -> dict[int, Markup]:
    """Return the rows that findings name, by line; those of the most severe as far as there is
    room."""
    named: dict[int, list[tuple[str, Finding]]] = {}
    for place, finding in listed:
        for line in finding.lines:
            if line in named or len(named) < ROWS:
                named.setdefault(line, []).append((f"finding-{place}", finding))
    views, size = row_views(dataset, named), 0
    rows: dict[int, Markup] = {}
    for line in (line for line in named if line in views):  # the most severe come first
        html = fragment("row.html", "row", views[line])
        size += len(html.encode())
        if size > ROW_BYTES:
            break
        rows[line] = html
    return dict(sorted(rows.items()))


def _rule(code: str) -> RuleView:
    rule = RULES[code]
    text = f"{rule.title[:1].upper()}{rule.title[1:]}. {rule.why} {rule.fix}"
    return RuleView(code, text, rule.severity("openai") or "-", rule.severity("trl") or "-")


# -- figures -------------------------------------------------------------------------------


def _figures(report: Report, limit: int | None, model: str | None) -> Iterator[Figure]:
    tokens, quality = report.tokens or {}, report.quality or {}
    if tokens and tokens["total"]:
        yield _lengths(tokens, limit, model)
    if tokens.get("roles"):
        yield _roles(tokens["roles"])
    if report.rows:
        yield _repeats(report)
    if quality.get("classes"):
        yield _classes(quality["classes"])
    if quality.get("languages"):
        yield _languages(quality["languages"])
    if facts := [(name, f"{text}{sample_text(quality)}") for name, text in _whole(quality)]:
        yield Figure("The data as a whole", facts=facts)


def _lengths(tokens: Json, limit: int | None, model: str | None) -> Figure:
    words = _spread_text(tokens)
    if limit is not None:
        whose = f"The limit of {visible(model)}" if model else "The limit"
        over = "longer rows are cut or refused" if tokens["max"] > limit else "no row is longer"
        words += f" {whose} is {limit:,}; {over}."
    bins: list[Bin] = [(low, high, rows) for low, high, rows in tokens.get("histogram") or []]
    if not bins or tokens["min"] == tokens["max"]:
        return Figure("Lengths", words)
    markers = [
        Marker(tokens["median"], f"median {tokens['median']:,}"),
        Marker(tokens["p95"], f"95 % up to {tokens['p95']:,}"),
    ]
    if limit is not None and limit <= bins[-1][1]:
        markers.append(Marker(limit, f"limit {limit:,}", "limit"))
    rows = [(f"{low:,} to {high:,}", (count,)) for low, high, count in bins if count]
    table = bar_table("Rows by length", ("tokens", "rows"), rows, sum(one[2] for one in bins))
    chart = _columns(bins, "tokens per row", words, markers)
    return Figure("Lengths", words, chart, folded=table)


def _spread_text(tokens: Json) -> str:
    if tokens["min"] == tokens["max"]:
        return f"Every row has {format_count(tokens['max'], 'token')}."
    spread = ", ".join(f"{name} {tokens[name]:,}" for name in ("min", "median", "p95", "max"))
    return f"Tokens per row: {spread}."


def _columns(bins: Sequence[Bin], name: str, label: str, markers: Sequence[Marker] = ()) -> Chart:
    highest = max(1, *(count for _, _, count in bins))
    return Chart(Bins(name, bins), Axis("rows", 0, highest), label, markers=markers)


def _roles(roles: dict[str, Json]) -> Figure:
    largest = sorted(roles.items(), key=lambda item: -item[1]["tokens"])[:BARS]
    rows = [(_role_name(role), (of["messages"], of["tokens"])) for role, of in largest]
    whole = sum(counts["tokens"] for counts in roles.values())
    caption = "Messages and tokens by role, and the share of the tokens"
    return Figure("Roles", bars=bar_table(caption, ("role", "messages", "tokens"), rows, whole))


def _role_name(role: str) -> str:
    """Return a role as it is written in the data, which may be anything."""
    return visible(html_text.masked(role[:1000])[:80])


def _repeats(report: Report) -> Figure:
    """Return how many rows are there twice, here or in another file."""
    counts = {
        code: report.ignored.get(code, 0)
        + sum(one.count for one in report.findings if one.code == code)
        for code in ("duplicates", "near_duplicates")
    }
    quality = report.quality or {}
    rows = [
        ("equal to an earlier row", (counts["duplicates"],)),
        ("equal but for case and spaces", (counts["near_duplicates"],)),
    ]
    if "similar_rows" in quality:
        rows.append(("nearly equal: a few words differ", (quality["similar_rows"],)))
    for name, leaks in [*(quality.get("leaks") or {}).items()][:BARS]:
        rows.append((f"also in {visible(name)}", (leaks["exact"],)))
        rows.append((f"nearly in {visible(name)}", (leaks["near"],)))
    if not any(count for _, (count,) in rows):
        return Figure("Repeats", f"None: {', '.join(name for name, _ in rows)}.")
    caption = "Rows that repeat others, and their share of all rows"
    return Figure("Repeats", bars=bar_table(caption, ("what", "rows"), rows, report.rows))


def _classes(classes: list[int]) -> Figure:
    if len(classes) == 1:
        return Figure("Classes", f"One short answer repeats like a class, in {classes[0]:,} rows.")
    words = (
        f"{len(classes)} short answers repeat like classes: the most common in {classes[0]:,} "
        f"rows, the rarest in {classes[-1]:,}."
    )
    bins: list[Bin] = [(place, place, count) for place, count in enumerate(classes, 1)]
    if len(bins) >= FEWEST_COLUMNS:
        return Figure("Classes", words, _columns(bins, "answers, the most common first", words))
    rows = [(f"number {place}", (count,)) for place, _, count in bins]
    return Figure("Classes", bars=bar_table(words, ("answer", "rows"), rows, sum(classes)))


def _languages(languages: dict[str, int]) -> Figure:
    total = sum(languages.values())
    if len(languages) == 1:
        return Figure("Languages", f"{visible(*languages)}, in all {total:,} answers of a sample.")
    rows = [(visible(name), (count,)) for name, count in [*languages.items()][:BARS]]
    caption = "Languages of the answers, in a sample"
    return Figure("Languages", bars=bar_table(caption, ("language", "answers"), rows, total))


def _whole(quality: Json) -> Iterator[tuple[str, str]]:
    if systems := quality.get("system_prompts"):
        yield "System prompts", _system_prompts(systems)
    if last := quality.get("last_turns"):
        roles = ", ".join(f"{_role_name(role)} {rows:,}" for role, rows in [*last.items()][:BARS])
        yield (
            "Rows by their last turn",
            f"{roles}; {quality.get('single_turn', 0):,} with one answer",
        )
    if calls := (quality.get("tool_calls") or {}).get("calls"):
        unanswered = quality["tool_calls"]["unanswered"]
        yield "Tool calls", f"{calls:,}, {unanswered:,} of them without a result"
    if size := quality.get("characters"):
        spread = ", ".join(f"{name} {short(size[name])}" for name in size)
        yield "Characters per row", f"{spread}, without system prompts"
    if drift := quality.get("drift"):
        yield (
            "Production prompts",
            f"{drift['without_neighbour']:.0%} of {drift['prompts']:,} are like no prompt of the "
            f"data; about 10 % would be expected. Median words: {drift['median_words']:g}, in the "
            f"data {drift['own_median_words']:g}",
        )


def _system_prompts(prompts: Json) -> str:
    distinct, without = prompts["distinct"], prompts["without"]
    if distinct == 0:
        return "none"
    if distinct == 1 and not without:
        return "the same in all rows"
    many = "more than 1,000" if distinct is None else f"{distinct:,}"
    share = f"{prompts['commonest_share']:.0%} of the rows with one"
    words = f"{many} different; the most common in {share}"
    return f"{words}; {without:,} rows without" if without else words
