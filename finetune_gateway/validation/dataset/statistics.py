"""How system prompts, answers and lengths are spread over the rows of a dataset.

Counts in bounded memory: the commonest 1,000 of each, 4 bytes a row for lengths.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Iterator
from statistics import median
from typing import Any

from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.row_text import Gist, key

Json = dict[str, Any]
Placed = tuple[Defect, int | None, int]  # a defect, its line, in how many rows

MIN_ROWS = 20  # of fewer, shares say nothing
BOILERPLATE = 0.05  # of the rows; and 10 rows at least
CLASS_WORDS = 4  # an answer of more words is no class
MAX_CLASSES = 50
FAR = 6.0  # robust standard deviations, on the logarithm of the length
REPETITIVE = 0.02  # of its size is left of a text when it is compressed
_LONG = 2000  # characters from which repetition is looked for


class Frequent:
    """The commonest of many values, by Misra and Gries: with 1,000 places a count is too low by
    a thousandth of all at most, and exact while there are fewer values than places."""

    def __init__(self, places: int = 1000) -> None:
        self.places, self.total, self.exact = places, 0, True
        self.counts: dict[int, int] = {}
        self.first: dict[int, int] = {}  # the line each was first seen in

    def add(self, value: int, line: int) -> None:
        self.total += 1
        if value in self.counts:
            self.counts[value] += 1
        elif len(self.counts) < self.places:
            self.counts[value] = 1
            self.first[value] = line
        else:
            self._thin()

    def _thin(self) -> None:
        self.exact = False
        self.counts = {value: count - 1 for value, count in self.counts.items() if count > 1}
        self.first = {value: self.first[value] for value in self.counts}

    def top(self) -> tuple[int, int]:
        """(count, first line) of the commonest."""
        value = max(self.counts, key=self.counts.__getitem__)
        return self.counts[value], self.first[value]

    def __len__(self) -> int:
        return len(self.counts)


class Systems:
    """How many system prompts there are, and how common the commonest is."""

    def __init__(self) -> None:
        self.seen = Frequent()
        self.without = 0
        self.first_without = 0

    def add(self, gist: Gist) -> None:
        if gist.kind == "text":
            return
        if gist.system is None:
            self.without += 1
            self.first_without = self.first_without or gist.line
        else:
            self.seen.add(key(gist.system), gist.line)

    def figures(self) -> Json:
        if not self.seen.total:
            return {"system_prompts": {"distinct": 0, "without": self.without}}
        share = self.seen.top()[0] / self.seen.total
        many = None if not self.seen.exact else len(self.seen)
        return {
            "system_prompts": {
                "distinct": many,  # None: more than 1,000
                "commonest_share": round(share, 4),
                "without": self.without,
            }
        }

    def defects(self) -> Iterator[Placed]:
        rows = self.seen.total + self.without
        if rows < MIN_ROWS or not self.seen.total:
            return
        if 0.01 < self.without / rows < 0.99:
            detail = f"{self.without:,} of {rows:,} rows have no system prompt, the others have one"
            yield Defect("system_prompt_mix", detail=detail), self.first_without, 1
        top = self.seen.top()[0]
        others = len(self.seen) - 1
        if self.seen.exact and 0 < others <= 5 and top / self.seen.total >= 0.9:
            detail = (
                f"{self.seen.total - top:,} of {self.seen.total:,} rows have another system "
                f"prompt than the rest"
            )
            yield Defect("system_prompt_mix", detail=detail), None, 1


class Answers:
    """Whether answers are classes, and whether one is given again and again."""

    def __init__(self) -> None:
        self.long, self.short = Frequent(), Frequent()

    def add(self, gist: Gist) -> None:
        if not gist.answer.strip() or gist.kind in ("text", "preference"):
            return
        short = len(gist.answer.split(None, CLASS_WORDS + 1)) <= CLASS_WORDS
        (self.short if short else self.long).add(key(gist.answer), gist.line)

    @property
    def rows(self) -> int:
        return self.long.total + self.short.total

    def classes(self) -> dict[int, int]:
        """Rows by answer, when nearly all answers are a few short ones; else nothing."""
        counts = self.short.counts
        few = self.short.exact and 2 <= len(counts) <= min(MAX_CLASSES, self.short.total / 5)
        mostly = self.short.total >= max(MIN_ROWS, 0.9 * self.rows)
        return counts if few and mostly else {}

    def figures(self) -> Json:
        classes = sorted(self.classes().values(), reverse=True)
        return {"classes": classes or None}

    def defects(self) -> Iterator[Placed]:
        yield from self._boilerplate()
        classes = self.classes()
        if not classes:
            return
        most, least = max(classes.values()), min(classes.values())
        if most >= 10 * least or most >= 0.8 * self.rows:
            rare = min(classes, key=classes.__getitem__)
            detail = (
                f"{len(classes)} short answers are given like classes: the commonest in "
                f"{most / self.rows:.0%} of the rows, the rarest in {least:,} rows"
            )
            yield Defect("class_balance", detail=detail), self.short.first[rare], 1

    def _boilerplate(self) -> Iterator[Placed]:
        if self.rows < MIN_ROWS or not self.long.total:
            return
        count, line = self.long.top()
        if count >= max(10, BOILERPLATE * self.rows):
            detail = f"{count:,} of {self.rows:,} rows have the same answer"
            yield Defect("boilerplate_answer", detail=detail), line, 1


class Lengths:
    """Rows far longer than the others, and texts that say the same over and over."""

    def __init__(self) -> None:
        self.sizes, self.lines = array("I"), array("I")
        self.repeating: list[int] = []
        self.repeats = 0

    def add(self, gist: Gist) -> None:
        self.sizes.append(min(len(gist.said), 0xFFFFFFFF))
        self.lines.append(gist.line)
        if len(gist.answer) >= _LONG and _packed(gist.answer) < REPETITIVE:
            self.repeats += 1
            self.repeating.append(gist.line)
            del self.repeating[10:]

    def figures(self) -> Json:
        if not self.sizes:
            return {"characters": None}
        ordered = sorted(self.sizes)
        at = {"median": 0.5, "p95": 0.95, "p99": 0.99}
        found = {name: ordered[int(share * (len(ordered) - 1))] for name, share in at.items()}
        return {"characters": {"min": ordered[0], **found, "max": ordered[-1]}}

    def defects(self) -> Iterator[Placed]:
        for line in self.repeating:
            yield Defect("repetitive_text"), line, 1
        if self.repeats > len(self.repeating):
            yield Defect("repetitive_text"), None, self.repeats - len(self.repeating)
        yield from self._outliers()

    def _outliers(self) -> Iterator[Placed]:
        if len(self.sizes) < MIN_ROWS:
            return
        logs = [math.log(size + 1) for size in self.sizes]
        middle = median(logs)
        # 1.4826 makes the median deviation comparable to a standard deviation; where all rows
        # are of one length it is 0, and a fifth is taken instead.
        spread = max(1.4826 * median(abs(value - middle) for value in logs), 0.2)
        far = [
            (line, size)
            for line, size, value in zip(self.lines, self.sizes, logs, strict=True)
            if value - middle > FAR * spread
        ]
        typical = int(math.exp(middle))
        for line, size in far[:10]:
            detail = (
                f"a row of {size:,} characters, where half of the rows have {typical:,} or fewer"
            )
            yield Defect("length_outlier", detail=detail), line, 1
        if len(far) > 10:
            yield Defect("length_outlier"), None, len(far) - 10


def _packed(text: str) -> float:
    """The share of a text's size that is left when it is compressed."""
    raw = text[:100_000].encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 1)) / len(raw)
