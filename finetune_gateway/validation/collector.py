"""Collects defects, judges them by the table of rules, and groups them into findings.

Knows nothing of files or formats.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from finetune_gateway.errors import SpecError
from finetune_gateway.findings import RANK, Defect, Finding, Severity, position
from finetune_gateway.text.quoting import MAX_PATH, quoted, shortened
from finetune_gateway.validation.file_rules import FILE_GROUPS
from finetune_gateway.validation.rules import ROW_GROUPS, Family, Rule

GROUPS: dict[str, dict[str, Rule]] = {**FILE_GROUPS, **ROW_GROUPS}  # what they are about -> rules
RULES: dict[str, Rule] = {code: rule for group in GROUPS.values() for code, rule in group.items()}

BACKENDS = ("openai", "azure", "local")  # judged when nobody names one

# Everything else speaks OpenAI's wire contract and is judged by its rules.
_LOCAL = frozenset({"local", "ray", "fake"})

MAX_GROUPS = 1000  # distinct findings kept; memory and output stay bounded
MAX_LINES = 10  # line numbers kept for one finding
_INDEX = re.compile(r"\[\d+\]")


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
        self._codes: set[str] = set()
        self._dropped = 0

    def add(self, defect: Defect, line: int | None = None, count: int = 1) -> bool:
        """Note a defect; True when it is an error for a judged backend."""
        severity = self.severity(defect.code)
        if severity is None:
            return False
        key = (defect.code, _INDEX.sub("[*]", defect.path))
        group = self._groups.get(key)
        # The first of a code is always kept: a thousand odd keys must not hide an error.
        if group is None and len(self._groups) >= MAX_GROUPS and defect.code in self._codes:
            self._dropped += 1
        else:
            if group is None:
                group = self._groups[key] = _Group(defect)
                self._codes.add(defect.code)
            group.count += count
            if line is not None and len(group.lines) < MAX_LINES and line not in group.lines:
                group.lines.append(line)
        return severity == "error"

    def extend(self, later: Findings) -> bool:
        """Add what was found further on in the file; False when there is too much to know what
        one pass would have kept."""
        for key, found in later._groups.items():
            group = self._groups.setdefault(key, _Group(found.defect))
            self._codes.add(found.defect.code)
            group.count += found.count
            group.lines += found.lines[: MAX_LINES - len(group.lines)]
        return not later._dropped and not self._dropped and len(self._groups) <= MAX_GROUPS

    def severity(self, code: str) -> Severity | None:
        """The gravest of what the judged backends make of this rule; None: nothing."""
        judged = {RULES[code].severity(family) for family in self.families}
        return next((severity for severity in RANK if severity in judged), None)

    def listed(self) -> list[Finding]:
        """The findings: errors first, then by line."""
        groups = [*self._groups.values()]
        if self._dropped:
            groups.append(_Group(Defect("too_many_findings"), self._dropped))
        found = [self._finding(group) for group in groups]
        return sorted(found, key=position)

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


def ignorable(codes: str | Iterable[str]) -> frozenset[str]:
    """The codes of rules that may be ignored, from a list or a text with commas.

    Raises SpecError for a code that no rule has, and for one that says that (a part of) the file
    was not read: without it the report would say that all is well.
    """
    listed = [codes] if isinstance(codes, str) else codes
    names = [name.strip() for text in listed for name in text.split(",") if name.strip()]
    return frozenset(_ignorable(name) for name in names)


def known_code(name: str) -> str:
    """The code of a rule, as it is written in the table. Raises SpecError with those near it."""
    code = name.strip().lower().replace("-", "_")
    if code in RULES:
        return code
    near = difflib.get_close_matches(code[:60], RULES, n=3, cutoff=0.5)
    hint = f"Did you mean: {', '.join(near)}?" if near else "All of them: ftg rules"
    raise SpecError(f"There is no rule {quoted(name)}.", hint=hint)


def _ignorable(name: str) -> str:
    code = known_code(name)
    if RULES[code].unread:
        raise SpecError(
            f"{code} cannot be ignored: where it is found, rows were not looked at.",
            hint=f"What to do about it: ftg rules {code}",
        )
    return code


def family_of(backend: str) -> Family:
    """Whose rules a backend is judged by."""
    return "local" if backend in _LOCAL else "hosted"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
