"""``ftg validate``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_gateway import fixing
from finetune_gateway.checks.findings import Finding, Report
from finetune_gateway.cli import output
from finetune_gateway.cli.options import Data, Json, Method, Quiet
from finetune_gateway.cli.output import paint, say, show, wrapped
from finetune_gateway.containers import NAMES
from finetune_gateway.dataset import Dataset
from finetune_gateway.errors import DataError
from finetune_gateway.fixing import FixReport
from finetune_gateway.gateway import Gateway

SHOWN = 30  # kinds of findings on the screen; --json has all


def validate(
    data: Data,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Count tokens as this model does.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge for this backend alone.")
    ] = None,
    method: Method = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Write a mended copy, and check that.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --fix: replace OUT.")] = False,
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Look at the data as a whole too; by default up to 4 MB.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Validation or test data that must share no row."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts from production the data should resemble."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too (exit 3).")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check a dataset, line by line. Needs no key and no network; nothing is sent anywhere.

    Ends with 3 when there is an error, 0 otherwise. Without --backend all known backends are
    judged, and each finding names those that would refuse. --fix mends what needs no guess in a
    copy, logs each change in OUT.changes.jsonl and checks the copy.

    Examples:
      ftg validate train.jsonl
      ftg validate train.jsonl --backend openai --model gpt-4.1-mini-2025-04-14
      ftg validate pairs.jsonl --method dpo --json
      ftg validate export.json --fix train.jsonl
      ftg validate train.jsonl --against validation.jsonl --like prompts.jsonl
    """
    gateway = Gateway()
    dataset = gateway.open(data)

    def check(checked: Dataset) -> Report:
        return gateway.validate(
            checked,
            model=model,
            backend=backend,
            method=method or "sft",
            quality=quality,
            against=against,
            like=like,
        )

    mended = fixing.fix(dataset, fix, force=force, check=check) if fix else None
    report = mended.report if mended else check(dataset)
    data = fix or data
    if json:
        told = report.model_dump(mode="json")
        output.emit({**told, "fix": mended.model_dump(exclude={"report"})} if mended else told)
    else:
        show(f"{mended_text(mended)}\n{screen(data, report)}" if mended else screen(data, report))
        if not mended and dataset.container != "jsonl":
            say(f"Read from {NAMES[dataset.container]}: a line above is a row.", quiet=quiet)
        if report.ok and not quiet:
            name = model or "gpt-4.1-mini-2025-04-14"
            say(f"Next: ftg estimate {shlex.quote(str(data))} --model {name}")
    refused = not report.ok or (strict and bool(report.warnings))
    return DataError.exit_code if refused else 0


def screen(data: Path, report: Report) -> str:
    """The report for people."""
    rows = "1 row" if report.rows == 1 else f"{report.rows:,} rows"
    parts = [f"{paint(data.name, 'bold')}  {rows}  ({report.format})"]
    if report.findings:
        parts.append(findings_text(report.findings[:SHOWN]))
    if len(report.findings) > SHOWN:
        parts.append(f"... {len(report.findings) - SHOWN} more kinds of findings; --json has all.")
    if report.tokens:
        parts.append(tokens_text(report.tokens))
    parts.append(f"{_summary(report)}  Nothing was sent anywhere.")
    return "\n".join(parts)


def mended_text(done: FixReport) -> str:
    """What --fix has done, and where in the input that is which it has left."""
    rows = [(code, f"{count:,}") for code, count in done.changes.items()]
    changes = "1 change" if done.changed == 1 else f"{done.changed:,} changes"
    parts = [f"{changes} in {done.out}; each is in {done.log}"]
    if rows:
        parts.append(output.table(("what", "changes"), rows, right="changes"))
    for one in done.unsafe:
        if one.lines != one.finding.lines:
            lines = ", ".join(map(str, one.lines))
            parts.append(f"left as it is: {one.finding.code}, lines {lines} of the input")
    return "\n".join(parts)


def findings_text(findings: Sequence[Finding]) -> str:
    """Each finding in a few lines: where, what and why, what to do."""
    return "\n".join(_finding(found) for found in findings)


def _finding(found: Finding) -> str:
    label = f"{found.severity:<8}"
    where = _where(found)
    head = f"  {paint(label, found.severity)} {where}"
    gap = max(2, output.width() - 11 - len(where) - len(found.code) - 2)
    lines = [f"{head}{' ' * gap}{paint(f'[{found.code}]', 'dim')}"]
    named = not found.path or found.path in found.message
    path = "" if named else f"{found.path}: "
    lines.append(wrapped(f"{path}{found.message}", " " * 11))
    if found.fix:
        lines.append(wrapped(f"Fix: {found.fix}", " " * 11))
    if found.backends:
        lines.append(wrapped(f"Refused by: {', '.join(found.backends)}", " " * 11))
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


def tokens_text(tokens: dict[str, Any]) -> str:
    """The token figures of a report."""
    kind = "exact" if tokens.get("exact") else "not exact"
    figures = f"tokens   {tokens['total']:,} in all, {tokens['trained']:,} of them trained"
    per_row = " ".join(f"{name} {tokens[name]:,}" for name in ("min", "median", "p95", "max"))
    how = f"counted with {tokens['encoding']}, {kind}"
    return f"{figures}\n         per row: {per_row}\n" + wrapped(how, " " * 9)


def _summary(report: Report) -> str:
    notes = [found for found in report.findings if found.severity == "note"]
    counts = [
        _counted(sum(found.count for found in kind), word)
        for kind, word in ((report.errors, "error"), (report.warnings, "warning"), (notes, "note"))
    ]
    said = ", ".join(count for count in counts if count)
    style = {"accepted": "ok", "warned": "warning", "rejected": "error"}[report.outcome]
    return f"{paint(report.outcome.capitalize(), style)}{': ' + said if said else ''}."


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}" if count else ""
