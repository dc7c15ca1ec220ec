"""Findings about a dataset, the report they make, and the collector that groups them.

Knows the table of rules; knows nothing of files or formats.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_gateway.checks.file_rules import FILE_GROUPS
from finetune_gateway.checks.rules import ROW_GROUPS, Family, Rule, Severity
from finetune_gateway.dataset import Dataset, Kind, Rows
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.quality import private

GROUPS: dict[str, dict[str, Rule]] = {**FILE_GROUPS, **ROW_GROUPS}  # what they are about -> rules
RULES: dict[str, Rule] = {code: rule for group in GROUPS.values() for code, rule in group.items()}

BACKENDS = ("openai", "azure", "local")  # judged when nobody names one

# Everything else speaks OpenAI's wire contract and is judged by its rules.
_LOCAL = frozenset({"local", "ray", "fake"})

MAX_GROUPS = 1000  # distinct findings kept; memory and output stay bounded
MAX_LINES = 10  # line numbers kept for one finding
MAX_QUOTE = 60  # characters of the data quoted in a message
MAX_PATH = 200
MASKED = 1000  # characters of a text that are looked through before it is quoted

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

    model_config = ConfigDict(frozen=True, defer_build=True)

    code: str = Field(description="The rule that was broken: ftg rules CODE says all of it.")
    severity: Severity = Field(description="The gravest of what the judged backends make of it.")
    line: int | None = Field(description="The first line, from 1; null: the file as a whole.")
    path: str = Field(
        description="Where in the row: messages[2].tool_calls[0].function.arguments; may be empty."
    )
    message: str = Field(description="What is wrong, and why it matters. Personal data is masked.")
    fix: str = Field(description="What to do.")
    backends: list[str] = Field(description="Those of the judged backends that would refuse it.")
    count: int = Field(description="How many times it was found.")
    lines: list[int] = Field(description="The first ten lines it was found in.")


class Report(BaseModel):
    """What ``validate`` found. Its JSON is what ``ftg validate --json`` prints."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    ok: bool = Field(description="Whether there is no error.")
    format: str = Field(
        description="openai-chat, openai-preference, prompt-completion, alpaca, text, ... "
        "or unknown."
    )
    kind: Kind = Field(description="What a row is an example of; decides which methods fit.")
    rows: int = Field(description="Lines that are not blank, those with errors included.")
    tokens: dict[str, Any] | None = Field(
        default=None, description="Of the rows without an error; null: not counted."
    )
    quality: dict[str, Any] | None = Field(
        default=None, description="Figures of the dataset as a whole; null: not looked at."
    )
    findings: list[Finding] = Field(
        default_factory=list, description="Errors first, then warnings and notes; each by line."
    )
    ignored: dict[str, int] = Field(
        default_factory=dict,
        description="Codes that were to be ignored, and how many times each was found.",
    )

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
        return self._of(both).model_copy(update={"quality": quality})

    def without(self, codes: Collection[str]) -> Report:
        """With the findings of these codes counted in ``ignored`` and no longer listed."""
        counts = {code: 0 for code in sorted(codes)}
        for found in self.findings:
            if found.code in counts:
                counts[found.code] += found.count
        kept = [found for found in self.findings if found.code not in counts]
        return self._of(kept).model_copy(update={"ignored": counts})

    def _of(self, findings: list[Finding]) -> Report:
        ok = all(found.severity != "error" for found in findings)
        return self.model_copy(update={"findings": findings, "ok": ok})

    def to_html(
        self,
        path: str | os.PathLike[str],
        data: str | os.PathLike[str] | Rows | Dataset,
        *,
        model: str | None = None,
        limit: int | None = None,
        force: bool = False,
    ) -> None:
        """Write this report as one HTML page, with the rows of ``data`` that findings name.

        ``limit``: tokens that an example may have, drawn among the lengths. Raises SpecError
        when the file exists and ``force`` is not set, StoreError when it cannot be written.
        """
        write = import_module("finetune_gateway.pages.report").write
        write(self, Path(path), Dataset.open(data), model=model, limit=limit, force=force)

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


def quoted(value: object) -> str:
    """Some data for a message, with quotes, cut to a bounded length, nothing unprintable or
    private."""
    text = value if isinstance(value, str) else str(value)
    return ascii_safe(repr(shortened(hidden(text[:MASKED]), MAX_QUOTE)))


@lru_cache(maxsize=1024)  # the same few words in thousands of rows
def hidden(text: str) -> str:
    """The text with personal data and keys masked."""
    for name, piece in private.found(text):
        if name != "a private key":  # its first line tells nothing of it
            text = text.replace(piece, private.masked(piece))
    return text


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
