"""Preview selected rows of a file, each validated first.

Reads no further than the last row requested; a bad row has the findings of ``validate``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from finetune_gateway.backend import Capabilities
from finetune_gateway.data.column_names import as_argument
from finetune_gateway.data.dataset import Dataset, Line
from finetune_gateway.data.row_access import Json
from finetune_gateway.errors import DataError, NotFoundError, SpecError, shown
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.masks.hosted import HostedRenderer
from finetune_gateway.tokens.masks.preview import Preview, PreviewRenderer
from finetune_gateway.validation import run as validation_run
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.file_bytes import HEAD, file_defect
from finetune_gateway.validation.json.parsing import BadLine, decode, parse
from finetune_gateway.validation.rules import RuleSet

FIRST = 3  # rows shown by default


def hosted_renderer(spec: TrainingSpec, limits: Capabilities) -> HostedRenderer:
    """Return the renderer for rows by the hosts' documented rule."""
    limit = spec.max_length or limits.max_context
    return HostedRenderer(spec.model, limit=limit, train_on=spec.train_on)


def previews(
    dataset: Dataset,
    renderer: PreviewRenderer,
    backends: Mapping[str, RuleSet],
    numbers: Collection[int] | None = None,
    method: str | None = None,
) -> list[Preview]:
    """Return the previews of the rows in these lines (from 1), by default the first three,
    validated for ``backends`` and this method, by default the usual one of each row.

    Raises DataError if the file is not JSONL or is empty, NotFoundError for a line it does not
    have, SpecError for a number below 1.
    """
    _raise_if_not_text(dataset)
    dataset.require_certain()
    if numbers is not None:
        _check_numbers(numbers)
    lines = _first(dataset) if numbers is None else _select(dataset, {*numbers})
    rows = [_preview(line, renderer, backends, method) for line in lines]
    for row in rows:
        named = validation_run.of_users_columns(row.findings, dataset.reading.columns)
        row.findings = validation_run.with_path(named, dataset)
    if not rows:
        _raise(Defect("no_examples"), dataset)
    return rows


def _check_numbers(numbers: Collection[int]) -> None:
    if not isinstance(numbers, Iterable) or not all(isinstance(one, int) for one in numbers):
        raise SpecError(f"rows must be a list of line numbers, not {shown(numbers)}.")
    if any(number < 1 for number in numbers):
        raise SpecError("Lines are counted from 1.", hint="The first row is row 1.")


def _raise_if_not_text(dataset: Dataset) -> None:
    with dataset.path.open("rb") as file:
        defect = file_defect(file.read(HEAD))
    if defect:
        _raise(defect, dataset)


def _raise(defect: Defect, dataset: Dataset) -> None:
    """Raise DataError, with the command that shows all findings."""
    findings = Findings()
    findings.add(defect)
    listed = validation_run.with_path(findings.listed(), dataset)
    try:
        Report(
            ok=False, format="unknown", kind="unknown", rows=0, findings=listed
        ).raise_for_errors()
    except DataError as exc:
        if dataset.source is not None:
            exc.command = f"ftg validate {as_argument(dataset.source)}"
        raise


def _first(dataset: Dataset) -> Iterator[Line]:
    return islice((line for line in dataset.lines() if line.body.strip()), FIRST)


def _select(dataset: Dataset, numbers: set[int]) -> Iterator[Line]:
    left, last, lines = set(numbers), 0, dataset.lines()
    for line in lines:
        last = line.number
        if last not in left:
            continue
        if not line.body.strip():
            following = next((one.number for one in lines if one.body.strip()), None)
            raise NotFoundError(
                f"Line {last} of {dataset.name} has no row.",
                hint=f"The next row begins in line {following}."
                if following
                else "No row follows it: name a line before.",
            )
        yield line
        left.discard(last)
        if not left:
            return
    if left:
        raise NotFoundError(
            f"{dataset.name} has no line {min(left)}; its last is line {last}.",
            hint="Lines are counted from 1, as in the findings of validate.",
        )


def _preview(
    line: Line, renderer: PreviewRenderer, backends: Mapping[str, RuleSet], method: str | None
) -> Preview:
    row, report = _validate_line(line, backends, method)
    if row is None or report.errors:
        return Preview(line.number, report.format, renderer.model, findings=report.findings)
    try:
        preview = renderer.preview(row, line.number)
    except DataError as exc:
        refusal = Defect("template_refuses", detail=exc.message, fix=exc.hint)
        findings = [*_findings(refusal, line.number, backends), *report.findings]
        return Preview(line.number, report.format, renderer.model, findings=findings)
    preview.findings = report.findings
    return preview


def _validate_line(
    line: Line, backends: Mapping[str, RuleSet], method: str | None
) -> tuple[Json | None, Report]:
    """Return the row, and the report on a file of this line alone."""
    raw = line.body
    try:
        if line.cut:
            raise BadLine(Defect("line_too_long"))
        row = parse(decode(raw, line.offset))
    except BadLine as exc:
        findings = _findings(exc.defect, line.number, backends)
        return None, Report(ok=False, format="unknown", kind="unknown", rows=1, findings=findings)
    report = _report(raw, line.number, method or validation_run.usual_method_of(row), backends)
    return row if isinstance(row, dict) else None, report


def _findings(defect: Defect, line: int, backends: Mapping[str, RuleSet]) -> list[Finding]:
    findings = Findings(backends)
    findings.add(defect, line)
    return findings.listed()


def _report(raw: bytes, number: int, method: str, backends: Mapping[str, RuleSet]) -> Report:
    with tempfile.TemporaryDirectory(prefix="ftg-") as folder:
        path = Path(folder) / "row.jsonl"
        write_atomic(path, raw + b"\n", fsync=False, private=True)
        report = validation_run.validate(
            Dataset(path, path.name), backends=backends, method=method, min_rows=1
        )
    findings = [
        finding.model_copy(update={"line": number, "lines": [number]} if finding.line else {})
        for finding in report.findings
    ]
    return report.model_copy(update={"findings": findings})
