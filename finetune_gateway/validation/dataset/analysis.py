"""A dataset as a whole: what no single row shows.

Contradictions, answers that repeat, system prompts, lengths, classes, languages, near-duplicates,
leaks into other files, what a model's template loses, and how far it is from production. A second
look after ``checks``, which judges rows. Memory: about 30 bytes a row, 230 with near-duplicates;
200 more for each row of a file it is compared with.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.findings import Defect, Finding, Report
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.collector import Findings
from finetune_gateway.validation.dataset import drift, near_duplicates, template_loss
from finetune_gateway.validation.dataset.languages import Languages
from finetune_gateway.validation.dataset.makeup import Makeup
from finetune_gateway.validation.dataset.row_text import Gist, gists, key
from finetune_gateway.validation.dataset.statistics import Answers, Lengths, Placed, Systems

Json = dict[str, Any]

AUTO_BYTES = 4 << 20  # files up to this size are surveyed unasked, which takes half a second
NEAR_BYTES = 256 << 10  # and these for near-duplicates as well
SHOWN = 10  # lines named for one finding
PARITY_ROWS = 200  # rows rendered through a model's template

# rows from which OpenAI's guide on supervised fine-tuning sees first gains (50 to 100)
FIRST_GAINS = 50


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, and the figures behind it (``quality`` of a report)."""

    findings: list[Finding]
    figures: Json


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a survey was asked for. ``quality`` None: a survey when the file is small."""

    quality: bool | None = None
    against: Dataset | None = None
    like: Dataset | None = None

    def wanted(self, dataset: Dataset) -> bool:
        """Whether to look at all."""
        if self.quality is None:
            return bool(self.against or self.like) or dataset.size <= AUTO_BYTES
        return self.quality or bool(self.against or self.like)


def with_quality(
    report: Report,
    dataset: Dataset,
    asked: Asked,
    *,
    backends: Sequence[str] | None = None,
    method: str = "sft",
    render: Callable[[Json], str] | None = None,
) -> Report:
    """A report with what a survey adds to it. Nothing where no row could be read."""
    if report.format == "unknown" or not asked.wanted(dataset):
        return report
    found = survey(
        dataset,
        backends=backends,
        method=method,
        against=[asked.against] if asked.against else [],
        like=asked.like,
        render=render,
        thorough=bool(asked.quality),
    )
    return report.with_quality(found.findings, found.figures)


def shared(train: Dataset, held_out: Dataset) -> list[Placed]:
    """The rows that training data shares with validation data; none where looking would take
    seconds."""
    if train.size + held_out.size > AUTO_BYTES:
        return []
    return _leaks(train, [held_out], {})


def with_leaks(report: Report, leaks: Sequence[Placed], backends: Sequence[str]) -> Report:
    """A report on training data with what ``shared`` found."""
    if not leaks:
        return report
    findings = Findings(backends)
    for defect, line, count in leaks:
        findings.add(defect, line, count)
    return report.with_quality(findings.listed(), report.quality)


def survey(
    dataset: Dataset,
    *,
    backends: Sequence[str] | None = None,
    method: str = "sft",
    against: Sequence[Dataset] = (),
    like: Dataset | None = None,
    render: Callable[[Json], str] | None = None,
    thorough: bool = True,
) -> Survey:
    """Look at a dataset as a whole.

    ``against``: other parts of the data (validation, test) that should share no row with it.
    ``like``: a sample of production prompts it should resemble. ``render``: a local model's
    template. ``thorough``: with languages and, in large files too, near-duplicates.
    """
    look = _Look(method, thorough)
    for gist in gists(dataset):
        look.add(gist)
    placed = [*look.defects()]
    if thorough or (near_duplicates.available() and dataset.size <= NEAR_BYTES):
        placed += _near(dataset, look.figures)
    placed += _leaks(dataset, against, look.figures)
    if render is not None:
        placed += template_loss.defects(dataset, render, PARITY_ROWS)
    if like is not None:
        placed += drift.defects(dataset, like, look.figures)
    findings = Findings(backends)
    for defect, line, count in placed:
        findings.add(defect, line, count)
    return Survey(findings.listed(), look.figures)


class _Look:
    """One pass over the rows."""

    def __init__(self, method: str, thorough: bool) -> None:
        self.method = method
        self.rows = 0
        self.figures: Json = {}
        self.contradictions = Contradictions()
        self.systems, self.answers, self.lengths = Systems(), Answers(), Lengths()
        self.languages = Languages(looking=thorough)
        self.labels: set[bool] = set()
        self.makeup = Makeup()

    def add(self, gist: Gist) -> None:
        self.rows += 1
        self.contradictions.add(gist)
        self.systems.add(gist)
        self.answers.add(gist)
        self.lengths.add(gist)
        self.languages.add(gist)
        if gist.label is not None:
            self.labels.add(gist.label)
        self.makeup.add(gist)

    def defects(self) -> Iterator[Placed]:
        """What the pass has shown; fills in the figures."""
        self.figures["rows"] = self.rows
        yield from self.contradictions.defects()
        for part in (self.systems, self.answers, self.lengths, self.languages):
            yield from part.defects()
            self.figures.update(part.figures())
        self.figures.update(self.makeup.figures())
        if self.method == "kto" and self.rows >= 10 and len(self.labels) == 1:
            detail = f"the label of all {self.rows} rows is {str(*self.labels).lower()}"
            yield Defect("label_one_sided", detail=detail), None, 1
        if self.method == "sft" and 10 <= self.rows < FIRST_GAINS:
            detail = f"{self.rows} rows; first gains are seen from {FIRST_GAINS} to 100"
            yield Defect("few_examples", detail=detail), None, 1


class Contradictions:
    """Rows that ask the same and answer otherwise; in KTO rows, one answer both good and bad.

    Keeps 20 bytes a row. Pairs and plain texts are left out: many pairs share a prompt.
    """

    def __init__(self) -> None:
        self.prompts, self.answers, self.lines = array("Q"), array("Q"), array("I")
        self.what = "answer"

    def add(self, gist: Gist) -> None:
        if not gist.prompt.strip() or gist.kind in ("preference", "text"):
            return
        asked, answer = [gist.system or "", gist.tools, gist.prompt], gist.answer
        if gist.label is not None:
            asked, answer, self.what = [*asked, gist.answer], str(gist.label), "label"
        self.prompts.append(key(*asked))
        self.answers.append(key(answer))
        self.lines.append(gist.line)

    def defects(self) -> Iterator[Placed]:
        """The first lines, each with the earlier one it contradicts; then how many more."""
        rows = sorted(range(len(self.prompts)), key=self.prompts.__getitem__)
        found = [
            (self.lines[late], self.lines[early])
            for early, late in zip(rows, rows[1:], strict=False)
            if self.prompts[early] == self.prompts[late]
            and self.answers[early] != self.answers[late]
        ]
        if found:
            line, earlier = min(found)
            detail = (
                f"{_rows(len(found))} the prompt of an earlier row and another {self.what}; "
                f"line {line} contradicts line {earlier}"
            )
            yield from _placed("contradictions", detail, found)


def _near(dataset: Dataset, figures: Json) -> list[Placed]:
    if not near_duplicates.available():
        return [(Defect("near_duplicates_unseen"), None, 1)]
    pairs = [pair for pair in near_duplicates.pairs([dataset]) if not pair.same]
    figures["similar_rows"] = len(pairs)
    if not pairs:
        return []
    first = pairs[0]
    detail = (
        f"{_rows(len(pairs))} most of the words of an earlier row; line {first.line} is nearly "
        f"line {first.earlier}"
    )
    return list(_placed("similar_rows", detail, [(one.line, one.earlier) for one in pairs]))


def _leaks(dataset: Dataset, against: Sequence[Dataset], figures: Json) -> list[Placed]:
    placed: list[Placed] = []
    for other in against:
        exact = _shared(dataset, other)
        placed += _leaked("leak", "repeats", exact, other)
        near: list[tuple[int, int]] = []
        if near_duplicates.available():
            known = {line for line, _ in exact}
            near = [
                (pair.line, pair.earlier)
                for pair in near_duplicates.pairs([other, dataset], across=True)
                if pair.line not in known
            ]
        placed += _leaked("near_leak", "is nearly", near, other)
        figures.setdefault("leaks", {})[other.name] = {"exact": len(exact), "near": len(near)}
    return placed


def _shared(dataset: Dataset, other: Dataset) -> list[tuple[int, int]]:
    """Lines of a dataset that say or ask what a line of another one does."""
    there: dict[int, int] = {}
    for gist in gists(other):
        for one in _keys(gist):
            there.setdefault(one, gist.line)
    found = []
    for gist in gists(dataset):
        line = next((there[one] for one in _keys(gist) if one in there), None)
        if line is not None:
            found.append((gist.line, line))
    return found


def _keys(gist: Gist) -> list[int]:
    """A row leaks when it is there as a whole, or when its question is: the answer to it was
    seen. A question of a few words may well be asked twice."""
    whole = key("row", gist.said)
    return [whole, key("asked", gist.prompt)] if len(gist.prompt.split()) > 5 else [whole]


def _leaked(code: str, verb: str, found: list[tuple[int, int]], other: Dataset) -> list[Placed]:
    if not found:
        return []
    line, there = found[0]
    rows = "1 row is" if len(found) == 1 else f"{len(found):,} rows are"
    also = "also" if code == "leak" else "nearly"
    detail = f"{rows} {also} in {quoted(other.name)}; line {line} {verb} its line {there}"
    return list(_placed(code, detail, found))


def _placed(code: str, detail: str, found: list[tuple[int, int]]) -> Iterator[Placed]:
    """One finding: the first lines are named, the others counted."""
    lines = heapq.nsmallest(SHOWN, (line for line, _ in found))
    for line in lines:
        yield Defect(code, detail=detail), line, 1
    if len(found) > len(lines):
        yield Defect(code, detail=detail), None, len(found) - len(lines)


def _rows(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"
