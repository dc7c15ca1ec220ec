"""The rules of ``ftg validate``: all of them, or one with its example."""

from __future__ import annotations

from typing import Any

from finetune_gateway.reports.output import apply_style, wrap_text
from finetune_gateway.validation.examples import example, visible
from finetune_gateway.validation.rules import COMMON, OFF, RULES, Rule, families, topics

_CODE = 27  # columns of a code
_LABEL = 13


def rules_document() -> dict[str, Any]:
    """Return all rules as JSON."""
    return {"rules": [rule_document(code) for code in RULES]}


def rule_document(code: str) -> dict[str, Any]:
    """Return one rule as JSON."""
    rule, shown = RULES[code], example(code)
    fields = {
        "breaks": shown.breaks,
        "mended": shown.fixed,
        "against": shown.against,
        "like": shown.like,
        "remarks": shown.remarks,
    }
    return {
        "code": code,
        "about": rule.topic,
        "title": rule.title,
        "severities": {name: rule.severity(name) or OFF for name in (COMMON, *families())},
        "sources": {name: one.source for name, one in rule.families.items()},
        "why": rule.why,
        "fix": rule.fix,
        "mends": rule.autofix or None,
        "ignorable": not rule.unread,
        "example": None if shown.without else fields,
    }


def rules_text() -> str:
    """Return a table of all rules by group."""
    return "\n\n".join(_group_text(title, group) for title, group in topics().items())


def rule_text(code: str) -> str:
    """Return one rule: severities, reason, what to do, an example."""
    rule, shown = RULES[code], example(code)
    lines = [f"{apply_style(code, 'bold')}  {rule.title}", ""]
    for names, severity, source in rule.judged():
        said = severity or "does not count"
        lines.append(_field(", ".join(names), f"{said} ({source})" if source else said))
    lines += [_field("why", rule.why), _field("do", rule.fix)]
    lines += [_field("--fix", rule.autofix or "Leaves it and lists it.")]
    if rule.unread:
        lines.append(_field("--ignore", "No: it means that rows were not checked."))
    lines += ["", shown.without or "Breaks the rule:", *_example_rows(shown.breaks)]
    if shown.fixed is not None:
        lines += ["Fixed:", *_example_rows(shown.fixed)]
    for option, rows in (("--against", shown.against), ("--like", shown.like)):
        if rows is not None:
            lines += [f"The file of {option}:", *_example_rows(rows)]
    lines += [wrap_text(remark) for remark in shown.remarks]
    return "\n".join(lines)


def _field(label: str, text: str) -> str:
    return wrap_text(text, " " * (_LABEL + 2), f"  {label:<{_LABEL}}")


def _example_rows(lines: str | None) -> list[str]:
    """Return rows as in a file; not wrapped, so that they can be copied."""
    return [f"  {line}" for line in visible(lines).splitlines()] if lines else []


def _group_text(title: str, group: dict[str, Rule]) -> str:
    head = f"{title:<{_CODE + 2}}{'openai':<9}{'trl':<9}"
    rows = [_rule_row(code, rule) for code, rule in group.items()]
    return "\n".join([apply_style(head.rstrip(), "bold"), *rows])


def _rule_row(code: str, rule: Rule) -> str:
    severities = "".join(f"{rule.severity(name) or '-':<9}" for name in ("openai", "trl"))
    return wrap_text(rule.title, " " * (_CODE + 20), f"  {code:<{_CODE}}{severities}")
