"""One pass over the rows of a dataset: its statistics, contradictions, and the index of
near-duplicates.

Large files are read by several processes, each a part; what they found is put together in the
order of the file, so their number changes nothing.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, BinaryIO

from finetune_gateway.data.dataset import MAX_LINE, Dataset
from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.languages import (
    LanguageStats,
    can_detect,
    language_detector,
)
from finetune_gateway.validation.dataset.near_duplicates import in_shares
from finetune_gateway.validation.dataset.row_index import CopyFinder, Index, blocks_of
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    extract_row_text,
    iter_row_texts,
    parse_leniently,
    plain_text,
    text_hash,
)
from finetune_gateway.validation.dataset.statistics import (
    AnswerStats,
    CountedDefect,
    LengthStats,
    RoleStats,
    SystemPromptStats,
    numbered,
    rows_have,
)
from finetune_gateway.validation.file_bytes import Lines, OnProgress, Range

Json = dict[str, Any]
LinePair = tuple[int, int]  # lines, or places, of a row and of the one it is like

# OpenAI's guide on supervised fine-tuning sees first gains from 50 to 100 rows.
FIRST_GAINS = 50
TAUGHT = ("sft", "dpo", "orpo", "kto", "reward")  # methods that learn from answers
# Of an answer, in bytes: some 6 and 25 words.
LABEL, SHORT_ANSWER = 40, 150
NAMED = 3  # pairs of contradicting lines named in one finding
MANY_ANSWERS = 1000  # whose languages several processes tell


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
        if row.kind in ("preference", "text") or not row.prompt.strip():
            return
        answer = row.answer
        # Rows share the first two.
        asked = plain_text(row.prompt)
        if row.media:
            asked = f"{asked} {plain_text(row.media)}"
        prompt = f"{_plain(row.system or '')}\0{_plain(row.tools)}\0{asked}"
        if row.label is not None:
            prompt, answer = f"{prompt}\0{plain_text(answer)}", str(row.label)
            self.differing = "label"
        self.prompts.append(text_hash(prompt))
        self.answers.append(content_hash(answer))
        self.lines.append(row.line)
        size = len(answer.encode("utf-8", "replace"))
        self.sizes.append((size > LABEL) + (size > SHORT_ANSWER))

    def extend(self, later: Contradictions) -> None:
        """Add the rows of the part that follows."""
        self.prompts += later.prompts
        self.answers += later.answers
        self.lines += later.lines
        self.sizes += later.sizes
        if later.differing == "label":
            self.differing = "label"

    def defects(self) -> Iterator[CountedDefect]:
        """Yield the first lines, each with the earlier one it contradicts; then the rest."""
        pairs: tuple[list[LinePair], list[LinePair]] = [], []
        sentences: dict[frozenset[int], list[LinePair]] = {}
        for early, late in self._same_prompts():
            answers = frozenset((self.answers[early], self.answers[late]))
            if len(answers) == 1:
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
                detail = f"{rows_have(len(found))} {what}; {listed}"
                yield from numbered(code, detail, [line for line, _ in found])

    def _same_prompts(self) -> Iterator[LinePair]:
        """Yield the places of each row and the one before that has the same prompt."""
        rows = sorted(range(len(self.prompts)), key=self.prompts.__getitem__)
        for early, late in pairwise(rows):
            if self.prompts[early] == self.prompts[late]:
                yield early, late


@lru_cache(maxsize=16)
def _plain(text: str) -> str:
    return plain_text(text)


class Survey:
    """All statistics of one pass over the rows, and their index if near-duplicates are wanted."""

    def __init__(self, *, languages: bool, index: Index | None = None) -> None:
        self.rows = 0
        self.index = index
        self.contradictions = Contradictions()
        self.systems, self.answers = SystemPromptStats(), AnswerStats()
        self.lengths = LengthStats()
        self.languages = LanguageStats() if languages and can_detect() else None
        self.labels: set[bool] = set()
        self.roles = RoleStats()

    def read(self, rows: Iterable[RowText], copies: CopyFinder | None = None) -> None:
        """Add rows; ``copies`` indexes them."""
        for row in rows:
            self.add(row)
            if copies is not None:
                copies.add(row)

    def add(self, row: RowText) -> None:
        self.rows += 1
        self.contradictions.add(row)
        self.systems.add(row)
        self.answers.add(row)
        self.lengths.add(row)
        if self.languages is not None:
            self.languages.add(row)
        if row.label is not None:
            self.labels.add(row.label)
        self.roles.add(row)

    def extend(self, later: Survey) -> None:
        """Add the rows of the part that follows."""
        self.rows += later.rows
        self.labels |= later.labels
        for name in (
            "contradictions",
            "systems",
            "answers",
            "lengths",
            "languages",
            "roles",
            "index",
        ):
            if (part := getattr(self, name)) is not None:
                part.extend(getattr(later, name))

    def defects(
        self, figures: Json, method: str, rows: int | None = None
    ) -> Iterator[CountedDefect]:
        """Yield the defects after the pass, and fill in the figures. ``rows``: of the whole file,
        if a sample was read."""
        figures["rows"] = self.rows
        yield from self.contradictions.defects()
        figures["languages"] = None
        for part in (self.systems, self.answers, self.lengths, self.languages):
            if part is not None:
                yield from part.defects()
                figures.update(part.figures())
        figures.update(self.roles.figures())
        if method == "kto" and self.rows >= 10 and len(self.labels) == 1:
            detail = f"the label of all {self.rows} rows is {str(*self.labels).lower()}"
            yield Defect("label_one_sided", detail=detail), None, 1
        count = rows if "sample" in figures else self.rows
        if method in TAUGHT and count is not None and 10 <= count < FIRST_GAINS:
            kind = "rows" if method == "sft" else "rows to compare"
            detail = f"{count} {kind}; first gains are seen from {FIRST_GAINS} to 100"
            yield Defect("few_examples", detail=detail), None, 1


def read(
    dataset: Dataset, *, languages: bool, near: bool, on_progress: OnProgress | None = None
) -> Survey:
    """Return the survey of all rows. ``languages``: of a sample of the answers; ``near``: with the
    index of near-duplicates."""
    with dataset.path.open("rb") as file:
        blocks = blocks_of(file.fileno(), dataset)
    work = partial(_read_blocks, dataset, languages, near)
    here = partial(work, on_progress=on_progress)
    with closing(in_shares(work, blocks, here, several=len(blocks) > 1)) as surveys:
        whole: Survey = next(surveys)
        for survey in surveys:
            whole.extend(survey)
    if whole.languages is not None:
        _tell_languages(dataset, whole.languages)
    return whole


def _read_blocks(
    dataset: Dataset,
    languages: bool,
    near: bool,
    blocks: Sequence[Range],
    on_progress: OnProgress | None = None,
) -> Survey:
    survey = Survey(languages=languages, index=Index() if near else None)
    with dataset.path.open("rb") as file:
        for block in blocks:
            lines = Lines(
                file.fileno(), block, _whole_progress(on_progress, dataset, blocks, block)
            )
            copies = CopyFinder(survey.index, file) if survey.index is not None else None
            survey.read(iter_row_texts(dataset, lines), copies)
    if survey.index is not None:
        survey.index.finish()
    return survey


def _whole_progress(
    on_progress: OnProgress | None, dataset: Dataset, blocks: Sequence[Range], block: Range
) -> OnProgress | None:
    """Scale the progress of one of the blocks of a process to the whole file."""
    if on_progress is None:
        return None
    before = block.start - blocks[0].start
    all_bytes = max(blocks[-1].stop - blocks[0].start, 1)
    return lambda done, _: on_progress(
        min((before + done) * dataset.size // all_bytes, dataset.size), dataset.size
    )


def _tell_languages(dataset: Dataset, statistics: LanguageStats) -> None:
    """Read the answers of the sample again, and count their languages."""
    sample = statistics.sample()
    work = partial(_languages_of, dataset)
    with closing(in_shares(work, sample, work, several=len(sample) >= MANY_ANSWERS)) as found:
        languages = [one for some in found for one in some]
    for (line, _), language in zip(sample, languages, strict=True):
        statistics.note(language, line)


def _languages_of(dataset: Dataset, rows: Sequence[tuple[int, int]]) -> list[str | None]:
    detect = language_detector() if rows else None
    if detect is None:
        return []
    with dataset.path.open("rb") as file:
        answers = (_answer_at(file, offset) for _, offset in rows)
        return [detect(answer) for answer in answers]


def _answer_at(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    row = parse_leniently(file.readline(MAX_LINE))
    text = extract_row_text(row, counted=False) if row else None
    return text.answer if text else ""
