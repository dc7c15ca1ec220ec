"""What ``ftg validate`` prints: findings, figures, the outcome; made for 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.findings import Finding, Report
from finetune_gateway.methods import HOLD_OUT_ROWS, HOLD_OUT_SHARE
from finetune_gateway.reports.output import (
    COMMANDS,
    apply_style,
    display_width,
    format_count,
    format_table,
    terminal_width,
    wrap_text,
)
from finetune_gateway.text.cleaning import visible
from finetune_gateway.validation.dataset.languages import can_detect

if TYPE_CHECKING:
    from finetune_gateway.preparation.fix_report import FixReport

Figures = dict[str, Any]
Fields = Iterator[tuple[str, str]]  # a label and its text

SHOWN = 30  # kinds of findings on the screen; --json has all
_LINES = 5  # of a finding that are named, at most
NAMED = 5  # classes, languages and files that are named


def report_document(report: Report, fixed: FixReport | None = None) -> dict[str, Any]:
    """Return the report as JSON, with what --fix has done; ``validation_schema`` describes it."""
    document = report.model_dump(mode="json")
    return {**document, "fix": fixed.model_dump(exclude={"report"})} if fixed else document


def report_text(data: Path, report: Report, *, submit: bool = False) -> str:
    """Return the report as text. ``submit``: say also how many rows a submit would train."""
    rows = format_count(report.rows, "row")
    parts = [f"{apply_style(visible(data.name), 'bold')}  {rows}  ({report.format})"]
    if report.findings:
        parts.append(findings_text(report.findings[:SHOWN]))
    if len(report.findings) > SHOWN:
        hidden = len(report.findings) - SHOWN
        parts.append(f"... {hidden} more kinds of findings; --json lists all.")
    if report.tokens and report.tokens["total"]:
        parts.append(_section("tokens", _token_fields(report.tokens)))
    if quality := [*_quality_fields(report)]:
        parts.append(_section("quality", quality))
    if report.ignored:
        parts.append(_ignored_text(report.ignored))
    own = (report.quality or {}).get("leaks")  # it was compared with a file of held-out rows
    if submit and report.ok and report.rows >= HOLD_OUT_ROWS and not own:
        parts.append(wrap_text(_held_out_text(report.rows)))
    outcome, sent = _outcome_text(report), "Nothing was sent anywhere."
    fits = display_width(outcome) + 2 + len(sent) <= terminal_width()
    return "\n".join([*parts, f"{outcome}  {sent}" if fits else f"{outcome}\n{sent}"])


def _held_out_text(rows: int) -> str:
    held_out = round(HOLD_OUT_SHARE * rows)
    return (
        f"ftg submit trains on about {rows - held_out:,} of these rows, and holds out "
        f"{held_out:,}; --validation-split 0 for all."
    )


def fix_text(fixed: FixReport) -> str:
    """Return what --fix has changed, and the lines of the input that it did not fix."""
    rows = [(code, f"{count:,}") for code, count in fixed.changes.items()]
    parts = [f"{format_count(fixed.changed, 'change')} in {fixed.out}, listed in {fixed.log}"]
    if not fixed.changed:
        parts = [f"Nothing to change: {fixed.out} has the same rows."]
    if rows:
        parts.append(format_table(("rule", "changes"), rows, right="changes"))
    for one in fixed.unsafe:
        if one.lines != one.finding.lines:
            lines = f"line{'' if len(one.lines) == 1 else 's'} {', '.join(map(str, one.lines))}"
            parts.append(f"not fixed: {one.finding.code}, {lines} of the input")
    if fixed.kept:
        parts.append(wrap_text(fixed.kept, "", ""))
    return "\n".join(parts)


def _ignored_text(ignored: dict[str, int]) -> str:
    counts = [
        f"{code} ({format_count(count, 'time') if count else 'not found'})"
        for code, count in ignored.items()
    ]
    return wrap_text(f"Ignored: {', '.join(counts)}.", "         ", "")


def _outcome_text(report: Report) -> str:
    notes = [finding for finding in report.findings if finding.severity == "note"]
    kinds = ((report.errors, "error"), (report.warnings, "warning"), (notes, "note"))
    counts = [(sum(finding.count for finding in findings), word) for findings, word in kinds]
    text = ", ".join(format_count(count, word) for count, word in counts if count)
    style = {"accepted": "ok", "warned": "warning", "rejected": "error"}[report.outcome]
    return f"{apply_style(report.outcome.capitalize(), style)}{': ' + text if text else ''}."


# -- findings --------------------------------------------------------------------------------


def findings_text(findings: Sequence[Finding]) -> str:
    """Return each finding on a few lines: where, what and why, what to do."""
    return "\n".join(map(_finding_text, findings))


def private_data_text(found: dict[str, list[Finding]]) -> str:
    """Return the private data that stops a submit: kinds and lines, file by file."""
    parts = []
    for name, findings in found.items():
        parts += [visible(name), *map(_private_text, findings[:SHOWN])]
        if len(findings) > SHOWN:
            parts.append(f"  ... {len(findings) - SHOWN} more; ftg validate lists all.")
    return "\n".join(parts)


def _private_text(finding: Finding) -> str:
    label = apply_style(f"{finding.code:<8}", "warning")
    return f"  {label} {_where(finding)}\n{wrap_text(finding.message.split('. ')[0], ' ' * 11)}."


def _finding_text(finding: Finding) -> str:
    label = f"{finding.severity:<8}"
    where = _where(finding, terminal_width() - 11 - len(finding.code) - 4)
    head = f"  {apply_style(label, finding.severity)} {where}"
    gap = max(2, terminal_width() - 11 - len(where) - len(finding.code) - 2)
    lines = [f"{head}{' ' * gap}{apply_style(f'[{finding.code}]', 'dim')}"]
    named = not finding.path or finding.path in finding.message
    path = "" if named else f"{finding.path}: "
    lines.append(wrap_text(f"{path}{finding.message}", " " * 11))
    if finding.fix:
        lines.append(_fix_text(finding.fix, " " * 11))
    if finding.backends:
        lines.append(wrap_text(f"Refused by: {', '.join(finding.backends)}", " " * 11))
    return "\n".join(lines)


def _fix_text(fix: str, indent: str) -> str:
    """Return what to do; a command at its end is not broken, to be pasted."""
    text = wrap_text(f"Fix: {fix}", indent)
    words, mark, command = max(
        (fix.rpartition(f": {name}") for name in COMMANDS), key=_words_before
    )
    command = mark.removeprefix(": ") + command
    if not mark or command in text or ". " in command:
        return text
    return wrap_text(f"Fix: {words}:", indent) + f"\n{indent}{command}"


def _words_before(parts: tuple[str, str, str]) -> int:
    return len(parts[0]) if parts[1] else -1


def _where(finding: Finding, width: int = 80) -> str:
    """Return the lines of a finding, as many as there is room for."""
    named = (_lines(finding, count) for count in range(_LINES, 0, -1))
    fitting = (text for text in named if len(text) <= width)
    return next(fitting, f"{finding.count:,} times" if finding.count > 1 else _lines(finding, 1))


def _lines(finding: Finding, most: int) -> str:
    if finding.line is None:
        return "the file"
    if finding.count == 1:
        return f"line {finding.line}"
    if len(finding.lines) == 1:
        return f"{finding.count:,} times, line {finding.line}"
    more = ", ..." if finding.count > len(finding.lines) or len(finding.lines) > most else ""
    return f"{finding.count:,} times, lines {', '.join(map(str, finding.lines[:most]))}{more}"


# -- figures ---------------------------------------------------------------------------------


def _section(title: str, fields: Iterable[tuple[str, str]]) -> str:
    """Return a title, and beside it the fields."""
    parts = []
    for label, text in fields:
        title, head = "", f"{title:<9}{label:<15} "
        parts.append(wrap_text(text, " " * 25, head))
    return "\n".join(parts)


def _token_fields(tokens: Figures) -> Fields:
    how = f"exact, {tokens['encoding']}" if tokens.get("exact") else tokens["encoding"]
    yield "total", f"{format_count(tokens['total'], 'token')} ({how})"
    yield "trained", f"{tokens['trained']:,} ({tokens['trained'] / tokens['total']:.0%})"
    yield "per row", _percentiles(tokens)
    for role, counts in (tokens.get("roles") or {}).items():
        yield role, f"{counts['tokens']:,} in {format_count(counts['messages'], 'message')}"


def _quality_fields(report: Report) -> Fields:
    if report.quality and report.quality["rows"]:
        for name, text in _quality_figures(report, report.quality):
            yield name, f"{text}{sample_text(report.quality)}"
    if missing := not_analyzed_text(report):
        yield "not looked at", missing


def sample_text(quality: Figures) -> str:
    """Return what is said beside a figure of the sample of a large file; else nothing."""
    return f" (in {format_count(quality['rows'], 'sampled row')})" if quality.get("sample") else ""


def _quality_figures(report: Report, figures: Figures) -> Fields:
    yield from _duplicates(report, figures)
    if systems := _system_prompts(figures.get("system_prompts") or {}):
        yield "system prompts", systems
    if characters := figures.get("characters"):
        yield "characters", f"{_percentiles(characters)} per row"
    if figures.get("last_turns"):
        yield "turns", _turns(figures)
    if calls := figures.get("tool_calls", {}).get("calls"):
        answered = calls - figures["tool_calls"]["unanswered"]
        yield "tool calls", f"{calls:,}, {answered:,} with a result"
    if lost := figures.get("replacement_characters"):
        yield "lost", f"{format_count(lost, 'character')}, replaced by U+FFFD"
    if classes := figures.get("classes"):
        rows = ", ".join(f"{count:,}" for count in classes[:NAMED])
        more = ", ..." if len(classes) > NAMED else ""
        yield "classes", f"{len(classes)} short answers, in {rows}{more} rows"
    if languages := figures.get("languages"):
        yield "languages", _languages(languages)
    for name, shared in list((figures.get("leaks") or {}).items())[:NAMED]:
        yield "leaks", f"{_leaks(shared)} also in {name}"
    if drift := figures.get("drift"):
        yield from _drift(drift)


def not_analyzed_text(report: Report) -> str:
    """Return what was not looked at in the data as a whole, and the option that looks; empty if
    everything was."""
    if not report.rows or report.format == "unknown":
        return ""
    parts = {"near-duplicates": "similar_rows", "languages": "languages"}
    missing = [name for name, key in parts.items() if (report.quality or {}).get(key) is None]
    if report.quality is None:
        missing = ["contradictions", "system prompts", "classes", *missing]
    if sample := (report.quality or {}).get("sample"):
        missing.insert(0, f"all but a sample of {sample >> 20} MB")
    if missing[-1:] == ["languages"] and not can_detect():
        missing[-1:] = ["languages (with the extra [lang])"]
    return f"{', '.join(missing)}; --quality looks" if missing else ""


def _duplicates(report: Report, figures: Figures) -> Fields:
    """Yield how many rows repeat an earlier one; similar ones only if they were searched for."""
    if any(one.code == "chat_as_text" for one in report.findings):
        return  # messages were not compared
    words = {"duplicates": "equal", "near_duplicates": "equal except for case and spaces"}
    counts = {code: report.ignored.get(code, 0) for code in words}
    for finding in report.findings:
        if finding.code in counts:
            counts[finding.code] += finding.count
    parts = [f"{counts[code]:,} {word}" for code, word in words.items() if counts[code]]
    similar = figures.get("similar_rows")
    if similar:
        parts.append(f"{similar:,} similar")
    none = "none" if similar is None else "none, and no similar rows"
    yield "duplicates", ", ".join(parts) or none


def _system_prompts(systems: Figures) -> str:
    """Return how many differ; empty for rows that cannot have one."""
    without = systems.get("without", 0)
    if "commonest_share" not in systems:
        return f"none in {format_count(without, 'row')}" if without else ""
    distinct = systems["distinct"]
    text = "more than 1,000" if distinct is None else f"{distinct:,}"
    if distinct != 1:
        text += f", the most common in {systems['commonest_share']:.0%} of the rows with one"
    return f"{text}; none in {format_count(without, 'row')}" if without else text


_ROLE_NAMES = {"other": "an unknown role"}


def _turns(figures: Figures) -> str:
    """Return how many rows are a single turn, and how many end with another role."""
    rows, last = sum(figures["last_turns"].values()), dict(figures["last_turns"])
    answered = last.pop("assistant", 0)
    text = f"{figures['single_turn']:,} of {format_count(rows, 'row')} are a single turn"
    ends = [
        f"{count:,} {'ends' if count == 1 else 'end'} with {_ROLE_NAMES.get(role, role)}"
        for role, count in last.items()
    ]
    return "; ".join([text, *ends[:NAMED]]) if answered else text


def _languages(languages: dict[str, int]) -> str:
    total = sum(languages.values())
    shares = [f"{name} {count / total:.0%}" for name, count in list(languages.items())[:NAMED]]
    return f"{', '.join(shares)} of a sample of {format_count(total, 'answer')}"


def _leaks(shared: Figures) -> str:
    exact, near = shared["exact"], shared["near"]
    rows = format_count(exact, "row") if exact else "no row"
    return f"{rows}, {near:,} more with small changes," if near else rows


def _drift(drift: Figures) -> Fields:
    share = f"{drift['without_neighbour']:.0%} of {format_count(drift['prompts'], 'prompt')}"
    yield "production", f"{share} resemble no prompt of the data (10% is expected)"
    words = f"{drift['median_words']:g} words in production, {drift['own_median_words']:g} here"
    yield "", f"median prompt: {words}"


def _percentiles(figures: Figures) -> str:
    return "  ".join(f"{name} {figures[name]:,}" for name in ("min", "median", "p95", "max"))
