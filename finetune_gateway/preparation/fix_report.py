"""What ``--fix`` has done, and what it leaves."""

from __future__ import annotations

from array import array

from pydantic import ConfigDict, Field

from finetune_gateway.data.reading import Observation
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.model import Model
from finetune_gateway.validation.collector import Findings


class Unsafe(Model):
    """A finding that is left, with its lines in the file that was mended."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    finding: Finding = Field(description="As validating the copy found it, with its lines there.")
    lines: list[int] = Field(description="The lines in the file that was mended.")


class Mended(Model):
    """What ``--fix`` has done (``fix`` in the JSON of ``ftg validate``)."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    out: str = Field(description="The mended copy.")
    log: str = Field(description="Its log: one JSON object a change.")
    rows: int = Field(description="Rows in the copy.")
    changes: dict[str, int] = Field(description="Changes by code.")
    unsafe: list[Unsafe] = Field(description="Errors and warnings that are left.")


class FixReport(Mended):
    """The result of ``--fix``, and the report on the copy."""

    report: Report

    @property
    def changed(self) -> int:
        """The number of changes."""
        return sum(self.changes.values())


def left(one: Observation) -> Unsafe:
    """Return what was seen in a table and has to be corrected by hand."""
    findings = Findings()
    for line in one.lines:
        findings.add(Defect(one.code, one.path, one.detail, one.fix), line)
    (finding,) = findings.listed()
    return Unsafe(finding=finding.model_copy(update={"count": one.count}), lines=one.lines)


def unsafe(finding: Finding, origin: array[int]) -> Unsafe:
    return Unsafe(finding=finding, lines=[origin[line - 1] for line in finding.lines])
