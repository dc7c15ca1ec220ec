"""What a page without texts (``--no-rows``) says of findings: the rule and lines, no word of the
data; and what a page with texts masks."""

from __future__ import annotations

import re
from typing import Any

from finetune_gateway.data.formats import SHAREGPT_ROLES
from finetune_gateway.findings import Finding, Report
from finetune_gateway.validation.rules import RULES

MASKED = (
    "Masked, where they are found: e-mail addresses, telephone numbers, numbers of cards, accounts "
    "and identity papers, keys, passwords. Not masked: names of people, postal addresses, dates, "
    "national telephone numbers in forms that are not known or of countries that are not in the "
    "setting pii.regions, what images show, and whatever no pattern knows. For a page without any "
    "text of the rows: --no-rows."
)
NOT_MASKED = "Nothing is masked. For a page without any text of the rows: --no-rows."
NO_TEXTS = "This page was made without any text of the rows (--no-rows)."

# Keys that formats have; another one is a word of the data.
_KEYS = frozenset(
    {
        "arguments", "chosen", "completion", "content", "conversations", "description", "from",
        "function", "function_call", "functions", "id", "image", "image_url", "images", "input",
        "instruction", "label", "messages", "name", "non_preferred_output", "output",
        "parallel_tool_calls", "parameters", "preferred_output", "prompt", "refusal", "rejected",
        "response", "role", "system", "system_prompt", "text", "tool_call_id", "tool_calls",
        "tools", "type", "url", "value", "weight",
    }
)  # fmt: skip


_ROLES = {"system", "developer", "user", "assistant", "tool", "function", *SHAREGPT_ROLES}
_OTHER = "another role"


def without_texts(report: Report) -> Report:
    """Return a report that has no word of the rows."""
    update: dict[str, Any] = {"findings": [finding_without_texts(one) for one in report.findings]}
    if report.tokens and report.tokens.get("roles"):
        update["tokens"] = {**report.tokens, "roles": _known_roles(report.tokens["roles"])}
    if report.quality and report.quality.get("last_turns"):
        last_turns = _known_roles(report.quality["last_turns"])
        update["quality"] = {**report.quality, "last_turns": last_turns}
    return report.model_copy(update=update)


def finding_without_texts(finding: Finding) -> Finding:
    """Return a finding in the words of its rule; its path ends before a key of the user's own."""
    rule = RULES[finding.code]
    title = finding.kind or rule.title
    message = f"{title[:1].upper()}{title[1:]}. {rule.why}"
    return finding.model_copy(
        update={"message": message, "fix": rule.fix, "path": _known_path(finding.path)}
    )


def _known_roles(roles: dict[str, Any]) -> dict[str, Any]:
    """Return the roles that formats have; a row can have any word for one."""
    known = {role: value for role, value in roles.items() if role in _ROLES}
    others = [value for role, value in roles.items() if role not in _ROLES]
    return {**known, _OTHER: others[0]} if len(others) == 1 else known


def _known_path(path: str) -> str:
    known = ""
    for part in re.findall(r"\.?[A-Za-z_]+|\[\d+\]|.", path, re.DOTALL):
        key = part.lstrip(".")
        if not re.fullmatch(r"\[\d+\]", part) and key not in _KEYS:
            return f"{known} ..." if known else ""
        known += part
    return known
