"""Findings about a dataset, the report with them, and paths into rows.

The table of rules and the collector that groups findings are in ``validation``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field

from finetune_gateway.data.dataset import Dataset, Kind, Rows
from finetune_gateway.errors import DataError
from finetune_gateway.model import Given, exact_methods
from finetune_gateway.renderers import Shown, renderer
from finetune_gateway.settings.arguments import as_path
from finetune_gateway.text.quoting import MASKED, ascii_safe, hidden, json_type, shortened

Severity = Literal["error", "warning", "note"]

RANK: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_KEY = 15  # characters; nothing that is masked is shorter and begins with a letter


class Finding(Given):
    """One thing said about the data; the same defect in many rows is one finding."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    code: str = Field(description="The rule that was broken: ftg rules CODE says all of it.")
    severity: Severity = Field(description="The gravest of what the judged backends make of it.")
    line: int | None = Field(description="The first line, from 1; null: the file as a whole.")
    kind: str = Field(
        default="", description="Of private data what it is, like 'an e-mail address'; else empty."
    )
    path: str = Field(
        description="Where in the row: messages[2].tool_calls[0].function.arguments; may be empty."
    )
    message: str = Field(description="What is wrong, and why it matters. Personal data is masked.")
    fix: str = Field(description="What to do.")
    backends: list[str] = Field(description="Those of the judged backends that would refuse it.")
    count: int = Field(description="How many times it was found.")
    lines: list[int] = Field(description="The first ten lines it was found in.")


@exact_methods
class Report(Shown, Given):
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
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def outcome(self) -> Literal["accepted", "warned", "rejected"]:
        """``rejected`` with errors, ``warned`` with warnings, else ``accepted``."""
        if self.errors:
            return "rejected"
        return "warned" if self.warnings else "accepted"

    def with_quality(self, findings: Sequence[Finding], quality: dict[str, Any] | None) -> Report:
        """Return the report with findings and figures of the dataset as a whole."""
        both = sorted([*self.findings, *findings], key=position)
        return self._of(both).model_copy(update={"quality": quality})

    def without(self, codes: Collection[str]) -> Report:
        """Return the report without findings of these codes, which are counted in ``ignored``."""
        counts = {code: 0 for code in sorted(codes)}
        for finding in self.findings:
            if finding.code in counts:
                counts[finding.code] += finding.count
        kept = [finding for finding in self.findings if finding.code not in counts]
        return self._of(kept).model_copy(update={"ignored": counts})

    def _of(self, findings: list[Finding]) -> Report:
        ok = all(finding.severity != "error" for finding in findings)
        return self.model_copy(update={"findings": findings, "ok": ok})

    def to_html(
        self,
        path: str | os.PathLike[str],
        data: str | os.PathLike[str] | Rows | Dataset,
        *,
        model: str | None = None,
        limit: int | None = None,
        no_rows: bool = False,
        force: bool = False,
    ) -> None:
        """Write this report as one HTML page, with the rows of ``data`` that findings name.

        ``limit``: tokens that an example may have, drawn among the lengths. ``no_rows``: no text
        of the rows is on the page, in findings and figures neither. Raises SpecError when the file
        exists and is not a page of ours, unless ``force`` is set, StoreError when it cannot be
        written.
        """
        write = renderer("Report.to_html")
        to = as_path(path, "path")
        dataset = Dataset.open(data)
        write(self, to, dataset, model=model, limit=limit, no_rows=no_rows, force=force)

    def raise_for_errors(self) -> None:
        """Raise DataError with this report if there is an error."""
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
    """A broken rule at one place. ``detail`` replaces the title of the rule, ``fix`` its advice.

    ``kind``: defects of a rule that are listed apart, like e-mail addresses and card numbers.
    """

    code: str
    path: str = ""
    detail: str = ""
    fix: str = ""
    kind: str = ""


def position(finding: Finding) -> tuple[int, int, str]:
    """Return the sort key of a finding: severity, then line, then code."""
    return RANK[finding.severity], finding.line or 0, finding.code


def wrong_type(path: str, value: object, expected: str, hint: str = "") -> Defect:
    """Return the defect of a value of the wrong JSON type."""
    return Defect("type_error", path, f"this must be {expected}, not {json_type(value)}{hint}")


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key and every leaf of a JSON value, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = child(path, key)
            yield here, key
            yield from walk(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{path}[{index}]")
    else:
        yield path, value


def child(path: str, key: str) -> str:
    """Return the path of a key: ``a.b``, or ``a["odd key"]``, bounded and printable."""
    if _PLAIN_KEY.fullmatch(key) and (len(key) < _KEY or hidden(key) == key):
        return f"{path}.{key}" if path else key
    return f'{path}["{ascii_safe(shortened(hidden(key[:MASKED]), 40))}"]'
