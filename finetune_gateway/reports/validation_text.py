"""What ``ftg validate`` shows in the terminal: findings, figures, the outcome. 80 columns do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.findings import Finding, Report
from finetune_gateway.reports import output
from finetune_gateway.reports.output import apply_style, wrap_text

if TYPE_CHECKING:
    from finetune_gateway.preparation.fix import FixReport

Figures = dict[str, Any]
Lines = Iterator[tuple[str, str]]  # what a line is about, what it says

SHOWN = 30  # kinds of findings on the screen; --json has all
NAMED = 5  # classes, languages and files that are named


def screen(data: Path, report: Report) -> str:
    """The report for people."""
    rows = _counted(report.rows, "row") or "0 rows"
    parts = [f"{apply_style(data.name, 'bold')}  {rows}  ({report.format})"]
    if report.findings:
        parts.append(findings_text(report.findings[:SHOWN]))
    if len(report.findings) > SHOWN:
        parts.append(f"... {len(report.findings) - SHOWN} more kinds of findings; --json has all.")
    if report.tokens and report.tokens["total"]:
        parts.append(tokens_text(report.tokens))
    if report.quality and report.quality["rows"]:
        parts.append(quality_text(report))
    if report.ignored:
        parts.append(ignored_text(report.ignored))
    parts.append(f"{_summary(report)}  Nothing was sent anywhere.")
    return "\n".join(parts)


def mended_text(done: FixReport) -> str:
    """What --fix has done, and where in the input that is which it has left."""
    rows = [(code, f"{count:,}") for code, count in done.changes.items()]
    changes = "1 change" if done.changed == 1 else f"{done.changed:,} changes"
    parts = [f"{changes} in {done.out}; each is in {done.log}"]
    if rows:
        parts.append(output.format_table(("what", "changes"), rows, right="changes"))
    for one in done.unsafe:
        if one.lines != one.finding.lines:
            lines = ", ".join(map(str, one.lines))
            parts.append(f"left as it is: {one.finding.code}, lines {lines} of the input")
    return "\n".join(parts)


def ignored_text(ignored: dict[str, int]) -> str:
    """What was not counted, and how often it was found."""
    told = [f"{code} ({_counted(count, 'time') or 'not found'})" for code, count in ignored.items()]
    return wrap_text(f"Ignored: {', '.join(told)}.", "         ", "")


# -- findings --------------------------------------------------------------------------------


def findings_text(findings: Sequence[Finding]) -> str:
    """Each finding in a few lines: where, what and why, what to do."""
    return "\n".join(_finding(found) for found in findings)


def _finding(found: Finding) -> str:
    label = f"{found.severity:<8}"
    where = _where(found)
    head = f"  {apply_style(label, found.severity)} {where}"
    gap = max(2, output.terminal_width() - 11 - len(where) - len(found.code) - 2)
    lines = [f"{head}{' ' * gap}{apply_style(f'[{found.code}]', 'dim')}"]
    named = not found.path or found.path in found.message
    path = "" if named else f"{found.path}: "
    lines.append(wrap_text(f"{path}{found.message}", " " * 11))
    if found.fix:
        lines.append(wrap_text(f"Fix: {found.fix}", " " * 11))
    if found.backends:
        lines.append(wrap_text(f"Refused by: {', '.join(found.backends)}", " " * 11))
    return "\n".join(lines)


def _where(found: Finding) -> str:
    if found.line is None:
        return "the file"
    if found.count == 1:
        return f"line {found.line}"
    if len(found.lines) == 1:
        return f"{found.count:,} times, line {found.line}"
    more = ", ..." if found.count > len(found.lines) or len(found.lines) > 5 else ""
    return f"{found.count:,} times, lines {', '.join(map(str, found.lines[:5]))}{more}"


# -- figures ---------------------------------------------------------------------------------


def tokens_text(tokens: Figures) -> str:
    """The token figures of a report."""
    return _table("tokens", _tokens(tokens))


def quality_text(report: Report) -> str:
    """The figures of the dataset as a whole."""
    return _table("quality", _quality(report, report.quality or {}))


def _tokens(tokens: Figures) -> Lines:
    kind = "exactly" if tokens.get("exact") else "about"
    yield "in all", f"{tokens['total']:,}, {kind}, by {tokens['encoding']}"
    yield "trained", f"{tokens['trained']:,} ({tokens['trained'] / tokens['total']:.0%})"
    yield "a row", _spread(tokens, ("min", "median", "p95", "max"))
    for role, said in (tokens.get("roles") or {}).items():
        yield role, f"{said['tokens']:,} in {_counted(said['messages'], 'message')}"


def _quality(report: Report, figures: Figures) -> Lines:
    yield "repeats", _repeats(report, figures)
    if systems := _systems(figures.get("system_prompts") or {}):
        yield "system prompts", systems
    if characters := figures.get("characters"):
        yield "characters", f"{_spread(characters, ('min', 'median', 'p95', 'max'))} a row"
    if figures.get("last_turns"):
        yield "turns", _turns(figures)
    if calls := figures.get("tool_calls", {}).get("calls"):
        yield "calls", f"{calls:,}, {calls - figures['tool_calls']['unanswered']:,} with a result"
    if lost := figures.get("replacement_characters"):
        yield "lost", f"{_counted(lost, 'character')}, with U+FFFD in their place"
    if classes := figures.get("classes"):
        rows = ", ".join(f"{count:,}" for count in classes[:NAMED])
        more = ", ..." if len(classes) > NAMED else ""
        yield "classes", f"{len(classes)} short answers, in {rows}{more} rows"
    if languages := figures.get("languages"):
        yield "languages", _languages(languages)
    for name, shared in list((figures.get("leaks") or {}).items())[:NAMED]:
        yield "shared", f"{_leaks(shared)} with {name}"
    if drift := figures.get("drift"):
        yield from _drift(drift)


def _repeats(report: Report, figures: Figures) -> str:
    """Rows that repeat an earlier one; near-duplicates only where they were looked for."""
    words = {"duplicates": "equal", "near_duplicates": "equal but for case and spaces"}
    counts = {code: report.ignored.get(code, 0) for code in words}
    for found in report.findings:
        if found.code in counts:
            counts[found.code] += found.count
    told = [f"{counts[code]:,} {word}" for code, word in words.items() if counts[code]]
    near = figures.get("similar_rows")
    if near:
        told.append(f"{near:,} nearly equal")
    if told:
        return ", ".join(told)
    return "none equal" if near is None else "none equal, none nearly equal"


def _systems(systems: Figures) -> str:
    """How many there are; nothing for rows that have no place for one."""
    without = systems.get("without", 0)
    if "commonest_share" not in systems:
        return f"none in {_counted(without, 'row')}" if without else ""
    many = systems["distinct"]
    told = "over 1,000" if many is None else f"{many:,}"
    if many != 1:
        told += f", the commonest in {systems['commonest_share']:.0%} of the rows that have one"
    return f"{told}; none in {_counted(without, 'row')}" if without else told


def _turns(figures: Figures) -> str:
    """How many rows have one answer; how many end otherwise."""
    rows, last = sum(figures["last_turns"].values()), dict(figures["last_turns"])
    answered = last.pop("assistant", 0)
    told = f"one answer in {figures['single_turn']:,} of {_counted(rows, 'row')}"
    ends = [
        f"{count:,} {'ends' if count == 1 else 'end'} with {role}" for role, count in last.items()
    ]
    return "; ".join([told, *ends[:NAMED]]) if answered else told


def _languages(languages: dict[str, int]) -> str:
    total = sum(languages.values())
    named = [f"{name} {count / total:.0%}" for name, count in list(languages.items())[:NAMED]]
    return f"{', '.join(named)} of {_counted(total, 'answer')} looked at"


def _leaks(shared: Figures) -> str:
    exact, near = shared["exact"], shared["near"]
    told = _counted(exact, "row") or "no row"
    return f"{told}, {near:,} more nearly," if near else told


def _drift(drift: Figures) -> Lines:
    share = f"{drift['without_neighbour']:.0%} of {drift['prompts']:,} prompts"
    yield "production", f"{share} are like none of the data (10% would be expected)"
    words = f"{drift['median_words']:g} words in production, {drift['own_median_words']:g} here"
    yield "", f"median prompt: {words}"


def _spread(figures: Figures, names: Sequence[str]) -> str:
    return "  ".join(f"{name} {figures[name]:,}" for name in names)


def _table(title: str, lines: Lines) -> str:
    """A title, and beside it what each line is about and says."""
    parts = []
    for about, said in lines:
        title, head = "", f"{title:<9}{about:<15} "
        parts.append(wrap_text(said, " " * 25, head))
    return "\n".join(parts)


def _summary(report: Report) -> str:
    notes = [found for found in report.findings if found.severity == "note"]
    counts = [
        _counted(sum(found.count for found in kind), word)
        for kind, word in ((report.errors, "error"), (report.warnings, "warning"), (notes, "note"))
    ]
    said = ", ".join(count for count in counts if count)
    style = {"accepted": "ok", "warned": "warning", "rejected": "error"}[report.outcome]
    return f"{apply_style(report.outcome.capitalize(), style)}{': ' + said if said else ''}."


def _counted(count: int, word: str) -> str:
    """``3 rows``; nothing for none."""
    return f"{count:,} {word}{'' if count == 1 else 's'}" if count else ""
