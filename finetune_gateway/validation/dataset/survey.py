"""One pass over the rows of a dataset: its statistics, and the index of near-duplicates.

Large files are read by several processes, each a part; what they found is put together in the
order of the file, so their number changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, BinaryIO

from finetune_gateway.data.dataset import MAX_LINE, Dataset
from finetune_gateway.findings import Defect
from finetune_gateway.validation import parallel
from finetune_gateway.validation.dataset.contradictions import Contradictions
from finetune_gateway.validation.dataset.languages import LanguageStats, language_detector
from finetune_gateway.validation.dataset.near_duplicates import MAX_WORKERS
from finetune_gateway.validation.dataset.row_index import CopyFinder, Index, blocks_of
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    extract_row_text,
    iter_row_texts,
    parse_leniently,
)
from finetune_gateway.validation.dataset.statistics import (
    AnswerStats,
    CountedDefect,
    LengthStats,
    RoleStats,
    SystemPromptStats,
)
from finetune_gateway.validation.file_bytes import Lines, OnProgress, Range

Json = dict[str, Any]

# OpenAI's guide on supervised fine-tuning sees first gains from 50 to 100 rows.
FIRST_GAINS = 50
TAUGHT = ("sft", "dpo", "orpo", "kto", "reward")  # methods that learn from answers
MANY_ANSWERS = 1000  # whose languages several processes tell


class Survey:
    """All statistics of one pass over the rows, and their index if near-duplicates are wanted."""

    def __init__(self, *, languages: bool, index: Index | None = None) -> None:
        self.rows = 0
        self.index = index
        self.contradictions = Contradictions()
        self.systems, self.answers = SystemPromptStats(), AnswerStats()
        self.lengths = LengthStats()
        self.languages = LanguageStats(enabled=languages)
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
        self.languages.add(row)
        if row.label is not None:
            self.labels.add(row.label)
        self.roles.add(row)

    def extend(self, later: Survey) -> None:
        """Add the rows of the part that follows."""
        self.rows += later.rows
        self.labels |= later.labels
        for name in ("contradictions", "systems", "answers", "lengths", "languages", "roles"):
            getattr(self, name).extend(getattr(later, name))
        if self.index is not None and later.index is not None:
            self.index.extend(later.index)

    def defects(self, figures: Json, method: str) -> Iterator[CountedDefect]:
        """Yield the defects after the pass, and fill in the figures."""
        figures["rows"] = self.rows
        yield from self.contradictions.defects()
        for part in (self.systems, self.answers, self.lengths, self.languages):
            yield from part.defects()
            figures.update(part.figures())
        figures.update(self.roles.figures())
        if method == "kto" and self.rows >= 10 and len(self.labels) == 1:
            detail = f"the label of all {self.rows} rows is {str(*self.labels).lower()}"
            yield Defect("label_one_sided", detail=detail), None, 1
        whole = "sample" not in figures
        if method in TAUGHT and whole and 10 <= self.rows < FIRST_GAINS:
            kind = "rows" if method == "sft" else "rows to compare"
            detail = f"{self.rows} {kind}; first gains are seen from {FIRST_GAINS} to 100"
            yield Defect("few_examples", detail=detail), None, 1


def read(
    dataset: Dataset, *, languages: bool, near: bool, on_progress: OnProgress | None = None
) -> Survey:
    """Return the survey of all rows. ``languages``: of a sample of the answers; ``near``: with the
    index of near-duplicates."""
    with dataset.path.open("rb") as file:
        blocks = blocks_of(file.fileno(), dataset)
    work = partial(_read_blocks, dataset, languages, near)
    whole: Survey | None = None
    with closing(
        parallel.each(work, _shared(blocks), partial(work, on_progress=on_progress))
    ) as surveys:
        for survey in surveys:
            if whole is None:
                whole = survey
            else:
                whole.extend(survey)
    assert whole is not None  # for the type checker: there is a block
    _tell_languages(dataset, whole.languages)
    return whole


def _shared(parts: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the parts of each process, in order."""
    workers = max(1, min(parallel.count_processors(), MAX_WORKERS, len(parts)))
    bounds = [len(parts) * worker // workers for worker in range(workers + 1)]
    return [parts[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]


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
    parts = _shared(sample) if len(sample) >= MANY_ANSWERS else [sample]
    with closing(parallel.each(partial(_languages_of, dataset), parts)) as found:
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
