"""Rules about a dataset as a whole, which no single row can break.

Contradictions, repeated answers, system prompts, lengths, classes, languages, near-duplicates,
leaks into other files, texts lost by a model's template, and drift from production. Runs after
the rules about rows. Memory: about 60 bytes a row, 100 with near-duplicates, 260 for rows unlike
all others; 200 more for each row of a file it is compared with.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_content import near_digest, same_digest
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.dataset import drift, near_duplicates, survey, template_loss
from finetune_gateway.validation.dataset.row_index import Index
from finetune_gateway.validation.dataset.row_text import (
    FEW_WORDS,
    content_hash,
    extract_row_text,
    iter_row_texts,
    parse_leniently,
)
from finetune_gateway.validation.dataset.statistics import CountedDefect, numbered, rows_have
from finetune_gateway.validation.file_bytes import OnProgress, sample_lines
from finetune_gateway.validation.rules import RuleSet

Json = dict[str, Any]

AUTO_BYTES = 4 << 20  # of larger files a sample is looked at; this size takes half a second
SAMPLE_BYTES = 1 << 20
NEAR_BYTES = 256 << 10  # the same for near-duplicates
TEMPLATE_ROWS = 200  # rows rendered through a model's template


@dataclass(frozen=True, slots=True)
class Analysis:
    """Findings about a dataset as a whole, and the figures behind them (``Report.quality``)."""

    findings: list[Finding]
    figures: Json


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What to analyze.

    ``quality``: None analyzes a sample of a large file. ``against``: validation or test data that
    should share no row. ``like``: a sample of production prompts.
    """

    quality: bool | None = None
    against: Dataset | None = None
    like: Dataset | None = None

    @property
    def enabled(self) -> bool:
        """True if the dataset is to be analyzed."""
        return self.quality is not False or bool(self.against or self.like)


def with_quality(
    report: Report,
    dataset: Dataset,
    options: AnalysisOptions,
    *,
    backends: Mapping[str, RuleSet] | None = None,
    method: str = "sft",
    render: Callable[[Json], str] | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Return the report with the analysis added; unchanged if no row could be read."""
    if report.format == "unknown" or not options.enabled:
        return report
    analysis = analyze(
        dataset,
        backends=backends,
        method=method,
        against=[options.against] if options.against else [],
        like=options.like,
        render=render,
        thorough=bool(options.quality),
        rows=report.rows,
        on_progress=on_progress,
    )
    return report.with_quality(analysis.findings, analysis.figures)


def find_leaks(train: Dataset, held_out: Dataset) -> list[CountedDefect]:
    """Return the rows that training data shares with validation data; empty for large files,
    where the search would take seconds."""
    if train.size + held_out.size > AUTO_BYTES:
        return []
    return _leaks(train, [held_out], {})


def with_leaks(
    report: Report, leaks: Sequence[CountedDefect], backends: Mapping[str, RuleSet]
) -> Report:
    """Return the report on training data with the leaks that ``find_leaks`` returned."""
    if not leaks:
        return report
    findings = Findings(backends)
    for defect, line, count in leaks:
        findings.add(defect, line, count)
    return report.with_quality(findings.listed(), report.quality)


def analyze(
    dataset: Dataset,
    *,
    backends: Mapping[str, RuleSet] | None = None,
    method: str = "sft",
    against: Sequence[Dataset] = (),
    like: Dataset | None = None,
    render: Callable[[Json], str] | None = None,
    thorough: bool = True,
    rows: int | None = None,
    on_progress: OnProgress | None = None,
) -> Analysis:
    """Return findings and figures of a dataset as a whole.

    ``against``: other parts of the data (validation, test) that should share no row with it.
    ``like``: a sample of production prompts it should resemble. ``render``: a local model's
    template. ``thorough``: detect languages and, in large files too, near-duplicates; else a sample
    of a large file is read. ``rows``: how many there are, as the check has counted them; default:
    those that are read here. ``on_progress`` is called with the bytes done and all of them.
    """
    figures: Json = {}
    near = near_duplicates.available() and (thorough or dataset.size <= NEAR_BYTES)
    if thorough or dataset.size <= AUTO_BYTES or against or like:
        read = survey.read(
            dataset, languages=thorough, near=near, on_progress=_reading(on_progress)
        )
    else:
        read = survey.Survey(languages=False)
        with dataset.path.open("rb") as file:
            read.read(iter_row_texts(dataset, sample_lines(file.fileno(), SAMPLE_BYTES)))
        figures["sample"] = SAMPLE_BYTES  # of the file that were read
    defects = [*read.defects(figures, method, rows)]
    if read.index is not None:
        defects += _similar_rows(dataset, figures, read.index, _comparing(on_progress))
    elif thorough:
        defects.append((Defect("near_duplicates_unseen"), None, 1))
    defects += _leaks(dataset, against, figures)
    if render is not None:
        defects += template_loss.defects(dataset, render, TEMPLATE_ROWS)
    if like is not None:
        defects += drift.defects(dataset, like, figures)
    findings = Findings(backends)
    for defect, line, count in defects:
        findings.add(defect, line, count)
    return Analysis(findings.listed(), figures)


def _reading(on_progress: OnProgress | None) -> OnProgress | None:
    """Return the progress of the first 80 % of the work."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(4 * done, 5 * total)


def _comparing(on_progress: OnProgress | None) -> OnProgress | None:
    """Return the progress of the rest."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(4 * total + done, 5 * total)


def _similar_rows(
    dataset: Dataset,
    figures: Json,
    index: Index,
    on_progress: OnProgress | None,
) -> list[CountedDefect]:
    found = near_duplicates.iter_pairs([dataset], index=index, on_progress=on_progress)
    # As numbers of 8 bytes: nearly all rows may be in a pair.
    pairs = array("Q", (pair.line << 32 | pair.earlier for pair in found if not pair.same))
    figures["similar_rows"] = len(pairs)
    if not pairs:
        return []
    line, earlier = divmod(min(pairs), 1 << 32)
    detail = (
        f"{rows_have(len(pairs))} most of the words of an earlier row; line {line} is "
        f"nearly line {earlier}"
    )
    return list(numbered("similar_rows", detail, array("I", (pair >> 32 for pair in pairs))))


def _leaks(dataset: Dataset, against: Sequence[Dataset], figures: Json) -> list[CountedDefect]:
    defects: list[CountedDefect] = []
    for other in against:
        shared = _Shared(dataset, other)
        if near_duplicates.available():
            for pair in near_duplicates.pairs([other, dataset], across=True):
                shared.add_near(pair.line, pair.earlier)
        exact = sorted([*shared.same, *shared.asked])
        defects += _leak_defects("leak", "repeats", exact, other)
        defects += _leak_defects("near_leak", "is nearly", sorted(shared.near.items()), other)
        figures.setdefault("leaks", {})[other.name] = {
            "exact": len(exact),
            "questions": len(shared.asked),
            "near": len(shared.near),
        }
    return defects


class _Shared:
    """Lines of a dataset that leak, each with the line of the other file: the row is the same
    there, its question is, or one of the two is, apart from case and white space."""

    def __init__(self, dataset: Dataset, other: Dataset) -> None:
        self.same: list[survey.LinePair] = []
        self.asked: list[survey.LinePair] = []
        self.near: dict[int, int] = {}
        self._known: set[int] = set()
        others: dict[bytes, int] = {}
        for line, digests in _iter_leak_digests(other):
            for digest in digests:
                others.setdefault(digest, line)
        for line, digests in _iter_leak_digests(dataset):
            found = next((place for place, one in enumerate(digests) if one in others), None)
            if found is None:
                continue
            shared = line, others[digests[found]]
            if found in (_SAME, _ASKED):
                (self.same if found == _SAME else self.asked).append(shared)
                self._known.add(line)
            else:
                self.near[line] = shared[1]

    def add_near(self, line: int, other: int) -> None:
        """Add a row that is nearly the other, unless it is known to leak."""
        if line not in self._known:
            self.near.setdefault(line, other)


_SAME, _ASKED = 0, 2  # places among the digests of a row


def _iter_leak_digests(dataset: Dataset) -> Iterator[tuple[int, list[bytes]]]:
    """Yield of each row its line, and what it would share: the row, the row without case and white
    space, its question, and that without. A question of a few words may well be asked twice."""
    for line in dataset.lines():
        row = None if line.cut else parse_leniently(line.raw)
        text = extract_row_text(row, line.number) if row else None
        if row is None or text is None:
            continue
        digests = [same_digest(row), near_digest(row)]
        if len(text.prompt.split()) > FEW_WORDS:
            digests.append(blake2b(f"asked {text.asked}".encode(), digest_size=16).digest())
            digests.append(content_hash("asked", text.asked).to_bytes(8, "little"))
        yield line.number, digests


def _leak_defects(
    code: str, verb: str, shared: list[tuple[int, int]], other: Dataset
) -> list[CountedDefect]:
    if not shared:
        return []
    line, other_line = shared[0]
    rows = "1 row is" if len(shared) == 1 else f"{len(shared):,} rows are"
    also = "also" if code == "leak" else "nearly"
    detail = f"{rows} {also} in {quoted(other.name)}; line {line} {verb} its line {other_line}"
    return list(numbered(code, detail, [line for line, _ in shared]))
