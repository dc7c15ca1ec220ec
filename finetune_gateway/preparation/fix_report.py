"""What ``--fix`` has done, and what it leaves."""

from __future__ import annotations

import shlex
from array import array

from pydantic import ConfigDict, Field

from finetune_gateway.data.column_names import is_plain
from finetune_gateway.data.formats import CHAT, MAX_KEYS, PREFERENCE
from finetune_gateway.data.reading import Observation
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.model import Model
from finetune_gateway.preparation.fix_row import Formats
from finetune_gateway.text.quoting import quoted
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
    kept: str = Field(
        "", description="Why rows keep their format, and what writes chat rows; empty if none does."
    )
    unsafe: list[Unsafe] = Field(description="Errors and warnings that are left.")


class FixReport(Mended):
    """The result of ``--fix``, and the report on the copy."""

    report: Report

    @property
    def changed(self) -> int:
        """The number of changes."""
        return sum(self.changes.values())


def kept_as(seen: Formats) -> str:
    """Return why the rows of a file keep their format, and the command that writes them as chat
    rows; empty if they do not."""
    (name, *others) = seen.names or ("",)
    if seen.convert or others or name in (CHAT.name, PREFERENCE.name):
        return ""
    if seen.refused:
        return f"The rows stay in the format {name}: not all of them can be written as chat rows."
    beside = [key for key in seen.beside if is_plain(key)]
    listed = ", ".join(map(quoted, beside[:MAX_KEYS]))
    more = f" and {len(beside) - MAX_KEYS} more" if len(beside) > MAX_KEYS else ""
    drop = "".join(f" --drop {shlex.quote(key)}" for key in beside if seen.beside[key])
    return (
        f"The rows stay in the format {name}, because of keys beside the example: {listed}{more}. "
        f"To write chat rows without them: ftg convert old.jsonl --to openai{drop} -o new.jsonl"
    )


def left(one: Observation) -> Unsafe:
    """Return what was seen in a table and has to be corrected by hand."""
    findings = Findings()
    for line in one.lines:
        findings.add(Defect(one.code, one.path, one.detail, one.fix), line)
    (finding,) = findings.listed()
    return Unsafe(finding=finding.model_copy(update={"count": one.count}), lines=one.lines)


def unsafe(finding: Finding, origin: array[int]) -> Unsafe:
    return Unsafe(finding=finding, lines=[origin[line - 1] for line in finding.lines])
