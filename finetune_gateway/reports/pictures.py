"""The figures of a report as pictures and tables: lengths, roles, repeats, the data as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from finetune_gateway.findings import Report
from finetune_gateway.reports import html_text
from finetune_gateway.reports.charts import Bin, Line, bars, columns, short
from finetune_gateway.reports.layout import facts
from finetune_gateway.tokens.token_text import visible

Json = dict[str, Any]

_NAMED = 24  # roles, languages and other files that get a bar of their own


def pictures(report: Report, limit: int | None, model: str | None) -> str:
    """All there is to draw."""
    tokens, quality = report.tokens or {}, report.quality or {}
    drawn = [
        _lengths(tokens, limit, model),
        _roles(tokens),
        _repeats(report),
        _classes(quality),
        _languages(quality),
        _whole(report),
    ]
    return "".join(drawn)


def _lengths(tokens: Json, limit: int | None, model: str | None) -> str:
    if not tokens or not tokens["total"]:
        return ""
    told = ", ".join(f"{name} {tokens[name]:,}" for name in ("min", "median", "p95", "max"))
    words = f"Tokens per row: {told}."
    if limit is not None:
        whose = f"The limit of {visible(model)}" if model else "The limit"
        over = "longer rows are cut or refused" if tokens["max"] > limit else "no row is longer"
        words += f" {whose} is {limit:,}; {over}."
    bins: list[Bin] = [(low, high, rows) for low, high, rows in tokens.get("histogram") or []]
    lines = [
        Line(tokens["median"], f"median {tokens['median']:,}"),
        Line(tokens["p95"], f"95 % up to {tokens['p95']:,}"),
    ]
    if limit is not None and bins and limit <= bins[-1][1]:
        lines.append(Line(limit, f"limit {limit:,}", "limit"))
    picture = columns(bins, lines, across="tokens of a row", up="rows", label=words)
    figures = _table(bins) if bins else ""
    return _figure("Lengths", f"<figcaption>{escape(words)}</figcaption>{picture}{figures}")


def _figure(title: str, html: str) -> str:
    return f"<figure><h3>{title}</h3>{html}</figure>"


def _table(bins: list[Bin]) -> str:
    rows = [(f"{low:,} to {high:,}", (count,)) for low, high, count in bins if count]
    listed = bars(("tokens", "rows"), rows, sum(count for _, _, count in bins), "Rows by length")
    return f"<details><summary>The same as a table</summary>{listed}</details>"


def _roles(tokens: Json) -> str:
    roles = tokens.get("roles") or {}
    rows = sorted(roles.items(), key=lambda item: -item[1]["tokens"])[:_NAMED]
    if not rows:
        return ""
    whole = sum(counts["tokens"] for counts in roles.values())
    cells = [(_name(role), (of["messages"], of["tokens"])) for role, of in rows]
    return _figure("Roles", bars(("role", "messages", "tokens"), cells, whole, _ROLES))


_ROLES = "Messages and tokens by role, and the share of the tokens"


def _name(role: str) -> str:
    """A role as it is written in the data, which may be anything."""
    return visible(html_text.masked(role[:1000])[:80])


def _repeats(report: Report) -> str:
    """Rows that are there twice, here or in another file."""
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
    for name, leaks in [*(quality.get("leaks") or {}).items()][:_NAMED]:
        rows.append((f"also in {visible(name)}", (leaks["exact"],)))
        rows.append((f"nearly in {visible(name)}", (leaks["near"],)))
    if not report.rows:
        return ""
    caption = "Rows that repeat others, and their share of all rows"
    return _figure("Repeats", bars(("what", "rows"), rows, report.rows, caption))


def _classes(quality: Json) -> str:
    classes = quality.get("classes")
    if not classes:
        return ""
    words = (
        f"{len(classes)} short answers are given like classes: the commonest in {classes[0]:,} "
        f"rows, the rarest in {classes[-1]:,}."
    )
    bins: list[Bin] = [(place, place, count) for place, count in enumerate(classes, 1)]
    drawn = columns(bins, [], across="answers, the commonest first", up="rows", label=words)
    return _figure("Classes", f"<figcaption>{words}</figcaption>{drawn}")


def _languages(quality: Json) -> str:
    languages = quality.get("languages")
    if not languages:
        return ""
    rows = [(visible(name), (count,)) for name, count in [*languages.items()][:_NAMED]]
    caption = "Languages of the answers, in a sample"
    total = sum(languages.values())
    drawn = bars(("language", "answers"), rows, total, caption)
    return _figure("Languages", drawn)


def _whole(report: Report) -> str:
    if report.quality is None:
        return (
            '<p class="soft">Not looked at: the data as a whole (contradictions, classes, '
            "languages, near-duplicates). For a file of more than 4 MB: --quality.</p>"
        )
    known = [*_known(report.quality)]
    return _figure("The data as a whole", facts(known)) if known else ""


def _known(quality: Json) -> Iterator[tuple[str, str]]:
    systems = quality.get("system_prompts")
    if systems:
        yield "System prompts", _systems(systems)
    if last := quality.get("last_turns"):
        told = ", ".join(f"{_name(role)} {rows:,}" for role, rows in [*last.items()][:_NAMED])
        yield (
            "Rows by their last turn",
            f"{told}; {quality.get('single_turn', 0):,} with one answer",
        )
    if calls := (quality.get("tool_calls") or {}).get("calls"):
        unanswered = quality["tool_calls"]["unanswered"]
        yield "Calls of tools", f"{calls:,}, {unanswered:,} of them without a result"
    size = quality.get("characters")
    if size:
        told = ", ".join(f"{name} {short(size[name])}" for name in size)
        yield "Characters per row", f"{told}, system prompts left out"
    drift = quality.get("drift")
    if drift:
        yield (
            "Production prompts",
            f"{drift['without_neighbour']:.0%} of {drift['prompts']:,} are like no prompt of the "
            f"data; about 10 % would be expected. Median words: {drift['median_words']:g}, in the "
            f"data {drift['own_median_words']:g}",
        )


def _systems(found: Json) -> str:
    if found["distinct"] == 0:
        return "none"
    if found["distinct"] == 1 and not found["without"]:
        return "the same in all rows"
    many = "more than 1,000" if found["distinct"] is None else f"{found['distinct']:,}"
    words = (
        f"{many} different; the commonest in {found['commonest_share']:.0%} of the rows with one"
    )
    return f"{words}; {found['without']:,} rows without" if found["without"] else words
