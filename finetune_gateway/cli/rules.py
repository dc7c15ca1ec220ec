"""``ftg rules``: what ``validate`` looks for, from the table of rules."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finetune_gateway.cli.options import Json
from finetune_gateway.reports import output
from finetune_gateway.reports.output import apply_style, print_result, wrap_text
from finetune_gateway.validation.collector import GROUPS, RULES, known_code
from finetune_gateway.validation.examples import example, visible
from finetune_gateway.validation.rules import Rule

_CODE = 27  # columns of a code
_LABEL = 10


def rules(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="One rule.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """What validate looks for: each rule with its severity, and for CODE why, what to do,
    what --fix does about it, and an example.

    A severity is that for hosted backends (OpenAI's contract) and for local training.

    Examples:
      ftg rules
      ftg rules unknown_role
      ftg rules --json
    """
    if code is not None:
        code = known_code(code)
        if json:
            output.print_json(told(code))
        else:
            print_result(rule_text(code))
    elif json:
        output.print_json({"rules": [told(known) for known in RULES]})
    else:
        print_result("\n\n".join(_group(title, group) for title, group in GROUPS.items()))
    return 0


def told(code: str) -> dict[str, Any]:
    """All that is known of a rule."""
    rule, shown = RULES[code], example(code)
    return {
        "code": code,
        "about": group_of(code),
        "title": rule.title,
        "hosted": rule.hosted,
        "local": rule.local,
        "why": rule.why,
        "fix": rule.fix,
        "mends": rule.autofix or None,
        "ignorable": not rule.unread,
        "example": None
        if shown.without
        else {
            "breaks": shown.breaks,
            "mended": shown.fixed,
            "against": shown.against,
            "like": shown.like,
            "remarks": shown.remarks,
        },
    }


def group_of(code: str) -> str:
    """What a rule is about."""
    return next(title for title, group in GROUPS.items() if code in group)


def rule_text(code: str) -> str:
    """One rule for people."""
    rule, shown = RULES[code], example(code)
    lines = [f"{apply_style(code, 'bold')}  {rule.title}", ""]
    lines += [_said("hosted", rule.hosted or "does not count")]
    lines += [_said("local", rule.local or "does not count")]
    lines += [_said("why", rule.why), _said("do", rule.fix)]
    lines += [_said("--fix", rule.autofix or "Leaves it and lists it.")]
    if rule.unread:
        lines.append(_said("--ignore", "No: it means that rows were not checked."))
    lines += ["", shown.without or "Breaks it:", *_rows(shown.breaks)]
    if shown.fixed is not None:
        lines += ["Fixed:", *_rows(shown.fixed)]
    for option, rows in (("--against", shown.against), ("--like", shown.like)):
        if rows is not None:
            lines += [f"The file of {option}:", *_rows(rows)]
    lines += [wrap_text(remark) for remark in shown.remarks]
    return "\n".join(lines)


def _said(label: str, text: str) -> str:
    return wrap_text(text, " " * (_LABEL + 2), f"  {label:<{_LABEL}}")


def _rows(lines: str | None) -> list[str]:
    """Rows as they stand in a file: to be copied, so they are not broken at the margin."""
    return [f"  {line}" for line in visible(lines).splitlines()] if lines else []


def _group(title: str, group: dict[str, Rule]) -> str:
    head = f"{title:<{_CODE + 2}}{'hosted':<9}{'local':<9}"
    return "\n".join([apply_style(head.rstrip(), "bold"), *(_row(*item) for item in group.items())])


def _row(code: str, rule: Rule) -> str:
    severities = f"{rule.hosted or '-':<9}{rule.local or '-':<9}"
    return wrap_text(rule.title, " " * (_CODE + 20), f"  {code:<{_CODE}}{severities}")
