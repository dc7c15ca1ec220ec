"""Rules about a dataset as a whole, which no single row can break.

Contradictions, repeated answers, system prompts, lengths, classes, languages, near-duplicates,
leaks into other files, texts lost by a model's template, and drift from production. Runs after
the rules about rows. Memory: about 30 bytes a row, 230 with near-duplicates; 200 more for each
row of a file it is compared with.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_content import near_digest, same_digest
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation import parallel
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.dataset import drift, near_duplicates, template_loss
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    extract_row_text,
    iter_row_texts,
    parse_leniently,
)
from finetune_gateway.validation.dataset.statistics import (
    AnswerStats,
    CountedDefect,
    LanguageStats,
    LengthStats,
    RoleStats,
    SystemPromptStats,
)
from finetune_gateway.validation.file_bytes import OnProgress, Range, cut, sample_lines
from finetune_gateway.validation.rules import RuleSet

Json = dict[str, Any]
Lines = tuple[int, int]  # of a row, and of the row it is like

LABEL, SHORT_ANSWER = 40, 150  # bytes: some 6 and 25 words
FEW_WORDS = 5  # of a question that may well be asked twice
NAMED = 3  # pairs of lines named in one finding
AUTO_BYTES = 4 << 20  # of larger files a sample is looked at; this size takes half a second
SAMPLE_BYTES = 1 << 20
PARALLEL_BYTES = 4 << 20  # files that several processes read
NEAR_BYTES = 256 << 10  # the same for near-duplicates
SHOWN = 10  # lines named in one finding
TEMPLATE_ROWS = 200  # rows rendered through a model's template

# OpenAI's guide on supervised fine-tuning sees first gains from 50 to 100 rows.
FIRST_GAINS = 50
TAUGHT = ("sft", "dpo", "orpo", "kto", "reward")  # methods that learn from answers


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
    on_progress: OnProgress | None = None,
) -> Analysis:
    """Return findings and figures of a dataset as a whole.

    ``against``: other parts of the data (validation, test) that should share no row with it.
    ``like``: a sample of production prompts it should resemble. ``render``: a local model's
    template. ``thorough``: detect languages and, in large files too, near-duplicates; else a sample
    of a large file is read. ``on_progress`` is called with the bytes done and all of them.
    """
    statistics, index = _Statistics(method, thorough), None
    if thorough or dataset.size <= AUTO_BYTES or against or like:
        index = _read(dataset, statistics, _part_of(on_progress, 0))
    else:
        with dataset.path.open("rb") as file:
            statistics.read(iter_row_texts(dataset, sample_lines(file.fileno(), SAMPLE_BYTES)))
        statistics.figures["sample"] = SAMPLE_BYTES  # of the file that were read
    defects = [*statistics.defects()]
    if thorough or (near_duplicates.available() and dataset.size <= NEAR_BYTES):
        defects += _similar_rows(dataset, statistics.figures, index, _part_of(on_progress, 1))
    defects += _leaks(dataset, against, statistics.figures)
    if render is not None:
        defects += template_loss.defects(dataset, render, TEMPLATE_ROWS)
    if like is not None:
        defects += drift.defects(dataset, like, statistics.figures)
    findings = Findings(backends)
    for defect, line, count in defects:
        findings.add(defect, line, count)
    return Analysis(findings.listed(), statistics.figures)


def _read(
    dataset: Dataset, statistics: _Statistics, on_progress: OnProgress | None
) -> near_duplicates.Index | None:
    """Read all rows into the statistics; of a large file, also into an index of near-duplicates, by
    other processes."""
    workers = min(parallel.count_processors(), near_duplicates.MAX_WORKERS)
    if workers < 2 or dataset.size < PARALLEL_BYTES or not near_duplicates.available():
        statistics.read(_followed(dataset, on_progress))
        return None
    with dataset.path.open("rb") as file:
        parts = cut(file.fileno(), dataset.size, workers)
    parts = [replace(part, gaps=dataset.is_spooled) for part in parts]
    here = partial(_read_here, dataset, statistics, on_progress)
    whole: near_duplicates.Index | None = None
    with closing(parallel.each(partial(_index, dataset), [None, *parts], here)) as results:
        for index in results:
            if whole is None:
                whole = index
            elif index is not None:
                whole.extend(index)
    return whole


def _index(dataset: Dataset, part: Range | None) -> near_duplicates.Index | None:
    return near_duplicates.Index([dataset], part)


def _read_here(
    dataset: Dataset, statistics: _Statistics, on_progress: OnProgress | None, part: Range | None
) -> None:
    statistics.read(_followed(dataset, on_progress))


def _followed(dataset: Dataset, on_progress: OnProgress | None) -> Iterator[RowText]:
    """Yield the texts of the rows, and tell how far that is."""
    last = 0
    for row in iter_row_texts(dataset):
        if on_progress and row.offset - last > dataset.size // 100:
            last = row.offset
            on_progress(last, dataset.size)
        yield row


def _part_of(on_progress: OnProgress | None, part: int) -> OnProgress | None:
    """Return the progress of one half of the work."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(part * total + done, 2 * total)


class _Statistics:
    """All statistics of one pass over the rows."""

    def __init__(self, method: str, thorough: bool) -> None:
        self.method = method
        self.rows = 0
        self.figures: Json = {}
        self.contradictions = Contradictions()
        self.systems, self.answers = SystemPromptStats(), AnswerStats()
        self.lengths = LengthStats()
        self.languages = LanguageStats(enabled=thorough)
        self.labels: set[bool] = set()
        self.roles = RoleStats()

    def read(self, rows: Iterable[RowText]) -> None:
        for row in rows:
            self.add(row)

    def add(self, row: RowText) -> None:
        self.rows += 1
        self.contradictions.add(row)
        self.systems.add(row)
        self.answers.add(row)
        self.lengths.add(row)
        self.languages.add(row)
        if row.label is not None:
            self.labels.add(row.label)
        self.roles.add(row)

    def defects(self) -> Iterator[CountedDefect]:
        """Yield the defects after the pass, and fill in the figures."""
        self.figures["rows"] = self.rows
        yield from self.contradictions.defects()
        for part in (self.systems, self.answers, self.lengths, self.languages):
            yield from part.defects()
            self.figures.update(part.figures())
        self.figures.update(self.roles.figures())
        if self.method == "kto" and self.rows >= 10 and len(self.labels) == 1:
            detail = f"the label of all {self.rows} rows is {str(*self.labels).lower()}"
            yield Defect("label_one_sided", detail=detail), None, 1
        whole = "sample" not in self.figures
        if self.method in TAUGHT and whole and 10 <= self.rows < FIRST_GAINS:
            kind = "rows" if self.method == "sft" else "rows to compare"
            detail = f"{self.rows} {kind}; first gains are seen from {FIRST_GAINS} to 100"
            yield Defect("few_examples", detail=detail), None, 1


class Contradictions:
    """Rows with the same prompt and different answers; in KTO rows, one answer labelled both
    good and bad. Several good answers may be meant where both are long, and where both are
    sentences that answer another prompt too: sets of several questions and several answers.

    Keeps 21 bytes a row. Pairs and plain texts are skipped: many pairs share a prompt.
    """

    def __init__(self) -> None:
        self.prompts, self.answers, self.lines = array("Q"), array("Q"), array("I")
        self.sizes = bytearray()  # 0: a label, 1: a sentence, 2: longer
        self.differing = "answer"

    def add(self, row: RowText) -> None:
        if not row.prompt.strip() or row.kind in ("preference", "text"):
            return
        prompt, answer = [row.system or "", row.tools, row.asked], row.answer
        if row.label is not None:
            prompt, answer = [*prompt, row.answer], str(row.label)
            self.differing = "label"
        self.prompts.append(content_hash(*prompt))
        self.answers.append(content_hash(answer))
        self.lines.append(row.line)
        self.sizes.append(
            bisect_right((LABEL, SHORT_ANSWER), len(answer.encode("utf-8", "replace")) - 1)
        )

    def defects(self) -> Iterator[CountedDefect]:
        """Yield the first lines, each with the earlier one it contradicts; then the rest."""
        rows = sorted(range(len(self.prompts)), key=self.prompts.__getitem__)
        pairs: tuple[list[Lines], list[Lines]] = [], []
        sentences: dict[frozenset[int], list[Lines]] = {}
        for early, late in zip(rows, rows[1:], strict=False):
            answers = frozenset((self.answers[early], self.answers[late]))
            if self.prompts[early] != self.prompts[late] or len(answers) == 1:
                continue
            size, lines = (
                min(self.sizes[early], self.sizes[late]),
                (self.lines[late], self.lines[early]),
            )
            if size == 1:
                sentences.setdefault(answers, []).append(lines)
            else:
                pairs[size == 2].append(lines)
        for found in sentences.values():
            pairs[len(found) > 1].extend(found)
        for code, found in zip(("contradictions", "several_answers"), pairs, strict=True):
            if found:
                what = f"the prompt of an earlier row and another {self.differing}"
                verb = "contradicts" if code == "contradictions" else "answers otherwise than"
                named = heapq.nsmallest(NAMED, found)
                listed = ", ".join(f"line {one} {verb} line {other}" for one, other in named)
                yield from _numbered(code, f"{_rows_have(len(found))} {what}; {listed}", found)


def _similar_rows(
    dataset: Dataset,
    figures: Json,
    index: near_duplicates.Index | None,
    on_progress: OnProgress | None,
) -> list[CountedDefect]:
    if not near_duplicates.available():
        return [(Defect("near_duplicates_unseen"), None, 1)]
    found = near_duplicates.pairs([dataset], index=index, on_progress=on_progress)
    pairs = [pair for pair in found if not pair.same]
    figures["similar_rows"] = len(pairs)
    if not pairs:
        return []
    first = pairs[0]
    detail = (
        f"{_rows_have(len(pairs))} most of the words of an earlier row; line {first.line} is "
        f"nearly line {first.earlier}"
    )
    return list(_numbered("similar_rows", detail, [(pair.line, pair.earlier) for pair in pairs]))


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
        self.same: list[Lines] = []
        self.asked: list[Lines] = []
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
    return list(_numbered(code, detail, shared))


def _numbered(code: str, detail: str, lines: list[tuple[int, int]]) -> Iterator[CountedDefect]:
    """Yield one defect for each of the first lines, and one that counts the others."""
    first = heapq.nsmallest(SHOWN, (line for line, _ in lines))
    for line in first:
        yield Defect(code, detail=detail), line, 1
    if len(lines) > len(first):
        yield Defect(code, detail=detail), None, len(lines) - len(first)


def _rows_have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"
