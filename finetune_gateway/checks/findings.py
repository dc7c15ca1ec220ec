"""Findings about a dataset, the report they make, and the collector that groups them.

Knows the table of rules; knows nothing of files or formats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_gateway.checks.file_rules import FILE_RULES
from finetune_gateway.checks.rules import ROW_RULES, Family, Rule, Severity
from finetune_gateway.dataset import Kind
from finetune_gateway.errors import DataError

RULES: dict[str, Rule] = {**FILE_RULES, **ROW_RULES}

BACKENDS = ("openai", "azure", "local")  # judged when nobody names one

# Everything else speaks OpenAI's wire contract and is judged by its rules.
_LOCAL = frozenset({"local", "ray", "fake"})

MAX_GROUPS = 1000  # distinct findings kept; memory and output stay bounded
MAX_LINES = 10  # line numbers kept for one finding
MAX_QUOTE = 60  # characters of the data quoted in a message
MAX_PATH = 200

_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
}
_INDEX = re.compile(r"\[\d+\]")


class Finding(BaseModel):
    """One thing said about the data; the same defect in many rows is one finding."""

    model_config = ConfigDict(frozen=True)

    code: str
    severity: Severity
    line: int | None  # the first; None: the file as a whole
    path: str  # where in the row, e.g. messages[2].tool_calls[0].function.arguments
    message: str  # what, and why it matters
    fix: str
    backends: list[str]  # those that would refuse
    count: int
    lines: list[int]  # the first ten


class Report(BaseModel):
    """What ``validate`` found. Its JSON is what ``ftg validate --json`` prints."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    format: str  # openai-chat, openai-preference, prompt-completion, alpaca, text, ...
    kind: Kind
    rows: int
    tokens: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None  # figures of the dataset as a whole (survey)
    findings: list[Finding] = Field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "warning"]

    @property
    def outcome(self) -> Literal["accepted", "warned", "rejected"]:
        """Rejected by an error, warned of by a warning; notes leave it accepted."""
        if self.errors:
            return "rejected"
        return "warned" if self.warnings else "accepted"

    def joined(self, findings: Sequence[Finding], quality: dict[str, Any] | None) -> Report:
        """With what a look at the dataset as a whole has found, in the same order."""
        both = sorted([*self.findings, *findings], key=_place)
        ok = all(found.severity != "error" for found in both)
        return self.model_copy(update={"findings": both, "quality": quality, "ok": ok})

    def raise_for_errors(self) -> None:
        """Raise DataError, which carries this report, when there is an error."""
        errors = self.errors
        if not errors:
            return
        first = errors[0]
        line = f"line {first.line}" if first.line else ""
        where = "".join(f"{part}: " for part in (line, first.path) if part)
        more = f" ({len(errors) - 1} more kinds of errors)" if len(errors) > 1 else ""
        raise DataError(f"{where}{first.message}{more}", hint=first.fix, report=self)


@dataclass(frozen=True, slots=True)
class Defect:
    """A rule that was broken at one place. ``detail`` replaces the rule's title, ``fix`` its
    advice."""

    code: str
    path: str = ""
    detail: str = ""
    fix: str = ""


@dataclass(slots=True)
class _Group:
    defect: Defect
    count: int = 0
    lines: list[int] = field(default_factory=list)


class Findings:
    """Collects defects and groups those of one code at one kind of place (``messages[*]``)."""

    def __init__(self, backends: Sequence[str] | None = None) -> None:
        self.backends = tuple(backends or BACKENDS)
        self.families: frozenset[Family] = frozenset(map(family_of, self.backends))
        self._groups: dict[tuple[str, str], _Group] = {}
        self._dropped = 0

    def add(self, defect: Defect, line: int | None = None, count: int = 1) -> bool:
        """Note a defect; True when it is an error for a judged backend."""
        severity = self.severity(defect.code)
        if severity is None:
            return False
        key = (defect.code, _INDEX.sub("[*]", defect.path))
        group = self._groups.get(key)
        if group is None and len(self._groups) >= MAX_GROUPS:
            self._dropped += 1
        else:
            if group is None:
                group = self._groups[key] = _Group(defect)
            group.count += count
            if line is not None and len(group.lines) < MAX_LINES and line not in group.lines:
                group.lines.append(line)
        return severity == "error"

    def extend(self, later: Findings) -> bool:
        """Add what was found further on in the file; False when there is too much to know what
        one pass would have kept."""
        for key, found in later._groups.items():
            group = self._groups.setdefault(key, _Group(found.defect))
            group.count += found.count
            group.lines += found.lines[: MAX_LINES - len(group.lines)]
        return not later._dropped and not self._dropped and len(self._groups) <= MAX_GROUPS

    def severity(self, code: str) -> Severity | None:
        """The gravest of what the judged backends make of this rule; None: nothing."""
        judged = {RULES[code].severity(family) for family in self.families}
        return next((severity for severity in _RANK if severity in judged), None)

    def listed(self) -> list[Finding]:
        """The findings: errors first, then by line."""
        groups = [*self._groups.values()]
        if self._dropped:
            groups.append(_Group(Defect("too_many_findings"), self._dropped))
        found = [self._finding(group) for group in groups]
        return sorted(found, key=_place)

    def _finding(self, group: _Group) -> Finding:
        defect, rule = group.defect, RULES[group.defect.code]
        return Finding(
            code=defect.code,
            severity=self.severity(defect.code) or "note",
            line=group.lines[0] if group.lines else None,
            path=shortened(defect.path, MAX_PATH),
            message=f"{_sentence(defect.detail or rule.title)} {rule.why}",
            fix=defect.fix or rule.fix,
            backends=[name for name in self.backends if rule.severity(family_of(name)) == "error"],
            count=group.count,
            lines=group.lines,
        )


def _place(found: Finding) -> tuple[int, int, str]:
    """Where a finding stands in a list of them."""
    return _RANK[found.severity], found.line or 0, found.code


def family_of(backend: str) -> Family:
    """Whose rules a backend is judged by."""
    return "local" if backend in _LOCAL else "hosted"


def quoted(value: object) -> str:
    """Some data for a message, with quotes, cut to a bounded length, nothing unprintable."""
    text = value if isinstance(value, str) else str(value)
    return ascii_safe(repr(shortened(text, MAX_QUOTE)))


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def ascii_safe(text: str) -> str:
    """The text with what cannot be printed or encoded written as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def wrong_type(path: str, value: object, wanted: str, hint: str = "") -> Defect:
    """A value of the wrong JSON type."""
    return Defect("type_error", path, f"this must be {wanted}, not {json_type(value)}{hint}")


def json_type(value: object) -> str:
    """What JSON calls a value."""
    if value is None:
        return "null"
    return _TYPES.get(type(value), "an object")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
