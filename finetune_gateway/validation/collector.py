"""Turn defects into findings: severity and advice from the table of rules, equal ones grouped.

Knows nothing of files or formats.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from finetune_gateway.errors import GatewayError, SpecError, shown
from finetune_gateway.findings import RANK, Defect, Finding, Severity, position
from finetune_gateway.text.quoting import MAX_PATH, quoted, shortened
from finetune_gateway.validation.rules import (
    COMMON,
    RULES,
    SEVERITIES,
    RuleSet,
    families,
    known_backends,
)

MAX_GROUPS = 1000  # distinct findings kept, to bound memory and output
MAX_LINES = 10  # line numbers kept for one finding
_BASE = "extends"  # the key of a declaration that names the family below it
_INDEX = re.compile(r"\[\d+\]")


@dataclass(slots=True)
class _Group:
    defect: Defect
    count: int = 0
    lines: list[int] = field(default_factory=list)


class Findings:
    """Collects defects and groups those with one code, one kind and one sort of path
    (``messages[*]``).

    ``backends``: whose rules count, by default ``known_backends()``; see ``rules_for``.
    """

    def __init__(self, backends: Mapping[str, RuleSet] | None = None) -> None:
        self.backends = backends or known_backends()
        self._severities: dict[str, Severity | None] = {}
        self._groups: dict[tuple[str, str, str], _Group] = {}
        self._codes: set[str] = set()
        self.met: set[str] = set()  # of all defects, also of rules that do not count
        self._dropped = 0

    def add(self, defect: Defect, line: int | None = None, count: int = 1) -> bool:
        """Add a defect; return True if it is an error for one of the backends."""
        self.met.add(defect.code)
        severity = self.severity(defect.code)
        if severity is None:
            return False
        path = _INDEX.sub("[*]", defect.path) if "[" in defect.path else defect.path
        key = (defect.code, defect.kind, path)
        group = self._groups.get(key)
        # The first of each code is always kept: a thousand odd keys must not hide an error.
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
        """Add the findings of a later part of the file; return False if there are too many to
        know which of them one pass would have kept."""
        self.met |= later.met
        for key, other in later._groups.items():
            group = self._groups.setdefault(key, _Group(other.defect))
            self._codes.add(other.defect.code)
            group.count += other.count
            group.lines += other.lines[: MAX_LINES - len(group.lines)]
        return not later._dropped and not self._dropped and len(self._groups) <= MAX_GROUPS

    def reword(self, code: str, **words: str) -> None:
        """Let the findings of a rule say this (``detail``, ``fix``), which is known at the end of
        the file."""
        for (name, _, _), group in self._groups.items():
            if name == code:
                group.defect = replace(group.defect, **words)

    def severity(self, code: str) -> Severity | None:
        """Return what the backends together make of a rule; None: it does not count.

        The gravest of their severities. Of a row that is right elsewhere the least, but a note at
        least, if one of them minds it.
        """
        if code not in self._severities:
            found = {rules.severity(code) for rules in self.backends.values()}
            counting = [one for one in RANK if one in found]
            if RULES[code].elsewhere and len(found) > 1:
                counting = ["note"] if None in found else counting[::-1]
            self._severities[code] = counting[0] if counting else None
        return self._severities[code]

    def listed(self) -> list[Finding]:
        """Return the findings: errors first, then by line."""
        groups = [*self._groups.values()]
        if self._dropped:
            groups.append(_Group(Defect("too_many_findings"), self._dropped))
        return sorted(map(self._finding, groups), key=position)

    def _finding(self, group: _Group) -> Finding:
        defect, rule = group.defect, RULES[group.defect.code]
        return Finding.model_construct(  # of our own values: see TokenCounter.stats
            code=defect.code,
            severity=self.severity(defect.code) or "note",
            line=group.lines[0] if group.lines else None,
            kind=defect.kind,
            path=shortened(defect.path, MAX_PATH),
            message=f"{_sentence(defect.detail or rule.title)} {rule.why}",
            fix=defect.fix or rule.fix,
            backends=[
                name
                for name, rules in self.backends.items()
                if rules.severity(defect.code) == "error"
            ],
            count=group.count,
            lines=[*group.lines],
        )


def ignorable(codes: str | Iterable[str]) -> frozenset[str]:
    """Return codes to ignore, from a list or a text with commas.

    Raises SpecError for an unknown code, and for a rule that means that part of the file was not
    read: without it the report would call the file good.
    """
    listed = [codes] if isinstance(codes, str) else codes
    if not isinstance(listed, Iterable):
        raise SpecError(f"ignore must be codes of rules, not {shown(codes)}.")
    texts = list(listed)
    for wrong in (one for one in texts if not isinstance(one, str)):
        raise SpecError(f"ignore is a list of codes: {shown(wrong)} is none.")
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    return frozenset(_ignorable(name) for name in names)


def known_code(name: str) -> str:
    """Return the code of a rule as the table spells it. Raises SpecError that suggests similar
    ones."""
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
            f"{code} cannot be ignored: it means that rows were not checked.",
            hint=f"What to do about it: ftg rules {code}",
        )
    return code


def rules_for(backend: str, declared: str | Mapping[str, str]) -> dict[str, RuleSet]:
    """Return a backend with the rules that judge it, as its ``Capabilities.rules`` declares them.

    Raises GatewayError for what is no declaration: an unknown family, rule or severity, or a rule
    that cannot be switched off. It is a mistake in the backend, never in the data.
    """
    if isinstance(declared, str):
        return {backend: RuleSet(_known_family(declared, backend))}
    if not isinstance(declared, Mapping):
        raise _mistake(backend, f"must be the name of a family or a mapping, not {shown(declared)}")
    family = _known_family(declared.get(_BASE, COMMON), backend)
    own = {code: _own(code, said, backend) for code, said in declared.items() if code != _BASE}
    return {backend: RuleSet(family, own)}


def _known_family(name: object, backend: str) -> str:
    if isinstance(name, str) and (name == COMMON or name in families()):
        return name
    known = ", ".join([COMMON, *families()])
    raise _mistake(backend, f"names the family {shown(name)}, which does not exist", known)


def _own(code: str, said: object, backend: str) -> Severity | None:
    if code not in RULES:
        raise _mistake(backend, f"names the rule {shown(code)}, which does not exist")
    if not isinstance(said, str) or said not in SEVERITIES:
        known = ", ".join(SEVERITIES)
        raise _mistake(backend, f"gives {code} the severity {shown(said)}, which is none", known)
    severity, least = SEVERITIES[said], RULES[code].default
    if RULES[code].unread and (severity is None or RANK[severity] > RANK[least or "note"]):
        raise _mistake(backend, f"makes {code} less than {least}: it says that rows were not read")
    return severity


def _mistake(backend: str, what: str, known: str = "") -> GatewayError:
    return GatewayError(
        f"Capabilities.rules of backend {quoted(backend)} {what}.",
        hint=f"Known: {known}." if known else "See: ftg rules. It is for the backend's author.",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
